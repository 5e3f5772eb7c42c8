//! Finding an entry, and holding on to it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::meta::{self, Decoded, EntryMeta, LEN_META_MAX, Unusable};
use super::{Cache, CacheError};
use crate::fingerprint::{EntryId, Input};

/// How often an entry that is just being replaced is asked for again.
const TRIES_MAX: u32 = 10;
/// How long between two tries: a replacement is two system calls.
const PAUSE: Duration = Duration::from_micros(200);

/// How often and when an entry was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The number of restores.
    pub restores: u64,
    /// The last one, in seconds since 1970; `None` if there was none.
    pub last_used: Option<u64>,
}

/// An entry that stays as it is while this value lives: nobody replaces or
/// removes it. Drop it when the restore is done.
#[derive(Debug)]
pub struct Entry {
    id: EntryId,
    dir: PathBuf,
    decoded: Decoded,
    _lock: File,
}

impl Entry {
    pub(super) fn new(id: EntryId, dir: PathBuf, lock: File) -> Result<Self, Unusable> {
        let decoded = read_meta(&dir, &id)?;
        Ok(Self { id, dir, decoded, _lock: lock })
    }

    /// Returns the entry's id.
    pub fn id(&self) -> &EntryId {
        &self.id
    }

    /// Returns the entry's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of its image.
    pub fn image_dir(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Returns what the entry is.
    pub fn meta(&self) -> &EntryMeta {
        &self.decoded.meta
    }

    /// Returns the inputs of its fingerprint.
    ///
    /// # Errors
    /// If they cannot be decoded.
    pub fn inputs(&self) -> Result<Vec<Input>, Unusable> {
        self.decoded.inputs()
    }
}

/// Reads and checks the metadata in an entry's directory.
pub(super) fn read_meta(dir: &Path, id: &EntryId) -> Result<Decoded, Unusable> {
    let path = dir.join("meta");
    let read = || -> io::Result<Vec<u8>> {
        // A FIFO in its place is not waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = File::options().read(true).custom_flags(flags).open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > LEN_META_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Unusable::Damaged,
        _ => Unusable::Io { path: path.clone(), source },
    })?;
    let decoded = meta::decode(bytes)?;
    if decoded.meta.id != *id {
        return Err(Unusable::Misplaced);
    }
    Ok(decoded)
}

/// Opens a directory that is not a symbolic link.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

/// Tells whether an open directory is still the one at this path.
pub(super) fn is_at(directory: &File, path: &Path) -> bool {
    let key = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (directory.metadata().map(key), fs::symlink_metadata(path).map(key)) {
        (Ok(open), Ok(there)) => open == there,
        _ => false,
    }
}

impl Cache {
    /// Finds the entry of an id and takes hold of it; [`Self::verify`] then
    /// says whether it may be used.
    ///
    /// # Errors
    /// If there is one that cannot be used; it should be replaced.
    pub fn lookup(&self, id: &EntryId) -> Result<Option<Entry>, Unusable> {
        let dir = self.entry_dir(id);
        let failed = |source| Unusable::Io { path: dir.clone(), source };
        for _ in 0..TRIES_MAX {
            let lock = match open_directory(&dir) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // A file or a link in its place.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                    return Err(Unusable::Damaged);
                }
                Err(error) => return Err(failed(error)),
            };
            match lock.try_lock_shared() {
                Ok(()) if is_at(&lock, &dir) => return Entry::new(*id, dir, lock).map(Some),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        // It is on its way out.
        Ok(None)
    }

    /// Counts a restore. To be called when the program runs; errors do not
    /// matter to anyone.
    pub fn note_use(&self, id: &EntryId) {
        let path = self.bucket.join("used").join(id.to_string());
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file =
            File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
        let _ = file.and_then(|mut file| file.write_all(b"."));
    }

    /// Returns how often an entry was restored, and when.
    pub fn usage(&self, id: &EntryId) -> Usage {
        match fs::metadata(self.bucket.join("used").join(id.to_string())) {
            Ok(metadata) => {
                Usage { restores: metadata.len(), last_used: u64::try_from(metadata.mtime()).ok() }
            }
            Err(_) => Usage::default(),
        }
    }

    /// Returns the ids of all entries, sorted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn ids(&self) -> Result<Vec<EntryId>, CacheError> {
        let dir = self.bucket.join("entries");
        let entries = fs::read_dir(&dir).map_err(CacheError::io("read", &dir))?;
        let mut ids: Vec<EntryId> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Finds the one entry whose id begins like this.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve(&self, prefix: &str) -> Result<EntryId, CacheError> {
        let mut found = self.ids()?.into_iter().filter(|id| id.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(CacheError::Ambiguous(prefix.to_owned())),
            (None, _) => Err(CacheError::NoSuchEntry(prefix.to_owned())),
        }
    }
}
