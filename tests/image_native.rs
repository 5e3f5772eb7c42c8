//! What `warmstart image dump` writes, held against the process itself: every
//! byte of its memory, CRIU's own tools, and what it must refuse.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use support::target::{PATIENCE, Target, alone, dump, restored_pid, state, tool};
use support::{Jdk, service, stderr};
use warmstart::image::Set;

mod support;

const LEN_PAGE: u64 = 4096;
/// How many times a program is dumped and restored in a row.
const GENERATIONS: usize = 3;

/// A program that ticks: `tick N …` in each line.
enum Ticker {
    Java(Jdk, tempfile::TempDir),
    Python(PathBuf),
}

impl Ticker {
    fn java(release: u32) -> Result<Self, String> {
        let jdk = support::jdk(release).ok_or_else(|| format!("there is no JDK {release}"))?;
        Ok(Self::Java(jdk, service::compile("Ticker.java")?))
    }

    fn python() -> Result<Self, String> {
        let python = PathBuf::from("/usr/bin/python3");
        let there = python.exists().then_some(Self::Python(python));
        there.ok_or_else(|| "there is no Python (package python3)".into())
    }

    fn start(&self, out: &Path) -> Target {
        const SCRIPT: &str = "
import itertools, os, time
live = [bytes([i % 251]) * 1000 for i in range(3000)]
for tick in itertools.count():
    # In one write, which print() does not do if output is unbuffered.
    os.write(1, b'tick %d %d\\n' % (tick, sum(map(len, live))))
    time.sleep(0.005)
";
        let command = match self {
            Self::Java(jdk, classes) => {
                let mut command = alone(jdk.java());
                command.arg("-cp").arg(classes.path()).args(["Ticker", "4"]);
                command
            }
            Self::Python(python) => {
                let mut command = alone(python);
                command.args(["-c", SCRIPT]);
                command
            }
        };
        let mut target = Target::start(command, out);
        target.wait_until(|said| ticks(said).len() > 50);
        target
    }
}

/// Returns the numbers of the ticks; a line that is being written is left out.
fn ticks(said: &str) -> Vec<u64> {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| line.strip_prefix("tick ")?.split(' ').next()?.parse().ok();
    whole.lines().filter_map(number).collect()
}

/// Unwraps what a test needs, or leaves the test.
macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(there) => there,
            Err(missing) => skip!("{missing}"),
        }
    };
}

fn root() -> Result<(), String> {
    let root = nix::unistd::geteuid().is_root();
    root.then_some(()).ok_or_else(|| "only root may choose pids here".into())
}

fn crit() -> Result<PathBuf, String> {
    tool("WARMSTART_CRIT", "crit/crit").ok_or_else(|| "crit is missing (scripts/get-crit)".into())
}

fn criu() -> Result<PathBuf, String> {
    root()?;
    let criu = tool("WARMSTART_CRIU", "criu/usr/sbin/criu");
    criu.ok_or_else(|| "CRIU 4.2 is missing (scripts/get-criu)".into())
}

/// An area of `/proc/PID/maps`.
struct Area {
    start: u64,
    end: u64,
    perms: String,
    inode: u64,
    name: String,
}

fn areas(pid: i32) -> Vec<Area> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let perms = words.next().unwrap().to_owned();
        let inode = words.nth(2).unwrap().parse().unwrap();
        let name = words.next().unwrap_or_default().to_owned();
        Area { start: hex(start), end: hex(end), perms, inode, name }
    };
    maps.lines().map(parse).filter(|area| area.name != "[vsyscall]").collect()
}

/// Compares every run of the image with the memory of the stopped process;
/// returns the addresses of the pages.
fn compare_pages(image: &Path, pid: i32) -> BTreeSet<u64> {
    let set = Set::read(image).unwrap();
    let pages = File::open(image.join("pages-1.img")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut covered = BTreeSet::new();
    // The format has no padding: a run lies behind the one before.
    let mut offset = 0;
    for entry in &set.tasks[0].pagemap.entries {
        for page in 0..entry.nr_pages.unwrap() {
            let at = entry.vaddr + page * LEN_PAGE;
            let (mut stored, mut there) = ([0; LEN_PAGE as usize], [0; LEN_PAGE as usize]);
            pages.read_exact_at(&mut stored, offset).unwrap();
            // Behind the end of a mapped file there is nothing to read.
            if memory.read_exact_at(&mut there, at).is_err() {
                there.fill(0);
            }
            assert!(stored == there, "the page at {at:#x} differs");
            assert!(covered.insert(at), "the page at {at:#x} is there twice");
            offset += LEN_PAGE;
        }
    }
    assert_eq!(pages.metadata().unwrap().len(), offset);
    covered
}

/// Returns the pages that only this process has, and that a restore could not
/// get from anywhere but the image: private and written to, but for zeros in
/// anonymous memory.
fn own_pages(pid: i32) -> BTreeSet<u64> {
    const PRESENT_OR_SWAPPED: u64 = 3 << 62;
    const FILE_OR_SHARED: u64 = 1 << 61;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut own = BTreeSet::new();
    for area in areas(pid) {
        if area.perms.ends_with('s') || area.name.starts_with("[v") {
            continue;
        }
        let mut entries = vec![0; ((area.end - area.start) / LEN_PAGE * 8) as usize];
        pagemap.read_exact_at(&mut entries, area.start / LEN_PAGE * 8).unwrap();
        for (index, entry) in entries.as_chunks::<8>().0.iter().enumerate() {
            let entry = u64::from_ne_bytes(*entry);
            if entry & PRESENT_OR_SWAPPED == 0 || entry & FILE_OR_SHARED != 0 {
                continue;
            }
            let at = area.start + index as u64 * LEN_PAGE;
            let mut page = [0; LEN_PAGE as usize];
            memory.read_exact_at(&mut page, at).unwrap();
            if area.inode != 0 || page.iter().any(|byte| *byte != 0) {
                own.insert(at);
            }
        }
    }
    own
}

/// Lets CRIU's own tool decode every file; returns what it says, by name.
fn decode(crit: &Path, image: &Path) -> Vec<(String, Value)> {
    let mut decoded = Vec::new();
    for entry in fs::read_dir(image).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".img") || name.starts_with("pages-") {
            continue;
        }
        let output = Command::new(crit).arg("decode").arg("-i").arg(&path).output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!json["entries"].as_array().unwrap().is_empty(), "{name} is empty");
        decoded.push((name, json));
    }
    decoded
}

/// crit's numbers are numbers or strings in hexadecimal.
fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    let hex = text.map(|text| u64::from_str_radix(text, 16).unwrap());
    hex.or(value.as_u64()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// Holds what crit decodes against the kernel's view of the stopped process.
fn compare_decoded(decoded: &[(String, Value)], pid: i32) {
    let of = |prefix: &str| {
        let name = format!("{prefix}.img");
        let found = decoded.iter().find(|(known, _)| *known == name);
        &found.unwrap_or_else(|| panic!("there is no {name}")).1["entries"]
    };
    let threads: BTreeSet<u64> =
        of("pstree")[0]["threads"].as_array().unwrap().iter().map(number).collect();
    let tids: BTreeSet<u64> = service::tids(pid).into_iter().map(|tid| tid as u64).collect();
    assert_eq!(threads, tids);
    for tid in &tids {
        let core = &of(&format!("core-{tid}"))[0];
        let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap();
        assert_eq!(core["thread_core"]["comm"], name.trim_end_matches('\n'), "thread {tid}");
    }
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    for vma in of(&format!("mm-{pid}"))[0]["vmas"].as_array().unwrap() {
        mappings.push((number(&vma["start"]), number(&vma["end"])));
    }
    for area in areas(pid) {
        let held = mappings.iter().any(|(start, end)| *start <= area.start && area.end <= *end);
        assert!(held, "{} at {:#x} is missing", area.name, area.start);
    }
    let fds: BTreeSet<u64> =
        of("fdinfo-2").as_array().unwrap().iter().map(|entry| number(&entry["fd"])).collect();
    let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(fds, open);
}

fn a_dump_is_the_process(ticker: &Ticker, crit: &Path) {
    let dir = support::cache();
    let mut target = ticker.start(&dir.path().join("out"));
    let image = dir.path().join("image");
    dump(target.pid(), &image, &["--leave-stopped"]);
    assert_eq!(state(target.pid()), Some('T'));
    let covered = compare_pages(&image, target.pid());
    let own = own_pages(target.pid());
    assert!(own.len() > 500, "only {} pages of its own", own.len());
    let missing: Vec<String> = own.difference(&covered).map(|at| format!("{at:#x}")).collect();
    assert!(missing.is_empty(), "{} pages are missing: {missing:?}", missing.len());
    compare_decoded(&decode(crit, &image), target.pid());
    // It goes on as if nothing had been.
    let before = ticks(&target.said()).len();
    kill(Pid::from_raw(target.pid()), Signal::SIGCONT).unwrap();
    target.wait_until(|said| ticks(said).len() > before + 20);
    let numbers = ticks(&target.said());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{}", target.said());
}

#[test]
fn a_dump_of_java_is_the_process() {
    let ticker = need!(Ticker::java(17));
    a_dump_is_the_process(&ticker, &need!(crit()));
}

#[test]
fn a_dump_of_python_is_the_process() {
    let ticker = need!(Ticker::python());
    a_dump_is_the_process(&ticker, &need!(crit()));
}

/// Restores a dump with CRIU; the program goes on with its pid.
fn criu_restores(ticker: &Ticker, criu: &Path) {
    let dir = support::cache();
    let mut target = ticker.start(&dir.path().join("out"));
    let image = dir.path().join("image");
    let pid = Pid::from_raw(target.pid());
    dump(target.pid(), &image, &[]);
    assert!(!target.wait().success());
    let before = ticks(&target.said());
    let mut command = alone(criu);
    command.args(["restore", "--shell-job", "-d", "-S", "-v4", "-o", "log", "-D"]).arg(&image);
    let mut command = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = command.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            command.kill().unwrap();
            break command.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let log = String::from_utf8_lossy(&fs::read(image.join("log")).unwrap()).into_owned();
    assert!(status.success(), "{log}");
    // A child of ours (-S) from here on.
    while ticks(&target.said()).len() < before.len() + 20 {
        let ends = || kill(pid, Signal::SIGKILL).and_then(|()| waitpid(pid, None));
        if Instant::now() > end || state(pid.as_raw()) == Some('Z') {
            panic!("it does not go on ({:?}): {}\n{log}", ends(), target.said());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    // CRIU puts the file's offset back: a tick after the last one is there.
    let numbers = ticks(&target.said());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{}", target.said());
}

#[test]
fn criu_restores_a_dump_of_java() {
    let criu = need!(criu());
    criu_restores(&need!(Ticker::java(17)), &criu);
}

#[test]
fn criu_restores_a_dump_of_python() {
    let criu = need!(criu());
    criu_restores(&need!(Ticker::python()), &criu);
}

/// Memory that was mapped from the first image's pages is carried whole by the
/// next, and what the restore itself left behind does no harm.
fn restored_again_and_again(ticker: &Ticker) {
    support::session::settle();
    let dir = support::cache();
    let out = |generation: usize| dir.path().join(format!("out-{generation}"));
    let mut target = ticker.start(&out(0));
    let mut pid = target.pid();
    let expected = service::tids(pid);
    for generation in 1..=GENERATIONS {
        let image = dir.path().join(format!("image-{generation}"));
        dump(pid, &image, &["--leave-stopped"]);
        let last = *ticks(&target.said()).last().unwrap();
        let covered = compare_pages(&image, pid);
        assert!(own_pages(pid).is_subset(&covered));
        target.end();
        // The first image's memory is not needed any more.
        if generation > 1 {
            fs::remove_dir_all(dir.path().join(format!("image-{}", generation - 1))).unwrap();
        }
        target = Target::restore(&image, &out(generation));
        target.wait_until(|said| ticks(said).len() > 50);
        let said = target.said();
        let first = ticks(&said)[0];
        assert!(first == last || first == last + 1, "{first} after {last}: {said}");
        pid = restored_pid(target.pid()).unwrap();
        assert_eq!(service::tids(pid), expected);
    }
    target.end();
}

#[test]
fn java_is_restored_again_and_again() {
    need!(root());
    restored_again_and_again(&need!(Ticker::java(17)));
}

#[test]
fn a_newer_java_is_restored_again_and_again() {
    need!(root());
    let newest = support::jdks().pop().map_or(17, |jdk| jdk.release);
    restored_again_and_again(&need!(Ticker::java(newest)));
}

#[test]
fn python_is_restored_again_and_again() {
    need!(root());
    restored_again_and_again(&need!(Ticker::python()));
}
