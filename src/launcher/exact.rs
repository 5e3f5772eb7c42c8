//! A command at an exact pid (`warmstart pids exec`): our child, with the
//! relay of a run.

use std::os::fd::RawFd;

use super::outcome::Herald;
use super::relay::{self, Relay};
use super::run::end_like;
use super::spawn;
use super::stdio::{self, Tap};
use crate::command::Command;
use crate::pids::{self, PositionError, Positioner, Strategy, Unavailable};
use crate::privilege;
use crate::sys::birth::Birth;
use crate::sys::descriptors;
use crate::sys::namespaces::{self, Enclosure, Step, Time};
use crate::sys::process::{self, Exec, Inherited, SpawnError};
use crate::sys::signals;

/// A wish for a pid.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The pid; in a namespace the one that the command sees itself.
    pub pid: i32,
    /// How it is to come about; `None`: the best way that works here.
    pub via: Option<Strategy>,
    /// How many pids [`Strategy::Cycle`] may use up.
    pub budget: u32,
    /// Whether to say which way was taken.
    pub verbose: bool,
}

/// Why the command was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExactError {
    /// The strategy that was asked for does not work here.
    #[error("{strategy} does not work here: {reason}")]
    Unavailable {
        /// The strategy.
        strategy: Strategy,
        /// Why it does not work.
        reason: Unavailable,
    },
    /// The pid of the init.
    #[error("pid 1 of a namespace is its init")]
    Init,
    /// It is above the highest one.
    #[error("pid {0} is out of range: no process of a namespace can have it")]
    NoSuchPid(i32),
    /// The pid did not come to be.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The namespace did not come to be.
    #[error("namespaces cannot be made here: {0}")]
    Namespaces(namespaces::Failed),
    /// The command could not be started.
    #[error(transparent)]
    Spawn(SpawnError),
    /// A NUL byte in the command or its environment.
    #[error("the command holds a NUL byte")]
    Nul,
    /// Its signals could not be received.
    #[error("signalfd")]
    Relay(#[source] std::io::Error),
}

/// Runs the command at the pid; returns its exit status, does not return if it
/// is killed by a signal (we die by the same one).
pub fn run(command: &Command, wish: &Wish) -> Result<u8, ExactError> {
    let mut exec = spawn::prepare(command).map_err(|_| ExactError::Nul)?;
    let strategy = choose(wish)?;
    check_range(strategy, wish.pid)?;
    let herald = Herald::new(0, None);
    let inherited = Inherited::now();
    let passed = descriptors::inheritable().unwrap_or_default();
    relay::handled().block();
    // Ignored, it would make the kernel forget how our child ended.
    signals::set_default(libc::SIGCHLD);
    let started = match strategy {
        Strategy::SetTid => at(&mut exec, &inherited, wish.pid).map(|pid| (pid, None)),
        Strategy::LastPid => Positioner::last_pid()
            .map_err(ExactError::from)
            .and_then(|positioner| next(&mut exec, &inherited, positioner, wish.pid))
            .map(|pid| (pid, None)),
        Strategy::Cycle => Positioner::cycle(wish.budget)
            .map_err(ExactError::from)
            .and_then(|positioner| next(&mut exec, &inherited, positioner, wish.pid))
            .map(|pid| (pid, None)),
        Strategy::Namespace => {
            inside(&mut exec, &inherited, wish.pid).map(|(pid, enclosure)| (pid, Some(enclosure)))
        }
    };
    let (pid, enclosure) = match started {
        Ok(started) => started,
        Err(ExactError::Spawn(SpawnError::Exec(error))) => {
            herald.fail(&spawn::complaint(command, &error));
            return Ok(spawn::exit_status(&error));
        }
        Err(error) => return Err(error),
    };
    if wish.verbose {
        herald.fail(&format!("pid {} by {strategy}", wish.pid));
    }
    let relay = Relay::new(pid, Tap::default(), None).map_err(ExactError::Relay)?;
    stdio::let_go(true);
    stdio::let_go_of(&passed);
    let ending = relay.run(None);
    if let Some(enclosure) = enclosure {
        enclosure.leave();
    }
    Ok(end_like(ending))
}

/// Returns the strategy that was asked for, or the best one that works here
/// for this pid.
fn choose(wish: &Wish) -> Result<Strategy, ExactError> {
    let check = |strategy: Strategy| {
        // With --via a namespace is checked by making it.
        let answer = if wish.via.is_some() { strategy.check_cheaply() } else { strategy.check() };
        answer.map_err(|reason| ExactError::Unavailable { strategy, reason })?;
        check_range(strategy, wish.pid)
    };
    if let Some(strategy) = wish.via {
        return check(strategy).map(|()| strategy);
    }
    let mut first = None;
    for strategy in Strategy::ALL {
        match check(strategy) {
            Ok(()) => return Ok(strategy),
            Err(error) => first = first.or(Some(error)),
        }
    }
    // There are strategies, so one has failed.
    Err(first.unwrap_or(ExactError::NoSuchPid(wish.pid)))
}

/// Refuses a pid that the strategy must not, or cannot, be asked for.
fn check_range(strategy: Strategy, pid: i32) -> Result<(), ExactError> {
    match strategy {
        Strategy::SetTid | Strategy::LastPid => {
            let range = pids::permitted().map_err(PositionError::from)?;
            Ok(pids::check_range(pid, &range)?)
        }
        Strategy::Namespace if pid == 1 => Err(ExactError::Init),
        Strategy::Namespace | Strategy::Cycle => Ok(()),
    }
}

const OUR_STDIO: [Option<RawFd>; 3] = [None; 3];

/// Starts it by `clone3`, with the capability raised for that. The program
/// itself does not get it: its exec takes it away.
fn at(exec: &mut Exec, inherited: &Inherited, pid: i32) -> Result<i32, ExactError> {
    let birth = Birth::At(pid);
    privilege::raised(|| process::spawn_as(exec, inherited, OUR_STDIO, birth)).map_err(|error| {
        match &error {
            SpawnError::Step { error: answer, .. } => match answer.raw_os_error() {
                Some(libc::EEXIST) => PositionError::Taken(pid).into(),
                Some(libc::EPERM) => {
                    let reason = Unavailable::NotPermitted;
                    ExactError::Unavailable { strategy: Strategy::SetTid, reason }
                }
                _ => ExactError::Spawn(error),
            },
            _ => ExactError::Spawn(error),
        }
    })
}

/// Starts it as the next process, once its pid is next.
fn next(
    exec: &mut Exec,
    inherited: &Inherited,
    mut positioner: Positioner,
    pid: i32,
) -> Result<i32, ExactError> {
    let made = pids::place(&mut positioner, pid, || {
        match process::spawn_as(exec, inherited, OUR_STDIO, Birth::Next(pid)) {
            Ok(pid) => Ok(Some(pid)),
            Err(SpawnError::OtherPid) => Ok(None),
            Err(error) => Err(ExactError::Spawn(error)),
        }
    });
    // What comes next is nobody's business; that it fails changes nothing.
    let _ = positioner.put_back();
    made
}

/// Starts it in a namespace of its own.
fn inside(
    exec: &mut Exec,
    inherited: &Inherited,
    pid: i32,
) -> Result<(i32, Enclosure), ExactError> {
    let owner = pids::namespace_owner();
    let enclosure = match namespaces::enter(owner, Time::Ours, pid - 1) {
        Ok(enclosure) => enclosure,
        Err(namespaces::Failed { step: Step::LastPid, errno: libc::EINVAL }) => {
            return Err(ExactError::NoSuchPid(pid));
        }
        Err(error) => return Err(ExactError::Namespaces(error)),
    };
    match process::spawn_as(exec, inherited, OUR_STDIO, Birth::Next(pid)) {
        Ok(outer) => Ok((outer, enclosure)),
        Err(error) => {
            enclosure.end();
            Err(match error {
                // Nobody else is there: the pid is the maximum itself.
                SpawnError::OtherPid => ExactError::NoSuchPid(pid),
                error => ExactError::Spawn(error),
            })
        }
    }
}
