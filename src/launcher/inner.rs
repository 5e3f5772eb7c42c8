//! The program that a command has become: `run.sh` that ends in `exec java …`.
//!
//! A fingerprint follows a command through `#!` and `env`, and can follow it
//! no further: what a shell will start, nobody knows before. At the capture it
//! is known. Such an entry holds the *inner command* and its fingerprint, and
//! is used only as long as that is the same as well; any other entry has no
//! such file and pays nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::probing::chain;
use crate::cache::raw;
use crate::command::Command;
use crate::fingerprint::{self, DigestMemory, EntryId, Host, Input, Scope, explain};

/// The file of an image that holds [`Inner`].
pub const FILE: &str = "inner.json";

/// Variables that name what the program is made from; PATH, for its own name.
const VARIABLES: [&str; 5] =
    ["CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "PATH"];

/// A process, as `proc(5)` shows it.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its program file.
    pub exe: PathBuf,
    /// Its arguments and working directory; of its environment what names
    /// files.
    pub command: Command,
}

impl Running {
    /// Looks at a process.
    ///
    /// # Errors
    /// If it has ended or is not ours.
    pub fn of(pid: i32) -> io::Result<Self> {
        let strings = |name: &str| -> io::Result<Vec<OsString>> {
            let mut bytes = fs::read(format!("/proc/{pid}/{name}"))?;
            if bytes.last() == Some(&0) {
                bytes.pop();
            }
            let strings = bytes.split(|byte| *byte == 0);
            Ok(strings.map(|string| OsString::from_vec(string.to_vec())).collect())
        };
        let exe = fs::read_link(format!("/proc/{pid}/exe"))?;
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"))?;
        let mut env = strings("environ")?;
        env.retain(is_kept);
        Ok(Self { exe, command: Command { argv: strings("cmdline")?, env, cwd } })
    }

    /// Returns the inner command, if this is not what `outer` was seen to
    /// start.
    fn inside(mut self, outer: &Command) -> Option<Command> {
        if let Ok((real, argv)) = fingerprint::program_of(outer) {
            let same = |(seen, now): (&OsString, &OsString)| {
                // The kernel has a script's path as it was typed.
                seen == now || outer.cwd.join(now) == Path::new(seen)
            };
            let is_same = self.command.argv.len() == argv.len()
                && argv.iter().zip(&self.command.argv).skip(1).all(same);
            if is_same && real == self.exe {
                return None;
            }
        }
        // As it was called, so that another `java` further up in PATH counts;
        // but a name may be anything.
        let called = fingerprint::program_of(&self.command);
        if called.map_or(true, |(real, _)| real != self.exe) {
            let exe = self.exe.into_os_string();
            match self.command.argv.first_mut() {
                Some(name) => *name = exe,
                None => self.command.argv.push(exe),
            }
        }
        Some(self.command)
    }
}

fn is_kept(string: &OsString) -> bool {
    let name = string.as_bytes().split(|byte| *byte == b'=').next().map(OsStr::from_bytes);
    VARIABLES.iter().any(|kept| name == Some(OsStr::new(kept))) || fingerprint::names_file(string)
}

/// An inner command and what it was made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inner {
    #[serde(with = "raw::list")]
    argv: Vec<OsString>,
    #[serde(with = "raw::list")]
    env: Vec<OsString>,
    #[serde(with = "raw::path")]
    cwd: PathBuf,
    id: EntryId,
    inputs: Vec<Input>,
}

impl Inner {
    /// Makes the record of what `outer` has become; `None` if it is what its
    /// fingerprint covers anyway.
    ///
    /// `began` is a moment before the program started: it may have read any
    /// version of a file that was changed later.
    ///
    /// # Errors
    /// One line, if an input cannot be read or was changed since `began`.
    pub fn record(
        running: Running,
        outer: &Command,
        scope: &Scope,
        host: &Host,
        began: SystemTime,
        digests: &mut DigestMemory,
    ) -> Result<Option<Self>, String> {
        let Some(command) = running.inside(outer) else { return Ok(None) };
        let fingerprint = fingerprint::of(&command, &scope_of(scope), host, digests)
            .map_err(|error| format!("the program that it started: {}", chain(&error)))?;
        let since_1970 = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_ns = i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX);
        if let Some((path, _)) = digests.newest().filter(|(_, ctime_ns)| *ctime_ns > began_ns) {
            return Err(format!("{} changed while it started", path.display()));
        }
        let Command { argv, env, cwd } = command;
        Ok(Some(Self { argv, env, cwd, id: fingerprint.id, inputs: fingerprint.inputs }))
    }

    /// Checks that everything it was made from is unchanged.
    ///
    /// # Errors
    /// The first difference, in one line.
    pub fn check(
        &self,
        scope: &Scope,
        host: &Host,
        digests: &mut DigestMemory,
    ) -> Result<(), String> {
        let Self { argv, env, cwd, id, inputs } = self;
        let command = Command { argv: argv.clone(), env: env.clone(), cwd: cwd.clone() };
        let now = fingerprint::of(&command, &scope_of(scope), host, digests)
            .map_err(|error| chain(&error))?;
        if now.id == *id {
            return Ok(());
        }
        let changes = explain(inputs, &now.inputs);
        Err(changes.first().map_or_else(|| "its program changed".to_owned(), ToString::to_string))
    }
}

/// Returns what of a scope is not in the outer fingerprint already.
fn scope_of(scope: &Scope) -> Scope {
    let Scope { ignore_env, outputs, .. } = scope.clone();
    Scope { ignore_env, outputs, ..Scope::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn command(argv: &[&str], cwd: &Path) -> Command {
        Command {
            argv: argv.iter().map(OsString::from).collect(),
            env: vec!["PATH=/usr/bin:/bin".into(), "SECRET=1".into()],
            cwd: cwd.to_owned(),
        }
    }

    /// Starts a command, and looks at it once it runs `sleep`.
    fn run(command: &Command) -> Running {
        let mut child = std::process::Command::new(&command.argv[0])
            .args(&command.argv[1..])
            .env_clear()
            .envs(command.env.iter().map(|string| {
                let (name, value) = string.to_str().unwrap().split_once('=').unwrap();
                (name.to_owned(), value.to_owned())
            }))
            .current_dir(&command.cwd)
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let sleep = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            argv.starts_with(b"sleep\0").then(|| Running::of(pid).unwrap())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        sleep.unwrap()
    }

    #[test]
    fn what_a_shell_becomes_is_known_by_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("app.cfg");
        fs::write(&config, "1").unwrap();
        // `sleep` takes several words, and the file's name is one of the
        // environment that the script sets.
        let script = format!("export CONF={}; exec sleep 60", config.display());
        let outer = command(&["/bin/sh", "-c", &script], dir.path());
        let running = run(&outer);
        assert!(!running.command.env.contains(&"SECRET=1".into()));

        let (scope, host) = (Scope::default(), Host::current());
        let digests = &mut DigestMemory::empty();
        let mut record =
            |began| Inner::record(running.clone(), &outer, &scope, &host, began, &mut *digests);
        let refused = record(UNIX_EPOCH).unwrap_err();
        assert!(refused.ends_with("changed while it started"), "{refused}");
        let inner = record(SystemTime::now() + Duration::from_secs(1)).unwrap().unwrap();
        assert_eq!(inner.argv, ["sleep", "60"]);
        let text = serde_json::to_vec(&inner).unwrap();
        let inner: Inner = serde_json::from_slice(&text).unwrap();
        assert_eq!(inner.check(&scope, &host, digests), Ok(()));
        fs::write(&config, "2").unwrap();
        let changed = format!("file {} changed", config.display());
        assert_eq!(inner.check(&scope, &host, digests), Err(changed));
        fs::write(&config, "1").unwrap();
        assert_eq!(inner.check(&scope, &host, digests), Ok(()));
    }

    #[test]
    fn a_command_that_is_what_it_says_has_no_other_inside() {
        let outer = command(&["sleep", "60"], Path::new("/"));
        let running = run(&outer);
        assert_eq!(running.clone().inside(&outer), None);
        let by_env = command(&["/usr/bin/env", "sleep", "60"], Path::new("/"));
        assert_eq!(running.clone().inside(&by_env), None);
        let other = command(&["sleep", "61"], Path::new("/"));
        assert!(running.inside(&other).is_some());
    }
}
