//! The native engine: makes the process, runs the program in it, waits for
//! its release.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::host::{self, Clock, Host, Move};
use super::offspring::Watch;
use super::plan::{Operation, Plan, PlanError, PlanFile};
use super::program::{Births, Surroundings};
use super::{CannotRestore, Engine, Request, Restored, beside_others};
use crate::pids::{self, PositionError, Positioner, Strategy, range};
use crate::privilege;
use crate::sys::namespaces::Time;
use crate::sys::tty;

mod leaving;
mod slots;
mod stage;
mod tree;
mod turns;

use leaving::{is_leaving, is_unreaped};
use slots::Slots;
use stage::Stage;
use tree::Others;
use turns::Turns;

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
    // Once for all ways and tries.
    let unreadable = |error: PlanError| match std::error::Error::source(&error) {
        Some(source) => unusable(format!("{error}: {source}")),
        None => unusable(error.to_string()),
    };
    let plan = Plan::read_with(request.dir, request.plan).map_err(unreadable)?;
    let parts = plan.read_parts(request.dir, request.plan).map_err(unreadable)?;
    let family = Family { plan, parts };
    let plan = &family;
    let mut first = None;
    let suits = |strategy: &&Strategy| {
        // Clocks of its own are those of a namespace.
        let suits_clock = request.clock == Clock::Machines || **strategy == Strategy::Namespace;
        // Without any privilege `/proc/PID/exe` stays ours: only for who asks
        // for it.
        let suits_us = **strategy != Strategy::Cycle
            || request.pids.len() == 1
            || privilege::may_choose_pids();
        suits_clock && suits_us
    };
    for strategy in request.pids.iter().filter(suits) {
        let result = beside_others(tries_of(*strategy), || match strategy {
            Strategy::SetTid => by_set_tid(request, plan, started),
            Strategy::LastPid => by_turns(request, plan, started, *strategy, Positioner::last_pid),
            Strategy::Cycle => {
                let cycle = || Positioner::cycle(request.pid_budget);
                by_turns(request, plan, started, *strategy, cycle)
            }
            Strategy::Namespace => attempt(request, plan, Way::Namespace, started),
        });
        let result = result.map_err(|reason| match reason {
            CannotRestore::Raced { step, errno } => CannotRestore::Step { step, errno },
            other => other,
        });
        match (result, &first) {
            (Err(CannotRestore::NoNamespaces(failed)), Some(CannotRestore::NotPermitted)) => {
                first = Some(CannotRestore::NoWay(failed));
            }
            // What could be tried says more than what could not.
            (
                Err(
                    reason @ (CannotRestore::PidTaken(_)
                    | CannotRestore::PidUnreaped(_)
                    | CannotRestore::PidOvertaken(_)
                    | CannotRestore::PidNotReached(_)),
                ),
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

/// The plans of all processes that live.
struct Family {
    /// The root's.
    plan: Plan,
    /// The others'.
    parts: Vec<Plan>,
}

impl Family {
    fn plans(&self) -> impl Iterator<Item = &Plan> {
        [&self.plan].into_iter().chain(&self.parts)
    }

    /// Returns every id of a process or thread.
    fn tids(&self) -> impl Iterator<Item = i32> {
        let ended = self.plan.file().tree.iter().filter(|kin| kin.ended.is_some());
        let threads = self.plans().flat_map(|plan| &plan.file().threads);
        threads.map(|thread| thread.tid).chain(ended.map(|kin| kin.pid))
    }
}

/// Returns how often a way to the pids is tried that met others: in a namespace
/// all copies of a program have the same pids.
fn tries_of(strategy: Strategy) -> u32 {
    if strategy == Strategy::Namespace { 8 } else { 4 }
}

fn by_set_tid(
    request: &Request<'_>,
    plan: &Family,
    started: Instant,
) -> Result<Restored, CannotRestore> {
    // Cheaper to know now than from clone3; whether there is a clone3, only it
    // can say.
    if !privilege::may_choose_pids() {
        return Err(CannotRestore::NotPermitted);
    }
    after_leaving(|| attempt(request, plan, Way::SetTid, started))
}

/// Restores, again while a pid is only taken by what is about to end.
fn after_leaving(
    mut way: impl FnMut() -> Result<Restored, CannotRestore>,
) -> Result<Restored, CannotRestore> {
    let began = Instant::now();
    loop {
        match way() {
            Err(CannotRestore::PidTaken(pid) | CannotRestore::PidOvertaken(pid))
                if began.elapsed() < PATIENCE_WITH_LEAVING && is_leaving(pid) =>
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
    plan: &Family,
    started: Instant,
    strategy: Strategy,
    positioner: impl Fn() -> Result<Positioner, PositionError>,
) -> Result<Restored, CannotRestore> {
    if strategy.check_cheaply().is_err() {
        return Err(CannotRestore::NotPermitted);
    }
    if !plan.plan.file().tree.is_empty() {
        let what = format!("{strategy} does not make trees of processes");
        return Err(CannotRestore::PidNotReached(what));
    }
    after_leaving(|| {
        let mut turn = 0;
        loop {
            turn += 1;
            let mut positioner = positioner().map_err(turns::refusal)?;
            let result = attempt(request, plan, Way::Turns(strategy, &mut positioner), started);
            // Whoever comes next is to find the cursor where it was.
            let _ = positioner.put_back();
            match result {
                Err(CannotRestore::PidOvertaken(_)) if turn < TURNS => {}
                result => return result,
            }
        }
    })
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

/// How long the release may take: what the caller grants, and for pages that
/// are copied the time that a slow machine needs for it. Mapped pages are not
/// read.
fn deadline(request: &Request<'_>, family: &Family) -> Duration {
    /// What is copied in a second at the least, in bytes.
    const SLOW_COPY: u64 = 500_000_000;
    let shared = |file: &PlanFile| {
        file.more_pages.iter().fold(0u64, |sum, pages| sum.saturating_add(pages.len))
    };
    let copied =
        |file: &PlanFile| if file.mapped { 0 } else { file.len_pages }.saturating_add(shared(file));
    let copied = family.plans().map(|plan| copied(plan.file())).fold(0, u64::saturating_add);
    request.deadline.saturating_add(Duration::from_millis(copied / (SLOW_COPY / 1000)))
}

fn attempt(
    request: &Request<'_>,
    family: &Family,
    way: Way<'_>,
    started: Instant,
) -> Result<Restored, CannotRestore> {
    let plan = &family.plan;
    let strategy = way.strategy();
    let enclosed = strategy == Strategy::Namespace;
    match strategy {
        Strategy::Namespace => suits_a_namespace(family)?,
        // Before anything is made: what the plan says may have been written by
        // anybody, and these numbers are what the capability is used for.
        Strategy::SetTid | Strategy::LastPid => range::check(family.tids())?,
        // What comes up by itself is nobody's choice.
        Strategy::Cycle => {}
    }
    let host = Host::read();
    if !enclosed && host.has_other_clocks(plan) {
        return Err(CannotRestore::OtherBoot);
    }
    if let Some(reason) = family.plans().find_map(|plan| host.refuses(plan)) {
        return Err(unusable(format!("the image cannot be used: {reason}")));
    }
    let kernel_areas = kernel_moves(plan)?;
    let closed: Vec<RawFd> =
        (0..).zip(request.closed_stdio).filter(|(_, closed)| *closed).map(|(fd, _)| fd).collect();
    let slots = Slots::open(request, plan, tree::spare(family))?;
    let turns = match way {
        Way::Turns(..) => Some(Turns::open(plan)?),
        _ => None,
    };
    let mut surroundings = Surroundings {
        parent: if enclosed { 0 } else { std::process::id() as i32 },
        kernel_areas: &kernel_areas,
        pages: slots.pages.as_raw_fd(),
        more_pages: &slots.more_pages(),
        exe: slots.exe.as_raw_fd(),
        may_set_exe: enclosed || privilege::may_choose_pids(),
        signal: slots.signal.as_raw_fd(),
        births: turns.as_ref().map_or(Births::SetTid, Turns::births),
        callers: &slots.numbers(),
        closed: &closed,
        ignored: request.ignored,
        capabilities: privilege::of_a_cold_start(),
        nofile: slots.nofile.as_ref().map(|limit| limit.before),
        role: None,
    };
    // Children are the root's, and its end would leave them to pid 1. In a
    // namespace they have an init of ours.
    let leaves_orphans = !enclosed && !plan.file().tree.is_empty();
    let watch = leaves_orphans.then(Watch::begin);
    let mut others = Others::set_up(request, family, &surroundings)?;
    let role = others.role_of_root(family);
    surroundings.role = role.as_ref();
    let stage = Stage::set_up(plan, &surroundings)?;
    others.share_report(&stage)?;
    let before_clone = started.elapsed();
    let (pid, enclosure) = match way {
        Way::Namespace => {
            let time = time(plan, &host, request.clock)?;
            let (pid, enclosure) = stage.start_inside(plan, time)?;
            (pid, Some(enclosure))
        }
        Way::SetTid => (stage.start(plan)?, None),
        Way::Turns(_, positioner) => {
            let turns = turns.expect("made for this way");
            (stage.start_by_turns(plan, turns, positioner, deadline(request, family))?, None)
        }
    };
    // The child's ends are the child's alone: its death closes them.
    let reader = slots.into_reader();
    let (others, readers) = others.into_readers();
    let waited = stage.wait(pid, reader, &readers, deadline(request, family));
    if let Err(failure) = waited {
        let reason = failure.unwrap_or_else(|| others.failure(&stage, family));
        if let Some(enclosure) = enclosure {
            enclosure.end();
        }
        return Err(match watch.is_none_or(|watch| watch.end_all()) {
            true => reason,
            false => unusable(format!("{reason}, and some of it cannot be ended")),
        });
    }
    Ok(Restored {
        pid,
        app_pid: plan.pid(),
        pids: strategy,
        engine: Engine::Native,
        enclosure,
        before_clone,
        total: started.elapsed(),
    })
}

fn kernel_moves(plan: &Plan) -> Result<Vec<Move>, CannotRestore> {
    let moves = host::kernel_moves(plan);
    moves.ok_or_else(|| unusable("the kernel's own memory areas are others than in the image"))
}

/// Refuses what a pid namespace would not hold as it was.
///
/// A program that leads a process group on a terminal looks after the groups
/// of others there: it asks whose turn it is (`tcgetpgrp(3)`) and gives it
/// (`tcsetpgrp(3)`). From inside, all groups outside are 0.
fn suits_a_namespace(family: &Family) -> Result<(), CannotRestore> {
    let leads_group = |operation: &Operation| i64::from(operation.number) == libc::SYS_setpgid;
    let file = family.plan.file();
    // A group of a session of the tree's own has no terminal.
    let groups = file.tree.iter().any(|kin| kin.group.is_some());
    if (groups || file.operations.iter().any(leads_group)) && tty::is_controlled() {
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
    if family.tids().any(|tid| tid == 1) {
        return Err(CannotRestore::NotInNamespace("its pid is 1, which is the init's there"));
    }
    Ok(())
}

/// Returns the clocks that go on from those in a plan; the machine's where
/// there is no time namespace and the clocks have not been set back since.
fn time(plan: &Plan, host: &Host, clock: Clock) -> Result<Time, CannotRestore> {
    let clocks = plan.file().clocks.as_ref();
    match clocks.and_then(|it| pids::namespace::offsets(it.monotonic, it.boottime)) {
        Some(offsets) => Ok(Time::Shifted(offsets)),
        None if clock == Clock::Machines && !host.has_other_clocks(plan) => Ok(Time::Ours),
        None => Err(CannotRestore::OtherBoot),
    }
}
