//! Pid descriptors: `pidfd_open(2)`, `pidfd_getfd(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn owned(result: i64) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// Opens a descriptor for a process (`pidfd_open(2)`, Linux 5.3).
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Duplicates descriptor `fd` of the process into this one, sharing its open
/// file description (`pidfd_getfd(2)`, Linux 5.6).
pub fn get_fd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// Takes over a descriptor that a system call has just returned.
pub fn adopt(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "a descriptor that exists");
    // SAFETY: the caller got the number from a call that made the descriptor
    // and hands it over; closing it twice would be an error, not undefined.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Duplicates a descriptor of this process, known by its number, to the lowest
/// free number from `lowest` on (`fcntl(2)`, F_DUPFD_CLOEXEC).
pub fn duplicate_above(fd: RawFd, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(i64::from(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) }))
}

/// The same for a descriptor that what we execute is to have, too.
pub fn duplicate_to_pass_on(fd: RawFd, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(i64::from(unsafe { libc::fcntl(fd, libc::F_DUPFD, lowest) }))
}
