//! Whether an entry is as it was captured, and what it was captured from too.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::entry::Entry;
use super::meta::{Content, Dependency, ImageFile};
use super::{Cache, CacheError};
use crate::fingerprint::{Digest, DigestMemory, FileIdentity, hash_file};

/// The first thing that is not as it was: a reason to start cold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// A file of the image is not there.
    #[error("{0} is missing from the image")]
    Missing(String),
    /// A file of the image has another length.
    #[error("{name} of the image has {now} bytes, not {then}")]
    OtherSize {
        /// The file's name.
        name: String,
        /// The bytes it had.
        then: u64,
        /// The bytes it has.
        now: u64,
    },
    /// A file of the image has another content.
    #[error("{0} of the image is damaged")]
    Damaged(String),
    /// Something else is in the entry.
    #[error("{0} does not belong to the image")]
    Extra(String),
    /// A file that the image was made from is not there.
    #[error("{} is missing", .0.display())]
    DependencyMissing(PathBuf),
    /// A file that the image was made from is another one now.
    #[error("{} changed", .0.display())]
    DependencyChanged(PathBuf),
    /// Something could not be looked at.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// What it was.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What a check relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A file whose identity is the same has the same content.
    Identities,
    /// Everything is read.
    Nothing,
}

impl Cache {
    /// Checks that every file of an entry, and every file that it depends on,
    /// is as it was at the capture. A file that has not been touched since
    /// costs one `stat`; any other is read.
    ///
    /// # Errors
    /// The first difference.
    pub fn verify(&self, entry: &Entry, digests: &mut DigestMemory) -> Result<(), Stale> {
        check_image(entry, digests, Trust::Identities)?;
        entry
            .meta()
            .dependencies
            .iter()
            .try_for_each(|dependency| check_dependency(dependency, digests, Trust::Identities))
    }

    /// Checks the same by reading everything, whatever is remembered.
    ///
    /// # Errors
    /// The first difference.
    pub fn verify_contents(&self, entry: &Entry) -> Result<(), Stale> {
        let digests = &mut DigestMemory::empty();
        check_image(entry, digests, Trust::Nothing)?;
        entry
            .meta()
            .dependencies
            .iter()
            .try_for_each(|dependency| check_dependency(dependency, digests, Trust::Nothing))
    }
}

impl Entry {
    /// Tells whether a file is the dependency of that path that
    /// [`Cache::verify`], with the same memory, has found unchanged.
    pub fn depends_on(&self, path: &Path, identity: &FileIdentity, digests: &DigestMemory) -> bool {
        let mut dependencies = self.meta().dependencies.iter();
        match dependencies.find(|dependency| dependency.path == path).map(|found| &found.content) {
            Some(Content::File { sha256, identity: recorded, .. }) => {
                recorded.as_ref() == Some(identity)
                    || digests
                        .answered(path)
                        .is_some_and(|known| known.identity == *identity && known.digest == *sha256)
            }
            _ => false,
        }
    }
}

fn check_image(entry: &Entry, digests: &mut DigestMemory, trust: Trust) -> Result<(), Stale> {
    let (files, path) = (&entry.meta().files, entry.image_dir());
    names_are(entry.dir(), ["meta", "image"].into())?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(&path, flags, Mode::empty()).map_err(unreadable(&path))?;
    let known = entry.meta().directory.filter(|_| trust == Trust::Identities);
    let identity = || fstat(&dir).map(|stat| FileIdentity::of_stat(&stat));
    if known.is_none_or(|known| identity() != Ok(known)) {
        names_are(&path, files.iter().map(|file| &file.name[..]).collect())?;
    }
    files.iter().try_for_each(|file| check_file(&path, &dir, file, digests, trust))
}

fn unreadable<E: Into<io::Error>>(path: &Path) -> impl Fn(E) -> Stale {
    |error| Stale::Unreadable { path: path.to_owned(), reason: error.into().to_string() }
}

/// Checks that a directory has exactly these names.
fn names_are(dir: &Path, mut names: HashSet<&str>) -> Result<(), Stale> {
    for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
        let name = entry.map_err(unreadable(dir))?.file_name();
        if !name.to_str().is_some_and(|name| names.remove(name)) {
            return Err(Stale::Extra(name.to_string_lossy().into_owned()));
        }
    }
    match names.into_iter().min() {
        Some(missing) => Err(Stale::Missing(missing.to_owned())),
        None => Ok(()),
    }
}

/// Checks a file of an image, looked up in its open directory: a path from the
/// root is ten names long, and there are dozens of files.
fn check_file(
    path: &Path,
    dir: &OwnedFd,
    file: &ImageFile,
    digests: &mut DigestMemory,
    trust: Trust,
) -> Result<(), Stale> {
    let stat = fstatat(dir, &file.name[..], AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|_| Stale::Missing(file.name.clone()))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Stale::Damaged(file.name.clone()));
    }
    let identity = FileIdentity::of_stat(&stat);
    if identity.size != file.size {
        let name = file.name.clone();
        return Err(Stale::OtherSize { name, then: file.size, now: identity.size });
    }
    if trust == Trust::Identities && file.identity == Some(identity) {
        return Ok(());
    }
    let path = path.join(&file.name);
    match has_content(&path, identity, None, file.sha256, digests, trust) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Stale::Damaged(file.name.clone())),
        Err(error) => Err(Stale::Unreadable { path, reason: error.to_string() }),
    }
}

fn check_dependency(
    dependency: &Dependency,
    digests: &mut DigestMemory,
    trust: Trust,
) -> Result<(), Stale> {
    let path = &dependency.path;
    // The fingerprint has just looked at some of them.
    if let (Trust::Identities, Content::File { sha256, .. }, Some(known)) =
        (trust, &dependency.content, digests.answered(path))
    {
        let same = known.digest == *sha256;
        return if same { Ok(()) } else { Err(Stale::DependencyChanged(path.clone())) };
    }
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Stale::DependencyMissing(path.clone())
        }
        _ => Stale::Unreadable { path: path.clone(), reason: error.to_string() },
    })?;
    let same = match &dependency.content {
        Content::Anything => true,
        Content::Special { kind_bits, device } => (*kind_bits, *device) == special(&metadata),
        Content::File { size, .. } if !metadata.is_file() || metadata.len() != *size => false,
        Content::File { sha256, identity, .. } => {
            let now = FileIdentity::new(&metadata);
            has_content(path, now, *identity, *sha256, digests, trust).map_err(|error| {
                Stale::Unreadable { path: path.clone(), reason: error.to_string() }
            })?
        }
    };
    if same { Ok(()) } else { Err(Stale::DependencyChanged(path.clone())) }
}

/// Tells whether a file has a content, reading it only if it must.
fn has_content(
    path: &Path,
    identity: FileIdentity,
    known: Option<FileIdentity>,
    content: Digest,
    digests: &mut DigestMemory,
    trust: Trust,
) -> io::Result<bool> {
    match trust {
        Trust::Nothing => Ok(hash_file(path)?.digest == content),
        Trust::Identities if known == Some(identity) => Ok(true),
        Trust::Identities => Ok(digests.identified(path, identity)?.digest == content),
    }
}

fn special(metadata: &Metadata) -> (u32, u64) {
    (metadata.mode() & libc::S_IFMT, metadata.rdev())
}

/// Records what a dependency is now.
///
/// `captured_ns` is when the program was frozen, in ns since 1970: a file that
/// was changed later may not be the one that the image was made from.
///
/// # Errors
/// If it changed since, is gone or cannot be read.
pub(super) fn record(
    path: &Path,
    captured_ns: i64,
    digests: &mut DigestMemory,
) -> Result<Dependency, CacheError> {
    let gone = |_| CacheError::DependencyChanged(path.to_owned());
    let metadata = fs::metadata(path).map_err(gone)?;
    let content = if !metadata.is_file() {
        let (kind_bits, device) = special(&metadata);
        match kind_bits {
            libc::S_IFDIR => Content::Anything,
            _ => Content::Special { kind_bits, device },
        }
    } else if path.starts_with("/proc") || path.starts_with("/sys") {
        Content::Anything
    } else {
        let known = digests.file(path).map_err(CacheError::io("read", path))?;
        if known.identity.ctime_ns > captured_ns {
            return Err(CacheError::DependencyChanged(path.to_owned()));
        }
        Content::File {
            size: known.identity.size,
            sha256: known.digest,
            identity: known.settled.then_some(known.identity),
        }
    };
    Ok(Dependency { path: path.to_owned(), content })
}
