//! `clone3(2)` (Linux 5.3; `set_tid` since 5.5).

use std::mem::size_of;

/// `struct clone_args`, version 2 (`include/uapi/linux/sched.h`): 88 bytes,
/// with `cgroup`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloneArgs {
    /// `CLONE_*` flags.
    pub flags: u64,
    /// Where a pid descriptor is put (`CLONE_PIDFD`).
    pub pidfd: u64,
    /// Where the child's tid is put in the child (`CLONE_CHILD_SETTID`).
    pub child_tid: u64,
    /// Where the child's tid is put in the parent (`CLONE_PARENT_SETTID`).
    pub parent_tid: u64,
    /// The signal at the child's end.
    pub exit_signal: u64,
    /// The lowest byte of the child's stack.
    pub stack: u64,
    /// Its size in bytes.
    pub stack_size: u64,
    /// The child's TLS (`CLONE_SETTLS`).
    pub tls: u64,
    /// The address of an array of pids, one a pid namespace, innermost first.
    pub set_tid: u64,
    /// The length of that array.
    pub set_tid_size: u64,
    /// A cgroup's descriptor (`CLONE_INTO_CGROUP`).
    pub cgroup: u64,
}
const _: () = assert!(size_of::<CloneArgs>() == 88);

/// `CLONE_CLEAR_SIGHAND` (Linux 5.5): every handler of the child is the
/// default one.
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

impl CloneArgs {
    /// Returns the structure as the kernel reads it.
    pub fn to_bytes(self) -> [u8; 88] {
        let words = [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
            self.cgroup,
        ];
        let mut bytes = [0; 88];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
