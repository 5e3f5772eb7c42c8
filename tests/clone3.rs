//! What the kernel promises about pids of one's choice, through our wrapper of
//! `clone3(2)`: the cases of its own selftests `clone3_set_tid` (27) and
//! `clone3_cap_checkpoint_restore` (`tools/testing/selftests/clone3/`).
#![allow(unsafe_code, clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use warmstart::pids::{cursor, is_taken};
use warmstart::sys::capability::{self, CAP_CHECKPOINT_RESTORE, Sets};
use warmstart::sys::clone3::{self, MAX_PID_NS_LEVEL};

const NEWPID: u64 = libc::CLONE_NEWPID as u64;

/// Makes a child with these pids that ends at once: 0 if it saw the first of
/// them as its own, 1 if it did not. Returns its pid here and that, or the
/// negative errno.
fn attempt(flags: u64, pids: &[i32], count: u64) -> Result<(i32, i32), i32> {
    // SAFETY: the child makes two system calls.
    let pid = match unsafe { clone3::fork(flags, pids, count) } {
        // SAFETY: takes nothing, and ends the child.
        Ok(0) => unsafe { libc::_exit(i32::from(libc::getpid() != pids[0])) },
        Ok(pid) => pid,
        Err(error) => return Err(-error.raw_os_error().unwrap()),
    };
    Ok((pid, wait(pid)))
}

/// Waits for a child, returns its exit status.
fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: writes one int.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    if waited == pid && libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1000 }
}

/// The result of an attempt as the kernel's test counts it.
fn result(flags: u64, pids: &[i32], count: u64) -> i32 {
    attempt(flags, pids, count).map_or_else(|errno| errno, |(_, status)| status)
}

/// A pid that was in use and is free, far from what comes next; another one
/// for each test.
fn freed_pid() -> i32 {
    static TESTS: AtomicI32 = AtomicI32::new(0);
    let cursor = cursor::Cursor::open().unwrap();
    let last = cursor.last().unwrap();
    let max = cursor.pid_max();
    let far = (last + max / 2 + TESTS.fetch_add(1000, Relaxed)) % (max - 1000) + 500;
    let pid = (far..max).find(|&pid| !is_taken(pid)).unwrap();
    assert_eq!(attempt(0, &[pid], 1), Ok((pid, 0)));
    pid
}

#[test]
fn the_first_22_cases_of_clone3_set_tid() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    // A thread of its own: what it unshares is its own affair.
    let test = || {
        let pid_max = cursor::pid_max().unwrap();
        // Sizes that no namespace has: more than 32, or more than there are.
        for fill in [0, -1] {
            let pids = [fill; 64];
            for count in [33, 64, 65, 32 * 42, 31] {
                assert_eq!(result(0, &pids, count), -libc::EINVAL, "{count} of {fill}");
            }
        }
        for (flags, pids, expected) in [
            (0, &[0][..], -libc::EINVAL),
            (0, &[-1], -libc::EINVAL),
            (0, &[-1, 0], -libc::EINVAL),
            (NEWPID, &[-1], -libc::EINVAL),
            (0, &[1], -libc::EEXIST),
            (NEWPID, &[1], 0),
            (0, &[pid_max], -libc::EINVAL),
            (NEWPID, &[pid_max], -libc::EINVAL),
        ] {
            let count = pids.len() as u64;
            assert_eq!(result(flags, pids, count), expected, "{flags:#x} {pids:?}");
        }
        let pid = freed_pid();
        assert_eq!(attempt(0, &[pid], 1), Ok((pid, 0)));
        // There is no pid 1 in the new namespace.
        assert_eq!(result(NEWPID, &[pid], 1), -libc::EINVAL);
        // Pid 1 there, and this one here.
        assert_eq!(attempt(NEWPID, &[1, pid], 2), Ok((pid, 0)));
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        assert_eq!(result(0, &[pid], 1), -libc::EINVAL);
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn the_last_5_cases_of_clone3_set_tid() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let test = || {
        let pid = freed_pid();
        let ([mut from_init, to_us], [from_us, mut to_child]) = (pipe(), pipe());
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        // SAFETY: what follows in the child are system calls without locks or
        // allocations.
        let init = match unsafe { clone3::fork(0, &[], 0) }.unwrap() {
            0 => inside(pid, to_us, from_us),
            init => init,
        };
        drop((to_us, from_us));
        let mut answers = [0; 12];
        from_init.read_exact(&mut answers).unwrap();
        let answer =
            |at: usize| i32::from_ne_bytes(answers[4 * at..4 * at + 4].try_into().unwrap());
        assert_eq!(answer(0), 0, "pid 2");
        assert_eq!(answer(1), -libc::EINVAL, "an invalid pid one level up");
        assert_eq!(answer(2), -libc::EINVAL, "four pids, three namespaces");
        // The fourth case is the process whose pids are looked at, the fifth.
        let mut ready = [0];
        from_init.read_exact(&mut ready).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        let pids: Vec<_> = line.split_whitespace().skip(1).collect();
        // We may be in a namespace ourselves.
        assert_eq!(pids[pids.len() - 3..], [pid.to_string().as_str(), "42", "1"], "{line}");
        to_child.write_all(&[1]).unwrap();
        // It waits for its child, which has pid 42 to it.
        assert_eq!(wait(init), 0);
    };
    std::thread::spawn(test).join().unwrap();
}

fn pipe() -> [File; 2] {
    let (reader, writer) = warmstart::sys::process::pipe().unwrap();
    [reader.into(), writer.into()]
}

/// What pid 1 of the namespace does.
fn inside(pid: i32, to_us: File, from_us: File) -> ! {
    let send = |bytes: &[u8]| (&to_us).write_all(bytes).is_ok();
    let mut right = send(&result(0, &[2], 1).to_ne_bytes());
    right &= send(&result(NEWPID, &[1, -1, pid], 3).to_ne_bytes());
    right &= send(&result(NEWPID, &[1, 42, pid, 0], 4).to_ne_bytes());
    // SAFETY: the child makes system calls only.
    match unsafe { clone3::fork(NEWPID, &[1, 42, pid], 3) } {
        Ok(0) => {
            let told = send(&[1]) && (&from_us).read(&mut [0]).is_ok_and(|read| read == 1);
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!told)) }
        }
        Ok(child) => right &= child == 42 && wait(child) == 0,
        Err(_) => right = false,
    }
    // SAFETY: ends the namespace.
    unsafe { libc::_exit(i32::from(!right)) }
}

#[test]
fn the_cases_of_clone3_cap_checkpoint_restore() {
    if !nix::unistd::geteuid().is_root() || !support::can_choose_pids() {
        skip!("only root can become somebody else and keep one capability");
    }
    let test = || {
        let pid = freed_pid();
        let only = |bits: u64| {
            capability::capset(&Sets { effective: bits, permitted: bits, inheritable: 0 }).unwrap();
        };
        let capability = 1 << CAP_CHECKPOINT_RESTORE;
        // Of this thread alone: the C library would change all.
        let become_nobody = || {
            let nobody = support::NOBODY;
            // SAFETY: take numbers.
            unsafe {
                assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1u64, 0, 0, 0), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody), 0);
            }
        };
        become_nobody();
        // Permitted is kept, effective is not.
        assert_eq!(result(0, &[pid], 1), -libc::EPERM);
        only(capability);
        assert_eq!(attempt(0, &[pid], 1), Ok((pid, 0)));
        only(0);
        assert_eq!(result(0, &[pid], 1), -libc::EPERM);
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn our_own_limit_is_the_kernels() {
    // One more than the kernel's is its EINVAL, without any privilege; what is
    // within it must be in the array.
    assert_eq!(result(0, &[0], MAX_PID_NS_LEVEL + 1), -libc::EINVAL);
    // SAFETY: refused before a child is made.
    let refused = unsafe { clone3::fork(0, &[0], MAX_PID_NS_LEVEL) }.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}
