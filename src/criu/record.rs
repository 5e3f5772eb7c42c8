//! What an entry that CRIU restores says beside its image.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Identity;

/// The record's name in the directory of an image.
pub const FILE: &str = "criu.json";

/// The version of the record's layout.
pub const VERSION: u32 = 1;

/// Longer is no record, in bytes.
const LEN_MAX: u64 = 32 << 20;

/// What CRIU needs to be told, and what must be there before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The CRIU that was found good when it was captured.
    pub criu: Identity,
    /// Why the native engine was not taken; `None` if CRIU was asked for.
    pub reason: Option<String>,
    /// The pid of the first process.
    pub pid: i32,
    /// Every pid and tid of the image.
    pub pids: Vec<i32>,
    /// The caller's descriptors that the program gets.
    pub callers: Vec<RawFd>,
    /// Files that are made before a restore.
    pub files: Vec<MadeFile>,
    /// The boot's id.
    pub boot_id: String,
    /// Monotonic and boot time at the dump, in ns.
    pub clocks: (u64, u64),
    /// The length of all page files, in bytes.
    pub len_pages: u64,
    /// Which memory a core dump holds (`core(5)`), of processes that have changed
    /// that, by pid: a JVM does, and CRIU does not look at it.
    #[serde(default)]
    pub coredump_filters: Vec<(i32, u32)>,
}

/// A file that a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFile {
    /// Its path.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its content, if it is made anew even where there is one; `None`: it is
    /// made empty if it is gone.
    pub content: Option<Vec<u8>>,
}

impl MadeFile {
    /// Makes the file; tells whether it was not there before.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self) -> io::Result<bool> {
        if self.content.is_some() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(self.mode).custom_flags(libc::O_NOFOLLOW);
        let mut file = match options.open(&self.path) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && self.content.is_none() =>
            {
                return Ok(false);
            }
            file => file?,
        };
        // Whatever the mask of the caller is.
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        file.write_all(self.content.as_deref().unwrap_or_default())?;
        Ok(true)
    }
}

impl Record {
    /// Writes the record into the directory of an image.
    ///
    /// # Errors
    /// As any writing.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(FILE))?
            .write_all(&text)
    }

    /// Reads the record of an image; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is none of this version.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta if meta.as_ref().is_ok_and(|meta| !meta.is_file() || meta.len() > LEN_MAX) => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            _ => {}
        }
        let record: Self = serde_json::from_slice(&fs::read(&path)?)?;
        if record.version != VERSION {
            return Err(io::Error::other("it is of another version"));
        }
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Record::read(dir.path()), Ok(None)));
        let meta = fs::metadata("/bin/sh").unwrap();
        let record = Record {
            version: VERSION,
            criu: Identity::new(Path::new("/bin/sh"), &meta),
            reason: Some("fd 5 is odd".into()),
            pid: 5,
            pids: vec![5, 6],
            callers: vec![0, 1],
            files: vec![MadeFile { path: "/x".into(), mode: 0o600, content: Some(vec![1, 255]) }],
            boot_id: "b".into(),
            clocks: (u64::MAX, 1),
            len_pages: 4096,
            coredump_filters: vec![(5, 0x7f)],
        };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record.clone()));
        assert!(record.write(dir.path()).is_err(), "it is never written over");
        let path = dir.path().join(FILE);
        let other = fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":2");
        fs::write(&path, other).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap_err().to_string(), "it is of another version");
        fs::write(&path, "{").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }

    #[test]
    fn files_are_made_anew_or_only_if_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let anew = MadeFile { path: path.clone(), mode: 0o600, content: Some(b"ab".to_vec()) };
        fs::write(&path, "longer than that").unwrap();
        assert!(anew.make().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"ab");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let log = MadeFile { mode: 0o644, content: None, ..anew.clone() };
        assert!(!log.make().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"ab");
        fs::remove_file(&path).unwrap();
        assert!(log.make().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"");
        let nowhere = MadeFile { path: dir.path().join("none/x"), ..anew };
        assert!(nowhere.make().is_err());
    }
}
