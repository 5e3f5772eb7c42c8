//! Which pids an ordinary user may choose with the binary's capability.
//!
//! Root may choose any pid without us, and in a pid namespace of one's own
//! pids are nobody else's. What is limited is the one case in which our file
//! capability lends a user the right to choose pids among everybody's: to the
//! range that root has written into [`PATH`] (`warmstart setup`), or to
//! [`PidRange::DEFAULT`] if there is no such file. A file that root did not
//! write, or that cannot be understood, is never a wider range: the
//! capability is then not used at all.
//!
//! Called before the first process of a restore is made, with every pid that
//! it will ask for ([`check`]). Nothing of it depends on the environment.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::cursor;
use crate::privilege;

/// The file that holds the range; its directory is root's alone as well.
pub const PATH: &str = "/etc/warmstart/pids.conf";
/// One more than the highest pid of any Linux (`PID_MAX_LIMIT`, `proc(5)`).
const PID_LIMIT: i32 = 1 << 22;
/// Longer is no range.
const LEN_MAX: u64 = 4096;

/// Pids from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidRange {
    min: i32,
    max: i32,
}

impl PidRange {
    /// What holds without a file: what lies below is where the services of a
    /// machine are that started with it.
    pub const DEFAULT: Self = Self { min: 1000, max: PID_LIMIT - 1 };

    /// Makes a range; `None` if it is empty or not of pids. Pid 1 is never
    /// anybody's to choose.
    pub fn new(min: i32, max: i32) -> Option<Self> {
        (2 <= min && min <= max && max < PID_LIMIT).then_some(Self { min, max })
    }

    /// Tells whether a pid is in the range.
    pub fn contains(&self, pid: i32) -> bool {
        (self.min..=self.max).contains(&pid)
    }

    /// Returns the range less what this machine does not have.
    fn here(self) -> Self {
        self.below(cursor::pid_max().unwrap_or(PID_LIMIT))
    }

    fn below(self, pid_max: i32) -> Self {
        Self { max: self.max.min(pid_max - 1).max(self.min), ..self }
    }

    /// Returns the text of a file that says so.
    pub fn to_file(&self) -> String {
        format!("min = {}\nmax = {}\n", self.min, self.max)
    }

    /// Reads the text of a file: `min = N` and `max = N`, each once; `#`
    /// begins a comment. The error says which line is wrong.
    pub fn from_file(text: &str) -> Result<Self, String> {
        let (mut min, mut max) = (None, None);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = || format!("line {number} is not `min = N` or `max = N`");
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            let place = match key.trim() {
                "min" => &mut min,
                "max" => &mut max,
                _ => return Err(wrong()),
            };
            let value = digits(value.trim()).ok_or_else(wrong)?;
            if place.replace(value).is_some() {
                return Err(format!("line {number} says it again"));
            }
        }
        match (min, max) {
            (Some(min), Some(max)) => {
                Self::new(min, max).ok_or_else(|| format!("{min}-{max} is no range of pids"))
            }
            (None, _) => Err("it has no min".into()),
            (_, None) => Err("it has no max".into()),
        }
    }
}

/// Reads a number that is nothing but digits.
fn digits(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for PidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl FromStr for PidRange {
    type Err = String;

    /// Reads `MIN-MAX`.
    fn from_str(text: &str) -> Result<Self, String> {
        let range =
            text.split_once('-').and_then(|(min, max)| Self::new(digits(min)?, digits(max)?));
        range.ok_or_else(|| format!("write MIN-MAX, two pids from 2 to {}", PID_LIMIT - 1))
    }
}

/// Why pids may not be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// One of them is not in the range.
    #[error("pid {pid} is outside {range}, which {} permits", source_of(.by.as_deref()))]
    Outside {
        /// The pid.
        pid: i32,
        /// The range, as far as this machine has such pids.
        range: PidRange,
        /// The file that says so; `None`: the default.
        by: Option<PathBuf>,
    },
    /// The file or its directory is not root's alone.
    #[error("no pids may be chosen: {} {why}", path.display())]
    Untrusted {
        /// Which of the two.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file does not hold a range.
    #[error("no pids may be chosen: {}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn source_of(file: Option<&Path>) -> String {
    file.map_or_else(|| "the default".to_owned(), |path| path.display().to_string())
}

/// A range, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    /// The range.
    pub range: PidRange,
    /// The file; `None`: the default.
    pub by: Option<PathBuf>,
}

impl Permitted {
    /// Returns the pids of the range, as far as this machine has them.
    pub fn here(&self) -> RangeInclusive<i32> {
        let PidRange { min, max } = self.range.here();
        min..=max
    }
}

/// Checks pids that are to be chosen in the pid namespace that we are in.
///
/// # Errors
/// The first that may not be, unless the caller may choose any.
pub fn check(pids: impl IntoIterator<Item = i32>) -> Result<(), RangeError> {
    if !privilege::choice_is_lent() {
        return Ok(());
    }
    let Permitted { range, by } = permitted()?;
    let range = range.here();
    match pids.into_iter().find(|pid| !range.contains(*pid)) {
        Some(pid) => Err(RangeError::Outside { pid, range, by }),
        None => Ok(()),
    }
}

/// Returns which pids the file capability may be used for on this machine.
///
/// # Errors
/// If the file is there and cannot be relied on.
pub fn permitted() -> Result<Permitted, RangeError> {
    read(Path::new(PATH), 0)
}

/// Reads a file that must belong to `owner`, and its directory as well.
fn read(path: &Path, owner: u32) -> Result<Permitted, RangeError> {
    let default = || Ok(Permitted { range: PidRange::DEFAULT, by: None });
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return default() };
    let directory = match File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)
    {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return default(),
        Err(error) => return Err(unreadable(dir, &error)),
    };
    trust(dir, &directory.metadata().map_err(|error| unreadable(dir, &error))?, owner)?;
    // A FIFO is not waited for, a link not followed.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(&directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::ENOENT) => return default(),
        Err(error) => return Err(unreadable(path, &error.into())),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        return Err(RangeError::Untrusted { path: path.into(), why: "is not a regular file" });
    }
    trust(path, &metadata, owner)?;
    let mut text = String::new();
    let len = file.take(LEN_MAX).read_to_string(&mut text);
    let len = len.map_err(|error| unreadable(path, &error))?;
    let malformed = |what| RangeError::Malformed { path: path.into(), what };
    if len as u64 == LEN_MAX {
        return Err(malformed("it is too long".into()));
    }
    let range = PidRange::from_file(&text).map_err(malformed)?;
    Ok(Permitted { range, by: Some(path.into()) })
}

/// Refuses what somebody else than its owner could have written.
fn trust(path: &Path, metadata: &Metadata, owner: u32) -> Result<(), RangeError> {
    let why = match metadata.mode() & 0o022 {
        _ if metadata.uid() != owner => "does not belong to root",
        0 => return Ok(()),
        // An access list shows as rights of the group (acl(5)).
        _ => "can be written by others than root",
    };
    Err(RangeError::Untrusted { path: path.into(), why })
}

fn unreadable(path: &Path, error: &io::Error) -> RangeError {
    RangeError::Malformed { path: path.into(), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A file in a directory, both of which only we may write.
    fn file(text: &str) -> (tempfile::TempDir, PathBuf, u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pids.conf");
        std::fs::write(&path, text).unwrap();
        chmod(&path, 0o644);
        chmod(dir.path(), 0o755);
        (dir, path, nix::unistd::geteuid().as_raw())
    }

    #[test]
    fn a_file_is_read_and_what_is_written_is_read() {
        let (_dir, path, me) = file("# ours\n\n max=5000 # all\nmin = 300\n");
        let range = PidRange::new(300, 5000).unwrap();
        assert_eq!(read(&path, me), Ok(Permitted { range, by: Some(path.clone()) }));
        assert_eq!(PidRange::from_file(&range.to_file()), Ok(range));
        assert_eq!(range.to_string().parse(), Ok(range));
    }

    #[test]
    fn without_a_file_the_default_holds() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let default = Ok(Permitted { range: PidRange::DEFAULT, by: None });
        assert_eq!(read(&dir.path().join("pids.conf"), me), default);
        assert_eq!(read(&dir.path().join("none/pids.conf"), me), default);
    }

    #[test]
    fn what_is_no_range_is_no_range() {
        for text in [
            "",
            "min = 1000",
            "max = 1000",
            "min = 1000\nmin = 2\nmax = 3000",
            "min = 3000\nmax = 1000",
            "min = 1\nmax = 3000",
            "min = 0\nmax = 3000",
            "min = -5\nmax = 3000",
            "min = +5\nmax = 3000",
            "min = 1000\nmax = 4194304",
            "min = 1000\nmax = 99999999999999999999",
            "min = 1000\nmax = 3000\nuid = 5",
            "min 1000\nmax 3000",
            "min = \nmax = 3000",
            "min = 1000 max = 3000",
        ] {
            assert!(PidRange::from_file(text).is_err(), "{text:?}");
            let (_dir, path, me) = file(text);
            let error = read(&path, me).unwrap_err().to_string();
            assert!(error.contains("pids.conf: "), "{error}");
        }
        let (_dir, path, me) = file(&format!("min = 2\nmax = 3\n{}", "#".repeat(5000)));
        assert!(matches!(read(&path, me), Err(RangeError::Malformed { .. })));
        for text in ["", "5", "-", "1-5", "5-4", "a-b", "5-+9", "5-9-12", "2-4194304"] {
            assert!(text.parse::<PidRange>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_others_could_have_written_does_not_count() {
        const GOOD: &str = "min = 300\nmax = 5000\n";
        let untrusted = |path: &Path, owner| match read(path, owner) {
            Err(RangeError::Untrusted { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        let (dir, path, me) = file(GOOD);
        assert_eq!(untrusted(&path, me + 1), dir.path());
        for mode in [0o664, 0o646, 0o666] {
            chmod(&path, mode);
            assert_eq!(untrusted(&path, me), path);
        }
        chmod(&path, 0o644);
        for mode in [0o775, 0o757, 0o1777] {
            chmod(dir.path(), mode);
            assert_eq!(untrusted(&path, me), dir.path());
            // Whoever may write there could have removed the file.
            assert_eq!(untrusted(&dir.path().join("none"), me), dir.path());
        }
        chmod(dir.path(), 0o755);
        // A link, a directory, a FIFO in its place, a link to the directory.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, me).is_err());
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        assert_eq!(untrusted(&dir.path().join("directory"), me), dir.path().join("directory"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(untrusted(&fifo, me), fifo);
        let around = dir.path().join("around");
        std::os::unix::fs::symlink(dir.path(), &around).unwrap();
        assert!(read(&around.join("pids.conf"), me).is_err());
        assert!(read(&path, me).is_ok());
    }

    #[test]
    fn the_machine_has_the_last_word_on_the_upper_end() {
        assert_eq!(PidRange::DEFAULT.below(32768).to_string(), "1000-32767");
        assert!(!PidRange::DEFAULT.below(32768).contains(32768));
        let error = RangeError::Outside {
            pid: 300,
            range: PidRange::DEFAULT.below(32768),
            by: Some(PATH.into()),
        };
        let text = "pid 300 is outside 1000-32767, which /etc/warmstart/pids.conf permits";
        assert_eq!(error.to_string(), text);
    }
}
