//! The program that is watched.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// A moment, on the clock that measures and on the clock that dates files.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// The moment on the monotonic clock.
    pub at: Instant,
    /// The moment as the kernel would date a file.
    pub wall: SystemTime,
    /// The moment on the fine clock of the same time: what the kernel dates
    /// later was made later.
    pub exact: SystemTime,
}

impl Started {
    /// Returns the present moment; to be called just before the program is
    /// started.
    ///
    /// Files are dated by the coarse clock, which lags up to a tick (4 to
    /// 10 ms) behind the fine one (`clock_gettime(2)`): against the fine one, a
    /// file that the program makes at once would seem older than the program.
    pub fn now() -> Self {
        let wall = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
            .map_or_else(|_| SystemTime::now(), |t| SystemTime::UNIX_EPOCH + Duration::from(t));
        Self { at: Instant::now(), wall, exact: SystemTime::now() }
    }
}

/// A program that was started cold.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its pid in our pid namespace; a child of ours that has not been waited
    /// for, so that the number cannot have been given to another process.
    pub pid: i32,
    /// When it was started.
    pub started: Started,
    /// The command's working directory, which `file:` paths are relative to.
    pub cwd: PathBuf,
}
