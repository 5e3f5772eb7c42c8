/* TCP connections, which a restore brings back as closed by their peers
 * (--tcp close). */
#include "harness.h"
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { CLIENT = 40, SERVER = 41, SIX = 42, OVER = 43, LOW = 3, EPOLL = 50 };
static pid_t parent;

static void move(int fd, int number, int flags)
{
	MUST(fd >= 0 && dup3(fd, number, flags) == number && !close(fd));
}

static void setup(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 mapped = {.sin6_family = AF_INET6};
	socklen_t len = sizeof address;
	int client, server, listener = socket(AF_INET, SOCK_STREAM, 0), keep;
	parent = getppid();
	signal(SIGPIPE, SIG_IGN);
	int yes = 1;
	MUST(!setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes));
	MUST(!bind(listener, (void *)&address, len) && !listen(listener, 5));
	MUST(!getsockname(listener, (void *)&address, &len));
	client = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!connect(client, (void *)&address, len) && (server = accept(listener, 0, 0)) >= 0);
	MUST(write(client, "lost", 4) == 4);
	move(client, CLIENT, O_CLOEXEC), move(server, SERVER, 0);
	MUST(!fcntl(SERVER, F_SETFL, O_NONBLOCK));
	memcpy(mapped.sin6_addr.s6_addr + 10, "\xff\xff\x7f\0\0\1", 6);
	mapped.sin6_port = address.sin_port;
	client = socket(AF_INET6, SOCK_STREAM, 0);
	/* Without IPv6 it is another one of IPv4. */
	if (client < 0 || connect(client, (void *)&mapped, sizeof mapped)) {
		client = socket(AF_INET, SOCK_STREAM, 0);
		MUST(!connect(client, (void *)&address, len));
	}
	MUST(accept(listener, 0, 0) >= 0);
	move(client, SIX, 0);
	/* One that is over already, reset by its client: its multicast TTL is
	 * that of the client's packets, which nobody can set. */
	struct linger now = {1, 0};
	client = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!connect(client, (void *)&address, len) && (server = accept(listener, 0, 0)) >= 0);
	MUST(!setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now) && !close(client));
	move(server, OVER, 0);
	client = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!connect(client, (void *)&address, len) && accept(listener, 0, 0) >= 0);
	keep = dup(LOW);
	move(client, LOW, 0);
	MUST(keep < 0 || keep > LOW);
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = 7};
	move(epoll_create1(0), EPOLL, 0);
	MUST(!epoll_ctl(EPOLL, EPOLL_CTL_ADD, SIX, &event));
}

static void closed(int fd)
{
	char text[8];
	struct pollfd poll_it = {.fd = fd, .events = POLLIN | POLLRDHUP};
	TRUE(poll(&poll_it, 1, 1000) == 1 && poll_it.revents & POLLIN && poll_it.revents & POLLRDHUP);
	EQUAL(read(fd, text, 8), 0);
	/* The first one is answered by the peer that it is not there. */
	int first = write(fd, "x", 1);
	for (int i = 0; first == 1 && i < 1000 && write(fd, "y", 1) == 1; i++)
		pause_ms(1);
	TRUE(write(fd, "z", 1) == -1 && (errno == EPIPE || errno == ECONNRESET));
}

static void verify(void)
{
	char text[8];
	struct epoll_event event;
	if (getppid() == parent) {
		/* Not restored: all is as it was. */
		EQUAL(read(SERVER, text, 8), 4);
		return;
	}
	EQUAL(fcntl(CLIENT, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(CLIENT, F_GETFL) & O_NONBLOCK, 0);
	EQUAL(fcntl(SERVER, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	TRUE(epoll_wait(EPOLL, &event, 1, 1000) == 1 && event.events & EPOLLRDHUP);
	closed(CLIENT), closed(SERVER), closed(SIX), closed(OVER), closed(LOW);
	int family = 0;
	socklen_t len = sizeof family;
	TRUE(!getsockopt(CLIENT, SOL_SOCKET, SO_DOMAIN, &family, &len) && family == AF_INET);
}
