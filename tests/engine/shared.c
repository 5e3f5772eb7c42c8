/* Shared memory: memfds in every shape, shared anonymous memory. */
#include "harness.h"
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

enum { OPEN = 40, AGAIN = 41, READER = 42, SEALED = 43, EMPTY = 44, LONELY_READER = 3, UNMAPPED = 45 };

/* Two views of one memfd, at other offsets and with other rights. */
static char *whole, *part, *reading;
/* Mapped only: its descriptor is closed. */
static char *closed, *closed_again;
/* Shared anonymous memory, cut into pieces. */
static char *anonymous;
/* Private on top of a memfd. */
static char *private;
/* A memfd that is larger than its mapping, and one that is smaller. */
static char *small_view, *beyond;
/* A memfd of a large size with little in it. */
static char *sparse;
static char *sealed, *future;
static int future_fd;
#define LEN_SPARSE (64ul << 30)

static int memory(const char *name, unsigned flags, size_t len)
{
	int fd = memfd_create(name, flags);
	MUST(fd >= 0 && !ftruncate(fd, len));
	return fd;
}

static char *map(int fd, size_t pages, int prot, int flags, size_t page)
{
	char *at = mmap(NULL, pages * PAGE, prot, flags, fd, page * PAGE);
	MUST(at != MAP_FAILED);
	return at;
}

static void move(int fd, int number, int flags)
{
	MUST(dup3(fd, number, flags) == number && !close(fd));
}

static void setup(void)
{
	int fd = memory("heap", MFD_ALLOW_SEALING, 100 * PAGE + 10), other;
	char name[64];
	whole = map(fd, 100, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	part = map(fd, 10, PROT_READ | PROT_EXEC, MAP_SHARED, 50);
	for (int page = 0; page < 100; page += 9)
		sprintf(whole + page * PAGE, "page %d", page);
	MUST(pwrite(fd, "the end", 7, 100 * PAGE) == 7);
	MUST(lseek(fd, 1234, SEEK_SET) == 1234 && !fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	other = open(name, O_RDONLY);
	MUST(other >= 0 && lseek(other, 99, SEEK_SET) == 99);
	reading = map(other, 3, PROT_READ, MAP_SHARED, 9);
	move(other, READER, 0);
	move(fd, OPEN, O_CLOEXEC);
	MUST(dup(OPEN) >= 0 && dup2(OPEN, AGAIN) == AGAIN);

	fd = memory("closed", 0, 40 * PAGE);
	closed = map(fd, 20, PROT_READ | PROT_WRITE, MAP_SHARED, 10);
	closed_again = map(fd, 20, PROT_READ, MAP_SHARED, 20);
	strcpy(closed + 12 * PAGE, "of the closed one");
	close(fd);

	anonymous = map(-1, 30, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
	for (int page = 0; page < 30; page++)
		anonymous[page * PAGE] = page + 1;
	MUST(!mprotect(anonymous + 10 * PAGE, 5 * PAGE, PROT_READ));
	MUST(!mprotect(anonymous + 20 * PAGE, PAGE, PROT_NONE));
	MUST(!munmap(anonymous + 25 * PAGE, PAGE) && !madvise(anonymous, PAGE, MADV_DONTFORK));

	fd = memory("private", 0, 8 * PAGE);
	private = map(fd, 8, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	MUST(pwrite(fd, "shared", 6, 2 * PAGE) == 6 && pwrite(fd, "hidden", 6, 3 * PAGE) == 6);
	strcpy(private + 3 * PAGE, "mine");
	close(fd);

	fd = memory("large", 0, 50 * PAGE);
	MUST(pwrite(fd, "outside", 7, 49 * PAGE) == 7);
	small_view = map(fd, 2, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	close(fd);
	fd = memory("beyond", 0, PAGE);
	beyond = map(fd, 4, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	strcpy(beyond, "within");
	move(fd, UNMAPPED, 0);

	fd = memory("sparse", 0, LEN_SPARSE);
	sparse = mmap(NULL, LEN_SPARSE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	MUST(sparse != MAP_FAILED);
	strcpy(sparse + LEN_SPARSE / 2, "in the middle");
	strcpy(sparse + LEN_SPARSE - PAGE, "at the end");
	close(fd);

	fd = memory("sealed", MFD_ALLOW_SEALING, 2 * PAGE);
	MUST(write(fd, "for good", 8) == 8);
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL));
	sealed = map(fd, 2, PROT_READ, MAP_SHARED, 0);
	move(fd, SEALED, 0);
	fd = memory("future", MFD_ALLOW_SEALING, 2 * PAGE);
	future = map(fd, 2, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	future_fd = fd;

	/* Open only, and at a low number; and a name of nothing. */
	move(memory("", 0, 0), EMPTY, 0);
	fd = memory("low", 0, PAGE);
	MUST(write(fd, "low", 3) == 3 && !fchmod(fd, 0640));
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	other = open(name, O_RDONLY);
	MUST(other >= 0 && !close(fd));
	if (other != LONELY_READER) {
		dup2(LONELY_READER, 70);
		move(other, LONELY_READER, 0);
	}
}

static void heap(void)
{
	struct stat stat;
	char text[32];
	for (int page = 0; page < 100; page++) {
		sprintf(text, "page %d", page);
		EQUAL(strcmp(whole + page * PAGE, page % 9 ? "" : text), 0);
	}
	EQUAL(strcmp(part + 4 * PAGE, "page 54"), 0);
	EQUAL(strcmp(reading, "page 9"), 0);
	strcpy(whole + 51 * PAGE, "seen everywhere");
	EQUAL(strcmp(part + PAGE, "seen everywhere"), 0);
	TRUE(pread(READER, text, 16, 51 * PAGE) == 16 && !strcmp(text, "seen everywhere"));
	EQUAL(lseek(OPEN, 0, SEEK_CUR), 1234);
	EQUAL(lseek(AGAIN, 1, SEEK_CUR), 1235);
	EQUAL(lseek(OPEN, 0, SEEK_CUR), 1235);
	EQUAL(lseek(READER, 0, SEEK_CUR), 99);
	EQUAL(fcntl(OPEN, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(AGAIN, F_GETFD), 0);
	EQUAL(fcntl(READER, F_GETFL) & O_ACCMODE, O_RDONLY);
	TRUE(write(READER, "x", 1) == -1 && errno == EBADF);
	TRUE(!fstat(OPEN, &stat) && stat.st_size == 100 * PAGE + 10 && stat.st_nlink == 0);
	EQUAL(fcntl(OPEN, F_GET_SEALS), F_SEAL_GROW);
	TRUE(ftruncate(OPEN, 200 * PAGE) == -1 && errno == EPERM);
	TRUE(pread(OPEN, text, 20, 100 * PAGE) == 10 && !memcmp(text, "the end\0\0", 10));
	/* It can be made writable; what was opened for reading cannot. */
	EQUAL(mprotect(part, PAGE, PROT_READ | PROT_WRITE), 0);
	TRUE(mprotect(reading, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
}

static void only_mapped(void)
{
	unsigned char there[1];
	EQUAL(strcmp(closed + 12 * PAGE, "of the closed one"), 0);
	EQUAL(strcmp(closed_again + 2 * PAGE, "of the closed one"), 0);
	closed[11 * PAGE] = 'x';
	EQUAL(closed_again[PAGE], 'x');
	for (int page = 0; page < 30; page++)
		if (page != 20 && page != 25)
			EQUAL(anonymous[page * PAGE], page + 1);
	TRUE(mincore(anonymous + 25 * PAGE, PAGE, there) == -1 && errno == ENOMEM);
	TRUE(mprotect(anonymous + 20 * PAGE, PAGE, PROT_READ) == 0 && anonymous[20 * PAGE] == 21);
	TRUE(read(open("/dev/zero", O_RDONLY), anonymous + 10 * PAGE, 1) == -1 && errno == EFAULT);
	/* A child shares it. */
	pid_t child = fork();
	if (!child) {
		strcpy(anonymous + 2 * PAGE, "by the child");
		/* Not passed on: MADV_DONTFORK. */
		_exit(mincore(anonymous, PAGE, there) == -1 ? 7 : 1);
	}
	int status;
	TRUE(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
	EQUAL(strcmp(anonymous + 2 * PAGE, "by the child"), 0);
	EQUAL(strcmp(private + 2 * PAGE, "shared"), 0);
	EQUAL(strcmp(private + 3 * PAGE, "mine"), 0);
	char *grown = mremap(small_view, 2 * PAGE, 50 * PAGE, MREMAP_MAYMOVE);
	TRUE(grown != MAP_FAILED && !strcmp(grown + 49 * PAGE, "outside"));
	EQUAL(strcmp(sparse + LEN_SPARSE / 2, "in the middle"), 0);
	EQUAL(strcmp(sparse + LEN_SPARSE - PAGE, "at the end"), 0);
	/* Nothing was made of its holes. */
	TRUE(!mincore(sparse + LEN_SPARSE / 4, PAGE, there) && !(there[0] & 1));
}

static void verify(void)
{
	struct stat stat;
	char text[16] = "";
	heap();
	only_mapped();
	EQUAL(strcmp(beyond, "within"), 0);
	TRUE(!fstat(UNMAPPED, &stat) && stat.st_size == PAGE);
	TRUE(!ftruncate(UNMAPPED, 4 * PAGE) && beyond[3 * PAGE] == 0);
	EQUAL(strcmp(sealed, "for good"), 0);
	EQUAL(fcntl(SEALED, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL);
	TRUE(pwrite(SEALED, "x", 1, 0) == -1 && errno == EPERM);
	strcpy(future, "still written to");
	EQUAL(fcntl(future_fd, F_GET_SEALS), F_SEAL_FUTURE_WRITE);
	TRUE(pwrite(future_fd, "x", 1, 0) == -1 && errno == EPERM);
	TRUE(!fstat(EMPTY, &stat) && stat.st_size == 0 && write(EMPTY, "x", 1) == 1);
	TRUE(read(LONELY_READER, text, 8) == 8 && !strcmp(text, "low"));
	TRUE(!fstat(LONELY_READER, &stat) && (stat.st_mode & 07777) == 0640);
	EQUAL(fcntl(LONELY_READER, F_GETFL) & O_ACCMODE, O_RDONLY);
}
