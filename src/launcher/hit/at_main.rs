//! What only captures at `main` ask of a key and its entry.

use std::path::PathBuf;

use super::super::probing::chain;
use super::Lookup;
use crate::cache::Staging;
use crate::command::Command;
use crate::fingerprint::JvmLine;

/// How the note begins about an entry that was retired.
const RETIRED: &str = "its image was retired: ";

impl Lookup {
    /// At main: the whole command, and its line.
    pub fn line(&self) -> Option<&(Command, JvmLine)> {
        self.line.as_ref()
    }

    /// Says how warm the entry at main is that was found.
    pub fn tier(&self) -> Option<String> {
        Some(self.entry.as_ref()?.meta().at_main.as_ref()?.tier.line())
    }

    /// Returns where the agent's library is put.
    pub fn agent_dir(&self) -> PathBuf {
        self.cache.agent_dir()
    }

    /// Returns the path of the log of a capture at main.
    pub fn log_path(&self) -> PathBuf {
        self.cache.log_path(&self.fingerprint.id)
    }

    /// Returns the path of that log, if it is there.
    pub fn log(&self) -> Option<PathBuf> {
        self.line.as_ref().map(|_| self.log_path()).filter(|path| path.exists())
    }

    /// Makes a directory for the files of a capture, gone when dropped: in its
    /// image's place, and locked, lest another capture sweeps it away.
    pub fn workspace(&self) -> Result<Staging, String> {
        self.cache.stage().map_err(|error| chain(&error))
    }

    /// Returns why it was not captured lately, if it was tried.
    pub fn refused_lately(&self) -> Option<String> {
        self.cache.refused_lately(&self.fingerprint.id)
    }

    /// Returns how often the entry will have been restored with this time.
    pub fn restores(&self) -> u64 {
        self.cache.usage(&self.fingerprint.id).restores + 1
    }

    /// Retires the entry at main because it did not do what a cold run does.
    pub fn retire(&self, reason: &str) {
        self.remove();
        self.note_refusal(&format!("{RETIRED}{reason}"));
    }

    /// Notes that an entry at main is of a server, as it seems: it is worth a
    /// capture when it is ready.
    pub fn note_server(&self) {
        if self.line.is_some() {
            self.remove();
            self.note_refusal("it ran until it was told to end: to be captured when it is ready");
        }
    }

    /// Returns why the entry at main was retired, if it was.
    pub fn retired(&self) -> Option<String> {
        self.line.as_ref()?;
        self.refused_lately().filter(|reason| reason.starts_with(RETIRED))
    }

    /// Removes the entry; one that is in use stays.
    pub fn remove(&self) {
        let _ = self.cache.remove(&self.fingerprint.id);
    }
}
