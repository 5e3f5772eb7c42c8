//! What a process may have set that neither the image nor the plan has a place
//! for: refused by name rather than lost.
//!
//! Most of it is inherited, so it is compared with this process, whose child a
//! restored program is.

use super::Refusal;
use super::process::Status;
use crate::sys::keyring::{self, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING};
use crate::trace::{Group, Remote, Scratch};

/// `arch_prctl(ARCH_GET_XCOMP_PERM)` (Linux 5.16), and the bit of AMX's tiles.
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const XFEATURE_TILES: u64 = 1 << 18;
const KEYRINGS: [(i32, &str); 2] = [(-1, "a thread"), (-2, "the process")];
/// `KCMP_VM`.
const KCMP_VM: u64 = 1;

/// Refuses a process with such state.
pub fn check(group: &Group, gate: u64, scratch: &Scratch) -> Result<(), Refusal> {
    let pid = group.pid();
    let mut remote = Remote::borrow(group.leader(), gate)?;
    tiles(&mut remote, scratch, pid)?;
    keyrings(&mut remote, pid)?;
    landlock(&mut remote, pid, &Status::read(std::process::id() as i32)?)
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
    if session > 0 && session != keyring::session_keyring() {
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
