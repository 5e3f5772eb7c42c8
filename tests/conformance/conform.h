/* Small programs that check one feature of the kernel each: prepared by
 * setup, checked by verify once the file "go" is there; between the two they
 * are dumped and restored. See tests/conformance.rs.
 *
 * usage: CASE=NAME CASE_DIR=DIR PROGRAM - [mapped]; PROGRAM list prints the
 * cases. */
#include "../engine/harness.h"
#include <pthread.h>
#include <signal.h>

/* How a case must be treated. */
enum {
	/* It compares with what started it: `image dump` knows nothing of
	 * that, a run does. */
	LAUNCHED = 1,
	/* It relies on what only copied pages can give: such programs are
	 * never given mapped ones. */
	COPIED = 2,
};

struct feature {
	const char *name, *title;
	void (*prepare)(void), (*check)(void);
	int how;
};

static const struct feature features[];

/* Whether CRIU has dumped or will restore this process: it wakes sleepers with
 * EINTR, as its documentation says. */
static int with_criu;

/* The feature is not to be had on this machine, which is no result. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void
unavailable(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	printf("unavailable: ");
	vprintf(format, args);
	printf(" (%s)\n", strerror(errno));
	exit(3);
}

#define HERE(condition)                                                        \
	do {                                                                   \
		if (!(condition))                                              \
			unavailable("%s", #condition);                         \
	} while (0)

static const struct feature *chosen(void)
{
	const char *name = getenv("CASE");
	for (const struct feature *feature = features; feature->name; feature++)
		if (name && !strcmp(name, feature->name))
			return feature;
	printf("there is no case %s\n", name ? name : "");
	exit(2);
}

static void setup(void)
{
	if (!strcmp(directory, "list")) {
		for (const struct feature *feature = features; feature->name; feature++)
			printf("%s\t%s%s\t%s\n", feature->name,
			       feature->how & LAUNCHED ? "L" : "",
			       feature->how & COPIED ? "C" : "", feature->title);
		exit(0);
	}
	with_criu = getenv("WITH_CRIU") != NULL;
	errno = 0;
	chosen()->prepare();
	if (failures)
		exit(2);
	/* For readiness probes. */
	close(open(path("ready"), O_CREAT | O_WRONLY, 0600));
}

static void verify(void)
{
	errno = 0;
	chosen()->check();
}

__attribute__((unused)) static double now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Returns a number of a file of /proc, found by what stands before it. */
__attribute__((unused)) static long long proc(const char *name, const char *key, int base)
{
	char text[65536];
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		return -1;
	ssize_t length = 0, got;
	while ((got = read(fd, text + length, sizeof text - 1 - length)) > 0)
		length += got;
	close(fd);
	text[length] = 0;
	char *at = *key ? strstr(text, key) : text;
	return at ? strtoll(at + strlen(key), NULL, base) : -1;
}

/* Tells whether the area at an address has a two-letter flag of VmFlags. */
__attribute__((unused)) static int has_vm_flag(const void *address, const char *flag)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[4096];
	int inside = 0, found = 0;
	while (smaps && fgets(line, sizeof line, smaps)) {
		unsigned long start, end;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)address >= start && (unsigned long)address < end;
		else if (inside && !strncmp(line, "VmFlags:", 8)) {
			char wanted[8];
			snprintf(wanted, sizeof wanted, " %s", flag);
			found = strstr(line, wanted) != NULL;
		}
	}
	if (smaps)
		fclose(smaps);
	return found;
}

/* A thread that does something that lasts across the restore. */
struct worker {
	pthread_t thread;
	volatile int started, done;
	void (*work)(struct worker *);
	long result;
	int error;
	double begun, ended;
};

static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	worker->begun = now(CLOCK_MONOTONIC);
	worker->started = gettid();
	worker->work(worker);
	worker->ended = now(CLOCK_MONOTONIC);
	worker->done = 1;
	return NULL;
}

__attribute__((unused)) static void start(struct worker *worker, void (*work)(struct worker *))
{
	worker->work = work;
	MUST(!pthread_create(&worker->thread, NULL, worker_main, worker));
	while (!worker->started)
		pause_ms(1);
	/* Until it waits where it is to wait. */
	pause_ms(5);
}

/* Waits for the end of a worker, for ten seconds at most. */
__attribute__((unused)) static void finish(struct worker *worker)
{
	for (int i = 0; i < 5000 && !worker->done; i++)
		pause_ms(2);
	TRUE(worker->done);
	if (worker->done)
		pthread_join(worker->thread, NULL);
}
