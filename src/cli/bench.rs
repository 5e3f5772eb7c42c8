//! `warmstart bench`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::run::CaptureArguments;
use super::{environment, run};
use crate::bench::{self, Alternative, BenchError, Mark, Stage};
use crate::failure::{Failure, status};
use crate::ui::{self, Progress};

/// Shown below the help of `bench`.
pub(super) const AFTER_HELP: &str = "\
Examples:
  warmstart bench -- java -jar server.jar
  warmstart bench --until http:8080/health --svg out.svg -- java -jar server.jar
  warmstart bench --ready log:started --runs 30 --json -- ./program
  warmstart bench --at main --against aot-cache,appcds -- javac Main.java

What a JDK cannot do, and an archive that is not used, is said in the report
and is no failure.

Exit status: 0, 1 if a run did not count (a restored run that fell back to a
cold start, a program that ended too early, a tool that ended with another
status than when it was run cold), 2 for wrong usage.";

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Rounds: one cold and one restored run each, and one with each of --against
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// What ends a measurement: http:URL, port:N, log:REGEX, file:PATH or exit.
    /// Default: the first --ready that is one of these, else the first HTTP
    /// answer of a server, the end of another program and with --at main
    #[arg(long, value_name = "MARK")]
    until: Option<Mark>,

    /// Measure also what a JDK has itself: aot-cache (JDK 24), appcds (JDK 13),
    /// with archives that are made of COMMAND; or criu, with an image of its own
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    against: Vec<Alternative>,

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
    let mut against = Vec::new();
    for alternative in arguments.against {
        if !against.contains(&alternative) {
            against.push(alternative);
        }
    }
    let options = bench::Options {
        launcher: environment::binary()?,
        launcher_options: arguments.capture.to_words(),
        runs: arguments.runs,
        until: arguments.until.or_else(|| arguments.capture.ready.iter().find_map(Mark::of_probe)),
        at_main: arguments.capture.at_main(),
        against,
        timeout: arguments.timeout,
        temp_dir: std::env::temp_dir(),
    };
    let command = environment::command(arguments.command);

    let kinds = 2 + options.against.len() as u64;
    let progress = Progress::new(u64::from(options.runs) * kinds);
    let mut first = true;
    let result = bench::run(&command, &options, |stage| {
        match stage {
            Stage::Preparing => return progress.say("preparing the image"),
            Stage::Making(what) => return progress.say(format!("making what {what} needs")),
            Stage::Cold(round) => progress.say(format!("round {round}: cold")),
            Stage::Restored(round) => progress.say(format!("round {round}: restored")),
            Stage::Against(what, round) => progress.say(format!("round {round}: {what}")),
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
