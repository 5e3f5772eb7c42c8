//! What the agent takes from the process's C library: glibc or musl, found at
//! load time without naming either. What one of them may lack is looked up.

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::panic::PanicInfo;

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn posix_memalign(memory: *mut *mut c_void, align: usize, size: usize) -> c_int;
    fn realloc(memory: *mut c_void, size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    fn abort() -> !;
    fn pthread_self() -> usize;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn nanosleep(time: *const [i64; 2], rest: *mut [i64; 2]) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut [i64; 2]) -> c_int;
    fn __errno_location() -> *mut c_int;

    pub fn _exit(status: c_int) -> !;
    pub fn read(fd: c_int, buffer: *mut c_void, len: usize) -> isize;
    pub fn write(fd: c_int, buffer: *const c_void, len: usize) -> isize;
    pub fn send(fd: c_int, buffer: *const c_void, len: usize, flags: c_int) -> isize;
    pub fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub fn close(fd: c_int) -> c_int;
    pub fn dup2(from: c_int, to: c_int) -> c_int;
    pub fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    pub fn chdir(path: *const c_char) -> c_int;
    pub fn getcwd(buffer: *mut c_char, len: usize) -> *mut c_char;
    pub fn syscall(number: c_long, ...) -> c_long;
    pub fn prctl(option: c_int, ...) -> c_int;
    pub fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub static mut environ: *mut *mut c_char;
}

pub const O_RDONLY: c_int = 0;
pub const O_RDWR: c_int = 2;
pub const O_CLOEXEC: c_int = 0o2000000;
pub const MSG_NOSIGNAL: c_int = 0x4000;
pub const F_SETFD: c_int = 2;
pub const F_DUPFD_CLOEXEC: c_int = 1030;
pub const FD_CLOEXEC: c_int = 1;
const EINTR: c_int = 4;
const CLOCK_MONOTONIC: c_int = 1;

/// Tells whether the last call was only interrupted by a signal.
pub fn interrupted() -> bool {
    // SAFETY: the address of this thread's `errno`.
    unsafe { *__errno_location() == EINTR }
}

/// Returns what tells threads of this process apart.
pub fn thread() -> usize {
    // SAFETY: no condition.
    unsafe { pthread_self() }
}

/// Sleeps for some milliseconds.
pub fn sleep_ms(ms: u32) {
    let mut time = [i64::from(ms / 1000), i64::from(ms % 1000) * 1_000_000];
    let place = &raw mut time;
    // SAFETY: both point to a `timespec`; the rest may replace the time.
    while unsafe { nanosleep(place, place) } != 0 && interrupted() {}
}

/// Returns a time in milliseconds that only goes on.
pub fn now_ms() -> i64 {
    let mut time = [0; 2];
    // SAFETY: it points to a `timespec`.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    time[0] * 1000 + time[1] / 1_000_000
}

/// Finds a function of the process by name; null if there is none.
pub fn find(name: &CStr) -> *mut c_void {
    // SAFETY: a C string; a null handle is RTLD_DEFAULT.
    unsafe { dlsym(core::ptr::null_mut(), name.as_ptr()) }
}

/// Returns the working directory as the kernel names it.
pub fn working_directory() -> Option<Vec<u8>> {
    // PATH_MAX is 4096, and the kernel's call gives no more.
    let mut path: Vec<u8> = alloc::vec![0; 4097];
    // SAFETY: the buffer is as long as is said.
    let found = unsafe { getcwd(path.as_mut_ptr().cast(), path.len()) };
    if found.is_null() {
        return None;
    }
    let len = path.iter().position(|byte| *byte == 0)?;
    path.truncate(len);
    // Otherwise "(unreachable)/...".
    (path.first() == Some(&b'/')).then_some(path)
}

/// Reads a small file of `/proc`.
pub fn read_file(path: &CStr) -> Option<Vec<u8>> {
    // SAFETY: a C string.
    let fd = unsafe { open(path.as_ptr(), O_RDONLY | O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    let mut text: Vec<u8> = alloc::vec![0; 4096];
    // SAFETY: the buffer is as long as is said.
    let len = unsafe { read(fd, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: ours, and used no more.
    unsafe { close(fd) };
    text.truncate(usize::try_from(len).ok()?);
    Some(text)
}

/// Returns a number that nobody can foresee.
pub fn random() -> i64 {
    const GETRANDOM: c_long = 318;
    let mut number = 0i64;
    // SAFETY: eight bytes are there. Short or failed calls do not occur after
    // boot; zero would only leave a seed as it was.
    unsafe { syscall(GETRANDOM, &raw mut number, 8usize, 0u32) };
    number
}

/// The C library's allocator, which a JVM's natives use as well.
struct Malloc;

#[global_allocator]
static ALLOCATOR: Malloc = Malloc;

// SAFETY: malloc's alignment is enough for all but what posix_memalign gets.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= 16 {
            // SAFETY: no condition.
            return unsafe { malloc(layout.size()).cast() };
        }
        let mut memory = core::ptr::null_mut();
        // SAFETY: Rust's alignments are powers of two, and above 16 multiples
        // of a pointer's size.
        match unsafe { posix_memalign(&raw mut memory, layout.align(), layout.size()) } {
            0 => memory.cast(),
            _ => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: it came from malloc or posix_memalign.
        unsafe { free(memory.cast()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        if layout.align() <= 16 {
            // SAFETY: it came from malloc.
            return unsafe { realloc(memory.cast(), len).cast() };
        }
        // SAFETY: the caller's promise.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(len, layout.align())) };
        if !new.is_null() {
            // SAFETY: two blocks, both at least as long as the shorter.
            unsafe {
                core::ptr::copy_nonoverlapping(memory, new, layout.size().min(len));
                self.dealloc(memory, layout);
            }
        }
        new
    }
}

/// Nothing here panics but for want of memory.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: no condition.
    unsafe { abort() }
}
