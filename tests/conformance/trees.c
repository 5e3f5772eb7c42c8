/* Process trees. */
#include "conform.h"
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static pid_t child;
static int ends[2], back[2];

/* A child that answers each byte with its pid, parent, session and group. */
struct answer {
	pid_t pid, parent, session, group;
};

static void serve(void)
{
	char byte;
	while (read(ends[0], &byte, 1) == 1) {
		struct answer answer = {getpid(), getppid(), getsid(0), getpgrp()};
		if (write(back[1], &answer, sizeof answer) != sizeof answer)
			break;
	}
	_exit(7);
}

static void pipes(void)
{
	MUST(!pipe(ends) && !pipe(back));
}

static pid_t born(void (*first)(void))
{
	pid_t pid = fork();
	MUST(pid >= 0);
	if (!pid) {
		close(ends[1]);
		close(back[0]);
		if (first)
			first();
		serve();
	}
	return pid;
}

static struct answer ask(void)
{
	struct answer answer = {0};
	EQUAL(write(ends[1], "?", 1), 1);
	EQUAL(read(back[0], &answer, sizeof answer), sizeof answer);
	return answer;
}

static void ends_well(pid_t pid)
{
	int status = 0;
	close(ends[1]);
	EQUAL(waitpid(pid, &status, 0), pid);
	EQUAL(WEXITSTATUS(status), 7);
}

static void one(void)
{
	pipes();
	child = born(NULL);
}

static void one_kept(void)
{
	struct answer answer = ask();
	EQUAL(answer.pid, child);
	EQUAL(answer.parent, getpid());
	EQUAL(answer.session, getsid(0));
	EQUAL(answer.group, getpgrp());
	ends_well(child);
}

static void grandchild_first(void)
{
	pid_t pid = fork();
	if (!pid)
		serve();
	close(ends[0]);
	int status;
	waitpid(pid, &status, 0);
	_exit(WEXITSTATUS(status));
}

static void grandchild(void)
{
	pipes();
	child = born(grandchild_first);
	pause_ms(5);
}

static void grandchild_kept(void)
{
	struct answer answer = ask();
	TRUE(answer.pid != child);
	EQUAL(answer.parent, child);
	ends_well(child);
}

static void own_session_first(void)
{
	setsid();
}

static void own_session(void)
{
	pipes();
	child = born(own_session_first);
	pause_ms(5);
}

static void own_session_kept(void)
{
	struct answer answer = ask();
	EQUAL(answer.session, child);
	EQUAL(answer.group, child);
	ends_well(child);
}

static void own_group(void)
{
	pipes();
	child = born(NULL);
	MUST(!setpgid(child, child));
}

static void own_group_kept(void)
{
	struct answer answer = ask();
	EQUAL(answer.session, getsid(0));
	EQUAL(answer.group, child);
	TRUE(!kill(-child, SIGTERM));
	int status;
	EQUAL(waitpid(-child, &status, 0), child);
	EQUAL(WTERMSIG(status), SIGTERM);
}

static void zombie(void)
{
	child = fork();
	if (!child)
		_exit(42);
	siginfo_t info;
	MUST(!waitid(P_PID, child, &info, WEXITED | WNOWAIT));
}

static void zombie_kept(void)
{
	int status = 0;
	EQUAL(waitpid(child, &status, WNOHANG), child);
	EQUAL(WEXITSTATUS(status), 42);
}

static void killed(void)
{
	child = fork();
	if (!child)
		for (;;)
			pause();
	kill(child, SIGUSR1);
	siginfo_t info;
	MUST(!waitid(P_PID, child, &info, WEXITED | WNOWAIT));
}

static void killed_kept(void)
{
	int status = 0;
	EQUAL(waitpid(child, &status, WNOHANG), child);
	EQUAL(WTERMSIG(status), SIGUSR1);
}

static void stopped(void)
{
	pipes();
	child = born(NULL);
	kill(child, SIGSTOP);
	MUST(waitpid(child, NULL, WUNTRACED) == child);
}

static void stopped_kept(void)
{
	TRUE(!kill(child, SIGCONT));
	one_kept();
}

static int listener, counter;
static struct sockaddr_storage address;
static socklen_t length = sizeof address;

static void accept_first(void)
{
	for (;;) {
		int client = accept(listener, NULL, NULL);
		pid_t own = getpid();
		if (client < 0 || write(client, &own, sizeof own) != sizeof own)
			_exit(8);
		close(client);
	}
}

static pid_t workers[4];

static void prefork(void)
{
	listener = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!listen(listener, 9) && !getsockname(listener, (void *)&address, &length));
	pipes();
	for (int i = 0; i < 4; i++)
		workers[i] = born(accept_first);
}

static void prefork_kept(void)
{
	for (int i = 0; i < 8; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0), known = 0;
		pid_t who = 0;
		TRUE(!connect(client, (void *)&address, length));
		EQUAL(read(client, &who, sizeof who), sizeof who);
		for (int j = 0; j < 4; j++)
			known |= who == workers[j];
		TRUE(known);
		close(client);
	}
	for (int i = 0; i < 4; i++) {
		int status;
		TRUE(!kill(workers[i], SIGTERM) && waitpid(workers[i], &status, 0) == workers[i]);
		EQUAL(WTERMSIG(status), SIGTERM);
	}
}

static volatile int *shared;

static void shared_first(void)
{
	while (!*shared)
		pause_ms(2);
	*shared = getpid();
	_exit(7);
}

static void shared_memory(void)
{
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(shared != MAP_FAILED);
	pipes();
	child = born(shared_first);
}

static void shared_memory_kept(void)
{
	*shared = 1;
	ends_well(child);
	EQUAL(*shared, child);
}

static void counting_first(void)
{
	eventfd_t value;
	eventfd_read(counter, &value);
	_exit(value == 5 ? 7 : 8);
}

static void shared_eventfd(void)
{
	counter = eventfd(0, 0);
	pipes();
	child = born(counting_first);
	pause_ms(5);
}

static void shared_eventfd_kept(void)
{
	eventfd_write(counter, 5);
	ends_well(child);
}

static void paired_first(void)
{
	char byte = 0;
	_exit(read(back[1], &byte, 1) == 1 && byte == 'p' ? 7 : 8);
}

static void paired(void)
{
	pipes();
	close(back[0]);
	close(back[1]);
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, back));
	child = born(paired_first);
	close(back[1]);
	pause_ms(5);
}

static void paired_kept(void)
{
	EQUAL(write(back[0], "p", 1), 1);
	ends_well(child);
}

static struct worker worker;

static void waiting_work(struct worker *worker)
{
	int status;
	do {
		worker->result = waitpid(child, &status, 0);
	} while (with_criu && worker->result < 0 && errno == EINTR);
	worker->error = WEXITSTATUS(status);
}

static void waiting(void)
{
	one();
	start(&worker, waiting_work);
}

static void waiting_kept(void)
{
	EQUAL(ask().pid, child);
	close(ends[1]);
	finish(&worker);
	EQUAL(worker.result, child);
	EQUAL(worker.error, 7);
}

static void adopted(void)
{
	pipes();
	MUST(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t between = fork();
	if (!between) {
		born(NULL);
		_exit(0);
	}
	MUST(waitpid(between, NULL, 0) == between);
	child = ask().pid;
}

static const struct feature features[] = {
	{"child", "a child", one, one_kept},
	{"grandchild", "a child of a child", grandchild, grandchild_kept},
	{"child-session", "a child with a session of its own", own_session, own_session_kept},
	{"child-group", "a child with a group of its own", own_group, own_group_kept},
	{"zombie", "a child that has ended, not waited for", zombie, zombie_kept},
	{"zombie-killed", "a child that was killed, not waited for", killed, killed_kept},
	{"child-stopped", "a stopped child", stopped, stopped_kept},
	{"child-adopted", "an orphan that it has adopted", adopted, one_kept},
	{"waitpid", "a thread that waits for a child", waiting, waiting_kept},
	{"prefork", "four children that accept from one socket", prefork, prefork_kept},
	{"child-memory", "memory shared with a child", shared_memory, shared_memory_kept},
	{"child-eventfd", "an eventfd shared with a child", shared_eventfd, shared_eventfd_kept},
	{"child-socketpair", "a socket pair with a child", paired, paired_kept},
	{NULL},
};
