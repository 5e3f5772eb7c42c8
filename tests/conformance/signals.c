/* Signals and timers. */
#include "conform.h"
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

static volatile int caught, from_info, value_of_info;
static struct worker worker;

static void count(int signal, siginfo_t *info, void *context)
{
	caught++;
	from_info = info->si_code;
	value_of_info = info->si_value.sival_int;
}

static void handle(int signal, int flags)
{
	struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | flags};
	MUST(!sigaction(signal, &action, NULL));
}

static void block(int signal)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	MUST(!pthread_sigmask(SIG_BLOCK, &set, NULL));
}

static void unblock(int signal)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	TRUE(!pthread_sigmask(SIG_UNBLOCK, &set, NULL));
}

/* Waits until so many signals came, a second and a half at most. */
static void wait_for(int many)
{
	for (int i = 0; i < 1500 && caught < many; i++)
		pause_ms(1);
	TRUE(caught >= many);
}

static void actions(void)
{
	struct sigaction action = {.sa_sigaction = count,
				   .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER};
	sigaddset(&action.sa_mask, SIGWINCH);
	MUST(!sigaction(SIGUSR1, &action, NULL));
	action.sa_flags = SA_SIGINFO | SA_RESETHAND;
	MUST(!sigaction(SIGRTMIN + 3, &action, NULL));
}

static void actions_kept(void)
{
	struct sigaction action;
	TRUE(!sigaction(SIGUSR1, NULL, &action));
	TRUE(action.sa_sigaction == count && sigismember(&action.sa_mask, SIGWINCH));
	EQUAL(action.sa_flags & (SA_SIGINFO | SA_RESTART | SA_NODEFER | SA_RESETHAND),
	      SA_SIGINFO | SA_RESTART | SA_NODEFER);
	raise(SIGUSR1);
	raise(SIGRTMIN + 3);
	EQUAL(caught, 2);
	TRUE(!sigaction(SIGRTMIN + 3, NULL, &action));
	TRUE(action.sa_handler == SIG_DFL);
}

static void ignored(void)
{
	signal(SIGUSR2, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
}

static void ignored_kept(void)
{
	TRUE(!raise(SIGUSR2));
	int ends[2];
	TRUE(!pipe(ends) && !close(ends[0]));
	EQUAL(write(ends[1], "x", 1), -1);
	EQUAL(errno, EPIPE);
}

static void masks_work(struct worker *worker)
{
	block(SIGUSR2);
	while (!caught)
		pause_ms(2);
	sigset_t set;
	pthread_sigmask(0, NULL, &set);
	worker->result = sigismember(&set, SIGUSR2) && !sigismember(&set, SIGUSR1);
}

static void masks(void)
{
	start(&worker, masks_work);
	block(SIGUSR1);
	block(SIGRTMAX);
}

static void masks_kept(void)
{
	sigset_t set;
	pthread_sigmask(0, NULL, &set);
	TRUE(sigismember(&set, SIGUSR1) && sigismember(&set, SIGRTMAX));
	TRUE(!sigismember(&set, SIGUSR2) && !sigismember(&set, SIGTERM));
	caught = 1;
	finish(&worker);
	EQUAL(worker.result, 1);
}

static char stack[65536] __attribute__((aligned(16)));
static volatile int on_stack;

static void look_at_stack(int signal)
{
	char here;
	on_stack = &here >= stack && &here < stack + sizeof stack;
}

static void alternate(void)
{
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_handler = look_at_stack, .sa_flags = SA_ONSTACK};
	MUST(!sigaltstack(&alternate, NULL) && !sigaction(SIGUSR1, &action, NULL));
}

static void alternate_kept(void)
{
	stack_t now;
	TRUE(!sigaltstack(NULL, &now));
	TRUE(now.ss_sp == stack);
	EQUAL(now.ss_size, sizeof stack);
	EQUAL(now.ss_flags, 0);
	raise(SIGUSR1);
	EQUAL(on_stack, 1);
}

static volatile int leave;

static void stay(int signal, siginfo_t *info, void *context)
{
	char here;
	on_stack = &here >= stack && &here < stack + sizeof stack;
	while (!leave)
		pause_ms(2);
}

static void inside_work(struct worker *worker)
{
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_sigaction = stay, .sa_flags = SA_ONSTACK | SA_SIGINFO};
	sigaddset(&action.sa_mask, SIGUSR2);
	MUST(!sigaltstack(&alternate, NULL) && !sigaction(SIGUSR1, &action, NULL));
	double number = worker->begun;
	raise(SIGUSR1);
	sigset_t set;
	pthread_sigmask(0, NULL, &set);
	worker->result = number == worker->begun && !sigismember(&set, SIGUSR2);
}

/* Within a handler, on its alternate stack. */
static void inside(void)
{
	start(&worker, inside_work);
}

static void inside_kept(void)
{
	leave = 1;
	finish(&worker);
	EQUAL(worker.result, 1);
	EQUAL(on_stack, 1);
}

static void pending_process(void)
{
	handle(SIGUSR1, 0);
	block(SIGUSR1);
	kill(getpid(), SIGUSR1);
}

static void pending_kept(void)
{
	sigset_t set;
	sigpending(&set);
	TRUE(sigismember(&set, SIGUSR1));
	EQUAL(caught, 0);
	unblock(SIGUSR1);
	EQUAL(caught, 1);
}

static void pending_thread(void)
{
	handle(SIGUSR1, 0);
	block(SIGUSR1);
	raise(SIGUSR1);
}

static void queued(void)
{
	handle(SIGRTMIN + 1, 0);
	block(SIGRTMIN + 1);
	for (int i = 1; i <= 3; i++)
		MUST(!sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i * 11}));
}

static void queued_kept(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	for (int i = 1; i <= 3; i++) {
		siginfo_t info = {};
		struct timespec none = {0};
		EQUAL(sigtimedwait(&set, &info, &none), SIGRTMIN + 1);
		EQUAL(info.si_value.sival_int, i * 11);
		EQUAL(info.si_code, SI_QUEUE);
	}
}

static void child_ended(void)
{
	handle(SIGCHLD, SA_NOCLDWAIT);
	block(SIGCHLD);
	pid_t child = fork();
	if (!child)
		_exit(0);
	MUST(waitpid(child, NULL, 0) == -1 && errno == ECHILD);
}

static void child_ended_kept(void)
{
	unblock(SIGCHLD);
	EQUAL(caught, 1);
	EQUAL(from_info, CLD_EXITED);
	struct sigaction action;
	TRUE(!sigaction(SIGCHLD, NULL, &action));
	TRUE(action.sa_flags & SA_NOCLDWAIT);
}

static void waits_work(struct worker *worker)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	do {
		worker->result = sigwaitinfo(&set, &info);
	} while (with_criu && worker->result < 0 && errno == EINTR);
	worker->error = errno;
}

static void waits(void)
{
	block(SIGUSR1);
	start(&worker, waits_work);
}

static void waits_kept(void)
{
	pthread_kill(worker.thread, SIGUSR1);
	finish(&worker);
	EQUAL(worker.result, SIGUSR1);
}

static void suspend_work(struct worker *worker)
{
	sigset_t set;
	pthread_sigmask(0, NULL, &set);
	sigdelset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	block(SIGUSR1);
	do {
		sigsuspend(&set);
	} while (with_criu && !caught);
	worker->result = caught;
	pthread_sigmask(0, NULL, &set);
	worker->error = !sigismember(&set, SIGUSR2) && sigismember(&set, SIGUSR1);
}

static void suspends(void)
{
	handle(SIGUSR1, 0);
	start(&worker, suspend_work);
}

static void suspends_kept(void)
{
	TRUE(!worker.done);
	pthread_kill(worker.thread, SIGUSR1);
	finish(&worker);
	EQUAL(worker.result, 1);
	EQUAL(worker.error, 1);
}

static void interval(void)
{
	handle(SIGALRM, SA_RESTART);
	MUST(!setitimer(ITIMER_REAL, &(struct itimerval){{0, 50000}, {0, 50000}}, NULL));
}

static void interval_kept(void)
{
	struct itimerval timer;
	TRUE(!getitimer(ITIMER_REAL, &timer));
	EQUAL(timer.it_interval.tv_usec, 50000);
	caught = 0;
	wait_for(3);
}

static void burn(int many)
{
	double end = now(CLOCK_MONOTONIC) + 5;
	while (caught < many && now(CLOCK_MONOTONIC) < end)
		;
	TRUE(caught >= many);
}

static void cpu_interval(void)
{
	handle(SIGVTALRM, SA_RESTART);
	handle(SIGPROF, SA_RESTART);
	MUST(!setitimer(ITIMER_VIRTUAL, &(struct itimerval){{0, 20000}, {0, 20000}}, NULL));
}

static void profiling(void)
{
	handle(SIGPROF, SA_RESTART);
	MUST(!setitimer(ITIMER_PROF, &(struct itimerval){{0, 20000}, {0, 20000}}, NULL));
}

static void cpu_interval_kept(void)
{
	burn(2);
}

static void alarmed(void)
{
	handle(SIGALRM, 0);
	alarm(100);
}

static void alarmed_kept(void)
{
	EQUAL(caught, 0);
	int left = alarm(1);
	TRUE(left > 60 && left <= 100);
	wait_for(1);
}

static timer_t timer, spare;

static struct itimerspec every(long ms)
{
	return (struct itimerspec){{0, ms * 1000000}, {0, ms * 1000000}};
}

static void posix_signal(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL,
				 .sigev_signo = SIGRTMIN + 2,
				 .sigev_value.sival_int = 77};
	struct itimerspec spec = every(40);
	handle(SIGRTMIN + 2, 0);
	/* Numbers of timers are in the program's memory: 0 is gone, 1 is used. */
	MUST(!timer_create(CLOCK_MONOTONIC, &event, &spare));
	MUST(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(!timer_delete(spare) && !timer_settime(timer, 0, &spec, NULL));
}

static void posix_signal_kept(void)
{
	struct itimerspec spec;
	TRUE(!timer_gettime(timer, &spec));
	EQUAL(spec.it_interval.tv_nsec, 40000000);
	caught = 0;
	wait_for(2);
	EQUAL(value_of_info, 77);
	EQUAL(from_info, SI_TIMER);
	TRUE(!timer_delete(timer));
}

static void posix_none(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_NONE};
	struct itimerspec spec = {{0}, {100, 0}};
	MUST(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(!timer_settime(timer, 0, &spec, NULL));
}

static void posix_none_kept(void)
{
	struct itimerspec spec;
	TRUE(!timer_gettime(timer, &spec));
	TRUE(spec.it_value.tv_sec > 60 && spec.it_value.tv_sec <= 100);
}

static void posix_thread(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	event._sigev_un._tid = gettid();
	struct itimerspec spec = every(40);
	handle(SIGUSR1, 0);
	MUST(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(!timer_settime(timer, 0, &spec, NULL));
}

static void posix_thread_kept(void)
{
	caught = 0;
	wait_for(2);
}

static void posix_cpu(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec spec = every(20);
	handle(SIGUSR1, SA_RESTART);
	MUST(!timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer));
	MUST(!timer_settime(timer, 0, &spec, NULL));
}

static void posix_absolute(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec spec = {{0}, {time(NULL) + 100, 0}};
	handle(SIGUSR1, 0);
	MUST(!timer_create(CLOCK_REALTIME, &event, &timer));
	MUST(!timer_settime(timer, TIMER_ABSTIME, &spec, NULL));
}

static int fd;

static void timerfd_armed(void)
{
	struct itimerspec spec = {{0, 30000000}, {100, 0}};
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	MUST(fd >= 0 && !timerfd_settime(fd, 0, &spec, NULL));
}

static void timerfd_armed_kept(void)
{
	struct itimerspec spec;
	uint64_t ticks;
	TRUE(!timerfd_gettime(fd, &spec));
	TRUE(spec.it_value.tv_sec > 60 && spec.it_value.tv_sec <= 100);
	EQUAL(spec.it_interval.tv_nsec, 30000000);
	EQUAL(read(fd, &ticks, 8), -1);
	EQUAL(errno, EAGAIN);
	spec = every(20);
	TRUE(!timerfd_settime(fd, 0, &spec, NULL));
	pause_ms(45);
	EQUAL(read(fd, &ticks, 8), 8);
	TRUE(ticks >= 2);
}

static void timerfd_ticks(void)
{
	struct itimerspec spec = {{100, 0}, {0, 1}};
	uint64_t ticks = 0;
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	MUST(fd >= 0 && !timerfd_settime(fd, 0, &spec, NULL));
	pause_ms(3);
	(void)ticks;
}

static void timerfd_ticks_kept(void)
{
	uint64_t ticks = 0;
	EQUAL(read(fd, &ticks, 8), 8);
	EQUAL(ticks, 1);
}

static void timerfd_absolute(void)
{
	struct itimerspec spec = {{0}, {time(NULL) + 100, 0}};
	fd = timerfd_create(CLOCK_REALTIME, 0);
	MUST(fd >= 0 &&
	     !timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &spec, NULL));
}

static void timerfd_absolute_kept(void)
{
	struct itimerspec spec;
	TRUE(!timerfd_gettime(fd, &spec));
	TRUE(spec.it_value.tv_sec > 60 && spec.it_value.tv_sec <= 100);
	EQUAL(proc("/proc/self/fdinfo/3", "settime flags: ", 8) & 3, 3);
}

static void signal_fd(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	block(SIGUSR1);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	MUST(fd >= 0);
}

static void signal_fd_kept(void)
{
	struct signalfd_siginfo info;
	EQUAL(read(fd, &info, sizeof info), -1);
	EQUAL(errno, EAGAIN);
	raise(SIGUSR1);
	EQUAL(read(fd, &info, sizeof info), sizeof info);
	EQUAL(info.ssi_signo, SIGUSR1);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static const struct feature features[] = {
	{"actions", "signal actions with masks and flags", actions, actions_kept},
	{"ignored", "ignored signals", ignored, ignored_kept},
	{"masks", "blocked signals of each thread", masks, masks_kept},
	{"altstack", "alternate signal stack", alternate, alternate_kept},
	{"in-handler", "a thread within a handler, on its alternate stack", inside, inside_kept},
	{"pending-process", "signal pending for the process", pending_process, pending_kept},
	{"pending-thread", "signal pending for a thread", pending_thread, pending_kept},
	{"queued", "signals queued with values", queued, queued_kept},
	{"sigchld", "SIGCHLD pending, SA_NOCLDWAIT", child_ended, child_ended_kept},
	{"sigwaitinfo", "a thread in sigwaitinfo", waits, waits_kept},
	{"sigsuspend", "a thread in sigsuspend", suspends, suspends_kept},
	{"signalfd", "signalfd", signal_fd, signal_fd_kept},
	{"itimer-real", "interval timer of real time", interval, interval_kept},
	{"itimer-virtual", "interval timer of the program's time", cpu_interval, cpu_interval_kept},
	{"itimer-prof", "profiling timer", profiling, cpu_interval_kept},
	{"alarm", "alarm with its time left", alarmed, alarmed_kept},
	{"timer-signal", "POSIX timer that sends a signal", posix_signal, posix_signal_kept},
	{"timer-none", "POSIX timer that only counts", posix_none, posix_none_kept},
	{"timer-thread", "POSIX timer for one thread", posix_thread, posix_thread_kept},
	{"timer-cpu", "POSIX timer of processor time", posix_cpu, cpu_interval_kept},
	{"timer-absolute", "POSIX timer at a time of day", posix_absolute, posix_none_kept},
	{"timerfd", "timerfd, armed", timerfd_armed, timerfd_armed_kept},
	{"timerfd-ticks", "timerfd with unread ticks", timerfd_ticks, timerfd_ticks_kept},
	{"timerfd-absolute", "timerfd at a time of day, cancelled when that is set", timerfd_absolute, timerfd_absolute_kept},
	{NULL},
};
