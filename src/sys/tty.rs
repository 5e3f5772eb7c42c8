//! Terminals: `tcgetattr(3)`, `tcsetattr(3)`, `TIOCGWINSZ` (`ioctl_tty(2)`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Tells whether this process has a controlling terminal: field 7 of its
/// `stat` (`proc_pid_stat(5)`), behind a name that may hold anything.
pub fn is_controlled() -> bool {
    let stat = std::fs::read("/proc/self/stat").unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    let terminal = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(4));
    terminal.is_some_and(|terminal| terminal != "0")
}

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

/// Sets the settings of a terminal, at once. A process in the background is
/// stopped for that, unless it blocks or ignores SIGTTOU.
pub fn set(fd: BorrowedFd<'_>, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: tcsetattr reads the structure.
    match unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
