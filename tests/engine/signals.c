/* Signals that wait, POSIX timers, and what threads set for themselves. */
#include "harness.h"
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif

static timer_t far, ticking, nothing, to_thread, by_cpu, idle;
static volatile sig_atomic_t ticks;
static pthread_t worker;
static volatile int worker_tid, leave;
static int huge;

/* The kernel's own numbers, of which the C library shows other ones. */
static int create(clockid_t clock, int notify, int signo, int value, int tid, timer_t *id)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = signo};
	int number = -1;
	event.sigev_value.sival_ptr = (void *)(0x1234567800000000 + value);
	event._sigev_un._tid = tid;
	int result = syscall(SYS_timer_create, clock, &event, &number);
	*id = (timer_t)(intptr_t)number;
	return result;
}

#define NUMBER(timer) ((int)(intptr_t)(timer))

static void set(timer_t timer, time_t sec, long nsec, time_t period, long period_nsec)
{
	struct itimerspec spec = {{period, period_nsec}, {sec, nsec}};
	MUST(!syscall(SYS_timer_settime, NUMBER(timer), 0, &spec, NULL));
}

static void on_tick(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (signal == SIGRTMIN && info->si_code == SI_TIMER && info->si_value.sival_int == 2)
		ticks++;
}

static void *work(void *unused)
{
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, SIGRTMIN + 5), sigaddset(&set, SIGUSR2);
	MUST(!pthread_sigmask(SIG_BLOCK, &set, NULL));
	/* Its own, with a value. */
	union sigval value = {.sival_ptr = (void *)0x77665544332211};
	MUST(!pthread_sigqueue(pthread_self(), SIGRTMIN + 5, value));
	value.sival_int = 2;
	MUST(!pthread_sigqueue(pthread_self(), SIGRTMIN + 5, value));
	MUST(!prctl(PR_SET_TSC, PR_TSC_SIGSEGV) && !prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	worker_tid = gettid();
	while (!leave)
		pause_ms(2);
	struct timespec none = {0, 0};
	siginfo_t info;
	int tsc = 0;
	TRUE(sigtimedwait(&set, &info, &none) == SIGRTMIN + 5 && info.si_code == SI_QUEUE);
	TRUE(info.si_value.sival_ptr == (void *)0x77665544332211 && info.si_pid == getpid());
	TRUE(sigtimedwait(&set, &info, &none) == SIGRTMIN + 5 && info.si_value.sival_int == 2);
	TRUE(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
	TRUE(!prctl(PR_GET_TSC, &tsc) && tsc == PR_TSC_SIGSEGV);
	EQUAL(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
	/* A timer of this thread's. */
	sigset_t usr2;
	sigemptyset(&usr2), sigaddset(&usr2, SIGUSR2);
	struct itimerspec soon = {{0, 0}, {0, 1000000}};
	TRUE(!syscall(SYS_timer_settime, NUMBER(to_thread), 0, &soon, NULL));
	struct timespec long_enough = {10, 0};
	/* The ticks of another timer may come to this thread. */
	int got;
	while ((got = sigtimedwait(&usr2, &info, &long_enough)) == -1 && errno == EINTR)
		;
	TRUE(got == SIGUSR2 && info.si_code == SI_TIMER);
	TRUE(info.si_value.sival_ptr == (void *)(0x1234567800000000 + 4));
	return unused;
}

static void setup(void)
{
	struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
	MUST(!sigaction(SIGRTMIN, &action, NULL));
	sigset_t set_;
	sigemptyset(&set_), sigaddset(&set_, SIGUSR1), sigaddset(&set_, SIGRTMIN + 4);
	sigaddset(&set_, SIGCHLD);
	MUST(!sigprocmask(SIG_BLOCK, &set_, NULL));
	MUST(!pthread_create(&worker, NULL, work, NULL));
	while (!worker_tid)
		pause_ms(1);
	/* With a gap in the numbers. */
	timer_t gone;
	MUST(!create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 1, 0, &far));
	MUST(!create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, &gone));
	MUST(!create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 2, 0, &ticking));
	MUST(!syscall(SYS_timer_delete, NUMBER(gone)));
	MUST(!create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 3, 0, &nothing));
	MUST(!create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, 4, worker_tid, &to_thread));
	MUST(!create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR1, 5, 0, &by_cpu));
	MUST(!create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 6, 0, &idle));
	set(far, 1000, 0, 500, 5), set(ticking, 0, 1000000, 0, 3000000);
	set(nothing, 2000, 0, 0, 0), set(by_cpu, 3000, 0, 0, 0), set(to_thread, 4000, 0, 0, 0);
	/* Signals of the process: of a child, queued, and sent. */
	pid_t child = fork();
	if (!child)
		_exit(9);
	MUST(waitpid(child, NULL, 0) == child);
	union sigval value = {.sival_int = 42};
	MUST(!sigqueue(getpid(), SIGRTMIN + 4, value) && !kill(getpid(), SIGUSR1));
	MUST(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	huge = eventfd(0, EFD_NONBLOCK);
	uint64_t count = 0xfffffffffffffff0;
	MUST(write(huge, &count, 8) == 8);
	/* Memory that is yet to come is locked; nothing may become code. */
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_MEMLOCK, &limit);
	MUST(!mlockall(MCL_FUTURE));
	prctl(PR_SET_MDWE, 1, 0, 0, 0);
}

static void left(timer_t timer, long low, long high, long interval)
{
	struct itimerspec spec;
	TRUE(!syscall(SYS_timer_gettime, NUMBER(timer), &spec));
	TRUE(spec.it_value.tv_sec >= low && spec.it_value.tv_sec <= high);
	EQUAL(spec.it_interval.tv_sec, interval);
}

static long locked(void)
{
	char line[256];
	long kib = -1;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof line, status))
		sscanf(line, "VmLck: %ld", &kib);
	if (status)
		fclose(status);
	return kib;
}

static void verify(void)
{
	left(far, 900, 1000, 500), left(nothing, 1900, 2000, 0), left(by_cpu, 2900, 3000, 0);
	left(to_thread, 3900, 4000, 0), left(idle, 0, 0, 0);
	EQUAL(NUMBER(far), 0);
	EQUAL(NUMBER(ticking), 2);
	int before = ticks;
	for (int i = 0; i < 5000 && ticks <= before + 3; i++)
		pause_ms(1);
	TRUE(ticks > before + 3);
	/* The number that was free is free, and none is taken twice. */
	timer_t more;
	for (int i = 0; i < 4; i++) {
		TRUE(!create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, &more));
		int number = NUMBER(more);
		TRUE(number == 1 || number > NUMBER(idle));
	}
	leave = 1;
	TRUE(!pthread_join(worker, NULL));
	sigset_t pending, all;
	sigfillset(&all), sigdelset(&all, SIGRTMIN);
	TRUE(!sigpending(&pending) && sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGCHLD));
	struct timespec none = {0, 0};
	siginfo_t info;
	sigset_t one;
	sigemptyset(&one), sigaddset(&one, SIGCHLD);
	TRUE(sigtimedwait(&one, &info, &none) == SIGCHLD && info.si_code == CLD_EXITED);
	EQUAL(info.si_status, 9);
	sigemptyset(&one), sigaddset(&one, SIGUSR1);
	TRUE(sigtimedwait(&one, &info, &none) == SIGUSR1 && info.si_code == SI_USER);
	TRUE(info.si_pid == getpid() && info.si_uid == getuid());
	sigemptyset(&one), sigaddset(&one, SIGRTMIN + 4);
	TRUE(sigtimedwait(&one, &info, &none) == SIGRTMIN + 4 && info.si_value.sival_int == 42);
	sigdelset(&all, SIGKILL);
	TRUE(sigtimedwait(&all, &info, &none) == -1 && errno == EAGAIN);
	int signal = 0;
	TRUE(!prctl(PR_GET_PDEATHSIG, &signal) && signal == SIGKILL);
	uint64_t count = 0;
	TRUE(read(huge, &count, 8) == 8 && count == 0xfffffffffffffff0);
	long kib = locked();
	void *at = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRUE(at != MAP_FAILED && locked() == kib + 64);
	if (prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0) {
		EQUAL(prctl(PR_GET_MDWE, 0, 0, 0, 0), 1);
		TRUE(mprotect(at, PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
	}
}
