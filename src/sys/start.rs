//! What the caller handed over, recorded before the runtimes change it.
//!
//! Rust's runtime ignores SIGPIPE and opens `/dev/null` on closed standard
//! descriptors before `main`; a program started by us must see neither. The
//! function here is listed in `.init_array`, which the C library runs before
//! Rust's runtime starts, and notes how things were.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

static CLOSED: AtomicU8 = AtomicU8::new(0);
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static BEGAN_NS: AtomicU64 = AtomicU64::new(0);

#[used]
// SAFETY: the section holds pointers to functions of the C calling convention
// that may be called before `main`; `record` is one: it neither allocates nor
// relies on Rust's runtime.
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    BEGAN_NS.store(monotonic_ns(), Relaxed);
    SIGPIPE_IGNORED.store(super::signals::is_ignored(libc::SIGPIPE), Relaxed);
    // SAFETY: getauxval reads the auxiliary vector; any argument is allowed.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    let mut closed = 0;
    for fd in 0..3 {
        if !super::descriptors::is_open(fd) || (secure && is_filler(fd)) {
            closed |= 1 << fd;
        }
    }
    CLOSED.store(closed, Relaxed);
}

/// Whether the C library opened this standard descriptor because it was
/// closed: in a privileged (AT_SECURE) program glibc puts `/dev/full`,
/// write-only, on a closed 0 and `/dev/null`, read-only, on a closed 1 or 2,
/// before anything of ours runs (`csu/check_fds.c`). A caller who did just
/// that himself is served the same error, EBADF, either way.
fn is_filler(fd: i32) -> bool {
    let (minor, access) = if fd == 0 { (7, libc::O_WRONLY) } else { (3, libc::O_RDONLY) };
    // SAFETY: stat is plain data, for which all zeros is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat writes one struct stat to the address given, which is ours.
    let known = unsafe { libc::fstat(fd, &mut stat) } == 0;
    // SAFETY: F_GETFL takes no third argument and any descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    known
        && stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && stat.st_rdev == libc::makedev(1, minor)
        && flags & libc::O_ACCMODE == access
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to the address given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Returns which of 0, 1 and 2 were closed when this process was executed.
pub fn closed_stdio() -> [bool; 3] {
    let closed = CLOSED.load(Relaxed);
    [closed & 1 != 0, closed & 2 != 0, closed & 4 != 0]
}

/// Whether the caller left SIGPIPE ignored.
pub fn sigpipe_ignored() -> bool {
    SIGPIPE_IGNORED.load(Relaxed)
}

/// Returns how long ago this process began to run its program.
pub fn age() -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(BEGAN_NS.load(Relaxed)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn recorded_before_main() {
        assert!(super::BEGAN_NS.load(super::Relaxed) > 0);
        assert!(super::age() > std::time::Duration::ZERO);
    }
}
