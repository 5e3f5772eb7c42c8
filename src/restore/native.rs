//! The native engine: makes the process, runs the program in it, waits for
//! its release.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::host::{self, Clock, Host};
use super::plan::{Operation, PLAN_FILE, Plan};
use super::program::{self, Births, Layout, Step, Steps, Surroundings};
use super::{CannotRestore, Request, Restored};
use crate::image::PAGES_FILE;
use crate::pids::{self, ChildCode, PositionError, Positioner, StartError, Strategy, range};
use crate::privilege;
use crate::sys::arch;
use crate::sys::limits;
use crate::sys::memory::{FixedMapping, LEN_PAGE, Sharing};
use crate::sys::namespaces::{Enclosure, Time};
use crate::sys::tty;

mod turns;

use turns::Turns;

/// Words of the report page: whether the program is released (1) or was given
/// up (2), what failed, and where.
const REPORT_STATE: usize = 0;
const REPORT_RESULT: usize = 8;
const REPORT_AT: usize = 16;
const RELEASED: u32 = 1;
const GIVEN_UP: u32 = 2;
/// Above this a descriptor of the restore's own never meets one of the
/// program's.
const LOWEST_SLOT: u32 = 64;

fn unusable(what: impl Into<String>) -> CannotRestore {
    CannotRestore::Unusable(what.into())
}

/// How long a pid may stay taken by nobody ([`is_leaving`]), and how often it
/// is tried again.
const PATIENCE_WITH_LEAVING: Duration = Duration::from_millis(200);
const PAUSE_WITH_LEAVING: Duration = Duration::from_micros(500);

/// Restores with the native engine: in the first of the ways to its pids that
/// works.
///
/// Must be called from the main thread: the program's parent-death signal
/// hangs on it.
pub fn native(request: &Request<'_>) -> Result<Restored, CannotRestore> {
    let started = Instant::now();
    let mut first = None;
    let suits = |strategy: &&Strategy| {
        // Clocks of its own are those of a namespace.
        request.clock == Clock::Machines || **strategy == Strategy::Namespace
    };
    for strategy in request.pids.iter().filter(suits) {
        let result = match strategy {
            Strategy::SetTid => by_set_tid(request, started),
            Strategy::LastPid => by_turns(request, started, *strategy, Positioner::last_pid),
            // Without any privilege `/proc/PID/exe` stays ours: only for who
            // asks for it.
            Strategy::Cycle if request.pids.len() > 1 && !privilege::may_choose_pids() => continue,
            Strategy::Cycle => {
                let cycle = || Positioner::cycle(request.pid_budget);
                by_turns(request, started, *strategy, cycle)
            }
            Strategy::Namespace => attempt(request, Way::Namespace, started),
        };
        match (result, &first) {
            (Err(CannotRestore::NoNamespaces(failed)), Some(CannotRestore::NotPermitted)) => {
                first = Some(CannotRestore::NoWay(failed));
            }
            // What could be tried says more than what could not.
            (
                Err(reason @ (CannotRestore::PidOvertaken(_) | CannotRestore::PidNotReached(_))),
                Some(CannotRestore::NotPermitted | CannotRestore::NoWay(_)),
            ) => first = Some(reason),
            // It says more than that we may not choose pids.
            (Err(reason @ CannotRestore::NotInNamespace(_)), Some(CannotRestore::NotPermitted)) => {
                first = Some(reason);
            }
            (Err(reason), _) if reason.is_about_pids() => {
                first.get_or_insert(reason);
            }
            (result, _) => return result,
        }
    }
    Err(first.unwrap_or(CannotRestore::NotPermitted))
}

fn by_set_tid(request: &Request<'_>, started: Instant) -> Result<Restored, CannotRestore> {
    // Cheaper to know now than from clone3; whether there is a clone3, only it
    // can say.
    if !privilege::may_choose_pids() {
        return Err(CannotRestore::NotPermitted);
    }
    loop {
        match attempt(request, Way::SetTid, started) {
            Err(CannotRestore::PidTaken(pid))
                if started.elapsed() < PATIENCE_WITH_LEAVING && is_leaving(pid) =>
            {
                std::thread::sleep(PAUSE_WITH_LEAVING);
            }
            Err(CannotRestore::PidTaken(pid)) if is_unreaped(pid) => {
                return Err(CannotRestore::PidUnreaped(pid));
            }
            result => return result,
        }
    }
}

/// How often a restore is tried whose tids went to other processes.
const TURNS: u32 = 20;

/// Restores with pids that are made the next one, one after the other.
fn by_turns(
    request: &Request<'_>,
    started: Instant,
    strategy: Strategy,
    positioner: impl Fn() -> Result<Positioner, PositionError>,
) -> Result<Restored, CannotRestore> {
    if strategy.check_cheaply().is_err() {
        return Err(CannotRestore::NotPermitted);
    }
    let mut turn = 0;
    loop {
        turn += 1;
        let mut positioner = positioner().map_err(turns::refusal)?;
        let result = attempt(request, Way::Turns(strategy, &mut positioner), started);
        // Whoever comes next is to find the cursor where it was.
        let _ = positioner.put_back();
        match result {
            Err(CannotRestore::PidOvertaken(_)) if turn < TURNS => {}
            result => return result,
        }
    }
}

/// How an attempt comes by its pids.
enum Way<'a> {
    /// By `clone3` with `set_tid`.
    SetTid,
    /// In namespaces of its own.
    Namespace,
    /// One after the other.
    Turns(Strategy, &'a mut Positioner),
}

impl Way<'_> {
    fn strategy(&self) -> Strategy {
        match self {
            Self::SetTid => Strategy::SetTid,
            Self::Namespace => Strategy::Namespace,
            Self::Turns(strategy, _) => *strategy,
        }
    }
}

/// Whether a taken pid is about to be free.
///
/// Since Linux 6.15 a thread that ends gives its pid back only after its
/// process's parent may have been told of the end (`release_task` calls
/// `free_pids` outside of `tasklist_lock`). Who ends a restored program and
/// starts it again at once, on a busy machine, meets the pids of the threads
/// that were there before. Who kills a launcher leaves the program, killed with it, to
/// pid 1, which reaps it when it gets to it.
fn is_leaving(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH) || is_unreaped(pid)
}

/// Whether a pid is that of a task that has ended and is somebody else's to
/// reap.
fn is_unreaped(pid: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // Behind the name, which may hold anything: the state and the parent
    // (`proc_pid_stat(5)`).
    let name_end = stat.iter().rposition(|&byte| byte == b')').map_or(stat.len(), |at| at + 1);
    let rest = String::from_utf8_lossy(&stat[name_end..]);
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let parent = fields.next().and_then(|parent| parent.parse().ok());
    ended && parent.is_some_and(|parent: u32| parent != std::process::id())
}

/// How long the release may take: what the caller grants, and for pages that
/// are copied the time that a slow machine needs for it. Mapped pages are not
/// read.
fn deadline(request: &Request<'_>, plan: &Plan) -> Duration {
    /// What is copied in a second at the least, in bytes.
    const SLOW_COPY: u64 = 500_000_000;
    let file = plan.file();
    let copied = if file.mapped { 0 } else { file.len_pages };
    request.deadline.saturating_add(Duration::from_millis(copied / (SLOW_COPY / 1000)))
}

fn attempt(
    request: &Request<'_>,
    way: Way<'_>,
    started: Instant,
) -> Result<Restored, CannotRestore> {
    let strategy = way.strategy();
    let enclosed = strategy == Strategy::Namespace;
    let plan =
        Plan::read_with(request.dir, request.plan).map_err(
            |error| match std::error::Error::source(&error) {
                Some(source) => unusable(format!("{error}: {source}")),
                None => unusable(error.to_string()),
            },
        )?;
    match strategy {
        Strategy::Namespace => suits_a_namespace(&plan)?,
        // Before anything is made: what the plan says may have been written by
        // anybody, and these numbers are what the capability is used for.
        Strategy::SetTid | Strategy::LastPid => {
            range::check(plan.file().threads.iter().map(|thread| thread.tid))?;
        }
        // What comes up by itself is nobody's choice.
        Strategy::Cycle => {}
    }
    let host = Host::read();
    if !enclosed && host.has_other_clocks(&plan) {
        return Err(CannotRestore::OtherBoot);
    }
    if let Some(reason) = host.refuses(&plan) {
        return Err(unusable(format!("the image cannot be used: {reason}")));
    }
    let kernel_areas = host::kernel_moves(&plan)
        .ok_or_else(|| unusable("the kernel's own memory areas are others than in the image"))?;
    let closed: Vec<RawFd> =
        (0..).zip(request.closed_stdio).filter(|(_, closed)| *closed).map(|(fd, _)| fd).collect();
    let slots = Slots::open(request, &plan)?;
    let turns = match way {
        Way::Turns(..) => Some(Turns::open(&plan)?),
        _ => None,
    };
    let surroundings = Surroundings {
        parent: if enclosed { 0 } else { std::process::id() as i32 },
        kernel_areas: &kernel_areas,
        pages: slots.pages.as_raw_fd(),
        exe: slots.exe.as_raw_fd(),
        may_set_exe: enclosed || privilege::may_choose_pids(),
        signal: slots.signal.as_raw_fd(),
        births: turns.as_ref().map_or(Births::SetTid, Turns::births),
        callers: &slots.numbers(),
        closed: &closed,
        ignored: request.ignored,
        capabilities: privilege::of_a_cold_start(),
        nofile: slots.nofile.as_ref().map(|limit| limit.before),
    };
    let stage = Stage::set_up(&plan, &surroundings)?;
    let before_clone = started.elapsed();
    let (pid, enclosure) = match way {
        Way::Namespace => {
            let time = time(&plan, &host, request.clock)?;
            let (pid, enclosure) = stage.start_inside(&plan, time)?;
            (pid, Some(enclosure))
        }
        Way::SetTid => (stage.start(&plan)?, None),
        Way::Turns(_, positioner) => {
            let turns = turns.expect("made for this way");
            (stage.start_by_turns(&plan, turns, positioner, deadline(request, &plan))?, None)
        }
    };
    // The child's ends are the child's alone: its death closes them.
    let reader = slots.into_reader();
    if let Err(error) = stage.wait(&plan, pid, reader, deadline(request, &plan)) {
        if let Some(enclosure) = enclosure {
            enclosure.leave();
        }
        return Err(error);
    }
    Ok(Restored {
        pid,
        app_pid: plan.pid(),
        pids: strategy,
        enclosure,
        before_clone,
        total: started.elapsed(),
    })
}

/// Refuses what a pid namespace would not hold as it was.
///
/// A program that leads a process group on a terminal looks after the groups
/// of others there: it asks whose turn it is (`tcgetpgrp(3)`) and gives it
/// (`tcsetpgrp(3)`). From inside, all groups outside are 0.
fn suits_a_namespace(plan: &Plan) -> Result<(), CannotRestore> {
    let leads_group = |operation: &Operation| i64::from(operation.number) == libc::SYS_setpgid;
    if plan.file().operations.iter().any(leads_group) && tty::is_controlled() {
        return Err(CannotRestore::NotInNamespace(
            "it leads a process group of its own on a terminal",
        ));
    }
    // Ambient ones, as a service manager gives them.
    if !privilege::current().root && privilege::of_a_cold_start().permitted != 0 {
        return Err(CannotRestore::NotInNamespace(
            "the caller's capabilities mean nothing in a user namespace of its own",
        ));
    }
    if plan.file().threads.iter().any(|thread| thread.tid == 1) {
        return Err(CannotRestore::NotInNamespace("its pid is 1, which is the init's there"));
    }
    Ok(())
}

/// Returns the clocks that go on from those in a plan; the machine's where
/// there is no time namespace and the clocks have not been set back since.
fn time(plan: &Plan, host: &Host, clock: Clock) -> Result<Time, CannotRestore> {
    match (&plan.file().clocks, pids::namespace::has_time()) {
        (Some(clocks), true) => pids::namespace::offsets(clocks.monotonic, clocks.boottime)
            .map(Time::Shifted)
            .ok_or(CannotRestore::OtherBoot),
        _ if clock == Clock::Machines && !host.has_other_clocks(plan) => Ok(Time::Ours),
        _ => Err(CannotRestore::OtherBoot),
    }
}

/// Descriptors of the restore, all above the program's.
struct Slots {
    pages: OwnedFd,
    exe: OwnedFd,
    signal: OwnedFd,
    reader: OwnedFd,
    callers: Vec<(RawFd, OwnedFd)>,
    nofile: Option<RaisedLimit>,
}

/// A limit of descriptors that had to be raised; put back on drop.
#[derive(Debug)]
struct RaisedLimit {
    before: (u64, u64),
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        // Lowering a soft limit to what it was cannot fail.
        let _ = limits::set(libc::RLIMIT_NOFILE, soft, hard);
    }
}

impl Slots {
    fn open(request: &Request<'_>, plan: &Plan) -> Result<Self, CannotRestore> {
        let file = plan.file();
        // Two more: the ends of a pipe may both be made above the last one.
        let lowest = (file.fd_ceiling + 2).max(LOWEST_SLOT);
        let nofile = raise_limit(u64::from(lowest) + 16 + request.keep.len() as u64)?;
        let above = |fd: &dyn AsFd| {
            fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(lowest as RawFd))
                .map(crate::sys::pidfd::adopt)
                .map_err(|error| unusable(format!("descriptors above {lowest}: {error}")))
        };
        let pages = open(&request.dir.join(PAGES_FILE))?;
        let len = pages.metadata().map_err(|error| unusable(error.to_string()))?.len();
        if len != file.len_pages {
            return Err(unusable(format!(
                "{PAGES_FILE} has {len} bytes, {PLAN_FILE} asks for {}",
                file.len_pages
            )));
        }
        let exe = open_program(Path::new(std::ffi::OsStr::from_bytes(&file.exe)), request)?;
        let (reader, writer) = io::pipe().map_err(|error| unusable(error.to_string()))?;
        let mut callers = Vec::new();
        for given in &file.given {
            let number = given.source;
            let known = callers.iter().any(|(known, _)| *known == number);
            if known || number <= 2 && given.fd == number {
                continue;
            }
            if number > 2 && !request.keep.contains(&number) {
                return Err(unusable(format!(
                    "the program keeps the caller's descriptor {number}"
                )));
            }
            let duplicate = crate::sys::pidfd::duplicate_above(number, lowest as RawFd)
                .map_err(|error| unusable(format!("the caller's descriptor {number}: {error}")))?;
            callers.push((number, duplicate));
        }
        Ok(Self {
            pages: above(&pages)?,
            exe: above(&exe)?,
            signal: above(&writer)?,
            reader: reader.into(),
            callers,
            nofile,
        })
    }

    fn numbers(&self) -> Vec<(RawFd, RawFd)> {
        self.callers.iter().map(|(number, duplicate)| (*number, duplicate.as_raw_fd())).collect()
    }

    fn into_reader(self) -> OwnedFd {
        self.reader
    }
}

/// Opens the program's file, which `/proc/PID/exe` will name: nothing else of
/// the plan is used with the capability but pids and this descriptor.
fn open_program(path: &Path, request: &Request<'_>) -> Result<File, CannotRestore> {
    const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| unusable(error.to_string()))?;
    if request.program.is_some_and(|witness| !witness.knows(path, &metadata)) {
        return Err(unusable(format!("{} is not the program that was checked", path.display())));
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(unusable(format!("{} is not a program", path.display())));
    }
    // A start of it would have made another process than one of the caller's.
    if privilege::choice_is_lent() && metadata.mode() & SET_ID != 0 {
        return Err(unusable(format!("{} is a set-id program", path.display())));
    }
    Ok(file)
}

/// Opens a regular file; anything else is not waited for.
fn open(path: &Path) -> Result<File, CannotRestore> {
    let fail = |error: io::Error| unusable(format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(unusable(format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

/// Makes room for `count` descriptors.
fn raise_limit(count: u64) -> Result<Option<RaisedLimit>, CannotRestore> {
    let fail = |error: io::Error| unusable(format!("limit of descriptors: {error}"));
    let before = limits::get(0, libc::RLIMIT_NOFILE).map_err(fail)?;
    if before.0 >= count {
        return Ok(None);
    }
    limits::set(libc::RLIMIT_NOFILE, count.min(before.1), before.1).map_err(fail)?;
    Ok(Some(RaisedLimit { before }))
}

/// Memory at the place where the new process will have it.
struct Stage {
    _stay: FixedMapping,
    _program: FixedMapping,
    report: FixedMapping,
    layout: Layout,
    steps: Steps,
}

impl Stage {
    /// Lowers the plan at the first place that is free here, too.
    fn set_up(plan: &Plan, around: &Surroundings<'_>) -> Result<Self, CannotRestore> {
        let mut last = None;
        for place in &plan.file().places {
            let layout = program::layout(plan, around, *place);
            if layout.parking + 64 * LEN_PAGE - place > plan.file().len_place {
                return Err(unusable("the plan leaves too little place for the restore"));
            }
            match Self::map(plan, around, layout) {
                Ok(stage) => return Ok(stage),
                Err(error) => last = Some(error),
            }
        }
        let last = last.map_or_else(String::new, |error| format!(": {error}"));
        Err(unusable(format!("no place for the restore{last}")))
    }

    fn map(plan: &Plan, around: &Surroundings<'_>, layout: Layout) -> io::Result<Self> {
        let len_stay = (layout.program - layout.code) as usize;
        let mut stay = FixedMapping::new(layout.code, len_stay, Sharing::Private)?;
        let code = arch::interpreter_code();
        stay.bytes_mut()[..code.len()].copy_from_slice(code);
        stay.protect_code(LEN_PAGE as usize)?;
        let len = layout.len_program as usize;
        let mut program = FixedMapping::new(layout.program, len, Sharing::Private)?;
        let steps = program::lower(plan, around, layout, program.bytes_mut());
        let report = FixedMapping::new(layout.report, LEN_PAGE as usize, Sharing::Shared)?;
        Ok(Self { _stay: stay, _program: program, report, layout, steps })
    }

    fn code(&self) -> ChildCode {
        ChildCode {
            interpreter: self.layout.code,
            entry: self.layout.entry,
            report: self.layout.report,
        }
    }

    /// Makes the process with the leader's pid; it starts at once.
    fn start(&self, plan: &Plan) -> Result<i32, CannotRestore> {
        let pid = plan.pid();
        // A signal in the child before its masks are there would end it.
        let blocked = Blocked::all();
        let result = pids::set_tid::start(pid, self.code());
        drop(blocked);
        match result {
            Ok(()) => Ok(pid),
            Err(StartError::Taken(pid)) => Err(CannotRestore::PidTaken(pid)),
            Err(StartError::Unavailable(_)) => Err(CannotRestore::NotPermitted),
            Err(StartError::Refused { pid, source }) => {
                let step = format!("clone3 for pid {pid}");
                Err(CannotRestore::Step { step, errno: source.to_string() })
            }
        }
    }

    /// The same with pids that are made the next one.
    fn start_by_turns(
        &self,
        plan: &Plan,
        turns: Turns,
        positioner: &mut Positioner,
        deadline: Duration,
    ) -> Result<i32, CannotRestore> {
        let tids: Vec<i32> = plan.file().threads.iter().map(|thread| thread.tid).collect();
        if let Some(taken) = tids.iter().find(|tid| pids::is_taken(**tid)) {
            return Err(CannotRestore::PidTaken(*taken));
        }
        let blocked = Blocked::all();
        let started = turns::start(tids[0], self.code(), positioner);
        drop(blocked);
        let pid = started?;
        turns.serve(&tids[1..], positioner, deadline).inspect_err(|_| end(pid)).map(|()| pid)
    }

    /// The same in namespaces of its own; returns its pid as we see it.
    fn start_inside(&self, plan: &Plan, time: Time) -> Result<(i32, Enclosure), CannotRestore> {
        let blocked = Blocked::all();
        let result = pids::namespace::start(plan.pid(), self.code(), time);
        drop(blocked);
        result.map_err(CannotRestore::NoNamespaces)
    }

    /// Waits until the program is released, the process ended or the deadline
    /// passed. On failure nothing of it is left.
    fn wait(
        &self,
        plan: &Plan,
        pid: i32,
        reader: OwnedFd,
        deadline: Duration,
    ) -> Result<(), CannotRestore> {
        let until = Instant::now() + deadline;
        let mut reader = File::from(reader);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() => {
                    let state = self.report.word(REPORT_STATE);
                    let gave_up =
                        state.compare_exchange(0, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
                    if gave_up.is_err() {
                        // Released in this very moment.
                        return Ok(());
                    }
                    end(pid);
                    return Err(CannotRestore::Deadline(deadline));
                }
                Ok(0) => {}
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    end(pid);
                    return Err(unusable(format!("waiting for the restore: {error}")));
                }
            }
        }
        let mut byte = [0];
        let read = reader.read(&mut byte).unwrap_or(0);
        if read == 1 || self.report.word(REPORT_STATE).load(Ordering::Acquire) == RELEASED {
            return Ok(());
        }
        end(pid);
        Err(self.failure(plan))
    }

    /// Says what failed, from the report page.
    fn failure(&self, plan: &Plan) -> CannotRestore {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.report.bytes()[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let (result, at) = (word(REPORT_RESULT) as i64, word(REPORT_AT));
        let Some(step) = self.steps.at(&self.layout, at) else {
            return CannotRestore::Step {
                step: "the restore".into(),
                errno: "the new process died".into(),
            };
        };
        let errno = match result {
            -4095..=-1 => io::Error::from_raw_os_error(-result as i32).to_string(),
            other => format!("unexpected result {other}"),
        };
        let step = match step {
            Step::Spawn(tid) if result == -i64::from(libc::EEXIST) => {
                return CannotRestore::PidTaken(tid);
            }
            Step::Spawn(_) if result == -i64::from(libc::EPERM) => {
                return CannotRestore::NotPermitted;
            }
            Step::Spawn(tid) if result > 0 => return CannotRestore::PidOvertaken(tid),
            Step::Spawn(tid) => format!("making thread {tid}"),
            Step::Own(what) => what.to_owned(),
            Step::Plan(index) if result == -i64::from(libc::EADDRINUSE) => {
                let operation = plan.file().operations.get(index as usize);
                return CannotRestore::AddressInUse(describe(plan, operation));
            }
            Step::Plan(index) => describe(plan, plan.file().operations.get(index as usize)),
            Step::Thread(thread, index) => {
                let thread = plan.file().threads.get(thread as usize);
                describe(plan, thread.and_then(|thread| thread.operations.get(index as usize)))
            }
        };
        CannotRestore::Step { step, errno }
    }
}

fn describe(plan: &Plan, operation: Option<&Operation>) -> String {
    operation.map_or_else(String::new, |operation| plan.describe(operation))
}

/// Ends a child that never was released, and reaps it: its pids are free then,
/// or about to be ([`is_leaving`]).
fn end(pid: i32) {
    let pid = Pid::from_raw(pid);
    // It may have ended by itself.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

/// All signals blocked in this thread, until dropped.
struct Blocked(SigSet);

impl Blocked {
    fn all() -> Self {
        let mut before = SigSet::empty();
        // Cannot fail: the arguments are right by their types.
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        Self(before)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A killed launcher's program is a zombie of pid 1's for a while.
    #[test]
    fn an_ended_task_of_somebody_else_is_waited_for() {
        use std::process::{Command, Stdio};
        // The shell's child ends, and `sleep`, the shell by then, never reaps.
        let script = "sh -c 'exit 0' & echo $!; exec sleep 60";
        let mut parent =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 16];
        let len = parent.stdout.as_mut().unwrap().read(&mut said).unwrap();
        let child: i32 = String::from_utf8_lossy(&said[..len]).trim().parse().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !is_unreaped(child) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_unreaped(child) && is_leaving(child));
        assert!(!is_unreaped(parent.id() as i32) && !is_leaving(parent.id() as i32));
        parent.kill().unwrap();
        while !crate::sys::process::has_ended(parent.id() as i32) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Ours to reap: nobody else will.
        assert!(!is_unreaped(parent.id() as i32));
        parent.wait().unwrap();
    }
}
