//! What can go wrong with a capture at main: the result of the first run is
//! that of a cold run as always, one line says why there is no entry or none
//! that is trained, and nothing is left over.

#![allow(clippy::unwrap_used)]

mod support;
mod tooling;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tooling::{Case, Outcome, Tool};

/// The JDKs that are tried: what an old and a new JVM do may differ.
fn tools() -> Vec<Tool> {
    let jdks = support::full_jdks();
    let wanted = jdks.iter().filter(|jdk| [17, 25].contains(&jdk.release));
    wanted.filter_map(tooling::programs).collect()
}

/// Leaves a test that has no JDK.
macro_rules! tools_or_skip {
    () => {{
        let tools = tools();
        if tools.is_empty() {
            skip!("there is neither a JDK 17 nor a JDK 25 with a compiler");
        }
        tools
    }};
}

/// Runs a case cold, and through warmstart with a capture; both must come to
/// the same. Returns the status file's reason.
#[track_caller]
fn first_run(tool: &Tool, case: &Case) -> (Outcome, String) {
    let cold = tool.cold(case);
    let (first, status) = tool.capture(case);
    assert_eq!(first, cold, "the first run (left), cold (right): {:?} {case:?}", tool.command);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    assert_eq!(reason.lines().count(), reason.len().min(1), "{reason}");
    (cold, reason)
}

/// What `cache ls` says.
fn listed(tool: &Tool) -> String {
    let mut list = std::process::Command::new(support::binary());
    list.args(["cache", "ls"]).env("WARMSTART_CACHE_DIR", tool.cache().path());
    support::stdout(&list.output().unwrap())
}

/// Fails if something is left in the cache's place for unfinished things.
#[track_caller]
fn check_nothing_unfinished(tool: &Tool) {
    let tmp = tool.cache().path().join("v1/tmp");
    let left: Vec<_> = fs::read_dir(tmp).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A case whose captures must fail: the reason is said, listed and lasting, and
/// the runs after it are cold and right.
#[track_caller]
fn refused(tool: &Tool, case: &Case, words: &str) {
    let (cold, reason) = first_run(tool, case);
    assert!(reason.contains(words), "{reason:?} lacks {words:?}\n{}", tool.log());
    let list = listed(tool);
    assert!(list.contains(words), "{list}");
    assert_eq!(tool.run_with(case, &[]).0, cold, "the second run: {case:?}");
    check_nothing_unfinished(tool);
}

#[test]
fn an_agent_that_cannot_be_installed_costs_the_capture() {
    for tool in tools_or_skip!() {
        let case = Case::new(&["return"]);
        fs::create_dir_all(tool.cache().path().join("v1")).unwrap();
        let dir = tool.cache().path().join("v1/agent");
        fs::write(&dir, "in its place").unwrap();
        let (cold, reason) = first_run(&tool, &case);
        assert!(reason.contains("the agent: "), "{reason}");
        assert!(tool.log().contains("not captured: the agent: "), "{}", tool.log());
        assert_eq!(tool.run_with(&case, &["--no-capture"]).0, cold);
        check_nothing_unfinished(&tool);
        // It says nothing about the program: once it is out of the way,
        // captures succeed.
        fs::remove_file(&dir).unwrap();
        tool.must_capture(&case);
        tool.compare(&case);
    }
}

#[test]
fn an_agent_that_was_damaged_is_put_right() {
    for tool in tools_or_skip!() {
        let case = Case::new(&["return"]);
        tool.must_capture(&case);
        for file in fs::read_dir(tool.cache().path().join("v1/agent")).unwrap().flatten() {
            fs::remove_file(file.path()).unwrap();
            fs::write(file.path(), "not a library").unwrap();
        }
        fs::remove_dir_all(tool.cache().path().join("v1/entries")).unwrap();
        tool.must_capture(&case);
        tool.compare(&case);
    }
}

#[test]
fn a_jvm_that_does_not_start_is_not_captured() {
    for mut tool in tools_or_skip!() {
        let at = tool.command.iter().position(|word| word == "-cp").unwrap();
        tool.command.insert(at, "-XX:+NoSuchFlag".into());
        refused(&tool, &Case::new(&["return"]), "NoSuchFlag");
        tool.command[at] = "-XX:NoSuchFlag=3".into();
        refused(&tool, &Case::new(&["return"]), "NoSuchFlag");
    }
}

#[test]
fn a_main_that_is_not_reached_is_not_captured() {
    for mut tool in tools_or_skip!() {
        let classes = tooling::classes().unwrap();
        let last = tool.command.len() - 1;
        // A class of the programs, but one without main.
        let other = fs::read_dir(&classes).unwrap().flatten().find_map(|file| {
            let name = file.file_name().into_string().unwrap();
            name.strip_suffix(".class").filter(|name| *name != "Tools").map(str::to_owned)
        });
        for class in [other.as_deref().unwrap_or("java.lang.Object"), "java.lang.Object"] {
            tool.command[last] = class.into();
            refused(&tool, &Case::new(&["x"]), "did not come to call main");
        }
        tool.command[last] = "no.such.Class".into();
        refused(&tool, &Case::new(&["x"]), "no.such.Class");
    }
}

#[test]
fn a_jvm_that_only_shows_its_version_is_not_captured() {
    for mut tool in tools_or_skip!() {
        let last = tool.command.len() - 1;
        for word in ["-version", "--version", "-help", "-XshowSettings:locale"] {
            tool.command[last] = word.into();
            let (cold, _) = first_run(&tool, &Case::new(&[]));
            assert_eq!(tool.run_with(&Case::new(&[]), &["-q"]).0, cold, "{word}");
            assert!(
                !tool
                    .cache()
                    .path()
                    .join("v1/entries")
                    .read_dir()
                    .is_ok_and(|mut dir| dir.next().is_some())
            );
            check_nothing_unfinished(&tool);
        }
    }
}

/// Ends when dropped what programs have left behind.
struct Forked<'a>(&'a Path);

impl Forked<'_> {
    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Whether it runs: it is no zombie that only waits for its parent.
    fn runs(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(sleep)") && !stat.contains(") Z ")
    }
}

impl Drop for Forked<'_> {
    fn drop(&mut self) {
        for pid in self.pids().into_iter().filter(|pid| Self::runs(*pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A child that a cold run leaves behind goes on, as the program wants it; one
/// of a training has nobody who asked for it.
#[test]
fn children_of_a_training_are_ended() {
    for tool in tools_or_skip!() {
        let tool = tool.option("--train=2");
        let path = tool.root().join("forked");
        let forked = Forked(&path);
        let case = Case::new(&["fork"]).env("FORKED", path.to_str().unwrap());
        let cold = tool.cold(&case);
        let (first, status) = tool.capture(&case);
        assert_eq!(first, cold);
        eprintln!("{status}");
        let pids = forked.pids();
        // Two cold runs were ours, and there were some of the capture's own.
        assert!(pids.len() > 3, "{pids:?}\n{}", tool.log());
        assert!(pids[..2].iter().all(|pid| Forked::runs(*pid)), "a child of a cold run was ended");
        let end = Instant::now() + Duration::from_secs(5);
        while pids[2..].iter().any(|pid| Forked::runs(*pid)) {
            assert!(Instant::now() < end, "children of the capture's are left\n{}", tool.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        check_nothing_unfinished(&tool);
        if status.contains(r#""outcome":"captured""#) {
            tool.compare(&case);
            tool.compare(&Case::new(&["args", "x"]));
        } else {
            assert!(!listed(&tool).is_empty());
            assert_eq!(tool.run_with(&case, &[]).0, cold);
        }
    }
}

#[test]
fn training_that_closes_its_descriptors_does_not_show() {
    for tool in tools_or_skip!() {
        let tool = tool.option("--train=2");
        let case = Case::new(&["descriptors"]);
        tool.must_capture(&case);
        eprintln!("{}", tool.show());
        tool.compare(&case);
        tool.compare(&Case::new(&["args", "x"]));
        tool.compare(&Case::new(&["stdin"]).stdin("one\ntwo\n"));
        check_nothing_unfinished(&tool);
    }
}

/// A build in a temporary directory that is gone before the second process
/// looks costs this capture, not the next ones. (It cost those of a day.)
#[test]
fn a_directory_that_is_gone_does_not_count_against_the_program() {
    for tool in tools_or_skip!() {
        let (_, reason) = first_run(&tool, &Case::new(&["rmdir"]));
        assert!(reason.contains("No such file or directory"), "{reason}");
        check_nothing_unfinished(&tool);
        tool.must_capture(&Case::new(&["return"]));
        tool.compare(&Case::new(&["rmdir"]));
    }
}

#[test]
fn training_may_delete_its_working_directory() {
    for tool in tools_or_skip!() {
        let tool = tool.option("--train=2").option("--train-dir=.");
        // The first run, which is real, deletes it: there is nothing to copy.
        let deleted = Case::new(&["rmdir"]);
        let (_, reason) = first_run(&tool, &deleted);
        eprintln!("without it: {reason}\n{}", listed(&tool));
        check_nothing_unfinished(&tool);
        // Trained in a copy of another directory.
        let tool = tool.option("--train-with=rmdir");
        let case = Case::new(&["args", "y"]);
        tool.must_capture(&case);
        eprintln!("{}", tool.log());
        tool.compare(&deleted);
        tool.compare(&case);
        tool.compare(&Case::new(&["files"]).dir("elsewhere"));
        check_nothing_unfinished(&tool);
    }
}

/// A capture that sweeps up after dead processes leaves the working directory
/// of another one's training alone. (It did not.)
#[test]
fn captures_at_the_same_time_do_not_sweep_each_other_away() {
    for mut tool in tools_or_skip!() {
        let here = tool.root().join("trained");
        fs::create_dir_all(&here).unwrap();
        fs::write(here.join("in.txt"), "text\n").unwrap();
        tool.options.push("-q".into());
        let options = ["--train=8", "--train-dir=.", "--wait"];
        let mut training = tool.prepared(&here, &options, &["files"]);
        let training = training.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut training = training.spawn().unwrap();
        let mut others = 0;
        while training.try_wait().unwrap().is_none() {
            let mut other = tool.prepared(tool.root(), &["--refresh", "--wait"], &["return"]);
            assert!(other.stdout(Stdio::null()).status().unwrap().success());
            others += 1;
        }
        assert!(others > 1, "{others}");
        let log = tool.log();
        assert!(log.contains("captured: trained, main has run 8 times"), "{log}");
        check_nothing_unfinished(&tool);
    }
}
