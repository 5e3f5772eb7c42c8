//! Where a test run stands among processes.
//!
//! `unshare -pf cargo test`, as a continuous integration may start it, is in a
//! session that was begun outside of its pid namespace: `getsid(0)` is 0 there,
//! and CRIU dumps nothing of such a session. Nor is its first process one that
//! takes orphans away, and a zombie's pid is taken.

use std::sync::Once;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid, setsid};
use warmstart::sys::descriptors;

/// Gives this test run a session inside of its pid namespace, if its own is
/// not, makes it the parent of orphans, and closes what it was started with: of
/// that CRIU wants to find the mounts.
pub fn settle() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if getsid(None) == Ok(Pid::from_raw(0)) {
            setsid().expect("whoever has no session here leads no group");
        }
        // What it was started with may be open to something outside, too.
        for fd in descriptors::inheritable().unwrap_or_default() {
            descriptors::close(fd);
        }
        nix::sys::prctl::set_child_subreaper(true).expect("a number is all that it takes");
    });
}

/// Takes an orphan away that has ended; must be called with a pid that nobody
/// else waits for.
pub fn reap(pid: i32) {
    // Mostly it is not ours, or not there any more.
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}
