//! What the caller handed over, recorded before the runtimes change it.
//!
//! A Rust program ignores SIGPIPE and has `/dev/null` on closed standard
//! descriptors before it begins; a program started by us must see neither. One
//! function here is listed in `.init_array`, which the C library runs before
//! anything of ours, and notes how things were.
//!
//! The binary's `main` is [`run`], not that of Rust's runtime, which also
//! prepares for saying that the stack overflowed: it reads `/proc/self/maps`
//! and maps a second stack, 20 system calls that every restore would wait for.

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt;
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

/// Tells glibc, which asks in every static program before `main`, that the
/// directory of its file is not known: it looks for that in `/proc`, which
/// costs 30 us, to load libraries from there (`$ORIGIN`, `dlopen(3)`), which
/// nothing here does. A libc that does not ask leaves this out.
// SAFETY: glibc's own function has this signature and this answer when it
// cannot tell (`elf/dl-origin.c`); the linker takes the first of a name.
#[unsafe(no_mangle)]
extern "C" fn _dl_get_origin() -> *const libc::c_char {
    usize::MAX as *const libc::c_char
}

/// Makes a function that returns an exit status the program of a binary, whose
/// file says `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        // SAFETY: the C library calls the one function of this name, with
        // these arguments, and there is no other in a binary without Rust's
        // own.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(_: std::ffi::c_int, _: *const *const std::ffi::c_char) -> ! {
            $crate::sys::start::run($main)
        }
    };
}

/// Runs a program as Rust's runtime would, and ends this process with the
/// status that it returns, or with 101 after a panic.
pub fn run(program: fn() -> u8) -> ! {
    super::signals::set_ignored(libc::SIGPIPE);
    for fd in 0..3 {
        if CLOSED.load(Relaxed) & 1 << fd != 0 && !super::descriptors::is_open(fd) {
            // SAFETY: the path is a constant. The lowest free number is this
            // one; should there be no /dev/null, the program may find out.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
    let status = std::panic::catch_unwind(program).map_or(101, i32::from);
    std::process::exit(status)
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

/// Returns the environment that libc has, in order, odd strings included; in a
/// secure-execution mode it is not the caller's.
///
/// Nothing in this program changes its own environment.
pub fn environment() -> Vec<OsString> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut strings = Vec::with_capacity(64);
    // SAFETY: libc's variable (`environ(7)`) is set before `main` and written
    // to by nobody since.
    let mut next = unsafe { environ };
    if next.is_null() {
        return strings;
    }
    loop {
        // SAFETY: the array is as the kernel laid it: pointers to strings that
        // end with a zero byte, and a null pointer behind the last one.
        let string = unsafe { *next };
        if string.is_null() {
            return strings;
        }
        // SAFETY: as above.
        let string = unsafe { CStr::from_ptr(string) };
        strings.push(OsString::from_vec(string.to_bytes().to_vec()));
        // SAFETY: at most one behind the last one, which is null.
        next = unsafe { next.add(1) };
    }
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
