//! Entries on disk: images, each under the fingerprint that it is valid for.
//!
//! ```text
//! <cache directory>/            0700, or 0755 at most
//!   CACHEDIR.TAG
//!   v1/                         the bucket of this format version
//!     entries/<id>/meta         what the entry is (meta.rs)
//!     entries/<id>/image/...    what the snapshot wrote, never changed again
//!     tmp/                      entries in the making, and on their way out
//!     digests                   remembered digests (fingerprint)
//!     notes/<id>                why a command was not captured
//!     used/<id>                 one byte for each restore
//!     locks/<id>                held while a command is being captured
//! ```
//!
//! Invariants:
//! - An entry appears by a rename and goes by a rename: whoever opens one sees
//!   all of it. Nothing in it is written to afterwards.
//! - An [`Entry`] holds a shared lock on its directory (`flock(2)`); replacing
//!   or removing takes the exclusive one. Locks end with their process.
//! - What is in `tmp/` and not locked belongs to nobody and is swept away.
//! - An entry is used only after [`Cache::verify`] found each file of it, and
//!   each file that it depends on, as it was at the capture.
//!
//! The cache knows neither engines nor image formats. All paths come from the
//! caller; nothing here reads the environment.

mod check;
mod entry;
mod lock;
mod meta;
mod nearest;
mod notes;
pub(crate) mod raw;
mod removal;
pub mod report;
mod staging;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::geteuid;

pub use check::Stale;
pub use entry::{Entry, Usage};
pub use lock::CaptureLock;
pub use meta::{
    AtMain, Content, Dependency, EntryMeta, ImageFile, SCHEMA_VERSION, Tier, Unusable, Warmth,
};
pub use nearest::Nearest;
pub use notes::Refused;
pub use removal::{PruneOptions, Removal};
pub use staging::{NewEntry, Staging};

use crate::fingerprint::{DigestMemory, EntryId};

/// The bucket's name; it changes with every format that older versions cannot
/// read.
const BUCKET: &str = "v1";
/// What marks a cache for backup programs (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                   # This directory holds snapshots made by warmstart; it may be deleted.\n";

/// Why the cache cannot be used, or a change to it failed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The cache directory, or what is in its place, is another user's.
    #[error("{}: belongs to user {owner}, not to us", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// Others could put their own image in.
    #[error("{}: others may write to it (mode {mode:03o})", path.display())]
    WritableByOthers {
        /// The path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else is in the place of a directory.
    #[error("{}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The cache directory was not given as an absolute path.
    #[error("{}: not an absolute path", .0.display())]
    NotAbsolute(PathBuf),
    /// The disk, or the quota, is full.
    #[error("{}: no space left", .0.display())]
    Full(PathBuf),
    /// The entry is being restored, or replaced by someone else.
    #[error("entry {0} is in use")]
    Busy(EntryId),
    /// No entry has this id.
    #[error("no entry `{0}`")]
    NoSuchEntry(String),
    /// Several entries have ids that begin like this.
    #[error("`{0}` is the beginning of several entries' ids")]
    Ambiguous(String),
    /// The snapshot left something in the image that is no regular file.
    #[error("{}: not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// A file that the image depends on changed since the capture.
    #[error("{}: changed while it was being captured", .0.display())]
    DependencyChanged(PathBuf),
    /// Any other error of the file system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl CacheError {
    /// Makes an error of a failed step; a full disk is told apart.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path),
            _ => Self::Io { action, path, source },
        }
    }
}

/// A cache directory that has been found to be ours alone.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
    bucket: PathBuf,
}

impl Cache {
    /// Opens the cache, creating what is missing.
    ///
    /// A cache on a file system that is read-only now can be opened and
    /// restored from; only writing to it fails, when it is tried.
    ///
    /// # Errors
    /// If the directory cannot be created, is not ours, or others may write to
    /// it.
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        if let Some(cache) = Self::open_existing(dir)? {
            return Ok(cache);
        }
        let create = |path: &Path| {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(CacheError::io("create", path))
        };
        create(dir)?;
        Self::check_directory(dir)?;
        let tag = dir.join("CACHEDIR.TAG");
        let written = File::options().write(true).create_new(true).mode(0o644).open(&tag);
        match written.and_then(|mut file| file.write_all(TAG.as_bytes())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(CacheError::io("write", &tag)(error));
            }
            _ => {}
        }
        let bucket = dir.join(BUCKET);
        for name in ["tmp", "notes", "used", "locks", "entries"] {
            create(&bucket.join(name))?;
        }
        Self::open_existing(dir)?.ok_or(CacheError::NotADirectory(bucket))
    }

    /// Opens the cache if there is one, and writes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(dir: &Path) -> Result<Option<Self>, CacheError> {
        if !dir.is_absolute() {
            return Err(CacheError::NotAbsolute(dir.to_owned()));
        }
        let cache = Self { dir: dir.to_owned(), bucket: dir.join(BUCKET) };
        // The entries' directory is created last: with it, all is there.
        for path in [dir, &cache.bucket, &cache.bucket.join("entries")] {
            match Self::check_directory(path) {
                Ok(()) => {}
                Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(cache))
    }

    /// Refuses a directory that anyone else may have put there or may put
    /// something into. A symbolic link must be ours (or root's) too: in /tmp
    /// anyone can make one.
    fn check_directory(path: &Path) -> Result<(), CacheError> {
        let uid = geteuid().as_raw();
        let owned = |metadata: &fs::Metadata| {
            let owner = metadata.uid();
            let link = metadata.is_symlink() && owner == 0;
            if owner == uid || link {
                Ok(())
            } else {
                Err(CacheError::NotOurs { path: path.to_owned(), owner })
            }
        };
        let mut metadata = fs::symlink_metadata(path).map_err(CacheError::io("look at", path))?;
        owned(&metadata)?;
        if metadata.is_symlink() {
            metadata = fs::metadata(path).map_err(CacheError::io("look at", path))?;
            owned(&metadata)?;
        }
        if !metadata.is_dir() {
            return Err(CacheError::NotADirectory(path.to_owned()));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(CacheError::WritableByOthers { path: path.to_owned(), mode });
        }
        Ok(())
    }

    /// Tells whether there is no entry at all: then a run is a miss whatever
    /// its fingerprint, which can be computed while the program starts.
    pub fn is_empty(&self) -> bool {
        let first = fs::read_dir(self.bucket.join("entries")).map(|mut entries| entries.next());
        matches!(first, Ok(None))
    }

    /// Returns the cache's directory, as it was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of an entry, whether or not there is one.
    fn entry_dir(&self, id: &EntryId) -> PathBuf {
        self.bucket.join("entries").join(id.to_string())
    }

    /// Returns the directory of the agent's library.
    pub fn agent_dir(&self) -> PathBuf {
        self.bucket.join("agent")
    }

    /// Returns the path of the log about an entry that is captured at `main`.
    pub fn log_path(&self, id: &EntryId) -> PathBuf {
        self.bucket.join("logs").join(format!("{id}.log"))
    }

    fn tmp(&self) -> PathBuf {
        self.bucket.join("tmp")
    }

    /// Returns a path in `tmp/` that nobody else has.
    pub fn temporary(&self) -> PathBuf {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ns = now.map_or(0, |since| since.as_nanos());
        self.tmp().join(format!("{}-{now_ns}-{count}", std::process::id()))
    }

    /// Loads the remembered digests.
    pub fn digests(&self) -> DigestMemory {
        DigestMemory::load(&self.bucket.join("digests"))
    }

    /// Writes what has been learned since, if anything. Not on the way to a
    /// restore: nobody waits for it.
    ///
    /// # Errors
    /// If it cannot be written; it may be ignored, the next run only hashes
    /// again.
    pub fn save_digests(&self, digests: &mut DigestMemory) -> Result<(), CacheError> {
        let path = self.bucket.join("digests");
        digests.save(&path, &self.temporary()).map_err(CacheError::io("write", &path))
    }

    /// Writes a small file so that it is there wholly or not at all.
    fn write_whole(&self, path: &Path, content: &[u8]) -> Result<(), CacheError> {
        let temporary = self.temporary();
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            CacheError::io("write", path)(error)
        })
    }
}

#[cfg(test)]
mod tests;
