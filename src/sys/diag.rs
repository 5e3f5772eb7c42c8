//! What the kernel tells of a Unix socket by its inode: `sock_diag(7)`.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const LEN_HEADER: usize = 16;
/// The file, the peer, the queues (`linux/unix_diag.h`).
const SHOW: u32 = 2 | 4 | 0x10;
const ATTRIBUTE_VFS: u16 = 1;
const ATTRIBUTE_PEER: u16 = 2;
const ATTRIBUTE_QUEUES: u16 = 4;
const ATTRIBUTE_SHUTDOWN: u16 = 6;
/// `struct unix_diag_msg`.
const LEN_MESSAGE: usize = 16;

/// A Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnixSocket {
    /// Its state: those of TCP.
    pub state: u32,
    /// The inode of the other end, 0 for none, or for one that is closed.
    pub peer: u32,
    /// What waits to be read; of a socket that listens, the connections that
    /// wait to be accepted.
    pub waiting: u32,
    /// Of a socket that listens: how many may wait.
    pub backlog: u32,
    /// Which directions are shut down: 1 for reading, 2 for writing.
    pub shutdown: u32,
    /// Inode and device (major, minor) of the file that it is bound to.
    pub file: Option<(u64, (u32, u32))>,
}

/// Asks for a socket of this network namespace.
///
/// # Errors
/// ENOENT if there is none with this inode, or if the kernel has no
/// `unix_diag`.
pub fn unix_socket(inode: u32) -> io::Result<UnixSocket> {
    let diag = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut request = Vec::with_capacity(40);
    request.extend(40u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, inode, SHOW, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    send(diag.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let len = recv(diag.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse(&answer[..len])
}

fn parse(answer: &[u8]) -> io::Result<UnixSocket> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let len = u32_at(answer, 0).ok_or_else(short)? as usize;
    let kind = u16_at(answer, 4).ok_or_else(short)?;
    let message = answer.get(LEN_HEADER..len).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let errno = u32_at(message, 0).ok_or_else(short)? as i32;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    let mut socket = UnixSocket {
        state: u32::from(*message.get(2).ok_or_else(short)?),
        ..UnixSocket::default()
    };
    let mut rest = message.get(LEN_MESSAGE..).ok_or_else(short)?;
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(4..usize::from(len)).ok_or_else(short)?;
        let word = |index: usize| u32_at(value, 4 * index).unwrap_or(0);
        match kind {
            ATTRIBUTE_VFS => {
                let (inode, dev) = (word(0), word(1));
                // The kernel's own encoding of a device: 12 and 20 bits.
                socket.file = Some((u64::from(inode), (dev >> 20, dev & 0xf_ffff)));
            }
            ATTRIBUTE_PEER => socket.peer = word(0),
            ATTRIBUTE_QUEUES => (socket.waiting, socket.backlog) = (word(0), word(1)),
            ATTRIBUTE_SHUTDOWN => socket.shutdown = value.first().copied().unwrap_or(0).into(),
            _ => {}
        }
        rest = rest.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(socket)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(fd: &impl AsRawFd) -> u32 {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::metadata(path).unwrap().ino() as u32
    }

    #[test]
    fn the_kernel_tells_peers_queues_and_files() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"12345").unwrap();
        let Ok(found) = unix_socket(inode(&other)) else {
            eprintln!("SKIP: this kernel has no unix_diag");
            return;
        };
        assert_eq!((found.state, found.peer), (1, inode(&one)));
        assert_eq!((found.waiting, found.shutdown, found.file), (5, 0, None));
        one.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(unix_socket(inode(&other)).unwrap().shutdown, 1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let found = unix_socket(inode(&listener)).unwrap();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let dev = (libc::major(meta.dev()), libc::minor(meta.dev()));
        assert_eq!((found.state, found.file), (10, Some((meta.ino(), dev))));
        assert!(unix_socket(1).is_err());
    }

    #[test]
    fn a_short_answer_is_no_panic() {
        let mut answer = [0u8; 64];
        answer[0] = 64;
        answer[4] = 20;
        answer[32] = 200;
        for len in 0..answer.len() {
            assert!(parse(&answer[..len]).is_err(), "{len}");
        }
        assert!(parse(&answer).is_err());
    }
}
