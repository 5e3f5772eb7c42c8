//! `warmstart setup`: what root has to allow, once.
//!
//! Two things: the file that says which pids may be chosen for ordinary users
//! ([`range::PATH`]), and the binary's one file capability. Each change is
//! shown before it is made, as a line that can be typed; `--undo` takes both
//! back. Root makes them directly, anybody else through `sudo`. What is as it
//! should be is left alone, so that running it again after an update of the
//! package that the binary came with, which drops the capability, is right.
//!
//! The capability is *permitted* only, not *effective*: warmstart raises it
//! itself, and with the effective flag `execve(2)` would fail wherever the
//! bounding set lacks the capability, where a plain start must still work.

mod change;
mod shim;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::environment;
use crate::criu::{self, Sought, trust};
use crate::failure::{Failure, status};
use crate::pids::range::{self, Permitted, PidRange, RangeError};
use crate::privilege::file::{self, FileCaps};
use crate::ui;
use change::{Change, quoted};

/// The arguments of `setup`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Take everything back
    #[arg(long)]
    undo: bool,

    /// Let ordinary users choose pids from MIN to MAX only (default:
    /// 1000-4194303, or what was set before)
    #[arg(long, value_name = "MIN-MAX", conflicts_with = "undo")]
    pid_range: Option<PidRange>,

    /// Record the CRIU that may have the capability too: root's program, which
    /// nobody else can replace
    #[arg(long, value_name = "PATH", conflicts_with_all = ["undo", "shim"])]
    criu: Option<PathBuf>,

    /// Make DIR stand in for a JDK: an entry of PATH, or a JAVA_HOME, whose
    /// programs start through warmstart (needs no privilege)
    #[arg(long, value_name = "DIR", conflicts_with = "pid_range")]
    shim: Option<PathBuf>,

    /// Only show what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Options of a run, for the programs in DIR (--train, for one)
    #[arg(value_name = "OPTION", last = true, requires = "shim", value_parser = clap::value_parser!(OsString))]
    options: Vec<OsString>,
}

/// Shows what has to be done, and does it.
pub(super) fn main(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(dir) = &arguments.shim {
        return shim::main(dir, arguments.undo, arguments.dry_run, &arguments.options);
    }
    let binary = environment::binary()?;
    let changes = changes(&binary, arguments)?;
    if changes.is_empty() {
        ui::print(&format!("{}nothing to do\n", state(&binary)));
        return Ok(status::OK);
    }
    let root = nix::unistd::geteuid().is_root();
    let lines = lines(&changes, &binary, arguments, root);
    for line in &lines {
        ui::print(&format!("{line}\n"));
    }
    if arguments.dry_run {
        return Ok(status::OK);
    }
    if root {
        changes.iter().try_for_each(Change::apply)?;
    } else {
        lines.iter().try_for_each(|line| run(line))?;
    }
    if let [left, ..] = &self::changes(&binary, arguments)?[..] {
        return Err(Failure::failed(format!("it did not take: {}", left.line(false))));
    }
    ui::print(&state(&binary));
    Ok(status::OK)
}

/// Finds out what is not as it should be.
fn changes(binary: &Path, arguments: &Arguments) -> Result<Vec<Change>, Failure> {
    let there = file::of(binary).map_err(|error| {
        Failure::failed(format!("cannot look at {}: {error}", binary.display()))
    })?;
    let mut changes = Vec::with_capacity(2);
    if arguments.undo {
        if Path::new(trust::PATH).symlink_metadata().is_ok() {
            changes.push(Change::RemoveCriu);
        }
        if Path::new(range::PATH).symlink_metadata().is_ok() {
            changes.push(Change::RemoveRange);
        }
        if there.is_some() {
            changes.push(Change::Take(binary.to_owned()));
        }
        return Ok(changes);
    }
    may_be_privileged(binary)?;
    // First, so that the capability is never there without its limits.
    changes
        .extend(range_to_write(range::permitted(), arguments.pid_range)?.map(Change::WriteRange));
    changes.extend(criu_to_record(arguments.criu.as_deref())?.map(Change::WriteCriu));
    if !is_right(there) {
        changes.push(Change::Give(binary.to_owned()));
    }
    Ok(changes)
}

/// Decides what the range file is to say, if it does not say it yet.
fn range_to_write(
    there: Result<Permitted, RangeError>,
    asked: Option<PidRange>,
) -> Result<Option<PidRange>, Failure> {
    let directory = Path::new(range::PATH).parent();
    let error = match (there, asked) {
        (Ok(Permitted { by: Some(_), range }), asked) => {
            return Ok(asked.filter(|asked| *asked != range));
        }
        (Ok(Permitted { by: None, .. }), asked) => {
            return Ok(Some(asked.unwrap_or(PidRange::DEFAULT)));
        }
        (Err(error), asked) => match (&error, asked) {
            (RangeError::Untrusted { path, .. }, _) if Some(path.as_path()) == directory => error,
            // Replaced by what is asked for; never by a guess.
            (_, Some(asked)) => return Ok(Some(asked)),
            _ => error,
        },
    };
    let hint = match &error {
        RangeError::Untrusted { path, .. } if Some(path.as_path()) == directory => {
            format!("sudo chown root:root {0} && sudo chmod 755 {0}", path.display())
        }
        _ => format!("sudo warmstart setup --pid-range {}", PidRange::DEFAULT),
    };
    Err(Failure::failed(error).hint(hint))
}

/// Decides which CRIU is to be recorded, if it is not yet. It must be one that
/// works, and that only root can replace.
fn criu_to_record(asked: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let Some(asked) = asked else { return Ok(None) };
    trust::is_roots_alone(asked)
        .map_err(|why| Failure::failed(format!("this criu must not have the capability: {why}")))?;
    let named = Sought { named: Some(asked.into()), ..Sought::default() };
    let found = criu::find(&named, None).map_err(Failure::failed)?;
    let there = trust::recorded().ok().flatten();
    Ok(Some(found.path().to_owned()).filter(|path| there.as_ref() != Some(path)))
}

/// Tells whether the file has what is wanted: with the effective flag
/// (`setcap …=ep` by hand) is fine too, more capabilities are not.
fn is_right(there: Option<FileCaps>) -> bool {
    there.is_some_and(|there| there.gives_checkpoint_restore() && !there.gives_more())
}

/// Says how things are, a line for each.
fn state(binary: &Path) -> String {
    let caps = match file::of(binary).ok().flatten() {
        Some(caps) if caps.gives_more() => "carries more capabilities than it needs",
        Some(_) => "carries cap_checkpoint_restore",
        None => "carries no capability",
    };
    let mut text = format!("{} {caps}\n", binary.display());
    match range::permitted() {
        Ok(Permitted { range, by: Some(path) }) => {
            text.push_str(&format!("{} permits pids {range}\n", path.display()));
        }
        Ok(Permitted { by: None, .. }) => {}
        Err(error) => text.push_str(&format!("{error}\n")),
    }
    match trust::recorded() {
        Ok(Some(path)) => {
            let lent = match trust::is_roots_alone(&path) {
                Ok(()) => "may have it too".to_owned(),
                Err(why) => format!("is recorded, but may not have it: {why}"),
            };
            text.push_str(&format!("{} {lent}\n", path.display()));
        }
        Ok(None) => {}
        Err(error) => text.push_str(&format!("{error}\n")),
    }
    if is_packaged(binary) && file::of(binary).ok().flatten().is_some() {
        text.push_str(&format!(
            "an update of its package drops the capability: then again, sudo {} setup\n",
            quoted(binary)
        ));
    }
    text
}

/// Tells whether the binary lies where packages put theirs.
fn is_packaged(binary: &Path) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/bin", "/sbin", "/opt"]
        .iter()
        .any(|dir| binary.starts_with(dir))
}

/// Refuses a binary that must not, or cannot, carry a capability.
fn may_be_privileged(binary: &Path) -> Result<(), Failure> {
    let meta = binary.metadata().map_err(|error| {
        Failure::failed(format!("cannot look at {}: {error}", binary.display()))
    })?;
    let install = format!("sudo install -m 755 {} /usr/local/bin/warmstart", quoted(binary));
    if meta.mode() & 0o022 != 0 {
        return Err(Failure::failed(format!(
            "{} can be written by others (mode {:04o}): it must not carry a capability",
            binary.display(),
            meta.mode() & 0o7777
        ))
        .hint(format!("chmod go-w {}", quoted(binary))));
    }
    if statvfs(binary).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID)) {
        return Err(Failure::failed(format!(
            "{} is on a file system mounted nosuid, where capabilities do nothing",
            binary.display()
        ))
        .hint(install));
    }
    Ok(())
}

/// Returns the lines that do it, ready to be typed.
fn lines(changes: &[Change], binary: &Path, arguments: &Arguments, root: bool) -> Vec<String> {
    let needs_setcap =
        changes.iter().any(|change| matches!(change, Change::Give(_) | Change::Take(_)));
    if root || !needs_setcap || has_setcap() {
        return changes.iter().map(|change| change.line(!root)).collect();
    }
    // Without the tool, by ourselves: the file capability is an attribute.
    let mut line = format!("sudo {} setup", quoted(binary));
    if arguments.undo {
        line.push_str(" --undo");
    }
    if let Some(criu) = &arguments.criu {
        line.push_str(&format!(" --criu {}", quoted(criu)));
    }
    if let Some(range) = arguments.pid_range {
        line.push_str(&format!(" --pid-range {range}"));
    }
    vec![line]
}

/// Tells whether libcap's `setcap` is where distributions put it.
fn has_setcap() -> bool {
    let dirs = ["/usr/sbin", "/sbin", "/usr/bin"];
    dirs.iter().any(|dir| PathBuf::from(dir).join("setcap").exists())
}

/// Runs a line, which goes through `sudo`.
fn run(line: &str) -> Result<(), Failure> {
    // By a shell, since the words are quoted for one.
    match Command::new("sh").arg("-c").arg(line).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.code() == Some(127) => {
            Err(Failure::failed("there is no sudo here: have root run the lines above"))
        }
        Ok(status) => Err(Failure::failed(format!("sudo did not succeed ({status})"))),
        Err(error) => Err(Failure::failed(format!("cannot run the command: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_capability_is_right() {
        let ours = FileCaps::OURS;
        assert!(is_right(Some(ours)));
        assert!(is_right(Some(FileCaps { effective: true, ..ours })));
        assert!(!is_right(Some(FileCaps { permitted: u64::MAX, ..ours })));
        assert!(!is_right(None));
    }

    #[test]
    fn a_range_is_kept_unless_another_is_asked_for_and_never_guessed() {
        let range = |min, max| PidRange::new(min, max).unwrap();
        let file = |range| Ok(Permitted { range, by: Some(range::PATH.into()) });
        let none = || Ok(Permitted { range: PidRange::DEFAULT, by: None });
        let written = |there, asked| range_to_write(there, asked).unwrap();
        assert_eq!(written(none(), None), Some(PidRange::DEFAULT));
        assert_eq!(written(none(), Some(range(5, 9))), Some(range(5, 9)));
        assert_eq!(written(file(range(5, 9)), None), None);
        assert_eq!(written(file(range(5, 9)), Some(range(5, 9))), None);
        assert_eq!(written(file(range(5, 9)), Some(range(5, 8))), Some(range(5, 8)));

        let damaged = || RangeError::Malformed { path: range::PATH.into(), what: "odd".into() };
        assert_eq!(written(Err(damaged()), Some(range(5, 8))), Some(range(5, 8)));
        let failure = range_to_write(Err(damaged()), None).unwrap_err();
        assert_eq!(failure.hints, ["sudo warmstart setup --pid-range 1000-4194303"]);
        let path = Path::new(range::PATH).parent().unwrap().to_owned();
        let foreign = RangeError::Untrusted { path, why: "does not belong to root" };
        let failure = range_to_write(Err(foreign), Some(range(5, 8))).unwrap_err();
        assert!(failure.hints[0].starts_with("sudo chown root:root /etc/warmstart"));
    }

    #[test]
    fn packages_are_known_by_where_they_install() {
        assert!(is_packaged(Path::new("/usr/bin/warmstart")));
        assert!(!is_packaged(Path::new("/usr/local/bin/warmstart")));
        assert!(!is_packaged(Path::new("/home/u/.cargo/bin/warmstart")));
    }
}
