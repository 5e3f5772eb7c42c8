//! Plans that nobody should trust: with a right checksum, but another content.
//!
//! Without processes: decoding never panics, and what a planner could not have
//! written is refused by name. With processes: a real plan is changed at
//! random, many times, and what is accepted is carried out; the launcher's
//! side must neither crash nor hang, and leave no half process.
//!
//! What the capability must not be used for, by an ordinary user through the
//! whole binary, is in `tests/narrow.rs`.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use trial::{Dice, Trial, repeat};
use warmstart::pids::Strategy;
use warmstart::restore::host::Clock;
use warmstart::restore::plan::{
    Arg, Bytes, Check, Frame, KernelArea, KernelAreaKind, MemoryMap, Operation, Plan, PlanFile,
    ThreadPlan,
};
use warmstart::restore::{CannotRestore, Request, native};

const LEN_HEADER: usize = 56;
const PLACE: u64 = 0x6000_0000_0000;
const LEN_PLACE: u64 = 1 << 20;
const VDSO: u64 = 0x7fff_f000_0000;

/// A plan as simple as can be, which is accepted.
fn simple() -> PlanFile {
    let map = [
        Arg::Value(0x10_0000),
        Arg::Value(0x2000),
        Arg::Value(3),
        Arg::Value((libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS) as u64),
        Arg::Value(u64::MAX),
        Arg::Value(0),
    ];
    let at = Arg::Value(libc::AT_FDCWD as i64 as u64);
    let open = [at, Arg::Data(0), Arg::Value(0), Arg::Value(0)];
    let area = |kind: KernelAreaKind, addr| KernelArea { kind: kind as i32, addr, len: 0x2000 };
    let mut data = b"/usr/bin/true\0\0\0".to_vec();
    data.resize(1024, 0);
    PlanFile {
        boot_id: "boot".into(),
        vdso_digest: vec![0; 32],
        xfeatures: 7,
        exe: b"/usr/bin/true".to_vec(),
        len_pages: 0,
        mapped: false,
        kernel_areas: vec![
            area(KernelAreaKind::Vdso, VDSO),
            area(KernelAreaKind::Vvar, VDSO - 0x4000),
        ],
        places: vec![PLACE],
        len_place: LEN_PLACE,
        fd_ceiling: 3,
        memory_map: MemoryMap { auxv_offset: 0, auxv_len: 16, ..Default::default() },
        operations: vec![
            Operation::new(libc::SYS_mmap, &map, Check::Ok),
            Operation::new(libc::SYS_openat, &open, Check::Equals(3)),
        ],
        threads: vec![ThreadPlan {
            tid: 4242,
            operations: vec![Operation::new(
                libc::SYS_set_tid_address,
                &[Arg::Value(0x10_0000)],
                Check::Ok,
            )],
            frame: Frame { offset: 64, len: 832, head: 400, tail: 32 },
        }],
        data,
        ..Default::default()
    }
}

/// Fails unless the plan is refused; returns why.
#[track_caller]
fn refused(change: impl FnOnce(&mut PlanFile)) -> String {
    let mut file = simple();
    change(&mut file);
    match Plan::new(file.clone()) {
        Ok(_) => panic!("accepted: {file:?}"),
        Err(error) => error.to_string(),
    }
}

fn operation(number: i64, args: &[Arg]) -> Operation {
    Operation::new(number, args, Check::Any)
}

fn map_at(addr: u64, len: u64) -> Operation {
    let mut operation = simple().operations.remove(0);
    operation.arguments[0] = addr;
    operation.arguments[1] = len;
    operation
}

#[test]
fn the_simple_plan_is_accepted() {
    let plan = Plan::new(simple()).unwrap();
    assert_eq!(Plan::decode(&plan.encode()).unwrap(), plan);
}

#[test]
fn where_the_restore_works_nothing_else_happens() {
    // Before, into, all around and behind the end of the place; the vDSO.
    for (addr, len) in [
        (PLACE, 0x1000),
        (PLACE - 0x1000, 0x2000),
        (PLACE + LEN_PLACE - 0x1000, 0x1000),
        (0x10_0000, PLACE),
        (VDSO, 0x1000),
        (VDSO - 0x4000, 0x1000),
        (VDSO - 0x10_0000, 0x20_0000),
    ] {
        let why = refused(|file| file.operations.push(map_at(addr, len)));
        assert!(why.contains("where the restore works"), "{why}");
        for number in [libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_mlock2] {
            let args = [Arg::Value(addr), Arg::Value(len), Arg::Value(1)];
            refused(|file| file.operations.push(operation(number, &args)));
        }
        let args = [Arg::Pages, Arg::Value(addr), Arg::Value(len), Arg::Value(0)];
        refused(|file| file.operations.push(operation(libc::SYS_pread64, &args)));
    }
    for addr in [PLACE, PLACE + 0x800, VDSO] {
        for number in [libc::SYS_set_tid_address, libc::SYS_rseq, libc::SYS_set_robust_list] {
            let args = [Arg::Value(addr), Arg::Value(24)];
            refused(|file| file.threads[0].operations.push(operation(number, &args)));
        }
    }
    // The neighbours are fine.
    for (addr, len) in [(PLACE - 0x1000, 0x1000), (PLACE + LEN_PLACE, 0x1000)] {
        let mut file = simple();
        file.operations.push(map_at(addr, len));
        Plan::new(file).unwrap();
    }
    // Places and areas must not meet each other either.
    refused(|file| file.places.push(PLACE));
    refused(|file| file.places.push(PLACE + LEN_PLACE / 2));
    refused(|file| file.kernel_areas[0].addr = PLACE);
    refused(|file| file.kernel_areas[1].addr = VDSO + 0x1000);
    refused(|file| file.len_place = VDSO);
}

#[test]
fn addresses_outside_user_memory_are_refused() {
    for (addr, len) in [
        (0, 0x1000),
        (0x800, 0x1000),
        (0xffff_8000_0000_0000, 0x1000),
        (0x7fff_ffff_f000, 0x1000),
        (0x7fff_ffff_e000, 0x2000),
        (u64::MAX - 0xfff, 0x2000),
        (0x10_0000, 0),
        (0x10_0000, u64::MAX - 0xfff),
        (0x10_0001, 0x1000),
        (0x10_0000, 0x1001),
    ] {
        refused(|file| file.operations.push(map_at(addr, len)));
    }
    refused(|file| file.kernel_areas[0].addr = 0xffff_8000_0000_0000);
    refused(|file| file.places[0] = 0x7fff_ffff_f000);
    refused(|file| file.places.clear());
}

#[test]
fn pointers_lie_in_the_data() {
    for offset in [1024, 1020, u64::MAX, u64::MAX - 7, 1 << 40] {
        refused(|file| file.threads[0].frame.offset = offset);
        refused(|file| file.memory_map.auxv_offset = offset);
        let args = [Arg::Value(0), Arg::Value(1), Arg::Data(offset), Arg::Value(0)];
        refused(|file| file.operations.push(operation(libc::SYS_prlimit64, &args)));
        let args = [Arg::Value(1), Arg::Data(offset), Arg::Value(8)];
        refused(|file| file.operations.push(operation(libc::SYS_write, &args)));
        let at = Arg::Value(libc::AT_FDCWD as i64 as u64);
        refused(|file| {
            let args = [at, Arg::Data(offset), Arg::Value(0), Arg::Value(0)];
            file.operations.push(operation(libc::SYS_openat, &args));
        });
    }
    // A length that does not fit, a path without an end, a pointer as a value.
    let args = [Arg::Value(1), Arg::Data(0), Arg::Value(1025)];
    refused(|file| file.operations.push(operation(libc::SYS_write, &args)));
    refused(|file| {
        file.data[512..].fill(b'x');
        file.operations.push(operation(libc::SYS_chdir, &[Arg::Data(512)]));
    });
    refused(|file| file.operations.push(operation(libc::SYS_chdir, &[Arg::Value(0x10_0000)])));
    refused(|file| file.threads[0].frame.len = 1 << 20);
    refused(|file| file.threads[0].frame.len = 431);
    for stored in [303, 801, 1 << 20, u64::MAX, u64::MAX - 16] {
        refused(|file| file.threads[0].frame.head = stored);
    }
    for stored in [433, 1 << 20, u64::MAX, u64::MAX - 400] {
        refused(|file| file.threads[0].frame.tail = stored);
    }
    refused(|file| file.memory_map.auxv_len = 4096);
}

#[test]
fn calls_that_no_planner_writes_are_refused() {
    for number in [
        libc::SYS_execve,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_kill,
        libc::SYS_ptrace,
        libc::SYS_capset,
        libc::SYS_setuid,
        libc::SYS_mount,
        libc::SYS_reboot,
        libc::SYS_clone3,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit_group,
        libc::SYS_process_vm_writev,
        -1,
        1 << 31,
    ] {
        let why = refused(|file| file.operations.push(operation(number, &[])));
        assert!(why.contains("is not allowed"), "{why}");
    }
    for advice in [libc::MADV_HWPOISON, libc::MADV_REMOVE, libc::MADV_DONTNEED, libc::MADV_FREE] {
        let args = [Arg::Value(0x10_0000), Arg::Value(0x1000), Arg::Value(advice as u64)];
        refused(|file| file.operations.push(operation(libc::SYS_madvise, &args)));
    }
    for option in [libc::PR_SET_MM, libc::PR_SET_PDEATHSIG, libc::PR_SET_SECCOMP] {
        let args = [Arg::Value(option as u64), Arg::Value(0)];
        refused(|file| file.operations.push(operation(libc::SYS_prctl, &args)));
    }
    for (option, argument) in [(libc::PR_SET_PDEATHSIG, libc::SIGCHLD), (libc::PR_MCE_KILL, 0)] {
        let args = [Arg::Value(option as u64), Arg::Value(argument as u64)];
        refused(|file| file.operations.push(operation(libc::SYS_prctl, &args)));
    }
    // Signals to others than the program and its threads, or that end it.
    for (pid, signal) in [(1, 10), (4242, 9), (4242, 0), (4242, 65), (4243, 10)] {
        let args = [Arg::Value(pid), Arg::Value(signal), Arg::Data(0)];
        refused(|file| file.operations.push(operation(libc::SYS_rt_sigqueueinfo, &args)));
        let args = [Arg::Value(pid), Arg::Value(pid), Arg::Value(signal), Arg::Data(0)];
        refused(|file| file.operations.push(operation(libc::SYS_rt_tgsigqueueinfo, &args)));
    }
    // Signals for what comes in, to others; a watch that changes more than it sees.
    for pid in [1, 4243] {
        let args = [Arg::Value(3), Arg::Value(libc::F_SETOWN as u64), Arg::Value(pid)];
        refused(|file| file.operations.push(operation(libc::SYS_fcntl, &args)));
    }
    let args = [Arg::Value(3), Arg::Data(0), Arg::Value(1 << 20)];
    refused(|file| file.operations.push(operation(libc::SYS_inotify_add_watch, &args)));
    let args = [Arg::Value(3), Arg::Value(0x5401), Arg::Value(1)];
    refused(|file| file.operations.push(operation(libc::SYS_ioctl, &args)));
    // A pages file that is not named; sealed huge memory; a send that waits.
    let args = [Arg::Value(3), Arg::MorePages(2), Arg::Value(0), Arg::Value(4096)];
    refused(|file| file.operations.push(operation(libc::SYS_sendfile, &args)));
    let args = [Arg::Data(0), Arg::Value(u64::from(libc::MFD_HUGETLB))];
    refused(|file| file.operations.push(operation(libc::SYS_memfd_create, &args)));
    let args = [Arg::Value(3), Arg::Data(0), Arg::Value(1), Arg::Value(0)];
    refused(|file| file.operations.push(operation(libc::SYS_sendto, &args)));
    let args = [Arg::Value(libc::MCL_CURRENT as u64)];
    refused(|file| file.operations.push(operation(libc::SYS_mlockall, &args)));
    // Somebody else's limits; the restore's own descriptors; more arguments
    // than there are; a descriptor that the caller did not promise.
    let args = [Arg::Value(1), Arg::Value(1), Arg::Data(0), Arg::Value(0)];
    refused(|file| file.operations.push(operation(libc::SYS_prlimit64, &args)));
    refused(|file| file.operations.push(operation(libc::SYS_close, &[Arg::Value(64)])));
    refused(|file| file.operations.push(operation(libc::SYS_close, &[Arg::Value(3); 2])));
    refused(|file| file.operations.push(operation(libc::SYS_close, &[Arg::Caller(9)])));
    refused(|file| file.operations[0].arguments[3] &= !(libc::MAP_FIXED as u64));
}

/// Pages files beside the first are named once, and are made of pages.
#[test]
fn pages_files_are_as_the_planner_names_them() {
    let file = |id, len| warmstart::restore::plan::PagesFile { id, len };
    for bad in [
        vec![file(1, 4096)],
        vec![file(2, 4095)],
        vec![file(2, 0), file(2, 0)],
        (2..2000).map(|id| file(id, 0)).collect(),
    ] {
        let why = refused(|plan| plan.more_pages = bad);
        assert!(why.contains("pages files"), "{why}");
    }
}

#[test]
fn counts_are_bounded() {
    refused(|file| file.threads.clear());
    refused(|file| file.threads.push(file.threads[0].clone()));
    for tid in [0, 1, -1, i32::MIN, i32::MAX, 1 << 22] {
        refused(|file| file.threads[0].tid = tid);
    }
    refused(|file| {
        let thread = file.threads[0].clone();
        let more = (0..100_001).map(|tid| ThreadPlan { tid: 5000 + tid, ..thread.clone() });
        file.threads = more.collect();
    });
    refused(|file| file.fd_ceiling = u32::MAX);
    refused(|file| file.len_pages = 1);
    refused(|file| file.closed = vec![3]);
    refused(|file| file.exe = b"relative".to_vec());
    refused(|file| file.exe = b"/a\0b".to_vec());
    refused(|file| file.vdso_digest.clear());
    refused(|file| file.places = (0..65).map(|n| PLACE + n * LEN_PLACE).collect());
}

/// Puts the right length and checksum before a payload.
fn sealed(plan: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = plan[..LEN_HEADER].to_vec();
    bytes[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes[24..56].copy_from_slice(&Sha256::digest(payload));
    bytes.extend_from_slice(payload);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(repeat(2000)) })]

    #[test]
    fn any_byte_flipped_is_noticed(at in 0usize..4096, bit in 0u32..8) {
        let mut bytes = Plan::new(simple()).unwrap().encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Plan::decode(&bytes).is_err());
    }

    #[test]
    fn any_other_length_is_noticed(len in 0usize..4096) {
        let mut bytes = Plan::new(simple()).unwrap().encode();
        prop_assume!(len != bytes.len());
        bytes.resize(len, 0);
        prop_assert!(Plan::decode(&bytes).is_err());
    }

    #[test]
    fn a_payload_under_a_right_checksum_never_panics(
        changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..8),
        cut in proptest::option::of(0usize..4096),
    ) {
        let plan = Plan::new(simple()).unwrap().encode();
        let mut payload = plan[LEN_HEADER..].to_vec();
        for (at, byte) in changes {
            let at = at % payload.len();
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut);
        }
        if let Ok(plan) = Plan::decode(&sealed(&plan, &payload)) {
            // What is accepted can be shown and written again.
            for operation in &plan.file().operations {
                let _ = plan.describe(operation);
            }
            prop_assert_eq!(&Plan::decode(&plan.encode()).unwrap(), &plan);
        }
    }

    #[test]
    fn any_payload_under_a_right_checksum_never_panics(
        payload in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let plan = Plan::new(simple()).unwrap().encode();
        let _ = Plan::decode(&sealed(&plan, &payload));
    }
}

/// Changes a plan somewhere.
fn mutate(file: &mut PlanFile, dice: &mut Dice) {
    match dice.below(20) {
        0..=9 => {
            let count = file.operations.len() as u64;
            let index = dice.below(count) as usize;
            mutate_operation(&mut file.operations[index], dice);
        }
        10..=11 => {
            let thread = dice.below(file.threads.len() as u64) as usize;
            let operations = &mut file.threads[thread].operations;
            if !operations.is_empty() {
                let index = dice.below(operations.len() as u64) as usize;
                mutate_operation(&mut operations[index], dice);
            }
        }
        12 => {
            let count = file.operations.len() as u64;
            let (a, b) = (dice.below(count) as usize, dice.below(count) as usize);
            file.operations.swap(a, b);
        }
        13 => {
            let index = dice.below(file.operations.len() as u64) as usize;
            let operation = file.operations.remove(index);
            if dice.below(2) == 0 {
                file.operations.insert(index, operation);
                file.operations.insert(index, operation);
            }
        }
        14..=15 => {
            for _ in 0..=dice.below(8) {
                let at = dice.below(file.data.len() as u64) as usize;
                file.data[at] ^= 1 << dice.below(8);
            }
        }
        16 => {
            let thread = dice.below(file.threads.len() as u64) as usize;
            let thread = &mut file.threads[thread];
            let frame = &mut thread.frame;
            match dice.below(5) {
                0 => frame.offset = other_number(frame.offset, dice),
                1 => frame.len = other_number(frame.len, dice),
                2 => frame.head = other_number(frame.head, dice),
                3 => frame.tail = other_number(frame.tail, dice),
                _ => thread.tid = 300 + dice.below(30_000) as i32,
            }
        }
        17 => {
            let map = &mut file.memory_map;
            let fields = [
                &mut map.start_code,
                &mut map.end_data,
                &mut map.start_brk,
                &mut map.brk,
                &mut map.start_stack,
                &mut map.arg_start,
                &mut map.arg_end,
                &mut map.env_end,
                &mut map.auxv_offset,
                &mut map.auxv_len,
            ];
            let index = dice.below(fields.len() as u64) as usize;
            let [..] = fields;
            let field = fields.into_iter().nth(index).unwrap();
            *field = other_number(*field, dice);
        }
        18 => {
            let index = dice.below(file.kernel_areas.len() as u64) as usize;
            let area = &mut file.kernel_areas[index];
            area.addr = other_number(area.addr, dice) / 4096 * 4096;
        }
        _ => match dice.below(4) {
            0 => file.fd_ceiling = dice.below(2000) as u32,
            1 => file.len_place = other_number(file.len_place, dice),
            2 => file.nofile = Some(dice.below(100)),
            _ => {
                // More threads than were there.
                let mut thread = file.threads[0].clone();
                thread.tid = 300 + dice.below(30_000) as i32;
                file.threads.push(thread);
            }
        },
    }
}

fn mutate_operation(operation: &mut Operation, dice: &mut Dice) {
    const CALLS: [i64; 14] = [
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_pread64,
        libc::SYS_openat,
        libc::SYS_unlinkat,
        libc::SYS_close,
        libc::SYS_dup3,
        libc::SYS_lseek,
        libc::SYS_write,
        libc::SYS_rt_sigaction,
        libc::SYS_prlimit64,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
    ];
    match dice.below(8) {
        0 => operation.number = *dice.one(&CALLS) as u16,
        1 => operation.kinds = dice.next() as u32 & 0x33_3333,
        2 => operation.check = dice.below(3) as u8,
        3 => operation.expected = dice.below(70) as i64 - 35,
        _ if operation.count == 0 => {}
        _ => {
            let index = dice.below(u64::from(operation.count)) as usize;
            operation.arguments[index] = other_number(operation.arguments[index], dice);
        }
    }
}

fn other_number(number: u64, dice: &mut Dice) -> u64 {
    match dice.below(7) {
        0 => number ^ 1 << dice.below(48),
        1 => number.wrapping_add(4096),
        2 => number.wrapping_sub(4096),
        3 => dice.below(70),
        4 => dice.next() >> 17 & !4095,
        5 => number & !4095,
        _ => number / 2,
    }
}

/// The name under which this test binary is started again, and for what.
const ROLE: &str = "WARMSTART_HOSTILE_ROLE";
/// The deadline of a restore in here: a good one needs some milliseconds.
const DEADLINE: Duration = Duration::from_millis(700);

/// Ends a restored program, whatever it is doing.
fn end(pid: i32) {
    let pid = Pid::from_raw(pid);
    let _ = kill(pid, Signal::SIGKILL);
    waitpid(pid, None).unwrap();
}

fn request(dir: &Path) -> Request<'_> {
    Request {
        dir,
        plan: Bytes::Unknown,
        program: None,
        keep: &[],
        lent: &[],
        closed_stdio: [false; 3],
        ignored: &[],
        pids: &[Strategy::SetTid],
        pid_budget: 0,
        clock: Clock::Machines,
        deadline: DEADLINE,
    }
}

/// Fails if a child is left.
#[track_caller]
fn check_childless(what: &str) {
    let left = waitpid(None, Some(WaitPidFlag::WNOHANG));
    assert_eq!(left, Err(Errno::ECHILD), "{what}");
}

/// Restores changed plans; runs in a process of its own, where nothing can be
/// written but its directory.
fn play_mutations(dir: &Path, count: u32) {
    let original = Plan::read(dir).unwrap();
    fs::remove_file(dir.join("plan")).unwrap();
    let mut dice = Dice::new();
    let (mut refused, mut failed, mut restored, mut slow) = (0, 0, 0, 0);
    for round in 0..count {
        let mut file = original.file().clone();
        for _ in 0..=dice.below(3) {
            mutate(&mut file, &mut dice);
        }
        let Ok(plan) = Plan::new(file) else {
            refused += 1;
            continue;
        };
        plan.write(dir).unwrap();
        // For whoever looks after a crash.
        fs::copy(dir.join("plan"), dir.join("last")).unwrap();
        let began = Instant::now();
        match native(&request(dir)) {
            Ok(program) => {
                restored += 1;
                end(program.pid);
            }
            Err(CannotRestore::Deadline(_)) => slow += 1,
            Err(_) => failed += 1,
        }
        let took = began.elapsed();
        assert!(took < DEADLINE + Duration::from_secs(5), "round {round}: {took:?}");
        check_childless(&format!("round {round}"));
        fs::remove_file(dir.join("plan")).unwrap();
    }
    println!(
        "{count} plans: {refused} refused, {failed} failed, {slow} too slow, {restored} restored"
    );
    // After all that, the original still works.
    original.write(dir).unwrap();
    end(native(&request(dir)).unwrap().pid);
}

/// Restores a plan that waits for ever.
fn play_fifo(dir: &Path) {
    let original = Plan::read(dir).unwrap();
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for at_end in [false, true] {
        let mut file = original.file().clone();
        let path = file.data.len() as u64;
        file.data.extend_from_slice(fifo.as_os_str().as_encoded_bytes());
        file.data.push(0);
        file.len_place += 1 << 20;
        let at = Arg::Value(libc::AT_FDCWD as i64 as u64);
        let open =
            operation(libc::SYS_openat, &[at, Arg::Data(path), Arg::Value(0), Arg::Value(0)]);
        match at_end {
            false => file.operations.insert(0, open),
            true => file.operations.push(open),
        }
        fs::remove_file(dir.join("plan")).unwrap();
        Plan::new(file).unwrap().write(dir).unwrap();
        let began = Instant::now();
        let result = native(&request(dir));
        let took = began.elapsed();
        assert!(matches!(result, Err(CannotRestore::Deadline(_))), "{result:?}");
        assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(2), "{took:?}");
        check_childless("a plan that waits");
    }
    // FIFOs in the places of files: not waited for either.
    for name in ["plan", "pages-1.img"] {
        let (path, aside) = (dir.join(name), dir.join("aside"));
        fs::rename(&path, &aside).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let result = native(&request(dir));
        assert!(matches!(result, Err(CannotRestore::Unusable(_))), "{result:?}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let mut file = original.file().clone();
    file.exe = fifo.as_os_str().as_encoded_bytes().to_vec();
    fs::remove_file(dir.join("plan")).unwrap();
    Plan::new(file).unwrap().write(dir).unwrap();
    let result = native(&request(dir));
    assert!(matches!(result, Err(CannotRestore::Unusable(_))), "{result:?}");
    println!("all of them ended");
}

/// What this binary does when it is started by a test of its own.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var("TRIAL_DIR").unwrap()).join("image");
    match role.as_str() {
        "mutations" => play_mutations(&dir, repeat(300)),
        "fifo" => play_fifo(&dir),
        other => panic!("{other}"),
    }
}

/// Starts a role with an image of the Python program. Nothing but the trial's
/// directory can be written to: a changed plan may create or unlink anything.
fn act(role: &str) -> Result<String, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can make everything else read-only".into());
    }
    for program in ["unshare", "setpriv", "prlimit"] {
        if !trial::installed(program) {
            return Err(format!("there is no {program} (package util-linux)"));
        }
    }
    trial::can_restore()?;
    let trial = Trial::python("pass", "pass");
    trial.capture()?;
    let image = trial.path("image");
    fs::rename(trial.entry().join("image"), &image).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o700)).unwrap();
    trial.close_gate();
    let script = r#"
        mount --make-rprivate / && mount --bind "$TRIAL_DIR" "$TRIAL_DIR" || exit 99
        # Backwards: what is below is made read-only before what it is on.
        awk '{ print $5 }' /proc/self/mountinfo | tac | while read -r place; do
            place=$(printf '%b' "$place")
            [ "$place" = "$TRIAL_DIR" ] || mount -o remount,bind,ro "$place" || exit 99
        done || exit 99
        touch "$TRIAL_DIR/written" || exit 99
        if touch /usr/written 2>/dev/null; then echo "/usr can be written to"; exit 99; fi
        exec prlimit --as=4294967296 --memlock=8388608 --core=0 -- \
            setpriv --bounding-set=-all,+checkpoint_restore --inh-caps=-all -- \
            "$0" --exact role --nocapture"#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .env("TRIAL_DIR", trial.dir.path())
        .output()
        .unwrap();
    let said = support::stdout(&output) + &support::stderr(&output);
    eprintln!("{said}");
    if output.status.code() == Some(99) {
        return Err(format!("no private read-only mounts: {said}"));
    }
    assert!(output.status.success(), "{:?}", output.status);
    trial.check_nothing_left();
    Ok(said)
}

#[test]
fn changed_plans_are_refused_fail_or_run_and_never_hang() {
    match act("mutations") {
        Ok(said) => assert!(said.contains(" restored"), "{said}"),
        Err(missing) => skip!("{missing}"),
    }
}

#[test]
fn a_plan_that_waits_ends_by_its_deadline() {
    match act("fifo") {
        Ok(said) => assert!(said.contains("all of them ended"), "{said}"),
        Err(missing) => skip!("{missing}"),
    }
}
