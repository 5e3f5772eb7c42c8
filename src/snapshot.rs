//! A running process becomes an image: freeze, read, let run on, write.
//!
//! [`freeze`] stops every thread of the process, reads what an image holds
//! and lets the program run on; [`Frozen::write`] then writes the image set
//! and the plan without touching the program, on any thread. What cannot be
//! carried is refused by name ([`Refusal`]); a refusal leaves the program
//! running as if nothing had happened.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What happens to the program once its state is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It runs on.
    Run,
    /// It is left stopped by SIGSTOP.
    Stop,
    /// It is killed.
    Kill,
}

/// What to capture, and where to.
#[derive(Debug)]
pub struct Capture<'a> {
    /// The process, a child of ours or any process that may be traced.
    pub pid: i32,
    /// An existing, empty directory on the cache's file system: receives
    /// `*.img`, `pages-1.img` and `plan`.
    pub dir: &'a Path,
    /// Where the program's 0, 1 and 2 came from.
    pub stdio: [StdioOrigin; 3],
    /// Descriptors above 2 that the program inherited from the caller: they
    /// are left out of the image.
    pub inherited: &'a [RawFd],
    /// Descriptors of the caller that a restore passes on (`--keep-fd`).
    pub keep: &'a [RawFd],
    /// What happens to the program afterwards.
    pub after: After,
}

/// Where a descriptor 0, 1 or 2 of the program came from. The one that still
/// is what it was, and every duplicate of it, is the caller's at a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioOrigin {
    /// This descriptor of ours was passed on.
    Ours(RawFd),
    /// A pipe or terminal that we made for the program, known by its inode.
    Inode {
        /// Its device.
        dev: u64,
        /// Its inode.
        ino: u64,
    },
    /// It was closed.
    Closed,
    /// Not known: whatever the program has there now.
    Programs,
}

/// Whether a refusal is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// What stands in the way may go by itself (a connection in flight).
    Passing,
    /// It will not.
    Lasting,
}

/// Why a process was not captured: one line that names the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For instance `fd 17 is a connected TCP socket to 10.1.2.3:5432`.
    pub reason: String,
    /// Whether another try may succeed.
    pub outlook: Outlook,
}

impl Refusal {
    /// Makes a refusal that another try will not cure.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), outlook: Outlook::Lasting }
    }

    /// Makes a refusal that may pass.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), outlook: Outlook::Passing }
    }
}

/// A process whose state has been read and which runs on.
#[derive(Debug)]
pub struct Frozen {}

/// What a capture made, for the entry's metadata.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Files whose content the image depends on (mapped, or open for
    /// reading): an entry is stale as soon as one of them changes.
    pub dependencies: Vec<PathBuf>,
    /// How long the program stood still.
    pub freeze: Duration,
    /// The pid of the program, which a restore brings back.
    pub pid: i32,
    /// The number of its threads.
    pub threads: usize,
    /// The number of bytes in `pages-1.img`.
    pub len_pages: u64,
    /// `mapped` or `copied`: how a restore brings memory back.
    pub page_mode: &'static str,
}

/// Stops the process, reads its state, and lets it go on.
pub fn freeze(_capture: &Capture<'_>) -> Result<Frozen, Refusal> {
    Err(Refusal::lasting("capturing is not built yet"))
}

impl Frozen {
    /// Writes the image set and the plan, and syncs them.
    pub fn write(self) -> Result<Snapshot, Refusal> {
        Err(Refusal::lasting("capturing is not built yet"))
    }
}
