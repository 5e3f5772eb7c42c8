//! `kcmp(2)`: do two descriptors share one open file description?

use std::io;
use std::os::fd::RawFd;

const KCMP_FILE: libc::c_int = 0;

/// What two tasks may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// The memory (`CLONE_VM`, `vfork(2)` until its child's exec).
    Memory = 1,
    /// The table of descriptors (`CLONE_FILES`).
    Descriptors = 2,
    /// Working directory, root and umask (`CLONE_FS`).
    Directories = 3,
    /// The signal actions (`CLONE_SIGHAND`).
    Actions = 4,
}

/// Returns whether two tasks share something.
pub fn share(tid_a: i32, tid_b: i32, what: Shared) -> io::Result<bool> {
    // SAFETY: kcmp takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, tid_a, tid_b, what as i32, 0, 0) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

/// Returns whether descriptor `fd_a` of `pid_a` and `fd_b` of `pid_b` refer to
/// the same open file description (`KCMP_FILE`).
pub fn same_file(pid_a: i32, fd_a: RawFd, pid_b: i32, fd_b: RawFd) -> io::Result<bool> {
    // SAFETY: kcmp takes numbers only.
    let result =
        unsafe { libc::syscall(libc::SYS_kcmp, pid_a, pid_b, KCMP_FILE, fd_a as u64, fd_b as u64) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}
