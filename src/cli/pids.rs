//! `warmstart pids`.

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, Subcommand};

use super::environment;
use crate::bench::pids as bench;
use crate::failure::{Failure, status};
use crate::launcher::exact::{self, ExactError, Wish};
use crate::pids::{PositionError, Strategy, Unavailable};
use crate::ui::{self, Progress};

/// How many pids may be used up if nothing else is said: about a second's
/// worth, three times around where `pid_max` is 32768.
const DEFAULT_BUDGET: u32 = 100_000;

const EXEC_HELP: &str = "\
Examples:
  warmstart pids exec --pid 4711 -- sleep 60
  warmstart pids exec --pid 4711 --via namespace -- sh -c 'echo $$'

The ways to a pid, the best first (default: the first that works here):
  set-tid    clone3 with set_tid: root, or after `warmstart setup`
  last-pid   the kernel's pid cursor: the same, where there is no clone3
  namespace  a pid namespace: the pid is the one that COMMAND sees itself
  cycle      using pids up until the right one is next: for everybody

Exit status: COMMAND's own (killed by a signal: by the same signal). 125: the
pid could not be had, 126: COMMAND cannot be executed, 127: there is none.";

const BENCH_HELP: &str = "\
Each way makes a process at a pid that many away from the last one, and waits
for its end: the median of the tries that succeeded.

Exit status: 0, 1 if nothing could be measured, 2 for wrong usage.";

/// The arguments of `pids`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run COMMAND at exactly this pid
    #[command(override_usage = "warmstart pids exec --pid N [OPTIONS] -- COMMAND [ARG]...", after_help = EXEC_HELP)]
    Exec(ExecArguments),
    /// Measure each way to a pid, here and as this user
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArguments),
}

#[derive(Debug, Args)]
struct ExecArguments {
    /// The pid
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,

    /// How to come to it: set-tid, last-pid, namespace or cycle
    #[arg(long, value_name = "STRATEGY")]
    via: Option<Strategy>,

    /// How many pids `cycle` may use up
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BUDGET)]
    pid_budget: u32,

    /// Say which way was taken
    #[arg(short, long)]
    verbose: bool,

    /// The program and its arguments, untouched
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        value_parser = clap::value_parser!(OsString),
    )]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct BenchArguments {
    /// How often each is tried
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries out a subcommand.
pub(super) fn main(arguments: Arguments) -> Result<u8, Failure> {
    match arguments.action {
        Action::Exec(arguments) => exec(arguments),
        Action::Bench(arguments) => measure(&arguments),
    }
}

fn exec(arguments: ExecArguments) -> Result<u8, Failure> {
    if arguments.command.first().is_none_or(|name| name.is_empty()) {
        return Err(Failure::usage("COMMAND is empty").hint("warmstart pids exec --help"));
    }
    let wish = Wish {
        pid: arguments.pid,
        via: arguments.via,
        budget: arguments.pid_budget,
        verbose: arguments.verbose,
    };
    // A namespace has another `/proc`.
    let binary = environment::binary().ok();
    exact::run(&environment::command(arguments.command), &wish)
        .map_err(|error| explain(error, wish, binary.as_deref()))
}

/// Adds the command that would help.
fn explain(error: ExactError, wish: Wish, binary: Option<&Path>) -> Failure {
    let inside = format!("warmstart pids exec --pid {} --via namespace -- COMMAND", wish.pid);
    let hint = match &error {
        ExactError::Unavailable { reason: Unavailable::NotPermitted, .. }
        | ExactError::Position(PositionError::Unavailable(Unavailable::NotPermitted)) => {
            let binary = binary.unwrap_or(Path::new("warmstart"));
            Some(format!("sudo {} setup", binary.display()))
        }
        ExactError::Unavailable { .. } | ExactError::Namespaces(_) => {
            Some("warmstart doctor".into())
        }
        ExactError::Position(
            PositionError::Taken(_)
            | PositionError::OutOfRange { .. }
            | PositionError::Reserved(_)
            | PositionError::Overtaken { .. },
        ) if wish.pid != 1 => Some(inside),
        ExactError::Position(PositionError::Budget { needed, .. }) => {
            Some(format!("warmstart pids exec --pid {} --pid-budget {needed} -- COMMAND", wish.pid))
        }
        _ => None,
    };
    let failure = Failure::failed(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn measure(arguments: &BenchArguments) -> Result<u8, Failure> {
    let progress = Progress::new(bench::steps());
    let mut first = true;
    let report = bench::run(arguments.tries, |what| {
        progress.say(what);
        if !std::mem::take(&mut first) {
            progress.step();
        }
    });
    drop(progress);
    let report = report.map_err(Failure::failed)?;
    if arguments.json {
        ui::print_json(&report).map_err(Failure::failed)?;
    } else {
        ui::print(&report.to_text());
    }
    Ok(if report.measured_any() { status::OK } else { status::FAILED })
}
