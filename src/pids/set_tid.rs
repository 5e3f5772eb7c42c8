//! `clone3(2)` with `set_tid` (Linux 5.5), in the caller's pid namespace.

use std::io;

use super::{ChildCode, StartError, Unavailable};
use crate::privilege;
use crate::sys::clone3::{self, CLONE_CLEAR_SIGHAND, CloneArgs};

/// Makes a child with exactly this pid that runs `code`.
///
/// The capability is effective in the launcher for this one call; the child
/// needs it for its threads and drops it by its own code. The kernel checks in
/// this order (`kernel/pid.c`, `alloc_pid`): a pid that cannot be is EINVAL,
/// no capability EPERM, a pid in use EEXIST.
pub fn start(pid: i32, code: ChildCode) -> Result<(), StartError> {
    let set_tid = [pid];
    let args = CloneArgs {
        flags: CLONE_CLEAR_SIGHAND,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: 1,
        ..Default::default()
    }
    .to_bytes();
    let result =
        privilege::raised(|| clone3::run_program(&args, code.interpreter, code.entry, code.report));
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(pid, error)),
    }
}

fn refused(pid: i32, error: io::Error) -> StartError {
    match error.raw_os_error() {
        Some(libc::EEXIST) => StartError::Taken(pid),
        Some(libc::EPERM) => Unavailable::NotPermitted.into(),
        Some(libc::ENOSYS) => Unavailable::NoClone3.into(),
        _ => StartError::Refused { pid, source: error },
    }
}
