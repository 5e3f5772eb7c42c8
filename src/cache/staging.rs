//! Making an entry: written in `tmp/`, then renamed into place.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::entry::{Entry, open_directory};
use super::meta::{self, AtMain, EntryMeta, ImageFile, SCHEMA_VERSION};
use super::{Cache, CacheError, check};
use crate::command::Command;
use crate::fingerprint::{DigestMemory, FileIdentity, Fingerprint, hash_file, now_ns};

/// How old a file of ours must be, in ns, before its identity is taken for its
/// content. Nobody but us writes to it, and the kernel's coarse clock ticks
/// every 10 ms at worst (CONFIG_HZ=100).
const SETTLED_NS: i64 = 25_000_000;
/// How long a commit waits for those who are restoring the entry it replaces;
/// a restore takes some milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
/// New directories that a sweep took away at once, at most.
const TRIES_MAX: u32 = 16;

/// What a capture has to say about its entry.
#[derive(Debug, Clone)]
pub struct NewEntry<'a> {
    /// The key, computed before the program was started.
    pub fingerprint: &'a Fingerprint,
    /// The command.
    pub command: &'a Command,
    /// What the image was made from.
    pub dependencies: &'a [PathBuf],
    /// When the program was frozen.
    pub captured_at: SystemTime,
    /// The present boot.
    pub boot_id: &'a str,
    /// The kernel, as `Host` has it.
    pub kernel: &'a str,
    /// `native` or `criu`.
    pub engine: &'a str,
    /// `ready` or `main`.
    pub capture_point: &'a str,
    /// What it is restored with, if it was captured at `main`.
    pub at_main: Option<AtMain>,
    /// The program's pid.
    pub pid: i32,
    /// The number of its threads.
    pub threads: usize,
    /// The length of its page file, in bytes.
    pub len_pages: u64,
    /// `mapped` or `copied`.
    pub page_mode: &'a str,
    /// How long the program stood still.
    pub freeze: Duration,
}

/// An entry in the making; what is not committed is gone when it is dropped.
#[derive(Debug)]
pub struct Staging {
    cache: Cache,
    dir: PathBuf,
    /// Held exclusively: says that `dir` belongs to a process that lives.
    lock: Option<File>,
}

impl Cache {
    /// Makes a place for a new entry, and sweeps up what dead processes left
    /// behind.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn stage(&self) -> Result<Staging, CacheError> {
        self.sweep();
        let create = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        let mut tries = 0;
        loop {
            let dir = self.temporary();
            create(&dir).map_err(CacheError::io("create", &dir))?;
            // Until it is locked, another process's sweep may take it away.
            let lock = open_directory(&dir).ok().filter(|lock| lock.try_lock().is_ok());
            if let Some(lock) = lock
                && create(&dir.join("image")).is_ok()
            {
                return Ok(Staging { cache: self.clone(), dir, lock: Some(lock) });
            }
            tries += 1;
            if tries == TRIES_MAX {
                let image = dir.join("image");
                let created = create(&image).map_err(CacheError::io("create", &image));
                let _ = fs::remove_dir_all(&dir);
                created?;
                let unsupported = io::Error::from(io::ErrorKind::Unsupported);
                return Err(CacheError::io("lock", &dir)(unsupported));
            }
        }
    }
}

impl Staging {
    /// Returns the directory, empty and owner-only, that the image is to be
    /// written to.
    pub fn image_dir(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Makes an entry of what is in the image's directory, in place of the one
    /// that has the same id. Every file is hashed, so this is best done where
    /// nobody waits.
    ///
    /// # Errors
    /// If a file of the image or a dependency cannot be read or has changed,
    /// the disk is full, or the old entry is in use. Nothing is left behind.
    pub fn commit(
        mut self,
        new: &NewEntry<'_>,
        digests: &mut DigestMemory,
    ) -> Result<Entry, CacheError> {
        let id = new.fingerprint.id;
        digests.refresh();
        let since_1970 = new.captured_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let captured_ns = i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX);
        let dependencies = new
            .dependencies
            .iter()
            .map(|path| check::record(path, captured_ns, digests))
            .collect::<Result<Vec<_>, _>>()?;
        let (directory, files) = image_files(&self.image_dir())?;
        let meta = EntryMeta {
            schema_version: SCHEMA_VERSION,
            id,
            argv: new.command.argv.clone(),
            cwd: new.command.cwd.clone(),
            created: since_1970.as_secs(),
            boot_id: new.boot_id.to_owned(),
            kernel: new.kernel.to_owned(),
            engine: new.engine.to_owned(),
            capture_point: new.capture_point.to_owned(),
            at_main: new.at_main.clone(),
            pid: new.pid,
            threads: new.threads,
            len_pages: new.len_pages,
            page_mode: new.page_mode.to_owned(),
            freeze_ms: new.freeze.as_micros() as f64 / 1000.0,
            warmstart: env!("CARGO_PKG_VERSION").to_owned(),
            directory,
            files,
            dependencies,
        };
        let path = self.dir.join("meta");
        let written =
            File::options().write(true).create_new(true).mode(0o600).open(&path).and_then(
                |mut file| {
                    file.write_all(&meta::encode(&meta, &new.fingerprint.inputs))?;
                    file.sync_all()
                },
            );
        written.map_err(CacheError::io("write", &path))?;
        sync(&self.dir)?;
        self.publish(&meta)
    }

    /// Renames the finished entry into place.
    fn publish(&mut self, meta: &EntryMeta) -> Result<Entry, CacheError> {
        let place = self.cache.entry_dir(&meta.id);
        let began = Instant::now();
        loop {
            // Onto an entry, a plain rename fails: it is not empty.
            match fs::rename(&self.dir, &place) {
                Ok(()) => break,
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(CacheError::io("create", &place)(error)),
            }
            let old = match open_directory(&place) {
                Ok(old) => old,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Not a directory, so not ours: out of the way.
                Err(_) => {
                    fs::remove_file(&place).map_err(CacheError::io("remove", &place))?;
                    continue;
                }
            };
            if old.try_lock().is_err() {
                if began.elapsed() > WAIT_MAX {
                    return Err(CacheError::Busy(meta.id));
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            if !super::entry::is_at(&old, &place) {
                continue;
            }
            let aside = exchange(&self.dir, &place, &self.cache)
                .map_err(CacheError::io("replace", &place))?;
            let _ = fs::remove_dir_all(aside);
            break;
        }
        // From here on the directory is the entry's; the exclusive lock goes
        // and readers may come in.
        let lock = self.lock.take().filter(|lock| lock.unlock().is_ok());
        let entries = self.cache.bucket.join("entries");
        sync(&entries)?;
        self.cache.note_captured(&meta.id);
        self.cache.retire_relatives(meta);
        let lock = lock.filter(|lock| lock.try_lock_shared().is_ok());
        let lock = lock.ok_or(CacheError::Busy(meta.id))?;
        Entry::new(meta.id, place, lock).map_err(|_| CacheError::Busy(meta.id))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR | libc::EISDIR)
    )
}

/// Puts a new directory in the place of an old one, and returns where the old
/// one is now. At once where the file system can (`renameat2(2)`,
/// RENAME_EXCHANGE); elsewhere there is no entry for a moment.
fn exchange(new: &Path, place: &Path, cache: &Cache) -> io::Result<PathBuf> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    match renameat2(AT_FDCWD, new, AT_FDCWD, place, flags) {
        Ok(()) => Ok(new.to_owned()),
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {
            let aside = cache.temporary();
            fs::rename(place, &aside)?;
            fs::rename(new, place)?;
            Ok(aside)
        }
        Err(error) => Err(error.into()),
    }
}

fn sync(dir: &Path) -> Result<(), CacheError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(CacheError::io("sync", dir))
}

/// Hashes and syncs what the snapshot wrote; returns its directory's identity
/// as well.
fn image_files(dir: &Path) -> Result<(Option<FileIdentity>, Vec<ImageFile>), CacheError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(CacheError::io("read", dir))?;
    paths.sort_unstable();
    for path in &paths {
        let metadata = fs::symlink_metadata(path).map_err(CacheError::io("read", path))?;
        if !metadata.is_file() {
            return Err(CacheError::NotAFile(path.clone()));
        }
        // Before it is hashed: this moves the ctime too.
        if metadata.permissions().mode() & 0o777 != 0o600 {
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .map_err(CacheError::io("protect", path))?;
        }
        // Delayed allocation and write-back may touch the times once more.
        File::open(path).and_then(|file| file.sync_all()).map_err(CacheError::io("sync", path))?;
    }
    sync(dir)?;
    std::thread::sleep(Duration::from_nanos(SETTLED_NS as u64));
    let metadata = fs::metadata(dir).map_err(CacheError::io("read", dir))?;
    let directory = settled(FileIdentity::new(&metadata), now_ns());
    let files = paths.iter().map(|path| image_file(path)).collect::<Result<_, _>>()?;
    Ok((directory, files))
}

/// Returns an identity that vouches for what was read after `began_ns`, or
/// none if the last change is too near for that.
fn settled(identity: FileIdentity, began_ns: i64) -> Option<FileIdentity> {
    // A whole second is what a file system with a coarse clock writes.
    let is_fine = identity.ctime_ns % 1_000_000_000 != 0;
    let age_ns = began_ns.saturating_sub(identity.ctime_ns);
    (is_fine && age_ns >= SETTLED_NS).then_some(identity)
}

fn image_file(path: &Path) -> Result<ImageFile, CacheError> {
    let hashed = hash_file(path).map_err(CacheError::io("read", path))?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| CacheError::NotAFile(path.to_owned()))?.to_owned();
    Ok(ImageFile {
        name,
        size: hashed.identity.size,
        sha256: hashed.digest,
        identity: settled(hashed.identity, hashed.began_ns),
    })
}
