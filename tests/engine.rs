//! What a restore must bring back, checked by programs that check themselves
//! (`tests/engine/*.c`): each is dumped, restored, dumped again, restored
//! again, and then told to look. In both ways of bringing memory back.
#![allow(clippy::unwrap_used)]

use std::fs;

use support::target::{Target, alone, compile, dump, restored_pid};

mod support;

/// How often a program is dumped and restored before it looks.
const GENERATIONS: usize = 2;

/// How memory comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    Copied,
    Mapped,
}

/// Carries a program through.
fn carried(name: &str, pages: Pages) {
    carried_with(name, pages, &[]);
}

/// The same with options of `image dump`.
fn carried_with(name: &str, pages: Pages, options: &[&str]) {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root may choose pids with this build of the binary");
    }
    let dir = support::cache();
    let program = match compile(name, dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    for generations in [0, GENERATIONS] {
        let work = dir.path().join(format!("work-{generations}"));
        fs::create_dir(&work).unwrap();
        let mut command = alone(&program);
        command.arg(&work).env("ENGINE_TEST", "yes");
        if pages == Pages::Mapped {
            command.arg("mapped");
        }
        let mut target = Target::start(command, &work.join("out-0"));
        target.wait_until(|said| said.contains("ready\n"));
        for generation in 1..=generations {
            let pid = if generation == 1 { target.pid() } else { program_of(&target) };
            let image = work.join(format!("image-{generation}"));
            dump(pid, &image, options);
            assert!(!target.wait().success(), "it was dumped to be killed");
            target = Target::restore(&image, &work.join(format!("out-{generation}")));
            target.wait_for_more();
            assert_eq!(program_of(&target), pid, "{}", target.said());
        }
        fs::write(work.join("go"), "").unwrap();
        let status = target.wait();
        let said = target.said();
        assert!(
            status.success() && said.ends_with("all is well\n"),
            "{name}, {pages:?}, restored {generations} times: {status}\n{said}"
        );
    }
}

fn program_of(launcher: &Target) -> i32 {
    restored_pid(launcher.pid()).unwrap_or_else(|| panic!("not restored: {}", launcher.said()))
}

#[test]
fn registers_copied() {
    carried("registers", Pages::Copied);
}

#[test]
fn registers_mapped() {
    carried("registers", Pages::Mapped);
}

#[test]
fn memory_copied() {
    carried("memory", Pages::Copied);
}

#[test]
fn memory_mapped() {
    carried("memory", Pages::Mapped);
}

#[test]
fn shared_copied() {
    carried("shared", Pages::Copied);
}

#[test]
fn shared_mapped() {
    carried("shared", Pages::Mapped);
}

#[test]
fn signals_copied() {
    carried("signals", Pages::Copied);
}

#[test]
fn signals_mapped() {
    carried("signals", Pages::Mapped);
}

#[test]
fn sockets_copied() {
    carried("sockets", Pages::Copied);
}

#[test]
fn sockets_mapped() {
    carried("sockets", Pages::Mapped);
}

#[test]
fn deleted_copied() {
    carried("deleted", Pages::Copied);
}

#[test]
fn deleted_mapped() {
    carried("deleted", Pages::Mapped);
}

#[test]
fn connections_are_closed() {
    carried_with("connections", Pages::Copied, &["--tcp", "close"]);
}

#[test]
fn descriptors_copied() {
    carried("descriptors", Pages::Copied);
}

#[test]
fn descriptors_mapped() {
    carried("descriptors", Pages::Mapped);
}

#[test]
fn process_copied() {
    carried("process", Pages::Copied);
}

#[test]
fn process_mapped() {
    carried("process", Pages::Mapped);
}

#[test]
fn threads_copied() {
    carried("threads", Pages::Copied);
}

#[test]
fn threads_mapped() {
    carried("threads", Pages::Mapped);
}
