/* Does one thing that an image cannot hold, then counts: refused KIND DIR. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>

#define MUST(condition)                                                        \
	do {                                                                   \
		if (!(condition)) {                                            \
			printf("unavailable: %s (%s)\n", #condition,           \
			       strerror(errno));                               \
			exit(3);                                               \
		}                                                              \
	} while (0)

static void connected(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!bind(listener, (struct sockaddr *)&address, len) && !listen(listener, 1));
	MUST(!getsockname(listener, (struct sockaddr *)&address, &len));
	MUST(!connect(client, (struct sockaddr *)&address, len) && accept(listener, NULL, NULL) >= 0);
	printf("peer 127.0.0.1:%d\n", ntohs(address.sin_port));
}

/* In the directory that is the current one, but by its whole path. */
static void unix_socket(const char *kind)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec data = {"x", 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};
	int ends[2], listener, client;
	if (!strcmp(kind, "in-flight")) {
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memset(CMSG_DATA(header), 0, sizeof(int));
		MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends) && sendmsg(ends[0], &message, 0) == 1);
		return;
	}
	MUST(getcwd(address.sun_path, 90) && strcat(address.sun_path, "/s"));
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(!bind(listener, (void *)&address, sizeof address) && !listen(listener, 5));
	if (!strcmp(kind, "gone")) {
		MUST(!unlink(address.sun_path));
		return;
	}
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(!connect(client, (void *)&address, sizeof address));
	if (!strcmp(kind, "waiting"))
		close(client);
	else
		MUST(accept(listener, NULL, NULL) >= 0);
}

static void *slow_to_exec(void *unused)
{
	struct timespec two = {2, 0};
	if (!vfork()) {
		syscall(SYS_nanosleep, &two, NULL);
		_exit(0);
	}
	return unused;
}

static int life(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (pause())
		;
	return 0;
}

/* A child with these flags of clone(2), old enough to belong to us. */
static pid_t child(int flags)
{
	static char stacks[2][65536] __attribute__((aligned(16)));
	static int made;
	struct timespec old = {0, 300000000};
	pid_t pid = clone(life, stacks[made++] + 65536, flags, NULL);
	nanosleep(&old, NULL);
	return pid;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* A thread that takes something for itself, then waits. */
static void *apart(void *kind)
{
	if (!strcmp(kind, "thread-seccomp")) {
		struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
		struct sock_fprog program = {1, all};
		MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		MUST(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	} else if (!strcmp(kind, "thread-user")) {
		MUST(!syscall(SYS_setresuid, -1, 65534, -1));
	} else if (!strcmp(kind, "thread-cwd")) {
		MUST(!syscall(SYS_unshare, 0x200) && !chdir("/")); /* CLONE_FS */
	} else {
		MUST(!syscall(SYS_unshare, 0x400)); /* CLONE_FILES */
	}
	printf("ready\n");
	for (;;)
		pause();
}

static void start(const char *kind)
{
	int ends[2], fd;
	if (!strcmp(kind, "tcp")) {
		connected();
	} else if (!strcmp(kind, "udp-unread")) {
		struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof address;
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		MUST(!bind(fd, (void *)&address, len) && !getsockname(fd, (void *)&address, &len));
		MUST(!connect(fd, (void *)&address, len) && !send(fd, "", 0, 0));
	} else if (!strncmp(kind, "unix-", 5)) {
		unix_socket(kind + 5);
	} else if (!strcmp(kind, "filter")) {
		struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, -1)};
		struct sock_fprog program = {1, all};
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		MUST(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
	} else if (!strcmp(kind, "netlink")) {
		MUST(socket(AF_NETLINK, SOCK_RAW, 0) >= 0);
	} else if (!strcmp(kind, "child-memory")) {
		MUST(child(CLONE_VM | SIGCHLD) > 0);
	} else if (!strcmp(kind, "child-fds")) {
		MUST(child(CLONE_FILES | SIGCHLD) > 0);
	} else if (!strcmp(kind, "child-cwd")) {
		MUST(child(CLONE_FS | SIGCHLD) > 0);
	} else if (!strcmp(kind, "child-signal")) {
		MUST(child(SIGUSR1) > 0);
	} else if (!strcmp(kind, "child-group")) {
		/* In the group of a process that is gone. */
		pid_t leader = fork();
		if (!leader)
			for (;;)
				pause();
		MUST(!setpgid(leader, leader));
		pid_t member = child(SIGCHLD);
		MUST(member > 0 && !setpgid(member, leader));
		MUST(!kill(leader, SIGKILL) && waitpid(leader, NULL, 0) == leader);
	} else if (!strcmp(kind, "child-session")) {
		/* In a session whose leader is gone, below us by adoption. */
		MUST(!prctl(PR_SET_CHILD_SUBREAPER, 1));
		pid_t leader = fork();
		if (!leader) {
			MUST(setsid() > 0 && child(SIGCHLD) > 0);
			_exit(0);
		}
		MUST(waitpid(leader, NULL, 0) == leader);
	} else if (!strcmp(kind, "cpuid")) {
		MUST(!syscall(SYS_arch_prctl, 0x1012, 0)); /* ARCH_SET_CPUID */
	} else if (!strcmp(kind, "dispatch")) {
		static char selector;
		MUST(!prctl(59, 1, 0, ~0ul >> 1, &selector)); /* PR_SET_SYSCALL_USER_DISPATCH */
	} else if (!strcmp(kind, "speculation")) {
		MUST(prctl(PR_GET_SPECULATION_CTRL, 0, 0, 0, 0) == 3);
		MUST(!prctl(PR_SET_SPECULATION_CTRL, 0, 4, 0, 0));
	} else if (!strcmp(kind, "inotify")) {
		fd = inotify_init1(0);
		char name[] = "/tmp/watched-XXXXXX";
		MUST(fd >= 0 && mkstemp(name) >= 0);
		/* Which has no name any more. */
		MUST(inotify_add_watch(fd, name, IN_CREATE) >= 0 && !unlink(name));
	} else if (!strcmp(kind, "io_uring")) {
		char params[120] = {0};
		MUST(syscall(SYS_io_uring_setup, 4, params) >= 0);
	} else if (!strcmp(kind, "pidfd")) {
		MUST(syscall(SYS_pidfd_open, getpid(), 0) >= 0);
	} else if (!strcmp(kind, "pipe")) {
		MUST(!pipe(ends));
		if (!fork()) {
			setsid();
			close(ends[0]);
			if (fork())
				_exit(0);
			/* A stranger now, who ends when we do. */
			prctl(PR_SET_NAME, "holder");
			pid_t parent = atoi(getenv("TARGET_PID"));
			while (!kill(parent, 0))
				usleep(20000);
			_exit(0);
		}
		close(ends[1]);
		usleep(200000);
		while (waitpid(-1, NULL, 0) > 0)
			;
	} else if (!strcmp(kind, "packets")) {
		MUST(!pipe2(ends, O_DIRECT));
	} else if (!strcmp(kind, "memfd-huge")) {
		fd = memfd_create("huge", MFD_HUGETLB);
		MUST(fd >= 0 && !ftruncate(fd, 2 << 20));
		MUST(mmap(NULL, 2 << 20, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0) != MAP_FAILED);
		close(fd);
	} else if (!strcmp(kind, "memfd-huge-open")) {
		MUST(memfd_create("huge", MFD_HUGETLB) >= 0);
	} else if (!strcmp(kind, "sysv")) {
		int id = shmget(IPC_PRIVATE, 4096, 0600);
		MUST(id >= 0 && shmat(id, NULL, 0) != (void *)-1 && !shmctl(id, IPC_RMID, NULL));
	} else if (!strcmp(kind, "deleted")) {
		usleep(50000);
		fd = open("deleted", O_CREAT | O_RDWR, 0600);
		MUST(fd >= 0 && !unlink("deleted") && !ftruncate(fd, 32 << 20));
	} else if (!strcmp(kind, "renamed")) {
		/* It has another name, which nothing tells. */
		fd = open("renamed", O_CREAT | O_RDWR, 0600);
		MUST(fd >= 0 && !link("renamed", "other") && !unlink("renamed"));
	} else if (!strcmp(kind, "fifo")) {
		MUST(!mkfifo("fifo", 0600) && open("fifo", O_RDWR) == 3);
		MUST(open("fifo", O_RDONLY) == 4 && write(3, "x", 1) == 1 && !close(3));
	} else if (!strcmp(kind, "cwd")) {
		MUST(!mkdir("gone", 0700) && !chdir("gone") && !rmdir("../gone"));
	} else if (!strcmp(kind, "async")) {
		MUST(!pipe(ends) && !fcntl(ends[0], F_SETFL, O_ASYNC));
	} else if (!strcmp(kind, "lease")) {
		fd = open("leased", O_CREAT | O_RDWR, 0600);
		close(fd);
		fd = open("leased", O_RDONLY);
		MUST(fd >= 0 && !fcntl(fd, F_SETLEASE, F_RDLCK));
	} else if (!strcmp(kind, "ofd-lock")) {
		struct flock lock = {.l_type = F_WRLCK};
		fd = open("locked", O_CREAT | O_RDWR, 0600);
		MUST(fd >= 0 && !fcntl(fd, F_OFD_SETLK, &lock));
	} else if (!strcmp(kind, "userfaultfd")) {
		struct uffdio_api api = {.api = UFFD_API};
		fd = syscall(SYS_userfaultfd, O_CLOEXEC);
		MUST(fd >= 0 && !ioctl(fd, UFFDIO_API, &api));
	} else if (!strcmp(kind, "pkey")) {
		int key = pkey_alloc(0, 0);
		void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(key > 0 && !pkey_mprotect(at, 4096, PROT_READ, key));
	} else if (!strcmp(kind, "seccomp")) {
		struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
		struct sock_fprog program = {1, all};
		MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		MUST(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	} else if (!strcmp(kind, "sealed")) {
		void *at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(!syscall(462, at, 4096, 0)); /* mseal, Linux 6.10 */
	} else if (!strcmp(kind, "pending")) {
		sigset_t set;
		sigemptyset(&set), sigaddset(&set, SIGTERM);
		MUST(!sigprocmask(SIG_BLOCK, &set, NULL) && !kill(getpid(), SIGTERM));
	} else if (!strcmp(kind, "vfork")) {
		/* A thread that cannot be stopped for two seconds. */
		pthread_t thread;
		MUST(!pthread_create(&thread, NULL, slow_to_exec, NULL));
		usleep(100000);
	} else if (!strcmp(kind, "alarm")) {
		/* Not refused: expires again and again while it is dumped. */
		struct itimerval often = {{0, 700}, {0, 700}};
		MUST(signal(SIGALRM, on_alarm) != SIG_ERR && !setitimer(ITIMER_REAL, &often, NULL));
	} else if (!strcmp(kind, "capabilities")) {
		unsigned header[2] = {0x20080522, 0}, none[6] = {0};
		MUST(!syscall(SYS_capset, header, none));
	} else if (!strcmp(kind, "groups")) {
		gid_t group = 65534;
		MUST(!syscall(SYS_setgroups, 1, &group));
	} else if (!strncmp(kind, "thread-", 7)) {
		pthread_t thread;
		MUST(!pthread_create(&thread, NULL, apart, (void *)kind));
		sleep(1);
	} else if (!strcmp(kind, "namespace")) {
		MUST(!syscall(SYS_unshare, 0x04000000)); /* CLONE_NEWUTS */
	} else if (strcmp(kind, "nothing")) {
		MUST(!"known");
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	MUST(argc == 3 && !chdir(argv[2]));
	char pid[20];
	snprintf(pid, sizeof pid, "%d", getpid());
	setenv("TARGET_PID", pid, 1);
	start(argv[1]);
	printf("ready\n");
	for (int i = 0;; i++) {
		printf("tick %d\n", i);
		usleep(5000);
	}
}
