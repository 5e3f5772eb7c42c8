//! SIGKILL for the launcher, or for the second process, at any moment of a
//! capture at main: no process of theirs stays, the next run gives the right
//! answer, and a later capture succeeds.

#![allow(clippy::unwrap_used)]

mod support;
mod tooling;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tooling::{Case, Tool};
use trial::{Dice, PATIENCE, repeat};

/// How long what nobody waits for may take to be gone. A second process whose
/// launcher was killed may go on to its end: it has nothing of the launcher's.
const LEFT: Duration = Duration::from_secs(5);

/// One at a time: orphans are adopted by this process, whose others they would
/// be as well.
static TURN: Mutex<()> = Mutex::new(());

/// Whom to kill.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Launcher,
    Second,
}

/// The processes of a tool: those that have its cache in their environment,
/// with their command lines.
fn processes(tool: &Tool) -> Vec<(i32, String)> {
    let marker = [b"WARMSTART_CACHE_DIR=", tool.cache().path().as_os_str().as_bytes()].concat();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == marker)
    })
    .map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).replace('\0', " "))
    })
    .collect()
}

/// The second process of a run.
fn second(tool: &Tool) -> Option<i32> {
    processes(tool).into_iter().find_map(|(pid, line)| line.contains(" --aside ").then_some(pid))
}

/// Takes away the dead whom this process has adopted; `true` if there were any.
fn reap() -> bool {
    let own = std::process::id().to_string();
    let is_dead = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = match stat.rsplit_once(") ") {
            Some((_, tail)) => tail.split(' ').collect(),
            None => return false,
        };
        fields[0] == "Z" && fields[1] == own
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let dead: Vec<i32> = pids.filter(is_dead).collect();
    for pid in &dead {
        let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
    }
    !dead.is_empty()
}

/// Waits until no process of the tool is left; returns how long that took, or
/// what is left.
fn wait_for_nobody(tool: &Tool, patience: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        let more = reap();
        let left = processes(tool);
        if left.is_empty() && !more {
            return Ok(began.elapsed());
        }
        if began.elapsed() > patience {
            return Err(format!("left after {patience:?}: {left:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is in the cache's place for unfinished things.
fn unfinished(tool: &Tool) -> Vec<String> {
    let entries = fs::read_dir(tool.cache().path().join("v1/tmp")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Starts a run that captures and waits for it.
fn start(tool: &Tool, options: &[&str]) -> Child {
    let dir = tool.root().join("capture");
    fs::create_dir_all(&dir).unwrap();
    let mut command = tool.prepared(&dir, options, &["args", "training"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the victim of a run after a delay from its own start; tells whether it
/// was there to be killed.
fn kill_after(tool: &Tool, victim: Victim, options: &[&str], delay: Duration) -> bool {
    let mut child = start(tool, options);
    let mut began = Instant::now();
    let mut hit = true;
    if victim == Victim::Second {
        let pid = loop {
            if let Some(pid) = second(tool) {
                break Some(pid);
            }
            if child.try_wait().unwrap().is_some() {
                break None;
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        began = Instant::now();
        while began.elapsed() < delay {
            std::thread::sleep(Duration::from_micros(200));
        }
        // The pid is its own until the launcher has waited for it; afterwards
        // the number is free, and the command line another.
        hit = pid.is_some_and(|pid| {
            second(tool) == Some(pid) && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
        });
        // The launcher learns of it and ends by itself, with the program's status.
        let status = child.wait().unwrap();
        assert!(status.success(), "killed after {delay:?}: {status}");
    } else {
        while began.elapsed() < delay {
            std::thread::sleep(Duration::from_micros(200));
        }
        hit &= child.try_wait().unwrap().is_none();
        let _ = child.kill();
        child.wait().unwrap();
    }
    hit
}

/// Kills again and again; every run afterwards is right.
fn kill_captures(victim: Victim) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let Some(tool) = tooling::programs(&jdk) else { skip!("there is no javac") };
    let tool = tool.option("--train=1");
    trial::adopt_orphans();
    let case = Case::new(&["args", "a b", "grüß"]).stdin("unread");
    let right = tool.cold(&case);
    let capture = Case::new(&["args", "training"]);
    let began = Instant::now();
    tool.must_capture(&capture);
    let whole_us = began.elapsed().as_micros() as u64;
    let mut dice = Dice::new();
    let (mut hits, mut longest) = (0, Duration::ZERO);
    let mut endings: BTreeMap<&str, u32> = BTreeMap::new();
    let count = repeat(6);
    for round in 0..count {
        let delay = Duration::from_micros(dice.below(whole_us));
        let what = format!("round {round}, killed after {delay:?} of {whole_us} us");
        let options: &[&str] = if round % 2 == 0 { &["--wait", "--refresh"] } else { &["--wait"] };
        if round % 2 == 1 {
            // Without an entry to fall back on.
            let _ = fs::remove_dir_all(tool.cache().path().join("v1/entries"));
        }
        hits += u32::from(kill_after(&tool, victim, options, delay));
        let patience = if victim == Victim::Launcher { PATIENCE } else { LEFT };
        let took = wait_for_nobody(&tool, patience).unwrap_or_else(|left| panic!("{what}: {left}"));
        longest = longest.max(took);
        let (outcome, status) = tool.run_with(&case, &["--no-capture"]);
        assert_eq!(outcome, right, "{what}: {status}");
        let how =
            ["restored", "cold"].into_iter().find(|how| status.contains(&format!(r#""{how}""#)));
        *endings.entry(how.unwrap_or("none")).or_default() += 1;
        if round % 3 == 2 || round + 1 == count {
            let (_, status) = tool.capture(&capture);
            let made = status.contains(r#""captured""#) || status.contains(r#""restored""#);
            assert!(made, "{what}: {status}\n{}", tool.log());
            assert_eq!(tool.restored(&case), right, "{what}");
        }
    }
    // Whatever a kill has left, a capture sweeps away.
    let _ = fs::remove_dir_all(tool.cache().path().join("v1/entries"));
    tool.must_capture(&capture);
    assert_eq!(tool.restored(&case), right);
    assert_eq!(unfinished(&tool), [""; 0]);
    wait_for_nobody(&tool, LEFT).unwrap();
    eprintln!(
        "{hits} of {count} were killed before their end ({whole_us} us); the last process was \
         gone {longest:?} later; runs afterwards: {endings:?}"
    );
    assert!(hits > 0, "nothing was killed");
}

#[test]
fn killed_launchers_leave_nothing_behind() {
    kill_captures(Victim::Launcher);
}

#[test]
fn killed_second_processes_leave_nothing_behind() {
    kill_captures(Victim::Second);
}
