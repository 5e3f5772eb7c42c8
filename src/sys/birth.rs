//! How a child is made: with any pid, with an exact one, or as the next one.
//!
//! The last is for a pid that somebody has brought about
//! ([`crate::pids::Positioner`]): between that and the child nobody else may
//! make a process. `fork(2)` copies the memory before it takes a pid, 0.2 to
//! 0.4 ms even for us; a child that shares it (`vfork(2)`, and what
//! `posix_spawn(3)` does) has its pid 10 to 30 µs after the call began.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;

use super::clone3;

/// The stack of a child that shares our memory, in bytes.
const LEN_STACK: usize = 64 * 1024;

/// The pid that a child is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// Any.
    Anywhere,
    /// This one, by `clone3(2)` with `set_tid`.
    At(i32),
    /// The next one, which should be this; the child must look.
    Next(i32),
}

impl Birth {
    /// Returns the name of the system call that it is made with.
    pub fn call(self) -> &'static str {
        match self {
            Self::Anywhere => "fork",
            Self::At(_) => "clone3",
            Self::Next(_) => "clone",
        }
    }
}

/// Tells whether the calling process, a child, has the pid that it was to
/// have. Async-signal-safe.
pub fn is_as_wished(birth: Birth) -> bool {
    match birth {
        Birth::Anywhere => true,
        // SAFETY: takes nothing, cannot fail.
        Birth::At(pid) | Birth::Next(pid) => (unsafe { libc::getpid() }) == pid,
    }
}

/// Makes a child that runs `body` and ends with status 127 if that returns;
/// returns its pid.
///
/// # Safety
///
/// `body` must be async-signal-safe. It may run on a small stack in the
/// caller's own memory, while the calling thread waits: what it changes there
/// stays changed.
pub unsafe fn make(birth: Birth, body: &mut dyn FnMut()) -> io::Result<i32> {
    let pid = match birth {
        Birth::Next(_) => return share(body),
        Birth::Anywhere => {
            // SAFETY: the caller promises a body that is async-signal-safe.
            match unsafe { libc::fork() } {
                -1 => return Err(io::Error::last_os_error()),
                pid => pid,
            }
        }
        // SAFETY: as above; the child ends below.
        Birth::At(pid) => unsafe { clone3::fork(0, &[pid], 1) }?,
    };
    if pid == 0 {
        body();
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(127) }
    }
    Ok(pid)
}

/// Makes a child in our own memory; returns when it has executed a program or
/// ended. Allocates nothing.
fn share(body: &mut dyn FnMut()) -> io::Result<i32> {
    extern "C" fn entry(body: *mut c_void) -> c_int {
        // SAFETY: `share` passed a pointer to a reference that lives on its
        // stack until the child is gone from this memory (CLONE_VFORK).
        let body = unsafe { &mut *body.cast::<&mut dyn FnMut()>() };
        body();
        127
    }
    let mut stack = [const { MaybeUninit::<u8>::uninit() }; LEN_STACK];
    let top = stack.as_mut_ptr().wrapping_add(LEN_STACK);
    let top = top.wrapping_sub(top as usize % 16);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut body = body;
    // SAFETY: the stack is ours and nobody else's, its top is aligned as the
    // ABI asks; CLONE_VFORK keeps this thread, and so stack and body, as they
    // are until the child has left the memory.
    let pid = unsafe { libc::clone(entry, top.cast(), flags, (&raw mut body).cast()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Makes a child that ends at once, and reaps it; tells whether it had the pid
/// that it was to have.
pub fn try_out(birth: Birth) -> io::Result<bool> {
    let mut body = || {
        // SAFETY: ends the child; nothing of ours runs in it.
        unsafe { libc::_exit(i32::from(!is_as_wished(birth))) }
    };
    // SAFETY: the body makes two system calls.
    let pid = unsafe { make(birth, &mut body) }?;
    reap(pid).map(|status| libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// Waits for the end of a child; returns its status as `waitpid(2)` has it.
pub(super) fn reap(pid: i32) -> io::Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: writes one int to the address given.
        match unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => return Ok(status),
        }
    }
}

/// Uses up one pid of our pid namespace, as cheaply as can be.
///
/// A `clone(2)` that has to report a pid descriptor to an address that is none
/// (`CLONE_PIDFD`, Linux 5.2) has taken a pid by the time it fails, and gives
/// it back without anything having run. Measured here: 8 to 10 µs, against 17
/// to 50 for a child that shares all and ends at once, and 270 to 440 for
/// `fork(2)`. A kernel that does not know the flag makes the child, which ends
/// at once; so both ways a pid is used up.
pub fn use_up_pid() -> io::Result<()> {
    extern "C" fn entry(_: *mut c_void) -> c_int {
        0
    }
    // In the kernel's half of the address space: never ours to write to.
    let nowhere = usize::MAX & !0xfff;
    let mut stack = [0u8; 4096];
    let top = stack.as_mut_ptr().wrapping_add(stack.len());
    let top = top.wrapping_sub(top as usize % 16);
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_VFORK
        | libc::CLONE_PIDFD
        | libc::SIGCHLD;
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: should a child come of it, it returns 0 at once on a stack of
    // its own, while this thread waits (CLONE_VFORK). The address is only for
    // the kernel to write to, which it refuses.
    let pid = unsafe { libc::clone(entry, top.cast(), flags, none, nowhere as *mut c_void) };
    if pid >= 0 {
        return reap(pid).map(|_| ());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EFAULT) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_in_our_memory_leaves_what_it_wrote() {
        let mut seen = 0;
        // SAFETY: the body makes one system call and writes to our memory.
        let pid = unsafe { make(Birth::Next(0), &mut || seen = libc::getpid()) }.unwrap();
        assert_eq!(libc::WEXITSTATUS(reap(pid).unwrap()), 127);
        assert_eq!(seen, pid);
    }

    #[test]
    fn a_child_that_has_another_pid_says_so() {
        assert!(try_out(Birth::Anywhere).unwrap());
        // Pid 1 is never the next one here.
        assert!(!try_out(Birth::Next(1)).unwrap());
    }

    #[test]
    fn a_used_up_pid_leaves_no_child() {
        use_up_pid().unwrap();
        // SAFETY: asks about children of this very thread; there are none.
        let left =
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WNOTHREAD) };
        assert_eq!((left, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ECHILD)));
    }
}
