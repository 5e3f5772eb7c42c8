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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let one_line = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        let refused = Refused {
            schema_version: SCHEMA_VERSION,
            id: *id,
            argv: command.argv.clone(),
            cwd: command.cwd.clone(),
            time: now.as_secs(),
            reason: one_line.take(LEN_REASON_MAX).collect(),
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
