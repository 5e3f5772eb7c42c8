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

/// How many pid namespaces there can be inside one another, the first one not
/// counted (`include/linux/pid_namespace.h`).
pub const MAX_PID_NS_LEVEL: u64 = 32;

/// Tells whether there is a `clone3`: an argument of no size is EINVAL, while a
/// kernel without it, or a filter, answers ENOSYS.
pub fn is_there() -> bool {
    // SAFETY: with a size below that of version 0 (64 bytes) the kernel refuses
    // before it reads anything (`kernel/fork.c`, `copy_clone_args_from_user`).
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

/// Makes a child like `fork(2)` does, with these pids: one a pid namespace,
/// innermost first, or none for any. Returns 0 in the child, and its pid here.
///
/// `count` is told to the kernel as it is. More than [`MAX_PID_NS_LEVEL`] is
/// refused there before the array is read; less, but more than `pids` has, is
/// refused here.
///
/// # Safety
///
/// As `fork(2)`: where other threads run, the child may only do what is
/// async-signal-safe. It must not return from the function that called this.
pub unsafe fn fork(flags: u64, pids: &[i32], count: u64) -> std::io::Result<i32> {
    if count <= MAX_PID_NS_LEVEL && count > pids.len() as u64 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    if flags & libc::CLONE_VM as u64 != 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let args = CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        // An array of no length is EINVAL, none is not.
        set_tid: if pids.is_empty() { 0 } else { pids.as_ptr() as u64 },
        set_tid_size: count,
        ..Default::default()
    };
    // SAFETY: the arguments are a live structure of the size given, the array
    // holds what the kernel reads of it, and memory is not shared.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) } {
        -1 => Err(std::io::Error::last_os_error()),
        pid => Ok(pid as i32),
    }
}

/// Makes a child with a copy of this process's memory that runs a program of
/// the interpreter (see [`super::arch::Op`]) instead of returning, and returns
/// its pid.
///
/// Safe to call: in the caller it is one system call; the child is a process
/// of its own, and what its program does is the affair of whoever wrote it.
pub fn run_program(
    args: &[u8; size_of::<CloneArgs>()],
    code: u64,
    program: u64,
    report: u64,
) -> std::io::Result<i32> {
    const CLONE_VM: u64 = libc::CLONE_VM as u64;
    let mut flags = [0; 8];
    flags.copy_from_slice(&args[..8]);
    if u64::from_ne_bytes(flags) & CLONE_VM != 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let (first, nr) = (args.as_ptr().expose_provenance(), libc::SYS_clone3);
    let result =
        // SAFETY: `args` is as long as said and does not share memory, so this
        // process's memory is out of the child's reach.
        unsafe { super::arch::clone_and_run(nr, first, args.len(), code, program, report) };
    answer(result)
}

/// The same with `clone(2)`, whose child has the next pid: for a pid that has
/// been made the next one. Its handlers are the caller's, at addresses that
/// will mean nothing.
pub fn run_program_next(code: u64, program: u64, report: u64) -> std::io::Result<i32> {
    let flags = libc::SIGCHLD as usize;
    // SAFETY: like fork(2): memory is not shared.
    answer(unsafe { super::arch::clone_and_run(libc::SYS_clone, flags, 0, code, program, report) })
}

fn answer(result: i64) -> std::io::Result<i32> {
    match result {
        error if error < 0 => Err(std::io::Error::from_raw_os_error(-error as i32)),
        pid => Ok(pid as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_the_array_does_not_have_is_refused_here() {
        // SAFETY: refused before a child is made.
        let refused = |flags, pids: &[i32], count| unsafe { fork(flags, pids, count) }.unwrap_err();
        assert_eq!(refused(0, &[5], 2).kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(refused(libc::CLONE_VM as u64, &[], 0).kind(), std::io::ErrorKind::InvalidInput);
        assert!(is_there());
    }
}
