//! What warmstart may do here, and giving up what it does not need.
//!
//! The binary may carry `CAP_CHECKPOINT_RESTORE` as a file capability, which
//! lets an ordinary user choose pids. [`narrow`] is the first thing `main`
//! does: from then on no other capability can become effective in the
//! launcher, whatever it was started with. What the *program* gets is decided
//! by the kernel at its exec, or by the restore, which ends with none.

pub mod file;

use std::io;

use crate::sys::capability::{
    self, CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Sets, in_ambient_set,
};

const CHECKPOINT_RESTORE: u64 = 1 << CAP_CHECKPOINT_RESTORE;

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The effective user is root.
    pub root: bool,
    /// The sets as the kernel has them.
    pub sets: Sets,
}

impl Caps {
    /// Tells whether pids can be chosen, now or with what is permitted
    /// ([`raised`]): `CAP_CHECKPOINT_RESTORE`, or `CAP_SYS_ADMIN`, which the
    /// kernel takes in its place.
    pub fn can_choose_pids(&self) -> bool {
        (self.sets.effective | self.sets.permitted & CHECKPOINT_RESTORE)
            & (CHECKPOINT_RESTORE | 1 << CAP_SYS_ADMIN)
            != 0
    }

    /// Tells whether processes of other users can be traced.
    pub fn can_trace_all(&self) -> bool {
        self.sets.effective & 1 << CAP_SYS_PTRACE != 0
    }
}

/// Returns what this process may do now.
pub fn current() -> Caps {
    Caps { root: is_root(), sets: capability::capget().unwrap_or_default() }
}

/// Gives up every capability but `CAP_CHECKPOINT_RESTORE`, unless we are root.
///
/// Root keeps its sets: its programs have them in a cold start as well, and
/// root needs no capability of ours to do harm. Ambient capabilities stay
/// permitted, since the kernel would otherwise take them from the ambient set
/// too and the program would miss them; they are not effective in us.
///
/// Nothing is effective afterwards: [`raised`] makes the one capability so,
/// around the one call that needs it. The file carries no effective flag
/// either: with it, `execve(2)` of the binary fails wherever the bounding set
/// lacks the capability (containers).
pub fn narrow() -> io::Result<()> {
    if is_root() {
        return Ok(());
    }
    let before = capability::capget()?;
    let after = narrowed(before, in_ambient_set);
    if after == before { Ok(()) } else { capability::capset(&after) }
}

/// Tells whether pids can be chosen, now or with what is permitted
/// ([`raised`]).
pub fn may_choose_pids() -> bool {
    current().can_choose_pids()
}

/// Gives up the capability as well, once no pid is left to choose: the relay
/// of a program that runs for weeks needs none. Root keeps its sets, ambient
/// ones stay as in [`narrow`]. Of the calling thread only, and of those that
/// it makes later.
pub fn give_up() {
    if is_root() {
        return;
    }
    let before = capability::capget().unwrap_or_default();
    let after = Sets { effective: 0, ..of_a_cold_start() };
    if after != before {
        // Less than before: the kernel cannot refuse.
        let _ = capability::capset(&after);
    }
}

/// Tells whether the right to choose pids, if we have it, is one that our file
/// capability lends to the caller: not root's, and not one that the caller
/// hands to whatever it starts.
pub fn choice_is_lent() -> bool {
    // A file capability empties the ambient set (`capabilities(7)`).
    !is_root() && !in_ambient_set(CAP_CHECKPOINT_RESTORE)
}

/// Returns the sets that a program has which this caller starts cold: root's
/// all, an ordinary user's ambient ones, which are none as a rule.
pub fn of_a_cold_start() -> Sets {
    let sets = capability::capget().unwrap_or_default();
    if is_root() {
        return sets;
    }
    let mut kept = 0;
    let mut permitted = sets.permitted;
    while permitted != 0 {
        let capability = permitted.trailing_zeros();
        permitted &= permitted - 1;
        if in_ambient_set(capability) {
            kept |= 1 << capability;
        }
    }
    Sets { effective: kept, permitted: kept, inheritable: sets.inheritable }
}

/// Runs `action` with `CAP_CHECKPOINT_RESTORE` effective, if it is permitted,
/// and takes it back.
pub fn raised<T>(action: impl FnOnce() -> T) -> T {
    let before = capability::capget().unwrap_or_default();
    let with =
        Sets { effective: before.effective | before.permitted & CHECKPOINT_RESTORE, ..before };
    // Without it the action fails by itself, and says so.
    let changed = with != before && capability::capset(&with).is_ok();
    let result = action();
    if changed {
        // Permitted before, so the kernel cannot refuse.
        let _ = capability::capset(&before);
    }
    result
}

/// Computes the sets that [`narrow`] leaves.
fn narrowed(sets: Sets, ambient: impl Fn(u32) -> bool) -> Sets {
    let mut kept = sets.permitted & CHECKPOINT_RESTORE;
    let mut others = sets.permitted & !CHECKPOINT_RESTORE;
    while others != 0 {
        let capability = others.trailing_zeros();
        others &= others - 1;
        if ambient(capability) {
            kept |= 1 << capability;
        }
    }
    Sets { effective: 0, permitted: kept, inheritable: sets.inheritable }
}

/// Tells whether the binary is installed setuid or setgid, and took effect.
///
/// A program that it starts would run with the owner's rights: nobody wants
/// that. A caller whose real and effective ids differ is another matter, its
/// programs have both in a cold start as well.
pub fn is_set_id() -> bool {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    use std::os::unix::fs::MetadataExt;
    capability::is_secure()
        && (geteuid() != getuid() || getegid() != getgid())
        && std::fs::metadata("/proc/self/exe")
            .map_or(true, |meta| meta.mode() & (libc::S_ISUID | libc::S_ISGID) != 0)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checkpoint_restore_stays() {
        let all = Sets { effective: u64::MAX, permitted: u64::MAX, inheritable: 0 };
        let left = narrowed(all, |_| false);
        assert_eq!(left.permitted, CHECKPOINT_RESTORE);
        assert_eq!(left.effective, 0);
    }

    #[test]
    fn what_is_permitted_can_be_raised_and_so_is_enough() {
        let file = Sets { effective: 0, permitted: CHECKPOINT_RESTORE, inheritable: 0 };
        assert_eq!(narrowed(file, |_| false), file);
        assert!(Caps { root: false, sets: file }.can_choose_pids());
        let other = Sets { permitted: 1 << CAP_SYS_ADMIN, ..file };
        assert!(!Caps { root: false, sets: other }.can_choose_pids());
    }

    #[test]
    fn ambient_ones_stay_permitted_for_the_program_but_not_effective() {
        let bind = 1 << 10;
        let sets = Sets { effective: bind, permitted: bind | 2, inheritable: bind };
        let left = narrowed(sets, |capability| capability == 10);
        assert_eq!(left, Sets { effective: 0, permitted: bind, inheritable: bind });
    }

    #[test]
    fn nothing_is_gained() {
        assert_eq!(narrowed(Sets::default(), |_| true), Sets::default());
    }
}
