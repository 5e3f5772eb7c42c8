/* Kinds of descriptors. */
#include "conform.h"
#include <dirent.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

static int fd = -1, second = -1;
static int ends[2];
static struct worker worker;

static int named(const char *name, int flags)
{
	int fd = open(path(name), flags | O_CREAT, 0640);
	MUST(fd >= 0);
	return fd;
}

static void text_file(const char *name, const char *text)
{
	int fd = named(name, O_WRONLY);
	MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* Compares a file's content. */
static void has(const char *name, const char *text)
{
	char now[4096] = "";
	int fd = open(path(name), O_RDONLY);
	TRUE(read(fd, now, sizeof now - 1) >= 0);
	if (strcmp(now, text))
		failed("%s has `%s`, not `%s`", name, now, text);
	close(fd);
}

static void reading(void)
{
	char byte;
	text_file("read", "0123456789");
	fd = open(path("read"), O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 4; i++)
		MUST(read(fd, &byte, 1) == 1);
}

static void reading_kept(void)
{
	char rest[16] = "";
	EQUAL(read(fd, rest, sizeof rest), 6);
	TRUE(!strcmp(rest, "456789"));
	EQUAL(write(fd, "x", 1), -1);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDONLY);
}

static void appending(void)
{
	text_file("log", "a\n");
	fd = named("log", O_WRONLY | O_APPEND);
	MUST(write(fd, "b\n", 2) == 2);
}

static void appending_kept(void)
{
	EQUAL(write(fd, "c\n", 2), 2);
	has("log", "a\nb\nc\n");
	EQUAL(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND);
}

static void appending_gone(void)
{
	appending();
	MUST(!rename(path("log"), path("log.1")));
}

static void appending_gone_kept(void)
{
	EQUAL(write(fd, "c\n", 2), 2);
	has("log.1", "a\nb\nc\n");
}

static void streaming(void)
{
	fd = named("out.txt", O_WRONLY | O_TRUNC);
	MUST(write(fd, "one\n", 4) == 4);
}

static void streaming_kept(void)
{
	EQUAL(write(fd, "two\n", 4), 4);
	has("out.txt", "one\ntwo\n");
}

static void both(void)
{
	text_file("data", "0123456789");
	fd = named("data", O_RDWR);
	MUST(lseek(fd, 3, SEEK_SET) == 3 && write(fd, "x", 1) == 1);
}

static void both_kept(void)
{
	char two[3] = "";
	EQUAL(read(fd, two, 2), 2);
	TRUE(!strcmp(two, "45"));
	EQUAL(pwrite(fd, "y", 1, 0), 1);
	has("data", "y12x456789");
}

static DIR *listing;
static char seen[512][64];
static int entries;

static void directory_read(void)
{
	MUST(!mkdir(path("many"), 0700));
	for (int i = 0; i < 300; i++) {
		char name[32];
		snprintf(name, sizeof name, "many/%d", i);
		close(named(name, O_WRONLY));
	}
	listing = opendir(path("many"));
	MUST(listing);
	for (int i = 0; i < 100; i++)
		strcpy(seen[entries++], readdir(listing)->d_name);
}

static void directory_read_kept(void)
{
	struct dirent *entry;
	while ((entry = readdir(listing)) && entries < 512) {
		for (int i = 0; i < entries; i++)
			TRUE(strcmp(seen[i], entry->d_name));
		strcpy(seen[entries++], entry->d_name);
	}
	EQUAL(entries, 302);
	EQUAL(openat(dirfd(listing), "7", O_RDONLY) >= 0, 1);
}

static void path_only(void)
{
	text_file("there", "text");
	fd = open(path("there"), O_PATH);
	MUST(fd >= 0);
}

static void path_only_kept(void)
{
	char byte, name[64];
	EQUAL(read(fd, &byte, 1), -1);
	EQUAL(errno, EBADF);
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	int again = open(name, O_RDONLY);
	EQUAL(read(again, &byte, 1), 1);
	EQUAL(byte, 't');
}

static void path_of_directory(void)
{
	fd = open("/usr", O_PATH | O_DIRECTORY);
	MUST(fd >= 0);
}

static void path_of_directory_kept(void)
{
	struct stat state;
	TRUE(!fstatat(fd, "bin", &state, 0) && S_ISDIR(state.st_mode));
}

static void temporary(void)
{
	fd = open(directory, O_TMPFILE | O_RDWR, 0600);
	HERE(fd >= 0);
	MUST(write(fd, "nameless", 8) == 8);
}

static void temporary_kept(void)
{
	char text[9] = "";
	EQUAL(pread(fd, text, 8, 0), 8);
	TRUE(!strcmp(text, "nameless"));
	EQUAL(lseek(fd, 0, SEEK_CUR), 8);
}

static void deleted(void)
{
	fd = named("gone", O_RDWR);
	MUST(write(fd, "content", 7) == 7 && !unlink(path("gone")));
}

static void deleted_kept(void)
{
	char text[8] = "";
	EQUAL(pread(fd, text, 7, 0), 7);
	TRUE(!strcmp(text, "content"));
	EQUAL(write(fd, "!", 1), 1);
	struct stat state;
	TRUE(!fstat(fd, &state) && state.st_nlink == 0 && state.st_size == 8);
}

static void replaced(void)
{
	text_file("conf", "old");
	fd = open(path("conf"), O_RDONLY);
	text_file("conf.new", "new");
	MUST(!rename(path("conf.new"), path("conf")));
}

static void replaced_kept(void)
{
	char text[4] = "";
	EQUAL(read(fd, text, 3), 3);
	TRUE(!strcmp(text, "old"));
}

static void duplicates(void)
{
	reading();
	second = dup(fd);
	MUST(second >= 0 && dup2(fd, 900) == 900);
}

static void duplicates_kept(void)
{
	char byte = 0;
	EQUAL(read(900, &byte, 1), 1);
	EQUAL(byte, '4');
	EQUAL(read(second, &byte, 1), 1);
	EQUAL(byte, '5');
	EQUAL(lseek(fd, 0, SEEK_CUR), 6);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(second, F_GETFD), 0);
}

static void apart(void)
{
	reading();
	second = open(path("read"), O_RDONLY);
}

static void apart_kept(void)
{
	EQUAL(lseek(fd, 0, SEEK_CUR), 4);
	EQUAL(lseek(second, 0, SEEK_CUR), 0);
}

static void devices(void)
{
	fd = open("/dev/null", O_RDWR);
	second = open("/dev/urandom", O_RDONLY);
	ends[0] = open("/dev/zero", O_RDONLY);
	ends[1] = open("/dev/full", O_WRONLY);
	MUST(fd >= 0 && second >= 0 && ends[0] >= 0 && ends[1] >= 0);
}

static void devices_kept(void)
{
	char bytes[64] = "zeros", none[64] = "";
	EQUAL(write(fd, "x", 1), 1);
	EQUAL(read(fd, bytes, 1), 0);
	EQUAL(read(ends[0], bytes, 64), 64);
	TRUE(!memcmp(bytes, none, 64));
	EQUAL(read(second, bytes, 64), 64);
	TRUE(memcmp(bytes, none, 64));
	EQUAL(write(ends[1], "x", 1), -1);
	EQUAL(errno, ENOSPC);
}

static void terminal(void)
{
	fd = open("/dev/tty", O_RDWR);
	HERE(fd >= 0);
}

static void terminal_kept(void)
{
	TRUE(isatty(fd));
}

static void pseudo_terminal(void)
{
	fd = posix_openpt(O_RDWR | O_NOCTTY);
	HERE(fd >= 0);
	MUST(!grantpt(fd) && !unlockpt(fd));
	second = open(ptsname(fd), O_RDWR | O_NOCTTY);
	MUST(second >= 0);
}

static void pseudo_terminal_kept(void)
{
	char text[8] = "";
	EQUAL(write(second, "to\n", 3), 3);
	TRUE(read(fd, text, 8) > 0 && !strncmp(text, "to", 2));
}

static void of_proc(void)
{
	fd = open("/proc/self/status", O_RDONLY);
	second = open("/proc/meminfo", O_RDONLY);
	MUST(fd >= 0 && second >= 0);
}

static void of_proc_kept(void)
{
	char text[4096] = "";
	TRUE(read(fd, text, sizeof text - 1) > 0);
	char *at = strstr(text, "\nPid:");
	TRUE(at && atoi(at + 5) == getpid());
	TRUE(read(second, text, sizeof text - 1) > 0 && !strncmp(text, "MemTotal", 8));
}

static void of_sys(void)
{
	fd = open("/sys/devices/system/cpu/online", O_RDONLY);
	HERE(fd >= 0);
}

static void of_sys_kept(void)
{
	char text[64];
	TRUE(read(fd, text, sizeof text) > 0 && text[0] == '0');
}

static void pipe_empty(void)
{
	MUST(!pipe2(ends, O_CLOEXEC));
}

static void pipe_kept(void)
{
	char text[8] = "";
	EQUAL(write(ends[1], "pipe", 4), 4);
	EQUAL(read(ends[0], text, 8), 4);
	TRUE(!strcmp(text, "pipe"));
	close(ends[1]);
	EQUAL(read(ends[0], text, 8), 0);
}

static void pipe_full(void)
{
	char byte = 0;
	MUST(!pipe2(ends, O_NONBLOCK));
	while (write(ends[1], &byte, 1) == 1)
		byte++;
	MUST(errno == EAGAIN);
}

static void pipe_full_kept(void)
{
	unsigned char got;
	int total = 0;
	EQUAL(write(ends[1], "x", 1), -1);
	EQUAL(errno, EAGAIN);
	while (read(ends[0], &got, 1) == 1)
		if (got != (unsigned char)total++)
			failed("byte %d is %d", total - 1, got);
	EQUAL(total, 65536);
}

static void pipe_large(void)
{
	MUST(!pipe(ends));
	HERE(fcntl(ends[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18);
	MUST(write(ends[1], "waits", 5) == 5);
}

static void pipe_large_kept(void)
{
	char text[8] = "";
	EQUAL(fcntl(ends[0], F_GETPIPE_SZ), 1 << 18);
	EQUAL(read(ends[0], text, 8), 5);
	TRUE(!strcmp(text, "waits"));
}

static void pipe_of_packets(void)
{
	MUST(!pipe2(ends, O_DIRECT));
	MUST(write(ends[1], "one", 3) == 3 && write(ends[1], "two", 3) == 3);
}

static void pipe_of_packets_kept(void)
{
	char text[8] = "";
	EQUAL(read(ends[0], text, 8), 3);
	TRUE(!strcmp(text, "one"));
	EQUAL(read(ends[0], text, 8), 3);
}

static void pipe_ended(void)
{
	MUST(!pipe(ends) && write(ends[1], "last", 4) == 4 && !close(ends[1]));
}

static void pipe_ended_kept(void)
{
	char text[8] = "";
	EQUAL(read(ends[0], text, 8), 4);
	EQUAL(read(ends[0], text, 8), 0);
}

static void pipe_unread(void)
{
	signal(SIGPIPE, SIG_IGN);
	MUST(!pipe(ends) && !close(ends[0]));
}

static void pipe_unread_kept(void)
{
	EQUAL(write(ends[1], "x", 1), -1);
	EQUAL(errno, EPIPE);
}

static void fifo(void)
{
	MUST(!mkfifo(path("fifo"), 0600));
	fd = open(path("fifo"), O_RDWR);
	MUST(fd >= 0 && write(fd, "first", 5) == 5);
}

static void fifo_kept(void)
{
	char text[8] = "";
	int writer = open(path("fifo"), O_WRONLY | O_NONBLOCK);
	EQUAL(write(writer, "in", 2), 2);
	EQUAL(read(fd, text, 7), 7);
	TRUE(!strcmp(text, "firstin"));
}

static void counter(void)
{
	fd = eventfd(41, EFD_NONBLOCK | EFD_CLOEXEC);
	MUST(fd >= 0 && !eventfd_write(fd, 1));
}

static void counter_kept(void)
{
	eventfd_t value = 0;
	TRUE(!eventfd_read(fd, &value));
	EQUAL(value, 42);
	EQUAL(eventfd_read(fd, &value), -1);
	EQUAL(errno, EAGAIN);
}

static void semaphore(void)
{
	fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	MUST(fd >= 0);
}

static void semaphore_kept(void)
{
	eventfd_t value = 0;
	for (int i = 0; i < 2; i++) {
		TRUE(!eventfd_read(fd, &value));
		EQUAL(value, 1);
	}
	EQUAL(eventfd_read(fd, &value), -1);
}

static int watch(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int happens(int epoll, struct epoll_event *event)
{
	memset(event, 0, sizeof *event);
	return epoll_wait(epoll, event, 1, 0);
}

static void epolls(void)
{
	fd = epoll_create1(EPOLL_CLOEXEC);
	second = eventfd(0, 0);
	MUST(!watch(fd, second, EPOLLIN, 0xfedcba9876543210));
	MUST(!pipe(ends) && !watch(fd, ends[0], EPOLLIN | EPOLLRDHUP, 7));
}

static void epolls_kept(void)
{
	struct epoll_event event;
	EQUAL(happens(fd, &event), 0);
	eventfd_write(second, 1);
	EQUAL(happens(fd, &event), 1);
	TRUE(event.data.u64 == 0xfedcba9876543210 && event.events == EPOLLIN);
	TRUE(!epoll_ctl(fd, EPOLL_CTL_DEL, second, NULL));
	EQUAL(write(ends[1], "x", 1), 1);
	EQUAL(happens(fd, &event), 1);
	EQUAL(event.data.u64, 7);
	EQUAL(watch(fd, ends[0], EPOLLIN, 7), -1);
}

static void epoll_nested(void)
{
	fd = epoll_create1(0);
	second = epoll_create1(0);
	ends[0] = eventfd(0, 0);
	MUST(!watch(second, ends[0], EPOLLIN, 1) && !watch(fd, second, EPOLLIN, 2));
}

static void epoll_nested_kept(void)
{
	struct epoll_event event;
	EQUAL(happens(fd, &event), 0);
	eventfd_write(ends[0], 1);
	EQUAL(happens(fd, &event), 1);
	EQUAL(event.data.u64, 2);
	EQUAL(happens(second, &event), 1);
	EQUAL(event.data.u64, 1);
}

static void epoll_edge(void)
{
	struct epoll_event event;
	fd = epoll_create1(0);
	second = eventfd(1, EFD_NONBLOCK);
	MUST(!watch(fd, second, EPOLLIN | EPOLLET, 3) && happens(fd, &event) == 1);
	MUST(happens(fd, &event) == 0);
}

/* An edge too many is no harm (man 7 epoll); one too few would be. */
static void epoll_edge_kept(void)
{
	struct epoll_event event;
	happens(fd, &event);
	EQUAL(happens(fd, &event), 0);
	eventfd_write(second, 1);
	EQUAL(happens(fd, &event), 1);
	EQUAL(happens(fd, &event), 0);
}

static void epoll_oneshot(void)
{
	struct epoll_event event;
	fd = epoll_create1(0);
	second = eventfd(1, 0);
	MUST(!watch(fd, second, EPOLLIN | EPOLLONESHOT, 4) && happens(fd, &event) == 1);
}

static void epoll_oneshot_kept(void)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5};
	EQUAL(happens(fd, &event), 0);
	event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5};
	TRUE(!epoll_ctl(fd, EPOLL_CTL_MOD, second, &event));
	EQUAL(happens(fd, &event), 1);
	EQUAL(event.data.u64, 5);
	EQUAL(happens(fd, &event), 0);
}

static void epoll_closed(void)
{
	fd = epoll_create1(0);
	second = eventfd(0, 0);
	int number = dup(second);
	MUST(!watch(fd, number, EPOLLIN, 6) && !close(number));
}

static void epoll_closed_kept(void)
{
	struct epoll_event event;
	eventfd_write(second, 1);
	EQUAL(happens(fd, &event), 1);
	EQUAL(event.data.u64, 6);
}

static void epoll_wait_work(struct worker *worker)
{
	struct epoll_event event;
	do {
		worker->result = epoll_wait(fd, &event, 1, -1);
	} while (with_criu && worker->result < 0 && errno == EINTR);
	worker->error = event.data.u32;
}

static void epoll_waited(void)
{
	epolls();
	start(&worker, epoll_wait_work);
}

static void epoll_waited_kept(void)
{
	TRUE(!worker.done);
	EQUAL(write(ends[1], "x", 1), 1);
	finish(&worker);
	EQUAL(worker.result, 1);
	EQUAL(worker.error, 7);
}

static void notified(void)
{
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	HERE(fd >= 0);
	MUST(!mkdir(path("watched"), 0700));
	MUST(inotify_add_watch(fd, path("watched"), IN_CREATE) == 1);
}

static void notified_kept(void)
{
	char buffer[4096];
	text_file("watched/made", "");
	struct inotify_event *event = (void *)buffer;
	TRUE(read(fd, buffer, sizeof buffer) > 0);
	EQUAL(event->wd, 1);
	TRUE(!strcmp(event->name, "made"));
}

/* Numbers with gaps, a file, a directory below. */
static void notified_more(void)
{
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	HERE(fd >= 0);
	MUST(!mkdir(path("below"), 0700));
	text_file("below/file", "x");
	char drop[64];
	for (int i = 1; i < 6; i++) {
		/* Nothing that the test itself does there. */
		MUST(inotify_add_watch(fd, directory, IN_DELETE_SELF) == i);
		MUST(!inotify_rm_watch(fd, i) && read(fd, drop, sizeof drop) == 16);
	}
	MUST(inotify_add_watch(fd, path("below/file"), IN_ATTRIB) == 6);
	MUST(inotify_add_watch(fd, path("below"), IN_CREATE | IN_EXCL_UNLINK) == 7);
	MUST(inotify_add_watch(fd, "/", IN_DELETE_SELF) == 8);
	MUST(!inotify_rm_watch(fd, 7) && read(fd, drop, sizeof drop) == 16);
	MUST(inotify_add_watch(fd, path("below"), IN_CREATE | IN_EXCL_UNLINK) == 9);
}

static void notified_more_kept(void)
{
	char buffer[400];
	struct inotify_event *event = (void *)buffer;
	TRUE(!chmod(path("below/file"), 0600));
	EQUAL(read(fd, buffer, sizeof buffer), sizeof *event);
	EQUAL(event->wd, 6);
	EQUAL(event->mask, IN_ATTRIB);
	text_file("below/new", "");
	TRUE(read(fd, buffer, sizeof buffer) > 0);
	EQUAL(event->wd, 9);
	TRUE(!strcmp(event->name, "new"));
	EQUAL(inotify_add_watch(fd, directory, IN_DELETE_SELF), 10);
}

/* For one event. */
static void notified_once(void)
{
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	HERE(fd >= 0);
	text_file("file", "x");
	MUST(inotify_add_watch(fd, path("file"), IN_MODIFY | IN_ONESHOT) == 1);
}

static void notified_once_kept(void)
{
	struct inotify_event event = {0};
	text_file("file", "more");
	EQUAL(read(fd, &event, sizeof event), sizeof event);
	EQUAL(event.mask, IN_MODIFY);
	EQUAL(read(fd, &event, sizeof event), sizeof event);
	EQUAL(event.mask, IN_IGNORED);
	TRUE(read(fd, &event, sizeof event) < 0 && errno == EAGAIN);
}

/* Of what was told nobody has read yet. */
static void notified_waiting(void)
{
	notified();
	text_file("watched/early", "");
}

static void notified_waiting_kept(void)
{
	char buffer[400];
	struct inotify_event *event = (void *)buffer;
	TRUE(read(fd, buffer, sizeof buffer) > 0);
	TRUE(!strcmp(event->name, "early"));
}

static void flocked(void)
{
	fd = named("lock", O_RDWR);
	MUST(!flock(fd, LOCK_EX));
}

static void flocked_kept(void)
{
	int other = open(path("lock"), O_RDWR);
	EQUAL(flock(other, LOCK_EX | LOCK_NB), -1);
	EQUAL(errno, EWOULDBLOCK);
	TRUE(!flock(fd, LOCK_UN) && !flock(other, LOCK_EX | LOCK_NB));
}

static void posix_locked(void)
{
	text_file("lock", "0123456789");
	fd = open(path("lock"), O_RDWR);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
	MUST(!fcntl(fd, F_SETLK, &lock));
}

static void posix_locked_kept(void)
{
	int status;
	pid_t child = fork();
	if (!child) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 4, .l_len = 9};
		_exit(fcntl(fd, F_GETLK, &lock) || lock.l_type != F_WRLCK ||
		      lock.l_start != 2 || lock.l_len != 3 || lock.l_pid != getppid());
	}
	TRUE(waitpid(child, &status, 0) == child);
	EQUAL(status, 0);
}

static void ofd_locked(void)
{
	fd = named("lock", O_RDWR);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	MUST(!fcntl(fd, F_OFD_SETLK, &lock));
}

static void ofd_locked_kept(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int other = open(path("lock"), O_RDWR);
	EQUAL(fcntl(other, F_OFD_SETLK, &lock), -1);
}

static void leased(void)
{
	text_file("leased", "x");
	fd = open(path("leased"), O_RDONLY);
	HERE(!fcntl(fd, F_SETLEASE, F_RDLCK));
}

static void leased_kept(void)
{
	EQUAL(fcntl(fd, F_GETLEASE), F_RDLCK);
}

static void signalled(void)
{
	MUST(!pipe(ends) && !fcntl(ends[0], F_SETOWN, getpid()));
	signal(SIGIO, SIG_IGN);
	MUST(!fcntl(ends[0], F_SETFL, O_ASYNC));
}

static void signalled_kept(void)
{
	EQUAL(fcntl(ends[0], F_GETFL) & O_ASYNC, O_ASYNC);
	EQUAL(fcntl(ends[0], F_GETOWN), getpid());
}

static void owned(void)
{
	MUST(!pipe(ends) && !fcntl(ends[0], F_SETOWN, getpid()));
	MUST(!fcntl(ends[0], F_SETSIG, SIGRTMIN));
}

static void owned_kept(void)
{
	EQUAL(fcntl(ends[0], F_GETOWN), getpid());
	EQUAL(fcntl(ends[0], F_GETSIG), SIGRTMIN);
}

static void memory_file(void)
{
	fd = memfd_create("open", MFD_ALLOW_SEALING);
	MUST(fd >= 0 && write(fd, "in memory", 9) == 9);
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
}

static void memory_file_kept(void)
{
	char text[10] = "";
	EQUAL(pread(fd, text, 9, 0), 9);
	TRUE(!strcmp(text, "in memory"));
	EQUAL(lseek(fd, 0, SEEK_CUR), 9);
	EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_GROW);
}

static void fanotified(void)
{
	fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
	HERE(fd >= 0);
	MUST(!fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, directory));
}

/* What cannot be carried at all: it is enough that it is still there. */
static void there(void)
{
	TRUE(fcntl(fd, F_GETFD) >= 0);
}

static void ring(void)
{
	struct io_uring_params parameters = {};
	fd = syscall(SYS_io_uring_setup, 4, &parameters);
	HERE(fd >= 0);
}

/* With a thread of the kernel's among ours. */
static void polled_ring(void)
{
	struct io_uring_params parameters = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1000};
	fd = syscall(SYS_io_uring_setup, 4, &parameters);
	HERE(fd >= 0);
}

static void faults(void)
{
	fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	HERE(fd >= 0);
}

static void map_of_bpf(void)
{
	union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4,
				     .value_size = 4, .max_entries = 1};
	fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
	HERE(fd >= 0);
}

static void events(void)
{
	struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes,
					     .config = PERF_COUNT_SW_TASK_CLOCK};
	fd = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
	HERE(fd >= 0);
}

static void of_process(void)
{
	fd = syscall(SYS_pidfd_open, getpid(), 0);
	HERE(fd >= 0);
}

static void of_namespace(void)
{
	fd = open("/proc/self/ns/net", O_RDONLY);
	MUST(fd >= 0);
}

static void rules(void)
{
	struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_FIFO};
	fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
	HERE(fd >= 0);
}

static void queue(void)
{
	char name[64];
	snprintf(name, sizeof name, "/conform-%d", getpid());
	struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 8};
	fd = mq_open(name, O_CREAT | O_RDWR | O_NONBLOCK, 0600, &attributes);
	HERE(fd >= 0);
	mq_unlink(name);
	MUST(!mq_send(fd, "message", 8, 3));
}

static void queue_kept(void)
{
	char text[8] = "";
	unsigned priority = 0;
	EQUAL(mq_receive(fd, text, 8, &priority), 8);
	EQUAL(priority, 3);
}

static void of_filesystem(void)
{
	fd = syscall(SYS_fsopen, "tmpfs", 0);
	HERE(fd >= 0);
}

static void closed_input(void)
{
	close(0);
	fd = open("/dev/null", O_RDONLY);
	MUST(fd == 0 && !close(0));
}

static void closed_input_kept(void)
{
	EQUAL(fcntl(0, F_GETFD), -1);
	EQUAL(open("/dev/null", O_RDONLY), 0);
}

static void direct(void)
{
	text_file("direct", "x");
	fd = open(path("direct"), O_RDONLY | O_DIRECT | O_NOATIME);
	HERE(fd >= 0);
}

static void direct_kept(void)
{
	EQUAL(fcntl(fd, F_GETFL) & (O_DIRECT | O_NOATIME), O_DIRECT | O_NOATIME);
}

static const struct feature features[] = {
	{"file", "file for reading, with its offset", reading, reading_kept},
	{"file-append", "log opened for appending", appending, appending_kept},
	{"file-rotated", "log that was renamed while it is open", appending_gone, appending_gone_kept},
	{"file-stream", "file that it writes from the start", streaming, streaming_kept},
	{"file-rdwr", "file for reading and writing", both, both_kept},
	{"file-direct", "O_DIRECT, O_NOATIME", direct, direct_kept},
	{"directory", "directory, half read", directory_read, directory_read_kept},
	{"o-path", "file by O_PATH", path_only, path_only_kept},
	{"o-path-dir", "directory by O_PATH", path_of_directory, path_of_directory_kept},
	{"o-tmpfile", "file without a name (O_TMPFILE)", temporary, temporary_kept},
	{"deleted-file", "deleted file", deleted, deleted_kept},
	{"replaced-file", "file that was replaced by another", replaced, replaced_kept},
	{"dup", "duplicates share an offset", duplicates, duplicates_kept},
	{"apart", "one file opened twice", apart, apart_kept},
	{"devices", "/dev/null, zero, full, urandom", devices, devices_kept},
	{"dev-tty", "/dev/tty", terminal, terminal_kept},
	{"pty", "pseudo terminal, both sides", pseudo_terminal, pseudo_terminal_kept},
	{"proc-files", "files of /proc", of_proc, of_proc_kept},
	{"sys-files", "files of /sys", of_sys, of_sys_kept},
	{"closed-stdin", "standard input closed", closed_input, closed_input_kept},
	{"pipe", "pipe, empty", pipe_empty, pipe_kept},
	{"pipe-full", "pipe, full, not blocking", pipe_full, pipe_full_kept},
	{"pipe-large", "pipe with another capacity", pipe_large, pipe_large_kept},
	{"pipe-packets", "pipe of packets", pipe_of_packets, pipe_of_packets_kept},
	{"pipe-ended", "pipe whose writer is gone", pipe_ended, pipe_ended_kept},
	{"pipe-unread", "pipe whose reader is gone", pipe_unread, pipe_unread_kept},
	{"fifo", "FIFO with content", fifo, fifo_kept},
	{"eventfd", "eventfd", counter, counter_kept},
	{"eventfd-semaphore", "eventfd as a semaphore", semaphore, semaphore_kept},
	{"epoll", "epoll", epolls, epolls_kept},
	{"epoll-nested", "epoll that watches an epoll", epoll_nested, epoll_nested_kept},
	{"epoll-edge", "epoll, edge-triggered", epoll_edge, epoll_edge_kept},
	{"epoll-oneshot", "epoll, one shot, spent", epoll_oneshot, epoll_oneshot_kept},
	{"epoll-closed", "epoll that watches a closed duplicate", epoll_closed, epoll_closed_kept},
	{"epoll-waited", "a thread in epoll_wait", epoll_waited, epoll_waited_kept},
	{"inotify", "inotify", notified, notified_kept},
	{"inotify-watches", "inotify that watches several", notified_more, notified_more_kept},
	{"inotify-once", "inotify that watches for one event", notified_once, notified_once_kept},
	{"inotify-waiting", "inotify with events", notified_waiting, notified_waiting_kept},
	{"fanotify", "fanotify", fanotified, there},
	{"flock", "lock of flock", flocked, flocked_kept},
	{"posix-lock", "POSIX lock", posix_locked, posix_locked_kept},
	{"ofd-lock", "open file description lock", ofd_locked, ofd_locked_kept},
	{"lease", "lease", leased, leased_kept},
	{"o-async", "signal-driven descriptor (O_ASYNC)", signalled, signalled_kept},
	{"f-setown", "owner and signal of a descriptor", owned, owned_kept},
	{"memfd", "memfd with a seal", memory_file, memory_file_kept},
	{"mqueue", "POSIX message queue", queue, queue_kept},
	{"io-uring", "io_uring", ring, there},
	{"io-uring-polled", "io_uring with a thread of the kernel's", polled_ring, there},
	{"userfaultfd-open", "userfaultfd, not in use", faults, there},
	{"bpf", "BPF map", map_of_bpf, there},
	{"perf", "perf event", events, there},
	{"pidfd", "pidfd", of_process, there},
	{"namespace-fd", "namespace", of_namespace, there},
	{"landlock-fd", "Landlock ruleset", rules, there},
	{"fscontext", "file system context (fsopen)", of_filesystem, there},
	{NULL},
};
