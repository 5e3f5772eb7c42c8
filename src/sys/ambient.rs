//! Ambient capabilities: what a program without file capabilities keeps over
//! its exec (`PR_CAP_AMBIENT`, Linux 4.3, `capabilities(7)`).
#![allow(unsafe_code)]

use std::io;

use super::capability::{self, Sets};

/// A capability that whatever this thread starts gets with its exec, until the
/// value is dropped.
#[derive(Debug)]
pub struct Lent {
    capability: u32,
    before: Sets,
}

/// Lends a capability that is permitted to what the calling thread starts.
///
/// # Errors
/// If it is not permitted, or ambient ones are forbidden (securebits).
pub fn lend(capability: u32) -> io::Result<Lent> {
    let before = capability::capget()?;
    let lent = Lent { capability, before };
    raise(capability)?;
    Ok(lent)
}

/// Makes a capability inheritable and ambient. Async-signal-safe.
pub(super) fn raise(capability: u32) -> io::Result<()> {
    let before = capability::capget()?;
    let inheritable = before.inheritable | 1 << capability;
    capability::capset(&Sets { inheritable, ..before })?;
    change(libc::PR_CAP_AMBIENT_RAISE, capability)
}

fn change(what: i32, capability: u32) -> io::Result<()> {
    // SAFETY: PR_CAP_AMBIENT takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what, u64::from(capability), 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Both only take away, which the kernel cannot refuse.
        let _ = change(libc::PR_CAP_AMBIENT_LOWER, self.capability);
        let _ = capability::capset(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::capability::{CAP_CHECKPOINT_RESTORE, in_ambient_set};

    #[test]
    fn what_is_lent_is_taken_back_and_nothing_else_can_be_lent() {
        let before = capability::capget().unwrap();
        let was_ambient = in_ambient_set(CAP_CHECKPOINT_RESTORE);
        match lend(CAP_CHECKPOINT_RESTORE) {
            Ok(lent) => {
                assert!(in_ambient_set(CAP_CHECKPOINT_RESTORE));
                drop(lent);
                assert!(!in_ambient_set(CAP_CHECKPOINT_RESTORE));
            }
            Err(error) => {
                assert!(before.permitted & 1 << CAP_CHECKPOINT_RESTORE == 0, "{error}");
                assert_eq!(in_ambient_set(CAP_CHECKPOINT_RESTORE), was_ambient);
            }
        }
        assert_eq!(capability::capget().unwrap(), before);
    }
}
