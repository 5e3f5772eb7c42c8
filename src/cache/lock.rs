//! Who captures a command: two runs that start cold at the same time need not
//! both pay for it.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::entry::is_at;
use super::{Cache, CacheError};
use crate::fingerprint::EntryId;

/// The right to capture one command, until it is dropped or its process ends.
#[derive(Debug)]
pub struct CaptureLock {
    path: PathBuf,
    _file: File,
}

impl Cache {
    /// Takes the right to capture, or returns `None` if another process has
    /// it.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn lock_capture(&self, id: &EntryId) -> Result<Option<CaptureLock>, CacheError> {
        let path = self.bucket.join("locks").join(id.to_string());
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .map_err(CacheError::io("create", &path))?;
            match file.try_lock() {
                // Its last holder may have removed it meanwhile.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Some(CaptureLock { path, _file: file })),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(CacheError::io("lock", &path)(error));
                }
            }
        }
    }
}

impl Drop for CaptureLock {
    fn drop(&mut self) {
        // While it is still locked: nobody else can have it.
        let _ = fs::remove_file(&self.path);
    }
}
