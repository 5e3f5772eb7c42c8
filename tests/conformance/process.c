/* What belongs to a process as a whole, or to its threads beside registers. */
#include "conform.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

static struct worker worker;
static volatile int stop;

static void directory_of_work(void)
{
	MUST(!mkdir(path("sub"), 0700) && !chdir(path("sub")));
}

static void directory_of_work_kept(void)
{
	char here[4096];
	TRUE(getcwd(here, sizeof here) != NULL);
	TRUE(!strcmp(here, path("sub")));
	TRUE(!access("../go", F_OK));
}

static void deleted_directory(void)
{
	directory_of_work();
	MUST(!rmdir(path("sub")));
}

static void deleted_directory_kept(void)
{
	char here[4096];
	TRUE(getcwd(here, sizeof here) == NULL && errno == ENOENT);
}

static void root_of_its_own(void)
{
	/* A bind mount would be a namespace's; a symbolic look is enough. */
	HERE(!chroot("/proc/self/root/usr/.."));
	MUST(!mkdir(path("root"), 0700));
	int back = open("/", O_PATH);
	MUST(!chroot(path("root")) && !fchdir(back));
	close(back);
	/* Relative to the real root, so that the file "go" is found. */
	memmove(directory, directory + 1, strlen(directory));
}

static void root_of_its_own_kept(void)
{
	TRUE(access("/usr", F_OK));
}

static void mask(void)
{
	umask(027);
}

static void mask_kept(void)
{
	EQUAL(umask(0), 027);
}

static void limits(void)
{
	MUST(!setrlimit(RLIMIT_NOFILE, &(struct rlimit){200, 300}));
	MUST(!setrlimit(RLIMIT_CORE, &(struct rlimit){0, 12345}));
	MUST(!setrlimit(RLIMIT_STACK, &(struct rlimit){4 << 20, RLIM_INFINITY}));
}

static void limits_kept(void)
{
	struct rlimit limit;
	TRUE(!getrlimit(RLIMIT_NOFILE, &limit));
	EQUAL(limit.rlim_cur, 200);
	EQUAL(limit.rlim_max, 300);
	TRUE(!getrlimit(RLIMIT_CORE, &limit));
	EQUAL(limit.rlim_max, 12345);
	TRUE(!getrlimit(RLIMIT_STACK, &limit));
	EQUAL(limit.rlim_cur, 4 << 20);
}

static void persona(void)
{
	MUST(personality(ADDR_NO_RANDOMIZE | SHORT_INODE) >= 0);
}

static void persona_kept(void)
{
	EQUAL(personality(0xffffffff), ADDR_NO_RANDOMIZE | SHORT_INODE);
}

static void niceness_work(struct worker *worker)
{
	setpriority(PRIO_PROCESS, gettid(), 7);
	while (!stop)
		pause_ms(2);
	worker->result = getpriority(PRIO_PROCESS, gettid());
}

static void niceness(void)
{
	MUST(!setpriority(PRIO_PROCESS, 0, 5));
	start(&worker, niceness_work);
}

static void niceness_kept(void)
{
	EQUAL(getpriority(PRIO_PROCESS, 0), 5);
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 7);
}

static void affinity_work(struct worker *worker)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	MUST(!sched_setaffinity(0, sizeof set, &set));
	while (!stop)
		pause_ms(2);
	sched_getaffinity(0, sizeof set, &set);
	worker->result = CPU_COUNT(&set) == 1 && CPU_ISSET(0, &set);
}

static void affinity(void)
{
	HERE(sysconf(_SC_NPROCESSORS_ONLN) > 1);
	start(&worker, affinity_work);
}

static void affinity_kept(void)
{
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 1);
}

static void batch(void)
{
	MUST(!sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}));
}

static void batch_kept(void)
{
	EQUAL(sched_getscheduler(0), SCHED_BATCH);
}

static void real_time(void)
{
	HERE(!sched_setscheduler(0, SCHED_RR, &(struct sched_param){3}));
}

static void real_time_kept(void)
{
	struct sched_param parameter;
	EQUAL(sched_getscheduler(0), SCHED_RR);
	TRUE(!sched_getparam(0, &parameter));
	EQUAL(parameter.sched_priority, 3);
}

static void reset_on_fork(void)
{
	MUST(!sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &(struct sched_param){0}));
}

static void reset_on_fork_kept(void)
{
	EQUAL(sched_getscheduler(0), SCHED_OTHER | SCHED_RESET_ON_FORK);
}

/* IOPRIO_CLASS_BE, level 6. */
static void io_priority(void)
{
	MUST(!syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
}

static void io_priority_kept(void)
{
	EQUAL(syscall(SYS_ioprio_get, 1, 0), 2 << 13 | 6);
}

static void name(void)
{
	MUST(!prctl(PR_SET_NAME, "a (name) b"));
}

static void name_kept(void)
{
	char now[16];
	TRUE(!prctl(PR_GET_NAME, now));
	TRUE(!strcmp(now, "a (name) b"));
	/* Its parent shows as 0 from outside of a namespace. */
	TRUE(proc("/proc/self/stat", "(a (name) b) R ", 10) >= 0);
}

static char *arguments;

static void rewritten(void)
{
	/* As setproctitle(3) does it: over what the kernel shows. */
	FILE *stat = fopen("/proc/self/stat", "r");
	unsigned long start = 0;
	char text[4096];
	MUST(fgets(text, sizeof text, stat));
	fclose(stat);
	char *at = strrchr(text, ')') + 2;
	for (int field = 3; field < 48; field++)
		at = strchr(at, ' ') + 1;
	start = strtoul(at, NULL, 10);
	arguments = (char *)start;
	HERE(arguments);
	strcpy(arguments, "another");
}

static void rewritten_kept(void)
{
	char line[64] = "";
	int fd = open("/proc/self/cmdline", O_RDONLY);
	TRUE(read(fd, line, sizeof line - 1) > 0);
	close(fd);
	TRUE(!strcmp(line, "another"));
}

static char exe[4096], auxv[2048], environment[4096];
static ssize_t auxv_length;

static ssize_t all(const char *name, char *into, size_t most)
{
	int fd = open(name, O_RDONLY);
	ssize_t length = read(fd, into, most);
	close(fd);
	return length;
}

static void own_view(void)
{
	MUST(readlink("/proc/self/exe", exe, sizeof exe) > 0);
	MUST((auxv_length = all("/proc/self/auxv", auxv, sizeof auxv)) > 0);
	MUST(all("/proc/self/environ", environment, sizeof environment) > 0);
}

static void own_view_kept(void)
{
	char now[4096] = "";
	TRUE(readlink("/proc/self/exe", now, sizeof now) > 0 && !strcmp(now, exe));
	EQUAL(all("/proc/self/auxv", now, sizeof now), auxv_length);
	TRUE(!memcmp(now, auxv, auxv_length));
	memset(now, 0, sizeof now);
	TRUE(all("/proc/self/environ", now, sizeof now) > 0);
	TRUE(!memcmp(now, environment, sizeof now));
	EQUAL(proc("/proc/self/stat", "", 10), getpid());
}

#define FLAG(what, set, get, value)                                            \
	static void what(void)                                                 \
	{                                                                      \
		HERE(!prctl(set, value, 0, 0, 0));                             \
	}                                                                      \
	static void what##_kept(void)                                          \
	{                                                                      \
		EQUAL(prctl(get, 0, 0, 0, 0), value);                          \
	}

FLAG(undumpable, PR_SET_DUMPABLE, PR_GET_DUMPABLE, 0)
FLAG(no_new_privs, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, 1)
FLAG(no_huge_pages, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE, 1)
FLAG(keeps, PR_SET_KEEPCAPS, PR_GET_KEEPCAPS, 1)
FLAG(slack, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, 123456)
FLAG(flusher, PR_SET_IO_FLUSHER, PR_GET_IO_FLUSHER, 1)
FLAG(merges, PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE, 1)
FLAG(no_write_exec, PR_SET_MDWE, PR_GET_MDWE, 1)

static void reaps(void)
{
	MUST(!prctl(PR_SET_CHILD_SUBREAPER, 1));
}

static void reaps_kept(void)
{
	int set = 0;
	TRUE(!prctl(PR_GET_CHILD_SUBREAPER, &set));
	EQUAL(set, 1);
}

static void dies_with_parent(void)
{
	MUST(!prctl(PR_SET_PDEATHSIG, SIGUSR2));
}

static void dies_with_parent_kept(void)
{
	int signal = 0;
	TRUE(!prctl(PR_GET_PDEATHSIG, &signal));
	EQUAL(signal, SIGUSR2);
}

static void machine_checks(void)
{
	HERE(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
}

static void machine_checks_kept(void)
{
	EQUAL(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
}

static void no_tsc(void)
{
	HERE(!prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
}

static void no_tsc_kept(void)
{
	int mode = 0;
	TRUE(!prctl(PR_GET_TSC, &mode, 0, 0, 0));
	EQUAL(mode, PR_TSC_SIGSEGV);
}

static void speculation(void)
{
	int state = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	HERE(state & PR_SPEC_PRCTL);
	HERE(!prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0));
}

static void speculation_kept(void)
{
	int state = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	EQUAL(state & PR_SPEC_DISABLE, PR_SPEC_DISABLE);
}

static char selector;

static void dispatch(void)
{
	HERE(!prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector));
}

static volatile int dispatched;

static void dispatched_one(int signal, siginfo_t *info, void *context)
{
	selector = SYSCALL_DISPATCH_FILTER_ALLOW;
	dispatched = 1;
}

static void dispatch_kept(void)
{
	struct sigaction action = {.sa_sigaction = dispatched_one, .sa_flags = SA_SIGINFO};
	sigaction(SIGSYS, &action, NULL);
	selector = SYSCALL_DISPATCH_FILTER_BLOCK;
	getppid();
	selector = SYSCALL_DISPATCH_FILTER_ALLOW;
	EQUAL(dispatched, 1);
}

static void filter(void)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog program = {1, allow};
	MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	HERE(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void filter_kept(void)
{
	EQUAL(proc("/proc/self/status", "Seccomp:", 10), 2);
}

static void thread_filter_work(struct worker *worker)
{
	filter();
	while (!stop)
		pause_ms(2);
	char name[64];
	snprintf(name, sizeof name, "/proc/self/task/%d/status", gettid());
	worker->result = proc(name, "Seccomp:", 10);
}

static void thread_filter(void)
{
	start(&worker, thread_filter_work);
}

static void thread_filter_kept(void)
{
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 2);
}

static void secured(void)
{
	HERE(!prctl(PR_SET_SECUREBITS, SECBIT_NOROOT));
}

static void secured_kept(void)
{
	EQUAL(prctl(PR_GET_SECUREBITS), SECBIT_NOROOT);
}

static void fewer_rights(void)
{
	HERE(!prctl(PR_CAPBSET_DROP, CAP_SYS_TIME));
}

static void fewer_rights_kept(void)
{
	EQUAL(prctl(PR_CAPBSET_READ, CAP_SYS_TIME), 0);
}

static void another_user(void)
{
	HERE(!setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 0));
}

static void another_user_kept(void)
{
	EQUAL(geteuid(), 65534);
}

static void other_groups(void)
{
	HERE(!setgroups(2, (gid_t[]){7, 4242}));
}

static void other_groups_kept(void)
{
	gid_t groups[8];
	EQUAL(getgroups(8, groups), 2);
	EQUAL(groups[1], 4242);
}

static void of_another_user_work(struct worker *worker)
{
	/* A thread's, not the process's: the C library would tell them all. */
	syscall(SYS_setresuid, -1, 65534, -1);
	while (!stop)
		pause_ms(2);
	worker->result = syscall(SYS_geteuid);
}

static void of_another_user(void)
{
	start(&worker, of_another_user_work);
}

static void of_another_user_kept(void)
{
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 65534);
}

static void dumps_more(void)
{
	int fd = open("/proc/self/coredump_filter", O_WRONLY);
	MUST(write(fd, "0x7f", 4) == 4);
	close(fd);
}

static void dumps_more_kept(void)
{
	EQUAL(proc("/proc/self/coredump_filter", "", 16), 0x7f);
}

static void oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	MUST(write(fd, "345", 3) == 3);
	close(fd);
}

static void oom_score_kept(void)
{
	EQUAL(proc("/proc/self/oom_score_adj", "", 10), 345);
}

static void session(void)
{
	pid_t before = getsid(0);
	HERE(before != getpid() && getpgrp() != getpid() && setsid() == getpid());
}

static void session_kept(void)
{
	EQUAL(getsid(0), getpid());
	EQUAL(getpgrp(), getpid());
}

static void group(void)
{
	HERE(getpgrp() != getpid() && !setpgid(0, 0));
}

static void group_kept(void)
{
	EQUAL(getpgrp(), getpid());
}

/* KEYCTL_JOIN_SESSION_KEYRING is 1, KEYCTL_SEARCH 10; -3 is the session's. */
static void keyring(void)
{
	HERE(syscall(SYS_keyctl, 1, "conform") > 0);
	MUST(syscall(SYS_add_key, "user", "conform:key", "secret", 6, -3) > 0);
}

static void keyring_kept(void)
{
	TRUE(syscall(SYS_keyctl, 10, -3, "user", "conform:key", 0) > 0);
}

/* The process's and the thread's own keyrings are -2 and -1. */
static void own_keyring(void)
{
	HERE(syscall(SYS_add_key, "user", "conform:own", "secret", 6, -2) > 0);
}

static void own_keyring_kept(void)
{
	TRUE(syscall(SYS_keyctl, 10, -2, "user", "conform:own", 0) > 0);
}

static void restricted(void)
{
	struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_FIFO};
	int fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
	HERE(fd >= 0);
	MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(!syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
}

static void restricted_kept(void)
{
	EQUAL(mkfifo(path("no"), 0600), -1);
	EQUAL(errno, EACCES);
}

static void host_name(void)
{
	HERE(!unshare(CLONE_NEWUTS) && !sethostname("conform", 7));
}

static void host_name_kept(void)
{
	char name[65] = "";
	TRUE(!gethostname(name, 64));
	TRUE(!strcmp(name, "conform"));
}

static char namespace[64];

static void mounts(void)
{
	HERE(!unshare(CLONE_NEWNS));
	MUST(readlink("/proc/self/ns/mnt", namespace, 63) > 0);
}

static void mounts_kept(void)
{
	char now[64] = "";
	TRUE(readlink("/proc/self/ns/mnt", now, 63) > 0);
	TRUE(!strcmp(now, namespace));
}

static void for_children(void)
{
	/* Itself it stays where it is. */
	HERE(!unshare(CLONE_NEWPID));
}

static void for_children_kept(void)
{
	char own[64] = "", children[64] = "";
	TRUE(readlink("/proc/self/ns/pid", own, 63) > 0);
	ssize_t got = readlink("/proc/self/ns/pid_for_children", children, 63);
	TRUE(got < 0 || strcmp(own, children));
}

/* MEMBARRIER_CMD_PRIVATE_EXPEDITED is 8, its registration 16. */
static void barrier(void)
{
	HERE(!syscall(SYS_membarrier, 16, 0, 0));
}

static void barrier_kept(void)
{
	TRUE(!syscall(SYS_membarrier, 8, 0, 0));
}

static int semaphores;

/* A set of semaphores, which the suite removes if the program cannot. */
static int set_of(int number)
{
	int set = semget(IPC_PRIVATE, number, IPC_CREAT | 0600);
	HERE(set >= 0);
	FILE *file = fopen(path("semaphores"), "w");
	MUST(file && fprintf(file, "%d", set) > 0 && !fclose(file));
	return set;
}

static void undone(void)
{
	semaphores = set_of(1);
	struct sembuf up = {0, 3, SEM_UNDO};
	MUST(!semop(semaphores, &up, 1));
}

/* Nobody has taken back what the end of the process would. */
static void undone_kept(void)
{
	EQUAL(semctl(semaphores, 0, GETVAL), 3);
	semctl(semaphores, 0, IPC_RMID);
}

static void children(void)
{
	MUST(setenv("LATER", "yes", 1) == 0);
}

static void children_kept(void)
{
	TRUE(system("test \"$LATER\" = yes && exit 5") >> 8 == 5);
	int status;
	pid_t child = fork();
	if (!child)
		_exit(getppid() > 0 ? 3 : 4);
	TRUE(waitpid(child, &status, 0) == child);
	EQUAL(WEXITSTATUS(status), 3);
}

static void files_of_its_own_work(struct worker *worker)
{
	MUST(!unshare(CLONE_FILES));
	worker->error = open("/dev/null", O_RDWR);
	while (!stop)
		pause_ms(2);
	worker->result = fcntl(worker->error, F_GETFD);
}

static void files_of_its_own(void)
{
	start(&worker, files_of_its_own_work);
}

static void files_of_its_own_kept(void)
{
	EQUAL(fcntl(worker.error, F_GETFD), -1);
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 0);
}

static double before;
static volatile int profiled;

static void profile(int signal)
{
	profiled = 1;
}

/* Nothing sets the clock of a process: in a restored one it begins anew. Timers
 * that go by it keep what was left of them. */
static void used(void)
{
	while (clock() < CLOCKS_PER_SEC / 10)
		;
	before = now(CLOCK_PROCESS_CPUTIME_ID);
	signal(SIGPROF, profile);
	MUST(!setitimer(ITIMER_PROF, &(struct itimerval){{0, 0}, {0, 300000}}, NULL));
}

static void used_kept(void)
{
	double first = now(CLOCK_PROCESS_CPUTIME_ID), last = first, stalled = 0;
	TRUE(first > 0 && !profiled);
	while (!profiled && last < first + 2 + stalled) {
		double next = now(CLOCK_PROCESS_CPUTIME_ID);
		if (next < last)
			TRUE(!"it goes back");
		/* A machine that stood still counts it, and no timer ends meanwhile. */
		if (next > last + 0.02)
			stalled += next - last;
		last = next;
	}
	TRUE(profiled && last > first + 0.1 && last < first + 0.6 + stalled);
	TRUE(clock() >= (last - 0.01) * CLOCKS_PER_SEC);
}

static int counted;

/* What a program does to semaphores without SEM_UNDO stays when it ends. */
static void counts(void)
{
	counted = set_of(2);
	MUST(!semop(counted, &(struct sembuf){1, 3, 0}, 1));
}

static void counts_kept(void)
{
	EQUAL(semctl(counted, 1, GETVAL), 3);
	semctl(counted, 0, IPC_RMID);
}

static void undone_by_work(struct worker *worker)
{
	while (!stop)
		pause_ms(2);
	worker->result = semop(semaphores, &(struct sembuf){0, -1, IPC_NOWAIT}, 1);
}

/* Its threads share one list of what is to be undone. */
static void undone_by_one(void)
{
	undone();
	start(&worker, undone_by_work);
}

static void undone_by_one_kept(void)
{
	stop = 1;
	finish(&worker);
	EQUAL(worker.result, 0);
	EQUAL(semctl(semaphores, 0, GETVAL), 2);
	semctl(semaphores, 0, IPC_RMID);
}

static const struct feature features[] = {
	{"cwd", "working directory", directory_of_work, directory_of_work_kept},
	{"cwd-deleted", "deleted working directory", deleted_directory, deleted_directory_kept},
	{"chroot", "root directory of its own", root_of_its_own, root_of_its_own_kept},
	{"umask", "mask of permissions (umask)", mask, mask_kept},
	{"rlimits", "resource limits that it has changed", limits, limits_kept, LAUNCHED},
	{"personality", "personality", persona, persona_kept, LAUNCHED},
	{"nice", "nice values of threads", niceness, niceness_kept, LAUNCHED},
	{"affinity", "processors of a thread", affinity, affinity_kept, LAUNCHED},
	{"sched-batch", "scheduling policy SCHED_BATCH", batch, batch_kept, LAUNCHED},
	{"sched-rr", "real-time scheduling", real_time, real_time_kept, LAUNCHED},
	{"reset-on-fork", "SCHED_RESET_ON_FORK", reset_on_fork, reset_on_fork_kept, LAUNCHED},
	{"ioprio", "priority of input and output (ioprio_set)", io_priority, io_priority_kept, LAUNCHED},
	{"comm", "name of the process", name, name_kept},
	{"title", "arguments written over (setproctitle)", rewritten, rewritten_kept},
	{"own-view", "its file, auxiliary vector and environment in /proc", own_view, own_view_kept},
	{"dumpable", "PR_SET_DUMPABLE", undumpable, undumpable_kept},
	{"no-new-privs", "PR_SET_NO_NEW_PRIVS", no_new_privs, no_new_privs_kept, LAUNCHED},
	{"thp-disable", "PR_SET_THP_DISABLE", no_huge_pages, no_huge_pages_kept},
	{"keepcaps", "PR_SET_KEEPCAPS", keeps, keeps_kept, LAUNCHED},
	{"timerslack", "PR_SET_TIMERSLACK", slack, slack_kept, LAUNCHED},
	{"io-flusher", "PR_SET_IO_FLUSHER", flusher, flusher_kept},
	{"memory-merge", "PR_SET_MEMORY_MERGE", merges, merges_kept},
	{"mdwe", "PR_SET_MDWE: no memory both writable and executable", no_write_exec, no_write_exec_kept},
	{"subreaper", "PR_SET_CHILD_SUBREAPER", reaps, reaps_kept},
	{"pdeathsig", "PR_SET_PDEATHSIG", dies_with_parent, dies_with_parent_kept},
	{"mce-kill", "PR_MCE_KILL", machine_checks, machine_checks_kept},
	{"no-tsc", "PR_SET_TSC: reading it kills", no_tsc, no_tsc_kept},
	{"speculation", "PR_SET_SPECULATION_CTRL", speculation, speculation_kept},
	{"user-dispatch", "PR_SET_SYSCALL_USER_DISPATCH", dispatch, dispatch_kept},
	{"seccomp", "seccomp filter", filter, filter_kept},
	{"seccomp-thread", "seccomp filter of one thread", thread_filter, thread_filter_kept},
	{"landlock", "Landlock rules", restricted, restricted_kept},
	{"securebits", "securebits", secured, secured_kept, LAUNCHED},
	{"capabilities", "capabilities that it has dropped", fewer_rights, fewer_rights_kept},
	{"setuid", "another user", another_user, another_user_kept},
	{"setgroups", "other groups", other_groups, other_groups_kept},
	{"setuid-thread", "a thread of another user", of_another_user, of_another_user_kept},
	{"coredump-filter", "what a core dump holds", dumps_more, dumps_more_kept, LAUNCHED},
	{"oom-score", "OOM score that it has set", oom_score, oom_score_kept, LAUNCHED},
	{"session", "session of its own", session, session_kept, LAUNCHED},
	{"group", "process group of its own", group, group_kept, LAUNCHED},
	{"keyring", "session keyring of its own", keyring, keyring_kept},
	{"process-keyring", "keyring of the process", own_keyring, own_keyring_kept},
	{"uts-namespace", "UTS namespace of its own", host_name, host_name_kept},
	{"mount-namespace", "mount namespace of its own", mounts, mounts_kept},
	{"pid-for-children", "pid namespace for its children", for_children, for_children_kept},
	{"membarrier", "registration for membarrier", barrier, barrier_kept},
	{"sem-undo", "undo of System V semaphores at its end", undone, undone_kept},
	{"sem-undo-threads", "the same of a program with threads", undone_by_one, undone_by_one_kept},
	{"semaphores", "System V semaphores, nothing to undo", counts, counts_kept},
	{"children-later", "children that it makes afterwards", children, children_kept},
	{"own-files", "a thread with descriptors of its own", files_of_its_own, files_of_its_own_kept},
	{"cpu-time", "timers of processor time; its clock begins anew", used, used_kept},
	{NULL},
};
