/* Memory of every kind, with content that must be there after the restore. */
#include "harness.h"
#include <sys/wait.h>

#define LEN (64 * PAGE)

static uint8_t *plain, *sparse, *none, *readonly, *private, *truncated, *shared, *shared_readonly;
static uint8_t *dontfork, *wiped, *locked, *downwards, *guarded, *zeroed, *code, *huge;
static uint8_t *first_break;
static uint8_t *heap;
static const size_t LEN_SPARSE = 1ul << 33;
/* Data and bss of the program. */
static uint64_t data = 0x1122334455667788, bss[4096];
static const uint64_t constant = 0x99;

static uint8_t byte_at(size_t offset, int seed)
{
	return (offset * 2654435761u >> 7) + seed;
}

static void fill(uint8_t *at, size_t len, int seed)
{
	for (size_t i = 0; i < len; i++)
		at[i] = byte_at(i, seed);
}

static void same(const char *what, const uint8_t *at, size_t offset, size_t len, int seed)
{
	for (size_t i = 0; i < len; i++)
		if (at[i] != byte_at(offset + i, seed)) {
			failed("%s: byte %zu is %#x", what, offset + i, at[i]);
			return;
		}
}

static uint8_t *map(size_t len, int prot, int flags, int fd)
{
	void *at = mmap(NULL, len, prot, flags, fd, 0);
	MUST(at != MAP_FAILED);
	return at;
}

static int file_with(const char *name, size_t len, int seed)
{
	uint8_t bytes[LEN];
	fill(bytes, LEN, seed);
	int fd = open(path(name), O_CREAT | O_RDWR | O_TRUNC, 0600);
	MUST(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	return fd;
}

static int has_flag(const void *address, const char *flag)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[5000];
	int inside = 0, found = 0;
	while (smaps && fgets(line, sizeof line, smaps)) {
		unsigned long start, end;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (uintptr_t)address && (uintptr_t)address < end;
		if (inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line + 8, flag) != NULL;
	}
	fclose(smaps);
	return found;
}

static void setup(void)
{
	const int RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS;
	/* Content with holes of zeros, short ones and long ones. */
	plain = map(1024 * PAGE, RW, ANON, -1);
	for (int i = 0; i < 1024; i += i % 7 ? 1 : i > 500 ? 200 : 3)
		fill(plain + i * PAGE, PAGE, i);
	sparse = map(LEN_SPARSE, RW, ANON | MAP_NORESERVE, -1);
	fill(sparse, PAGE, 1), fill(sparse + LEN_SPARSE / 2, 2 * PAGE, 2);
	fill(sparse + LEN_SPARSE - PAGE, PAGE, 3);
	none = map(LEN, RW, ANON, -1);
	fill(none, LEN, 4);
	MUST(!mprotect(none, LEN, PROT_NONE));
	readonly = map(LEN, RW, ANON, -1);
	fill(readonly, LEN, 5);
	MUST(!mprotect(readonly, LEN, PROT_READ));
	code = map(PAGE, RW, ANON, -1);
	memcpy(code, "\xb8\x2a\0\0\0\xc3", 6); /* return 42 */
	MUST(!mprotect(code, PAGE, PROT_READ | PROT_EXEC));
	/* A file, some of its pages changed in memory only, some set to zero. */
	int fd = file_with("private", LEN, 6);
	private = map(LEN, RW, MAP_PRIVATE, fd);
	fill(private + 3 * PAGE, PAGE, 7);
	memset(private + 5 * PAGE, 0, PAGE);
	fill(private + 60 * PAGE, 2 * PAGE, 8);
	MUST(!mprotect(private + 60 * PAGE, PAGE, PROT_READ));
	close(fd);
	/* The last page is beyond the file's end. */
	fd = file_with("short", 2 * PAGE + 100, 9);
	truncated = map(4 * PAGE, RW, MAP_PRIVATE, fd);
	truncated[2 * PAGE + 200] = 77;
	close(fd);
	fd = file_with("shared", LEN, 10);
	shared = map(LEN, RW, MAP_SHARED, fd);
	fill(shared + PAGE, PAGE, 11);
	close(fd);
	fd = open(path("shared"), O_RDONLY);
	shared_readonly = map(LEN, PROT_READ, MAP_SHARED, fd);
	close(fd);
	dontfork = map(LEN, RW, ANON, -1);
	fill(dontfork, LEN, 12);
	MUST(!madvise(dontfork, LEN, MADV_DONTFORK));
	wiped = map(LEN, RW, ANON, -1);
	fill(wiped, LEN, 13);
	MUST(!madvise(wiped, LEN, MADV_WIPEONFORK));
	locked = map(4 * PAGE, RW, ANON, -1);
	fill(locked, 4 * PAGE, 14);
	MUST(!mlock(locked, 4 * PAGE));
	downwards = map(LEN, RW, ANON | MAP_GROWSDOWN | MAP_STACK, -1);
	fill(downwards, LEN, 15);
	huge = map(1024 * PAGE, RW, ANON, -1);
	fill(huge, PAGE, 16);
	MUST(!madvise(huge, 1024 * PAGE, MADV_NOHUGEPAGE));
	MUST(!madvise(huge, 1024 * PAGE, MADV_DONTDUMP));
	guarded = map(LEN, RW, ANON, -1);
	fill(guarded, LEN, 17);
	/* MADV_GUARD_INSTALL, Linux 6.13. */
	if (madvise(guarded + 8 * PAGE, PAGE, 102))
		guarded = NULL;
	/* Pages of zeros that the program has written: they are zeros. */
	zeroed = map(LEN, RW, ANON, -1);
	memset(zeroed, 0, LEN);
	first_break = sbrk(LEN);
	fill(first_break, LEN, 18);
	heap = malloc(1 << 22);
	fill(heap, 1 << 22, 19);
	data++;
	fill((uint8_t *)bss, sizeof bss, 20);
}

/* Returns what a child sees: bit 0 content, bit 1 zeros, bit 2 nothing. */
static int seen_by_child(uint8_t *at, int seed)
{
	pid_t child = fork();
	if (!child) {
		uint8_t residence;
		if (mincore(at, PAGE, &residence))
			_exit(4);
		int content = 1, zeros = 1;
		for (size_t i = 0; i < PAGE; i++)
			content &= at[i] == byte_at(i, seed), zeros &= at[i] == 0;
		_exit(content | zeros << 1);
	}
	int status = -1;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void verify(void)
{
	for (int i = 0; i < 1024; i += i % 7 ? 1 : i > 500 ? 200 : 3)
		same("plain", plain + i * PAGE, 0, PAGE, i);
	same("sparse, start", sparse, 0, PAGE, 1);
	same("sparse, middle", sparse + LEN_SPARSE / 2, 0, 2 * PAGE, 2);
	same("sparse, end", sparse + LEN_SPARSE - PAGE, 0, PAGE, 3);
	EQUAL(sparse[LEN_SPARSE / 4], 0);
	TRUE(!mprotect(none, LEN, PROT_READ));
	same("PROT_NONE", none, 0, LEN, 4);
	same("PROT_READ", readonly, 0, LEN, 5);
	int fd = open("/dev/zero", O_RDONLY);
	EQUAL(read(fd, readonly, 1), -1);
	EQUAL(errno, EFAULT);
	close(fd);
	EQUAL(((int (*)(void))code)(), 42);
	same("private file, untouched", private, 0, 3 * PAGE, 6);
	same("private file, changed", private + 3 * PAGE, 0, PAGE, 7);
	for (size_t i = 0; i < PAGE; i++)
		TRUE(private[5 * PAGE + i] == 0);
	same("private file, behind", private + 6 * PAGE, 6 * PAGE, 54 * PAGE, 6);
	same("private file, protected", private + 60 * PAGE, 0, 2 * PAGE, 8);
	uint8_t in_file;
	fd = open(path("private"), O_RDONLY);
	EQUAL(pread(fd, &in_file, 1, 3 * PAGE + 1), 1);
	EQUAL(in_file, byte_at(3 * PAGE + 1, 6));
	close(fd);
	same("short file", truncated, 0, 2 * PAGE + 100, 9);
	EQUAL(truncated[2 * PAGE + 200], 77);
	/* Shared memory and the file are one. */
	same("shared", shared + PAGE, 0, PAGE, 11);
	same("shared, read-only", shared_readonly + PAGE, 0, PAGE, 11);
	shared[5] ^= 0xff;
	fd = open(path("shared"), O_RDONLY);
	EQUAL(pread(fd, &in_file, 1, 5), 1);
	EQUAL(in_file, shared[5]);
	EQUAL(shared_readonly[5], shared[5]);
	close(fd);
	same("MADV_DONTFORK", dontfork, 0, LEN, 12);
	EQUAL(seen_by_child(dontfork, 12), 4);
	/* Comes back empty, as in every copy; and is still wiped. */
	TRUE(has_flag(wiped, " wf"));
	fill(wiped, LEN, 13);
	EQUAL(seen_by_child(wiped, 13), 2);
	EQUAL(seen_by_child(plain, 0), 1);
	same("locked", locked, 0, 4 * PAGE, 14);
	TRUE(has_flag(locked, " lo"));
	same("MAP_GROWSDOWN", downwards, 0, LEN, 15);
	TRUE(has_flag(downwards, " gd"));
	same("advised", huge, 0, PAGE, 16);
	TRUE(has_flag(huge, " nh") && has_flag(huge, " dd"));
	TRUE(has_flag(sparse, " nr"));
	if (guarded) {
		same("before the guard", guarded, 0, 8 * PAGE, 17);
		same("behind the guard", guarded + 9 * PAGE, 9 * PAGE, 55 * PAGE, 17);
		fd = open("/dev/zero", O_RDONLY);
		EQUAL(read(fd, guarded + 8 * PAGE, 1), -1);
		close(fd);
	}
	for (size_t i = 0; i < LEN; i++)
		TRUE(zeroed[i] == 0);
	same("brk", first_break, 0, LEN, 18);
	TRUE(sbrk(0) >= (void *)(first_break + LEN));
	uint8_t *more = sbrk(LEN);
	TRUE(more >= first_break + LEN);
	fill(more, LEN, 21);
	same("malloc", heap, 0, 1 << 22, 19);
	free(heap);
	EQUAL(data, 0x1122334455667789);
	EQUAL(constant, 0x99);
	same("bss", (uint8_t *)bss, 0, sizeof bss, 20);
}
