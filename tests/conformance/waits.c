/* Threads, and what they wait in. */
#include "conform.h"
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static struct worker worker;
static int ends[2];

/* The call goes on as if nothing had happened; CRIU makes it end with EINTR. */
#define ONCE_MORE(call)                                                        \
	do {                                                                   \
		errno = 0;                                                     \
		worker->result = call;                                         \
		worker->error = errno;                                         \
	} while (with_criu && worker->result < 0 && worker->error == EINTR)

static double lasted(void)
{
	return worker.ended - worker.begun;
}

static void sleeping_work(struct worker *worker)
{
	struct timespec time = {0, 700000000};
	ONCE_MORE(nanosleep(&time, &time));
}

static void sleeping(void)
{
	start(&worker, sleeping_work);
}

static void sleeping_kept(void)
{
	finish(&worker);
	EQUAL(worker.result, 0);
	TRUE(lasted() >= 0.699);
}

static void until_work(struct worker *worker)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	time.tv_nsec += 700000000;
	time.tv_sec += time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	do {
		worker->result = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
	} while (with_criu && worker->result == EINTR);
}

static void until(void)
{
	start(&worker, until_work);
}

static void polling_work(struct worker *worker)
{
	struct pollfd fd = {ends[0], POLLIN, 0};
	ONCE_MORE(poll(&fd, 1, 700));
}

static void polling(void)
{
	MUST(!pipe(ends));
	start(&worker, polling_work);
}

static void polling_forever_work(struct worker *worker)
{
	struct pollfd fd = {ends[0], POLLIN, 0};
	ONCE_MORE(poll(&fd, 1, -1));
}

static void polling_forever(void)
{
	MUST(!pipe(ends));
	start(&worker, polling_forever_work);
}

static void woken_kept(void)
{
	TRUE(!worker.done);
	EQUAL(write(ends[1], "x", 1), 1);
	finish(&worker);
	EQUAL(worker.result, 1);
}

static void selecting_work(struct worker *worker)
{
	fd_set set;
	do {
		struct timeval time = {100, 0};
		FD_ZERO(&set);
		FD_SET(ends[0], &set);
		worker->result = select(ends[0] + 1, &set, NULL, NULL, &time);
	} while (with_criu && worker->result < 0 && errno == EINTR);
}

static void selecting(void)
{
	MUST(!pipe(ends));
	start(&worker, selecting_work);
}

static void reading_work(struct worker *worker)
{
	char byte;
	ONCE_MORE(read(ends[0], &byte, 1));
}

static void reading(void)
{
	MUST(!pipe(ends));
	start(&worker, reading_work);
}

static char much[1 << 16];

/* Of a write that has come halfway, a stop makes a short one: so none has. */
static void writing_work(struct worker *worker)
{
	ONCE_MORE(write(ends[1], "last", 4));
}

static void writing(void)
{
	MUST(!pipe(ends) && write(ends[1], much, sizeof much) == sizeof much);
	start(&worker, writing_work);
}

static void writing_kept(void)
{
	char end[4];
	TRUE(!worker.done);
	for (size_t total = 0; total < sizeof much;) {
		ssize_t got = read(ends[0], much, sizeof much - total);
		MUST(got > 0);
		total += got;
	}
	EQUAL(read(ends[0], end, 4), 4);
	TRUE(!memcmp(end, "last", 4));
	finish(&worker);
	EQUAL(worker.result, 4);
}

static void counting_work(struct worker *worker)
{
	eventfd_t value;
	ONCE_MORE(eventfd_read(ends[0], &value));
}

static void counting(void)
{
	ends[0] = eventfd(0, 0);
	start(&worker, counting_work);
}

static void counting_kept(void)
{
	TRUE(!worker.done);
	eventfd_write(ends[0], 1);
	finish(&worker);
	EQUAL(worker.result, 0);
}

static volatile unsigned word, *futex = &word;
static int kind = FUTEX_PRIVATE_FLAG;

static void futex_work(struct worker *worker)
{
	ONCE_MORE(syscall(SYS_futex, futex, FUTEX_WAIT | kind, 0, NULL));
}

static void futex_private(void)
{
	start(&worker, futex_work);
}

static void futex_shared(void)
{
	int fd = open(path("futex"), O_CREAT | O_RDWR, 0600);
	MUST(!ftruncate(fd, PAGE));
	futex = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(futex != MAP_FAILED);
	kind = 0;
	start(&worker, futex_work);
}

static void futex_kept(void)
{
	TRUE(!worker.done);
	*futex = 1;
	syscall(SYS_futex, futex, FUTEX_WAKE | kind, 1);
	finish(&worker);
	TRUE(worker.result == 0 || worker.error == EAGAIN);
}

static void futex_timed_work(struct worker *worker)
{
	struct timespec time = {0, 700000000};
	ONCE_MORE(syscall(SYS_futex, futex, FUTEX_WAIT | kind, 0, &time));
}

static void futex_timed(void)
{
	start(&worker, futex_timed_work);
}

static void futex_timed_kept(void)
{
	finish(&worker);
	EQUAL(worker.result, -1);
	EQUAL(worker.error, ETIMEDOUT);
	TRUE(lasted() >= 0.699);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int ready;

static void condition_work(struct worker *worker)
{
	pthread_mutex_lock(&mutex);
	while (!ready)
		pthread_cond_wait(&condition, &mutex);
	pthread_mutex_unlock(&mutex);
	worker->result = ready;
}

static void conditions(void)
{
	start(&worker, condition_work);
}

static void conditions_kept(void)
{
	pthread_mutex_lock(&mutex);
	ready = 5;
	pthread_cond_signal(&condition);
	pthread_mutex_unlock(&mutex);
	finish(&worker);
	EQUAL(worker.result, 5);
}

static double began;

static void timed_condition_work(struct worker *worker)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	/* The monotonic clock of a namespace stands still while nobody runs. */
	began = now(CLOCK_REALTIME);
	time.tv_nsec += 700000000;
	time.tv_sec += time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	pthread_mutex_lock(&mutex);
	while (!(worker->result = pthread_cond_timedwait(&condition, &mutex, &time)))
		;
	pthread_mutex_unlock(&mutex);
	began = now(CLOCK_REALTIME) - began;
}

static void timed_condition(void)
{
	start(&worker, timed_condition_work);
}

static void timed_condition_kept(void)
{
	finish(&worker);
	EQUAL(worker.result, ETIMEDOUT);
	TRUE(began >= 0.699);
}

static sem_t semaphore;

static void semaphore_work(struct worker *worker)
{
	ONCE_MORE(sem_wait(&semaphore));
}

static void semaphores(void)
{
	sem_init(&semaphore, 0, 0);
	start(&worker, semaphore_work);
}

static void semaphores_kept(void)
{
	TRUE(!worker.done);
	sem_post(&semaphore);
	finish(&worker);
	EQUAL(worker.result, 0);
}

static void locked_work(struct worker *worker)
{
	worker->result = pthread_mutex_lock(&mutex);
	pthread_mutex_unlock(&mutex);
}

static void mutex_of(int protocol, int robust)
{
	pthread_mutexattr_t kind;
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setprotocol(&kind, protocol);
	pthread_mutexattr_setrobust(&kind, robust);
	MUST(!pthread_mutex_init(&mutex, &kind));
	MUST(!pthread_mutex_lock(&mutex));
}

static void contended(void)
{
	mutex_of(PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
	start(&worker, locked_work);
}

static void contended_kept(void)
{
	TRUE(!worker.done);
	EQUAL(pthread_mutex_unlock(&mutex), 0);
	finish(&worker);
	EQUAL(worker.result, 0);
}

static void inheriting(void)
{
	mutex_of(PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED);
	start(&worker, locked_work);
}

static volatile int leave;

static void dying_work(struct worker *worker)
{
	pthread_mutex_lock(&mutex);
	while (!leave)
		pause_ms(2);
}

/* The kernel marks the mutex of a thread that ends (robust list). */
static void robust(void)
{
	mutex_of(PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_unlock(&mutex);
	start(&worker, dying_work);
}

static void robust_kept(void)
{
	leave = 1;
	finish(&worker);
	EQUAL(pthread_mutex_lock(&mutex), EOWNERDEAD);
	EQUAL(pthread_mutex_consistent(&mutex), 0);
}

static void accepting_work(struct worker *worker)
{
	ONCE_MORE(accept(ends[0], NULL, NULL));
}

static struct sockaddr_storage address;
static socklen_t length = sizeof address;

static void accepting(void)
{
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!listen(ends[0], 5) && !getsockname(ends[0], (void *)&address, &length));
	start(&worker, accepting_work);
}

static void accepting_kept(void)
{
	int client = socket(AF_INET, SOCK_STREAM, 0);
	TRUE(!worker.done);
	TRUE(!connect(client, (void *)&address, length));
	finish(&worker);
	TRUE(worker.result >= 0);
}

static void flock_work(struct worker *worker)
{
	int fd = open(path("lock"), O_RDWR);
	ONCE_MORE(flock(fd, LOCK_EX));
}

static void flocking(void)
{
	ends[0] = open(path("lock"), O_CREAT | O_RDWR, 0600);
	MUST(!flock(ends[0], LOCK_EX));
	start(&worker, flock_work);
}

static void flocking_kept(void)
{
	TRUE(!worker.done);
	flock(ends[0], LOCK_UN);
	finish(&worker);
	EQUAL(worker.result, 0);
}

static int queue;
static struct {
	long type;
	char text[8];
} message = {1, "message"};

static void message_work(struct worker *worker)
{
	ONCE_MORE(msgrcv(queue, &message, 8, 0, 0));
	msgctl(queue, IPC_RMID, NULL);
}

static void messages(void)
{
	queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	HERE(queue >= 0);
	start(&worker, message_work);
}

static void messages_kept(void)
{
	TRUE(!worker.done);
	TRUE(!msgsnd(queue, &message, 8, 0));
	finish(&worker);
	EQUAL(worker.result, 8);
}

#define MANY 60
static struct worker many[MANY];

static void many_work(struct worker *worker)
{
	char name[16];
	int number = worker - many;
	snprintf(name, sizeof name, "worker %d", number);
	pthread_setname_np(pthread_self(), name);
	switch (number % 3) {
	case 0:
		while (!leave)
			pause_ms(5);
		break;
	case 1:
		while (!leave)
			syscall(SYS_futex, &leave, FUTEX_WAIT, 0, NULL);
		break;
	default:
		while (!leave)
			sched_yield();
	}
	char now[16] = "";
	pthread_getname_np(pthread_self(), now, sizeof now);
	worker->result = !strcmp(now, name) && gettid() == worker->started;
}

static void many_threads(void)
{
	for (int i = 0; i < MANY; i++) {
		many[i].work = many_work;
		MUST(!pthread_create(&many[i].thread, NULL, worker_main, &many[i]));
	}
	for (int i = 0; i < MANY; i++)
		while (!many[i].started)
			pause_ms(1);
}

static void many_threads_kept(void)
{
	leave = 1;
	syscall(SYS_futex, &leave, FUTEX_WAKE, INT_MAX);
	for (int i = 0; i < MANY; i++) {
		finish(&many[i]);
		EQUAL(many[i].result, 1);
	}
	start(&worker, condition_work);
	conditions_kept();
}

static void *survivor(void *unused)
{
	/* It has ended when it shows as a zombie, with its parent's id behind. */
	while (proc("/proc/self/stat", ") Z ", 10) < 0)
		pause_ms(1);
	printf("ready\n");
	while (access(path("go"), F_OK))
		pause_ms(2);
	printf("all is well\n");
	exit(0);
}

/* The first thread has ended, the others go on. */
static void without_leader(void)
{
	pthread_t thread;
	MUST(!pthread_create(&thread, NULL, survivor, NULL));
	pthread_exit(NULL);
}

static void nothing(void)
{
}

static void joining_work(struct worker *worker)
{
	worker->result = pthread_join(many[0].thread, NULL);
}

static void staying_work(struct worker *worker)
{
	while (!leave)
		pause_ms(2);
}

/* Its end is written to its memory by the kernel (set_tid_address). */
static void joining(void)
{
	start(&many[0], staying_work);
	start(&worker, joining_work);
}

static void joining_kept(void)
{
	TRUE(!worker.done);
	leave = 1;
	finish(&worker);
	EQUAL(worker.result, 0);
}

static void cancelled_work(struct worker *worker)
{
	for (;;)
		pause_ms(1000);
}

static void cancelling(void)
{
	start(&worker, cancelled_work);
}

static void cancelling_kept(void)
{
	void *result = NULL;
	TRUE(!pthread_cancel(worker.thread) && !pthread_join(worker.thread, &result));
	TRUE(result == PTHREAD_CANCELED);
}


static const struct feature features[] = {
	{"cancel", "a thread that is cancelled", cancelling, cancelling_kept},
	{"nanosleep", "a thread in nanosleep", sleeping, sleeping_kept},
	{"sleep-until", "a thread that sleeps until a moment", until, sleeping_kept},
	{"poll-timeout", "a thread in poll with a time limit", polling, sleeping_kept},
	{"poll", "a thread in poll", polling_forever, woken_kept},
	{"select", "a thread in select with a time limit", selecting, woken_kept},
	{"read", "a thread that reads from an empty pipe", reading, woken_kept},
	{"write", "a thread that writes to a full pipe", writing, writing_kept},
	{"eventfd-read", "a thread that reads from an eventfd", counting, counting_kept},
	{"accept", "a thread in accept", accepting, accepting_kept},
	{"flock-wait", "a thread that waits for a lock", flocking, flocking_kept},
	{"msgrcv", "a thread that waits for a System V message", messages, messages_kept},
	{"futex", "a thread in a private futex", futex_private, futex_kept},
	{"futex-shared", "a thread in a shared futex", futex_shared, futex_kept},
	{"futex-timeout", "a thread in a futex with a time limit", futex_timed, futex_timed_kept},
	{"condition", "a condition variable", conditions, conditions_kept},
	{"condition-timeout", "a condition variable with a time limit", timed_condition, timed_condition_kept},
	{"semaphore", "a POSIX semaphore", semaphores, semaphores_kept},
	{"mutex", "a mutex that another thread waits for", contended, contended_kept},
	{"mutex-pi", "a mutex with priority inheritance", inheriting, contended_kept},
	{"mutex-robust", "a robust mutex whose owner ends", robust, robust_kept},
	{"threads", "60 threads with names, in different waits", many_threads, many_threads_kept},
	{"leader-ended", "the first thread has ended", without_leader, nothing},
	{"join", "a thread that is waited for", joining, joining_kept},
	{NULL},
};
