//! A process with a pid of our choice, which stands in the way of a restore.
//!
//! Made by `clone3(2)` with `set_tid` alone, without any code of warmstart.
#![allow(unsafe_code)]

use std::io;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, setpgid};

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

    /// Makes a process with any pid.
    fn somewhere() -> io::Result<Self> {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => sleep_until_killed(),
            pid => Ok(Self { pid: Pid::from_raw(pid) }),
        }
    }

    /// Ends it; its pid stays taken until it is dropped.
    pub fn end(&self) -> io::Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        Ok(())
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
    /// The group's only member.
    _member: Occupant,
}

impl Ghost {
    /// Makes a process group with this id whose leader has ended.
    pub fn of(pid: i32) -> io::Result<Self> {
        let leader = Occupant::of(pid)?;
        setpgid(leader.pid, leader.pid)?;
        // Ours as well: not every pid 1 reaps orphans.
        let member = Occupant::somewhere()?;
        setpgid(member.pid, leader.pid)?;
        Ok(Self { _member: member })
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
