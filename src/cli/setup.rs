//! `warmstart setup`: gives the binary its one file capability.
//!
//! The command that does it is shown, then carried out: as root by setting the
//! attribute directly, as an ordinary user through `sudo`. The capability is
//! *permitted* only, not *effective*: warmstart raises it itself, and with the
//! effective flag `execve(2)` would fail wherever the bounding set lacks the
//! capability, where a plain start must still work.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use clap::Args;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::environment;
use crate::failure::{Failure, status};
use crate::privilege::file::{self, FileCaps};
use crate::ui;

/// The arguments of `setup`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Take the capability away again
    #[arg(long)]
    undo: bool,

    /// Only show the command
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Shows the command, and carries it out.
pub(super) fn main(arguments: &Arguments) -> Result<u8, Failure> {
    let binary = environment::binary()?;
    let wanted = (!arguments.undo).then_some(FileCaps::OURS);
    let there = file::of(&binary).map_err(|error| {
        Failure::failed(format!("cannot look at {}: {error}", binary.display()))
    })?;
    if !arguments.undo {
        may_be_privileged(&binary)?;
    }
    if is_done(there, wanted) {
        ui::print(&format!("{}: nothing to do\n", describe(&binary, there)));
        return Ok(status::OK);
    }

    let root = nix::unistd::geteuid().is_root();
    let words = command(&binary, arguments.undo, root);
    ui::print(&format!("{}\n", words.join(" ")));
    if arguments.dry_run {
        return Ok(status::OK);
    }
    if root {
        apply(&binary, wanted)?;
    } else {
        run_sudo(&words)?;
    }

    let there = file::of(&binary).ok().flatten();
    if !is_done(there, wanted) {
        return Err(Failure::failed(format!("{}: it did not take", describe(&binary, there))));
    }
    ui::print(&format!("{}\n", describe(&binary, there)));
    Ok(status::OK)
}

/// Tells whether the file has what is wanted: with the effective flag
/// (`setcap …=ep` by hand) is fine too, more capabilities are not.
fn is_done(there: Option<FileCaps>, wanted: Option<FileCaps>) -> bool {
    match (there, wanted) {
        (None, None) => true,
        (Some(there), Some(_)) => there.gives_checkpoint_restore() && !there.gives_more(),
        _ => false,
    }
}

fn describe(binary: &Path, caps: Option<FileCaps>) -> String {
    match caps {
        Some(caps) if caps.gives_more() => {
            format!("{} carries more capabilities than it needs", binary.display())
        }
        Some(_) => format!("{} carries cap_checkpoint_restore", binary.display()),
        None => format!("{} carries no capability", binary.display()),
    }
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

/// Returns the command that does it, word by word and ready to be typed.
fn command(binary: &Path, undo: bool, root: bool) -> Vec<String> {
    let sudo: &[&str] = if root { &[] } else { &["sudo"] };
    let own = || vec![quoted(binary), "setup".to_owned()];
    let tail: Vec<String> = match (has_setcap() || root, undo) {
        (true, false) => {
            vec!["setcap".into(), "cap_checkpoint_restore=p".into(), quoted(binary)]
        }
        (true, true) => vec!["setcap".into(), "-r".into(), quoted(binary)],
        (false, false) => own(),
        (false, true) => [own(), vec!["--undo".into()]].concat(),
    };
    sudo.iter().map(|&word| word.to_owned()).chain(tail).collect()
}

/// Tells whether libcap's `setcap` is where distributions put it.
fn has_setcap() -> bool {
    ["/usr/sbin/setcap", "/sbin/setcap", "/usr/bin/setcap"].iter().any(|p| Path::new(p).exists())
}

/// Quotes a path for the shell, if need be.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b)) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Sets or removes the attribute, as root.
fn apply(binary: &Path, wanted: Option<FileCaps>) -> Result<(), Failure> {
    match wanted {
        Some(caps) => file::set(binary, &caps),
        None => file::remove(binary),
    }
    .map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::EPERM) => ": CAP_SETFCAP is missing (a container?)",
            Some(libc::ENOTSUP) => ": its file system has no extended attributes",
            Some(libc::EROFS) => ": its file system is read-only",
            _ => "",
        };
        Failure::failed(format!("cannot change {}: {error}{why}", binary.display()))
    })
}

/// Runs the command through `sudo`.
fn run_sudo(words: &[String]) -> Result<(), Failure> {
    // By a shell, since the words are quoted for one.
    let result = Command::new("sh").arg("-c").arg(words.join(" ")).status();
    match result {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.code() == Some(127) => {
            Err(Failure::failed("there is no sudo here: have root run the command above"))
        }
        Ok(status) => Err(Failure::failed(format!("sudo did not succeed ({status})"))),
        Err(error) => Err(not_run(error)),
    }
}

fn not_run(error: io::Error) -> Failure {
    Failure::failed(format!("cannot run the command: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn paths_are_quoted_when_they_need_it() {
        assert_eq!(quoted(Path::new("/usr/bin/x-1.0")), "/usr/bin/x-1.0");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn root_sees_the_command_without_sudo() {
        let binary = PathBuf::from("/usr/bin/warmstart");
        assert_eq!(
            command(&binary, false, true).join(" "),
            "setcap cap_checkpoint_restore=p /usr/bin/warmstart"
        );
        assert_eq!(command(&binary, true, true).join(" "), "setcap -r /usr/bin/warmstart");
        assert_eq!(command(&binary, true, false)[0], "sudo");
    }

    #[test]
    fn only_the_one_capability_is_right() {
        let ours = FileCaps::OURS;
        assert!(is_done(Some(ours), Some(ours)));
        assert!(is_done(Some(FileCaps { effective: true, ..ours }), Some(ours)));
        assert!(!is_done(Some(FileCaps { permitted: u64::MAX, ..ours }), Some(ours)));
        assert!(!is_done(Some(ours), None));
        assert!(!is_done(None, Some(ours)));
        assert!(is_done(None, None));
    }
}
