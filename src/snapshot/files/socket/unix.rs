//! Unix sockets: those that listen, those of datagrams, and pairs whose both
//! ends the program holds, with what waits in them. A stream to somebody
//! outside is refused by name: nobody could bring its other end back.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{MsgFlags, recv};

use super::super::{Descriptor, Reader, Refusal, bracketed};
use super::{common, options};
use crate::image::Queued;
use crate::image::proto::{
    FdTypes, FileEntry, FilePermsEntry, FownEntry, SkPacketEntry, SkShutdown, UnixSkEntry,
};
use crate::image::sockets::{TCP_CLOSE, TCP_LISTEN};
use crate::sys::diag::{self, UnixSocket};
use crate::sys::socket::{self, End};

/// A packet may be as long as the largest buffer (`net.core.wmem_max`); more
/// than this is not carried.
const MAX_WAITING: usize = 16 << 20;
const MAX_PACKET: usize = 4 << 20;

impl Reader<'_> {
    /// Encodes a Unix socket of one type.
    pub(super) fn unix(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        its: BorrowedFd<'_>,
        kind: i32,
    ) -> Result<FileEntry, Refusal> {
        let fd = descriptor.fd;
        let fail = |error| Refusal::lasting(format!("fd {fd} is a Unix socket: {error}"));
        let inode = bracketed(descriptor.target.as_os_str().as_bytes(), b"socket:[").unwrap_or(0);
        let found = match diag::unix_socket(inode as u32) {
            Ok(found) => found,
            // Without unix_diag in the kernel: the one kind that is told by
            // looking at it.
            Err(_) if kind == libc::SOCK_STREAM => {
                return self.half_closed(descriptor, id, its);
            }
            Err(error) => return Err(fail(error)),
        };
        let name = socket::unix_name(its, End::Local).map_err(fail)?.unwrap_or_default();
        let listens = found.state == TCP_LISTEN;
        let waits = socket::readable(its).unwrap_or(0) > 0;
        if listens && found.waiting > 0 {
            let what = format!("fd {} has a connection that waits to be accepted", descriptor.fd);
            return Err(Refusal::passing(what));
        }
        let peer = self.peer(descriptor, its, kind, (inode, &found))?;
        let alone = peer == Peer::None && kind == libc::SOCK_STREAM && !listens;
        if alone && found.state != TCP_CLOSE && name.is_empty() {
            return self.half_closed(descriptor, id, its);
        }
        if alone && found.state != TCP_CLOSE {
            let shown = name.escape_ascii();
            return Err(self.refuse(descriptor, format!("a Unix socket ({shown}) without a peer")));
        }
        let file_perms = self.bound_file(descriptor, &name, &found)?;
        if waits {
            if peer != Peer::Inside(found.peer) {
                let what = format!("fd {} is a Unix socket with unread data", descriptor.fd);
                return Err(Refusal::passing(what));
            }
            self.waiting(descriptor, id, its, kind)?;
        }
        let changed = options::changed(its, (libc::AF_UNIX, kind, 0));
        if options::is_filtered(its) {
            return Err(self.refuse(descriptor, "a Unix socket with a filter"));
        }
        if !changed.is_empty() {
            self.files.socket_options.insert(id, changed);
        }
        if let Peer::Named(name) = &peer {
            self.files.unix_peers.insert(id, name.clone());
        }
        Ok(FileEntry {
            r#type: FdTypes::Unixsk as i32,
            id,
            usk: Some(UnixSkEntry {
                id,
                ino: inode as u32,
                r#type: kind as u32,
                state: found.state,
                flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
                uflags: 0,
                backlog: if listens { found.backlog } else { 0 },
                peer: if self.is_open(found.peer) { found.peer } else { 0 },
                fown: FownEntry::default(),
                opts: common(its).map_err(fail)?,
                name,
                shutdown: shutdown(found.shutdown).map(|how| how as i32),
                file_perms,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Finds out who is at the other end.
    fn peer(
        &self,
        descriptor: &Descriptor,
        its: BorrowedFd<'_>,
        kind: i32,
        (inode, found): (u64, &UnixSocket),
    ) -> Result<Peer, Refusal> {
        let fail = |error| self.refuse(descriptor, format!("a Unix socket: {error}"));
        if found.state == TCP_LISTEN {
            return Ok(Peer::None);
        }
        let is_inside = self.is_open(found.peer);
        // Of two datagram sockets that are each other's peers any may have a
        // name; the kernel gives one to who asks for credentials (SO_PASSCRED).
        if kind == libc::SOCK_DGRAM
            && is_inside
            && diag::unix_socket(found.peer).is_ok_and(|peer| u64::from(peer.peer) == inode)
        {
            return Ok(Peer::Inside(found.peer));
        }
        let name = socket::unix_name(its, End::Peer).map_err(fail)?;
        if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
            if kind == libc::SOCK_DGRAM {
                return Ok(Peer::Named(name.clone()));
            }
            let shown = name.escape_ascii();
            let what = format!("fd {} is a Unix socket connected to {shown}", descriptor.fd);
            return Err(Refusal::passing(what));
        }
        match found.peer {
            0 => Ok(Peer::None),
            peer if is_inside => {
                let own = socket::unix_name(its, End::Local).map_err(fail)?.unwrap_or_default();
                if !own.is_empty() {
                    let shown = own.escape_ascii();
                    let what = format!("fd {} is a Unix connection of {shown}", descriptor.fd);
                    return Err(Refusal::passing(what));
                }
                Ok(Peer::Inside(peer))
            }
            _ => {
                let what = "is a Unix socket whose other end is outside the program";
                Err(Refusal::passing(format!("fd {} {what}", descriptor.fd)))
            }
        }
    }

    /// Returns whether one of the processes has the socket of this inode open.
    fn is_open(&self, inode: u32) -> bool {
        let target = format!("socket:[{inode}]");
        let is_it = |open: &Descriptor| open.target.as_os_str().as_bytes() == target.as_bytes();
        inode != 0 && self.family.everywhere().any(|(_, open)| is_it(open))
    }

    /// Sees that the file that a socket is bound to is the one that the path
    /// leads to; returns its permissions.
    fn bound_file(
        &self,
        descriptor: &Descriptor,
        name: &[u8],
        found: &UnixSocket,
    ) -> Result<Option<FilePermsEntry>, Refusal> {
        if name.is_empty() || name[0] == 0 {
            return Ok(None);
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        let shown = path.display();
        if !path.is_absolute() {
            let what = format!("a Unix socket bound to a relative path ({shown})");
            return Err(self.refuse(descriptor, what));
        }
        let meta = fs::symlink_metadata(path).ok().filter(|meta| {
            // The device is that of the file system below on some (overlayfs).
            found.file.is_none_or(|(inode, _)| inode == meta.ino())
        });
        let meta = meta.ok_or_else(|| {
            self.refuse(descriptor, format!("a Unix socket whose file is gone ({shown})"))
        })?;
        Ok(Some(FilePermsEntry { mode: meta.mode(), uid: meta.uid(), gid: meta.gid() }))
    }

    /// Reads what waits in one end without taking it out.
    fn waiting(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        its: BorrowedFd<'_>,
        kind: i32,
    ) -> Result<(), Refusal> {
        if descriptor.info.number("scm_fds") > 0 {
            // On its way from one process of a server to another, perhaps.
            let what = "is a Unix socket with descriptors in flight (SCM_RIGHTS)";
            return Err(Refusal::passing(format!("fd {} {what}", descriptor.fd)));
        }
        let fail =
            |error: std::io::Error| self.refuse(descriptor, format!("a Unix socket: {error}"));
        let packets = if kind == libc::SOCK_STREAM { stream(its) } else { packets(its) };
        let packets = packets.map_err(fail)?;
        if packets.iter().map(Vec::len).sum::<usize>() > MAX_WAITING {
            return Err(self.refuse(descriptor, "a Unix socket with much unread data"));
        }
        for data in packets {
            let entry =
                SkPacketEntry { id_for: id, length: data.len() as u32, ..Default::default() };
            self.files.sk_queues.push(Queued { entry, data });
        }
        Ok(())
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Peer {
    None,
    /// The program itself, by the inode.
    Inside(u32),
    /// Whoever has this name.
    Named(Vec<u8>),
}

/// CRIU takes no field for no direction.
fn shutdown(directions: u32) -> Option<SkShutdown> {
    match directions & 3 {
        1 => Some(SkShutdown::Read),
        2 => Some(SkShutdown::Write),
        3 => Some(SkShutdown::Both),
        _ => None,
    }
}

const PEEK: MsgFlags = MsgFlags::MSG_PEEK.union(MsgFlags::MSG_DONTWAIT);

/// Peeks at all that waits in a stream.
fn stream(its: BorrowedFd<'_>) -> std::io::Result<Vec<Vec<u8>>> {
    let len = socket::readable(its)?.max(0) as usize;
    let mut data = Vec::with_capacity(len);
    // One look may show no more than what was sent at once.
    peeking(its, || {
        let mut part = vec![0; len - data.len()];
        let read = recv(its.as_raw_fd(), &mut part, PEEK)?;
        data.extend_from_slice(&part[..read]);
        Ok(read > 0 && data.len() < len)
    })?;
    if data.len() == len { Ok(vec![data]) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Peeks at every packet that waits.
fn packets(its: BorrowedFd<'_>) -> std::io::Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    // The offset moves on by what was read, so each is read whole.
    let mut buffer = vec![0; MAX_PACKET];
    peeking(its, || {
        let len = match recv(its.as_raw_fd(), &mut buffer, PEEK | MsgFlags::MSG_TRUNC) {
            Ok(len) => len,
            Err(nix::errno::Errno::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match buffer.get(..len) {
            // One of nothing does not move the offset: what is behind it would
            // not be seen. It looks like the end of a connection, too.
            Some([]) => Err(std::io::Error::other("a packet of no bytes, or the end, waits")),
            Some(packet) => {
                packets.push(packet.to_vec());
                Ok(true)
            }
            None => Err(std::io::Error::other("a packet of many bytes waits")),
        }
    })?;
    Ok(packets)
}

/// Calls until it says no, with an offset for peeking (`socket(7)`,
/// SO_PEEK_OFF) that each look moves on; it is put back.
fn peeking(
    its: BorrowedFd<'_>,
    mut look: impl FnMut() -> std::io::Result<bool>,
) -> std::io::Result<()> {
    let before = socket::int_option(its, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    socket::set_int_option(its, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
    let result = loop {
        match look() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    socket::set_int_option(its.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, before)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn what_waits_is_read_and_stays() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(b"first").unwrap();
        one.write_all(&[7; 10_000]).unwrap();
        for _ in 0..2 {
            let data = stream(other.as_fd()).unwrap();
            assert_eq!((data.len(), data[0].len(), &data[0][..5]), (1, 10_005, &b"first"[..]));
        }
        let mut all = [0; 10_005];
        other.read_exact(&mut all).unwrap();
        let (one, other) = UnixDatagram::pair().unwrap();
        for packet in [&b"a"[..], b"bcd", &[9; 5000]] {
            one.send(packet).unwrap();
        }
        for _ in 0..2 {
            let lens: Vec<usize> = packets(other.as_fd()).unwrap().iter().map(Vec::len).collect();
            assert_eq!(lens, [1, 3, 5000]);
        }
        assert_eq!(other.recv(&mut all).unwrap(), 1);
        let (one, other) = UnixDatagram::pair().unwrap();
        one.send(b"").unwrap();
        one.send(b"x").unwrap();
        assert!(packets(other.as_fd()).is_err());
    }
}
