//! `warmstart image dump|restore|show`: image sets without the cache.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::environment;
use super::run::{Engine, Pids, Tcp, seconds};
use crate::criu::record::{self, Record};
use crate::criu::{self, Criu};
use crate::failure::{Failure, status};
use crate::image::{self, Set};
use crate::restore::plan::{Bytes, Plan, PlanError};
use crate::snapshot::{self, After, Capture, Children, StdinAtStart, StdioOrigin};
use crate::{launcher, restore, ui};

/// The arguments of `image`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write an image of a running process; it ends, unless told otherwise
    Dump(DumpArguments),
    /// Restore an image and wait for the program, as its parent
    Restore {
        /// The image's directory
        dir: PathBuf,
        /// How pids are chosen
        #[arg(long, value_name = "STRATEGY", value_enum, default_value_t = Pids::Auto)]
        pids: Pids,
        /// What restores; auto: native, which plans what others dumped
        #[arg(long, value_enum, default_value_t = Engine::Auto)]
        engine: Engine,
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
        timeout: Duration,
    },
    /// Print what an image holds
    Show {
        /// The image's directory
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct DumpArguments {
    /// The process
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// The directory to write to: empty, or to be made
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Let the process run on afterwards
    #[arg(long, conflicts_with = "leave_stopped")]
    leave_running: bool,
    /// Leave the process stopped afterwards
    #[arg(long)]
    leave_stopped: bool,
    /// What to do about open TCP connections
    #[arg(long, value_enum, default_value_t = Tcp::Refuse)]
    tcp: Tcp,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries out `image …`.
pub(super) fn main(arguments: Arguments) -> Result<u8, Failure> {
    match arguments.command {
        Command::Dump(arguments) => dump(&arguments),
        Command::Restore { dir, pids, engine, timeout } => restore(&dir, pids, engine, timeout),
        Command::Show { dir, json } => show(&dir, json),
    }
}

/// What `image dump --json` prints.
#[derive(Debug, serde::Serialize)]
struct Dumped {
    schema_version: u32,
    dir: PathBuf,
    pid: i32,
    processes: usize,
    threads: usize,
    len_pages: u64,
    freeze_ms: f64,
}

fn dump(arguments: &DumpArguments) -> Result<u8, Failure> {
    let dir = absolute(&arguments.output)?;
    let made = empty_directory(&dir)?;
    let after = match (arguments.leave_running, arguments.leave_stopped) {
        (true, _) => After::Run,
        (_, true) => After::Stop,
        _ => After::Kill,
    };
    let capture = Capture {
        pid: arguments.pid,
        dir: &dir,
        inherited: &[],
        keep: &[],
        stdio: [StdioOrigin::Programs; 3],
        stdin: StdinAtStart::Other,
        started: None,
        children: Children::Captured,
        tcp: arguments.tcp.choice(),
        after,
    };
    let snapshot =
        snapshot::freeze(&capture).and_then(snapshot::Frozen::write).map_err(|refusal| {
            clean(&dir, made);
            Failure::failed(format!("pid {} was not dumped: {refusal}", arguments.pid))
        })?;
    let dumped = Dumped {
        schema_version: 1,
        dir,
        pid: snapshot.pid,
        processes: snapshot.processes,
        threads: snapshot.threads,
        len_pages: snapshot.len_pages,
        freeze_ms: snapshot.freeze.as_secs_f64() * 1000.0,
    };
    if arguments.json {
        ui::print_json(&dumped).map_err(Failure::failed)?;
    } else {
        let processes = match dumped.processes {
            1 => String::new(),
            more => format!("{more} processes, "),
        };
        ui::print(&format!(
            "{}: pid {}, {processes}{} threads, {} of pages, stopped for {} ms\n",
            dumped.dir.display(),
            dumped.pid,
            dumped.threads,
            ui::bytes(dumped.len_pages),
            ui::millis(dumped.freeze_ms)
        ));
    }
    Ok(status::OK)
}

/// Whether a directory was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    ByUs,
    Before,
}

/// Makes a directory that only we may read, or takes one that is empty.
fn empty_directory(dir: &Path) -> Result<Made, Failure> {
    let fail = |error: io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(Made::ByUs),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match std::fs::read_dir(dir).map_err(fail)?.next() {
                None => Ok(Made::Before),
                Some(_) => Err(Failure::usage(format!("{} is not empty", dir.display()))),
            }
        }
        Err(error) => Err(fail(error)),
    }
}

/// Removes what a refused dump wrote: the directory was empty before.
fn clean(dir: &Path, made: Made) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    if made == Made::ByUs {
        let _ = std::fs::remove_dir(dir);
    }
}

/// Restores; there is no cold start to fall back to, and the image may have to
/// be read from a slow disk.
fn restore(dir: &Path, pids: Pids, engine: Engine, deadline: Duration) -> Result<u8, Failure> {
    let pids = pids.strategies();
    let dir = absolute(dir)?;
    if !dir.is_dir() {
        return Err(Failure::failed(format!("{} is no directory", dir.display())));
    }
    let tool = match engine {
        Engine::Criu => Some(ready_for_criu(&dir)?),
        // What was made ready for CRIU is CRIU's: its caller's descriptors are
        // not in it any more.
        Engine::Auto if record(&dir)?.is_some() => Some(ready_for_criu(&dir)?),
        Engine::Auto | Engine::Native => {
            restore::foreign::ensure_plan(&dir).map_err(|error| {
                Failure::failed(format!("{} was not restored: {error}", dir.display()))
            })?;
            None
        }
    };
    let blocked = launcher::block_signals();
    let request = restore::Request {
        plan: Bytes::Unknown,
        dir: &dir,
        program: None,
        keep: &[],
        lent: &[],
        closed_stdio: crate::sys::start::closed_stdio(),
        ignored: &[],
        pids: &pids,
        pid_budget: launcher::PID_BUDGET,
        clock: launcher::Clock::Machines,
        deadline,
    };
    let restored = match &tool {
        Some(criu) => restore::criu(&request, criu),
        None => restore::native(&request),
    };
    let restored = restored.map_err(|error| {
        let failure = Failure::failed(format!("{} was not restored: {error}", dir.display()));
        match error {
            restore::CannotRestore::NotPermitted => failure.hint("warmstart doctor"),
            _ => failure,
        }
    })?;
    crate::privilege::give_up();
    Ok(launcher::relay(restored, &blocked))
}

fn record(dir: &Path) -> Result<Option<Record>, Failure> {
    Record::read(dir)
        .map_err(|error| Failure::failed(format!("{}: {error}", dir.join(record::FILE).display())))
}

/// Finds CRIU for an image; one that was not made ready for it, ours or its own,
/// is as it is: 0, 1 and 2 come back as what they were.
fn ready_for_criu(dir: &Path) -> Result<Criu, Failure> {
    let known = record(dir)?.map(|record| record.criu);
    criu::find(&environment::criu(), known.as_ref())
        .map_err(|error| Failure::failed(error).hint("WARMSTART_CRIU=/path/to/criu"))
}

fn show(dir: &Path, json: bool) -> Result<u8, Failure> {
    let set = Set::read(dir).map_err(Failure::failed)?;
    let plan = plan(dir);
    let record = record(dir)?;
    if json {
        let mut value = image::json(&set);
        let told = match &plan {
            Some(Ok(plan)) => plans(plan, dir),
            Some(Err(error)) => json!({ "error": error.to_string() }),
            None => serde_json::Value::Null,
        };
        if let Some(fields) = value.as_object_mut() {
            fields.insert("plan".into(), told);
            let engine = if record.is_some() { "criu" } else { "native" };
            fields.insert("engine".into(), json!(engine));
            let reason = record.and_then(|record| record.reason);
            fields.insert("reason".into(), json!(reason));
        }
        ui::print_json(&value).map_err(Failure::failed)?;
        return Ok(status::OK);
    }
    let mut text = Vec::new();
    image::show(&set, &mut text).map_err(Failure::failed)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    match plan {
        Some(Ok(plan)) => {
            text.push_str(&format!("\n{plan}"));
            match plan.read_parts(dir, Bytes::Unknown) {
                Ok(parts) => parts.iter().for_each(|part| text.push_str(&format!("\n{part}"))),
                Err(error) => text.push_str(&format!("\nno plan: {error}\n")),
            }
        }
        Some(Err(error)) => text.push_str(&format!("\nno plan: {error}\n")),
        None => match &record {
            Some(record) => text.push_str(&told(record)),
            None => text.push_str("\nno plan yet: this set was not made by warmstart\n"),
        },
    }
    ui::print(&text);
    Ok(status::OK)
}

/// Returns a plan, and those of the other processes, as lines.
fn plans(plan: &Plan, dir: &Path) -> serde_json::Value {
    let lines = |plan: &Plan| plan.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    match plan.read_parts(dir, Bytes::Unknown) {
        Ok(parts) => {
            let parts: Vec<_> = parts.iter().map(lines).collect();
            json!({ "text": lines(plan), "others": parts })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// Says what restores a set that was made ready for CRIU, and why.
fn told(record: &Record) -> String {
    let reason = record.reason.as_deref().unwrap_or("asked for");
    let path = record.criu.path();
    format!("\nengine criu ({}): {reason}\n", path.display())
}

/// Reads the plan of a set; sets that others made have none.
fn plan(dir: &Path) -> Option<Result<Plan, PlanError>> {
    match Plan::read(dir) {
        Err(PlanError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            None
        }
        plan => Some(plan),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_made_private_and_must_be_empty() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("image");
        assert_eq!(empty_directory(&dir).unwrap(), Made::ByUs);
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(empty_directory(&dir).unwrap(), Made::Before);
        std::fs::write(dir.join("x"), "").unwrap();
        let failure = empty_directory(&dir).unwrap_err();
        assert!(failure.error.to_string().ends_with("is not empty"));
        clean(&dir, Made::ByUs);
        assert!(!dir.exists());
        assert!(empty_directory(&dir.join("deep/er")).is_err());
    }
}
