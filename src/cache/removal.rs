//! Taking entries away.

use std::cmp::Reverse;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::entry::{is_at, open_directory, read_meta};
use super::meta::EntryMeta;
use super::{Cache, CacheError};
use crate::fingerprint::EntryId;

/// Entries of one command that are kept: an application that is built again
/// and again leaves an entry each time.
const RELATIVES_MAX: usize = 4;
/// How old a plain file in `tmp/` is when its writer must be dead.
const LEFTOVER_AGE: Duration = Duration::from_secs(600);
const SECONDS_PER_DAY: u64 = 86_400;

/// What became of entries that were to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Those that are gone.
    pub removed: Vec<EntryId>,
    /// Those that are in use.
    pub busy: Vec<EntryId>,
    /// The bytes of disk that became free.
    pub len_freed: u64,
}

/// What [`Cache::prune`] leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// All entries together take at most so many bytes.
    pub max_size: Option<u64>,
    /// Every entry was used, or made, in the last so many days.
    pub older_than_days: Option<u64>,
}

impl Cache {
    /// Removes an entry and what is noted about it; one that is in use stays.
    /// Returns the bytes of disk that became free.
    ///
    /// # Errors
    /// [`CacheError::NoSuchEntry`], [`CacheError::Busy`], or an error of the
    /// file system.
    pub fn remove(&self, id: &EntryId) -> Result<u64, CacheError> {
        let dir = self.entry_dir(id);
        let entry = match open_directory(&dir) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // There may still be a note of a refusal.
                return match self.forget(id) {
                    true => Ok(0),
                    false => Err(CacheError::NoSuchEntry(id.to_string())),
                };
            }
            Err(error) => return Err(CacheError::io("open", &dir)(error)),
        };
        match entry.try_lock() {
            Ok(()) if is_at(&entry, &dir) => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Err(CacheError::Busy(*id)),
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &dir)(error)),
        }
        let len = len_on_disk(&dir);
        let aside = self.temporary();
        fs::rename(&dir, &aside).map_err(CacheError::io("remove", &dir))?;
        self.forget(id);
        fs::remove_dir_all(&aside).map_err(CacheError::io("remove", &aside))?;
        Ok(len)
    }

    /// Drops what is noted about an entry; tells whether there was anything.
    fn forget(&self, id: &EntryId) -> bool {
        let remove = |dir| fs::remove_file(self.bucket.join(dir).join(id.to_string())).is_ok();
        let (used, note) = (remove("used"), remove("notes"));
        used || note
    }

    /// Removes several entries; those in use stay.
    ///
    /// # Errors
    /// The first that is not about one entry being in use.
    pub fn remove_all(&self, ids: &[EntryId]) -> Result<Removal, CacheError> {
        let mut removal = Removal::default();
        for id in ids {
            match self.remove(id) {
                Ok(len) => {
                    removal.removed.push(*id);
                    removal.len_freed += len;
                }
                Err(CacheError::Busy(id)) => removal.busy.push(id),
                // Another process was faster.
                Err(CacheError::NoSuchEntry(_)) if ids.len() > 1 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removal)
    }

    /// Removes entries that cannot be read or that were not used for long,
    /// then the least recently used ones until the rest is small enough.
    ///
    /// # Errors
    /// As [`Self::remove_all`].
    pub fn prune(&self, options: &PruneOptions) -> Result<Removal, CacheError> {
        self.sweep();
        let now = seconds(SystemTime::now());
        let mut entries = Vec::new();
        let mut unwanted = Vec::new();
        for id in self.ids()? {
            let dir = self.entry_dir(&id);
            let Ok(decoded) = read_meta(&dir, &id) else {
                unwanted.push(id);
                continue;
            };
            let last_used = self.last_used(&id, decoded.meta.created);
            let age_days = now.saturating_sub(last_used) / SECONDS_PER_DAY;
            if options.older_than_days.is_some_and(|days| age_days >= days) {
                unwanted.push(id);
            } else {
                entries.push((self.last_touched(&id), id, len_on_disk(&dir)));
            }
        }
        if let Some(max) = options.max_size {
            entries.sort_unstable_by_key(|(touched, ..)| Reverse(*touched));
            let mut len = 0u64;
            for (_, id, len_entry) in entries {
                len = len.saturating_add(len_entry);
                if len > max {
                    unwanted.push(id);
                }
            }
        }
        self.remove_all(&unwanted)
    }

    fn last_used(&self, id: &EntryId, created: u64) -> u64 {
        self.usage(id).last_used.unwrap_or(0).max(created)
    }

    /// Returns when an entry was restored or captured last, as exactly as the
    /// file system's clock has it: a script uses many entries in a second.
    fn last_touched(&self, id: &EntryId) -> SystemTime {
        let paths =
            [self.bucket.join("used").join(id.to_string()), self.entry_dir(id).join("meta")];
        let times = paths.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
        times.max().unwrap_or(UNIX_EPOCH)
    }

    /// Removes older entries of the same command, called from the same
    /// directory, beyond a handful.
    pub(super) fn retire_relatives(&self, newest: &EntryMeta) {
        let mut relatives: Vec<(SystemTime, EntryId)> = self
            .ids()
            .unwrap_or_default()
            .into_iter()
            .filter(|id| *id != newest.id)
            .filter_map(|id| {
                let meta = read_meta(&self.entry_dir(&id), &id).ok()?.meta;
                let related = meta.argv == newest.argv && meta.cwd == newest.cwd;
                related.then(|| (self.last_touched(&id), id))
            })
            .collect();
        relatives.sort_unstable_by_key(|(last_used, _)| Reverse(*last_used));
        for (_, id) in relatives.iter().skip(RELATIVES_MAX - 1) {
            let _ = self.remove(id);
        }
    }

    /// Removes what dead processes left in `tmp/`.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(self.tmp()).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if let Ok(directory) = open_directory(&path) {
                // Locked is alive: a Staging, or a removal under way.
                if directory.try_lock().is_ok() {
                    let _ = fs::remove_dir_all(&path);
                }
            } else if is_leftover(&path) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| {
        SystemTime::now().duration_since(modified).is_ok_and(|age| age > LEFTOVER_AGE)
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Adds up the disk blocks of an entry, in bytes: page files may have holes.
pub(super) fn len_on_disk(dir: &Path) -> u64 {
    let mut len = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => len += len_on_disk(&entry.path()),
            Ok(metadata) => len += metadata.blocks() * 512,
            Err(_) => {}
        }
    }
    len
}
