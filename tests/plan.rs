//! Plans: what the planner makes of an image, and what a plan may not be.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;

use warmstart::image::Set;
use warmstart::restore::host::Host;
use warmstart::restore::plan::{Arg, Check, Operation, Plan, PlanError, PlanFile};
use warmstart::restore::planner::{self, Facts, Given, PageMode, Policy, Source, Written};

fn golden() -> Set {
    Set::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("images/golden")).unwrap()
}

fn facts(page_mode: PageMode) -> Facts {
    let stdio = |fd: i32| Given { fd, source: Source::Stdio(fd as u8), cloexec: false };
    Facts {
        given: (0..3).map(stdio).collect(),
        closed: vec![],
        written: vec![Written { id: 3, policy: Policy::Append { mode: 0o644 } }],
        page_mode,
        guards: vec![],
        no_new_privs: false,
        caller_limits: vec![],
        caller_personality: 0,
        changed: planner::Changed::default(),
        host: Host { boot_id: "boot".into(), vdso_digest: [7; 32], xfeatures: 0 },
    }
}

#[test]
fn the_plan_of_the_golden_image_mapped() {
    let plan = planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap();
    insta::assert_snapshot!(plan.to_string());
}

#[test]
fn the_plan_of_the_golden_image_copied() {
    let plan = planner::compile(&golden(), &facts(PageMode::Copied)).unwrap();
    insta::assert_snapshot!(plan.to_string());
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    let compile = || planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap().encode();
    assert_eq!(compile(), compile());
}

#[test]
fn a_plan_that_is_written_is_read() {
    let plan = planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    plan.write(dir.path()).unwrap();
    assert_eq!(Plan::read(dir.path()).unwrap(), plan);
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap().encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(Plan::decode(&damaged).is_err(), "byte {at}");
    }
    for len in 0..bytes.len() {
        assert!(Plan::decode(&bytes[..len]).is_err(), "length {len}");
    }
}

#[test]
fn another_version_is_named() {
    let mut bytes = planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap().encode();
    bytes[8] += 1;
    assert!(matches!(Plan::decode(&bytes), Err(PlanError::Version(2))));
}

fn hostile(change: impl FnOnce(&mut PlanFile)) -> Result<Plan, PlanError> {
    let plan = planner::compile(&golden(), &facts(PageMode::Mapped)).unwrap();
    let mut file = plan.file().clone();
    change(&mut file);
    Plan::new(file)
}

/// What an attacker could write into a plan with a right checksum.
#[test]
fn hostile_plans_are_refused() {
    assert!(hostile(|_| ()).is_ok());
    let call = |number: i64, args: &[Arg]| Operation::new(number, args, Check::Ok);
    let v = Arg::Value;
    let operations = [
        ("an exec", call(libc::SYS_execve, &[v(0), v(0), v(0)])),
        ("a kill", call(libc::SYS_kill, &[v(1), v(9)])),
        ("a mapping of kernel addresses", {
            call(libc::SYS_mmap, &[v(1 << 63), v(4096), v(3), v(0x32), v(u64::MAX), v(0)])
        }),
        ("a mapping that wraps", {
            call(libc::SYS_mmap, &[v(4096), v(u64::MAX - 4095), v(3), v(0x32), v(u64::MAX), v(0)])
        }),
        ("a mapping anywhere", {
            call(libc::SYS_mmap, &[v(8192), v(4096), v(3), v(0x22), v(u64::MAX), v(0)])
        }),
        ("a path outside the data", {
            call(libc::SYS_openat, &[v(libc::AT_FDCWD as u64), Arg::Data(1 << 40), v(0), v(0)])
        }),
        ("another prctl", call(libc::SYS_prctl, &[v(35), v(14), v(0), v(0), v(0)])),
        ("another limit's owner", call(libc::SYS_prlimit64, &[v(1), v(7), Arg::Data(0), v(0)])),
        ("too many arguments", call(libc::SYS_umask, &[v(0), v(0)])),
        ("a descriptor nobody gave", call(libc::SYS_dup3, &[Arg::Caller(9), v(4), v(0)])),
        ("bytes outside the data", { call(libc::SYS_write, &[v(4), Arg::Data(0), v(1 << 40)]) }),
    ];
    for (what, operation) in operations {
        let result = hostile(|plan| plan.operations.push(operation));
        assert!(matches!(result, Err(PlanError::Damaged(_))), "{what} was accepted");
    }
    type Change = (&'static str, fn(&mut PlanFile));
    let changes: [Change; 7] = [
        ("no threads", |plan| plan.threads.clear()),
        ("pid 1", |plan| plan.threads[0].tid = 1),
        ("a pid beyond the kernel's", |plan| plan.threads[0].tid = 1 << 22),
        ("a pid twice", |plan| plan.threads[1].tid = plan.threads[0].tid),
        ("a frame in the kernel", |plan| plan.threads[0].frame_addr = 1 << 63),
        ("a relative program", |plan| plan.exe = b"a".to_vec()),
        ("a place beyond user memory", |plan| plan.places = vec![1 << 62]),
    ];
    for (what, change) in changes {
        assert!(hostile(change).is_err(), "{what} was accepted");
    }
}
