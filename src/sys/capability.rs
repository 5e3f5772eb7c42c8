//! `capget(2)`, `capset(2)` and the capability calls of `prctl(2)`.
//!
//! The crate does not use libcap: three sets of 64 bits are all there is, and
//! the launcher reads and writes them on its hot path.
#![allow(unsafe_code)]

use std::io;

/// `CAP_CHECKPOINT_RESTORE` (Linux 5.9), see `capabilities(7)`.
pub const CAP_CHECKPOINT_RESTORE: u32 = 40;
/// `CAP_SYS_ADMIN`, which the kernel accepts in its place.
pub const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_SYS_PTRACE`, which Yama's `ptrace_scope` 2 asks for.
pub const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SETFCAP`, needed to give a file a capability.
pub const CAP_SETFCAP: u32 = 31;

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words a set.
const VERSION_3: u32 = 0x2008_0522;

/// The three sets of `capget(2)`, one bit a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// What the kernel checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives an exec of a file that inherits it.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const _: () = assert!(size_of::<Header>() == 8 && size_of::<Word>() == 12);

/// Returns the calling thread's sets.
pub fn capget() -> io::Result<Sets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: the header names version 3, for which the kernel writes two
    // words; both pointers are to live locals of the kernel's layout.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Sets {
        effective: join(words[0].effective, words[1].effective),
        permitted: join(words[0].permitted, words[1].permitted),
        inheritable: join(words[0].inheritable, words[1].inheritable),
    })
}

/// Sets the calling thread's sets.
pub fn capset(sets: &Sets) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let word = |shift: u32| Word {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: as in `capget`; the kernel only reads the words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells whether a capability is in the ambient set (`PR_CAP_AMBIENT`).
pub fn in_ambient_set(capability: u32) -> bool {
    // SAFETY: PR_CAP_AMBIENT_IS_SET takes numbers only.
    let result = unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET, capability as u64, 0, 0)
    };
    result == 1
}

/// Tells whether a capability is in the bounding set (`PR_CAPBSET_READ`).
pub fn in_bounding_set(capability: u32) -> bool {
    // SAFETY: PR_CAPBSET_READ takes a number only.
    (unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as u64, 0, 0, 0) }) == 1
}

/// Tells whether `no_new_privs` is set, under which file capabilities do
/// nothing.
pub fn no_new_privs() -> bool {
    // SAFETY: PR_GET_NO_NEW_PRIVS takes no argument.
    (unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) }) == 1
}

/// Returns the securebits of this thread, PR_SET_KEEPCAPS among them
/// (`capabilities(7)`).
pub fn securebits() -> Option<u64> {
    // SAFETY: PR_GET_SECUREBITS takes no argument.
    u64::try_from(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) }).ok()
}

/// Tells whether the kernel started this process as a privileged one
/// (`AT_SECURE`, `getauxval(3)`): set-id, or with a file capability.
pub fn is_secure() -> bool {
    // SAFETY: getauxval only reads the vector that libc saved.
    (unsafe { libc::getauxval(libc::AT_SECURE) }) != 0
}

/// Makes the process dumpable, so that its `/proc/self` is its own again
/// (a file with a file capability starts undumpable: `proc(5)`).
///
/// This opens nothing to the caller's other processes: `ptrace(2)` still asks
/// for every capability in our permitted set.
pub fn set_dumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number only.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1u64, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
