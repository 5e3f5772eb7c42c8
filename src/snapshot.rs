//! A running process becomes an image: freeze, read, let run on, write.
//!
//! [`freeze`] stops every thread of the process, reads what an image holds
//! and lets the program run on; [`Frozen::write`] then writes the image set
//! and the plan without touching the program, on any thread. What cannot be
//! carried is refused by name ([`Refusal`]); a refusal leaves the program
//! running as if nothing had happened.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};

use crate::image::{PAGES_FILE, Set};
use crate::restore::plan::Plan;
use crate::restore::planner::{self, Facts};
use crate::trace::{Group, Remote, Scratch, TraceError, find_gate, rewind_interrupted};

mod changed;
mod encode;
mod files;
mod memory;
mod process;
mod threads;
mod unheld;
mod vmas;

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
    /// How far descriptor 0 had been read when the program got it.
    pub stdin: StdinAtStart,
    /// Descriptors above 2 that the program inherited from the caller: they
    /// are left out of the image.
    pub inherited: &'a [(RawFd, FileId)],
    /// Descriptors of the caller that a restore passes on (`--keep-fd`).
    pub keep: &'a [RawFd],
    /// When it was started, by the real-time clock, taken just before; `None`
    /// if only the kernel knows, to 10 ms.
    pub started: Option<SystemTime>,
    /// What happens to the program afterwards.
    pub after: After,
}

/// What tells one open file from another, as far as `fstat(2)` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The device that it is on.
    pub dev: u64,
    /// Its inode there.
    pub ino: u64,
}

impl FileId {
    /// Returns the identity of a descriptor of this process.
    pub fn of(fd: impl AsFd) -> nix::Result<Self> {
        let stat = nix::sys::stat::fstat(fd)?;
        Ok(Self { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Returns the identity of a descriptor of this process by its number.
    pub fn numbered(fd: RawFd) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(format!("/proc/self/fd/{fd}"))?;
        Ok(Self { dev: meta.dev(), ino: meta.ino() })
    }
}

/// Where a descriptor 0, 1 or 2 of the program came from. The one that still
/// is what it was, and every duplicate of it, is the caller's at a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioOrigin {
    /// A file that the program was given.
    Given {
        /// Which.
        id: FileId,
        /// Whether it had O_NONBLOCK when the program started.
        nonblocking: bool,
    },
    /// It was closed.
    Closed,
    /// Not known: whatever the program has there now.
    Programs,
}

/// How far a program's standard input had been read when it was started: what
/// it reads before the capture is in no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinAtStart {
    /// A file, at this offset.
    Offset(u64),
    /// A pipe or socket, with so many bytes to read.
    Unread(u64),
    /// Something else, or not known.
    Other,
}

impl StdinAtStart {
    /// Looks at a descriptor 0 that is about to be passed on.
    pub fn of(fd: impl AsFd) -> Self {
        use nix::sys::stat::{SFlag, fstat};
        use nix::unistd::{Whence, lseek};
        let Ok(stat) = fstat(&fd) else { return Self::Other };
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFREG => lseek(&fd, 0, Whence::SeekCur)
                .map_or(Self::Other, |offset| Self::Offset(offset as u64)),
            SFlag::S_IFIFO | SFlag::S_IFSOCK => crate::sys::socket::readable(fd.as_fd())
                .map_or(Self::Other, |unread| Self::Unread(unread as u64)),
            _ => Self::Other,
        }
    }
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

impl From<TraceError> for Refusal {
    fn from(error: TraceError) -> Self {
        let mut reason = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            reason = format!("{reason}: {source}");
        }
        match error {
            TraceError::Denied { .. } | TraceError::Gone(_) | TraceError::Unfit { .. } => {
                Self::lasting(reason)
            }
            TraceError::JobStopped(_) | TraceError::Slow(_) | TraceError::Request { .. } => {
                Self::passing(reason)
            }
        }
    }
}

/// A process whose state has been read and which runs on.
#[derive(Debug)]
pub struct Frozen {
    set: Set,
    facts: Facts,
    dir: PathBuf,
    pages: File,
    len_pages: u64,
    dependencies: Vec<PathBuf>,
    freeze: Duration,
}

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
///
/// Must run in a process that may trace it: its parent.
pub fn freeze(capture: &Capture<'_>) -> Result<Frozen, Refusal> {
    process::check(capture.pid)?;
    // A thread in vfork(2) cannot be stopped: better not to try.
    process::check_children(capture.pid)?;
    process::check_workers(capture.pid)?;
    // With this thread ends every trace that an error leaves ([`Group::stop`]).
    std::thread::scope(|scope| {
        let tracer = std::thread::Builder::new().name("warmstart-trace".into());
        let tracer = tracer
            .spawn_scoped(scope, || freeze_here(capture))
            .map_err(|error| Refusal::passing(format!("no thread to trace with: {error}")))?;
        tracer.join().unwrap_or_else(|_| Err(Refusal::lasting("reading the program failed")))
    })
}

fn freeze_here(capture: &Capture<'_>) -> Result<Frozen, Refusal> {
    let pages = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(capture.dir.join(PAGES_FILE))
        .map_err(|error| unwritable(capture.dir, &error))?;
    let started = Instant::now();
    let group = Group::stop(capture.pid)?;
    let read = read(capture, &group, &pages);
    if read.is_ok() {
        finish(capture, &group)?;
    }
    group.resume();
    let freeze = started.elapsed();
    let (set, facts, len_pages, dependencies) = read?;
    Ok(Frozen { set, facts, dir: capture.dir.into(), pages, len_pages, dependencies, freeze })
}

fn unwritable(dir: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::lasting(format!("writing the image to {}: {error}", dir.display()))
}

type ReadState = (Set, Facts, u64, Vec<PathBuf>);

/// Reads everything while the process stands still.
fn read(capture: &Capture<'_>, group: &Group, pages: &File) -> Result<ReadState, Refusal> {
    process::check_children(group.pid())?;
    process::check_workers(group.pid())?;
    process::check_shutdown(group)?;
    process::check_rights(group)?;
    let gate = find_gate(group)?;
    let mut remote = Remote::borrow(group.leader(), gate)?;
    let scratch = Scratch::map(&mut remote, capture.pid)?;
    let calls = by_calls(group, remote, &scratch, gate);
    // Before anything can fail, and before the areas are listed: the page was
    // never there.
    let mut remote = Remote::borrow(group.leader(), gate)?;
    scratch.unmap(&mut remote)?;
    drop(remote);
    let (task, mm, threads, asked) = calls?;
    let path = format!("/proc/{}/smaps", capture.pid);
    let smaps = fs::read(&path).map_err(|error| Refusal::passing(format!("{path}: {error}")))?;
    let vmas = vmas::parse(&smaps, PAGES_FILE)?;
    let files = files::read(capture)?;
    let dumped = memory::dump(
        capture.pid,
        &vmas,
        pages.try_clone().map_err(|error| unwritable(capture.dir, &error))?,
    )?;
    let len_pages = dumped.len;
    let may_map_code = nix::sys::statvfs::fstatvfs(pages)
        .is_ok_and(|mount| !mount.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC));
    let changed = changed::read(capture, group, &asked)?;
    let parts = encode::Parts {
        group,
        task,
        mm,
        threads,
        vmas,
        files,
        pages: dumped,
        may_map_code,
        changed,
    };
    let (set, facts, dependencies) = encode::encode(parts)?;
    Ok((set, facts, len_pages, dependencies))
}

type ByCalls = (
    crate::image::proto::TaskCoreEntry,
    encode::MmCalls,
    Vec<crate::image::Thread>,
    changed::Asked,
);

/// Reads what only the process's own system calls tell.
fn by_calls(
    group: &Group,
    mut remote: Remote<'_>,
    scratch: &Scratch,
    gate: u64,
) -> Result<ByCalls, Refusal> {
    let task = process::read(group, &mut remote, scratch)?;
    let mm = encode::MmCalls::read(&mut remote)?;
    let mut asked = changed::Asked::read(&mut remote)?;
    drop(remote);
    let mut threads = Vec::with_capacity(group.threads().len());
    for thread in group.threads() {
        let (core, timer_slack) = threads::read(thread, gate, scratch, group.pid())?;
        asked.timer_slack.insert(thread.tid(), timer_slack);
        threads.push(crate::image::Thread { tid: thread.tid() as u32, core });
    }
    unheld::check(group, gate, scratch)?;
    Ok((task, mm, threads, asked))
}

/// Prepares the process for what comes after the capture.
fn finish(capture: &Capture<'_>, group: &Group) -> Result<(), Refusal> {
    for thread in group.threads() {
        let mut regs = thread.registers()?;
        rewind_interrupted(thread, &mut regs)?;
    }
    let signal = match capture.after {
        After::Run => return Ok(()),
        After::Stop => Signal::SIGSTOP,
        After::Kill => Signal::SIGKILL,
    };
    kill(nix::unistd::Pid::from_raw(capture.pid), signal)
        .map_err(|error| Refusal::lasting(format!("process {}: {error}", capture.pid)))
}

impl Frozen {
    /// Writes the image set and the plan, and syncs them.
    pub fn write(self) -> Result<Snapshot, Refusal> {
        let plan = planner::compile(&self.set, &self.facts)
            .map_err(|error| Refusal::lasting(format!("compiling the plan: {error}")))?;
        self.set.write(&self.dir).map_err(|error| unwritable(&self.dir, &error))?;
        plan.write(&self.dir).map_err(|error| unwritable(&self.dir, &error))?;
        self.pages.sync_all().map_err(|error| unwritable(&self.dir, &error))?;
        let task = self.set.tasks.first();
        Ok(Snapshot {
            dependencies: self.dependencies,
            freeze: self.freeze,
            pid: task.map_or(0, |task| task.pid as i32),
            threads: task.map_or(0, |task| task.threads.len()),
            len_pages: self.len_pages,
            page_mode: self.facts.page_mode.name(),
        })
    }
}

/// Reads the plan that a capture into `dir` made.
pub fn plan_of(dir: &Path) -> Result<Plan, crate::restore::plan::PlanError> {
    Plan::read(dir)
}
