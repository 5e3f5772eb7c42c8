//! An entry becomes a running process.
//!
//! [`planner`] compiles an image to a [`plan`] at capture; at a restore the
//! plan is loaded, lowered to a [`program`] of the interpreter and executed in
//! a new process with the old pids ([`native()`]). Everything up to the
//! program's release can fail and leave nothing: the launcher starts cold.
//! What the native engine cannot carry, another one restores ([`criu()`]).

use std::fmt;
use std::fs::Metadata;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use crate::pids::Strategy;
use crate::pids::range::RangeError;
use crate::sys::namespaces::{Enclosure, Failed};

pub mod criu;
pub mod foreign;
pub mod host;
pub mod native;
mod offspring;
pub mod plan;
pub mod planner;
pub mod program;

pub use criu::criu;
pub use native::native;

/// What restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The embedded one.
    Native,
    /// CRIU.
    Criu,
}

impl Engine {
    /// Returns the engine's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Criu => "criu",
        }
    }
}

/// What to restore.
#[derive(Debug)]
pub struct Request<'a> {
    /// The directory that [`crate::snapshot::Frozen::write`] filled.
    pub dir: &'a Path,
    /// What is known of the plan there.
    pub plan: plan::Bytes,
    /// Who knows the program's file; `None` if nobody does (an image outside
    /// of the cache).
    pub program: Option<&'a dyn Witness>,
    /// Descriptors of ours above 2 that the program gets under the same
    /// number (`--keep-fd`).
    pub keep: &'a [RawFd],
    /// Descriptors that the program gets under other numbers than ours.
    pub lent: &'a [(RawFd, OwnedFd)],
    /// Which of our 0, 1 and 2 the caller had closed: the program does not
    /// get them (they are open on `/dev/null` in this process).
    pub closed_stdio: [bool; 3],
    /// Signals that the caller had ignored (`nohup`): ignored in the program
    /// as well, where it had left their default action.
    pub ignored: &'a [i32],
    /// The ways to its pids that may be tried, in this order.
    pub pids: &'a [Strategy],
    /// How many pids may be used up to reach the program's (`cycle`).
    pub pid_budget: u32,
    /// Whether the program must have clocks of its own.
    pub clock: host::Clock,
    /// How long the restore may take until its release, the copying of pages
    /// apart: for an image that is copied there is time for its size on top.
    pub deadline: Duration,
}

/// Who can tell whether a file is the one that an image was made of.
pub trait Witness: fmt::Debug {
    /// Tells whether the open file, found under this path, is known.
    fn knows(&self, path: &Path, file: &Metadata) -> bool;
}

/// A program that runs again: a child of ours, in our session and process
/// group, with our 0, 1 and 2.
#[derive(Debug)]
pub struct Restored {
    /// Its pid, in our pid namespace.
    pub pid: i32,
    /// Its pid as it sees itself.
    pub app_pid: i32,
    /// How it came by its pids.
    pub pids: Strategy,
    /// What restored it.
    pub engine: Engine,
    /// The namespaces that it is in, if they are its own: to be left when it
    /// has ended.
    pub enclosure: Option<Enclosure>,
    /// From the call to `clone3`.
    pub before_clone: Duration,
    /// From the call to the release of the program.
    pub total: Duration,
}

impl Restored {
    /// Leaves the namespaces of a program that has ended. What it left behind
    /// there lives on.
    pub fn leave(self) {
        if let Some(enclosure) = self.enclosure {
            enclosure.leave();
        }
    }
}

/// Why an entry was not restored; nothing of the program has run, nothing is
/// left over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotRestore {
    /// A pid or tid of the image is in use.
    #[error("pid {0} is taken")]
    PidTaken(i32),
    /// A pid of the image is held by a process that has ended, whose parent
    /// (or pid 1, after a launcher was killed) has not learnt it yet.
    #[error("pid {0} is taken (it has ended and is not reaped yet)")]
    PidUnreaped(i32),
    /// Other processes took a pid of the image each time that it was the next.
    #[error("pid {0} went to other processes")]
    PidOvertaken(i32),
    /// A pid of the image could not be made the next one.
    #[error("{0}")]
    PidNotReached(String),
    /// We may not choose pids.
    #[error("choosing pids needs CAP_CHECKPOINT_RESTORE")]
    NotPermitted,
    /// We may not choose pids, nor make namespaces.
    #[error("choosing pids needs CAP_CHECKPOINT_RESTORE, and namespaces cannot be made here: {0}")]
    NoWay(Failed),
    /// We cannot make namespaces, and nothing else was to be tried.
    #[error("namespaces cannot be made here: {0}")]
    NoNamespaces(Failed),
    /// The image is of another boot, or its clocks are ahead of now's, and its
    /// program would have the machine's.
    #[error("the image is from before the last boot, or its clocks are ahead of now's")]
    OtherBoot,
    /// Another program would see it: what a pid namespace cannot hide.
    #[error("not in a pid namespace: {0}")]
    NotInNamespace(&'static str),
    /// We may choose pids, but not these.
    #[error(transparent)]
    PidsNotPermitted(#[from] RangeError),
    /// What would restore it is not there, or cannot be used.
    #[error("{0}")]
    NoEngine(String),
    /// The plan or an image file cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A socket's address belongs to another one: the program itself would not
    /// get it now.
    #[error("{0}: the address is in use")]
    AddressInUse(String),
    /// A step failed before the release; `criu` is one, and speaks for itself.
    #[error("{}{step}: {errno}", if step == "criu" { "" } else { "the restore failed at " })]
    Step {
        /// The step, as the plan prints it.
        step: String,
        /// Its error.
        errno: String,
    },
    /// Another process made, or removed, the same file in the same moment: one
    /// with the same pid, in another namespace.
    #[error("{step}: {errno}")]
    Raced {
        /// The step, as the plan prints it.
        step: String,
        /// Its error.
        errno: String,
    },
    /// The deadline passed before the release.
    #[error("not restored within {0:?}")]
    Deadline(Duration),
}

/// The pause before a restore is tried for the second time.
const PAUSE_AFTER_MEETING: Duration = Duration::from_millis(1);

/// Restores in one way, so often at most, while others make the same files anew
/// or remove them (a JVM's `hsperfdata`), each under the name that the others
/// use: those are processes with the same pid in another namespace.
fn beside_others(
    tries: u32,
    mut way: impl FnMut() -> Result<Restored, CannotRestore>,
) -> Result<Restored, CannotRestore> {
    let mut pause = PAUSE_AFTER_MEETING;
    for _ in 1..tries {
        match way() {
            Err(CannotRestore::Raced { .. }) => {
                // Not all at the same time again.
                std::thread::sleep(pause + pause * (std::process::id() % 8) / 8);
                pause *= 2;
            }
            result => return result,
        }
    }
    way()
}

impl CannotRestore {
    /// Returns whether it says nothing about the image, only about a way to
    /// its pids: another way, or another time, may do.
    pub fn is_about_pids(&self) -> bool {
        match self {
            Self::PidTaken(_)
            | Self::PidUnreaped(_)
            | Self::PidOvertaken(_)
            | Self::PidNotReached(_)
            | Self::NotPermitted
            | Self::NoWay(_)
            | Self::NoNamespaces(_)
            | Self::OtherBoot
            | Self::NotInNamespace(_)
            | Self::PidsNotPermitted(_) => true,
            Self::NoEngine(_)
            | Self::Unusable(_)
            | Self::AddressInUse(_)
            | Self::Step { .. }
            | Self::Raced { .. }
            | Self::Deadline(_) => false,
        }
    }
}
