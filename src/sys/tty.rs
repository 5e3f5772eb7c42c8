//! Terminals: `tcgetattr(3)`, `TIOCGWINSZ` (`ioctl_tty(2)`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads the settings of a terminal.
pub fn settings(fd: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut termios = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills the structure when it succeeds.
    unsafe {
        match libc::tcgetattr(fd.as_raw_fd(), termios.as_mut_ptr()) {
            0 => Ok(termios.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Reads the size of a terminal's window.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<libc::winsize> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: TIOCGWINSZ fills the structure when it succeeds.
    unsafe {
        match libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) {
            0 => Ok(size.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sets the size of a terminal's window.
pub fn set_size(fd: BorrowedFd<'_>, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads the structure.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
