//! What a process would undo to System V semaphores at its end (`semop(2)`,
//! SEM_UNDO).

use std::io;

/// `KCMP_SYSVSEM` (`kcmp(2)`).
const KCMP_SYSVSEM: libc::c_int = 6;

/// Returns whether a process has a list of what it would undo, which a thread
/// that makes a thread gets, too: compared with a process that has none.
///
/// # Errors
/// If the two may not be compared.
pub fn has_undo_list(pid: i32) -> io::Result<bool> {
    let without = Newborn::new()?;
    // SAFETY: kcmp takes numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid, without.0, KCMP_SYSVSEM, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order != 0),
    }
}

/// Returns who acted last upon a semaphore of a set, 0 for nobody or somebody
/// outside of our pid namespace (`semctl(2)`, GETPID).
pub fn last_to_act(set: i32, number: i32) -> io::Result<i32> {
    // SAFETY: GETPID takes no fourth argument.
    match unsafe { libc::semctl(set, number, libc::GETPID) } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// A child that only waits: `fork(2)` gives no list (without CLONE_SYSVSEM).
struct Newborn(libc::c_long);

impl Newborn {
    fn new() -> io::Result<Self> {
        // No signal at its end: whoever waits for children learns nothing of it.
        // SAFETY: a copy of this process, which runs nothing but what follows.
        let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => loop {
                // SAFETY: async-signal-safe; it ends with its parent.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::pause();
                }
            },
            pid => Ok(Self(pid)),
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let pid = self.0 as libc::pid_t;
        // SAFETY: our child, which nobody else waits for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_with_threads_has_a_list_and_a_new_one_has_none() {
        let new = Newborn::new().unwrap();
        // This one runs tests on threads.
        assert!(has_undo_list(std::process::id() as i32).unwrap());
        assert!(!has_undo_list(new.0 as i32).unwrap());
    }
}
