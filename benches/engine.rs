//! What a capture and a restore cost besides system calls: reading an image,
//! compiling its plan, loading the plan.
//!
//! The image is of the size of a small server's: 25 threads, 300 areas.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use warmstart::image::proto::{PagemapEntry, VmaEntry};
use warmstart::image::{PAGES_FILE, Set, pagemap_flags, vma_status};
use warmstart::restore::plan::Plan;
use warmstart::restore::planner::{self, PageMode};

#[path = "../tests/image/facts.rs"]
#[allow(missing_docs)]
mod facts;
#[path = "../tests/image/sample.rs"]
#[allow(dead_code, missing_docs)]
mod sample;

const THREADS: u32 = 25;
const AREAS: u64 = 300;

fn server() -> Set {
    let mut set = sample::sample();
    let task = &mut set.tasks[0];
    let worker = task.threads[1].clone();
    for tid in 44..44 + THREADS - 2 {
        let mut thread = worker.clone();
        thread.tid = tid;
        task.threads.push(thread);
        set.pstree[0].threads.push(tid);
    }
    let template = *task.mm.vmas.iter().find(|vma| vma.start == 0x7f00_0000_0000).unwrap();
    let flags = Some(pagemap_flags::PRESENT);
    for index in 0..AREAS {
        let start = 0x7e00_0000_0000 + index * 0x20_0000;
        let area = VmaEntry { start, end: start + 0x10_0000, madv: None, ..template };
        assert_ne!(area.status & vma_status::ANON_PRIVATE, 0);
        task.mm.vmas.push(area);
        let run = |vaddr, pages| PagemapEntry {
            vaddr,
            compat_nr_pages: pages,
            nr_pages: Some(u64::from(pages)),
            flags,
            ..Default::default()
        };
        task.pagemap.entries.push(run(start, 16));
        task.pagemap.entries.push(run(start + 0x8_0000, 32));
    }
    task.mm.vmas.sort_by_key(|vma| vma.start);
    task.pagemap.entries.sort_by_key(|run| run.vaddr);
    set
}

fn engine(criterion: &mut Criterion) {
    let set = server();
    let dir = tempfile::tempdir().unwrap();
    set.write(dir.path()).unwrap();
    std::fs::write(dir.path().join(PAGES_FILE), []).unwrap();
    let facts = facts::facts(PageMode::Mapped);
    let plan = planner::compile(&set, &facts).unwrap();
    plan.write(dir.path()).unwrap();
    criterion.bench_function("image: read", |bencher| {
        // The pages file of this made-up server is empty.
        bencher.iter(|| black_box(Set::read(black_box(dir.path())).is_ok()));
    });
    criterion.bench_function("plan: compile", |bencher| {
        bencher.iter(|| planner::compile(black_box(&set), black_box(&facts)).unwrap());
    });
    criterion.bench_function("plan: load and check", |bencher| {
        bencher.iter(|| Plan::read(black_box(dir.path())).unwrap());
    });
}

criterion_group!(benches, engine);
criterion_main!(benches);
