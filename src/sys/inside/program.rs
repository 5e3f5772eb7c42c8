//! A program that is executed in namespaces of its own, as a child of ours.

use std::os::fd::RawFd;

use super::super::ambient;
use super::super::birth::Birth;
use super::super::capability::{self, CAP_CHECKPOINT_RESTORE, Sets};
use super::super::namespaces::{self, Enclosure, Failed, Owner, Step, Time, failed};
use super::super::process::{self, Exec, Inherited};
use super::{Told, scout};

/// What is executed inside, and how.
pub struct Program<'a> {
    /// The program.
    pub exec: &'a mut Exec,
    /// What it finds of signals and standard descriptors.
    pub inherited: &'a Inherited,
    /// What replaces 0, 1 and 2.
    pub stdio: [Option<RawFd>; 3],
    /// The pid that ends with us should we be killed before we let go, inside.
    pub ward: i32,
    /// The pid after which the program's own comes, inside.
    pub last_pid: i32,
}

/// Makes namespaces, executes a program there and returns its pid as we see it,
/// and what keeps the namespaces. That it cannot be executed shows as its exit
/// status, 127.
///
/// In a user namespace of its own it keeps `CAP_CHECKPOINT_RESTORE` there, and
/// no other capability. The calling process must have no other threads.
pub fn execute(
    owner: Owner,
    time: Time,
    mut program: Program<'_>,
) -> Result<(i32, Enclosure), Failed> {
    scout(|lines| {
        let mut told = Told::default();
        if let Err(failed) = make(owner, time, &mut program, lines, &mut told) {
            (told.step, told.errno) = (failed.step as u8, failed.errno);
        }
        told
    })
}

fn make(
    owner: Owner,
    time: Time,
    program: &mut Program<'_>,
    lines: [RawFd; 3],
    told: &mut Told,
) -> Result<(), Failed> {
    namespaces::make(owner, time)?;
    super::make_init(program.ward, Some(program.last_pid), lines, told)?;
    // SAFETY: like fork(2) of a process with one thread, with the caller's
    // parent as the parent; the child executes a program or ends.
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) } {
        -1 => Err(failed(Step::Child)),
        0 => {
            if owner == Owner::AsWeAre || keep_one() {
                let Program { exec, inherited, stdio, .. } = program;
                // Our parent is outside, and shows as 0.
                let _ = process::child(exec, inherited, *stdio, 0, Birth::Anywhere);
            }
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        pid => {
            told.pid = pid as i32;
            Ok(())
        }
    }
}

/// Leaves the one capability of a new user namespace's that the program needs.
fn keep_one() -> bool {
    let one = 1 << CAP_CHECKPOINT_RESTORE;
    let sets = Sets { effective: one, permitted: one, inheritable: one };
    capability::capset(&sets).is_ok() && ambient::raise(CAP_CHECKPOINT_RESTORE).is_ok()
}
