/* Many threads: ids, names, masks, thread-local memory, locks; and threads
 * that sleep in system calls, none of which may notice the stop. */
#include "harness.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <netinet/in.h>

#define MANY 200

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, held = PTHREAD_MUTEX_INITIALIZER, robust;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER, go = PTHREAD_COND_INITIALIZER;
static pthread_t many[MANY], sleepers[16], holder;
static int here, going, sleeping;
static __thread long own;
static int ends[2];
static sem_t semaphore;
static uint32_t word;
static int listener;

static int masked(long index)
{
	return SIGRTMIN + index % 20;
}

static void *one_of_many(void *argument)
{
	long index = (long)argument;
	own = index * 3;
	pid_t tid = syscall(SYS_gettid);
	char name[16], now[16] = "";
	snprintf(name, sizeof name, "thread %ld", index);
	pthread_setname_np(pthread_self(), name);
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, masked(index));
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	void *robust_list, *robust_now;
	size_t len;
	syscall(SYS_get_robust_list, 0, &robust_list, &len);
	pthread_mutex_lock(&mutex);
	here++;
	pthread_cond_signal(&arrived);
	while (!going)
		pthread_cond_wait(&go, &mutex);
	pthread_mutex_unlock(&mutex);
	EQUAL(own, index * 3);
	EQUAL(syscall(SYS_gettid), tid);
	TRUE(!pthread_getname_np(pthread_self(), now, sizeof now) && !strcmp(name, now));
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	for (int signal = SIGRTMIN; signal < SIGRTMIN + 20; signal++)
		EQUAL(sigismember(&set, signal), signal == masked(index));
	syscall(SYS_get_robust_list, 0, &robust_now, &len);
	EQUAL(robust_now, robust_list);
	return (void *)(index + 1);
}

/* Holds a robust lock and ends with it, after the restore. */
static void *hold(void *argument)
{
	pthread_mutex_lock(&robust);
	pthread_mutex_lock(&mutex);
	sleeping++;
	while (!going)
		pthread_cond_wait(&go, &mutex);
	pthread_mutex_unlock(&mutex);
	return argument;
}

#define SLEEPER(name, ...)                                      \
	static void *name(void *argument)                       \
	{                                                       \
		__atomic_add_fetch(&sleeping, 1, __ATOMIC_SEQ_CST); \
		__VA_ARGS__                                     \
		return argument;                                \
	}

SLEEPER(in_read, char byte; EQUAL(read(ends[0], &byte, 1), 1);)
SLEEPER(in_nanosleep, struct timespec time = {1, 500000000}; EQUAL(nanosleep(&time, NULL), 0);)
SLEEPER(in_clock_nanosleep, struct timespec time; clock_gettime(CLOCK_MONOTONIC, &time);
	time.tv_sec += 1; EQUAL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL), 0);)
SLEEPER(in_poll, struct pollfd fd = {.fd = -1}; EQUAL(poll(&fd, 1, 1500), 0);)
SLEEPER(in_ppoll, struct timespec time = {1, 0}; EQUAL(ppoll(NULL, 0, &time, NULL), 0);)
SLEEPER(in_select, struct timeval time = {1, 0}; EQUAL(select(0, NULL, NULL, NULL, &time), 0);)
SLEEPER(in_epoll_wait, struct epoll_event event; int fd = epoll_create1(0);
	EQUAL(epoll_wait(fd, &event, 1, 1500), 0); close(fd);)
SLEEPER(in_futex, struct timespec time = {1, 0};
	EQUAL(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0), -1);
	EQUAL(errno, ETIMEDOUT);)
SLEEPER(in_sem_wait, EQUAL(sem_wait(&semaphore), 0);)
SLEEPER(in_mutex_lock, EQUAL(pthread_mutex_lock(&held), 0); pthread_mutex_unlock(&held);)
SLEEPER(in_sigtimedwait, sigset_t set; sigemptyset(&set); sigaddset(&set, SIGRTMIN + 9);
	pthread_sigmask(SIG_BLOCK, &set, NULL); struct timespec time = {1, 500000000};
	EQUAL(sigtimedwait(&set, NULL, &time), -1); EQUAL(errno, EAGAIN);)
SLEEPER(in_accept, struct timeval time = {1, 500000};
	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
	EQUAL(accept(listener, NULL, NULL), -1); EQUAL(errno, EAGAIN);)

static void *(*const SLEEPERS[])(void *) = {
	in_read, in_nanosleep, in_clock_nanosleep, in_poll, in_ppoll, in_select, in_epoll_wait,
	in_futex, in_sem_wait, in_mutex_lock, in_sigtimedwait, in_accept};
#define SLEEPER_COUNT (sizeof SLEEPERS / sizeof *SLEEPERS)

static void setup(void)
{
	MUST(!pipe(ends) && !sem_init(&semaphore, 0, 0) && !pthread_mutex_lock(&held));
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	MUST(!pthread_mutex_init(&robust, &attributes));
	listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	MUST(!bind(listener, (struct sockaddr *)&address, sizeof address) && !listen(listener, 5));
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 * 1024);
	for (long i = 0; i < MANY; i++)
		MUST(!pthread_create(&many[i], &small, one_of_many, (void *)i));
	pthread_mutex_lock(&mutex);
	while (here < MANY)
		pthread_cond_wait(&arrived, &mutex);
	pthread_mutex_unlock(&mutex);
	MUST(!pthread_create(&holder, &small, hold, NULL));
	for (size_t i = 0; i < SLEEPER_COUNT; i++)
		MUST(!pthread_create(&sleepers[i], NULL, SLEEPERS[i], NULL));
	while (__atomic_load_n(&sleeping, __ATOMIC_SEQ_CST) < (int)SLEEPER_COUNT + 1)
		pause_ms(1);
	pause_ms(100);
}

static void verify(void)
{
	pthread_mutex_lock(&mutex);
	going = 1;
	pthread_cond_broadcast(&go);
	pthread_mutex_unlock(&mutex);
	for (long i = 0; i < MANY; i++) {
		void *result = NULL;
		TRUE(!pthread_join(many[i], &result));
		EQUAL(result, i + 1);
	}
	EQUAL(write(ends[1], "x", 1), 1);
	sem_post(&semaphore);
	pthread_mutex_unlock(&held);
	for (size_t i = 0; i < SLEEPER_COUNT; i++)
		TRUE(!pthread_join(sleepers[i], NULL));
	TRUE(!pthread_join(holder, NULL));
	EQUAL(pthread_mutex_lock(&robust), EOWNERDEAD);
	pthread_t one;
	void *result = NULL;
	going = 1;
	TRUE(!pthread_create(&one, NULL, one_of_many, (void *)7) && !pthread_join(one, &result));
	EQUAL(result, 8);
}
