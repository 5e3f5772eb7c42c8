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

use crate::image::{PAGES_FILE, Set, pages_file};
use crate::restore::plan::Plan;
use crate::restore::planner::{self, Facts};
use crate::trace::{Group, Remote, Scratch, TraceError, find_gate, rewind_interrupted};

mod attributes;
mod changed;
pub mod criu;
mod encode;
mod files;
mod memory;
mod numa;
mod process;
mod semaphores;
mod shared;
mod signals;
mod threads;
mod tree;
mod unheld;
pub mod unseen;
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

/// Whether a process is captured with its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// They belong to the program: all below it is captured.
    Captured,
    /// It is to have none; they may be about to end.
    Refused,
}

/// What is done about TCP connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenTcp {
    /// The program is not captured while it has one.
    #[default]
    Refuse,
    /// They come back as connections whose peer has closed them.
    Close,
}

/// What to capture, and where to.
#[derive(Debug, Clone, Copy)]
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
    /// Whether its children are captured, too.
    pub children: Children,
    /// What is done about open TCP connections.
    pub tcp: OpenTcp,
    /// What happens to the program afterwards.
    pub after: After,
}

/// What tells one open file from another, as far as `fstat(2)` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Of each process that lives, in the order of the set.
    facts: Vec<Facts>,
    dir: PathBuf,
    pages: Vec<File>,
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
    /// The number of its processes, those included that wait to be reaped.
    pub processes: usize,
    /// The number of threads of all of them.
    pub threads: usize,
    /// The number of bytes in all pages files.
    pub len_pages: u64,
    /// `mapped` or `copied`: how a restore brings memory back.
    pub page_mode: &'static str,
    /// What it is restored by: `native` or `criu`.
    pub engine: &'static str,
}

/// Stops the process, reads its state, and lets it go on.
///
/// Must run in a process that may trace it: its parent.
pub fn freeze(capture: &Capture<'_>) -> Result<Frozen, Refusal> {
    process::check(capture.pid)?;
    match capture.children {
        // A thread in vfork(2) cannot be stopped: better not to try.
        Children::Captured => tree::check(capture.pid)?,
        Children::Refused => process::check_children(capture.pid)?,
    }
    on_a_tracing_thread(|| freeze_here(capture))
}

/// Traces on a thread with which every trace ends that an error leaves
/// ([`Group::stop`]).
fn on_a_tracing_thread<T: Send>(
    work: impl FnOnce() -> Result<T, Refusal> + Send,
) -> Result<T, Refusal> {
    std::thread::scope(|scope| {
        let tracer = crate::sys::process::thread("warmstart-trace")
            .spawn_scoped(scope, work)
            .map_err(|error| Refusal::passing(format!("no thread to trace with: {error}")))?;
        tracer.join().unwrap_or_else(|_| Err(Refusal::lasting("reading the program failed")))
    })
}

fn freeze_here(capture: &Capture<'_>) -> Result<Frozen, Refusal> {
    let started = Instant::now();
    let stopped = match capture.children {
        Children::Captured => tree::stop(capture.pid)?,
        Children::Refused => {
            let group = Group::stop(capture.pid)?;
            process::check_children(capture.pid)?;
            vec![tree::Process::alone(group)]
        }
    };
    let read = read_all(capture, &stopped);
    if read.is_ok() {
        // The children first: the end of their parent is nothing to them then.
        for group in stopped.iter().rev().filter_map(tree::Process::group) {
            finish(capture.after, group)?;
        }
    }
    drop(stopped);
    let freeze = started.elapsed();
    let ReadState { set, facts, pages, len_pages, dependencies } = read?;
    Ok(Frozen { set, facts, dir: capture.dir.into(), pages, len_pages, dependencies, freeze })
}

fn unwritable(dir: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::lasting(format!("writing the image to {}: {error}", dir.display()))
}

/// What was read of all processes.
#[derive(Default)]
struct ReadState {
    set: Set,
    facts: Vec<Facts>,
    /// The pages files of the processes and of shared memory.
    pages: Vec<File>,
    /// Of all pages files together, in bytes.
    len_pages: u64,
    dependencies: Vec<PathBuf>,
}

/// Reads everything while the processes stand still.
fn read_all(capture: &Capture<'_>, stopped: &[tree::Process]) -> Result<ReadState, Refusal> {
    tree::check_apart(stopped)?;
    let mut state = ReadState::default();
    let mut files = files::Files::default();
    for (index, process) in stopped.iter().enumerate() {
        let Some(group) = process.group() else {
            tree::add_ended(process, &mut state.set)?;
            continue;
        };
        let own = Capture { pid: group.pid(), ..*capture };
        // The pages files of shared memory come behind those of the processes.
        let first_shared = (stopped.len() + files.memory.len()) as u32 + 1;
        let parent = process.parent();
        let place = encode::Place { root: capture.pid, parent, index, first_shared };
        let (set, facts, written) = read(&own, group, stopped, &mut files, place)?;
        tree::merge(set, &mut state.set);
        state.facts.push(facts);
        state.pages.push(written.pages);
        state.pages.extend(written.shared);
        state.len_pages += written.len;
    }
    files.check_strangers()?;
    let shared = files.finish(&mut state.set);
    for facts in &mut state.facts {
        facts.written.clone_from(&shared.written);
        facts.changed.socket_options.clone_from(&shared.socket_options);
        facts.changed.unix_peers.clone_from(&shared.unix_peers);
        facts.changed.closed_tcp.clone_from(&shared.closed_tcp);
    }
    planner::check_tree(&state.set, &state.facts)
        .map_err(|error| Refusal::lasting(error.to_string()))?;
    if let Some(what) = unseen::without_place(&state.set, &state.facts) {
        state.set.mark_native_only(what);
    }
    state.dependencies = shared.dependencies;
    Ok(state)
}

/// The pages files of one process.
struct Written {
    /// Of its own memory.
    pages: File,
    /// Of memory that can be shared.
    shared: Vec<File>,
    /// Of all of them, in bytes.
    len: u64,
}

/// Reads everything of one process.
fn read(
    capture: &Capture<'_>,
    group: &Group,
    stopped: &[tree::Process],
    files: &mut files::Files,
    place: encode::Place,
) -> Result<(Set, Facts, Written), Refusal> {
    process::check_workers(group.pid())?;
    process::check_shutdown(group.pid())?;
    process::check_rights(group)?;
    let gate = find_gate(group)?;
    let mut remote = Remote::borrow(group.leader(), gate)?;
    let locked = attributes::locked_kib(capture.pid)?;
    let scratch = Scratch::map(&mut remote, capture.pid)?;
    let locks_future = attributes::locked_kib(capture.pid)? > locked;
    let pids: Vec<i32> = stopped.iter().filter_map(tree::Process::group).map(Group::pid).collect();
    let calls = by_calls(group, remote, &scratch, gate, place, &pids);
    // Before anything can fail, and before the areas are listed: the page was
    // never there.
    let mut remote = Remote::borrow(group.leader(), gate)?;
    scratch.unmap(&mut remote)?;
    drop(remote);
    let (task, mm, threads, mut asked) = calls?;
    asked.locks_future = locks_future;
    let mut vmas = vmas::parse(&vmas::read(capture.pid)?, PAGES_FILE)?;
    numa::check_memory(capture.pid)?;
    // Only now: until its calls are made, a timer that runs on stands in the
    // way of the snapshot as soon as it expires.
    files.survey(stopped.iter().filter_map(tree::Process::group).map(Group::pid))?;
    files::read(capture, files)?;
    files.deleted_mappings(capture, &mut vmas)?;
    let shared = shared::dump(capture, group, gate, &mut vmas, files, place.first_shared)?;
    let pages = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(capture.dir.join(pages_file(place.pages_id())))
        .map_err(|error| unwritable(capture.dir, &error))?;
    let dumped = memory::dump(
        capture.pid,
        &vmas,
        pages.try_clone().map_err(|error| unwritable(capture.dir, &error))?,
    )?;
    let len = dumped.len + shared.len;
    let may_map_code = nix::sys::statvfs::fstatvfs(&pages)
        .is_ok_and(|mount| !mount.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC));
    let changed = changed::read(capture, group, &asked, place.root)?;
    let parts = encode::Parts {
        group,
        task,
        mm,
        threads,
        vmas,
        files,
        pages: dumped,
        shared: shared.contents,
        may_map_code,
        changed,
        place,
    };
    let (set, facts) = encode::encode(parts)?;
    Ok((set, facts, Written { pages, shared: shared.files, len }))
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
    place: encode::Place,
    pids: &[i32],
) -> Result<ByCalls, Refusal> {
    let mut task = process::read(group, &mut remote, scratch)?;
    let death_signal = match group.pid() == place.root {
        // Of the root it is the launcher's affair.
        true => None,
        false => Some(tree::death_signal(&mut remote, scratch)?),
    };
    let mm = encode::MmCalls::read(&mut remote)?;
    let mut asked = changed::Asked::read(&mut remote)?;
    drop(remote);
    let mut threads = Vec::with_capacity(group.threads().len());
    for thread in group.threads() {
        let (core, timer_slack, settings) = threads::read(thread, gate, scratch, group.pid())?;
        asked.timer_slack.insert(thread.tid(), timer_slack);
        asked.settings.entry(thread.tid()).or_default().extend(settings);
        threads.push(crate::image::Thread { tid: thread.tid() as u32, core });
    }
    if let Some(core) = threads.first_mut().and_then(|leader| leader.core.thread_core.as_mut()) {
        core.pdeath_sig = death_signal;
    }
    unheld::check(group, gate, scratch)?;
    semaphores::check(group, pids)?;
    task.signals_s = signals::of_process(group, &threads)?;
    if let Some(timers) = &mut task.timers {
        signals::settle_timers(timers, task.signals_s.as_ref(), group.pid())?;
    }
    Ok((task, mm, threads, asked))
}

/// Prepares the process for what comes after the capture.
fn finish(after: After, group: &Group) -> Result<(), Refusal> {
    for thread in group.threads() {
        let mut regs = thread.registers()?;
        rewind_interrupted(thread, &mut regs)?;
    }
    let signal = match after {
        After::Run => return Ok(()),
        After::Stop => Signal::SIGSTOP,
        After::Kill => Signal::SIGKILL,
    };
    let pid = group.pid();
    kill(nix::unistd::Pid::from_raw(pid), signal)
        .map_err(|error| Refusal::lasting(format!("process {pid}: {error}")))
}

impl Frozen {
    /// Names what of the program CRIU's images have no place for.
    pub fn without_place(&self) -> Option<String> {
        unseen::without_place(&self.set, &self.facts)
    }

    /// Writes the image set and the plan, and syncs them.
    pub fn write(self) -> Result<Snapshot, Refusal> {
        let plans = planner::compile_all(&self.set, &self.facts)
            .map_err(|error| Refusal::lasting(format!("compiling the plan: {error}")))?;
        let failed = |error: &dyn std::fmt::Display| unwritable(&self.dir, error);
        self.set.write(&self.dir).map_err(|error| failed(&error))?;
        for (index, plan) in plans.iter().enumerate() {
            let written =
                if index == 0 { plan.write(&self.dir) } else { plan.write_part(&self.dir) };
            written.map_err(|error| failed(&error))?;
        }
        for pages in &self.pages {
            pages.sync_all().map_err(|error| failed(&error))?;
        }
        let tasks = &self.set.tasks;
        Ok(Snapshot {
            dependencies: self.dependencies,
            freeze: self.freeze,
            pid: tasks.first().map_or(0, |task| task.pid as i32),
            processes: tasks.len(),
            threads: tasks.iter().map(|task| task.threads.len()).sum(),
            len_pages: self.len_pages,
            page_mode: self.facts.first().map_or("", |facts| facts.page_mode.name()),
            engine: "native",
        })
    }
}

/// Reads the plan that a capture into `dir` made.
pub fn plan_of(dir: &Path) -> Result<Plan, crate::restore::plan::PlanError> {
    Plan::read(dir)
}
