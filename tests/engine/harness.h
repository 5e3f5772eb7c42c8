/* A program that checks itself across a restore: setup(), a line "ready",
 * and once the file "go" is there, verify(). The same checks pass without a
 * restore in between.
 *
 * usage: PROGRAM DIR [mapped]. With "mapped" it has a file libjvm.so mapped,
 * by which warmstart chooses to map pages rather than to copy them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static int failures;
static char directory[4000];

static void setup(void);
static void verify(void);

__attribute__((format(printf, 1, 2), unused)) static void failed(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	printf("FAILED: ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	failures++;
}

/* Counts a failure, with the values that were compared. */
#define EQUAL(got, wanted)                                                     \
	do {                                                                   \
		long long got_ = (long long)(got), wanted_ = (long long)(wanted); \
		if (got_ != wanted_)                                           \
			failed("%s:%d: %s is %lld (%#llx), not %s = %lld (%#llx)", \
			       __FILE__, __LINE__, #got, got_, got_, #wanted,  \
			       wanted_, wanted_);                              \
	} while (0)
#define TRUE(condition)                                                        \
	do {                                                                   \
		if (!(condition))                                              \
			failed("%s:%d: %s (errno %d)", __FILE__, __LINE__,     \
			       #condition, errno);                             \
	} while (0)
/* For setup: there is no point in going on. */
#define MUST(condition)                                                        \
	do {                                                                   \
		if (!(condition)) {                                            \
			printf("FAILED: %s:%d: %s (errno %d)\n", __FILE__,     \
			       __LINE__, #condition, errno);                   \
			exit(2);                                               \
		}                                                              \
	} while (0)

/* Returns the path of a file in the directory. */
__attribute__((unused)) static const char *path(const char *name)
{
	static char buffers[4][4096];
	static int next;
	char *buffer = buffers[next++ % 4];
	snprintf(buffer, 4096, "%s/%s", directory, name);
	return buffer;
}

static void pause_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};
	while (nanosleep(&time, &time))
		;
}

int main(int argc, char **argv)
{
	MUST(argc >= 2);
	setvbuf(stdout, NULL, _IOLBF, 0);
	const char *given = getenv("CASE_DIR");
	snprintf(directory, sizeof directory, "%s",
		 given && !strcmp(argv[1], "-") ? given : argv[1]);
	if (argc > 2 && !strcmp(argv[2], "mapped")) {
		int fd = open(path("libjvm.so"), O_CREAT | O_RDWR, 0600);
		MUST(fd >= 0 && !ftruncate(fd, PAGE));
		MUST(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) != MAP_FAILED);
		close(fd);
	}
	setup();
	printf("ready\n");
	for (int i = 0; access(path("go"), F_OK); i++) {
		/* A restored one is known to run by what it writes. */
		if (i % 10 == 0)
			printf("waiting\n");
		pause_ms(2);
	}
	verify();
	printf(failures ? "%d checks failed\n" : "all is well\n", failures);
	return failures != 0;
}
