//! Positions the kernel's pid cursor: `/proc/sys/kernel/ns_last_pid` (Linux
//! 3.3; for CAP_CHECKPOINT_RESTORE since 5.9, else CAP_SYS_ADMIN).
//!
//! It holds the pid that was handed out last in the writer's pid namespace.
//! Two of us would thwart each other: who writes it and then makes a task locks
//! the file (`flock(2)`). Against everybody else who makes a process there is
//! only looking, and trying again.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{PositionError, Unavailable, check_range, permitted};
use crate::privilege;

const FILE: &str = "/proc/sys/kernel/ns_last_pid";

/// How long the lock is waited for. Anybody may take it (the file's mode is
/// 0666), so nobody may be waited for without end.
const PATIENCE_WITH_LOCK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(500);

/// The cursor, locked until this is dropped.
#[derive(Debug)]
pub struct LastPid {
    file: Flock<File>,
    /// Where it was.
    before: Option<i32>,
    /// The pids that may be chosen.
    range: RangeInclusive<i32>,
}

impl LastPid {
    /// Opens and locks the cursor.
    pub fn lock() -> Result<Self, PositionError> {
        Self::lock_within(PATIENCE_WITH_LOCK)
    }

    /// The same, waiting no longer than `patience` for others to unlock it.
    pub fn lock_within(patience: Duration) -> Result<Self, PositionError> {
        if !privilege::may_choose_pids() {
            return Err(Unavailable::NotPermitted.into());
        }
        let range = permitted()?;
        let mut file = open()?;
        let until = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let before = read(&file).ok();
                    return Ok(Self { file, before, range });
                }
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= until => {
                    return Err(PositionError::Locked);
                }
                Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) => file = again,
                Err((_, errno)) => {
                    let source = errno.into();
                    return Err(PositionError::Step { step: "flock of ns_last_pid", source });
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes `next` the pid of the next task, unless somebody is faster.
    pub fn position(&mut self, next: i32) -> Result<(), PositionError> {
        check_range(next, &self.range)?;
        self.write(next - 1).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => Unavailable::NotPermitted.into(),
            _ => PositionError::Step { step: "writing ns_last_pid", source },
        })
    }

    /// Returns where the cursor was found.
    pub fn before(&self) -> Option<i32> {
        self.before
    }

    /// Returns the pids that may be chosen.
    pub fn range(&self) -> &RangeInclusive<i32> {
        &self.range
    }

    /// Makes the pid after `last` the next one, wherever that is.
    pub fn set(&mut self, last: i32) -> io::Result<()> {
        self.write(last)
    }

    /// Puts the cursor back to where it was found: the pids after it are the
    /// next ones again.
    pub fn put_back(&mut self) -> io::Result<()> {
        self.before.map_or(Ok(()), |before| self.write(before))
    }

    /// The capability is raised for this one call (the kernel looks at it in
    /// the write, not when the file is opened).
    fn write(&self, last: i32) -> io::Result<()> {
        privilege::raised(|| self.file.write_all_at(last.to_string().as_bytes(), 0))
    }
}

fn open() -> Result<File, Unavailable> {
    OpenOptions::new().read(true).write(true).open(FILE).map_err(|error| {
        // In containers `/proc/sys` is mounted read-only.
        Unavailable::NoLastPid(error.raw_os_error().unwrap_or(libc::EIO))
    })
}

fn read(file: &File) -> io::Result<i32> {
    let mut buffer = [0; 16];
    let read = file.read_at(&mut buffer, 0)?;
    let text = std::str::from_utf8(&buffer[..read]).unwrap_or_default();
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Says whether the cursor can be positioned here, as this user. Opens the
/// file, and changes nothing.
pub fn check() -> Result<(), Unavailable> {
    if !privilege::may_choose_pids() {
        return Err(Unavailable::NotPermitted);
    }
    open().map(drop)
}
