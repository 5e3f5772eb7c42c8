//! Questions to the kernel that `doctor` asks: does a call exist, may we use
//! it. None of them changes anything.
#![allow(unsafe_code)]

use std::io;

/// `struct clone_args` up to `set_tid_size` (`clone(2)`, Linux 5.5).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 80);

/// What `clone3` said to a wish for a pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTid {
    /// Pids can be chosen.
    Works,
    /// The kernel has it; the capability is missing (`EPERM`).
    NotPermitted,
    /// The kernel has no `clone3`, or something filters it (`ENOSYS`).
    NoClone3,
    /// The kernel's `clone3` has no `set_tid` (before 5.5: `E2BIG`).
    NoSetTid,
    /// Another error.
    Failed(i32),
}

/// Asks `clone3` for a pid that is in use: our own.
///
/// No process can come of it. The kernel checks the capability before it
/// looks whether the pid is free, so `EEXIST` says that a free one could have
/// been had.
pub fn clone3_set_tid() -> SetTid {
    let wanted = [std::process::id() as libc::pid_t];
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: wanted.as_ptr() as u64,
        set_tid_size: wanted.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are a live struct of the size given, `set_tid`
    // points to a live array of `set_tid_size` pids. The pid asked for is
    // ours, so the call cannot succeed; should it, the child leaves at once
    // without touching anything that it shares with us.
    unsafe {
        match libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) {
            0 => libc::_exit(0),
            -1 => {}
            child => {
                libc::waitpid(child as libc::pid_t, std::ptr::null_mut(), 0);
                return SetTid::Works;
            }
        }
    }
    match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
        libc::EEXIST => SetTid::Works,
        libc::EPERM => SetTid::NotPermitted,
        libc::ENOSYS => SetTid::NoClone3,
        libc::E2BIG => SetTid::NoSetTid,
        errno => SetTid::Failed(errno),
    }
}

/// Tells whether `PR_GET_TID_ADDRESS` works (needs a kernel with
/// `CONFIG_CHECKPOINT_RESTORE`, Linux 3.5).
pub fn has_tid_address() -> bool {
    let mut address: u64 = 0;
    // SAFETY: the kernel writes one pointer to the address given, a live local
    // of that size.
    unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address, 0, 0, 0) == 0 }
}

/// Tells whether `kcmp(2)` works on ourselves (`CONFIG_KCMP`).
pub fn has_kcmp() -> bool {
    const KCMP_VM: libc::c_int = 1;
    let pid = std::process::id() as libc::pid_t;
    // SAFETY: KCMP_VM compares two processes by number and touches no memory.
    unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_VM, 0, 0) == 0 }
}
