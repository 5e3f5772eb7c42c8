/* Descriptors of every kind that an image holds, with their state. */
#include "harness.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>

enum {
	READER = 30, READER_AGAIN = 77, UPDATER = 31, APPENDER = 32, STREAM = 33, DIRECTORY = 34,
	COUNTER = 40, SEMAPHORE, TIMER, EXPIRED, REPEATED, SIGNALS, EPOLL, OUTER_EPOLL,
	PIPE_OUT = 50, PIPE_IN, PIPE_IN_AGAIN, SWAPPED_IN = 60, SWAPPED_OUT, FULL_OUT, FULL_IN,
	LISTENER = 70, UNCONNECTED = 71, FLOCKED = 80, LOCKED = 81, NOTHING = 90,
	FAR = 900,
};

/* Moves a descriptor to its number. */
static void move(int fd, int number, int flags)
{
	MUST(fd >= 0 && dup3(fd, number, flags) == number);
	close(fd);
}

static int create(const char *name, int flags)
{
	int fd = open(path(name), O_CREAT | flags, 0640);
	MUST(fd >= 0 && write(fd, "0123456789", 10) == 10);
	return fd;
}

static void watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = 0xabcd000000000000 + fd};
	MUST(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static void timers(void)
{
	struct itimerspec far = {{500, 0}, {1000, 0}}, once = {{0, 0}, {0, 1}},
			  often = {{0, 1000000}, {0, 1}};
	move(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), TIMER, O_CLOEXEC);
	MUST(!timerfd_settime(TIMER, 0, &far, NULL));
	move(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), EXPIRED, 0);
	MUST(!timerfd_settime(EXPIRED, 0, &once, NULL));
	move(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK), REPEATED, 0);
	MUST(!timerfd_settime(REPEATED, 0, &often, NULL));
	pause_ms(20);
}

static void sockets(void)
{
	int yes = 1, secs = 33, size = 50000;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	move(socket(AF_INET, SOCK_STREAM, 0), LISTENER, O_CLOEXEC);
	MUST(!setsockopt(LISTENER, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes));
	MUST(!setsockopt(LISTENER, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes));
	MUST(!setsockopt(LISTENER, IPPROTO_TCP, TCP_KEEPIDLE, &secs, sizeof secs));
	MUST(!setsockopt(LISTENER, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
	MUST(!bind(LISTENER, (struct sockaddr *)&address, sizeof address) && !listen(LISTENER, 37));
	move(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), UNCONNECTED, 0);
	MUST(!setsockopt(UNCONNECTED, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes));
}

static struct sockaddr_in listening;

static void setup(void)
{
	close(create("file", O_RDWR | O_TRUNC));
	move(open(path("file"), O_RDONLY), READER, O_CLOEXEC);
	MUST(lseek(READER, 7, SEEK_SET) == 7 && dup2(READER, READER_AGAIN) == READER_AGAIN);
	move(create("update", O_RDWR | O_TRUNC), UPDATER, 0);
	MUST(lseek(UPDATER, 5, SEEK_SET) == 5);
	move(create("append", O_WRONLY | O_APPEND), APPENDER, 0);
	move(create("stream", O_WRONLY | O_TRUNC), STREAM, 0);
	move(open(path("."), O_RDONLY | O_DIRECTORY), DIRECTORY, 0);
	move(eventfd(5, EFD_NONBLOCK), COUNTER, 0);
	move(eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE), SEMAPHORE, O_CLOEXEC);
	timers();
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 3);
	MUST(!sigprocmask(SIG_BLOCK, &set, NULL));
	move(signalfd(-1, &set, SFD_NONBLOCK), SIGNALS, 0);
	/* Pipes; the second with the ends in the other order. */
	int ends[2];
	MUST(!pipe(ends));
	move(ends[0], PIPE_OUT, 0), move(ends[1], PIPE_IN, O_CLOEXEC);
	MUST(!fcntl(PIPE_OUT, F_SETFL, O_NONBLOCK) && fcntl(PIPE_IN, F_SETPIPE_SZ, 1 << 18) > 0);
	MUST(dup2(PIPE_IN, PIPE_IN_AGAIN) == PIPE_IN_AGAIN);
	MUST(!pipe2(ends, O_NONBLOCK));
	move(ends[1], SWAPPED_IN, 0), move(ends[0], SWAPPED_OUT, 0);
	/* One with something in it. */
	MUST(!pipe(ends) && write(ends[1], "waiting", 7) == 7);
	move(ends[0], FULL_OUT, 0), move(ends[1], FULL_IN, 0);
	/* The lowest numbers swapped, too: 4 reads, 3 writes. */
	MUST(!pipe(ends));
	move(ends[0], 20, 0), move(ends[1], 21, 0), move(20, 4, 0), move(21, 3, 0);
	move(epoll_create1(0), EPOLL, O_CLOEXEC);
	watch(EPOLL, PIPE_OUT, EPOLLIN | EPOLLET);
	watch(EPOLL, SWAPPED_OUT, EPOLLIN | EPOLLONESHOT);
	watch(EPOLL, 4, EPOLLIN);
	move(epoll_create1(0), OUTER_EPOLL, 0);
	watch(OUTER_EPOLL, EPOLL, EPOLLIN);
	sockets();
	socklen_t len = sizeof listening;
	MUST(!getsockname(LISTENER, (struct sockaddr *)&listening, &len));
	/* Locks on files that are open for reading. */
	close(create("flocked", O_RDWR | O_TRUNC)), close(create("locked", O_RDWR | O_TRUNC));
	move(open(path("flocked"), O_RDONLY), FLOCKED, 0);
	MUST(!flock(FLOCKED, LOCK_EX));
	move(open(path("locked"), O_RDWR), LOCKED, 0);
	struct flock lock = {.l_type = F_WRLCK, .l_start = 2, .l_len = 3};
	MUST(!fcntl(LOCKED, F_SETLK, &lock));
	move(open("/dev/null", O_RDWR), NOTHING, 0);
	MUST(dup2(READER, FAR) == FAR);
	/* As the JDK keeps one: half of a pair. */
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	close(ends[1]);
	move(ends[0], 100, 0);
}

static void files(void)
{
	char buffer[32] = "";
	EQUAL(lseek(READER, 0, SEEK_CUR), 7);
	EQUAL(read(READER, buffer, 1), 1);
	EQUAL(buffer[0], '7');
	EQUAL(lseek(READER_AGAIN, 0, SEEK_CUR), 8);
	EQUAL(lseek(FAR, 0, SEEK_CUR), 8);
	EQUAL(fcntl(READER, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(READER_AGAIN, F_GETFD), 0);
	EQUAL(lseek(UPDATER, 0, SEEK_CUR), 5);
	EQUAL(fcntl(UPDATER, F_GETFL) & O_ACCMODE, O_RDWR);
	TRUE(fcntl(APPENDER, F_GETFL) & O_APPEND);
	EQUAL(write(APPENDER, "!", 1), 1);
	EQUAL(lseek(STREAM, 0, SEEK_CUR), 10);
	EQUAL(write(STREAM, "!", 1), 1);
	struct stat stat;
	TRUE(!fstat(STREAM, &stat) && stat.st_size == 11 && (stat.st_mode & 0777) == 0640);
	TRUE(!fstat(DIRECTORY, &stat) && S_ISDIR(stat.st_mode));
	TRUE(!fstat(NOTHING, &stat) && S_ISCHR(stat.st_mode));
}

static void events(void)
{
	uint64_t count = 0;
	TRUE(read(COUNTER, &count, 8) == 8 && count == 5);
	TRUE(read(COUNTER, &count, 8) == -1 && errno == EAGAIN);
	TRUE(read(SEMAPHORE, &count, 8) == 8 && count == 1);
	TRUE(read(SEMAPHORE, &count, 8) == 8 && count == 1);
	struct itimerspec left;
	TRUE(!timerfd_gettime(TIMER, &left));
	TRUE(left.it_value.tv_sec > 900 && left.it_value.tv_sec <= 1000);
	EQUAL(left.it_interval.tv_sec, 500);
	EQUAL(fcntl(TIMER, F_GETFD), FD_CLOEXEC);
	TRUE(read(EXPIRED, &count, 8) == 8 && count == 1);
	TRUE(read(EXPIRED, &count, 8) == -1 && errno == EAGAIN);
	TRUE(read(REPEATED, &count, 8) == 8 && count >= 1);
	struct signalfd_siginfo info;
	EQUAL(kill(getpid(), SIGRTMIN + 3), 0);
	TRUE(read(SIGNALS, &info, sizeof info) == sizeof info && (int)info.ssi_signo == SIGRTMIN + 3);
	TRUE(read(SIGNALS, &info, sizeof info) == -1 && errno == EAGAIN);
}

static void pipes(void)
{
	char buffer[8];
	struct epoll_event got[8];
	EQUAL(fcntl(PIPE_OUT, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQUAL(fcntl(PIPE_IN, F_GETFL) & O_NONBLOCK, 0);
	EQUAL(fcntl(PIPE_IN, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(PIPE_IN_AGAIN, F_GETFD), 0);
	EQUAL(fcntl(PIPE_IN, F_GETPIPE_SZ), 1 << 18);
	EQUAL(epoll_wait(OUTER_EPOLL, got, 8, 0), 0);
	EQUAL(write(PIPE_IN_AGAIN, "x", 1), 1);
	EQUAL(write(SWAPPED_IN, "y", 1), 1);
	EQUAL(write(3, "z", 1), 1);
	EQUAL(epoll_wait(OUTER_EPOLL, got, 8, 0), 1);
	EQUAL(got[0].data.u64, 0xabcd000000000000 + EPOLL);
	int seen = 0, count = epoll_wait(EPOLL, got, 8, 0);
	for (int i = 0; i < count; i++)
		seen |= got[i].data.u64 == 0xabcd000000000000 + PIPE_OUT ? 1
		      : got[i].data.u64 == 0xabcd000000000000 + SWAPPED_OUT ? 2 : 4;
	EQUAL(seen, 7);
	/* Edge-triggered, and once only: the third alone comes again. */
	EQUAL(epoll_wait(EPOLL, got, 8, 0), 1);
	EQUAL(got[0].data.u64, 0xabcd000000000000 + 4);
	EQUAL(fcntl(EPOLL, F_GETFD), FD_CLOEXEC);
	TRUE(read(PIPE_OUT, buffer, 8) == 1 && buffer[0] == 'x');
	TRUE(read(SWAPPED_OUT, buffer, 8) == 1 && buffer[0] == 'y');
	TRUE(read(4, buffer, 8) == 1 && buffer[0] == 'z');
	TRUE(read(PIPE_OUT, buffer, 8) == -1 && errno == EAGAIN);
	TRUE(read(FULL_OUT, buffer, 8) == 7 && !memcmp(buffer, "waiting", 7));
	EQUAL(fcntl(FULL_IN, F_GETPIPE_SZ), 65536);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	getsockopt(fd, level, name, &value, &len);
	return value;
}

static void listens(void)
{
	struct sockaddr_in now = {0};
	socklen_t len = sizeof now;
	TRUE(!getsockname(LISTENER, (struct sockaddr *)&now, &len));
	EQUAL(now.sin_port, listening.sin_port);
	EQUAL(now.sin_addr.s_addr, listening.sin_addr.s_addr);
	EQUAL(option(LISTENER, SOL_SOCKET, SO_ACCEPTCONN), 1);
	EQUAL(option(LISTENER, SOL_SOCKET, SO_REUSEADDR), 1);
	EQUAL(option(LISTENER, IPPROTO_TCP, TCP_NODELAY), 1);
	EQUAL(option(LISTENER, IPPROTO_TCP, TCP_KEEPIDLE), 33);
	EQUAL(option(LISTENER, SOL_SOCKET, SO_RCVBUF), 100000);
	struct tcp_info info;
	len = sizeof info;
	TRUE(!getsockopt(LISTENER, IPPROTO_TCP, TCP_INFO, &info, &len));
	EQUAL(info.tcpi_sacked, 37); /* the backlog */
	int client = socket(AF_INET, SOCK_STREAM, 0);
	TRUE(!connect(client, (struct sockaddr *)&now, sizeof now));
	int server = accept(LISTENER, NULL, NULL);
	char buffer[4];
	TRUE(server >= 0 && write(client, "hi", 2) == 2 && read(server, buffer, 4) == 2);
	close(client), close(server);
	EQUAL(option(UNCONNECTED, SOL_SOCKET, SO_DOMAIN), AF_INET6);
	EQUAL(option(UNCONNECTED, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	EQUAL(fcntl(UNCONNECTED, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQUAL(read(100, buffer, 1), 0);
	EQUAL(send(100, "x", 1, MSG_NOSIGNAL), -1);
	EQUAL(errno, EPIPE);
}

/* Locks hold against others; nobody else can see them but another process. */
static void locks(void)
{
	pid_t parent = getpid(), child = fork();
	if (!child) {
		int fd = open(path("flocked"), O_RDONLY);
		struct flock lock = {.l_type = F_WRLCK};
		int other = open(path("locked"), O_RDWR);
		int held = flock(fd, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK;
		int known = !fcntl(other, F_GETLK, &lock) && lock.l_type == F_WRLCK &&
			    lock.l_start == 2 && lock.l_len == 3 && lock.l_pid == parent;
		_exit(held | known << 1);
	}
	int status;
	waitpid(child, &status, 0);
	EQUAL(WEXITSTATUS(status), 3);
}

static void verify(void)
{
	files();
	events();
	pipes();
	listens();
	locks();
	/* Nothing else is open. */
	int open_ones = 0;
	for (int fd = 3; fd < 2000; fd++)
		open_ones += fcntl(fd, F_GETFD) >= 0;
	EQUAL(open_ones, 30);
}
