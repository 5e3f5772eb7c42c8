//! Sockets: TCP ones that listen or are not connected, UDP, Unix ones
//! ([`unix`]), netlink ones that rest. Everything else is refused by name.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use super::{Descriptor, Reader, Refusal, bracketed};
use crate::image::proto::{
    FdTypes, FileEntry, FownEntry, InetSkEntry, SkOptsEntry, SkShutdown, TcpOptsEntry, UnixSkEntry,
};
use crate::image::sockets::{TCP_CLOSE, TCP_LISTEN, address_words};
use crate::snapshot::OpenTcp;
use crate::sys::socket::{self, End};

mod multicast;
mod options;
mod unix;

/// (`include/net/tcp_states.h`.)
const TCP_ESTABLISHED: u32 = 1;
/// `tcpi_state` and `tcpi_sacked` in `struct tcp_info`: a listening socket
/// shows its maximal backlog as the latter.
const OFFSET_STATE: usize = 0;
const OFFSET_SACKED: usize = 28;

impl Reader<'_> {
    pub(super) fn socket(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
    ) -> Result<FileEntry, Refusal> {
        let duplicate = self.duplicate(descriptor)?;
        let socket = duplicate.as_fd();
        let int = |name| {
            socket::int_option(socket, libc::SOL_SOCKET, name)
                .map_err(|error| self.refuse(descriptor, format!("a socket: {error}")))
        };
        let (family, kind, proto) =
            (int(libc::SO_DOMAIN)?, int(libc::SO_TYPE)?, int(libc::SO_PROTOCOL)?);
        match (family, kind) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) if proto == libc::IPPROTO_TCP => {
                let entry = self.tcp(descriptor, id, socket, family)?;
                if !self.files.closed_tcp.contains(&id) {
                    self.options(descriptor, id, socket, (family, kind, proto))?;
                }
                Ok(entry)
            }
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) if proto == libc::IPPROTO_UDP => {
                let entry = self.udp(descriptor, id, socket, family)?;
                self.options(descriptor, id, socket, (family, kind, proto))?;
                Ok(entry)
            }
            (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) => {
                self.unix(descriptor, id, socket, kind)
            }
            (libc::AF_NETLINK, _) => Err(self.refuse(descriptor, "a netlink socket")),
            (family, kind) => {
                let what = format!("a socket of family {family}, type {kind}");
                Err(self.refuse(descriptor, what))
            }
        }
    }

    /// Notes the options that CRIU's format has no fields for.
    fn options(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
        kind: (i32, i32, i32),
    ) -> Result<(), Refusal> {
        if options::is_filtered(socket) {
            return Err(self.refuse(descriptor, "a socket with a filter (SO_ATTACH_FILTER)"));
        }
        let mut changed = options::changed(socket, kind);
        let joined = multicast::memberships(socket, kind.0);
        changed.extend(joined.map_err(|what| self.refuse(descriptor, what))?);
        if !changed.is_empty() {
            self.files.socket_options.insert(id, changed);
        }
        Ok(())
    }

    /// Encodes a UDP socket: where it is bound, and to whom it is connected,
    /// which for UDP is an address and no more.
    fn udp(
        &self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
        family: i32,
    ) -> Result<FileEntry, Refusal> {
        let fail = |error| self.refuse(descriptor, format!("a UDP socket: {error}"));
        // FIONREAD says nothing of a datagram without content.
        if socket::events(socket).map_err(fail)? & libc::POLLIN != 0 {
            let what = format!("fd {} is a UDP socket with an unread datagram", descriptor.fd);
            return Err(Refusal::passing(what));
        }
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let local = socket::address(socket, End::Local).map_err(fail)?.unwrap_or(none);
        let peer = socket::address(socket, End::Peer).map_err(fail)?;
        let kind = (libc::SOCK_DGRAM, libc::IPPROTO_UDP);
        Ok(inet(InetSkEntry {
            state: if peer.is_some() { TCP_ESTABLISHED } else { TCP_CLOSE },
            src_port: u32::from(local.port()),
            dst_port: peer.map_or(0, |peer| u32::from(peer.port())),
            src_addr: address_words(local.ip()),
            dst_addr: peer.map_or_else(
                || vec![0; address_words(local.ip()).len()],
                |peer| address_words(peer.ip()),
            ),
            v6only: v6only(socket, family).map_err(fail)?,
            ..unconnected(descriptor, id, socket, family, kind).map_err(fail)?
        }))
    }

    fn tcp(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
        family: i32,
    ) -> Result<FileEntry, Refusal> {
        let fd = descriptor.fd;
        let fail = |error| Refusal::lasting(format!("fd {fd} is a TCP socket: {error}"));
        let mut info = [0u8; 256];
        let len =
            socket::option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).map_err(fail)?;
        if len < OFFSET_SACKED + 4 {
            return Err(self.refuse(descriptor, "a TCP socket without TCP_INFO"));
        }
        let state = u32::from(info[OFFSET_STATE]);
        let local = socket::address(socket, End::Local).map_err(fail)?;
        if state == TCP_CLOSE && was_connected(socket).map_err(fail)? {
            return self.ended(descriptor, id, socket, family);
        }
        if state != TCP_LISTEN && state != TCP_CLOSE && self.capture.tcp == OpenTcp::Close {
            return self.closed_by_peer(descriptor, id, socket, family);
        }
        if state != TCP_LISTEN && state != TCP_CLOSE {
            let peer = socket::address(socket, End::Peer).ok().flatten();
            let peer = peer.map_or("a peer that is gone".to_owned(), |peer| peer.to_string());
            let what = if state == TCP_ESTABLISHED { "connected" } else { "closing" };
            let reason = format!("fd {} is a {what} TCP socket to {peer}", descriptor.fd);
            return Err(Refusal::passing(reason));
        }
        let backlog = if state == TCP_LISTEN {
            let mut word = [0; 4];
            word.copy_from_slice(&info[OFFSET_SACKED..OFFSET_SACKED + 4]);
            u32::from_ne_bytes(word)
        } else {
            0
        };
        let address = local.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let tcp = |name| socket::int_option(socket, libc::IPPROTO_TCP, name).ok();
        Ok(inet(InetSkEntry {
            state,
            src_port: u32::from(address.port()),
            backlog,
            src_addr: address_words(address.ip()),
            dst_addr: vec![0; address_words(address.ip()).len()],
            v6only: v6only(socket, family).map_err(fail)?,
            tcp_opts: Some(TcpOptsEntry {
                cork: tcp(libc::TCP_CORK).map(|on| on != 0),
                nodelay: tcp(libc::TCP_NODELAY).map(|on| on != 0),
                keepcnt: tcp(libc::TCP_KEEPCNT).map(|count| count as u32),
                keepidle: tcp(libc::TCP_KEEPIDLE).map(|secs| secs as u32),
                keepintvl: tcp(libc::TCP_KEEPINTVL).map(|secs| secs as u32),
            }),
            ..unconnected(descriptor, id, socket, family, TCP).map_err(fail)?
        }))
    }

    /// Encodes an open connection as a socket that is not connected, which is
    /// what CRIU makes of one, and notes that its peer is gone.
    fn closed_by_peer(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
        family: i32,
    ) -> Result<FileEntry, Refusal> {
        let entry = unconnected(descriptor, id, socket, family, TCP)
            .map_err(|error| self.refuse(descriptor, format!("a TCP socket: {error}")))?;
        self.files.closed_tcp.insert(id);
        Ok(inet(entry))
    }

    /// Encodes a connection that is over and that the program has not closed
    /// yet: no event or error will come of it, reads find its end.
    fn ended(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
        family: i32,
    ) -> Result<FileEntry, Refusal> {
        if socket::readable(socket).unwrap_or(0) > 0 {
            let what =
                format!("fd {} is a TCP connection that is over, but not read", descriptor.fd);
            return Err(Refusal::passing(what));
        }
        self.closed_by_peer(descriptor, id, socket, family)
    }

    /// A stream socket whose peer is closed, with nothing to read: HotSpot's
    /// class library makes one to put other sockets into that state.
    fn half_closed(
        &self,
        descriptor: &Descriptor,
        id: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<FileEntry, Refusal> {
        let events = socket::events(socket).unwrap_or(0);
        let unread = socket::readable(socket).unwrap_or(1);
        if events & libc::POLLHUP == 0 || unread != 0 {
            return Err(self.refuse(descriptor, "a Unix socket without a peer"));
        }
        let inode = bracketed(descriptor.target.as_os_str().as_bytes(), b"socket:[");
        Ok(FileEntry {
            r#type: FdTypes::Unixsk as i32,
            id,
            usk: Some(UnixSkEntry {
                id,
                ino: inode.unwrap_or(0) as u32,
                r#type: libc::SOCK_STREAM as u32,
                // As CRIU has it: unconnected it would not read an end.
                state: TCP_ESTABLISHED,
                flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
                uflags: 0,
                backlog: 0,
                peer: 0,
                fown: FownEntry::default(),
                opts: common(socket)
                    .map_err(|error| self.refuse(descriptor, format!("a socket: {error}")))?,
                name: Vec::new(),
                shutdown: Some(SkShutdown::Both as i32),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

/// Tells whether a socket has options that CRIU's format has no place for.
pub(super) fn has_unseen_options(socket: BorrowedFd<'_>) -> bool {
    let int = |name| socket::int_option(socket, libc::SOL_SOCKET, name).unwrap_or(0);
    let kind = (int(libc::SO_DOMAIN), int(libc::SO_TYPE), int(libc::SO_PROTOCOL));
    let is_known = matches!(
        kind,
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP)
            | (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
            | (libc::AF_UNIX, _, _)
    );
    is_known
        && (options::changed(socket, kind).iter().any(|option| !options::is_crius(option))
            || multicast::memberships(socket, kind.0).map_or(true, |all| !all.is_empty()))
}

/// The type and the protocol of a TCP socket.
const TCP: (i32, i32) = (libc::SOCK_STREAM, libc::IPPROTO_TCP);

fn inet(entry: InetSkEntry) -> FileEntry {
    FileEntry {
        r#type: FdTypes::Inetsk as i32,
        id: entry.id,
        isk: Some(entry),
        ..Default::default()
    }
}

/// Encodes an internet socket that has no address yet and no peer; `kind` is its
/// type and its protocol.
fn unconnected(
    descriptor: &Descriptor,
    id: u32,
    socket: BorrowedFd<'_>,
    family: i32,
    (kind, proto): (i32, i32),
) -> std::io::Result<InetSkEntry> {
    let inode = bracketed(descriptor.target.as_os_str().as_bytes(), b"socket:[");
    let is_v6 = family == libc::AF_INET6;
    let any = vec![0; if is_v6 { 4 } else { 1 }];
    Ok(InetSkEntry {
        id,
        ino: inode.unwrap_or(0) as u32,
        family: family as u32,
        r#type: kind as u32,
        proto: proto as u32,
        state: TCP_CLOSE,
        flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
        src_addr: any.clone(),
        dst_addr: any,
        fown: FownEntry::default(),
        opts: common(socket)?,
        v6only: is_v6.then_some(false),
        ..Default::default()
    })
}

/// Tells whether a socket in the state CLOSE is one whose connection is over:
/// a new one has no end to be read (`tcp_poll` in `net/ipv4/tcp.c`).
fn was_connected(socket: BorrowedFd<'_>) -> std::io::Result<bool> {
    Ok(socket::events(socket)? & libc::POLLRDHUP != 0)
}

fn v6only(socket: BorrowedFd<'_>, family: i32) -> std::io::Result<Option<bool>> {
    let ask = || socket::int_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    (family == libc::AF_INET6).then(ask).transpose().map(|only| only.map(|only| only != 0))
}

/// Reads the options that every socket has.
fn common(socket: BorrowedFd<'_>) -> std::io::Result<SkOptsEntry> {
    let int = |name| socket::int_option(socket, libc::SOL_SOCKET, name);
    let flag = |name| int(name).map(|on| Some(on != 0));
    let time = |name| {
        let mut bytes = [0u8; 16];
        socket::option(socket, libc::SOL_SOCKET, name, &mut bytes)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        Ok::<_, std::io::Error>((word(0), word(8)))
    };
    let (so_snd_tmo_sec, so_snd_tmo_usec) = time(libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = time(libc::SO_RCVTIMEO)?;
    let mut linger = [0u8; 8];
    socket::option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger)?;
    let half = |at: usize| {
        u32::from_ne_bytes([linger[at], linger[at + 1], linger[at + 2], linger[at + 3]])
    };
    Ok(SkOptsEntry {
        so_sndbuf: int(libc::SO_SNDBUF)? as u32,
        so_rcvbuf: int(libc::SO_RCVBUF)? as u32,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(int(libc::SO_PRIORITY)? as u32),
        so_rcvlowat: Some(int(libc::SO_RCVLOWAT)? as u32),
        // Even setting none needs CAP_NET_ADMIN.
        so_mark: Some(int(libc::SO_MARK)? as u32).filter(|mark| *mark != 0),
        so_passcred: flag(libc::SO_PASSCRED).unwrap_or(None),
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_reuseport: flag(libc::SO_REUSEPORT).unwrap_or(None),
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(int(libc::SO_OOBINLINE)? as u32),
        so_linger: (half(0) != 0).then(|| half(4)),
        so_buf_lock: int(libc::SO_BUF_LOCK).ok().map(|lock| lock as u32),
        ..Default::default()
    })
}
