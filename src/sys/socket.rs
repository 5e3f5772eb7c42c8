//! What a socket is and how it is set: `getsockopt(2)`, `getsockname(2)`,
//! `poll(2)`, `ioctl(2)` on a duplicate of another process's descriptor.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads an option that is an `int`.
pub fn int_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let bytes: &mut [u8; 4] = zerocopy_int(&mut value);
    option(socket, level, name, bytes)?;
    Ok(value)
}

fn zerocopy_int(value: &mut i32) -> &mut [u8; 4] {
    // SAFETY: an i32 is four initialised bytes, and every four bytes are one.
    unsafe { &mut *std::ptr::from_mut(value).cast() }
}

/// Reads an option into a buffer and returns how many bytes it has.
pub fn option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut len = buffer.len() as libc::socklen_t;
    // SAFETY: `buffer` is writable for `len` bytes, which is all that the call
    // writes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, buffer.as_mut_ptr().cast(), &mut len)
    };
    if result == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Ours.
    Local,
    /// The other one.
    Peer,
}

/// An address with the scope of an IPv6 one; `None` if it is not of the
/// internet families or if there is no peer.
pub fn address(socket: BorrowedFd<'_>, end: End) -> io::Result<Option<SocketAddr>> {
    let mut bytes = [0u8; size_of::<libc::sockaddr_storage>()];
    Ok(raw_address(socket, end, &mut bytes)?.and_then(|_| parse_address(&bytes)))
}

/// Reads an address and returns its length in bytes; `None` without a peer.
fn raw_address(
    socket: BorrowedFd<'_>,
    end: End,
    bytes: &mut [u8; size_of::<libc::sockaddr_storage>()],
) -> io::Result<Option<usize>> {
    let mut len = bytes.len() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    let place = bytes.as_mut_ptr().cast();
    // SAFETY: `bytes` is writable for `len` bytes, which bounds both calls.
    let result = unsafe {
        match end {
            End::Local => libc::getsockname(fd, place, &mut len),
            End::Peer => libc::getpeername(fd, place, &mut len),
        }
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        let none = error.raw_os_error() == Some(libc::ENOTCONN);
        return if none { Ok(None) } else { Err(error) };
    }
    Ok(Some((len as usize).min(bytes.len())))
}

/// Sets an option that is an `int`.
pub fn set_int_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes, which is all that is read.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the name of a Unix socket (`unix(7)`): a path without its zero
/// byte, an abstract name with the one that it begins with, nothing if it has
/// none; `None` if there is no peer.
pub fn unix_name(socket: BorrowedFd<'_>, end: End) -> io::Result<Option<Vec<u8>>> {
    const OFFSET_PATH: usize = 2;
    let mut bytes = [0u8; size_of::<libc::sockaddr_storage>()];
    let Some(len) = raw_address(socket, end, &mut bytes)? else { return Ok(None) };
    let name = bytes.get(OFFSET_PATH..len).unwrap_or_default();
    let is_path = name.first().is_some_and(|first| *first != 0);
    let end = if is_path { name.iter().position(|byte| *byte == 0) } else { None };
    Ok(Some(name[..end.unwrap_or(name.len())].to_vec()))
}

/// Builds the `sockaddr_un` of a name, as [`unix_name`] returns it.
pub fn unix_address(name: &[u8]) -> Vec<u8> {
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    bytes.extend(name);
    if name.first().is_some_and(|first| *first != 0) {
        bytes.push(0);
    }
    bytes
}

/// Parses a `sockaddr_in` or `sockaddr_in6`.
fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = match family {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7])),
        libc::AF_INET6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[8..24]);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Builds the `sockaddr_in` or `sockaddr_in6` of an address.
pub fn socket_address(ip: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match ip {
        IpAddr::V4(ip) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

/// Returns the events that a descriptor has now, without waiting.
pub fn events(fd: BorrowedFd<'_>) -> io::Result<i16> {
    let mut poll =
        libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one valid pollfd; a timeout of 0 does not wait.
    let result = unsafe { libc::poll(&mut poll, 1, 0) };
    if result >= 0 { Ok(poll.revents) } else { Err(io::Error::last_os_error()) }
}

/// Returns how many bytes can be read from a pipe or socket (`FIONREAD`).
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut len = 0i32;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut len) };
    if result == 0 { Ok(len) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    #[test]
    fn an_address_read_is_the_address_bound() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let expected = listener.local_addr().unwrap();
            let read = address(listener.as_fd(), End::Local).unwrap().unwrap();
            assert_eq!(read, expected);
            let bytes = socket_address(expected.ip(), expected.port());
            assert_eq!(parse_address(&bytes), Some(expected));
            assert_eq!(address(listener.as_fd(), End::Peer).unwrap(), None);
        }
    }
}
