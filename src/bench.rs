//! Cold against restored, measured from outside.
//!
//! All kinds of run are started the same way and watched by the same
//! [`Mark`]: the time from the start of the process to the moment at which the
//! mark holds. Cold runs are of the command itself, without warmstart. Runs
//! alternate, and every round begins with another kind, so that a machine that
//! gets slower meanwhile slows all kinds. Each restored run proves by its
//! status file that it was one; a run that fell back to a cold start is
//! reported as failed, never counted. So is a run of a tool that ends with
//! another exit status than the first cold one.
//!
//! `against` adds what a JDK itself has to start faster.

mod against;
mod http;
mod mark;
pub mod pids;
mod prepare;
mod process;
mod report;
mod rounds;
mod run;
mod stats;
mod svg;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::Command;

pub use against::Alternative;
pub use mark::Mark;
pub use report::{Against, Report, Side};
pub use stats::Summary;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `warmstart` binary.
    pub launcher: PathBuf,
    /// Its options for each run.
    pub launcher_options: Vec<OsString>,
    /// Rounds: one run of each kind.
    pub runs: u32,
    /// What ends a measurement; `None`: found out in the preparation.
    pub until: Option<Mark>,
    /// Whether those options have images made at `main`.
    pub at_main: AtMain,
    /// What else to measure, in this order.
    pub against: Vec<Alternative>,
    /// Where temporary files may be made.
    pub temp_dir: PathBuf,
    /// A run that has not got there by then has failed.
    pub timeout: Duration,
}

/// Whether the image may be one that is captured at `main`: in a second
/// process, once the program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtMain {
    /// It is captured in place, when ready.
    Never,
    /// That is the launcher's choice: at `main` if it is a JVM that ended.
    Possible,
    /// It was asked for: the program is a tool, its end is what counts.
    Asked,
}

/// Where the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image is being made or looked up.
    Preparing,
    /// The archive of an alternative is being made and tried.
    Making(Alternative),
    /// A cold run of this round.
    Cold(u32),
    /// A restored run of this round.
    Restored(u32),
    /// A run of this round with an alternative.
    Against(Alternative, u32),
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

/// Prepares the image and the archives, runs all rounds, and sums up.
pub fn run(
    command: &Command,
    options: &Options,
    mut progress: impl FnMut(Stage),
) -> Result<Report, BenchError> {
    let scratch = process::Scratch::new(&options.temp_dir).map_err(BenchError::Scratch)?;
    progress(Stage::Preparing);
    let mark = prepare::prepare(command, options, &scratch)?;
    let mut contenders = Vec::new();
    for &alternative in &options.against {
        progress(Stage::Making(alternative));
        contenders.push(against::make(alternative, command, &mark, options, &scratch));
    }
    let outcomes = rounds::run(command, options, &mark, &contenders, &scratch, progress)?;
    Ok(Report::of(command, &mark, contenders, outcomes))
}
