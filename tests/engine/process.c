/* What the threads of a process share beside memory and descriptors: signal
 * state, timers, limits, names, directories, attributes. */
#include "harness.h"
#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

static volatile sig_atomic_t alarms, on_alternate, virtuals;
static char alternate[32 * 1024];
static char cwd[4096], exe[4096];
static pid_t pid;

static void ticked(int signal)
{
	if (signal == SIGALRM)
		alarms++;
	else
		virtuals++;
}

static void with_info(int signal, siginfo_t *info, void *context)
{
	(void)context;
	char here;
	on_alternate = signal == SIGUSR1 && info->si_pid == pid && &here > alternate &&
		       &here < alternate + sizeof alternate;
}

static void setup(void)
{
	pid = getpid();
	struct sigaction action = {.sa_sigaction = with_info,
				   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	sigaddset(&action.sa_mask, SIGTERM), sigaddset(&action.sa_mask, SIGRTMIN + 7);
	MUST(!sigaction(SIGUSR1, &action, NULL));
	struct sigaction tick = {.sa_handler = ticked, .sa_flags = SA_RESTART};
	MUST(!sigaction(SIGALRM, &tick, NULL) && !sigaction(SIGVTALRM, &tick, NULL));
	struct sigaction once = {.sa_handler = ticked, .sa_flags = SA_RESETHAND};
	MUST(!sigaction(SIGRTMAX, &once, NULL));
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	MUST(!sigaction(SIGPIPE, &ignore, NULL) && !sigaction(SIGWINCH, &ignore, NULL));
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
	MUST(!sigaltstack(&stack, NULL));
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGHUP);
	MUST(!sigprocmask(SIG_SETMASK, &set, NULL));
	struct itimerval real = {{0, 30000}, {0, 30000}}, virt = {{700, 5}, {800, 6}};
	MUST(!setitimer(ITIMER_REAL, &real, NULL) && !setitimer(ITIMER_PROF, &virt, NULL));
	umask(027);
	MUST(!mkdir(path("somewhere"), 0700) && !chdir(path("somewhere")) && getcwd(cwd, sizeof cwd));
	MUST(readlink("/proc/self/exe", exe, sizeof exe) > 0);
	struct rlimit files = {300, 1000}, core = {0, 0}, cpu = {5000, RLIM_INFINITY};
	MUST(!setrlimit(RLIMIT_NOFILE, &files) && !setrlimit(RLIMIT_CORE, &core));
	MUST(!setrlimit(RLIMIT_CPU, &cpu));
	MUST(personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE) != -1);
	MUST(!prctl(PR_SET_NAME, "a (strange) na"));
	MUST(!prctl(PR_SET_CHILD_SUBREAPER, 1) && !prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	/* From here on no other user's process may look in; root's may. */
	MUST(!prctl(PR_SET_DUMPABLE, 0));
}

static void signals(void)
{
	struct sigaction action;
	TRUE(!sigaction(SIGUSR1, NULL, &action));
	EQUAL(action.sa_sigaction, with_info);
	EQUAL(action.sa_flags & ~0x04000000, SA_SIGINFO | SA_ONSTACK | SA_NODEFER);
	for (int signal = 1; signal < 65; signal++)
		if (signal != 32 && signal != 33)
			EQUAL(sigismember(&action.sa_mask, signal) == 1,
			      signal == SIGTERM || signal == SIGRTMIN + 7);
	TRUE(!sigaction(SIGPIPE, NULL, &action) && action.sa_handler == SIG_IGN);
	TRUE(!sigaction(SIGWINCH, NULL, &action) && action.sa_handler == SIG_IGN);
	TRUE(!sigaction(SIGRTMAX, NULL, &action) && action.sa_handler == ticked);
	TRUE(action.sa_flags & SA_RESETHAND);
	TRUE(!sigaction(SIGTERM, NULL, &action) && action.sa_handler == SIG_DFL);
	sigset_t set;
	TRUE(!sigprocmask(SIG_SETMASK, NULL, &set));
	for (int signal = 1; signal < 65; signal++)
		if (signal != 32 && signal != 33)
			EQUAL(sigismember(&set, signal) == 1,
			      signal == SIGUSR2 || signal == SIGRTMIN || signal == SIGHUP);
	stack_t stack;
	TRUE(!sigaltstack(NULL, &stack));
	EQUAL(stack.ss_sp, alternate);
	EQUAL(stack.ss_size, sizeof alternate);
	EQUAL(stack.ss_flags, 0);
	kill(pid, SIGUSR1);
	TRUE(on_alternate);
}

static void timers(void)
{
	struct itimerval now;
	TRUE(!getitimer(ITIMER_REAL, &now));
	EQUAL(now.it_interval.tv_usec, 30000);
	int before = alarms;
	for (int i = 0; i < 100 && alarms < before + 3; i++)
		pause_ms(10);
	TRUE(alarms >= before + 3);
	TRUE(!getitimer(ITIMER_PROF, &now));
	EQUAL(now.it_interval.tv_sec, 700);
	TRUE(now.it_value.tv_sec > 700 && now.it_value.tv_sec <= 800);
	TRUE(!getitimer(ITIMER_VIRTUAL, &now) && now.it_value.tv_sec == 0);
}

static void attributes(void)
{
	char name[4096] = "";
	EQUAL(getpid(), pid);
	EQUAL(syscall(SYS_gettid), pid);
	EQUAL(umask(0), 027);
	TRUE(getcwd(name, sizeof name) && !strcmp(name, cwd));
	memset(name, 0, sizeof name);
	TRUE(readlink("/proc/self/exe", name, sizeof name) > 0 && !strcmp(name, exe));
	struct rlimit limit;
	TRUE(!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == 300 && limit.rlim_max == 1000);
	TRUE(!getrlimit(RLIMIT_CORE, &limit) && limit.rlim_cur == 0 && limit.rlim_max == 0);
	TRUE(!getrlimit(RLIMIT_CPU, &limit) && limit.rlim_cur == 5000);
	TRUE(personality(0xffffffff) & ADDR_NO_RANDOMIZE);
	memset(name, 0, sizeof name);
	TRUE(!prctl(PR_GET_NAME, name) && !strcmp(name, "a (strange) na"));
	int reaper = 0;
	TRUE(!prctl(PR_GET_CHILD_SUBREAPER, &reaper) && reaper == 1);
	EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
	EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
	EQUAL(prctl(PR_GET_DUMPABLE), 0);
}

/* What the kernel shows of the process's own memory: cmdline, environ. */
static void memory_map(void)
{
	char bytes[4096] = "";
	FILE *file = fopen("/proc/self/cmdline", "r");
	TRUE(file && fread(bytes, 1, sizeof bytes, file) > 0);
	size_t len = strlen(bytes);
	TRUE(!strcmp(bytes + len + 1, directory));
	fclose(file);
	file = fopen("/proc/self/environ", "r");
	size_t count = file ? fread(bytes, 1, sizeof bytes, file) : 0;
	TRUE(memmem(bytes, count, "ENGINE_TEST=yes", 15));
	fclose(file);
	unsigned long auxv[64] = {0};
	file = fopen("/proc/self/auxv", "r");
	TRUE(file && fread(auxv, 8, 64, file) > 10);
	int page = 0;
	for (int i = 0; i < 64 && auxv[i]; i += 2)
		page |= auxv[i] == 6 && auxv[i + 1] == PAGE;
	TRUE(page);
	fclose(file);
}

/* Children, and the vDSO. */
static void still_works(void)
{
	pid_t child = fork();
	if (!child) {
		execl("/bin/sh", "sh", "-c", "exit 7", NULL);
		_exit(1);
	}
	int status = 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	struct timespec vdso, kernel;
	TRUE(!clock_gettime(CLOCK_MONOTONIC, &vdso));
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &kernel);
	TRUE(kernel.tv_sec - vdso.tv_sec <= 1 && kernel.tv_sec >= vdso.tv_sec);
	TRUE(sched_getcpu() >= 0);
}

static void verify(void)
{
	signals();
	timers();
	attributes();
	memory_map();
	still_works();
}
