//! How threads are scheduled, as far as `/proc` does not show it.

/// `IOPRIO_WHO_PROCESS`: a thread, by its id (`ioprio_set(2)`).
pub const IOPRIO_WHO_PROCESS: i32 = 1;
/// What `SCHED_RESET_ON_FORK` adds to a policy (`sched(7)`).
pub const RESET_ON_FORK: i32 = libc::SCHED_RESET_ON_FORK;

/// Returns the priority of a thread's input and output, 0 for our own thread's;
/// `None` if it is not to be known.
pub fn io_priority(tid: i32) -> Option<i32> {
    // SAFETY: takes numbers only.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    i32::try_from(priority).ok().filter(|priority| *priority >= 0)
}

/// Tells whether the children of a thread are to be scheduled as others are.
pub fn resets_on_fork(tid: i32) -> bool {
    // SAFETY: takes a number only; an error has every bit set.
    let policy = unsafe { libc::sched_getscheduler(tid) };
    policy >= 0 && policy & RESET_ON_FORK != 0
}
