//! A copy of a directory in which a program may write, made anew for each run,
//! always under the same name: programs print it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What is copied, at most: a directory that holds more is not one to work in.
const FILES_MAX: usize = 50_000;
const LEN_MAX: u64 = 1 << 30;

/// The copy; gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    source: PathBuf,
    path: PathBuf,
}

/// What a directory holds, by the paths in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeDigest(BTreeMap<PathBuf, [u8; 32]>);

impl Scratch {
    /// Prepares to copy `source` to `path`, which must not exist.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn new(source: &Path, path: &Path) -> io::Result<Self> {
        let source = fs::canonicalize(source)?;
        if !source.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if path.starts_with(&source) {
            return Err(io::Error::other("the cache is in it"));
        }
        Ok(Self { source, path: path.to_owned() })
    }

    /// Returns the copy's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the copy anew.
    ///
    /// # Errors
    /// If something cannot be copied, or is too much.
    pub fn renew(&mut self) -> io::Result<()> {
        remove(&self.path)?;
        let mut left = (FILES_MAX, LEN_MAX);
        copy(&self.source, &self.path, &mut left)
    }

    /// Looks at what the directory holds now. What cannot be read is not
    /// there.
    pub fn digest(&self) -> TreeDigest {
        let mut digests = BTreeMap::new();
        let mut waiting = vec![self.path.clone()];
        while let Some(path) = waiting.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let content = if metadata.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
                waiting.extend(entries.map(|entry| entry.path()));
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path)
                    .map(|to| to.as_os_str().as_bytes().to_vec())
                    .unwrap_or_default()
            } else if metadata.is_file() {
                fs::read(&path).unwrap_or_default()
            } else {
                Vec::new()
            };
            let sha = Sha256::new()
                .chain_update(metadata.permissions().mode().to_le_bytes())
                .chain_update(content);
            let relative = path.strip_prefix(&self.path).unwrap_or(&path).to_owned();
            digests.insert(relative, sha.finalize().into());
        }
        TreeDigest(digests)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

impl TreeDigest {
    /// Returns a path that is not the same in both.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let paths = self.0.keys().chain(other.0.keys());
        let differs = paths.into_iter().find(|path| self.0.get(*path) != other.0.get(*path))?;
        Some(differs.display().to_string())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path, left: &mut (usize, u64)) -> io::Result<()> {
    let (files, len) = left;
    let metadata = fs::symlink_metadata(from)?;
    let size = if metadata.is_file() { metadata.len() } else { 0 };
    match (files.checked_sub(1), len.checked_sub(size)) {
        (Some(files), Some(len)) => *left = (files, len),
        _ => return Err(io::Error::other("there is too much in it")),
    }
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), left)?;
        }
        fs::set_permissions(to, metadata.permissions())
    } else if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if metadata.is_file() {
        fs::copy(from, to).map(drop)
    } else {
        // A socket or a FIFO says nothing to a program that starts.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_anew_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/file"), "1").unwrap();
        symlink("file", source.join("sub/link")).unwrap();
        let path = dir.path().join("copy");
        let mut scratch = Scratch::new(&source, &path).unwrap();
        scratch.renew().unwrap();
        let first = scratch.digest();
        assert_eq!(fs::read_to_string(path.join("sub/link")).unwrap(), "1");
        fs::write(path.join("sub/file"), "2").unwrap();
        fs::write(path.join("new"), "").unwrap();
        assert_eq!(first.difference(&scratch.digest()).unwrap(), "sub/file");
        scratch.renew().unwrap();
        assert_eq!(first.difference(&scratch.digest()), None);
        assert_eq!(fs::read_to_string(source.join("sub/file")).unwrap(), "1");
        drop(scratch);
        assert!(!path.exists());
        assert!(Scratch::new(&source.join("sub/file"), &path).is_err());
        assert!(Scratch::new(&source, &source.join("x")).is_err());
    }
}
