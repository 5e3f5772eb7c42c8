//! What a thread or a process has set for itself with `prctl(2)` and
//! `mlockall(2)`, and that no file under `/proc` shows.
//!
//! What would be lost and cannot be set again is refused by name.

use super::Refusal;
use super::process::Status;
use crate::restore::plan::PARENT_DEATH;
use crate::restore::planner::Setting;
use crate::sys::ptrace;
use crate::trace::{Remote, Scratch, Stopped, TraceError};

/// `PR_GET_MDWE`, `PR_SET_MDWE` (Linux 6.3).
const PR_GET_MDWE: i32 = 66;
const PR_SET_MDWE: i32 = 65;
/// `PR_GET_MEMORY_MERGE`, `PR_SET_MEMORY_MERGE` (Linux 6.4).
const PR_GET_MEMORY_MERGE: i32 = 68;
const PR_SET_MEMORY_MERGE: i32 = 67;
/// `PR_GET_IO_FLUSHER` (Linux 5.6), for CAP_SYS_RESOURCE only.
const PR_GET_IO_FLUSHER: i32 = 58;
/// `arch_prctl(2)`: whether `cpuid` may be executed.
const ARCH_GET_CPUID: u64 = 0x1011;
/// The last speculation control that there is (`PR_SPEC_L1D_FLUSH`).
const LAST_SPECULATION: u64 = 2;
/// A thread that has set no policy for memory errors.
const MCE_DEFAULT: u64 = libc::PR_MCE_KILL_DEFAULT as u64;

/// Asks a thread what it has set for itself alone.
pub fn of_thread(
    thread: &Stopped,
    remote: &mut Remote<'_>,
    scratch: &Scratch,
) -> Result<Vec<Setting>, Refusal> {
    let tid = thread.tid();
    let refuse = |what: &str| Err(Refusal::lasting(format!("thread {tid} {what}")));
    let mut settings = Vec::new();
    if let Some(signal) = by_pointer(remote, scratch, libc::PR_GET_PDEATHSIG)? {
        if signal != 0 && !PARENT_DEATH.contains(&u64::from(signal)) {
            return refuse(&format!("asks for signal {signal} when its parent ends"));
        }
        settings.extend(changed(libc::PR_SET_PDEATHSIG, u64::from(signal), 0));
    }
    if let Some(tsc) = by_pointer(remote, scratch, libc::PR_GET_TSC)? {
        settings.extend(changed(libc::PR_SET_TSC, u64::from(tsc), libc::PR_TSC_ENABLE as u64));
    }
    let policy = prctl(remote, libc::PR_MCE_KILL_GET, 0)?.unwrap_or(MCE_DEFAULT);
    if policy != MCE_DEFAULT {
        let args = [libc::PR_MCE_KILL_SET as u64, policy];
        settings.push(Setting { option: libc::PR_MCE_KILL, args });
    }
    for which in 0..=LAST_SPECULATION {
        let its = prctl(remote, libc::PR_GET_SPECULATION_CTRL, which)?;
        if its != own_speculation(which) {
            return refuse("has a speculation control of its own (PR_SET_SPECULATION_CTRL)");
        }
    }
    if remote.call(libc::SYS_arch_prctl, [ARCH_GET_CPUID, 0, 0, 0, 0, 0])? == 0 {
        return refuse("may not execute cpuid (ARCH_SET_CPUID)");
    }
    if prctl(remote, PR_GET_IO_FLUSHER, 0)?.is_some_and(|on| on != 0) {
        return refuse("is an I/O flusher (PR_SET_IO_FLUSHER)");
    }
    if ptrace::syscall_dispatch(tid).is_ok_and(|mode| mode != 0) {
        return refuse("dispatches its system calls (PR_SET_SYSCALL_USER_DISPATCH)");
    }
    Ok(settings)
}

/// Asks how late a thread's timers may be, in nanoseconds.
pub fn timer_slack(remote: &mut Remote<'_>) -> Result<u64, TraceError> {
    let args = [libc::PR_GET_TIMERSLACK as u64, 0, 0, 0, 0, 0];
    remote.call_ok("reading the timer slack", libc::SYS_prctl, args)
}

/// Asks the leader what holds for the memory of the process.
pub fn of_memory(remote: &mut Remote<'_>) -> Result<Vec<Setting>, Refusal> {
    let mut settings = Vec::new();
    for (get, set) in [(PR_GET_MEMORY_MERGE, PR_SET_MEMORY_MERGE), (PR_GET_MDWE, PR_SET_MDWE)] {
        if let Some(bits) = prctl(remote, get, 0)? {
            settings.extend(changed(set, bits, 0));
        }
    }
    Ok(settings)
}

fn changed(option: i32, now: u64, default: u64) -> Option<Setting> {
    (now != default).then_some(Setting { option, args: [now, 0] })
}

/// Asks for a number; `None` where this kernel, or this user, gets no answer.
fn prctl(remote: &mut Remote<'_>, option: i32, arg: u64) -> Result<Option<u64>, TraceError> {
    let result = remote.call(libc::SYS_prctl, [option as u64, arg, 0, 0, 0, 0])?;
    Ok(u64::try_from(result).ok())
}

fn by_pointer(
    remote: &mut Remote<'_>,
    scratch: &Scratch,
    option: i32,
) -> Result<Option<u32>, TraceError> {
    let result = remote.call(libc::SYS_prctl, [option as u64, scratch.addr(), 0, 0, 0, 0])?;
    if result != 0 {
        return Ok(None);
    }
    Ok(Some(u32::from_le_bytes(scratch.read()?)))
}

/// What this process, which the program was started by, has.
fn own_speculation(which: u64) -> Option<u64> {
    u64::try_from(crate::sys::process::speculation_control(which)).ok()
}

/// How much memory is locked, in KiB (`proc(5)`).
///
/// What is mapped after `mlockall(MCL_FUTURE)` is locked at once, our page
/// too: nothing else tells of it.
pub fn locked_kib(pid: i32) -> Result<u64, Refusal> {
    let status = Status::read(pid)?;
    let digits = status.value("VmLck").trim_end_matches(" kB");
    Ok(digits.trim().parse().unwrap_or(0))
}
