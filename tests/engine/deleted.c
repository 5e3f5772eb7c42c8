/* Files without a name, and pipes with one. */
#include "harness.h"
#include <sys/stat.h>

enum { GONE = 40, AGAIN, READER, APPENDER, NAMELESS, REPLACED = 60, OTHER,
       FIFO_OUT = 70, FIFO_IN, FIFO_BOTH, LONELY, WRITER };

static char content[70000];

static void move(int fd, int number, int flags)
{
	MUST(fd >= 0 && dup3(fd, number, flags) == number && !close(fd));
}

static void setup(void)
{
	/* A file of the program's first tick counts as older than it. */
	pause_ms(50);
	for (size_t i = 0; i < sizeof content; i++)
		content[i] = i * 11 >> 2;
	int fd = open(path("gone"), O_CREAT | O_RDWR | O_EXCL, 0640), other;
	MUST(write(fd, content, sizeof content) == sizeof content);
	other = open(path("gone"), O_RDONLY);
	MUST(lseek(other, 777, SEEK_SET) == 777);
	move(other, READER, O_CLOEXEC);
	move(open(path("gone"), O_WRONLY | O_APPEND), APPENDER, 0);
	MUST(!unlink(path("gone")) && lseek(fd, 5, SEEK_SET) == 5);
	move(fd, GONE, 0);
	MUST(dup2(GONE, AGAIN) == AGAIN);
	fd = open(directory, O_TMPFILE | O_RDWR, 0600);
	if (fd < 0) /* Not on every file system. */
		fd = open(path("instead"), O_CREAT | O_RDWR, 0600), unlink(path("instead"));
	MUST(write(fd, "nameless", 8) == 8);
	move(fd, NAMELESS, 0);
	move(open(path("replaced"), O_CREAT | O_RDWR, 0400), REPLACED, 0);
	MUST(write(REPLACED, "old", 3) == 3 && !unlink(path("replaced")));
	fd = open(path("replaced"), O_CREAT | O_RDWR, 0600);
	MUST(write(fd, "new", 3) == 3 && !close(fd));
	move(open(path("replaced"), O_RDONLY), OTHER, 0);
	MUST(!mkfifo(path("fifo"), 0600) && !mkfifo(path("lonely"), 0600) && !mkfifo(path("writer"), 0600));
	other = open(path("fifo"), O_RDWR);
	move(open(path("fifo"), O_RDONLY), FIFO_OUT, O_CLOEXEC);
	move(open(path("fifo"), O_WRONLY | O_NONBLOCK), FIFO_IN, 0);
	move(other, FIFO_BOTH, 0);
	MUST(fcntl(FIFO_IN, F_SETPIPE_SZ, 1 << 17) > 0 && write(FIFO_IN, "waiting", 7) == 7);
	move(open(path("lonely"), O_RDONLY | O_NONBLOCK), LONELY, 0);
	other = open(path("writer"), O_RDWR);
	move(open(path("writer"), O_WRONLY), WRITER, 0);
	close(other);
}

static void verify(void)
{
	static char buffer[sizeof content + 100];
	struct stat stat;
	char target[5000] = "", link[40];
	EQUAL(lseek(GONE, 0, SEEK_CUR), 5);
	EQUAL(lseek(AGAIN, 1, SEEK_CUR), 6);
	EQUAL(lseek(READER, 0, SEEK_CUR), 777);
	EQUAL(pread(READER, buffer, sizeof buffer, 0), sizeof content);
	EQUAL(memcmp(buffer, content, sizeof content), 0);
	EQUAL(write(APPENDER, "!", 1), 1);
	EQUAL(pread(GONE, buffer, 10, sizeof content), 1);
	EQUAL(fcntl(READER, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(READER, F_GETFL) & O_ACCMODE, O_RDONLY);
	EQUAL(fcntl(APPENDER, F_GETFL) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND);
	TRUE(!fstat(GONE, &stat) && stat.st_nlink == 0 && (stat.st_mode & 07777) == 0640);
	snprintf(link, sizeof link, "/proc/self/fd/%d", GONE);
	TRUE(readlink(link, target, sizeof target - 1) > 10);
	EQUAL(strcmp(target + strlen(target) - 15, "/gone (deleted)"), 0);
	EQUAL(access(path("gone"), F_OK), -1);
	EQUAL(pread(NAMELESS, buffer, 20, 0), 8);
	TRUE(!fstat(NAMELESS, &stat) && stat.st_nlink == 0 && !memcmp(buffer, "nameless", 8));
	TRUE(pread(REPLACED, buffer, 20, 0) == 3 && !memcmp(buffer, "old", 3));
	TRUE(!fstat(REPLACED, &stat) && (stat.st_mode & 07777) == 0400);
	TRUE(pread(OTHER, buffer, 20, 0) == 3 && !memcmp(buffer, "new", 3));
	EQUAL(fcntl(FIFO_OUT, F_GETPIPE_SZ), 1 << 17);
	EQUAL(fcntl(FIFO_OUT, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(FIFO_OUT, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY);
	EQUAL(fcntl(FIFO_IN, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY | O_NONBLOCK);
	EQUAL(fcntl(FIFO_BOTH, F_GETFL) & O_ACCMODE, O_RDWR);
	TRUE(read(FIFO_OUT, buffer, 20) == 7 && !memcmp(buffer, "waiting", 7));
	TRUE(write(FIFO_BOTH, "x", 1) == 1 && read(FIFO_OUT, buffer, 20) == 1);
	EQUAL(read(LONELY, buffer, 9), 0);
	int in = open(path("lonely"), O_WRONLY | O_NONBLOCK);
	TRUE(write(in, "y", 1) == 1 && read(LONELY, buffer, 9) == 1);
	int out = open(path("writer"), O_RDONLY | O_NONBLOCK);
	TRUE(write(WRITER, "z", 1) == 1 && read(out, buffer, 9) == 1);
}
