//! Options of a socket beside those that CRIU's format has fields for: told
//! from the defaults by a new socket of the same kind.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::restore::planner::SocketOption;
use crate::sys::socket as sys;

/// More bytes than any option here has.
const LEN_VALUE: usize = 64;
/// `SO_GET_FILTER`, which is `SO_ATTACH_FILTER`.
const SO_GET_FILTER: i32 = 26;

/// Options of every socket (`socket(7)`, `asm-generic/socket.h`).
const GENERAL: &[i32] = &[
    libc::SO_MARK,
    libc::SO_PASSCRED,
    libc::SO_PASSSEC,
    libc::SO_NO_CHECK,
    libc::SO_BINDTODEVICE,
    libc::SO_TIMESTAMP,
    libc::SO_TIMESTAMPNS,
    libc::SO_TIMESTAMPING,
    libc::SO_RXQ_OVFL,
    libc::SO_SELECT_ERR_QUEUE,
    libc::SO_BUSY_POLL,
    libc::SO_MAX_PACING_RATE,
    libc::SO_ZEROCOPY,
    libc::SO_PREFER_BUSY_POLL,
    libc::SO_BUSY_POLL_BUDGET,
    // SO_PASSPIDFD (Linux 6.5).
    76,
];
/// `ip(7)`; of an IPv6 socket, too, which may speak IPv4.
const IP: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_RECVTOS,
    libc::IP_RECVTTL,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_FREEBIND,
    libc::IP_TRANSPARENT,
    libc::IP_RECVORIGDSTADDR,
    libc::IP_MINTTL,
    libc::IP_BIND_ADDRESS_NO_PORT,
    libc::IP_MULTICAST_IF,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_MULTICAST_ALL,
    // IP_LOCAL_PORT_RANGE (Linux 6.3).
    51,
];
/// `ipv6(7)`.
const IPV6: &[i32] = &[
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MULTICAST_IF,
    libc::IPV6_MULTICAST_HOPS,
    libc::IPV6_MULTICAST_LOOP,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_RECVERR,
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
    libc::IPV6_TCLASS,
    libc::IPV6_DONTFRAG,
    libc::IPV6_FREEBIND,
    libc::IPV6_TRANSPARENT,
];
/// `tcp(7)`.
const TCP: &[i32] = &[
    libc::TCP_MAXSEG,
    libc::TCP_SYNCNT,
    libc::TCP_LINGER2,
    libc::TCP_DEFER_ACCEPT,
    libc::TCP_WINDOW_CLAMP,
    libc::TCP_QUICKACK,
    libc::TCP_CONGESTION,
    libc::TCP_THIN_LINEAR_TIMEOUTS,
    libc::TCP_USER_TIMEOUT,
    libc::TCP_FASTOPEN,
    libc::TCP_NOTSENT_LOWAT,
    libc::TCP_SAVE_SYN,
    libc::TCP_FASTOPEN_CONNECT,
    libc::TCP_FASTOPEN_NO_COOKIE,
    libc::TCP_INQ,
];
/// `udp(7)`.
const UDP: &[i32] = &[libc::UDP_CORK, libc::UDP_SEGMENT, libc::UDP_GRO];

/// Returns whether `criu dump` keeps an option, for which its format has a field
/// (`images/sockets.proto`), though ours does not fill it.
pub fn is_crius(option: &SocketOption) -> bool {
    matches!(
        (option.level, option.name),
        (
            libc::SOL_SOCKET,
            libc::SO_MARK
                | libc::SO_PASSCRED
                | libc::SO_PASSSEC
                | libc::SO_NO_CHECK
                | libc::SO_BINDTODEVICE
        ) | (libc::IPPROTO_IP, libc::IP_FREEBIND | libc::IP_PKTINFO | libc::IP_TOS | libc::IP_TTL)
            | (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND | libc::IPV6_RECVPKTINFO)
    )
}

/// Returns the options that are not those of a new socket, of this family,
/// type and protocol.
pub fn changed(its: BorrowedFd<'_>, (family, kind, proto): (i32, i32, i32)) -> Vec<SocketOption> {
    let families = match family {
        libc::AF_INET => AddressFamily::Inet,
        libc::AF_INET6 => AddressFamily::Inet6,
        _ => AddressFamily::Unix,
    };
    let kinds = match kind {
        libc::SOCK_STREAM => SockType::Stream,
        libc::SOCK_DGRAM => SockType::Datagram,
        _ => SockType::SeqPacket,
    };
    let Ok(new) = socket(families, kinds, SockFlag::SOCK_CLOEXEC, None) else { return Vec::new() };
    let is_inet = family != libc::AF_UNIX;
    let levels = [
        (libc::SOL_SOCKET, GENERAL, true),
        (libc::IPPROTO_IP, IP, is_inet),
        (libc::IPPROTO_IPV6, IPV6, family == libc::AF_INET6),
        (libc::IPPROTO_TCP, TCP, is_inet && proto == libc::IPPROTO_TCP),
        (libc::IPPROTO_UDP, UDP, is_inet && proto == libc::IPPROTO_UDP),
    ];
    let mut options = Vec::new();
    for (level, names, applies) in levels {
        for &name in names.iter().filter(|_| applies) {
            // What this kernel does not know cannot have been changed.
            let Some(value) = read(its, level, name) else { continue };
            if read(new.as_fd(), level, name).is_some_and(|default| default != value) {
                options.push(SocketOption { level, name, value });
            }
        }
    }
    options
}

fn read(socket: BorrowedFd<'_>, level: i32, name: i32) -> Option<Vec<u8>> {
    let mut value = [0; LEN_VALUE];
    let len = sys::option(socket, level, name, &mut value).ok()?;
    Some(value[..len.min(LEN_VALUE)].to_vec())
}

/// Returns whether a filter decides what the socket gets.
pub fn is_filtered(socket: BorrowedFd<'_>) -> bool {
    // Asked with no room, the kernel tells how many instructions there are.
    sys::option(socket, libc::SOL_SOCKET, SO_GET_FILTER, &mut []).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn only_what_was_changed_is_told() {
        let tcp = (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(changed(listener.as_fd(), tcp), []);
        listener.set_ttl(77).unwrap();
        let [option] = &changed(listener.as_fd(), tcp)[..] else { panic!("one option") };
        assert_eq!((option.level, option.name), (libc::IPPROTO_IP, libc::IP_TTL));
        assert_eq!(option.value, 77i32.to_ne_bytes());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP);
        assert_eq!(changed(socket.as_fd(), udp), []);
        assert!(!is_filtered(socket.as_fd()));
    }
}
