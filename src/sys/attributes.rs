//! Attributes of this process that its children inherit: `prctl(2)`,
//! `keyctl(2)`.

/// The key serial number that stands for the session's keyring
/// (`KEY_SPEC_SESSION_KEYRING`).
pub const SESSION_KEYRING: i32 = -3;
/// `KEYCTL_GET_KEYRING_ID`.
pub const KEYCTL_GET_KEYRING_ID: u64 = 0;

/// An attribute whose value `prctl` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `PR_MCE_KILL_GET`.
    MachineCheckKill = 34,
    /// `PR_GET_IO_FLUSHER` (Linux 5.6), for CAP_SYS_RESOURCE only.
    IoFlusher = 58,
    /// `PR_GET_MDWE` (Linux 6.3).
    DenyWriteExec = 66,
    /// `PR_GET_MEMORY_MERGE` (Linux 6.4).
    MemoryMerge = 68,
}

/// Returns an attribute of the calling thread, -1 for an error.
pub fn get(attribute: Attribute) -> i64 {
    // SAFETY: these options take no pointers and change nothing.
    i64::from(unsafe { libc::prctl(attribute as i32, 0u64, 0u64, 0u64, 0u64) })
}

/// Returns the number of the calling thread's session keyring, -1 if there is
/// none or it may not be asked for.
pub fn session_keyring() -> i64 {
    // SAFETY: asks for a number by numbers; 0 makes no new keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0) }
}
