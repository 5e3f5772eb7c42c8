//! The mode that a program has put its terminal into.
//!
//! An editor, a prompt, a console of a server reads keys, not lines, and shows
//! them itself. It has told the terminal so before its capture, and will not
//! again; the terminal of a later run is as a shell leaves it. So an image holds
//! the mode, if the program has changed it, and a restore sets it, as the
//! program would have done: not in the background, where it would have been
//! stopped for that.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys::{descriptors, tty};

/// The file of an image that holds a [`Mode`].
pub const FILE: &str = "terminal.json";

/// How a terminal takes and shows characters (`termios(3)`), and the size of
/// its window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    iflag: u32,
    oflag: u32,
    lflag: u32,
    cc: Vec<u8>,
    /// Rows and columns.
    size: (u16, u16),
}

impl Mode {
    /// Reads a terminal's; `None` of what is no terminal.
    fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let settings = tty::settings(fd).ok()?;
        let size = tty::size(fd).map_or((0, 0), |size| (size.ws_row, size.ws_col));
        let libc::termios { c_iflag, c_oflag, c_lflag, c_cc, .. } = settings;
        let cc = c_cc.to_vec();
        Some(Self { iflag: c_iflag, oflag: c_oflag, lflag: c_lflag, cc, size })
    }

    /// Reads that of the terminal that we were started on.
    pub fn ours() -> Option<Self> {
        with_ours(Self::of)
    }

    /// Reads that of the terminal that a program has as one of 0, 1 and 2.
    fn of_program(pid: i32) -> Option<Self> {
        (0..3).find_map(|fd| {
            let path = format!("/proc/{pid}/fd/{fd}");
            let target = std::fs::read_link(&path).ok()?;
            if !(target.starts_with("/dev/pts") || target.starts_with("/dev/tty")) {
                return None;
            }
            let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
            let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
            Self::of(file.as_fd())
        })
    }

    /// Returns the mode that a program has its terminal in, if it was another
    /// one `before` it was started.
    pub fn changed_by(pid: i32, before: Option<&Self>) -> Option<Self> {
        let before = before?;
        Self::of_program(pid).filter(|now| Self { size: before.size, ..now.clone() } != *before)
    }

    /// Reads what [`Mode::changed_by`] has found, from an image's directory.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
    }

    /// Sets it on a terminal; what there is of output is written as it was.
    fn set(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut settings = tty::settings(fd)?;
        settings.c_iflag = self.iflag;
        settings.c_oflag = self.oflag;
        settings.c_lflag = self.lflag;
        for (place, byte) in settings.c_cc.iter_mut().zip(&self.cc) {
            *place = *byte;
        }
        tty::set(fd, &settings)
    }
}

/// Our terminal, in the mode of a program that is about to be restored; as it
/// was before, unless it is kept.
#[derive(Debug)]
pub struct Entered {
    before: Option<Mode>,
    resized: bool,
}

impl Entered {
    /// Sets the mode, if we have a terminal and its foreground.
    pub fn new(mode: &Mode) -> Option<Self> {
        with_ours(|fd| {
            let before = Mode::of(fd)?;
            let ours = nix::unistd::tcgetpgrp(fd).ok() == Some(nix::unistd::getpgrp());
            (ours && mode.set(fd).is_ok())
                .then(|| Self { resized: before.size != mode.size, before: Some(before) })
        })
    }

    /// Leaves it as it is now: the program is there. Returns whether its window
    /// has another size than the program knows.
    pub fn keep(mut self) -> bool {
        self.before = None;
        self.resized
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            with_ours(|fd| before.set(fd).ok());
        }
    }
}

/// Shows the terminal among our 0, 1 and 2 to a function.
fn with_ours<T>(use_it: impl Fn(BorrowedFd<'_>) -> Option<T>) -> Option<T> {
    descriptors::standard().into_iter().find_map(use_it)
}
