/* The state of the processor. */
#include "conform.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <fenv.h>
#include <xmmintrin.h>

/* A thread that holds a state in registers, without any memory, until it is
 * told to put it away. */
static volatile char stop;
static unsigned char before[4096] __attribute__((aligned(64)));
static unsigned char after[4096] __attribute__((aligned(64)));
static struct worker holder;

static void patterns(void)
{
	for (size_t i = 0; i < sizeof before; i++)
		before[i] = i * 37 + (i >> 8) + 1;
}

static void same(size_t length)
{
	stop = 1;
	finish(&holder);
	for (size_t i = 0; i < length; i++)
		if (before[i] != after[i]) {
			failed("byte %zu is %#x, not %#x", i, after[i], before[i]);
			return;
		}
}

#define SPIN "1: pause\n cmpb $0, (%2)\n je 1b\n"
#define XMM                                                                    \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",        \
		"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define EACH16(op, size)                                                       \
	op(0, size) op(1, size) op(2, size) op(3, size) op(4, size)            \
	op(5, size) op(6, size) op(7, size) op(8, size) op(9, size)            \
	op(10, size) op(11, size) op(12, size) op(13, size) op(14, size)       \
	op(15, size)
#define EACH32(op)                                                             \
	EACH16(op, 64) op(16, 64) op(17, 64) op(18, 64) op(19, 64) op(20, 64)  \
	op(21, 64) op(22, 64) op(23, 64) op(24, 64) op(25, 64) op(26, 64)      \
	op(27, 64) op(28, 64) op(29, 64) op(30, 64) op(31, 64)
#define LOAD_X(n, size) "movups " #n "*" #size "(%0), %%xmm" #n "\n"
#define SAVE_X(n, size) "movups %%xmm" #n ", " #n "*" #size "(%1)\n"
#define LOAD_Y(n, size) "vmovups " #n "*" #size "(%0), %%ymm" #n "\n"
#define SAVE_Y(n, size) "vmovups %%ymm" #n ", " #n "*" #size "(%1)\n"
#define LOAD_Z(n, size) "vmovups " #n "*" #size "(%0), %%zmm" #n "\n"
#define SAVE_Z(n, size) "vmovups %%zmm" #n ", " #n "*" #size "(%1)\n"
#define K(op) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD_K(n) "kmovq 2048+" #n "*8(%0), %%k" #n "\n"
#define SAVE_K(n) "kmovq %%k" #n ", 2048+" #n "*8(%1)\n"

static void sse_work(struct worker *worker)
{
	__asm__ volatile(EACH16(LOAD_X, 16) SPIN EACH16(SAVE_X, 16)
			 : : "r"(before), "r"(after), "r"(&stop) : "memory", "cc", XMM);
}

static void sse(void)
{
	patterns();
	start(&holder, sse_work);
}

static void sse_kept(void)
{
	same(256);
}

static void avx_work(struct worker *worker)
{
	__asm__ volatile(EACH16(LOAD_Y, 32) SPIN EACH16(SAVE_Y, 32) "vzeroupper\n"
			 : : "r"(before), "r"(after), "r"(&stop) : "memory", "cc", XMM);
}

static void avx(void)
{
	HERE(__builtin_cpu_supports("avx"));
	patterns();
	start(&holder, avx_work);
}

static void avx_kept(void)
{
	same(512);
}

static void avx512_work(struct worker *worker)
{
	__asm__ volatile(EACH32(LOAD_Z) K(LOAD_K) SPIN EACH32(SAVE_Z) K(SAVE_K) "vzeroupper\n"
			 : : "r"(before), "r"(after), "r"(&stop) : "memory", "cc", XMM);
}

static void avx512(void)
{
	HERE(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"));
	patterns();
	memset(before + 2048, 0, 8);
	start(&holder, avx512_work);
}

static void avx512_kept(void)
{
	same(2048 + 64);
}

static void general_work(struct worker *worker)
{
	/* rbx and rbp are the compiler's; rsp is in use. */
	register const unsigned char *from __asm__("rdi") = before;
	register unsigned char *to __asm__("rsi") = after;
	register const volatile char *told __asm__("rdx") = &stop;
	__asm__ volatile("mov 0(%0), %%rax\n mov 8(%0), %%rcx\n mov 16(%0), %%r8\n"
			 "mov 24(%0), %%r9\n mov 32(%0), %%r10\n mov 40(%0), %%r11\n"
			 "mov 48(%0), %%r12\n mov 56(%0), %%r13\n mov 64(%0), %%r14\n"
			 "mov 72(%0), %%r15\n" SPIN
			 "mov %%rax, 0(%1)\n mov %%rcx, 8(%1)\n mov %%r8, 16(%1)\n"
			 "mov %%r9, 24(%1)\n mov %%r10, 32(%1)\n mov %%r11, 40(%1)\n"
			 "mov %%r12, 48(%1)\n mov %%r13, 56(%1)\n mov %%r14, 64(%1)\n"
			 "mov %%r15, 72(%1)\n"
			 : : "r"(from), "r"(to), "r"(told)
			 : "memory", "cc", "rax", "rcx", "r8", "r9", "r10", "r11", "r12",
			   "r13", "r14", "r15");
}

static void general(void)
{
	patterns();
	start(&holder, general_work);
}

static void general_kept(void)
{
	same(80);
}

static void x87_work(struct worker *worker)
{
	unsigned short control = 0x0c7f;
	/* Rounding towards zero; three values on the stack. */
	__asm__ volatile("fninit\n fldcw %3\n fldpi\n fld1\n fldl2e\n" SPIN
			 "fstpt 0(%1)\n fstpt 16(%1)\n fstpt 32(%1)\n fnstcw 48(%1)\n"
			 "fnstsw 50(%1)\n fninit\n"
			 : : "r"(before), "r"(after), "r"(&stop), "m"(control) : "memory", "cc");
}

static void x87(void)
{
	start(&holder, x87_work);
}

static void x87_kept(void)
{
	stop = 1;
	finish(&holder);
	long double got[3];
	for (int i = 0; i < 3; i++)
		memcpy(&got[i], after + 16 * i, 10);
	TRUE(got[0] > 1.4426L && got[0] < 1.4427L);
	TRUE(got[1] == 1);
	TRUE(got[2] > 3.14159265358979L && got[2] < 3.14159265358980L);
	EQUAL(*(unsigned short *)(after + 48), 0x0c7f);
	/* The stack is empty again. */
	EQUAL(*(unsigned short *)(after + 50) >> 11 & 7, 0);
}

static void mxcsr(void)
{
	_mm_setcsr(0x7fa0 | 0x8040);
	fesetround(FE_UPWARD);
}

static void mxcsr_kept(void)
{
	EQUAL(fegetround(), FE_UPWARD);
	EQUAL(_mm_getcsr() & 0x8040, 0x8040);
	_mm_setcsr(0x1f80);
}

static void flags_work(struct worker *worker)
{
	unsigned long flags;
	/* Direction and alignment check set, and carry; nothing else may run. */
	__asm__ volatile("pushfq\n orq $0x40401, (%%rsp)\n popfq\n"
			 "1: pause\n movb (%1), %%al\n lahf\n stc\n"
			 "decb %%al\n incb %%al\n jz 1b\n pushfq\n popq %0\n"
			 "pushfq\n andq $~0x40401, (%%rsp)\n popfq\n"
			 : "=r"(flags) : "r"(&stop) : "memory", "cc", "rax");
	worker->result = flags;
}

static void flags(void)
{
	start(&holder, flags_work);
}

static void flags_kept(void)
{
	stop = 1;
	finish(&holder);
	EQUAL(holder.result & 0x40401, 0x40401);
}

static __thread int local = 17;
static unsigned long gs;
static int gs_data[16] = {[4] = 99};

static void bases_work(struct worker *worker)
{
	local = 18;
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs_data);
	while (!stop)
		pause_ms(2);
	int got;
	__asm__ volatile("movl %%gs:16, %0" : "=r"(got));
	worker->result = got;
	TRUE(!syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
	EQUAL(gs, (unsigned long)gs_data);
	EQUAL(local, 18);
}

static void bases(void)
{
	local = 19;
	start(&holder, bases_work);
}

static void bases_kept(void)
{
	stop = 1;
	finish(&holder);
	EQUAL(holder.result, 99);
	EQUAL(local, 19);
}

static unsigned pkru(void)
{
	unsigned value, high;
	__asm__ volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
	return value;
}

static unsigned rights;

static void keys(void)
{
	unsigned a, b, c = 0, d;
	HERE(__get_cpuid_count(7, 0, &a, &b, &c, &d) && c & 1 << 4);
	rights = pkru() ^ 0xc;
	__asm__ volatile("wrpkru" : : "a"(rights), "c"(0), "d"(0));
}

static void keys_kept(void)
{
	EQUAL(pkru(), rights);
}

static void tiles(void)
{
	/* XTILEDATA is state component 18. */
	HERE(!syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18));
	static unsigned char config[64] = {1};
	config[16] = 64;
	config[48] = 16;
	patterns();
	__asm__ volatile("ldtilecfg %0\n tileloadd (%1,%2,1), %%tmm0\n"
			 : : "m"(config), "r"(before), "r"(64ul) : "memory");
}

static void tiles_kept(void)
{
	__asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n tilerelease\n"
			 : : "r"(after), "r"(64ul) : "memory");
	TRUE(!memcmp(before, after, 1024));
}

static void permitted(void)
{
	HERE(!syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18));
}

static void permitted_kept(void)
{
	unsigned long mask = 0;
	TRUE(!syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &mask));
	EQUAL(mask >> 18 & 1, 1);
}

/* glibc's registration: the kernel writes the processor's number there. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned __rseq_size __attribute__((weak));

static int rseq_cpu(void)
{
	return ((volatile int *)((char *)__builtin_thread_pointer() + __rseq_offset))[1];
}

static void rseq_work(struct worker *worker)
{
	while (!stop)
		pause_ms(2);
	worker->result = rseq_cpu();
}

static void rseq(void)
{
	HERE(&__rseq_size && __rseq_size);
	start(&holder, rseq_work);
}

static void rseq_kept(void)
{
	stop = 1;
	finish(&holder);
	TRUE(holder.result >= 0 && rseq_cpu() >= 0);
	/* Registered a second time it is refused as busy. */
	char *at = (char *)__builtin_thread_pointer() + __rseq_offset;
	EQUAL(syscall(SYS_rseq, at, 32, 0, 0x53053053), -1);
	EQUAL(errno, EBUSY);
}

static double first[4];
static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME,
				   CLOCK_MONOTONIC_COARSE};

static void time_goes_on(void)
{
	for (int i = 0; i < 4; i++)
		first[i] = now(clocks[i]);
}

static void time_goes_on_kept(void)
{
	for (int i = 0; i < 4; i++) {
		double later = now(clocks[i]), passed = later - first[i];
		TRUE((passed > 0 || (i == 3 && passed == 0)) && passed < 60);
		/* What the vDSO tells is what the kernel tells. */
		struct timespec time;
		syscall(SYS_clock_gettime, clocks[i], &time);
		double told = time.tv_sec + time.tv_nsec / 1e9 - later;
		TRUE(told >= 0 && told < 5);
	}
}

static void tsc_off(void)
{
	/* What reading it comes to is in process.c; here it counts up. */
	first[0] = __builtin_ia32_rdtsc();
}

static void tsc_off_kept(void)
{
	TRUE(__builtin_ia32_rdtsc() > first[0]);
}

static const struct feature features[] = {
	{"registers", "general registers", general, general_kept},
	{"flags", "direction, carry and alignment-check flags", flags, flags_kept},
	{"x87", "x87 stack and control word", x87, x87_kept},
	{"mxcsr", "rounding and flush-to-zero (MXCSR)", mxcsr, mxcsr_kept},
	{"sse", "SSE registers", sse, sse_kept},
	{"avx", "AVX registers", avx, avx_kept},
	{"avx-512", "AVX-512 registers and masks", avx512, avx512_kept},
	{"amx-tiles", "AMX tiles with content", tiles, tiles_kept},
	{"amx-permission", "permission for AMX", permitted, permitted_kept},
	{"fs-gs", "thread-local storage and GS base", bases, bases_kept},
	{"pkru", "rights of protection keys (PKRU)", keys, keys_kept},
	{"rseq", "restartable sequences (rseq)", rseq, rseq_kept},
	{"vdso-time", "clocks through the vDSO", time_goes_on, time_goes_on_kept},
	{"tsc", "the time-stamp counter", tsc_off, tsc_off_kept},
	{NULL},
};
