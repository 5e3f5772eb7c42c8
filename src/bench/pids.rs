//! `warmstart pids bench`: what each way to a pid costs, and how often it
//! leads there.
//!
//! One try is all that a user of the strategy has to do: opening and locking
//! what it needs, bringing the pid about, a process that has it, and the end
//! of that process. The pid is the next free one that is so many away from the
//! last. Strategies that move the cursor would start each try further on; it
//! is put back where we may.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Summary;
use crate::pids::cursor::{self, Cursor};
use crate::pids::{self, PositionError, Positioner, Strategy, Unavailable};
use crate::privilege;
use crate::sys::birth::{self, Birth};
use crate::sys::namespaces::{self, Time};
use crate::ui::{Align, Table, millis};

/// How far away the pids are.
const DISTANCES: [u32; 4] = [1, 100, 1_000, 10_000];

/// How many pids one try may use up: enough to be overtaken once where
/// `pid_max` is the usual one of a small machine.
const BUDGET: u32 = 50_000;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum PidBenchError {
    /// It is unknown how far away a pid is.
    #[error(transparent)]
    NoCursor(#[from] Unavailable),
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PidReport {
    /// The version of the JSON form.
    pub schema_version: u32,
    /// The user.
    pub uid: u32,
    /// Whether this user may choose pids in their own pid namespace.
    pub may_choose_pids: bool,
    /// One more than the highest pid.
    pub pid_max: i32,
    /// One for each strategy, the best first.
    pub strategies: Vec<Measured>,
}

/// One strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// As `--via` names it.
    pub strategy: &'static str,
    /// Why it does not work here.
    pub unavailable: Option<String>,
    /// One for each distance; none if it does not work.
    pub distances: Vec<Distance>,
}

/// One distance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distance {
    /// How many pids away.
    pub pids: u32,
    /// How often it was tried.
    pub tries: u32,
    /// How often it succeeded.
    pub successes: u32,
    /// The median time of those, in milliseconds.
    pub median_ms: Option<f64>,
    /// Why the last one that failed did.
    pub failure: Option<String>,
}

/// Returns how often the progress of [`run`] is told.
pub fn steps() -> u64 {
    (Strategy::ALL.len() * DISTANCES.len()) as u64
}

/// Measures; `progress` is told what comes next.
pub fn run(tries: u32, mut progress: impl FnMut(String)) -> Result<PidReport, PidBenchError> {
    let cursor = Cursor::open()?;
    let mut strategies = Vec::new();
    for strategy in Strategy::ALL {
        let unavailable = strategy.check().err();
        let mut distances = Vec::new();
        for pids in DISTANCES {
            progress(format!("{strategy}, {pids} away"));
            if unavailable.is_none() {
                distances.push(measure(strategy, pids, tries, &cursor));
            }
        }
        strategies.push(Measured {
            strategy: strategy.name(),
            unavailable: unavailable.map(|reason| reason.to_string()),
            distances,
        });
    }
    Ok(PidReport {
        schema_version: 1,
        uid: nix::unistd::geteuid().as_raw(),
        may_choose_pids: privilege::may_choose_pids(),
        pid_max: cursor.pid_max(),
        strategies,
    })
}

fn measure(strategy: Strategy, pids: u32, tries: u32, cursor: &Cursor) -> Distance {
    let mut times = Vec::new();
    let mut failure = None;
    for _ in 0..tries {
        match once(strategy, pids, cursor) {
            Ok(time) => times.push(time.as_secs_f64() * 1e3),
            Err(error) => failure = Some(error),
        }
    }
    Distance {
        pids,
        tries,
        successes: times.len() as u32,
        median_ms: Summary::of(&times).map(|summary| summary.median),
        failure,
    }
}

fn once(strategy: Strategy, pids: u32, cursor: &Cursor) -> Result<Duration, String> {
    let last = cursor.last().map_err(|error| error.to_string())?;
    let permitted = match strategy {
        Strategy::SetTid | Strategy::LastPid => {
            pids::permitted().map_err(|error| error.to_string())?
        }
        Strategy::Namespace | Strategy::Cycle => 1..=i32::MAX,
    };
    let is_out = |pid: i32| pids::is_taken(pid) || !permitted.contains(&pid);
    let pid = goal(last, pids, cursor.pid_max(), is_out);
    if is_out(pid) {
        return Err("no pid that may be chosen is free".to_owned());
    }
    let began = Instant::now();
    match strategy {
        Strategy::SetTid => match privilege::raised(|| birth::try_out(Birth::At(pid))) {
            Ok(true) => Ok(()),
            Ok(false) => Err("it had another pid".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        Strategy::Namespace => namespaces::try_out(pids::namespace_owner(), Time::Ours, Some(pid))
            .map_err(|error| error.to_string()),
        Strategy::LastPid => Positioner::last_pid().map_err(text).and_then(|it| next(it, pid)),
        Strategy::Cycle => Positioner::cycle(BUDGET).map_err(text).and_then(|it| next(it, pid)),
    }?;
    let took = began.elapsed();
    if strategy == Strategy::Cycle {
        put_back(last);
    }
    Ok(took)
}

fn next(mut positioner: Positioner, pid: i32) -> Result<(), String> {
    let result = pids::place(&mut positioner, pid, || {
        let right = birth::try_out(Birth::Next(pid))
            .map_err(|source| PositionError::Step { step: "clone", source })?;
        Ok::<_, PositionError>(right.then_some(()))
    });
    // That it fails changes nothing of what was measured.
    let _ = positioner.put_back();
    result.map_err(text)
}

fn text(error: PositionError) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Undoes what using up pids did, where we may.
fn put_back(last: i32) {
    if let Ok(mut positioner) = Positioner::last_pid() {
        let _ = positioner.position(last + 1);
    }
}

/// Returns the first pid from `pids` after the last one on that can be had.
fn goal(last: i32, pids: u32, pid_max: i32, is_out: impl Fn(i32) -> bool) -> i32 {
    let mut pid = last;
    for _ in 0..pids {
        pid = cursor::next_after(pid, pid_max);
    }
    let mut tried = 0;
    while is_out(pid) && tried < pid_max {
        pid = cursor::next_after(pid, pid_max);
        tried += 1;
    }
    pid
}

impl PidReport {
    /// Whether there is any result.
    pub fn measured_any(&self) -> bool {
        self.strategies.iter().flat_map(|it| &it.distances).any(|it| it.successes > 0)
    }

    /// Renders the report for people.
    pub fn to_text(&self) -> String {
        let titles = DISTANCES.map(|pids| format!("{pids} away"));
        let mut columns = vec![("", Align::Left)];
        columns.extend(titles.iter().map(|title| (title.as_str(), Align::Right)));
        let mut table = Table::new(&columns);
        let mut notes = String::new();
        for measured in &self.strategies {
            let mut cells = vec![measured.strategy.to_owned()];
            for distance in &measured.distances {
                let time = distance.median_ms.map_or("-".into(), |ms| millis(ms) + " ms");
                cells.push(format!("{time}  {}/{}", distance.successes, distance.tries));
                if let Some(failure) = &distance.failure {
                    let (name, pids) = (measured.strategy, distance.pids);
                    notes.push_str(&format!("{name}, {pids} away: {failure}\n"));
                }
            }
            if let Some(reason) = &measured.unavailable {
                cells.push("no".into());
                notes.push_str(&format!("{}: {reason}\n", measured.strategy));
            }
            table.row(cells);
        }
        let may = if self.may_choose_pids { "may" } else { "may not" };
        let (uid, pid_max) = (self.uid, self.pid_max);
        let mut text = format!("uid {uid}, {may} choose pids; pid_max {pid_max}\n\n");
        text.push_str(&table.render());
        if !notes.is_empty() {
            text.push('\n');
            text.push_str(&notes);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_is_free() {
        assert_eq!(goal(1000, 1, 32768, |_| false), 1001);
        assert_eq!(goal(1000, 100, 32768, |pid| pid < 1103), 1103);
        assert_eq!(goal(32767, 1, 32768, |_| false), 300);
        assert_eq!(goal(32700, 100, 32768, |_| false), 332);
    }

    #[test]
    fn what_failed_is_told_below_the_table() {
        let distance = |pids, successes, failure: Option<&str>| Distance {
            pids,
            tries: 3,
            successes,
            median_ms: (successes > 0).then_some(1.25),
            failure: failure.map(str::to_owned),
        };
        let report = PidReport {
            schema_version: 1,
            uid: 1000,
            may_choose_pids: false,
            pid_max: 32768,
            strategies: vec![
                Measured {
                    strategy: "set-tid",
                    unavailable: Some(Unavailable::NotPermitted.to_string()),
                    distances: vec![],
                },
                Measured {
                    strategy: "cycle",
                    unavailable: None,
                    distances: vec![
                        distance(1, 3, None),
                        distance(100, 2, Some("pid 5 is taken")),
                        distance(1000, 0, Some("too far")),
                    ],
                },
            ],
        };
        assert!(report.measured_any());
        insta::assert_snapshot!(report.to_text(), @r"
        uid 1000, may not choose pids; pid_max 32768

                       1 away      100 away  1000 away  10000 away
        set-tid            no
        cycle    1.25 ms  3/3  1.25 ms  2/3     -  0/3

        set-tid: choosing pids needs CAP_CHECKPOINT_RESTORE
        cycle, 100 away: pid 5 is taken
        cycle, 1000 away: too far
        ");
    }
}
