//! Cold against restored, measured from outside.
//!
//! Both kinds of run are started the same way and watched by the same
//! [`Mark`]: the time from the start of the process to the moment at which the
//! mark holds. Cold runs are of the command itself, without warmstart. Runs
//! alternate, so that a machine that gets slower meanwhile slows both kinds.
//! Each restored run proves by its status file that it was one; a run that
//! fell back to a cold start is reported as failed, never counted.

mod http;
mod mark;
pub mod pids;
mod prepare;
mod process;
mod report;
mod run;
mod stats;
mod svg;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::Command;

pub use mark::Mark;
pub use report::{Report, Side};
pub use stats::Summary;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `warmstart` binary.
    pub launcher: PathBuf,
    /// Its options for each run.
    pub launcher_options: Vec<OsString>,
    /// Rounds: one cold and one restored run each.
    pub runs: u32,
    /// What ends a measurement; `None`: found out in the preparation.
    pub until: Option<Mark>,
    /// Where temporary files may be made.
    pub temp_dir: PathBuf,
    /// A run that has not got there by then has failed.
    pub timeout: Duration,
}

/// Where the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image is being made or looked up.
    Preparing,
    /// A cold run of this round.
    Cold(u32),
    /// A restored run of this round.
    Restored(u32),
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The command or warmstart itself could not be started.
    #[error("cannot start {name}")]
    Start {
        /// What was to be started.
        name: String,
        /// Why it could not be.
        #[source]
        source: std::io::Error,
    },
    /// There is no image of the command.
    #[error("no image of the command: {0}")]
    NoImage(String),
    /// It is not clear what to time.
    #[error("the program does not end, and listens on no port")]
    NothingToTime,
    /// A temporary directory could not be made.
    #[error("cannot make a temporary directory")]
    Scratch(#[source] std::io::Error),
}

/// Prepares the image, runs all rounds, and sums up.
pub fn run(
    command: &Command,
    options: &Options,
    mut progress: impl FnMut(Stage),
) -> Result<Report, BenchError> {
    let scratch = process::Scratch::new(&options.temp_dir).map_err(BenchError::Scratch)?;
    progress(Stage::Preparing);
    let mark = prepare::prepare(command, options, &scratch)?;

    let mut rounds = Vec::new();
    for round in 1..=options.runs {
        progress(Stage::Cold(round));
        let cold = run::cold(command, &mark, options.timeout)?;
        progress(Stage::Restored(round));
        let restored = run::restored(command, options, &mark, &scratch)?;
        rounds.push((cold, restored));
    }
    Ok(Report::of(command, &mark, rounds))
}
