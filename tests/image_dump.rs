//! `warmstart image dump`: what it does to the process and to the directory,
//! and what it refuses, by name.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::target::{Target, alone, compile, dump, state, try_dump};
use support::{stderr, stdout};
use warmstart::image::Set;
use warmstart::trace::{Group, TraceError};

mod support;

/// Kinds of `tests/engine/refused.c`, and what the refusal names.
const REFUSED: &[(&str, &str)] = &[
    ("tcp", "is a connected TCP socket to 127.0.0.1:"),
    ("udp-unread", "is a UDP socket with an unread datagram"),
    ("unix-outside", "is a Unix socket connected to"),
    ("unix-waiting", "has a connection that waits to be accepted"),
    ("unix-in-flight", "with descriptors in flight (SCM_RIGHTS)"),
    ("unix-gone", "is a Unix socket whose file is gone"),
    ("filter", "is a socket with a filter"),
    ("netlink", "fd 3 is a netlink socket"),
    ("child-memory", "in its parent's memory"),
    ("child-fds", "share a table of descriptors"),
    ("child-cwd", "share their directories"),
    ("child-signal", "whose end gives signal 10"),
    ("child-group", "whose leader has ended"),
    ("child-session", "which no process above it leads"),
    ("cpuid", "may not execute cpuid"),
    ("dispatch", "dispatches its system calls"),
    ("speculation", "has a speculation control of its own"),
    ("inotify", "fd 3 is inotify that watches a file that is not found"),
    ("io_uring", "fd 3 is anon_inode:[io_uring]"),
    ("pidfd", "fd 3 is anon_inode:[pidfd]"),
    ("pipe", "fd 3 is a pipe whose other end is outside"),
    ("packets", "is a pipe of packets"),
    ("memfd-huge", "is huge pages of hugetlbfs"),
    ("memfd-huge-open", "/memfd:huge"),
    ("sysv", "is System V shared memory"),
    ("deleted", "a deleted file of 32 MiB"),
    ("renamed", "is a deleted or replaced file"),
    ("fifo", "is a named pipe with unread data of somebody else's"),
    ("cwd", "working directory is deleted"),
    ("async", "O_ASYNC"),
    ("lease", "fd 3 is"),
    ("ofd-lock", "fd 3 is locked (OFDLCK)"),
    ("userfaultfd", "fd 3 is anon_inode:[userfaultfd]"),
    ("pkey", "behind a protection key"),
    ("seccomp", "under a seccomp filter"),
    ("sealed", "is sealed"),
    ("pending", "has signal 15 pending"),
    ("namespace", "uts namespace of its own"),
    ("capabilities", "has other capabilities than it was started with"),
    ("groups", "has other groups than its caller"),
    ("thread-seccomp", "has rights of its own"),
    ("thread-user", "has rights of its own"),
    ("thread-cwd", "has directories of its own"),
    ("thread-fds", "has descriptors of its own"),
];

fn start(program: &Path, kind: &str, dir: &Path) -> Target {
    fs::create_dir(dir).unwrap();
    let mut command = alone(program);
    command.arg(kind).arg(dir);
    Target::start(command, &dir.join("out"))
}

/// Fails unless the process runs on, untraced, and counts without a gap.
fn runs_on(target: &mut Target) {
    let before = target.said().len();
    target.wait_until(|said| said.len() > before + 100);
    assert!(matches!(state(target.pid()), Some('R' | 'S')));
    let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
    let said = target.said();
    let whole = said.rsplit_once('\n').unwrap().0;
    let numbers: Vec<u64> =
        whole.lines().filter_map(|line| line.strip_prefix("tick ")?.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{said}");
}

#[test]
fn what_an_image_cannot_hold_is_refused_by_name_and_goes_on() {
    let dir = support::cache();
    let program = match compile("refused", dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let mut refused = 0;
    for (kind, reason) in REFUSED {
        let work = dir.path().join(kind);
        let mut target = start(&program, kind, &work);
        target.wait_until(|said| said.contains("ready\n") || said.contains("unavailable"));
        if let Some(what) = target.said().lines().find(|line| line.starts_with("unavailable")) {
            // An old kernel or a sandbox: there is nothing to refuse then.
            eprintln!("{kind} is {what}");
            continue;
        }
        let image = work.join("image");
        // Twice: into a directory of its own making, and into an empty one.
        for there in [false, true] {
            if there {
                fs::create_dir(&image).unwrap();
            }
            let output = try_dump(target.pid(), &image, &["--leave-stopped"]);
            let said = stderr(&output);
            assert!(!output.status.success() && said.contains(reason), "{kind}: {said}");
            if *kind == "tcp" {
                let peer = target.said().lines().next().unwrap().replace("peer ", "");
                assert!(said.trim_end().ends_with(&peer), "{said}, but the peer is {peer}");
            }
            assert_eq!(said.lines().count(), 1, "{kind}: {said}");
            let left = fs::read_dir(&image).map_or(0, Iterator::count);
            assert!(left == 0 && image.exists() == there, "{kind} leaves {left} files");
        }
        runs_on(&mut target);
        refused += 1;
    }
    assert!(refused > 20, "only {refused} kinds are there");
}

#[test]
fn the_process_ends_runs_on_or_stays_stopped() {
    let dir = support::cache();
    let program = match compile("refused", dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let mut target = start(&program, "nothing", &dir.path().join("work"));
    target.wait_until(|said| said.contains("tick 10\n"));
    let image = |name: &str| dir.path().join(name);
    let pid = target.pid();

    dump(pid, &image("running"), &["--leave-running"]);
    runs_on(&mut target);

    dump(pid, &image("stopped"), &["--leave-stopped"]);
    assert_eq!(state(pid), Some('T'));
    let said = target.said();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(target.said(), said);
    // Once stopped it is not dumped: who stopped it may have had a reason.
    let output = try_dump(pid, &image("again"), &[]);
    assert!(stderr(&output).contains("is stopped by a signal"), "{}", stderr(&output));
    assert!(!image("again").exists());
    assert_eq!(state(pid), Some('T'));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGCONT).unwrap();
    runs_on(&mut target);

    let output = try_dump(pid, &image("running"), &[]);
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
    runs_on(&mut target);

    let output = try_dump(pid, &image("ended"), &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&json["schema_version"], &json["pid"]), (&1.into(), &pid.into()));
    let len = fs::metadata(image("ended").join("pages-1.img")).unwrap().len();
    assert_eq!(json["len_pages"], len);
    assert_eq!(target.wait().signal(), Some(libc::SIGKILL));
}

/// A thread in vfork(2) held the whole program still until its child's exec.
#[test]
fn a_thread_that_does_not_stop_is_let_go() {
    let dir = support::cache();
    let program = match compile("refused", dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let mut target = start(&program, "vfork", &dir.path().join("work"));
    let pid = target.pid();
    target.wait_until(|said| said.contains("tick 10\n"));
    // Not even tried where it is seen in time.
    let output = try_dump(pid, &dir.path().join("image"), &[]);
    assert!(stderr(&output).contains("has a child process"), "{}", stderr(&output));
    // Nor waited for where it is not.
    let began = std::time::Instant::now();
    let stop = std::thread::spawn(move || Group::stop(pid).map(drop)).join().unwrap();
    assert!(matches!(stop, Err(TraceError::Slow(_))), "{stop:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    runs_on(&mut target);
    // The thread is no longer traced, and ends when its child does.
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let until = began + std::time::Duration::from_secs(20);
    while tasks() > 1 {
        assert!(std::time::Instant::now() < until, "it does not go on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    runs_on(&mut target);
}

/// A timer that expired between the look at the pending signals and the look
/// at the timers was lost: it was in the image neither armed nor expired.
#[test]
fn a_timer_is_never_lost() {
    let dir = support::cache();
    let program = match compile("refused", dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let mut target = start(&program, "alarm", &dir.path().join("work"));
    // Armed by now.
    target.wait_until(|said| said.contains("tick 1\n"));
    for round in 0..support::repetitions(10) {
        let image = dir.path().join("image");
        dump(target.pid(), &image, &["--leave-running"]);
        let set = Set::read(&image).unwrap();
        let core = set.tasks[0].threads[0].core.tc.as_ref().unwrap();
        let real = &core.timers.as_ref().unwrap().real;
        assert!(real.iusec == 700 && (1..=700).contains(&real.vusec), "dump {round}: {real:?}");
        fs::remove_dir_all(&image).unwrap();
    }
}

#[test]
fn a_process_that_is_not_there_or_has_ended_is_refused() {
    let dir = support::cache();
    let image = dir.path().join("image");
    let refused = |pid: i32, reason: &str| {
        let output = try_dump(pid, &image, &[]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert!(!image.exists());
    };
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    while state(pid) != Some('Z') {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    refused(pid, "has ended");
    child.wait().unwrap();
    refused(pid, "there is no process");
    let output = try_dump(0, &image, &[]);
    assert!(!output.status.success());
    // Kernel threads have no memory of their own. In a pid namespace that has
    // none, 2 is somebody else.
    let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if nix::unistd::geteuid().is_root() && name == "kthreadd\n" {
        let output = try_dump(2, &image, &["--leave-running"]);
        assert!(!output.status.success() && !image.exists(), "{}", stderr(&output));
    }
}
