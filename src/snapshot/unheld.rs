//! What a process may have set that neither the image nor the plan has a place
//! for: refused by name rather than lost.
//!
//! Most of it is inherited, so it is compared with this process, whose child a
//! restored program is.

use super::Refusal;
use super::process::Status;
use crate::sys::attributes::{self, Attribute, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING};
use crate::sys::memory::LEN_PAGE;
use crate::sys::ptrace;
use crate::trace::{Group, Remote, Scratch};

/// `PR_TSC_ENABLE`.
const TSC_ENABLED: u32 = 1;
/// `arch_prctl(ARCH_GET_XCOMP_PERM)` (Linux 5.16), and the bit of AMX's tiles.
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const XFEATURE_TILES: u64 = 1 << 18;
const KEYRINGS: [(i32, &str); 2] = [(-1, "a thread"), (-2, "the process")];
/// `KCMP_VM`.
const KCMP_VM: u64 = 1;

/// Attributes by their values in the process, and what they are called.
const ATTRIBUTES: [(Attribute, &str); 4] = [
    (Attribute::MachineCheckKill, "its own answer to machine checks (PR_MCE_KILL)"),
    (Attribute::IoFlusher, "PR_SET_IO_FLUSHER"),
    (Attribute::DenyWriteExec, "forbidden itself writable code (PR_SET_MDWE)"),
    (Attribute::MemoryMerge, "PR_SET_MEMORY_MERGE"),
];

/// Lines of `status` that tell how far the processor may speculate
/// (`PR_SET_SPECULATION_CTRL`).
const SPECULATION: [&str; 2] = ["Speculation_Store_Bypass", "SpeculationIndirectBranch"];

/// Refuses a process with such state in one of its threads. Of a `child` in a
/// tree the leader's parent-death signal is held.
pub fn check(group: &Group, gate: u64, scratch: &Scratch, child: bool) -> Result<(), Refusal> {
    let pid = group.pid();
    let own = Status::read(std::process::id() as i32)?;
    for thread in group.threads() {
        let tid = thread.tid();
        let status = Status::of_thread(pid, tid)?;
        if let Some(key) = SPECULATION.iter().find(|key| status.value(key) != own.value(key)) {
            let what = format!("thread {tid} has {key} set to {}", status.value(key));
            return Err(Refusal::lasting(what));
        }
        // Before 6.4 nothing tells.
        if ptrace::dispatches_calls(tid).unwrap_or(false) {
            let what = "handles its own system calls (PR_SET_SYSCALL_USER_DISPATCH)";
            return Err(Refusal::lasting(format!("thread {tid} {what}")));
        }
        let mut remote = Remote::borrow(thread, gate)?;
        thread_attributes(&mut remote, scratch, tid, child && tid == pid)?;
    }
    let mut remote = Remote::borrow(group.leader(), gate)?;
    for (attribute, name) in ATTRIBUTES {
        let its = remote.call(libc::SYS_prctl, [attribute as u64, 0, 0, 0, 0, 0])?;
        if its >= 0 && its != attributes::get(attribute) {
            return Err(Refusal::lasting(format!("process {pid} has {name}")));
        }
    }
    tiles(&mut remote, scratch, pid)?;
    keyrings(&mut remote, pid)?;
    locks_to_come(&mut remote, pid)?;
    landlock(&mut remote, pid, &own)
}

/// What a thread has for itself alone.
fn thread_attributes(
    remote: &mut Remote<'_>,
    scratch: &Scratch,
    tid: i32,
    may_have_death_signal: bool,
) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::lasting(format!("thread {tid} {what}")));
    let mut number = |option: i32| -> Result<Option<u32>, Refusal> {
        let args = [option as u64, scratch.addr(), 0, 0, 0, 0];
        let result = remote.call(libc::SYS_prctl, args)?;
        if result < 0 { Ok(None) } else { Ok(Some(u32::from_le_bytes(scratch.read()?))) }
    };
    if number(libc::PR_GET_TSC)?.is_some_and(|mode| mode != TSC_ENABLED) {
        return refuse("may not read the time-stamp counter (PR_SET_TSC)");
    }
    // A restored program dies with its launcher, by SIGKILL, as one that is
    // started cold and watched does.
    let signal = number(libc::PR_GET_PDEATHSIG)?.unwrap_or(0);
    if signal != 0 && signal != libc::SIGKILL as u32 && !may_have_death_signal {
        return refuse(&format!("wants signal {signal} when its parent dies (PR_SET_PDEATHSIG)"));
    }
    Ok(())
}

fn tiles(remote: &mut Remote<'_>, scratch: &Scratch, pid: i32) -> Result<(), Refusal> {
    let args = [ARCH_GET_XCOMP_PERM, scratch.addr(), 0, 0, 0, 0];
    if remote.call(libc::SYS_arch_prctl, args)? < 0 {
        return Ok(());
    }
    if u64::from_le_bytes(scratch.read()?) & XFEATURE_TILES != 0 {
        return Err(Refusal::lasting(format!("process {pid} has asked for AMX")));
    }
    Ok(())
}

/// Keys are in keyrings, which go with the last process that has them.
fn keyrings(remote: &mut Remote<'_>, pid: i32) -> Result<(), Refusal> {
    let mut ring = |which: i32| {
        let which = i64::from(which) as u64;
        remote.call(libc::SYS_keyctl, [KEYCTL_GET_KEYRING_ID, which, 0, 0, 0, 0])
    };
    let session = ring(SESSION_KEYRING)?;
    if session > 0 && session != attributes::session_keyring() {
        let what = format!("process {pid} has joined a session keyring of its own");
        return Err(Refusal::lasting(what));
    }
    for (which, whose) in KEYRINGS {
        if ring(which)? > 0 {
            return Err(Refusal::lasting(format!(
                "process {pid} has keys in a keyring of {whose}"
            )));
        }
    }
    Ok(())
}

/// `mlockall(MCL_FUTURE)` shows in nothing but in what is mapped afterwards.
fn locks_to_come(remote: &mut Remote<'_>, pid: i32) -> Result<(), Refusal> {
    let locked = || Ok::<_, Refusal>(Status::read(pid)?.value("VmLck").to_owned());
    let before = locked()?;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let args = [0, LEN_PAGE, libc::PROT_NONE as u64, flags, u64::MAX, 0];
    let page = remote.call_ok("mapping a page", libc::SYS_mmap, args)?;
    let after = locked();
    remote.call_ok("unmapping a page", libc::SYS_munmap, [page, LEN_PAGE, 0, 0, 0, 0])?;
    if after? != before {
        let what = format!("process {pid} locks all memory to come (MCL_FUTURE)");
        return Err(Refusal::lasting(what));
    }
    Ok(())
}

/// Landlock shows nowhere, but a process under its rules may not look at one
/// outside of them, such as this one. Nor may a process look at one that has
/// more capabilities, so that says something only where it is as capable as we
/// are, or where it has taken the step that Landlock asks of everybody else.
fn landlock(remote: &mut Remote<'_>, pid: i32, own: &Status) -> Result<(), Refusal> {
    let status = Status::read(pid)?;
    let as_capable = own.hex("CapPrm") & !status.hex("CapEff") == 0;
    let prepared = status.value("NoNewPrivs") != own.value("NoNewPrivs");
    if !as_capable && !prepared {
        return Ok(());
    }
    let us = u64::from(std::process::id());
    let result = remote.call(libc::SYS_kcmp, [pid as u64, us, KCMP_VM, 0, 0, 0])?;
    if result == -i64::from(libc::EPERM) {
        let what = format!("process {pid} may not look at its parent, as under Landlock's rules");
        return Err(Refusal::lasting(what));
    }
    Ok(())
}
