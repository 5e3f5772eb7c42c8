//! One change that `setup` makes: as a line to type, and carried out.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::criu::trust;
use crate::failure::Failure;
use crate::pids::range::{self, PidRange};
use crate::privilege::file::{self, FileCaps};

/// A change to the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Write the range file.
    WriteRange(PidRange),
    /// Remove it, and its directory if nothing else is in there.
    RemoveRange,
    /// Record the CRIU that may have the capability.
    WriteCriu(PathBuf),
    /// Remove that.
    RemoveCriu,
    /// Give a binary the capability.
    Give(PathBuf),
    /// Take every capability from a binary.
    Take(PathBuf),
}

impl Change {
    /// Returns the line that does it, ready to be typed; by `sudo` for whoever
    /// is not root.
    pub(super) fn line(&self, by_sudo: bool) -> String {
        let sudo = if by_sudo { "sudo " } else { "" };
        let (path, dir) = (range::PATH, directory().display());
        match self {
            Self::WriteRange(range) => {
                let text = range.to_file().replace('\n', "\\n");
                format!(
                    "{sudo}install -d -m 755 {dir} && printf '{text}' | \
                     {sudo}install -m 644 /dev/stdin {path}"
                )
            }
            Self::RemoveRange => {
                format!("{sudo}rm {path} && {sudo}rmdir --ignore-fail-on-non-empty {dir}")
            }
            Self::WriteCriu(criu) => {
                let text = format!("path = {}\\n", criu.display());
                format!(
                    "{sudo}install -d -m 755 {dir} && printf {} | \
                     {sudo}install -m 644 /dev/stdin {}",
                    quoted(Path::new(&text)),
                    trust::PATH
                )
            }
            Self::RemoveCriu => {
                let path = trust::PATH;
                format!("{sudo}rm {path} && {sudo}rmdir --ignore-fail-on-non-empty {dir}")
            }
            Self::Give(binary) => {
                format!("{sudo}setcap cap_checkpoint_restore=p {}", quoted(binary))
            }
            Self::Take(binary) => format!("{sudo}setcap -r {}", quoted(binary)),
        }
    }

    /// Makes the change, as root.
    pub(super) fn apply(&self) -> Result<(), Failure> {
        let failed = |path: &'static str| {
            move |error: io::Error| Failure::failed(format!("cannot change {path}: {error}"))
        };
        match self {
            Self::WriteRange(range) => {
                replace(range::PATH, &range.to_file()).map_err(failed(range::PATH))
            }
            Self::RemoveRange => remove(range::PATH).map_err(failed(range::PATH)),
            Self::WriteCriu(criu) => {
                replace(trust::PATH, &trust::to_file(criu)).map_err(failed(trust::PATH))
            }
            Self::RemoveCriu => remove(trust::PATH).map_err(failed(trust::PATH)),
            Self::Give(binary) => capability(binary, file::set(binary, &FileCaps::OURS)),
            Self::Take(binary) => capability(binary, file::remove(binary)),
        }
    }
}

fn directory() -> &'static Path {
    Path::new(range::PATH).parent().unwrap_or(Path::new("/"))
}

/// Replaces a file at once: whoever reads it meanwhile must not find half of it.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let dir = directory();
    match DirBuilder::new().mode(0o755).create(dir) {
        // Everybody reads the file, whatever root's umask is.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let temporary = dir.join(format!(".warmstart.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn remove(path: &str) -> io::Result<()> {
    fs::remove_file(path)?;
    match fs::remove_dir(directory()) {
        // Somebody else's files are in there.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => result,
    }
}

/// Says what the usual errors of changing a file capability mean.
fn capability(binary: &Path, result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::EPERM) => ": CAP_SETFCAP is missing (a container?)",
            Some(libc::ENOTSUP) => ": its file system has no extended attributes",
            Some(libc::EROFS) => ": its file system is read-only",
            _ => "",
        };
        Failure::failed(format!("cannot change {}: {error}{why}", binary.display()))
    })
}

/// Quotes a path for the shell, if need be.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b)) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_when_they_need_it() {
        assert_eq!(quoted(Path::new("/usr/bin/x-1.0")), "/usr/bin/x-1.0");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn lines_can_be_typed_with_sudo_and_without() {
        let binary = PathBuf::from("/usr/bin/warmstart");
        let range = PidRange::new(300, 5000).unwrap();
        for (change, line) in [
            (Change::Give(binary.clone()), "setcap cap_checkpoint_restore=p /usr/bin/warmstart"),
            (Change::Take(binary), "setcap -r /usr/bin/warmstart"),
            (
                Change::RemoveRange,
                "rm /etc/warmstart/pids.conf && rmdir --ignore-fail-on-non-empty /etc/warmstart",
            ),
            (
                Change::RemoveCriu,
                "rm /etc/warmstart/criu.conf && rmdir --ignore-fail-on-non-empty /etc/warmstart",
            ),
            (
                Change::WriteCriu("/usr/sbin/criu".into()),
                "install -d -m 755 /etc/warmstart && printf 'path = /usr/sbin/criu\\n' | \
                 install -m 644 /dev/stdin /etc/warmstart/criu.conf",
            ),
            (
                Change::WriteRange(range),
                "install -d -m 755 /etc/warmstart && printf 'min = 300\\nmax = 5000\\n' | \
                 install -m 644 /dev/stdin /etc/warmstart/pids.conf",
            ),
        ] {
            assert_eq!(change.line(false), line);
            let by_sudo = change.line(true);
            assert_eq!(by_sudo.replace("sudo ", ""), line);
            let commands = line.matches(" && ").count() + line.matches(" | ").count() + 1;
            let prints = line.matches("printf").count();
            assert_eq!(by_sudo.matches("sudo ").count(), commands - prints, "{by_sudo}");
        }
    }
}
