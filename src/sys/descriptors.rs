//! File descriptors that are not ours to own: the ones a caller handed over.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Returns 0, 1 and 2. Rust's own handles have buffers, which a hit would make
/// for nothing.
pub fn standard() -> [BorrowedFd<'static>; 3] {
    // SAFETY: they are open as long as this process lives: what was closed has
    // `/dev/null` since before `main` (`sys::start`), and what is let go is
    // replaced, not closed.
    [0, 1, 2].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A descriptor under a number that the next program is to find; closed when
/// dropped.
#[derive(Debug)]
pub struct Lent(RawFd);

impl Lent {
    /// Duplicates a descriptor onto a number above 2 that is free here.
    ///
    /// # Errors
    /// If the number is not free, or beyond the limit.
    pub fn new(from: BorrowedFd<'_>, number: RawFd) -> io::Result<Self> {
        if is_open(number) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        // SAFETY: dup2 takes two numbers; nobody owns the second one.
        match unsafe { libc::dup2(from.as_raw_fd(), number) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Self(number)),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// Who is to have a signal when something comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_*`: what the number is of.
    pub kind: i32,
    /// Its number, 0 for nobody.
    pub number: i32,
    /// The signal, 0 for SIGIO.
    pub signal: i32,
}

/// `F_OWNER_PID`: a process.
pub const OWNER_PROCESS: i32 = 1;

/// Returns who is to have a signal when something comes in (`F_GETOWN_EX`,
/// `F_GETSIG`); `None` if that is nobody, or for descriptors that know no such
/// thing.
pub fn owner(fd: BorrowedFd<'_>) -> Option<Owner> {
    const F_GETSIG: libc::c_int = 11;
    const F_GETOWN_EX: libc::c_int = 16;
    // `struct f_owner_ex`: its kind and its number.
    let mut owner = [0i32; 2];
    // SAFETY: F_GETOWN_EX writes these eight bytes, F_GETSIG takes nothing.
    let (got, signal) = unsafe {
        let got = libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr());
        (got, libc::fcntl(fd.as_raw_fd(), F_GETSIG))
    };
    let [kind, number] = owner;
    let found = Owner { kind, number, signal: signal.max(0) };
    (got == 0 && (found.number != 0 || found.signal != 0)).then_some(found)
}

/// Whether the descriptor is open. Async-signal-safe.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no third argument and any number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Whether the descriptor is open and survives an `execve`.
pub fn is_inheritable(fd: RawFd) -> bool {
    // SAFETY: as above.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether what is open there has O_NONBLOCK.
pub fn is_nonblocking(fd: RawFd) -> bool {
    // SAFETY: F_GETFL takes no third argument and any number.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// How far up descriptors are looked for one by one.
const PROBED: RawFd = 256;

/// Returns the descriptors above 2 that an `execve` would pass on, ascending.
pub fn inheritable() -> io::Result<Vec<RawFd>> {
    use std::os::unix::fs::MetadataExt;
    // Since Linux 6.2 its size is the number of open descriptors. Asking for
    // each by its number is cheaper than a list, for which the kernel makes an
    // inode each (40 us).
    let count = std::fs::metadata("/proc/self/fd")?.size();
    let mut open = (0..PROBED).filter(|fd| is_open(*fd));
    let mut found: Vec<RawFd> = open.by_ref().take(count as usize).collect();
    if count == 0 || found.len() as u64 != count {
        found = listed()?;
    }
    found.retain(|&fd| fd > 2 && is_inheritable(fd));
    found.sort_unstable();
    Ok(found)
}

/// Returns the open descriptors, by the list of them.
fn listed() -> io::Result<Vec<RawFd>> {
    let dir = std::fs::File::open("/proc/self/fd")?;
    let mut found = Vec::new();
    // On the stack, so that a hit does not pay for fresh pages.
    let mut buffer = [0u8; 2048];
    loop {
        // SAFETY: the buffer is ours and has the length given.
        let read = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        match read {
            0 => return Ok(found),
            read if read < 0 => return Err(io::Error::last_os_error()),
            read => numbers(&buffer[..read as usize], &mut found),
        }
    }
}

/// Collects the names that are numbers out of a buffer of `linux_dirent64`
/// (`getdents64(2)`: the record's length at offset 16, its name from 19).
fn numbers(mut records: &[u8], found: &mut Vec<RawFd>) {
    while let Some(&[low, high]) = records.get(16..18) {
        let len = usize::from(u16::from_le_bytes([low, high]));
        let Some(record) = records.get(..len).filter(|_| len > 19) else { return };
        let name = record[19..].split(|&byte| byte == 0).next().unwrap_or_default();
        if let Some(fd) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
            found.push(fd);
        }
        records = &records[len..];
    }
}

/// Closes a descriptor that nothing in this process owns. Async-signal-safe.
pub fn close(fd: RawFd) {
    // SAFETY: the caller's descriptors are owned by no Rust value; closing
    // a number that is not open is answered by EBADF.
    unsafe { libc::close(fd) };
}

/// Makes `to` a duplicate of `from` that survives `execve`.
/// Async-signal-safe.
pub fn duplicate_onto(from: RawFd, to: RawFd) -> io::Result<()> {
    if from == to {
        // dup2 onto itself would leave close-on-exec set.
        // SAFETY: F_SETFD takes an integer.
        return match unsafe { libc::fcntl(from, libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
    }
    // SAFETY: dup2 takes two numbers; `to` is a standard descriptor, which no
    // Rust value owns.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Writes to a socket without waiting and without SIGPIPE (`send(2)`).
pub fn send_now(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is valid for its length.
    match unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) } {
        sent if sent >= 0 => Ok(sent as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_only_what_an_exec_passes_on() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!inheritable().unwrap().contains(&file.as_raw_fd()));
        // SAFETY: duplicates a descriptor that is open; closed below.
        let dup = unsafe { libc::dup(file.as_raw_fd()) };
        assert!(inheritable().unwrap().contains(&dup));
        close(dup);
        assert!(!is_open(dup) || !is_inheritable(dup));
    }

    #[test]
    fn descriptors_far_up_are_found_too() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: F_DUPFD takes a number; the duplicate is closed below.
        let far = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, PROBED + 50) };
        let (found, listed) = (inheritable().unwrap(), listed().unwrap());
        close(far);
        assert!(far >= PROBED + 50 && found.contains(&far), "{found:?}");
        assert!(listed.contains(&far) && listed.contains(&file.as_raw_fd()), "{listed:?}");
    }

    #[test]
    fn damaged_records_end_the_list() {
        let mut found = Vec::new();
        for len in [0u8, 5, 19, 200] {
            let mut record = [b'7'; 24];
            record[16] = len;
            record[17] = 0;
            numbers(&record, &mut found);
        }
        assert!(found.is_empty());
    }
}
