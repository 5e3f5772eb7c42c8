//! A process with a pid of our choice, which stands in the way of a restore.
//!
//! Made by `clone3(2)` with `set_tid` alone, without any code of warmstart.
#![allow(unsafe_code)]

use std::io;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// A process that does nothing; it ends when dropped.
#[derive(Debug)]
pub struct Occupant {
    pid: Pid,
}

impl Occupant {
    /// Makes a process with this pid.
    pub fn of(pid: i32) -> io::Result<Self> {
        let set_tid = [pid];
        // `struct clone_args`: flags, pidfd, child_tid, parent_tid,
        // exit_signal, stack, stack_size, tls, set_tid, set_tid_size.
        let mut args = [0u64; 10];
        args[4] = libc::SIGCHLD as u64;
        args[8] = set_tid.as_ptr() as u64;
        args[9] = 1;
        // SAFETY: the arguments live on this stack during the call and ask for
        // what fork(2) does. The child makes system calls only, through
        // functions that are safe after a fork of a threaded process.
        let result = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
        match result {
            0 => loop {
                // SAFETY: as above; the parent's end is ours.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::pause();
                }
            },
            -1 => Err(io::Error::last_os_error()),
            made => Ok(Self { pid: Pid::from_raw(made as i32) }),
        }
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
