//! The app hash: everything that decides what a program becomes at its start.
//!
//! A [`Fingerprint`] is a list of labelled [`Input`]s and the hash of them
//! all, the [`EntryId`] under which the cache keeps an image. It is computed
//! anew at every run, so it must be cheap: contents of files are digests that
//! the [`DigestMemory`] knows by the files' identity, and the rest is a few
//! dozen system calls. It must also be complete: an input that is missing
//! here is a wrong answer some day, an input too many is only a cold start.
//! `docs/cache.md` lists the inputs for users.
//!
//! The labels are what `cache show`, `-v` and `explain` talk about; they must
//! read well after "changed:" and must be unique within a fingerprint.

mod arguments;
mod cgroup;
mod change;
mod collector;
mod digest;
mod directory;
mod environment;
mod host;
mod java;
mod line;
mod memory;
mod program;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::command::Command;
pub use arguments::{is_written, names_file};
pub use cgroup::Limits;
pub use change::{Change, explain};
use collector::Collector;
pub use digest::{Digest, FileIdentity, Hashed, hash_file};
pub(crate) use digest::{now_ns, read_hex, write_hex};
pub use environment::is_ignored;
pub use host::{Host, Stream, boot_id, vdso_digest};
pub use line::{JvmLine, NotAtMain};
pub use memory::{DigestMemory, Known, Note, RACY_NS, Reading, Unread};

/// The version of images, plans and of this list of inputs: an image made by
/// another one is never looked at.
pub const FORMAT_VERSION: u32 = 2;

/// The name of an entry: the first half of a fingerprint's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId([u8; 16]);

impl EntryId {
    /// Returns its first bytes: as good as random.
    pub fn mark(&self) -> [u8; 8] {
        let mut mark = [0; 8];
        mark.copy_from_slice(&self.0[..8]);
        mark
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// A text that is no [`EntryId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no entry id: 32 hexadecimal digits")]
pub struct NoEntryId(String);

impl FromStr for EntryId {
    type Err = NoEntryId;

    fn from_str(text: &str) -> Result<Self, NoEntryId> {
        let mut bytes = [0; 16];
        read_hex(text, &mut bytes).ok_or_else(|| NoEntryId(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl Serialize for EntryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One of the things that a fingerprint is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is, for instance `jar /srv/app.jar`.
    pub label: String,
    /// The digest of its value.
    pub digest: Digest,
    /// The value for people, shortened. Values of environment variables are
    /// not shown: they may be secrets.
    pub shown: String,
}

/// The key of a command, here and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The name of the entry.
    pub id: EntryId,
    /// What went into it, in a fixed order.
    pub inputs: Vec<Input>,
}

/// Where in its life a program is captured: what decides what it is by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Point {
    /// When it is ready: all that it was given counts.
    #[default]
    Ready,
    /// A JVM before `main`: only what a JVM reads by itself counts. The rest,
    /// the program's arguments, most of the environment and the working
    /// directory, comes from the caller of each restore. The command's
    /// arguments must be those of a [`JvmLine`].
    Main,
}

impl Point {
    /// Returns its name, as `--at` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Main => "main",
        }
    }
}

/// What the options of a run add to the fingerprint, and take from it.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Where the program is captured.
    pub point: Point,
    /// More files and directories (`--input`), relative to the command's
    /// working directory.
    pub inputs: Vec<PathBuf>,
    /// Environment variables that do not count (`--ignore-env`). `HOSTNAME`
    /// takes out the machine's name as well.
    pub ignore_env: Vec<String>,
    /// Options that decide what is captured, by name: where, after which
    /// probes and warm-ups, with which descriptors.
    pub settings: Vec<(String, String)>,
    /// Files that warmstart itself writes during the run (`--status-file`):
    /// they do not count in a directory on the class path.
    pub outputs: Vec<PathBuf>,
}

/// Why a command has no fingerprint: it can only be started cold.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    /// `execvp` would not find the program, or a script's interpreter.
    #[error("{}: not found", .0.to_string_lossy())]
    NotFound(OsString),
    /// `execvp` would find it, and fail.
    #[error("{}: cannot be executed", path.display())]
    NotExecutable {
        /// The program's path.
        path: PathBuf,
        /// The error of `execve`.
        source: io::Error,
    },
    /// An input cannot be read, or changes all the time.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file's or directory's path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A directory has too many files to look at in each run.
    #[error("{}: more than {max} files", path.display())]
    TooLarge {
        /// The directory's path.
        path: PathBuf,
        /// How many files would have been fine.
        max: usize,
    },
}

impl FingerprintError {
    /// Tells whether a file was not read because it was not to be
    /// ([`Reading`]).
    pub fn is_unread(&self) -> bool {
        let Self::Unreadable { source, .. } = self else { return false };
        source.get_ref().is_some_and(|source| source.is::<Unread>())
    }
}

/// Computes the fingerprint of a command.
///
/// Files are looked at anew in each call. On a hit, with every digest
/// remembered, this takes about 0.2 ms for a JVM with one jar
/// (`benches/fingerprint.rs`); a file that is not remembered is hashed, about
/// 1 ms for each MB.
///
/// # Errors
/// If the program cannot be started at all, or an input cannot be read.
pub fn of(
    command: &Command,
    scope: &Scope,
    host: &Host,
    digests: &mut DigestMemory,
) -> Result<Fingerprint, FingerprintError> {
    digests.refresh();
    let chain = program::Chain::resolve(command)?;
    let mut collector = Collector::new(command, scope, digests);
    collector.text("format of warmstart's images", &FORMAT_VERSION.to_string());
    for program in &chain.programs {
        collector.program(program)?;
    }
    collector.linker(&chain)?;
    let variables = environment::relevant(&command.env, &scope.ignore_env);
    collector.command(command, &variables, scope, host);
    let java = crate::jvm::Home::of(&chain.last().real);
    collector.host(host, scope, java.is_some());
    if let Some(home) = &java {
        java::collect(&mut collector, home, &chain.argv, command, scope.point)?;
    }
    arguments::collect(&mut collector, &command.argv)?;
    if scope.point == Point::Ready {
        arguments::collect_environment(&mut collector, &variables)?;
    }
    for path in &scope.inputs {
        collector.path("input", path)?;
    }
    Ok(collector.finish())
}

/// Returns the program that a command starts in the end, as far as that can be
/// told beforehand: its real path, and its arguments with its own name first.
///
/// # Errors
/// If the program cannot be started at all.
pub fn program_of(command: &Command) -> Result<(PathBuf, Vec<OsString>), FingerprintError> {
    let chain = program::Chain::resolve(command)?;
    Ok((chain.last().real.clone(), chain.argv))
}

/// Returns a name without its directories.
fn base_name(path: &OsStr) -> &OsStr {
    std::path::Path::new(path).file_name().unwrap_or(path)
}

#[cfg(test)]
mod tests;
