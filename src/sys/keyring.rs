//! The keyring that this process and its children have: `keyctl(2)`.

/// The key serial number that stands for the session's keyring
/// (`KEY_SPEC_SESSION_KEYRING`).
pub const SESSION_KEYRING: i32 = -3;
/// `KEYCTL_GET_KEYRING_ID`.
pub const KEYCTL_GET_KEYRING_ID: u64 = 0;

/// Returns the number of the calling thread's session keyring, -1 if there is
/// none or it may not be asked for.
pub fn session_keyring() -> i64 {
    // SAFETY: asks for a number by numbers; 0 makes no new keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0) }
}
