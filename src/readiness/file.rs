//! `file:PATH`: the program has made a file.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Tells whether a file exists and changed after a moment.
///
/// The time of the last change to the inode (`st_ctim`, `inode(7)`) is what
/// counts, not that of its content: it covers the content's, and also a file
/// that was prepared earlier and moved into place. For a symbolic link either
/// the link or what it points to may be new.
pub(super) fn is_newer(path: &Path, than: SystemTime) -> bool {
    let Ok(file) = fs::metadata(path) else { return false };
    changed(&file) >= than || fs::symlink_metadata(path).is_ok_and(|link| changed(&link) >= than)
}

/// Returns when an inode changed last.
fn changed(metadata: &Metadata) -> SystemTime {
    match (u64::try_from(metadata.ctime()), u32::try_from(metadata.ctime_nsec())) {
        (Ok(s), Ok(ns)) => SystemTime::UNIX_EPOCH + Duration::new(s, ns),
        _ => SystemTime::UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::Started;

    #[test]
    fn only_a_file_changed_since_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        assert!(!is_newer(&path, SystemTime::UNIX_EPOCH));
        fs::write(&path, "").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert!(!is_newer(&path, Started::now().wall));
        let start = Started::now().wall;
        fs::write(&path, "again").unwrap();
        assert!(is_newer(&path, start));
    }

    #[test]
    fn a_file_moved_into_place_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (early, path) = (dir.path().join("early"), dir.path().join("ready"));
        fs::write(&early, "").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let start = Started::now().wall;
        fs::rename(&early, &path).unwrap();
        assert!(is_newer(&path, start));
    }

    #[test]
    fn a_new_link_to_an_old_file_counts_and_a_dangling_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        fs::write(&old, "").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let start = Started::now().wall;
        let (link, dangling) = (dir.path().join("link"), dir.path().join("dangling"));
        std::os::unix::fs::symlink(&old, &link).unwrap();
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(is_newer(&link, start));
        assert!(!is_newer(&dangling, start));
    }
}
