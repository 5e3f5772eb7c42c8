//! An entry in the making.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::super::inner::{self, Inner, Running};
use super::super::named;
use super::super::probing::chain;
use super::super::terminal::{self, Mode};
use super::{NOTIFY_FILE, Notify};
use crate::cache::{AtMain, Cache, NewEntry, Staging};
use crate::command::Command;
use crate::fingerprint::{self, DigestMemory, Fingerprint, Host, Point, Scope, explain};
use crate::snapshot::Snapshot;

/// What a snapshot was taken of.
#[derive(Debug)]
pub enum Origin {
    /// The user's own run, which is ready.
    Run {
        /// What the command was by then.
        running: Running,
        /// Whether it had said READY=1.
        notified: bool,
        /// The mode of its terminal, if it has changed that.
        terminal: Option<Mode>,
    },
    /// A JVM of our own that waits before `main`.
    Main(AtMain),
}

/// An entry in the making; gone when dropped.
#[derive(Debug)]
pub struct Draft {
    pub(super) staging: Staging,
    pub(super) image_dir: PathBuf,
    pub(super) cache: Cache,
    pub(super) command: Command,
    pub(super) scope: Scope,
    pub(super) host: Host,
    pub(super) fingerprint: Fingerprint,
    pub(super) notify: Option<PathBuf>,
    pub(super) point: Point,
    pub(super) began: SystemTime,
}

impl Draft {
    /// Returns the directory for the image.
    pub fn image_dir(&self) -> &Path {
        &self.image_dir
    }

    /// Makes the entry; `captured_at` is no later than the freeze.
    pub fn commit(
        self,
        snapshot: &Snapshot,
        origin: Origin,
        captured_at: SystemTime,
    ) -> Result<(), String> {
        let mut digests = self.cache.digests();
        self.check_inputs(&mut digests)?;
        let Self { command, scope, host, began, .. } = &self;
        let mut at_main = None;
        let mut dependencies = snapshot.dependencies.clone();
        match origin {
            Origin::Run { running, notified, terminal } => {
                if let Some(terminal) = terminal {
                    self.write(terminal::FILE, &terminal)?;
                }
                let named = named::files(&self.image_dir, &running.command, captured_at);
                let mut named = named.map_err(|error| format!("the image: {error}"))?;
                // The status file and what 0, 1 and 2 lead to are written to.
                for output in &scope.outputs {
                    named.remove(&command.cwd.join(output));
                }
                dependencies.extend(named);
                dependencies.sort();
                dependencies.dedup();
                let inner = Inner::record(running, command, scope, host, *began, &mut digests)?;
                if let Some(inner) = inner {
                    self.write(inner::FILE, &inner)?;
                }
                if let Some(path) = self.notify.clone() {
                    self.write(NOTIFY_FILE, &Notify { path, notified })?;
                }
            }
            Origin::Main(it) => at_main = Some(it),
        }
        let new = NewEntry {
            fingerprint: &self.fingerprint,
            command: &self.command,
            dependencies: &dependencies,
            captured_at,
            boot_id: &self.host.boot_id,
            kernel: &self.host.kernel,
            engine: snapshot.engine,
            capture_point: self.point.name(),
            at_main,
            pid: snapshot.pid,
            threads: snapshot.threads,
            len_pages: snapshot.len_pages,
            page_mode: snapshot.page_mode,
            freeze: snapshot.freeze,
        };
        self.staging.commit(&new, &mut digests).map_err(|error| chain(&error))?;
        let _ = self.cache.save_digests(&mut digests);
        Ok(())
    }

    /// Adds a file of our own to the image.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), String> {
        serde_json::to_vec(value)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(self.image_dir.join(name), text))
            .map_err(|error| format!("cannot write {name}: {error}"))
    }

    /// Refuses if an input has changed since the key was computed: the program
    /// may have started from the new one.
    fn check_inputs(&self, digests: &mut DigestMemory) -> Result<(), String> {
        let now = fingerprint::of(&self.command, &self.scope, &self.host, digests)
            .map_err(|error| format!("its inputs changed while it started: {}", chain(&error)))?;
        if now.id == self.fingerprint.id {
            return Ok(());
        }
        let changes = explain(&self.fingerprint.inputs, &now.inputs);
        let first = changes.first().map(ToString::to_string).unwrap_or_default();
        Err(format!("its inputs changed while it started: {first}"))
    }
}
