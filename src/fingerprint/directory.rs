//! What a directory holds, as one digest.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::digest::{Digest, FileIdentity};
use super::memory::DigestMemory;
use super::{FingerprintError, base_name};

/// Files that a directory may have: more would take longer to look at, in
/// each run, than many a program takes to start.
pub(super) const FILES_MAX: usize = 20_000;
/// Names that are looked at while searching for those.
const NAMES_MAX: usize = 100_000;
/// Directories within one another.
const DEPTH_MAX: usize = 64;
/// Up to here files count by their content, so that an image outlives a
/// checkout that only changes times; a larger tree counts by its files'
/// identities.
const FILES_BY_CONTENT_MAX: usize = 512;
/// Files and bytes of a directory that an argument names: a larger one is
/// data to work on rather than configuration.
const NAMED_FILES_MAX: usize = 256;
const LEN_NAMED_MAX: u64 = 16 << 20;

/// What of a directory counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Everything,
    /// A directory of the class path: all of it but what looks like the
    /// output of a program in its top level (no extension, `.log`, `.out`).
    Classes,
    /// A directory of the class path that the program also works in: classes
    /// and configurations, in directories that can be packages.
    Workplace,
    /// A directory that an argument names: all of it but logs and the like.
    Named,
}

/// The content of a directory.
#[derive(Debug)]
pub(super) struct Listing {
    /// The digest of names and contents.
    pub(super) digest: Digest,
    /// How many files went in.
    pub(super) files: usize,
}

/// Extensions of what a JVM loads from a class path.
const LOADED: [&[u8]; 9] =
    [b"class", b"java", b"jar", b"properties", b"xml", b"yml", b"yaml", b"conf", b"sql"];
/// Extensions of what programs leave in the place they run in.
const LEFT: [&[u8]; 7] = [b"log", b"out", b"err", b"pid", b"lock", b"tmp", b"svg"];

impl Extent {
    fn wants_file(self, relative: &Path) -> bool {
        let extension = relative.extension().map(OsStr::as_bytes);
        let in_top = relative.parent() == Some(Path::new(""));
        match self {
            Self::Everything => true,
            Self::Named => extension.is_none_or(|kind| !LEFT.contains(&kind)),
            Self::Classes if in_top => extension.is_some_and(|kind| !LEFT.contains(&kind)),
            Self::Classes => true,
            Self::Workplace => {
                relative.starts_with("META-INF")
                    || extension.is_some_and(|kind| LOADED.contains(&kind))
            }
        }
    }

    fn wants_directory(self, name: &OsStr) -> bool {
        match self {
            Self::Everything | Self::Classes | Self::Named => true,
            Self::Workplace => name == "META-INF" || (name != "node_modules" && is_package(name)),
        }
    }
}

/// Tells whether a name can be part of a Java package's: an identifier.
fn is_package(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_alphabetic() || matches!(first, '_' | '$'))
        && chars.all(|rest| rest.is_alphanumeric() || matches!(rest, '_' | '$'))
}

/// Lists a directory, following symbolic links. What our own standard streams
/// and `outputs` write to is left out.
pub(super) fn list(
    dir: &Path,
    extent: Extent,
    outputs: &[PathBuf],
    digests: &mut DigestMemory,
) -> Result<Listing, FingerprintError> {
    let files = walk(dir, extent, FILES_MAX, outputs)?;
    digest(dir, files, digests)
}

/// Lists a directory that an argument names; `None` if it has more files or
/// bytes than a configuration.
pub(super) fn list_named(
    dir: &Path,
    outputs: &[PathBuf],
    digests: &mut DigestMemory,
) -> Result<Option<Listing>, FingerprintError> {
    let files = match walk(dir, Extent::Named, NAMED_FILES_MAX, outputs) {
        Ok(files) => files,
        Err(FingerprintError::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let sizes = files.iter().filter_map(|(_, identity)| *identity).map(|identity| identity.size);
    if sizes.fold(0, u64::saturating_add) > LEN_NAMED_MAX {
        return Ok(None);
    }
    digest(dir, files, digests).map(Some)
}

/// A path below a directory, and what the file there is known by; `None` for
/// what is no regular file.
type Found = (PathBuf, Option<FileIdentity>);

fn walk(
    dir: &Path,
    extent: Extent,
    files_max: usize,
    outputs: &[PathBuf],
) -> Result<Vec<Found>, FingerprintError> {
    let written = written(outputs);
    let mut walk = Walk { extent, root: dir, files: Vec::new(), files_max, names: 0, written };
    walk.directory(Path::new(""), &mut Vec::new())?;
    Ok(walk.files)
}

fn digest(
    dir: &Path,
    mut files: Vec<Found>,
    digests: &mut DigestMemory,
) -> Result<Listing, FingerprintError> {
    files.sort_unstable_by(|one, two| one.0.cmp(&two.0));

    let by_content = files.len() <= FILES_BY_CONTENT_MAX;
    let mut sha = Sha256::new_with_prefix([u8::from(by_content)]);
    for (relative, identity) in &files {
        let name = relative.as_os_str().as_bytes();
        sha.update((name.len() as u64).to_le_bytes());
        sha.update(name);
        let path = dir.join(relative);
        match identity {
            None => sha.update(b"special"),
            Some(identity) if by_content => match digests.identified(&path, *identity) {
                Ok(known) => sha.update(known.digest.0),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    sha.update(format!("unreadable {identity:?}"));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => sha.update(b"gone"),
                Err(source) => return Err(FingerprintError::Unreadable { path, source }),
            },
            Some(identity) => {
                digests.saw(&path, *identity);
                sha.update(format!("{identity:?}"));
            }
        }
    }
    Ok(Listing { digest: Digest(sha.finalize().into()), files: files.len() })
}

/// Returns the files that this very run writes, by device and inode.
fn written(outputs: &[PathBuf]) -> HashSet<(u64, u64)> {
    let streams = ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"].map(PathBuf::from);
    let key = |metadata: Metadata| (metadata.dev(), metadata.ino());
    outputs.iter().chain(&streams).filter_map(|path| fs::metadata(path).ok()).map(key).collect()
}

struct Walk<'a> {
    extent: Extent,
    root: &'a Path,
    files: Vec<Found>,
    files_max: usize,
    names: usize,
    written: HashSet<(u64, u64)>,
}

impl Walk<'_> {
    /// Lists a directory; `above` holds those that it lies in, so that links
    /// in a circle end.
    fn directory(
        &mut self,
        relative: &Path,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), FingerprintError> {
        let path = self.root.join(relative);
        let own = fs::metadata(&path).map(|metadata| (metadata.dev(), metadata.ino()));
        let entries = own.and_then(|own| Ok((own, fs::read_dir(&path)?)));
        let (own, entries) = match entries {
            Ok(entries) => entries,
            // Not readable for us is not readable for the program.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
                ) =>
            {
                self.files.push((relative.to_owned(), None));
                return Ok(());
            }
            Err(source) => return Err(FingerprintError::Unreadable { path, source }),
        };
        if above.contains(&own) || above.len() >= DEPTH_MAX {
            return Ok(());
        }
        above.push(own);
        for entry in entries {
            let entry = entry
                .map_err(|source| FingerprintError::Unreadable { path: path.clone(), source })?;
            self.names += 1;
            // Of a few files wanted, not many names are looked at either.
            let names_max = NAMES_MAX.min(self.files_max.saturating_mul(8));
            if self.names > names_max || self.files.len() > self.files_max {
                let max = if self.names > names_max { names_max } else { self.files_max };
                return Err(FingerprintError::TooLarge { path: self.root.to_owned(), max });
            }
            let below = relative.join(entry.file_name());
            // The kind comes with the name: nothing is looked at in vain.
            let kind = entry.file_type().ok();
            let maybe_directory = kind.is_none_or(|kind| kind.is_dir() || kind.is_symlink());
            let wants_file = self.extent.wants_file(&below);
            if !wants_file && !maybe_directory {
                continue;
            }
            let metadata = fs::metadata(self.root.join(&below)).ok();
            if metadata.as_ref().is_some_and(Metadata::is_dir) {
                if self.extent.wants_directory(base_name(below.as_os_str())) {
                    self.directory(&below, above)?;
                }
            } else if wants_file {
                self.file(below, metadata);
            }
        }
        above.pop();
        Ok(())
    }

    fn file(&mut self, relative: PathBuf, metadata: Option<Metadata>) {
        let identity = match metadata {
            Some(metadata) if metadata.is_file() => {
                if self.written.contains(&(metadata.dev(), metadata.ino())) {
                    return;
                }
                Some(FileIdentity::new(&metadata))
            }
            _ => None,
        };
        self.files.push((relative, identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }
        fn digest(&self, extent: Extent) -> Digest {
            self.digest_but(extent, &[])
        }
        fn digest_but(&self, extent: Extent, outputs: &[PathBuf]) -> Digest {
            list(self.0.path(), extent, outputs, &mut DigestMemory::empty()).unwrap().digest
        }
    }

    #[test]
    fn every_change_of_a_file_is_seen() {
        let dir = Dir::new();
        dir.write("a/b.class", "1");
        dir.write("c.json", "2");
        let first = dir.digest(Extent::Everything);
        assert_eq!(dir.digest(Extent::Everything), first);
        dir.write("a/b.class", "3");
        let second = dir.digest(Extent::Everything);
        assert_ne!(second, first);
        let added = dir.write("a/new", "");
        assert_ne!(dir.digest(Extent::Everything), second);
        fs::remove_file(&added).unwrap();
        assert_eq!(dir.digest(Extent::Everything), second);
        fs::rename(dir.0.path().join("c.json"), dir.0.path().join("d.json")).unwrap();
        assert_ne!(dir.digest(Extent::Everything), second);
    }

    #[test]
    fn output_beside_classes_is_no_input() {
        let dir = Dir::new();
        dir.write("Hello.class", "1");
        dir.write("p/data.bin", "1");
        let first = dir.digest(Extent::Classes);
        dir.write("out", "x");
        dir.write("server.log", "x");
        let status = dir.write("status.json", "x");
        assert_eq!(dir.digest_but(Extent::Classes, std::slice::from_ref(&status)), first);
        assert_ne!(dir.digest(Extent::Classes), first);
        fs::remove_file(status).unwrap();
        dir.write("p/data.bin", "2");
        assert_ne!(dir.digest(Extent::Classes), first);
    }

    #[test]
    fn a_workplace_is_its_classes_and_configurations() {
        let dir = Dir::new();
        dir.write("Hello.class", "1");
        dir.write("META-INF/services/x", "1");
        dir.write("app.properties", "1");
        let first = dir.digest(Extent::Workplace);
        for name in [".git/x.xml", "node_modules/a/pom.xml", "a-b/C.class", "result.json", "out"] {
            dir.write(name, "x");
            assert_eq!(dir.digest(Extent::Workplace), first, "{name}");
        }
        for name in ["META-INF/services/x", "p/q/Hello.class", "app.properties", "Hello.class"] {
            let before = dir.digest(Extent::Workplace);
            dir.write(name, "2");
            assert_ne!(dir.digest(Extent::Workplace), before, "{name}");
        }
    }

    #[test]
    fn circles_and_dangling_links_end() {
        let dir = Dir::new();
        dir.write("sub/file", "1");
        std::os::unix::fs::symlink("..", dir.0.path().join("sub/up")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.0.path().join("dangling")).unwrap();
        let first = dir.digest(Extent::Everything);
        dir.write("nowhere", "now here");
        assert_ne!(dir.digest(Extent::Everything), first);
    }

    #[test]
    fn large_trees_count_by_identity_and_huge_ones_are_refused() {
        let dir = Dir::new();
        for number in 0..=FILES_BY_CONTENT_MAX {
            dir.write(&format!("{number}"), "x");
        }
        let first = dir.digest(Extent::Everything);
        assert_eq!(dir.digest(Extent::Everything), first);
        dir.write("7", "yy");
        assert_ne!(dir.digest(Extent::Everything), first);
        for number in 0..=FILES_MAX {
            fs::write(dir.0.path().join(format!("n{number}")), "").unwrap();
        }
        let listed = list(dir.0.path(), Extent::Everything, &[], &mut DigestMemory::empty());
        assert!(matches!(listed, Err(FingerprintError::TooLarge { .. })));
    }
}
