/* Sockets. */
#include "conform.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static int fd = -1, other = -1, pair[2];
static struct sockaddr_storage address;
static socklen_t length;

static void any(int family)
{
	struct sockaddr_in *v4 = (void *)&address;
	struct sockaddr_in6 *v6 = (void *)&address;
	memset(&address, 0, sizeof address);
	address.ss_family = family;
	length = family == AF_INET ? sizeof *v4 : sizeof *v6;
	if (family == AF_INET)
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		v6->sin6_addr = in6addr_loopback;
}

static void named(int family, const char *name)
{
	struct sockaddr_un *local = (void *)&address;
	memset(&address, 0, sizeof address);
	local->sun_family = AF_UNIX;
	if (*name)
		/* Relative: paths of a test are longer than these may be. */
		strcpy(local->sun_path, name);
	else
		sprintf(local->sun_path + 1, "conform-%d", getpid());
	length = *name ? sizeof *local
		       : offsetof(struct sockaddr_un, sun_path) + 1 + strlen(local->sun_path + 1);
	MUST(!chdir(directory));
}

static void listening(int family)
{
	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (family != AF_UNIX)
		any(family);
	HERE(!bind(fd, (void *)&address, length));
	MUST(!listen(fd, 17) && !getsockname(fd, (void *)&address, &length));
}

/* A new connection is accepted, and carries something. */
static void accepts(void)
{
	char text[8] = "";
	int client = socket(address.ss_family, SOCK_STREAM, 0);
	TRUE(!connect(client, (void *)&address, length));
	int server = accept(fd, NULL, NULL);
	TRUE(server >= 0);
	EQUAL(write(client, "hello", 5), 5);
	EQUAL(read(server, text, 8), 5);
	TRUE(!strcmp(text, "hello"));
	close(client);
	close(server);
}

static void listener(void)
{
	listening(AF_INET);
}

static void listener6(void)
{
	listening(AF_INET6);
}

static void only_v6(void)
{
	int yes = 1;
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 all = {.sin6_family = AF_INET6};
	MUST(!setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes));
	HERE(!bind(fd, (void *)&all, sizeof all));
	length = sizeof all;
	MUST(!listen(fd, 5) && !getsockname(fd, (void *)&address, &length));
	((struct sockaddr_in6 *)&address)->sin6_addr = in6addr_loopback;
}

static void only_v6_kept(void)
{
	int only = 0;
	socklen_t size = sizeof only;
	TRUE(!getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &size));
	EQUAL(only, 1);
	accepts();
}

static const struct {
	int level, name, value;
} settings[] = {
	{SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_REUSEPORT, 1},
	{SOL_SOCKET, SO_KEEPALIVE, 1}, {SOL_SOCKET, SO_RCVBUF, 50000},
	{SOL_SOCKET, SO_SNDBUF, 60000}, {SOL_SOCKET, SO_OOBINLINE, 1},
	{SOL_SOCKET, SO_PRIORITY, 3}, {SOL_SOCKET, SO_RCVLOWAT, 7},
	{IPPROTO_TCP, TCP_NODELAY, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 77},
	{IPPROTO_TCP, TCP_KEEPINTVL, 11}, {IPPROTO_TCP, TCP_KEEPCNT, 4},
	{IPPROTO_TCP, TCP_DEFER_ACCEPT, 1}, {IPPROTO_TCP, TCP_FASTOPEN, 5},
	{IPPROTO_TCP, TCP_USER_TIMEOUT, 4000}, {IPPROTO_IP, IP_TOS, 0x10},
	{IPPROTO_IP, IP_TTL, 33}, {IPPROTO_IP, IP_FREEBIND, 1},
};
#define SETTINGS (sizeof settings / sizeof *settings)
static int values[SETTINGS];

static int setting(size_t which)
{
	int value = -1;
	socklen_t size = sizeof value;
	getsockopt(fd, settings[which].level, settings[which].name, &value, &size);
	return value;
}

/* From one option up to another; they differ in who can carry them. */
static void options(size_t first, size_t end)
{
	fd = socket(AF_INET, SOCK_STREAM, 0);
	for (size_t i = first; i < end; i++)
		MUST(!setsockopt(fd, settings[i].level, settings[i].name, &settings[i].value, 4));
	any(AF_INET);
	MUST(!bind(fd, (void *)&address, length) && !listen(fd, 17));
	MUST(!getsockname(fd, (void *)&address, &length));
	for (size_t i = first; i < end; i++)
		values[i] = setting(i);
}

static void options_kept(size_t first, size_t end)
{
	for (size_t i = first; i < end; i++)
		if (setting(i) != values[i])
			failed("option %d of level %d is %d, not %d", settings[i].name,
			       settings[i].level, setting(i), values[i]);
	struct tcp_info info;
	socklen_t size = sizeof info;
	TRUE(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
	EQUAL(info.tcpi_sacked, 17);
}

static void common_options(void)
{
	options(0, 12);
}

static void common_options_kept(void)
{
	options_kept(0, 12);
}

static void more_options(void)
{
	options(12, SETTINGS);
}

static void more_options_kept(void)
{
	options_kept(12, SETTINGS);
}

static void waiting(void)
{
	listening(AF_INET);
	other = socket(AF_INET, SOCK_STREAM, 0);
	MUST(!connect(other, (void *)&address, length));
}

static void waiting_kept(void)
{
	TRUE(accept(fd, NULL, NULL) >= 0);
}

static void unconnected(void)
{
	int one = 1;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	MUST(fd >= 0 && !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, 4));
}

static void unconnected_kept(void)
{
	int on = 0, server = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof on;
	TRUE(!getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size) && on);
	any(AF_INET);
	TRUE(!bind(server, (void *)&address, length) && !listen(server, 1));
	TRUE(!getsockname(server, (void *)&address, &length));
	TRUE(!connect(fd, (void *)&address, length) || errno == EINPROGRESS);
	TRUE(accept(server, NULL, NULL) >= 0);
}

static void bound(void)
{
	fd = socket(AF_INET, SOCK_STREAM, 0);
	any(AF_INET);
	MUST(!bind(fd, (void *)&address, length));
	MUST(!getsockname(fd, (void *)&address, &length));
}

static void bound_kept(void)
{
	TRUE(!listen(fd, 3));
	struct sockaddr_storage now;
	socklen_t size = sizeof now;
	TRUE(!getsockname(fd, (void *)&now, &size));
	EQUAL(((struct sockaddr_in *)&now)->sin_port, ((struct sockaddr_in *)&address)->sin_port);
	accepts();
}

static void connected(void)
{
	waiting();
	pair[0] = accept(fd, NULL, NULL);
	MUST(pair[0] >= 0 && write(other, "sent", 4) == 4);
}

static void connected_kept(void)
{
	char text[8] = "";
	EQUAL(read(pair[0], text, 8), 4);
	TRUE(!strcmp(text, "sent"));
	EQUAL(write(pair[0], "back", 4), 4);
	EQUAL(read(other, text, 8), 4);
}

static void datagrams(int family)
{
	fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	HERE(fd >= 0);
	any(family);
	HERE(!bind(fd, (void *)&address, length));
	MUST(!getsockname(fd, (void *)&address, &length));
}

static void udp(void)
{
	datagrams(AF_INET);
}

static void udp6(void)
{
	datagrams(AF_INET6);
}

static void udp_kept(void)
{
	char text[8] = "";
	int client = socket(address.ss_family, SOCK_DGRAM, 0);
	EQUAL(sendto(client, "udp", 3, 0, (void *)&address, length), 3);
	EQUAL(recv(fd, text, 8, 0), 3);
	TRUE(!strcmp(text, "udp"));
}

static void udp_connected(void)
{
	datagrams(AF_INET);
	other = socket(AF_INET, SOCK_DGRAM, 0);
	MUST(!connect(other, (void *)&address, length));
}

static void udp_connected_kept(void)
{
	char text[8] = "";
	EQUAL(send(other, "udp", 3, 0), 3);
	EQUAL(recv(fd, text, 8, 0), 3);
}

static void udp_waiting(void)
{
	udp_connected();
	MUST(send(other, "waits", 5, 0) == 5);
}

static void udp_waiting_kept(void)
{
	char text[8] = "";
	EQUAL(recv(fd, text, 8, 0), 5);
	TRUE(!strcmp(text, "waits"));
}

static struct group_req group, group6;

/* On the loopback interface; a second membership is refused. */
static void joined(void)
{
	datagrams(AF_INET);
	other = socket(AF_INET6, SOCK_DGRAM, 0);
	group.gr_interface = group6.gr_interface = if_nametoindex("lo");
	struct sockaddr_in *four = (void *)&group.gr_group;
	*four = (struct sockaddr_in){.sin_family = AF_INET};
	four->sin_addr.s_addr = htonl(0xef000000 | (getpid() & 0xffffff));
	struct sockaddr_in6 *six = (void *)&group6.gr_group;
	*six = (struct sockaddr_in6){.sin6_family = AF_INET6};
	inet_pton(AF_INET6, "ff01::4242", &six->sin6_addr);
	HERE(!setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &group, sizeof group));
	HERE(!setsockopt(other, IPPROTO_IPV6, MCAST_JOIN_GROUP, &group6, sizeof group6));
}

static void joined_kept(void)
{
	EQUAL(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &group, sizeof group), -1);
	EQUAL(errno, EADDRINUSE);
	EQUAL(setsockopt(other, IPPROTO_IPV6, MCAST_JOIN_GROUP, &group6, sizeof group6), -1);
	EQUAL(errno, EADDRINUSE);
	/* Of another group it is no member. */
	((struct sockaddr_in *)&group.gr_group)->sin_addr.s_addr ^= htonl(1);
	EQUAL(setsockopt(fd, IPPROTO_IP, MCAST_LEAVE_GROUP, &group, sizeof group), -1);
}

static struct group_source_req sender;

static void joined_for_one(void)
{
	joined();
	MUST(!setsockopt(fd, IPPROTO_IP, MCAST_LEAVE_GROUP, &group, sizeof group));
	sender.gsr_interface = group.gr_interface;
	sender.gsr_group = group.gr_group;
	struct sockaddr_in *four = (void *)&sender.gsr_source;
	*four = (struct sockaddr_in){.sin_family = AF_INET};
	four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	HERE(!setsockopt(fd, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &sender, sizeof sender));
}

static void joined_for_one_kept(void)
{
	EQUAL(setsockopt(fd, IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, &sender, sizeof sender), 0);
}

static void local(void)
{
	named(AF_UNIX, "socket");
	listening(AF_UNIX);
}

static void abstract(void)
{
	named(AF_UNIX, "");
	listening(AF_UNIX);
}

static void local_datagrams(void)
{
	named(AF_UNIX, "datagrams");
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	MUST(!bind(fd, (void *)&address, length));
}

static void stream_pair(void)
{
	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}

static void pair_kept(void)
{
	char text[8] = "";
	EQUAL(write(pair[0], "there", 5), 5);
	EQUAL(read(pair[1], text, 8), 5);
	TRUE(!strcmp(text, "there"));
	EQUAL(write(pair[1], "back", 4), 4);
	EQUAL(read(pair[0], text, 8), 4);
	close(pair[0]);
	EQUAL(read(pair[1], text, 8), 0);
}

static void pair_waiting(void)
{
	stream_pair();
	MUST(write(pair[0], "one", 3) == 3 && write(pair[0], "two", 3) == 3);
}

static void pair_waiting_kept(void)
{
	char text[8] = "";
	EQUAL(recv(pair[1], text, 6, MSG_WAITALL), 6);
	TRUE(!strcmp(text, "onetwo"));
	memset(text, 0, 8);
	pair_kept();
}

static void pair_of_packets(void)
{
	MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	MUST(write(pair[0], "one", 3) == 3 && write(pair[0], "two", 3) == 3);
}

static void pair_of_packets_kept(void)
{
	char text[8] = "";
	EQUAL(read(pair[1], text, 8), 3);
	EQUAL(read(pair[1], text, 8), 3);
	TRUE(!strcmp(text, "two"));
}

static void half_closed(void)
{
	stream_pair();
	MUST(!close(pair[1]));
	signal(SIGPIPE, SIG_IGN);
}

static void half_closed_kept(void)
{
	char byte;
	EQUAL(read(pair[0], &byte, 1), 0);
	EQUAL(write(pair[0], "x", 1), -1);
	EQUAL(errno, EPIPE);
}

static void descriptor_in_flight(void)
{
	stream_pair();
	int sent = open("/dev/null", O_RDWR);
	struct iovec data = {"x", 1};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	memcpy(CMSG_DATA(&control.header), &sent, sizeof sent);
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof control};
	MUST(sendmsg(pair[0], &message, 0) == 1 && !close(sent));
}

static void descriptor_in_flight_kept(void)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};
	EQUAL(recvmsg(pair[1], &message, 0), 1);
	TRUE(CMSG_FIRSTHDR(&message) && CMSG_FIRSTHDR(&message)->cmsg_type == SCM_RIGHTS);
}

static void netlink(void)
{
	struct sockaddr_nl own = {.nl_family = AF_NETLINK};
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	HERE(fd >= 0 && !bind(fd, (void *)&own, sizeof own));
}

static void netlink_kept(void)
{
	struct {
		struct nlmsghdr header;
		struct rtgenmsg body;
	} request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
	char reply[8192];
	EQUAL(send(fd, &request, sizeof request, 0), sizeof request);
	TRUE(recv(fd, reply, sizeof reply, 0) > 0);
}

static void there(void)
{
	TRUE(fcntl(fd, F_GETFD) >= 0);
}

static void raw(void)
{
	fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	HERE(fd >= 0);
}

static void packets(void)
{
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	HERE(fd >= 0);
}

static void virtual_machine(void)
{
	fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	HERE(fd >= 0);
}

static void crypto(void)
{
	fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
	HERE(fd >= 0);
}

static void multipath(void)
{
	fd = socket(AF_INET, SOCK_STREAM, 262);
	HERE(fd >= 0);
}

static const struct feature features[] = {
	{"tcp-listener", "TCP listener", listener, accepts},
	{"tcp6-listener", "TCP listener, IPv6", listener6, accepts},
	{"tcp6-only", "TCP listener for IPv6 only", only_v6, only_v6_kept},
	{"tcp-options", "TCP listener with options: reuse, buffers, keepalive", common_options, common_options_kept},
	{"tcp-more-options", "TCP listener with options: defer accept, fast open, TOS", more_options, more_options_kept},
	{"tcp-waiting", "TCP listener with a connection that waits", waiting, waiting_kept},
	{"tcp-unconnected", "TCP socket, not connected", unconnected, unconnected_kept},
	{"tcp-bound", "TCP socket, bound", bound, bound_kept},
	{"tcp-connected", "TCP connection", connected, connected_kept},
	{"udp", "UDP socket", udp, udp_kept},
	{"udp6", "UDP socket, IPv6", udp6, udp_kept},
	{"udp-connected", "UDP socket, connected", udp_connected, udp_connected_kept},
	{"udp-waiting", "UDP socket with a datagram that waits", udp_waiting, udp_waiting_kept},
	{"udp-multicast", "UDP socket in a multicast group", joined, joined_kept},
	{"udp-multicast-source", "UDP socket in a multicast group for one sender", joined_for_one, joined_for_one_kept},
	{"unix-listener", "Unix listener", local, accepts},
	{"unix-abstract", "Unix listener, abstract", abstract, accepts},
	{"unix-datagram", "Unix datagram socket", local_datagrams, udp_kept},
	{"socketpair", "Unix socket pair", stream_pair, pair_kept},
	{"socketpair-waiting", "Unix socket pair with data", pair_waiting, pair_waiting_kept},
	{"socketpair-packets", "Unix socket pair of packets", pair_of_packets, pair_of_packets_kept},
	{"socket-half-closed", "Unix socket whose peer is gone", half_closed, half_closed_kept},
	{"scm-rights", "a descriptor on its way through a socket", descriptor_in_flight, descriptor_in_flight_kept},
	{"netlink", "netlink socket", netlink, netlink_kept},
	{"raw-socket", "raw socket", raw, there},
	{"packet-socket", "packet socket", packets, there},
	{"vsock", "vsock socket", virtual_machine, there},
	{"af-alg", "socket of the kernel's cryptography", crypto, there},
	{"mptcp", "MPTCP socket", multipath, there},
	{NULL},
};
