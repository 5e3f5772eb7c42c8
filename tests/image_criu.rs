//! Image sets and CRIU itself: what it dumps we read, what we write it
//! restores. Needs root and CRIU 4.2 (scripts/get-criu brings it).

// A helper of a test may panic like the test itself.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use warmstart::image::{Set, pages_file};

/// Returns CRIU, or says loudly what is missing.
fn criu() -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root");
        return None;
    }
    let named = std::env::var_os("WARMSTART_CRIU").map(PathBuf::from);
    let cached = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        Some(cache.or_else(home)?.join("warmstart-tools/criu/usr/sbin/criu"))
    };
    let path = named.or_else(cached).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("SKIPPED: CRIU 4.2 is missing; scripts/get-criu brings it");
    }
    path
}

/// Runs CRIU on a directory; its own log is shown when it fails.
fn run(criu: &Path, action: &str, dir: &Path, arguments: &[&str]) {
    let status = Command::new(criu)
        .args([action, "--shell-job", "-v4", "-o", "log", "-D"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let log = fs::read(dir.join("log")).unwrap_or_default();
    assert!(status.success(), "criu {action}: {}", String::from_utf8_lossy(&log));
}

/// A process without children that counts, and writes a line now and then.
fn ticker(dir: &Path) -> (Child, PathBuf) {
    let path = dir.join("ticks");
    let ticks = fs::File::create(&path).unwrap();
    let count = "i=0; while :; do i=$((i+1)); [ $((i % 20000)) != 0 ] || echo $i; done";
    // Nothing of what the test was started with: CRIU wants the other end of
    // every socket and the master of every terminal.
    let alone = "import os, sys
os.setsid()
os.closerange(3, 1 << 20)
os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])";
    let child = Command::new("/usr/bin/python3")
        .args(["-S", "-c", alone, count])
        .stdin(Stdio::null())
        .stdout(ticks)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, path)
}

/// A child of ours that is ended however the test ends.
struct Running(Pid);

impl Running {
    fn end(&self) -> nix::Result<WaitStatus> {
        kill(self.0, Signal::SIGKILL)?;
        waitpid(self.0, None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

fn wait_for_more_than(path: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lines(path) <= count {
        assert!(Instant::now() < deadline, "no tick after number {count}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_dump_of_criu_is_read_and_what_we_write_is_restored() {
    let Some(criu) = criu() else { return };
    let work = tempfile::tempdir().unwrap();
    let [dumped, written] = ["dumped", "written"].map(|name| {
        let dir = work.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    });
    let (child, ticks) = ticker(work.path());
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let first = Running(pid);
    wait_for_more_than(&ticks, 3);
    run(&criu, "dump", &dumped, &["-t", &pid.to_string()]);
    // Killed by the dump; its pid is free once it is waited for.
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    std::mem::forget(first);
    let before = lines(&ticks);

    let set = Set::read(&dumped).unwrap();
    set.check().unwrap();
    let pages = pages_file(set.tasks[0].pagemap.pages_id);
    let len_pages = fs::metadata(dumped.join(&pages)).unwrap().len();
    set.tasks[0].page_runs().unwrap().check_len(&pages, len_pages).unwrap();
    set.write(&written).unwrap();
    for entry in fs::read_dir(&written).unwrap() {
        let name = entry.unwrap().file_name();
        let same = fs::read(written.join(&name)).unwrap() == fs::read(dumped.join(&name)).unwrap();
        assert!(same, "{} has lost or gained something", name.display());
    }

    fs::copy(dumped.join(&pages), written.join(&pages)).unwrap();
    run(&criu, "restore", &written, &["-d", "-S"]);
    let restored = Running(pid);
    wait_for_more_than(&ticks, before);
    assert_eq!(restored.end().unwrap(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    std::mem::forget(restored);
}
