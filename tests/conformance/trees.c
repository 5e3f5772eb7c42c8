/* Process trees. */
#include "conform.h"
#include <semaphore.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
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

/* Open in both with one offset, mapped in both, and once more for reading. */
static int memory_fd;

static void memfd_first(void)
{
	char text[4] = "";
	const char *again = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, memory_fd, PAGE);
	while (!shared[1])
		pause_ms(2);
	if (again == MAP_FAILED || strcmp(again, "second") || read(memory_fd, text, 3) != 3 ||
	    strcmp(text, "abc"))
		_exit(8);
	shared[2] = getpid();
	_exit(7);
}

static void child_memfd(void)
{
	memory_fd = memfd_create("common", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	MUST(memory_fd >= 0 && !ftruncate(memory_fd, 3 * PAGE + 5));
	MUST(pwrite(memory_fd, "second", 6, PAGE) == 6 && pwrite(memory_fd, "abc", 3, 100) == 3);
	MUST(!fcntl(memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	MUST(lseek(memory_fd, 100, SEEK_SET) == 100);
	shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	MUST(shared != MAP_FAILED);
	pipes();
	child = born(memfd_first);
	pause_ms(5);
}

static void child_memfd_kept(void)
{
	struct stat state;
	shared[1] = 1;
	ends_well(child);
	EQUAL(shared[2], child);
	/* The child has read on. */
	EQUAL(lseek(memory_fd, 0, SEEK_CUR), 103);
	TRUE(!fstat(memory_fd, &state) && state.st_size == 3 * PAGE + 5);
	EQUAL(fcntl(memory_fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
}

/* As Python makes its locks: a POSIX semaphore without a name any more. */
static sem_t *semaphore;

static void semaphore_first(void)
{
	_exit(sem_wait(semaphore) ? 8 : 7);
}

static void child_semaphore(void)
{
	char name[40];
	snprintf(name, sizeof name, "/conformance-%d", getpid());
	semaphore = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
	HERE(semaphore != SEM_FAILED);
	MUST(!sem_unlink(name));
	pipes();
	child = born(semaphore_first);
	pause_ms(5);
}

static void child_semaphore_kept(void)
{
	int value = 5;
	TRUE(!sem_getvalue(semaphore, &value) && value == 0);
	pause_ms(2);
	TRUE(waitpid(child, NULL, WNOHANG) == 0);
	TRUE(!sem_post(semaphore));
	ends_well(child);
}

/* A semaphore that still has a name: another could be made under it. */
static char named_semaphore[40];

static void remove_semaphore(void)
{
	sem_unlink(named_semaphore);
}

static void child_semaphore_named(void)
{
	snprintf(named_semaphore, sizeof named_semaphore, "/conformance-%d", getpid());
	semaphore = sem_open(named_semaphore, O_CREAT | O_EXCL, 0600, 0);
	HERE(semaphore != SEM_FAILED);
	atexit(remove_semaphore);
	pipes();
	child = born(semaphore_first);
	pause_ms(5);
}

/* An unlinked file: open in both, mapped in both. */
static void deleted_first(void)
{
	while (!shared[0])
		pause_ms(2);
	if (write(memory_fd, "more", 4) != 4)
		_exit(8);
	shared[1] = getpid();
	_exit(7);
}

static void child_deleted(void)
{
	memory_fd = open(path("gone"), O_RDWR | O_CREAT | O_EXCL, 0640);
	MUST(memory_fd >= 0 && !ftruncate(memory_fd, 40 * PAGE));
	MUST(!unlink(path("gone")));
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	MUST(shared != MAP_FAILED && pwrite(memory_fd, "text", 4, 33 * PAGE) == 4);
	MUST(lseek(memory_fd, 33 * PAGE + 4, SEEK_SET) > 0);
	pipes();
	child = born(deleted_first);
	pause_ms(5);
}

static void child_deleted_kept(void)
{
	struct stat state;
	char text[9] = "";
	shared[0] = 1;
	ends_well(child);
	EQUAL(shared[1], child);
	EQUAL(pread(memory_fd, text, 8, 33 * PAGE), 8);
	TRUE(!strcmp(text, "textmore"));
	EQUAL(lseek(memory_fd, 0, SEEK_CUR), 33 * PAGE + 8);
	TRUE(!fstat(memory_fd, &state) && state.st_size == 40 * PAGE);
	TRUE(state.st_nlink == 0 && (state.st_mode & 07777) == 0640);
}

/* A pair of packets with something in it in both directions. */
static void packets_first(void)
{
	char text[9] = "";
	if (read(back[1], text, 8) != 2 || strcmp(text, "to"))
		_exit(8);
	char byte;
	_exit(read(back[1], &byte, 1) == 1 && byte == 'p' ? 7 : 8);
}

static int held[2];

static void packets_wait(void)
{
	char byte;
	/* Until after the restore. */
	(void)!read(held[0], &byte, 1);
	packets_first();
}

static void child_packets(void)
{
	pipes();
	close(back[0]);
	close(back[1]);
	MUST(!pipe(held) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, back));
	MUST(write(back[0], "to", 2) == 2 && write(back[1], "from", 4) == 4);
	child = born(packets_wait);
	close(back[1]);
	pause_ms(5);
}

static void child_packets_kept(void)
{
	char text[9] = "";
	EQUAL(read(back[0], text, 8), 4);
	TRUE(!strcmp(text, "from"));
	EQUAL(write(back[0], "p", 1), 1);
	EQUAL(write(held[1], "x", 1), 1);
	ends_well(child);
	EQUAL(read(back[0], text, 8), 0);
}

/* As nginx has it: a signal to the parent when something comes. */
static volatile sig_atomic_t came;

static void on_io(int signal)
{
	came = signal;
}

static void signalling_first(void)
{
	char byte;
	_exit(read(back[1], &byte, 1) == 1 && write(back[1], "r", 1) == 1 ? 7 : 8);
}

static void child_signalling(void)
{
	pipes();
	close(back[0]);
	close(back[1]);
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, back));
	struct sigaction action = {.sa_handler = on_io, .sa_flags = SA_RESTART};
	MUST(!sigaction(SIGIO, &action, NULL) && !sigaction(SIGRTMIN, &action, NULL));
	MUST(!fcntl(back[0], F_SETOWN, getpid()) && !fcntl(back[0], F_SETSIG, SIGRTMIN));
	MUST(!fcntl(back[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	child = born(signalling_first);
	close(back[1]);
	pause_ms(5);
}

static void child_signalling_kept(void)
{
	EQUAL(came, 0);
	EQUAL(fcntl(back[0], F_GETOWN), getpid());
	EQUAL(fcntl(back[0], F_GETFL) & (O_ASYNC | O_NONBLOCK), O_ASYNC | O_NONBLOCK);
	EQUAL(write(back[0], "p", 1), 1);
	ends_well(child);
	EQUAL(came, SIGRTMIN);
	char byte = 0;
	EQUAL(read(back[0], &byte, 1), 1);
	EQUAL(byte, 'r');
}

/* The child sends to a name that the parent has. */
static struct sockaddr_un log_name;
static socklen_t log_length;

static void logging_first(void)
{
	int own = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (connect(own, (void *)&log_name, log_length))
		_exit(9);
	close(memory_fd);
	char byte;
	(void)!read(ends[0], &byte, 1);
	_exit(send(own, "line", 4, 0) == 4 ? 7 : 8);
}

static void child_logging(void)
{
	log_name.sun_family = AF_UNIX;
	int length = snprintf(log_name.sun_path + 1, 60, "conformance-%d", getpid());
	log_length = offsetof(struct sockaddr_un, sun_path) + 1 + length;
	memory_fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	MUST(memory_fd >= 0 && !bind(memory_fd, (void *)&log_name, log_length));
	pipes();
	child = born(logging_first);
	pause_ms(5);
}

static void child_logging_kept(void)
{
	char text[9] = "";
	EQUAL(write(ends[1], "?", 1), 1);
	EQUAL(recv(memory_fd, text, 8, 0), 4);
	TRUE(!strcmp(text, "line"));
	ends_well(child);
}

/* A named pipe that each has opened for itself: what waits there waits once. */
static void fifo_first(void)
{
	int own = open(path("fifo"), O_RDWR);
	char byte;
	(void)!read(ends[0], &byte, 1);
	_exit(own >= 0 && write(own, "+", 1) == 1 ? 7 : 8);
}

static void child_fifo(void)
{
	MUST(!mkfifo(path("fifo"), 0600));
	memory_fd = open(path("fifo"), O_RDWR | O_NONBLOCK);
	MUST(memory_fd >= 0 && write(memory_fd, "data", 4) == 4);
	pipes();
	child = born(fifo_first);
	pause_ms(5);
}

static void child_fifo_kept(void)
{
	char text[20] = "";
	EQUAL(write(ends[1], "?", 1), 1);
	ends_well(child);
	EQUAL(read(memory_fd, text, 19), 5);
	TRUE(!strcmp(text, "data+"));
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
	{"child-packets", "a socket pair with a child, with data in it", child_packets,
	 child_packets_kept},
	{"child-signalling", "a socket pair with a child that gives signals", child_signalling,
	 child_signalling_kept},
	{"child-logging", "a Unix socket that a child sends to by its name", child_logging,
	 child_logging_kept},
	{"child-memfd", "a memfd shared with a child", child_memfd, child_memfd_kept},
	{"child-semaphore", "a POSIX semaphore that a child waits for", child_semaphore,
	 child_semaphore_kept},
	{"child-semaphore-named", "the same that still has its name", child_semaphore_named,
	 child_semaphore_kept},
	{"child-deleted", "a deleted file, open and mapped by a child, too", child_deleted,
	 child_deleted_kept},
	{"child-fifo", "a FIFO that a child has opened, too", child_fifo, child_fifo_kept},
	{NULL},
};
