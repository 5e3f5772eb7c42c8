/* Sockets: UDP, Unix ones of every type, options. */
#include "harness.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
	BOUND = 40, CONNECTED, UNBOUND, SIX, TUNED = 50,
	LISTENING = 60, ABSTRACT, NAMED, NAMELESS, TO_NAMED, FRESH,
	STREAM_A = 80, STREAM_B = 70, PACKETS_A, PACKETS_B, DGRAM_A, DGRAM_B, SHUT_A, SHUT_B,
	LOW_B = 3, LOW_A = 4,
};

static struct sockaddr_in bound_to;
static struct sockaddr_in6 six_to;
static char big[100000];

static void move(int fd, int number, int flags)
{
	MUST(fd >= 0 && dup3(fd, number, flags) == number && !close(fd));
}

static void set(int fd, int level, int name, int value)
{
	MUST(!setsockopt(fd, level, name, &value, sizeof value));
}

static int get(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	getsockopt(fd, level, name, &value, &len);
	return value;
}

static socklen_t name_it(struct sockaddr_un *address, const char *name, int abstract)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	strcpy(address->sun_path + abstract, name);
	return offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1;
}

static const char *abstract_name(void)
{
	static char name[80];
	snprintf(name, sizeof name, "warmstart-test-%d", getpid());
	return name;
}

static void internet(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t len = sizeof bound_to;
	move(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), BOUND, O_CLOEXEC);
	set(BOUND, SOL_SOCKET, SO_BROADCAST, 1), set(BOUND, IPPROTO_IP, IP_TOS, 0x10);
	set(BOUND, IPPROTO_IP, IP_PKTINFO, 1), set(BOUND, SOL_SOCKET, SO_RCVBUF, 30000);
	MUST(!bind(BOUND, (void *)&any, sizeof any) && !getsockname(BOUND, (void *)&bound_to, &len));
	move(socket(AF_INET, SOCK_DGRAM, 0), CONNECTED, 0);
	MUST(!connect(CONNECTED, (void *)&bound_to, len));
	move(socket(AF_INET, SOCK_DGRAM, 0), UNBOUND, 0);
	set(UNBOUND, IPPROTO_IP, IP_MULTICAST_TTL, 7);
	move(socket(AF_INET6, SOCK_DGRAM, 0), SIX, 0);
	set(SIX, IPPROTO_IPV6, IPV6_V6ONLY, 1), set(SIX, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9);
	set(SIX, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	len = sizeof six_to;
	/* Without IPv6 it stays unbound. */
	if (!bind(SIX, (void *)&any6, sizeof any6))
		MUST(!getsockname(SIX, (void *)&six_to, &len));
	move(socket(AF_INET, SOCK_STREAM, 0), TUNED, 0);
	set(TUNED, SOL_SOCKET, SO_REUSEPORT, 1), set(TUNED, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	set(TUNED, IPPROTO_TCP, TCP_FASTOPEN, 17), set(TUNED, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
	set(TUNED, IPPROTO_IP, IP_TOS, 0x08), set(TUNED, IPPROTO_IP, IP_TTL, 33);
	set(TUNED, IPPROTO_TCP, TCP_SYNCNT, 3), set(TUNED, SOL_SOCKET, SO_SNDBUF, 60000);
	set(TUNED, IPPROTO_TCP, TCP_MAXSEG, 1000), set(TUNED, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096);
	MUST(!bind(TUNED, (void *)&any, sizeof any) && !listen(TUNED, 9));
}

static void pairs(void)
{
	int ends[2];
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	move(ends[0], STREAM_A, O_CLOEXEC), move(ends[1], STREAM_B, 0);
	MUST(!fcntl(STREAM_A, F_SETFL, O_NONBLOCK));
	MUST(write(STREAM_A, "to b, ", 6) == 6 && write(STREAM_A, "and more", 8) == 8);
	MUST(write(STREAM_B, big, sizeof big) == sizeof big);
	MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
	move(ends[0], PACKETS_A, 0), move(ends[1], PACKETS_B, 0);
	MUST(write(PACKETS_A, "one", 3) == 3 && write(PACKETS_A, "three", 5) == 5);
	MUST(!socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	move(ends[0], DGRAM_A, 0), move(ends[1], DGRAM_B, 0);
	set(DGRAM_B, SOL_SOCKET, SO_PASSCRED, 1);
	MUST(write(DGRAM_B, "x", 1) == 1 && write(DGRAM_B, big, 5000) == 5000);
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	move(ends[0], SHUT_A, 0), move(ends[1], SHUT_B, 0);
	MUST(write(SHUT_A, "last", 4) == 4 && !shutdown(SHUT_A, SHUT_WR));
	/* At the lowest numbers, swapped. */
	if (LOW_A < 200) {
		dup2(3, 90), dup2(4, 91);
		MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
		dup2(ends[0], 92), dup2(ends[1], 93);
		close(ends[0]), close(ends[1]);
		move(92, LOW_A, 0), move(93, LOW_B, 0);
		close(90), close(91);
	}
}

static void setup(void)
{
	struct sockaddr_un address;
	socklen_t len;
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = i * 7 >> 3;
	internet();
	pairs();
	move(socket(AF_UNIX, SOCK_STREAM, 0), LISTENING, O_CLOEXEC);
	len = name_it(&address, path("listening"), 0);
	mode_t before = umask(027);
	MUST(!bind(LISTENING, (void *)&address, len) && !listen(LISTENING, 21));
	umask(before);
	move(socket(AF_UNIX, SOCK_SEQPACKET, 0), ABSTRACT, 0);
	len = name_it(&address, abstract_name(), 1);
	MUST(!bind(ABSTRACT, (void *)&address, len) && !listen(ABSTRACT, 3));
	move(socket(AF_UNIX, SOCK_DGRAM, 0), NAMED, 0);
	len = name_it(&address, path("named"), 0);
	MUST(!bind(NAMED, (void *)&address, len));
	move(socket(AF_UNIX, SOCK_DGRAM, 0), TO_NAMED, 0);
	MUST(!connect(TO_NAMED, (void *)&address, len));
	move(socket(AF_UNIX, SOCK_DGRAM, 0), NAMELESS, 0);
	move(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), FRESH, 0);
}

static void check_internet(void)
{
	struct sockaddr_in now;
	struct sockaddr_in6 now6;
	socklen_t len = sizeof now;
	char text[8];
	TRUE(!getsockname(BOUND, (void *)&now, &len) && now.sin_port == bound_to.sin_port);
	TRUE(!getpeername(CONNECTED, (void *)&now, &len) && now.sin_port == bound_to.sin_port);
	EQUAL(write(CONNECTED, "hello", 5), 5);
	EQUAL(read(BOUND, text, 8), 5);
	TRUE(read(BOUND, text, 8) == -1 && errno == EAGAIN);
	EQUAL(fcntl(BOUND, F_GETFD), FD_CLOEXEC);
	EQUAL(get(BOUND, SOL_SOCKET, SO_BROADCAST), 1);
	EQUAL(get(BOUND, IPPROTO_IP, IP_TOS), 0x10);
	EQUAL(get(BOUND, IPPROTO_IP, IP_PKTINFO), 1);
	EQUAL(get(BOUND, SOL_SOCKET, SO_RCVBUF), 60000);
	EQUAL(get(UNBOUND, IPPROTO_IP, IP_MULTICAST_TTL), 7);
	EQUAL(sendto(UNBOUND, "far", 3, 0, (void *)&bound_to, sizeof bound_to), 3);
	EQUAL(read(BOUND, text, 8), 3);
	EQUAL(get(SIX, IPPROTO_IPV6, IPV6_UNICAST_HOPS), 9);
	EQUAL(get(SIX, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	EQUAL(get(SIX, IPPROTO_IPV6, IPV6_RECVPKTINFO), 1);
	len = sizeof now6;
	TRUE(!getsockname(SIX, (void *)&now6, &len) && now6.sin6_port == six_to.sin6_port);
	EQUAL(get(TUNED, SOL_SOCKET, SO_ACCEPTCONN), 1);
	EQUAL(get(TUNED, SOL_SOCKET, SO_REUSEPORT), 1);
	TRUE(get(TUNED, IPPROTO_TCP, TCP_DEFER_ACCEPT) >= 5);
	EQUAL(get(TUNED, IPPROTO_TCP, TCP_FASTOPEN), 17);
	EQUAL(get(TUNED, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
	EQUAL(get(TUNED, IPPROTO_TCP, TCP_SYNCNT), 3);
	EQUAL(get(TUNED, IPPROTO_TCP, TCP_MAXSEG), 1000);
	EQUAL(get(TUNED, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 4096);
	EQUAL(get(TUNED, IPPROTO_IP, IP_TOS), 0x08);
	EQUAL(get(TUNED, IPPROTO_IP, IP_TTL), 33);
	EQUAL(get(TUNED, SOL_SOCKET, SO_SNDBUF), 120000);
}

static void check_pairs(void)
{
	static char buffer[sizeof big + 10];
	size_t got = 0;
	ssize_t part;
	struct ucred who;
	socklen_t len = sizeof who;
	TRUE(read(STREAM_B, buffer, 20) == 14 && !memcmp(buffer, "to b, and more", 14));
	while ((part = read(STREAM_A, buffer + got, sizeof buffer - got)) > 0)
		got += part;
	TRUE(part == -1 && errno == EAGAIN);
	TRUE(got == sizeof big && !memcmp(buffer, big, got));
	EQUAL(fcntl(STREAM_A, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(STREAM_B, F_GETFL) & O_NONBLOCK, 0);
	TRUE(!getsockopt(STREAM_A, SOL_SOCKET, SO_PEERCRED, &who, &len) && who.pid == getpid());
	TRUE(write(STREAM_B, "again", 5) == 5 && read(STREAM_A, buffer, 9) == 5);
	TRUE(read(PACKETS_B, buffer, 20) == 3 && read(PACKETS_B, buffer, 20) == 5);
	TRUE(!memcmp(buffer, "three", 5) && recv(PACKETS_B, buffer, 9, MSG_DONTWAIT) == -1);
	TRUE(read(DGRAM_A, buffer, 9) == 1 && read(DGRAM_A, buffer, 9999) == 5000);
	TRUE(!memcmp(buffer, big, 5000));
	EQUAL(get(DGRAM_B, SOL_SOCKET, SO_PASSCRED), 1);
	EQUAL(get(DGRAM_A, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
	TRUE(write(DGRAM_A, "back", 4) == 4 && read(DGRAM_B, buffer, 9) == 4);
	TRUE(read(SHUT_B, buffer, 9) == 4 && read(SHUT_B, buffer, 9) == 0);
	TRUE(send(SHUT_A, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	TRUE(write(SHUT_B, "y", 1) == 1 && read(SHUT_A, buffer, 9) == 1);
	TRUE(write(LOW_A, "low", 3) == 3 && read(LOW_B, buffer, 9) == 3);
	TRUE(write(LOW_B, "lower", 5) == 5 && read(LOW_A, buffer, 9) == 5);
}

static void verify(void)
{
	struct sockaddr_un address;
	socklen_t len = name_it(&address, path("listening"), 0);
	struct stat stat;
	char text[8];
	check_internet();
	check_pairs();
	int client = socket(AF_UNIX, SOCK_STREAM, 0);
	TRUE(!connect(client, (void *)&address, len));
	int server = accept(LISTENING, NULL, NULL);
	TRUE(write(client, "hi", 2) == 2 && read(server, text, 8) == 2);
	TRUE(!lstat(path("listening"), &stat) && S_ISSOCK(stat.st_mode));
	EQUAL(stat.st_mode & 0777, 0750);
	EQUAL(fcntl(LISTENING, F_GETFD), FD_CLOEXEC);
	client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	len = name_it(&address, abstract_name(), 1);
	TRUE(!connect(client, (void *)&address, len) && accept(ABSTRACT, NULL, NULL) >= 0);
	TRUE(write(TO_NAMED, "dgram", 5) == 5 && read(NAMED, text, 8) == 5);
	len = name_it(&address, path("named"), 0);
	TRUE(sendto(NAMELESS, "x", 1, 0, (void *)&address, len) == 1 && read(NAMED, text, 8) == 1);
	EQUAL(get(FRESH, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	EQUAL(fcntl(FRESH, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}
