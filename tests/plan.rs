//! Plans: what the planner makes of an image, and what a plan may not be.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::path::Path;

use facts::facts;
use warmstart::image::{Set, vma_status};
use warmstart::restore::plan::{Arg, Check, Operation, Plan, PlanError, PlanFile};
use warmstart::restore::planner::{self, PageMode};

#[path = "image/facts.rs"]
mod facts;

fn golden() -> Set {
    Set::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("images/golden")).unwrap()
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

/// A heap of more than 2 GiB never came back: the kernel reads less at a time
/// than the one call asked for.
#[test]
fn a_long_run_is_read_in_parts() {
    const START: u64 = 1 << 32;
    const PAGES: u64 = 5 << 17;
    let mut set = golden();
    let task = &mut set.tasks[0];
    let small = task.mm.vmas.iter().find(|vma| vma.status & vma_status::ANON_PRIVATE != 0);
    let mut vma = *small.unwrap();
    (vma.start, vma.end, vma.madv) = (START, START + PAGES * 4096, None);
    let at = task.mm.vmas.partition_point(|vma| vma.start < START);
    task.mm.vmas.insert(at, vma);
    let entries = &mut task.pagemap.entries;
    let mut run = entries[0];
    (run.vaddr, run.nr_pages) = (START, Some(PAGES));
    let at = entries.partition_point(|entry| entry.vaddr < START);
    entries.insert(at, run);
    let plan = planner::compile(&set, &facts(PageMode::Copied)).unwrap();
    let text = plan.to_string();
    for read in [
        "pread64(pages, 0x100000000, 0x40000000, 0x1000) = 1073741824",
        "pread64(pages, 0x140000000, 0x40000000, 0x40001000) = 1073741824",
        "pread64(pages, 0x180000000, 0x20000000, 0x80001000) = 536870912",
    ] {
        assert!(text.contains(read), "{text}");
    }
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
    assert!(matches!(Plan::decode(&bytes), Err(PlanError::Version(7))));
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
        ("a frame that is too short", |plan| plan.threads[0].frame.len = 303),
        ("a relative program", |plan| plan.exe = b"a".to_vec()),
        ("a place beyond user memory", |plan| plan.places = vec![1 << 62]),
    ];
    for (what, change) in changes {
        assert!(hostile(change).is_err(), "{what} was accepted");
    }
}

/// What a plan's calls leave open, by a model of a descriptor table: which end
/// of which pipe, or something else.
fn opened_by(plan: &Plan) -> BTreeMap<u64, &'static str> {
    let mut table: BTreeMap<u64, &str> = (0..3).map(|fd| (fd, "caller's")).collect();
    let lowest = |table: &BTreeMap<u64, &str>| (0..).find(|fd| !table.contains_key(fd)).unwrap();
    for operation in &plan.file().operations {
        let arg = |index: usize| match operation.arg(index) {
            Arg::Value(value) => value,
            _ => u64::MAX,
        };
        match i64::from(operation.number) {
            libc::SYS_close => drop(table.remove(&arg(0)).expect("closes what is open")),
            libc::SYS_dup3 => {
                let what = table[&arg(0)];
                assert_ne!(arg(0), arg(1), "EINVAL");
                table.insert(arg(1), what);
            }
            libc::SYS_pipe2 => {
                let read = lowest(&table);
                table.insert(read, "reads");
                let write = lowest(&table);
                table.insert(write, "writes");
            }
            libc::SYS_openat | libc::SYS_socket | libc::SYS_epoll_create1 | libc::SYS_eventfd2 => {
                let made = lowest(&table);
                assert_eq!(operation.result(), Check::Equals(made as i64));
                table.insert(made, "other");
            }
            _ => {}
        }
    }
    table
}

/// A pipe above a hole came back with its ends swapped, or as one end twice.
#[test]
fn pipes_come_back_wherever_their_ends_are() {
    use warmstart::image::proto::{FdTypes, FdinfoEntry, FileEntry, PipeEntry};
    const NUMBERS: std::ops::Range<u32> = 3..9;
    for (reads, writes) in NUMBERS.flat_map(|r| NUMBERS.map(move |w| (r, w))) {
        if reads == writes {
            continue;
        }
        for others in 0..16u32 {
            let mut set = golden();
            set.tasks[0].fdinfo.retain(|entry| entry.fd < 3);
            for (id, fd, flags) in [(100, reads, 0), (101, writes, 1)] {
                let pipe = PipeEntry { id, pipe_id: 7, flags, ..Default::default() };
                let kind = FdTypes::Pipe.into();
                let file = FileEntry { id, r#type: kind, pipe: Some(pipe), ..Default::default() };
                set.files.push(file);
                let entry = FdinfoEntry { id, r#type: kind, fd, ..Default::default() };
                set.tasks[0].fdinfo.push(entry);
            }
            // Some of the first numbers hold something else.
            for fd in (3..7).filter(|fd| others & 1 << (fd - 3) != 0) {
                if fd != reads && fd != writes {
                    let kind = FdTypes::Reg.into();
                    let entry = FdinfoEntry { id: 4, r#type: kind, fd, ..Default::default() };
                    set.tasks[0].fdinfo.push(entry);
                }
            }
            let expected: BTreeMap<u64, &str> = set.tasks[0]
                .fdinfo
                .iter()
                .map(|entry| match entry.fd {
                    fd if fd == reads => (u64::from(fd), "reads"),
                    fd if fd == writes => (u64::from(fd), "writes"),
                    fd if fd < 3 => (u64::from(fd), "caller's"),
                    fd => (u64::from(fd), "other"),
                })
                .collect();
            let plan = planner::compile(&set, &facts(PageMode::Mapped)).unwrap();
            assert_eq!(opened_by(&plan), expected, "{reads} {writes} {others:b}");
        }
    }
}
