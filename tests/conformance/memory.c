/* Kinds of memory, and what can be asked for them. */
#include "conform.h"
#include <dlfcn.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static unsigned char *area, *other;

static void *map(size_t pages, int prot, int flags, int fd, off_t offset)
{
	void *at = mmap(NULL, pages * PAGE, prot, flags, fd, offset);
	MUST(at != MAP_FAILED);
	return at;
}

/* Marks every page with its number, less those that are left as they are. */
static void mark(unsigned char *at, size_t pages, size_t each)
{
	for (size_t page = 0; page < pages; page += each)
		*(size_t *)(at + page * PAGE + 64) = page + 0x5157;
}

static void marked(const unsigned char *at, size_t pages, size_t each)
{
	for (size_t page = 0; page < pages; page++)
		EQUAL(*(size_t *)(at + page * PAGE + 64), page % each ? 0 : page + 0x5157);
}

static int file(const char *name, size_t pages)
{
	int fd = open(path(name), O_CREAT | O_RDWR, 0600);
	MUST(fd >= 0);
	for (size_t page = 0; page < pages; page++)
		MUST(pwrite(fd, &(size_t){page + 0x5157}, 8, page * PAGE + 64) == 8);
	MUST(!ftruncate(fd, pages * PAGE));
	return fd;
}

static sigjmp_buf landing;

static void land(int signal)
{
	siglongjmp(landing, signal);
}

/* Returns the signal that touching an address ends in, or 0. */
static int touch(volatile unsigned char *address, int write)
{
	struct sigaction action = {.sa_handler = land}, before[2];
	sigaction(SIGSEGV, &action, &before[0]);
	sigaction(SIGBUS, &action, &before[1]);
	int signal = sigsetjmp(landing, 1);
	if (!signal) {
		unsigned char byte = *address;
		if (write)
			*address = byte;
	}
	sigaction(SIGSEGV, &before[0], NULL);
	sigaction(SIGBUS, &before[1], NULL);
	return signal;
}

static void anonymous(void)
{
	area = map(300, RW, PRIVATE, -1, 0);
	mark(area, 300, 7);
}

static void anonymous_kept(void)
{
	marked(area, 300, 7);
	mark(area, 300, 1);
	marked(area, 300, 1);
}

static void protections(void)
{
	area = map(6, RW, PRIVATE, -1, 0);
	mark(area, 6, 1);
	MUST(!mprotect(area + 2 * PAGE, 2 * PAGE, PROT_READ));
	MUST(!mprotect(area + 4 * PAGE, 2 * PAGE, PROT_NONE));
}

static void protections_kept(void)
{
	EQUAL(touch(area + 2 * PAGE, 0), 0);
	EQUAL(touch(area + 2 * PAGE, 1), SIGSEGV);
	EQUAL(touch(area + 4 * PAGE, 0), SIGSEGV);
	TRUE(!mprotect(area, 6 * PAGE, RW));
	marked(area, 6, 1);
}

static void file_private(void)
{
	int fd = file("private", 4);
	area = map(4, RW, MAP_PRIVATE, fd, 0);
	close(fd);
	area[PAGE] = 'x';
}

static void file_private_kept(void)
{
	marked(area, 4, 1);
	EQUAL(area[PAGE], 'x');
	EQUAL(area[2 * PAGE], 0);
	int fd = open(path("private"), O_RDONLY);
	char byte;
	TRUE(pread(fd, &byte, 1, PAGE) == 1);
	EQUAL(byte, 0);
	close(fd);
}

static void file_shared_read(void)
{
	int fd = file("shared", 4);
	close(fd);
	fd = open(path("shared"), O_RDONLY);
	area = map(2, PROT_READ, MAP_SHARED, fd, PAGE);
	close(fd);
}

static void file_shared_read_kept(void)
{
	EQUAL(*(size_t *)(area + 64), 0x5158);
	EQUAL(*(size_t *)(area + PAGE + 64), 0x5159);
	int fd = open(path("shared"), O_WRONLY);
	TRUE(pwrite(fd, "new", 4, PAGE) == 4);
	close(fd);
	TRUE(!strcmp((char *)area, "new"));
	EQUAL(mprotect(area, PAGE, RW), -1);
}

static void file_shared(void)
{
	int fd = file("stored", 4);
	area = map(4, RW, MAP_SHARED, fd, 0);
	close(fd);
	strcpy((char *)area, "before");
}

static void file_shared_kept(void)
{
	char text[8];
	marked(area, 4, 1);
	TRUE(!strcmp((char *)area, "before"));
	strcpy((char *)area, "after");
	int fd = open(path("stored"), O_RDONLY);
	TRUE(pread(fd, text, sizeof text, 0) == sizeof text);
	TRUE(!strcmp(text, "after"));
	close(fd);
}

static void file_past_end(void)
{
	int fd = file("short", 1);
	area = map(3, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
}

static void file_past_end_kept(void)
{
	marked(area, 1, 1);
	EQUAL(touch(area + 2 * PAGE, 0), SIGBUS);
}

static void dev_zero(void)
{
	int fd = open("/dev/zero", O_RDWR);
	area = map(20, RW, MAP_PRIVATE, fd, 0);
	close(fd);
	mark(area, 20, 3);
}

static void dev_zero_kept(void)
{
	marked(area, 20, 3);
}

static void shared_anonymous(void)
{
	area = map(20, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mark(area, 20, 3);
}

static void shared_anonymous_kept(void)
{
	marked(area, 20, 3);
	/* Still shared: a child's store is seen. */
	pid_t child = fork();
	if (!child) {
		area[0] = 'c';
		_exit(0);
	}
	TRUE(waitpid(child, NULL, 0) == child);
	EQUAL(area[0], 'c');
}

static void dev_zero_shared(void)
{
	int fd = open("/dev/zero", O_RDWR);
	area = map(20, RW, MAP_SHARED, fd, 0);
	close(fd);
	mark(area, 20, 3);
}

static void memfd_mapped(void)
{
	int fd = memfd_create("conform", MFD_CLOEXEC);
	MUST(fd >= 0 && !ftruncate(fd, 20 * PAGE));
	area = map(20, RW, MAP_SHARED, fd, 0);
	other = map(10, PROT_READ, MAP_SHARED, fd, 5 * PAGE);
	close(fd);
	mark(area, 20, 3);
}

static void memfd_mapped_kept(void)
{
	marked(area, 20, 3);
	area[5 * PAGE] = 'm';
	EQUAL(other[0], 'm');
}

static void sysv(void)
{
	int id = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
	HERE(id >= 0);
	area = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	MUST(area != (void *)-1);
	mark(area, 4, 1);
}

static void sysv_kept(void)
{
	marked(area, 4, 1);
	TRUE(!shmdt(area));
}

static void deleted_private(void)
{
	int fd = file("gone", 4);
	area = map(4, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	MUST(!unlink(path("gone")));
}

static void deleted_private_kept(void)
{
	marked(area, 4, 1);
}

static void deleted_shared(void)
{
	int fd = file("gone", 4);
	area = map(4, RW, MAP_SHARED, fd, 0);
	other = map(4, RW, MAP_SHARED, fd, 0);
	close(fd);
	MUST(!unlink(path("gone")));
}

static void deleted_shared_kept(void)
{
	marked(area, 4, 1);
	area[0] = 'd';
	EQUAL(other[0], 'd');
}

static void grows(void)
{
	area = mmap(NULL, 64 * PAGE, PROT_NONE, PRIVATE, -1, 0);
	MUST(area != MAP_FAILED && !munmap(area, 64 * PAGE));
	other = mmap(area + 60 * PAGE, 4 * PAGE, RW, PRIVATE | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	MUST(other != MAP_FAILED);
	mark(other, 4, 1);
}

static int deep(int levels)
{
	volatile char frame[4096];
	frame[0] = levels;
	return levels ? deep(levels - 1) + frame[0] : 0;
}

static void grows_kept(void)
{
	marked(other, 4, 1);
	/* By as much as the kernel leaves between two areas, and no more. */
	EQUAL(touch(other - PAGE, 1), 0);
	TRUE(has_vm_flag(other, "gd"));
	TRUE(deep(500) != 1);
}

static void guard_none(void)
{
	area = map(3, RW, PRIVATE, -1, 0);
	MUST(!mprotect(area, PAGE, PROT_NONE));
	mark(area + PAGE, 2, 1);
}

static void guard_none_kept(void)
{
	EQUAL(touch(area, 0), SIGSEGV);
	marked(area + PAGE, 2, 1);
}

static void guard_install(void)
{
	area = map(8, RW, PRIVATE, -1, 0);
	mark(area, 8, 1);
	HERE(!madvise(area + 2 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL));
}

static void guard_install_kept(void)
{
	EQUAL(touch(area + 2 * PAGE, 0), SIGSEGV);
	EQUAL(touch(area + 3 * PAGE, 1), SIGSEGV);
	EQUAL(touch(area + PAGE, 1), 0);
	marked(area, 2, 1);
	TRUE(!madvise(area + 2 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL + 1));
	EQUAL(touch(area + 2 * PAGE, 0), 0);
}

static void locked(void)
{
	area = map(5, RW, PRIVATE, -1, 0);
	mark(area, 5, 1);
	MUST(!mlock(area, 5 * PAGE));
}

static void locked_kept(void)
{
	marked(area, 5, 1);
	TRUE(has_vm_flag(area, "lo"));
	EQUAL(proc("/proc/self/status", "VmLck:", 10), 20);
	TRUE(!munlock(area, 5 * PAGE));
	EQUAL(proc("/proc/self/status", "VmLck:", 10), 0);
}

static void locked_on_fault(void)
{
	area = map(5, RW, PRIVATE, -1, 0);
	HERE(!mlock2(area, 5 * PAGE, MLOCK_ONFAULT));
}

static void locked_on_fault_kept(void)
{
	TRUE(has_vm_flag(area, "lo"));
	unsigned char present[5];
	TRUE(!mincore(area, 5 * PAGE, present));
	EQUAL(present[3] & 1, 0);
}

static void locked_future(void)
{
	MUST(!mlockall(MCL_FUTURE));
}

static void locked_future_kept(void)
{
	area = map(4, RW, PRIVATE, -1, 0);
	TRUE(has_vm_flag(area, "lo"));
}

static void wipe_on_fork(void)
{
	area = map(2, RW, PRIVATE, -1, 0);
	HERE(!madvise(area, 2 * PAGE, MADV_WIPEONFORK));
	strcpy((char *)area, "a key");
}

/* No two copies have the same secret: it comes back as zeros, like in a child. */
static void wipe_on_fork_kept(void)
{
	TRUE(has_vm_flag(area, "wf"));
	if (getenv("RESTORED"))
		EQUAL(area[0], 0);
	area[0] = 'k';
	int status;
	pid_t child = fork();
	if (!child)
		_exit(area[0]);
	TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status));
	EQUAL(WEXITSTATUS(status), 0);
}

static void dont_fork(void)
{
	area = map(2, RW, PRIVATE, -1, 0);
	MUST(!madvise(area, 2 * PAGE, MADV_DONTFORK));
	mark(area, 2, 1);
}

static void dont_fork_kept(void)
{
	marked(area, 2, 1);
	TRUE(has_vm_flag(area, "dc"));
	int status;
	pid_t child = fork();
	if (!child)
		_exit(touch(area, 0));
	TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status));
	EQUAL(WEXITSTATUS(status), SIGSEGV);
}

#define ADVICE(name, advice, flag)                                             \
	static void name(void)                                                 \
	{                                                                      \
		area = map(8, RW, PRIVATE, -1, 0);                             \
		HERE(!madvise(area, 8 * PAGE, advice));                        \
		mark(area, 8, 1);                                              \
	}                                                                      \
	static void name##_kept(void)                                          \
	{                                                                      \
		marked(area, 8, 1);                                            \
		TRUE(has_vm_flag(area, flag));                                 \
	}

ADVICE(dont_dump, MADV_DONTDUMP, "dd")
ADVICE(hugepage, MADV_HUGEPAGE, "hg")
ADVICE(no_hugepage, MADV_NOHUGEPAGE, "nh")
ADVICE(mergeable, MADV_MERGEABLE, "mg")
ADVICE(sequential, MADV_SEQUENTIAL, "sr")
ADVICE(random_access, MADV_RANDOM, "rr")

static void huge_content(void)
{
	unsigned char *at = map(2048, RW, PRIVATE, -1, 0);
	area = (void *)(((unsigned long)at + (2 << 20) - 1) & -(2ul << 20));
	madvise(area, 2 << 20, MADV_HUGEPAGE);
	mark(area, 512, 5);
}

static void huge_content_kept(void)
{
	marked(area, 512, 5);
}

static void no_reserve(void)
{
	area = map(1ul << 24, RW, PRIVATE | MAP_NORESERVE, -1, 0);
	mark(area + (1ul << 35), 4, 1);
}

static void no_reserve_kept(void)
{
	marked(area + (1ul << 35), 4, 1);
	TRUE(has_vm_flag(area, "nr"));
	EQUAL(area[(1ul << 36) - 1], 0);
}

static void heap(void)
{
	/* What writing allocates lies below. */
	puts("heap");
	area = sbrk(10 * PAGE);
	MUST(area != (void *)-1);
	mark(area, 10, 1);
	other = sbrk(0);
}

static void heap_kept(void)
{
	marked(area, 10, 1);
	TRUE(sbrk(0) == other);
	TRUE(sbrk(PAGE) == other);
	other[0] = 1;
	TRUE(!brk(area));
}

static void jit(void)
{
	/* mov $42, %eax; ret */
	static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
	area = map(2, RW, PRIVATE, -1, 0);
	memcpy(area, code, sizeof code);
	MUST(!mprotect(area, PAGE, PROT_READ | PROT_EXEC));
	other = map(1, RW | PROT_EXEC, PRIVATE, -1, 0);
	memcpy(other, code, sizeof code);
}

static void jit_kept(void)
{
	EQUAL(((int (*)(void))area)(), 42);
	other[1] = 43;
	EQUAL(((int (*)(void))other)(), 43);
	EQUAL(touch(area, 1), SIGSEGV);
}

static void remapped(void)
{
	area = map(8, RW, PRIVATE, -1, 0);
	mark(area, 8, 1);
	void *place = map(8, PROT_NONE, PRIVATE, -1, 0);
	area = mremap(area, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	int fd = file("moved", 4);
	other = map(4, RW, MAP_PRIVATE, fd, 0);
	close(fd);
	other = mremap(other + PAGE, 2 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
	MUST(area == place && other != MAP_FAILED);
	other[0] = 'r';
}

static void remapped_kept(void)
{
	marked(area, 8, 1);
	EQUAL(*(size_t *)(other + 64), 0x5158);
	EQUAL(*(size_t *)(other + PAGE + 64), 0x5159);
	EQUAL(other[0], 'r');
	area = mremap(area, 8 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
	TRUE(area != MAP_FAILED);
	marked(area, 8, 1);
}

static void sealed(void)
{
	area = map(2, RW, PRIVATE, -1, 0);
	mark(area, 2, 1);
	HERE(!syscall(SYS_mseal, area, 2 * PAGE, 0));
}

static void sealed_kept(void)
{
	marked(area, 2, 1);
	EQUAL(munmap(area, PAGE), -1);
}

static void protection_key(void)
{
	area = map(2, RW, PRIVATE, -1, 0);
	int key = pkey_alloc(0, 0);
	HERE(key >= 0);
	MUST(!pkey_mprotect(area, PAGE, RW, key));
	MUST(!pkey_set(key, PKEY_DISABLE_WRITE));
}

static void protection_key_kept(void)
{
	EQUAL(touch(area, 0), 0);
	EQUAL(touch(area, 1), SIGSEGV);
}

static void huge_pages(void)
{
	area = mmap(NULL, 2 << 20, RW, PRIVATE | MAP_HUGETLB, -1, 0);
	HERE(area != MAP_FAILED);
	area[0] = 'h';
}

static void huge_pages_kept(void)
{
	EQUAL(area[0], 'h');
}

static void dont_need(void)
{
	area = map(64, RW, PRIVATE, -1, 0);
	mark(area, 64, 1);
}

static void dont_need_kept(void)
{
	marked(area, 64, 1);
	TRUE(!madvise(area, 64 * PAGE, MADV_DONTNEED));
	for (int page = 0; page < 64; page++)
		EQUAL(area[page * PAGE + 64], 0);
}

static void free_later(void)
{
	area = map(64, RW, PRIVATE, -1, 0);
	mark(area, 64, 1);
}

static void free_later_kept(void)
{
	TRUE(!madvise(area, 64 * PAGE, MADV_FREE));
	mark(area, 64, 1);
	marked(area, 64, 1);
}

static void watched(void)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	HERE(fd >= 0);
	struct uffdio_api api = {.api = UFFD_API};
	area = map(2, RW, PRIVATE, -1, 0);
	struct uffdio_register range = {.range = {(unsigned long)area, 2 * PAGE},
					.mode = UFFDIO_REGISTER_MODE_MISSING};
	MUST(!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &range));
}

static void watched_kept(void)
{
	TRUE(has_vm_flag(area, "um"));
}

static void named(void)
{
	area = map(2, RW, PRIVATE, -1, 0);
	mark(area, 2, 1);
	HERE(!prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area, 2 * PAGE, "conform"));
}

static void named_kept(void)
{
	marked(area, 2, 1);
	char line[4096], wanted[32];
	int found = 0;
	snprintf(wanted, sizeof wanted, "%lx-", (unsigned long)area);
	FILE *maps = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, maps))
		found |= !strncmp(line, wanted, strlen(wanted)) && strstr(line, "[anon:conform]");
	fclose(maps);
	TRUE(found);
}

static void droppable(void)
{
	area = mmap(NULL, 4 * PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	HERE(area != MAP_FAILED);
	strcpy((char *)area, "may go");
}

static void droppable_kept(void)
{
	TRUE(area[0] == 0 || !strcmp((char *)area, "may go"));
	EQUAL(touch(area, 1), 0);
	/* What it means for copies; that it may go, it need not. */
	TRUE(has_vm_flag(area, "wf") && has_vm_flag(area, "dd"));
}

static void policy(void)
{
	unsigned long node = 1;
	area = map(4, RW, PRIVATE, -1, 0);
	HERE(!syscall(SYS_mbind, area, 4 * PAGE, MPOL_BIND, &node, 64, 0));
	mark(area, 4, 1);
}

static void policy_kept(void)
{
	int mode = -1;
	marked(area, 4, 1);
	TRUE(!syscall(SYS_get_mempolicy, &mode, NULL, 0, area, MPOL_F_ADDR));
	EQUAL(mode, MPOL_BIND);
}

static void own_policy(void)
{
	unsigned long node = 1;
	HERE(!syscall(SYS_set_mempolicy, MPOL_BIND, &node, 64));
}

static void own_policy_kept(void)
{
	int mode = -1;
	TRUE(!syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0));
	EQUAL(mode, MPOL_BIND);
}

static unsigned long context;

static void aio(void)
{
	HERE(!syscall(SYS_io_setup, 8, &context));
}

static void aio_kept(void)
{
	TRUE(!syscall(SYS_io_destroy, context));
}

static void *library;
static double (*cosine)(double);

static void loaded(void)
{
	library = dlopen("libm.so.6", RTLD_NOW);
	HERE(library);
	cosine = dlsym(library, "cos");
	MUST(cosine(0) == 1);
}

static void loaded_kept(void)
{
	TRUE(cosine(0) == 1);
	TRUE(!dlclose(library));
	TRUE(dlopen("libm.so.6", RTLD_NOW) != NULL);
}

static const struct feature features[] = {
	{"anonymous", "anonymous memory, partly used", anonymous, anonymous_kept},
	{"protections", "read-only and inaccessible pages with content", protections, protections_kept},
	{"file-private", "private mapping of a file, one page changed", file_private, file_private_kept},
	{"file-shared-read", "shared read-only mapping of a file", file_shared_read, file_shared_read_kept},
	{"file-shared", "shared writable mapping of a file", file_shared, file_shared_kept},
	{"file-past-end", "mapping beyond the end of its file", file_past_end, file_past_end_kept},
	{"dev-zero", "private mapping of /dev/zero", dev_zero, dev_zero_kept},
	{"dev-zero-shared", "shared mapping of /dev/zero", dev_zero_shared, shared_anonymous_kept},
	{"shared-anonymous", "shared anonymous memory", shared_anonymous, shared_anonymous_kept},
	{"memfd-mapped", "memfd mapped twice", memfd_mapped, memfd_mapped_kept},
	{"sysv-shm", "System V shared memory", sysv, sysv_kept},
	{"deleted-private", "private mapping of a deleted file", deleted_private, deleted_private_kept},
	{"deleted-shared", "shared mapping of a deleted file", deleted_shared, deleted_shared_kept},
	{"growsdown", "memory that grows downwards, and the stack", grows, grows_kept},
	{"guard-none", "guard page by PROT_NONE", guard_none, guard_none_kept},
	{"guard-install", "guard pages by MADV_GUARD_INSTALL", guard_install, guard_install_kept},
	{"mlock", "mlock", locked, locked_kept},
	{"mlock-onfault", "mlock2 with MLOCK_ONFAULT", locked_on_fault, locked_on_fault_kept},
	{"mlockall-future", "mlockall with MCL_FUTURE", locked_future, locked_future_kept},
	{"wipeonfork", "MADV_WIPEONFORK: a copy has no secret of another", wipe_on_fork, wipe_on_fork_kept},
	{"dontfork", "MADV_DONTFORK", dont_fork, dont_fork_kept},
	{"dontdump", "MADV_DONTDUMP", dont_dump, dont_dump_kept},
	{"hugepage", "MADV_HUGEPAGE", hugepage, hugepage_kept},
	{"nohugepage", "MADV_NOHUGEPAGE", no_hugepage, no_hugepage_kept},
	{"mergeable", "MADV_MERGEABLE", mergeable, mergeable_kept},
	{"sequential", "MADV_SEQUENTIAL", sequential, sequential_kept},
	{"random-access", "MADV_RANDOM", random_access, random_access_kept},
	{"huge-content", "transparent huge page with content", huge_content, huge_content_kept},
	{"noreserve", "64 GiB with MAP_NORESERVE, little used", no_reserve, no_reserve_kept},
	{"brk", "the heap of brk goes on", heap, heap_kept},
	{"jit", "generated code, executable and writable", jit, jit_kept},
	{"mremap", "memory that was moved and grown by mremap", remapped, remapped_kept},
	{"mseal", "memory sealed by mseal", sealed, sealed_kept},
	{"pkey", "memory behind a protection key", protection_key, protection_key_kept},
	{"hugetlb", "huge pages of hugetlbfs", huge_pages, huge_pages_kept},
	{"dontneed", "MADV_DONTNEED gives zeros", dont_need, dont_need_kept, COPIED},
	{"madv-free", "MADV_FREE", free_later, free_later_kept, COPIED},
	{"userfaultfd", "memory watched by userfaultfd", watched, watched_kept},
	{"anon-name", "a name of memory (PR_SET_VMA)", named, named_kept},
	{"droppable", "MAP_DROPPABLE", droppable, droppable_kept},
	{"mbind", "NUMA policy of memory (mbind)", policy, policy_kept},
	{"set-mempolicy", "NUMA policy of a thread (set_mempolicy)", own_policy, own_policy_kept},
	{"aio", "context of Linux AIO (io_setup)", aio, aio_kept},
	{"dlopen", "a library loaded by dlopen", loaded, loaded_kept},
	{NULL},
};
