//! The cache's directory, as the kernel sees it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Uid, access};

use crate::ui::bytes;

/// The space, in bytes, that the image of a small JVM takes.
const LEN_FREE_MIN: u64 = 30_000_000;

/// A directory that is there or could be made.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Its path; empty if there is nowhere to put it.
    pub path: PathBuf,
    /// It exists.
    pub exists: bool,
    /// Owner and permission bits; those of the nearest ancestor if it does not
    /// exist.
    pub owner: Option<(u32, u32)>,
    /// We may create files in it (or in the nearest ancestor).
    pub writable: bool,
    /// It is something else than a directory.
    pub not_a_directory: bool,
    /// Its file system is mounted `noexec`: code cannot be mapped from it, so
    /// that images are copied.
    pub noexec: bool,
    /// Bytes that we may still use.
    pub free: Option<u64>,
}

impl Directory {
    /// Looks at a path.
    pub fn look(path: PathBuf) -> Self {
        let exists = path.symlink_metadata().is_ok();
        let nearest = path.ancestors().find(|dir| dir.exists()).map(Path::to_path_buf);
        let meta = nearest.as_ref().and_then(|dir| dir.metadata().ok());
        let fs = nearest.as_ref().and_then(|dir| statvfs(dir).ok());
        Self {
            exists,
            owner: meta.as_ref().map(|meta| (meta.uid(), meta.mode() & 0o7777)),
            writable: nearest
                .as_ref()
                .is_some_and(|dir| access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()),
            not_a_directory: meta.is_some_and(|meta| !meta.is_dir()),
            noexec: fs.is_some_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC)),
            free: fs.map(|fs| fs.blocks_available() * fs.fragment_size()),
            path,
        }
    }

    /// Returns what is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        let path = self.path.display();
        let me = Uid::effective().as_raw();
        if self.path.as_os_str().is_empty() {
            return Some("no home directory, no WARMSTART_CACHE_DIR".into());
        }
        if self.not_a_directory {
            return Some(format!("{path} is no directory"));
        }
        if let (true, Some((owner, mode))) = (self.exists, self.owner) {
            if owner != me {
                return Some(format!("{path} belongs to uid {owner}, not to you"));
            }
            if mode & 0o022 != 0 {
                return Some(format!("{path} can be written by others (mode {mode:04o})"));
            }
        }
        if !self.writable {
            return Some(format!("{path} cannot be written"));
        }
        self.free
            .filter(|free| *free < LEN_FREE_MIN)
            .map(|free| format!("{path} has {} free, less than an image takes", bytes(free)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_directory_is_fine_and_so_is_one_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Directory::look(dir.path().to_path_buf()).problem(), None);
        let inner = Directory::look(dir.path().join("a/b"));
        assert!(!inner.exists && inner.writable && inner.free.is_some());
        assert_eq!(inner.problem(), None);
    }

    #[test]
    fn problems_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let problem = Directory::look(open).problem().unwrap();
        assert!(problem.ends_with("can be written by others (mode 0777)"), "{problem}");

        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Directory::look(file).problem().unwrap().ends_with("is no directory"));
        assert!(Directory::look(PathBuf::new()).problem().unwrap().starts_with("no home"));

        let full = Directory { free: Some(5_000_000), ..Directory::look(dir.path().into()) };
        assert!(full.problem().unwrap().ends_with("has 5.0 MB free, less than an image takes"));
    }
}
