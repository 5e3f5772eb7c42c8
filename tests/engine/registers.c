/* Registers that are live across the restore: general, x87, SSE, AVX,
 * AVX-512, protection keys, gs; in a thread that computes, one that sleeps in
 * a system call, and one inside a signal handler on its alternate stack.
 * A malformed frame loses the extended state in silence, so all of it is
 * compared. */
#include "harness.h"
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>

enum { SSE, AVX, AVX512 };
enum { SPIN, SLEEP };

struct state {
	uint8_t vector[32][64];
	uint64_t general[16];
	uint64_t mask[8];
	double x87[4];
	uint32_t mxcsr;
	uint16_t control;
	uint16_t filler;
};
_Static_assert(offsetof(struct state, general) == 2048, "");
_Static_assert(offsetof(struct state, mask) == 2176, "");
_Static_assert(offsetof(struct state, x87) == 2240, "");
_Static_assert(offsetof(struct state, mxcsr) == 2272, "");
_Static_assert(offsetof(struct state, control) == 2276, "");

volatile uint32_t registers_go;

void live_0_0(const struct state *in, struct state *out);
void live_1_0(const struct state *in, struct state *out);
void live_2_0(const struct state *in, struct state *out);
void live_0_1(const struct state *in, struct state *out);
void live_1_1(const struct state *in, struct state *out);
void live_2_1(const struct state *in, struct state *out);

/* live_LEVEL_HOW: loads every register, waits, stores every register. In a
 * system call rax, rcx, rdx, rdi, rsi, r10, r11 have other uses. */
asm(".macro vectors load, level\n"
    ".if \\level == 2\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    ".if \\load\n vmovdqu64 \\n*64(%rdi), %zmm\\n\n .else\n vmovdqu64 %zmm\\n, \\n*64(%rdi)\n .endif\n"
    ".endr\n"
    ".irp n,0,1,2,3,4,5,6,7\n"
    ".if \\load\n kmovq 2176+\\n*8(%rdi), %k\\n\n .else\n kmovq %k\\n, 2176+\\n*8(%rdi)\n .endif\n"
    ".endr\n"
    ".else\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    ".if \\level == 1\n"
    ".if \\load\n vmovdqu \\n*64(%rdi), %ymm\\n\n .else\n vmovdqu %ymm\\n, \\n*64(%rdi)\n .endif\n"
    ".else\n"
    ".if \\load\n movdqu \\n*64(%rdi), %xmm\\n\n .else\n movdqu %xmm\\n, \\n*64(%rdi)\n .endif\n"
    ".endif\n"
    ".endr\n"
    ".endif\n"
    ".endm\n"
    ".macro live level, how\n"
    ".globl live_\\level\\()_\\how\n"
    "live_\\level\\()_\\how:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
    "vectors 1, \\level\n"
    "fninit; fldcw 2276(%rdi); ldmxcsr 2272(%rdi)\n"
    "fldl 2240+24(%rdi); fldl 2240+16(%rdi); fldl 2240+8(%rdi); fldl 2240(%rdi)\n"
    "mov 2048(%rdi), %rax; mov 2056(%rdi), %rbx; mov 2064(%rdi), %rcx; mov 2072(%rdi), %rdx\n"
    "mov 2080(%rdi), %rsi; mov 2096(%rdi), %rbp; mov 2104(%rdi), %r8; mov 2112(%rdi), %r9\n"
    "mov 2120(%rdi), %r10; mov 2128(%rdi), %r11; mov 2136(%rdi), %r12; mov 2144(%rdi), %r13\n"
    "mov 2152(%rdi), %r14; mov 2160(%rdi), %r15; mov 2088(%rdi), %rdi\n"
    ".if \\how\n"
    "1: mov $202, %eax; lea registers_go(%rip), %rdi; mov $128, %esi; xor %edx, %edx; xor %r10d, %r10d; syscall\n"
    ".else\n"
    "1: pause\n"
    ".endif\n"
    "cmpl $0, registers_go(%rip)\n"
    "je 1b\n"
    "xchg (%rsp), %rdi\n"
    "mov %rax, 2048(%rdi); mov %rbx, 2056(%rdi); mov %rcx, 2064(%rdi); mov %rdx, 2072(%rdi)\n"
    "mov %rsi, 2080(%rdi); mov %rbp, 2096(%rdi); mov %r8, 2104(%rdi); mov %r9, 2112(%rdi)\n"
    "mov %r10, 2120(%rdi); mov %r11, 2128(%rdi); mov %r12, 2136(%rdi); mov %r13, 2144(%rdi)\n"
    "mov %r14, 2152(%rdi); mov %r15, 2160(%rdi); pop %rax; mov %rax, 2088(%rdi)\n"
    "fnstcw 2276(%rdi); stmxcsr 2272(%rdi)\n"
    "fstpl 2240(%rdi); fstpl 2240+8(%rdi); fstpl 2240+16(%rdi); fstpl 2240+24(%rdi)\n"
    "vectors 0, \\level\n"
    "fninit; movl $0x1f80, -8(%rsp); ldmxcsr -8(%rsp)\n"
    ".if \\level\n vzeroupper\n .endif\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n"
    ".endm\n"
    "live 0, 0\n live 1, 0\n live 2, 0\n live 0, 1\n live 1, 1\n live 2, 1\n");

static const struct {
	void (*run)(const struct state *, struct state *);
	int level, how;
} KINDS[] = {{live_0_0, SSE, SPIN},  {live_1_0, AVX, SPIN},  {live_2_0, AVX512, SPIN},
	     {live_0_1, SSE, SLEEP}, {live_1_1, AVX, SLEEP}, {live_2_1, AVX512, SLEEP}};
#define COUNT 6

static struct state in[COUNT], out[COUNT];
static pthread_t threads[COUNT];
static volatile int started[COUNT];
static int level;

static void *live(void *argument)
{
	long index = (long)argument;
	started[index] = 1;
	KINDS[index].run(&in[index], &out[index]);
	return NULL;
}

static void fill(struct state *state, int seed)
{
	uint64_t word = 0x9e3779b97f4a7c15 * (seed + 1);
	for (uint8_t *byte = (uint8_t *)state; byte < (uint8_t *)&state->x87; byte++) {
		word ^= word << 13, word ^= word >> 7, word ^= word << 17;
		*byte = word;
	}
	for (int i = 0; i < 4; i++)
		state->x87[i] = seed + i + 0.25;
	/* Rounding down, flush to zero; x87: double precision, rounding up. */
	state->mxcsr = 0x1f80 | 0x2000 | 0x8000;
	state->control = 0x0a7f;
}

/* A thread in a handler on its alternate stack, with a gs base and rights of
 * its own. */
static char alternate[64 * 1024] __attribute__((aligned(16)));
static volatile int in_handler, handler_done, gs_value_right, pkru_right = 1;
static volatile uint64_t after_handler;
static uint64_t gs_memory[4] = {1, 2, 3, 0x1234567890abcdef};

static void handler(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	char here;
	in_handler = &here > alternate && &here < alternate + sizeof alternate;
	while (!registers_go)
		;
	handler_done = &here > alternate && &here < alternate + sizeof alternate;
}

static int has_pkeys(void)
{
	uint32_t a = 7, b, c = 0, d;
	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c >> 4 & 1; /* OSPKE */
}

static void *on_alternate_stack(void *argument)
{
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
	MUST(!sigaltstack(&stack, NULL));
	MUST(!syscall(SYS_arch_prctl, 0x1001, gs_memory));
	uint32_t rights = 0x55555550, found = rights, high;
	if (has_pkeys())
		asm volatile("wrpkru" ::"a"(rights), "c"(0), "d"(0));
	register double kept asm("xmm7") = 42.5;
	asm volatile("" : "+x"(kept));
	pthread_kill(pthread_self(), SIGUSR1);
	asm volatile("" : "+x"(kept));
	after_handler = (uint64_t)(kept * 2);
	uint64_t word;
	asm volatile("mov %%gs:24, %0" : "=r"(word));
	gs_value_right = word == gs_memory[3];
	if (has_pkeys())
		asm volatile("rdpkru" : "=a"(found), "=d"(high) : "c"(0));
	pkru_right = found == rights;
	stack_t now;
	TRUE(!sigaltstack(NULL, &now) && now.ss_sp == alternate &&
	     now.ss_size == sizeof alternate && now.ss_flags == 0);
	return argument;
}

static pthread_t odd;

static void setup(void)
{
	level = SSE;
	if (__builtin_cpu_supports("avx"))
		level = AVX;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
		level = AVX512;
	for (long i = 0; i < COUNT; i++) {
		fill(&in[i], i);
		if (KINDS[i].level > level)
			continue;
		MUST(!pthread_create(&threads[i], NULL, live, (void *)i));
		while (!started[i])
			;
	}
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	MUST(!sigaction(SIGUSR1, &action, NULL));
	MUST(!pthread_create(&odd, NULL, on_alternate_stack, NULL));
	while (!in_handler)
		;
	pause_ms(50);
}

static void verify(void)
{
	static const uint8_t LENGTH[] = {16, 32, 64};
	static const int USED_BY_CALL = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10;
	registers_go = 1;
	syscall(SYS_futex, (uint32_t *)&registers_go, FUTEX_WAKE_PRIVATE, 1000, NULL, NULL, 0);
	for (int i = 0; i < COUNT; i++) {
		if (KINDS[i].level > level)
			continue;
		pthread_join(threads[i], NULL);
		const char *how = KINDS[i].how == SPIN ? "spinning" : "sleeping";
		for (int n = 0; n < (KINDS[i].level == AVX512 ? 32 : 16); n++)
			if (memcmp(in[i].vector[n], out[i].vector[n], LENGTH[KINDS[i].level]))
				failed("%s, level %d: vector register %d", how, KINDS[i].level, n);
		for (int n = 0; n < 8 && KINDS[i].level == AVX512; n++)
			EQUAL(out[i].mask[n], in[i].mask[n]);
		for (int n = 0; n < 15; n++) {
			if (KINDS[i].how == SLEEP && USED_BY_CALL >> n & 1)
				continue;
			if (in[i].general[n] != out[i].general[n])
				failed("%s, level %d: general register %d is %#lx, not %#lx", how,
				       KINDS[i].level, n, out[i].general[n], in[i].general[n]);
		}
		for (int n = 0; n < 4; n++)
			TRUE(in[i].x87[n] == out[i].x87[n]);
		EQUAL(out[i].mxcsr & ~0x3f, in[i].mxcsr);
		EQUAL(out[i].control & 0xf3f, in[i].control & 0xf3f);
	}
	pthread_join(odd, NULL);
	TRUE(handler_done);
	EQUAL(after_handler, 85);
	TRUE(gs_value_right);
	TRUE(pkru_right);
	printf("level %d\n", level);
}
