//! `warmstart bench`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::run::CaptureArguments;
use super::{environment, run};
use crate::bench::{self, BenchError, Mark, Stage};
use crate::failure::{Failure, status};
use crate::ui::{self, Progress};

/// Shown below the help of `bench`.
pub(super) const AFTER_HELP: &str = "\
Examples:
  warmstart bench -- java -jar server.jar
  warmstart bench --until http:8080/health --svg out.svg -- java -jar server.jar
  warmstart bench --ready log:started --runs 30 --json -- ./program

Exit status: 0, 1 if a run did not count (a restored run that fell back to a
cold start, a program that ended too early), 2 for wrong usage.";

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Rounds: one cold and one restored run each
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// What ends a measurement: http:URL, port:N, log:REGEX, file:PATH or exit.
    /// Default: the first --ready that is one of these, else the first HTTP
    /// answer of a server, the end of another program
    #[arg(long, value_name = "MARK")]
    until: Option<Mark>,

    /// A run that is not there after so many seconds has failed
    #[arg(long, value_name = "SECONDS", value_parser = run::seconds, default_value = "120")]
    timeout: Duration,

    #[command(flatten)]
    capture: CaptureArguments,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Draw the runs to FILE
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// The program and its arguments, untouched
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        value_parser = clap::value_parser!(OsString),
    )]
    command: Vec<OsString>,
}

/// Measures, and prints what came out; status 1 if a run does not count.
pub(super) fn main(arguments: Arguments) -> Result<u8, Failure> {
    arguments.capture.choices()?;
    let options = bench::Options {
        launcher: environment::binary()?,
        launcher_options: arguments.capture.to_words(),
        runs: arguments.runs,
        until: arguments.until.or_else(|| arguments.capture.ready.iter().find_map(Mark::of_probe)),
        timeout: arguments.timeout,
        temp_dir: std::env::temp_dir(),
    };
    let command = environment::command(arguments.command);

    let progress = Progress::new(u64::from(options.runs) * 2);
    let mut first = true;
    let result = bench::run(&command, &options, |stage| {
        match stage {
            Stage::Preparing => return progress.say("preparing the image"),
            Stage::Cold(round) => progress.say(format!("round {round}: cold")),
            Stage::Restored(round) => progress.say(format!("round {round}: restored")),
        }
        if !std::mem::take(&mut first) {
            progress.step();
        }
    });
    drop(progress);
    let report = result.map_err(explain)?;

    if let Some(path) = &arguments.svg {
        std::fs::write(path, report.to_svg()).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    if arguments.json {
        ui::print_json(&report).map_err(Failure::failed)?;
    } else {
        ui::print(&report.to_text());
    }
    Ok(if report.complete() { status::OK } else { status::FAILED })
}

fn explain(error: BenchError) -> Failure {
    let hint = match &error {
        BenchError::NothingToTime => Some("warmstart bench --until log:REGEX -- COMMAND"),
        BenchError::NoImage(_) => Some("warmstart doctor"),
        BenchError::Start { .. } | BenchError::Scratch(_) => None,
    };
    let failure = Failure::failed(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
