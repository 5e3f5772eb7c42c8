//! The memory in which a restore runs, the process that runs in it, and the
//! wait for its release.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::turns::{self, Turns};
use super::unusable;
use crate::pids::{self, ChildCode, Positioner, StartError};
use crate::restore::CannotRestore;
use crate::restore::plan::{Operation, Plan};
use crate::restore::program::{self, Layout, Step, Steps, Surroundings};
use crate::sys::arch::{self, Start};
use crate::sys::memory::{FixedMapping, LEN_PAGE, Pages, Sharing};
use crate::sys::namespaces::{Enclosure, Time};

/// Words of the report page: whether the program is released (1) or was given
/// up (2), what failed first, and where; the word behind them is the
/// interpreter's, to find that out. From 64 on it is what processes meet at
/// (`program/tree.rs`).
const REPORT_STATE: usize = 0;
const REPORT_RESULT: usize = 8;
const REPORT_AT: usize = 16;
const RELEASED: u32 = 1;
const GIVEN_UP: u32 = 2;
/// How long the root of a released tree may take to run on; nothing depends on
/// it but that it gets no signal before.
const PATIENCE_WITH_ROOT_MS: u16 = 1000;

/// Memory at the place where the new process will have it.
pub(super) struct Stage {
    _stay: FixedMapping,
    _program: FixedMapping,
    report: FixedMapping,
    layout: Layout,
    steps: Steps,
}

impl Stage {
    /// Lowers the plan at the first place that is free here, too.
    pub(super) fn set_up(plan: &Plan, around: &Surroundings<'_>) -> Result<Self, CannotRestore> {
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
        // Its state is the new process's to fill.
        let mut stay = FixedMapping::new(layout.code, len_stay, Sharing::Private, Pages::OnTouch)?;
        let code = arch::interpreter_code();
        stay.bytes_mut()[..code.len()].copy_from_slice(code);
        stay.protect_code(LEN_PAGE as usize)?;
        let len = layout.len_program as usize;
        let mut program = FixedMapping::new(layout.program, len, Sharing::Private, Pages::AtOnce)?;
        let steps = program::lower(plan, around, layout, program.bytes_mut());
        let len = LEN_PAGE as usize;
        let report = FixedMapping::new(layout.report, len, Sharing::Shared, Pages::AtOnce)?;
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
    pub(super) fn start(&self, plan: &Plan) -> Result<i32, CannotRestore> {
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
    pub(super) fn start_by_turns(
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
    pub(super) fn start_inside(
        &self,
        plan: &Plan,
        time: Time,
    ) -> Result<(i32, Enclosure), CannotRestore> {
        let blocked = Blocked::all();
        let result = pids::namespace::start(plan.pid(), self.code(), time);
        drop(blocked);
        result.map_err(CannotRestore::NoNamespaces)
    }

    /// Waits until the program is released, one of its processes ended or the
    /// deadline passed; the first ends with `reader`, the others with theirs.
    /// On failure nothing of it is left; no reason means that the report has
    /// it ([`Self::failure`]).
    pub(super) fn wait(
        &self,
        pid: i32,
        reader: OwnedFd,
        others: &[OwnedFd],
        deadline: Duration,
    ) -> Result<(), Option<CannotRestore>> {
        let until = Instant::now() + deadline;
        let mut reader = File::from(reader);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut one = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let mut many: Vec<PollFd<'_>> = Vec::new();
            let fds = if others.is_empty() {
                &mut one[..]
            } else {
                many.extend(one);
                many.extend(others.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
                &mut many[..]
            };
            match poll(fds, timeout) {
                Ok(0) if left.is_zero() => {
                    if !self.give_up() {
                        // Released in this very moment.
                        return Ok(());
                    }
                    end(pid);
                    return Err(Some(CannotRestore::Deadline(deadline)));
                }
                Ok(0) => {}
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    end(pid);
                    return Err(Some(unusable(format!("waiting for the restore: {error}"))));
                }
            }
        }
        // If it was another one that ended, the root is not to go on without.
        if !others.is_empty() && !self.give_up() {
            // The root runs on as soon as the others do.
            let mut root = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut root, PollTimeout::from(PATIENCE_WITH_ROOT_MS));
            return Ok(());
        }
        let read = if others.is_empty() { reader.read(&mut [0]).unwrap_or(0) } else { 0 };
        if read == 1 || self.report.word(REPORT_STATE).load(Ordering::Acquire) == RELEASED {
            return Ok(());
        }
        end(pid);
        Err(None)
    }

    /// Forbids the release; `false` if it has been.
    fn give_up(&self) -> bool {
        let state = self.report.word(REPORT_STATE);
        state.compare_exchange(0, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Returns the report page, for the stages of other processes.
    pub(super) fn report(&self) -> &FixedMapping {
        &self.report
    }

    /// Shows the report of another stage instead of an own one.
    pub(super) fn share_report(&mut self, root: &Self) -> io::Result<()> {
        self.report.show(root.report())
    }

    /// Returns where its process begins, and what must be there until then:
    /// start and end.
    pub(super) fn start_and_range(&self) -> (Start, (u64, u64)) {
        let Layout { code, entry, report, .. } = self.layout;
        (Start { program: entry, report, code }, (code, report + LEN_PAGE))
    }

    /// Tells whether an instruction of this stage has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.steps.at(&self.layout, self.reported(REPORT_AT)).is_some()
    }

    fn reported(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.report.bytes()[at..at + 8]);
        u64::from_ne_bytes(word)
    }

    /// Says what failed, from the report page.
    pub(super) fn failure(&self, plan: &Plan) -> CannotRestore {
        let (result, at) = (self.reported(REPORT_RESULT) as i64, self.reported(REPORT_AT));
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
            // A file of that name was made, or removed, in this very moment.
            Step::Plan(index) if [libc::EEXIST, libc::ENOENT].contains(&(-result as i32)) => {
                let step = describe(plan, plan.file().operations.get(index as usize));
                return CannotRestore::Raced { step, errno };
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
/// or about to be ([`super::leaving`]).
pub(super) fn end(pid: i32) {
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
