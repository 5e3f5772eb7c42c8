//! The command line: `warmstart [OPTIONS] COMMAND…` and the management
//! commands.
//!
//! This is the only module that reads argv, the environment and the working
//! directory; everything below takes values. What the first word is decides
//! the mode: a management command's name, or the options and the COMMAND of a
//! run. Parsing a run builds the options of a run and nothing else, since it
//! is part of every restore.

mod bench;
mod cache;
mod doctor;
mod environment;
mod image;
mod pages;
mod pids;
mod run;
mod setup;

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::{Failure, Mode, status};
use crate::privilege;

const ABOUT: &str = "Make slow-starting programs start in milliseconds";

const LONG_ABOUT: &str = "\
Make slow-starting programs start in milliseconds.

The first run of a COMMAND starts it cold and captures it when it is ready.
Every later run with the same program, files, arguments and environment
restores that image, with the same pids. Whatever stands in the way, COMMAND
is started cold instead, and one line on stderr says why.";

const AFTER_HELP: &str = "\
Examples:
  warmstart java -jar server.jar             restore it, or start and capture it
  warmstart --ready http:8080/health java -jar server.jar
                                             capture it once that URL answers
  warmstart --train javac -d out Main.java   a tool: captured before main, warm
  warmstart bench -- java -jar server.jar    cold against restored, measured
  warmstart doctor                           what this machine allows
  sudo warmstart setup                       the old pids for ordinary users, too

Options come before COMMAND; everything after it is COMMAND's own. For a
COMMAND that is named like one of the commands above: warmstart run NAME.

Exit status: the program's own (killed by a signal: by the same signal).
125: warmstart itself failed, 126: COMMAND cannot be executed, 127: there is
no such COMMAND. Management commands: 0, 1 (failed), 2 (wrong usage).

Environment: WARMSTART_CACHE_DIR, the cache's directory (default:
$XDG_CACHE_HOME/warmstart or ~/.cache/warmstart).";

/// The whole command line, as help, completions and manual pages show it, and
/// as the management commands are parsed.
#[derive(Debug, Parser)]
#[command(
    name = "warmstart",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    override_usage = "warmstart [OPTIONS] [--] COMMAND [ARG]...\n       warmstart <SUBCOMMAND> ...",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands"
)]
struct Cli {
    #[command(subcommand)]
    management: Option<Management>,
    #[command(flatten)]
    run: run::Arguments,
}

/// The management commands. `run` is among them for the sake of its help; it
/// is parsed by [`run::main`].
#[derive(Debug, Subcommand)]
enum Management {
    /// Run COMMAND: the same as without the word `run`
    #[command(override_usage = "warmstart run [OPTIONS] [--] COMMAND [ARG]...", after_help = AFTER_HELP)]
    Run(run::Arguments),
    /// Measure COMMAND cold against restored
    #[command(override_usage = "warmstart bench [OPTIONS] -- COMMAND [ARG]...", after_help = bench::AFTER_HELP)]
    Bench(bench::Arguments),
    /// Look at, check and clean the cache
    Cache(cache::Arguments),
    /// Say what this machine allows
    Doctor(doctor::Arguments),
    /// Give this binary its one capability: the old pids for ordinary users
    Setup(setup::Arguments),
    /// Dump, restore and show image sets
    Image(image::Arguments),
    /// Run a command at an exact pid; measure the ways to do that
    Pids(pids::Arguments),
    /// Print a completion script for a shell
    Completions(pages::CompletionsArguments),
    /// Write the manual pages
    Man(pages::ManArguments),
}

/// The words that make a command line a management command.
const MANAGEMENT: [&str; 10] =
    ["bench", "cache", "doctor", "setup", "image", "pids", "completions", "man", "help", "run"];

/// Runs the command line and returns its exit status.
pub fn main() -> u8 {
    if privilege::is_set_id() {
        let failure = Failure::failed(
            "this binary must not be setuid or setgid: every program would run as its owner",
        );
        return failure.hint("chmod ug-s warmstart").report(Mode::Run);
    }
    // A failure leaves us with what the kernel gave us; the program is still
    // started without it (exec and restore both drop it), so it may run.
    let _ = privilege::narrow();
    let args: Vec<OsString> = std::env::args_os().collect();
    let (mode, result) = dispatch(args);
    result.unwrap_or_else(|failure| failure.report(mode))
}

/// Decides the mode by the first word and runs it.
fn dispatch(args: Vec<OsString>) -> (Mode, Result<u8, Failure>) {
    let first = args.get(1).map_or(OsStr::new(""), OsString::as_os_str);
    if first == "run" {
        let rest = std::iter::once(args[0].clone()).chain(args.into_iter().skip(2)).collect();
        return (Mode::Run, run::main(rest, run::Spelling::Run));
    }
    if first == "pids" && args.get(2).is_some_and(|word| word == "exec") {
        return (Mode::Run, manage(args));
    }
    if MANAGEMENT.iter().any(|word| first == *word) {
        return (Mode::Manage, manage(args));
    }
    (Mode::Run, run::main(args, run::Spelling::Bare))
}

/// Parses and carries out a management command.
fn manage(args: Vec<OsString>) -> Result<u8, Failure> {
    let parsed = Cli::command()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return answer_clap(&error),
    };
    match cli.management {
        Some(Management::Bench(arguments)) => bench::main(arguments),
        Some(Management::Cache(arguments)) => cache::main(arguments),
        Some(Management::Doctor(arguments)) => doctor::main(&arguments),
        Some(Management::Setup(arguments)) => setup::main(&arguments),
        Some(Management::Image(arguments)) => image::main(arguments),
        Some(Management::Pids(arguments)) => pids::main(arguments),
        Some(Management::Completions(arguments)) => pages::completions(&arguments),
        Some(Management::Man(arguments)) => pages::man(&arguments),
        Some(Management::Run(_)) | None => Err(Failure::usage("no COMMAND given")),
    }
}

/// Says what clap has to say: help and version go to stdout, an error becomes
/// a failure of ours.
fn answer_clap(error: &clap::Error) -> Result<u8, Failure> {
    if !error.use_stderr() {
        // A closed stdout must not turn into a panic.
        let _ = error.print();
        return Ok(status::OK);
    }
    let text = error.render().to_string();
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    // The command's name, without options and values.
    let name = usage.unwrap_or_default().split_whitespace().skip(1);
    let name = name.take_while(|word| !word.starts_with(['[', '<', '-']));
    let help =
        ["warmstart"].into_iter().chain(name).chain(["--help"]).collect::<Vec<_>>().join(" ");
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Failure::usage("a subcommand is missing").hint(help));
    }
    // The paragraphs before the usage: what is wrong, and perhaps a tip.
    let wrong: Vec<String> = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let wrong = wrong.join("; ");
    Err(Failure::usage(wrong.strip_prefix("error: ").unwrap_or(&wrong)).hint(help))
}
