//! Why a command was not captured, for whoever asks later.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::meta::SCHEMA_VERSION;
use super::{Cache, CacheError, raw};
use crate::command::Command;
use crate::fingerprint::EntryId;

/// Notes that are kept, the newest ones.
const NOTES_MAX: usize = 200;
/// How long a reason may be, in characters.
const LEN_REASON_MAX: usize = 1000;
/// How long a note may be, in bytes: arguments are unbounded.
const LEN_NOTE_MAX: u64 = 1 << 20;

/// Captures in a row that nothing came of, after which no more are made.
const FAILED_MAX: u32 = 2;
/// How long that holds, in seconds: what stood in the way may be gone.
const GIVEN_UP_FOR: u64 = 24 * 60 * 60;

/// Captures in a row whose restore failed the first time already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRestores {
    /// How many.
    pub times: u32,
    /// When the last of them was captured, in seconds since 1970.
    pub captured: u64,
}

impl FailedRestores {
    /// Returns whether another capture is not worth it.
    pub fn is_enough(self) -> bool {
        self.times >= FAILED_MAX
    }
}

/// A command that could not be captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The id that its entry would have had.
    pub id: EntryId,
    /// The command's arguments.
    #[serde(with = "raw::list")]
    pub argv: Vec<OsString>,
    /// Its working directory.
    #[serde(with = "raw::path")]
    pub cwd: PathBuf,
    /// When that was, in seconds since 1970.
    pub time: u64,
    /// Why, in one line.
    pub reason: String,
    /// If it was captured, but could not be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedRestores>,
}

impl Refused {
    /// Returns whether the note only counts: the command is captured still.
    pub fn only_counts(&self) -> bool {
        self.failed.is_some_and(|failed| !failed.is_enough())
    }
}

impl Cache {
    /// Notes why a command was not captured. The note goes when it is
    /// captured after all.
    ///
    /// # Errors
    /// If it cannot be written; it may be ignored.
    pub fn note_refusal(
        &self,
        id: &EntryId,
        command: &Command,
        reason: &str,
    ) -> Result<(), CacheError> {
        self.note(id, command, reason, None)
    }

    /// Counts a failed restore of an entry that was captured at `captured`; one
    /// more of an entry that has failed before does not count.
    pub fn count_failed_restore(&self, id: &EntryId, captured: u64) -> FailedRestores {
        match self.refusal(id).and_then(|note| note.failed) {
            Some(before) if before.captured == captured => before,
            Some(before) => FailedRestores { times: before.times.saturating_add(1), captured },
            None => FailedRestores { times: 1, captured },
        }
    }

    /// Notes that what was captured could not be restored. The note outlives
    /// the next capture; it goes with the first restore that succeeds.
    ///
    /// # Errors
    /// If it cannot be written; it may be ignored.
    pub fn note_failed_restore(
        &self,
        id: &EntryId,
        command: &Command,
        reason: &str,
        failed: FailedRestores,
    ) -> Result<(), CacheError> {
        self.note(id, command, &format!("could not be restored: {reason}"), Some(failed))
    }

    /// Returns why a command is not captured again for now, if so.
    pub fn given_up(&self, id: &EntryId) -> Option<String> {
        let note = self.refusal(id)?;
        let fresh = seconds_now().saturating_sub(note.time) < GIVEN_UP_FOR;
        let enough = note.failed.is_some_and(FailedRestores::is_enough);
        (enough && fresh).then_some(note.reason)
    }

    /// Returns why a command was not captured, if that was tried lately: for
    /// captures that are not by the way.
    pub fn refused_lately(&self, id: &EntryId) -> Option<String> {
        let note = self.refusal(id).filter(|note| !note.only_counts())?;
        let fresh = seconds_now().saturating_sub(note.time) < GIVEN_UP_FOR;
        fresh.then_some(note.reason)
    }

    /// Drops the note about a command that was restored.
    pub fn note_restored(&self, id: &EntryId) {
        let _ = fs::remove_file(self.bucket.join("notes").join(id.to_string()));
    }

    /// Drops the note about a command that was captured, unless it is about
    /// the restores of what was captured before.
    pub(super) fn note_captured(&self, id: &EntryId) {
        if self.refusal(id).is_none_or(|note| note.failed.is_none()) {
            self.note_restored(id);
        }
    }

    fn note(
        &self,
        id: &EntryId,
        command: &Command,
        reason: &str,
        failed: Option<FailedRestores>,
    ) -> Result<(), CacheError> {
        let one_line = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        let refused = Refused {
            schema_version: SCHEMA_VERSION,
            id: *id,
            argv: command.argv.clone(),
            cwd: command.cwd.clone(),
            time: seconds_now(),
            reason: one_line.take(LEN_REASON_MAX).collect(),
            failed,
        };
        let json = serde_json::to_vec(&refused).expect("a note is always valid JSON");
        if json.len() as u64 > LEN_NOTE_MAX {
            return Ok(());
        }
        let dir = self.bucket.join("notes");
        self.write_whole(&dir.join(id.to_string()), &json)?;
        let mut notes = self.refused();
        notes.sort_unstable_by_key(|note| std::cmp::Reverse(note.time));
        for old in notes.iter().skip(NOTES_MAX) {
            let _ = fs::remove_file(dir.join(old.id.to_string()));
        }
        Ok(())
    }

    /// Returns why a command was not captured, if that is noted.
    pub fn refusal(&self, id: &EntryId) -> Option<Refused> {
        let path = self.bucket.join("notes").join(id.to_string());
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > LEN_NOTE_MAX {
            return None;
        }
        let refused: Refused = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (refused.id == *id && refused.schema_version == SCHEMA_VERSION).then_some(refused)
    }

    /// Returns all that is noted.
    pub fn refused(&self) -> Vec<Refused> {
        let entries = fs::read_dir(self.bucket.join("notes")).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|id| self.refusal(&id))
            .collect()
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
