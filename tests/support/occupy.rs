//! A process with a pid of our choice, which stands in the way of a restore.
//!
//! Made by `clone3(2)` with `set_tid` alone, without any code of warmstart.
#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A process that does nothing; it ends when dropped.
#[derive(Debug)]
pub struct Occupant {
    pid: Pid,
}

impl Occupant {
    /// Makes a process with this pid.
    pub fn of(pid: i32) -> io::Result<Self> {
        match clone_as(pid)? {
            Some(pid) => Ok(Self { pid }),
            None => sleep_until_killed(),
        }
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// A pid that no process has, but a process group; free when dropped.
#[derive(Debug)]
pub struct Ghost {
    group: Pid,
}

impl Ghost {
    /// Makes a process group with this id whose leader has ended.
    pub fn of(pid: i32) -> io::Result<Self> {
        let Some(group) = clone_as(pid)? else {
            // SAFETY: system calls that are safe after a fork of a threaded
            // process.
            unsafe {
                if libc::setpgid(0, 0) != 0 {
                    libc::_exit(1);
                }
                match libc::fork() {
                    -1 => libc::_exit(1),
                    0 => sleep_until_killed(),
                    _ => libc::_exit(0),
                }
            }
        };
        match waitpid(group, None)? {
            WaitStatus::Exited(_, 0) => Ok(Self { group }),
            status => Err(io::Error::other(format!("{status:?}"))),
        }
    }
}

impl Drop for Ghost {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        let end = Instant::now() + Duration::from_secs(5);
        // Its member is init's child: wait until it is gone.
        while killpg(self.group, None).is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Makes a child process with this pid; in the child, returns nothing.
fn clone_as(pid: i32) -> io::Result<Option<Pid>> {
    let set_tid = [pid];
    // `struct clone_args`: flags, pidfd, child_tid, parent_tid, exit_signal,
    // stack, stack_size, tls, set_tid, set_tid_size.
    let mut args = [0u64; 10];
    args[4] = libc::SIGCHLD as u64;
    args[8] = set_tid.as_ptr() as u64;
    args[9] = 1;
    // SAFETY: the arguments live on this stack during the call and ask for
    // what fork(2) does; the callers' children make system calls only.
    let result = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    match result {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        made => Ok(Some(Pid::from_raw(made as i32))),
    }
}

/// What a child does, for at most five minutes: a test that is killed leaves
/// nothing for good.
fn sleep_until_killed() -> ! {
    // SAFETY: both are safe after a fork of a threaded process.
    unsafe {
        libc::sleep(300);
        libc::_exit(0);
    }
}
