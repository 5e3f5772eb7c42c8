/* A tree of processes: sessions, groups, ended children, threads in children,
 * what they have open together. */
#include "harness.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum {
	FILE_FD = 40, EVENT, EPOLL, ANSWER_OUT, ANSWER_IN, LONELY,
	COMMANDS = 60, /* one reading end for each child */
	ORDERS = 90, /* and one writing end */
};

enum kind { THREADED, LEADER, EARLY, LATE, GROUP, JOINS, MORTAL, KINDS };

static pid_t root, children[KINDS], exited, killed;
static volatile sig_atomic_t ended_children;
static int ended_before;
static char pattern[PAGE] __attribute__((aligned(PAGE)));
static volatile pid_t thread_id;
static volatile int thread_go;

static void count(int signal)
{
	(void)signal;
	ended_children++;
}

static void *second(void *unused)
{
	(void)unused;
	thread_id = gettid();
	while (!thread_go)
		pause_ms(1);
	return (void *)(long)(gettid() == thread_id);
}

/* Makes the pipe by which a child is told to look. */
static void line(enum kind kind)
{
	int ends[2];
	MUST(!pipe(ends));
	MUST(dup2(ends[0], COMMANDS + kind) >= 0 && dup2(ends[1], ORDERS + kind) >= 0);
	close(ends[0]);
	close(ends[1]);
}

static void order(enum kind kind, pid_t pid)
{
	int status = -1;
	EQUAL(write(ORDERS + kind, "!", 1), 1);
	EQUAL(waitpid(pid, &status, 0), pid);
	EQUAL(status, 0);
}

static void look(enum kind kind, pid_t itself, pid_t parent)
{
	EQUAL(getpid(), itself);
	EQUAL(getppid(), parent);
	for (size_t at = 0; at < PAGE; at += 64)
		EQUAL(pattern[at], 'a' + kind);
	EQUAL(getsid(0), kind == LEADER || kind == LATE ? children[LEADER] : getsid(root));
	int signal = -1;
	EQUAL(prctl(PR_GET_PDEATHSIG, &signal), 0);
	EQUAL(signal, kind == MORTAL ? SIGTERM : 0);
	switch (kind) {
	case LEADER:
	case LATE:
		EQUAL(getpgid(0), children[LEADER]);
		break;
	case GROUP:
	case JOINS:
		EQUAL(getpgid(0), children[GROUP]);
		break;
	default:
		EQUAL(getpgid(0), getpgid(root));
	}
	if (kind == THREADED) {
		char byte = 0;
		uint64_t five = 5;
		EQUAL(read(FILE_FD, &byte, 1), 1);
		EQUAL(byte, '9');
		EQUAL(write(EVENT, &five, 8), 8);
		EQUAL(fcntl(LONELY, F_GETFD), -1);
	}
}

static void end(void)
{
	fflush(stdout);
	_exit(failures ? 3 : 0);
}

static void wait_and_look(enum kind kind)
{
	pid_t itself = getpid(), parent = getppid();
	char byte;
	failures = 0;
	memset(pattern, 'a' + kind, PAGE);
	/* That it has come so far. */
	MUST(write(ANSWER_IN, "r", 1) == 1);
	while (read(COMMANDS + kind, &byte, 1) != 1)
		;
	look(kind, itself, parent);
}

/* A child of the leader of the session. */
static pid_t grandchild(enum kind kind)
{
	line(kind);
	pid_t pid = fork();
	if (!pid) {
		wait_and_look(kind);
		end();
	}
	return pid;
}

static void live(enum kind kind)
{
	pthread_t thread;
	void *same = NULL;
	if (kind == THREADED)
		MUST(!pthread_create(&thread, NULL, second, NULL));
	if (kind == MORTAL)
		MUST(!prctl(PR_SET_PDEATHSIG, SIGTERM));
	if (kind == GROUP) {
		MUST(!setpgid(0, 0));
		children[GROUP] = getpid();
	}
	if (kind == LEADER) {
		children[EARLY] = grandchild(EARLY);
		MUST(setsid() == getpid());
		children[LEADER] = getpid();
		children[LATE] = grandchild(LATE);
	}
	wait_and_look(kind);
	if (kind == LEADER) {
		order(EARLY, children[EARLY]);
		order(LATE, children[LATE]);
	}
	if (kind == THREADED) {
		thread_go = 1;
		MUST(!pthread_join(thread, &same));
		TRUE(same);
	}
	end();
}

static void setup(void)
{
	int ends[2];
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234567890};
	struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
	siginfo_t info;
	MUST(!sigaction(SIGCHLD, &action, NULL));
	root = getpid();
	int fd = open(path("file"), O_CREAT | O_RDWR | O_TRUNC, 0600);
	MUST(fd >= 0 && write(fd, "0123456789", 10) == 10 && dup2(fd, FILE_FD) >= 0);
	close(fd);
	MUST(dup2(fd = eventfd(0, EFD_NONBLOCK), EVENT) >= 0);
	close(fd);
	MUST(dup2(fd = epoll_create1(0), EPOLL) >= 0);
	close(fd);
	MUST(!epoll_ctl(EPOLL, EPOLL_CTL_ADD, EVENT, &event));
	MUST(!pipe(ends) && dup2(ends[0], ANSWER_OUT) >= 0 && dup2(ends[1], ANSWER_IN) >= 0);
	close(ends[0]);
	close(ends[1]);
	for (enum kind kind = 0; kind < KINDS; kind++) {
		if (kind == EARLY || kind == LATE)
			continue;
		line(kind);
		if (!(children[kind] = fork()))
			live(kind);
		char byte;
		/* The one that makes others says so last. */
		for (int told = kind == LEADER ? 3 : 1; told; told--)
			MUST(read(ANSWER_OUT, &byte, 1) == 1);
		close(COMMANDS + kind);
		if (kind == JOINS)
			MUST(!setpgid(children[JOINS], children[GROUP]));
	}
	MUST(dup2(fd = eventfd(3, 0), LONELY) >= 0);
	close(fd);
	if (!(exited = fork()))
		_exit(41);
	if (!(killed = fork()))
		for (;;)
			pause();
	MUST(!kill(killed, SIGKILL));
	MUST(!waitid(P_PID, exited, &info, WEXITED | WNOWAIT));
	MUST(!waitid(P_PID, killed, &info, WEXITED | WNOWAIT));
	/* Waits in the pipe until after the restore. */
	MUST(write(ANSWER_IN, "later", 5) == 5);
	pause_ms(5);
	ended_before = ended_children;
}

static void verify(void)
{
	siginfo_t info;
	struct epoll_event event = {0};
	char text[8] = "";
	uint64_t sum = 0;
	EQUAL(ended_children, ended_before);
	EQUAL(getpid(), root);
	EQUAL(read(ANSWER_OUT, text, sizeof text), 5);
	TRUE(!strcmp(text, "later"));
	EQUAL(epoll_wait(EPOLL, &event, 1, 0), 0);
	EQUAL(lseek(FILE_FD, 9, SEEK_SET), 9);
	for (enum kind kind = 0; kind < KINDS; kind++)
		if (kind != EARLY && kind != LATE)
			order(kind, children[kind]);
	EQUAL(lseek(FILE_FD, 0, SEEK_CUR), 10);
	EQUAL(epoll_wait(EPOLL, &event, 1, 0), 1);
	EQUAL(event.data.u64, 0x1234567890);
	EQUAL(read(EVENT, &sum, 8), 8);
	EQUAL(sum, 5);
	EQUAL(epoll_ctl(EPOLL, EPOLL_CTL_DEL, EVENT, NULL), 0);
	EQUAL(read(LONELY, &sum, 8), 8);
	EQUAL(sum, 3);
	TRUE(!waitid(P_PID, exited, &info, WEXITED | WNOHANG));
	EQUAL(info.si_pid, exited);
	EQUAL(info.si_code, CLD_EXITED);
	EQUAL(info.si_status, 41);
	TRUE(!waitid(P_PID, killed, &info, WEXITED | WNOHANG));
	EQUAL(info.si_pid, killed);
	EQUAL(info.si_code, CLD_KILLED);
	EQUAL(info.si_status, SIGKILL);
	EQUAL(waitpid(-1, NULL, WNOHANG), -1);
	EQUAL(errno, ECHILD);
}
