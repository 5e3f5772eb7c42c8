//! `warmstart pids exec` and `bench`: each way to a pid, as root, with the
//! capability, with none, and under a filter.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::occupy::Occupant;
use support::{Ordinary, cache, seccomp, stderr, stdout, warmstart};
use warmstart::pids::cursor::{Cursor, distance};
use warmstart::pids::{Strategy, is_taken};

/// Tests that move the pid cursor, or need it to be where it is, one at a time.
static CURSOR: Mutex<()> = Mutex::new(());

fn cursor_is_ours() -> MutexGuard<'static, ()> {
    CURSOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A free pid, so many away from the next one.
fn free_pid(away: i32) -> i32 {
    let cursor = Cursor::open().unwrap();
    let room = cursor.pid_max() - 1000;
    let from = (cursor.last().unwrap() + away - 1000).rem_euclid(room) + 1000;
    (from..cursor.pid_max()).find(|&pid| !is_taken(pid)).unwrap()
}

/// A free pid in the middle between two visits of the cursor.
fn far_pid() -> i32 {
    free_pid(Cursor::open().unwrap().pid_max() / 2)
}

fn exec(command: &mut Command, pid: i32, via: &str, rest: &[&str]) -> Output {
    command.args(["pids", "exec", "--pid", &pid.to_string()]);
    if !via.is_empty() {
        command.args(["--via", via]);
    }
    command.args(rest).output().unwrap()
}

fn as_root(pid: i32, via: &str, rest: &[&str]) -> Output {
    exec(&mut warmstart(&cache()), pid, via, rest)
}

/// What a command sees of itself: its pid, and its capabilities.
const LOOK: [&str; 4] = ["--", "sh", "-c", "echo $$; grep ^Cap /proc/$$/status"];

/// Asserts that the command had the pid, and if so asked no capability.
fn assert_had(output: &Output, pid: i32, privileged: bool) {
    let (text, errors) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(text.lines().next(), Some(pid.to_string().as_str()), "{text}{errors}");
    let sets = text.lines().filter(|line| !line.starts_with("CapBnd"));
    for line in sets.skip(1).filter(|_| !privileged) {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert!(text.contains("CapEff"), "{text}");
}

/// Takes away what a killed launcher left in a namespace and is ours since: the
/// init there waits for that, and pid 1 may not reap.
fn reap_orphans_of_namespaces() {
    let is_inside = |pid: &i32| {
        let status = PathBuf::from(format!("/proc/{pid}/status"));
        support::enclosed::line(&status, "NSpid").is_some_and(|pids| pids.len() > 1)
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_inside).for_each(support::session::reap);
}

/// No process of the user's own binary is left: its init and its launcher have
/// it as their first argument.
fn assert_nothing_left(binary: &Path) {
    let path = binary.as_os_str().as_encoded_bytes();
    let is_ours = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(path))
    };
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        reap_orphans_of_namespaces();
        let left: Vec<_> =
            fs::read_dir("/proc").unwrap().flatten().filter(is_ours).map(|e| e.path()).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "left over: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn root_comes_to_a_pid_by_every_way() {
    if !nix::unistd::geteuid().is_root() || !support::can_choose_pids() {
        skip!("this is not root");
    }
    let _cursor = cursor_is_ours();
    for strategy in Strategy::ALL {
        let output = as_root(free_pid(2000), strategy.name(), &["--", "sh", "-c", "echo $$"]);
        assert_eq!(output.status.code(), Some(0), "{strategy}: {}", stderr(&output));
        let pid = free_pid(2000);
        assert_had(&as_root(pid, strategy.name(), &LOOK), pid, true);
    }
    // Root keeps in a namespace what it has outside.
    let caps = |output: &Output| stdout(output).lines().skip(1).collect::<Vec<_>>().join("\n");
    let (inside, outside) = (as_root(4711, "namespace", &LOOK), as_root(far_pid(), "", &LOOK));
    assert_eq!(caps(&inside), caps(&outside));
}

#[test]
fn the_capability_is_enough_and_the_command_has_none() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let _cursor = cursor_is_ours();
    for strategy in Strategy::ALL {
        let pid = free_pid(2000);
        assert_had(&exec(&mut user.warmstart(), pid, strategy.name(), &LOOK), pid, false);
    }
    assert_nothing_left(&user.binary());
    // Those of the system's first processes are not for them to choose...
    for via in ["set-tid", "last-pid"] {
        let output = exec(&mut user.warmstart(), 999, via, &["--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{via}");
        assert!(stderr(&output).contains("999 is out of range: 1000 to "), "{}", stderr(&output));
    }
    // ...but in a namespace, which is what is taken then.
    assert_had(&exec(&mut user.warmstart(), 999, "", &LOOK), 999, false);
}

#[test]
fn without_the_capability_there_are_two_ways() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let _cursor = cursor_is_ours();
    for via in ["namespace", "cycle"] {
        let pid = free_pid(2000);
        assert_had(&exec(&mut user.warmstart(), pid, via, &LOOK), pid, false);
    }
    // A namespace has more pids than the machine.
    assert_had(&exec(&mut user.warmstart(), 2, "namespace", &LOOK), 2, false);
    for via in ["set-tid", "last-pid"] {
        let output = exec(&mut user.warmstart(), far_pid(), via, &["--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{via}");
        let text = stderr(&output);
        assert!(text.contains("needs CAP_CHECKPOINT_RESTORE"), "{text}");
        assert!(text.contains(&format!("try: sudo {} setup", user.binary().display())), "{text}");
    }
    let output = exec(&mut user.warmstart(), 7, "", &["-v", "--", "true"]);
    assert_eq!(stderr(&output), "warmstart: pid 7 by namespace\n");
    assert_nothing_left(&user.binary());
}

#[test]
fn a_taken_pid_is_refused_but_in_a_namespace() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    let pid = free_pid(3000);
    let occupant = Occupant::of(pid).unwrap();
    for via in ["set-tid", "last-pid", "cycle", ""] {
        let output = as_root(pid, via, &["--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{via}");
        let text = stderr(&output);
        assert!(text.starts_with(&format!("warmstart: pid {pid} is taken\n")), "{via}: {text}");
        assert!(text.contains("--via namespace"), "{text}");
    }
    assert_had(&as_root(pid, "namespace", &LOOK), pid, true);
    // A zombie's counts as well.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while !warmstart::sys::process::has_ended(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = as_root(pid, "last-pid", &["--", "true"]);
    assert!(stderr(&output).contains("is taken"), "{}", stderr(&output));
    drop(occupant);
    assert_had(&as_root(pid, "last-pid", &LOOK), pid, true);
}

#[test]
fn pids_that_cannot_be_are_refused() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    let pid_max = Cursor::open().unwrap().pid_max();
    for via in ["set-tid", "last-pid", "cycle"] {
        let output = as_root(pid_max, via, &["--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{via}");
        let expected = format!("pid {pid_max} is out of range: 1 to {}", pid_max - 1);
        assert!(stderr(&output).contains(&expected), "{via}: {}", stderr(&output));
    }
    for (pid, expected) in [(1, "is its init"), (i32::MAX, "is out of range")] {
        let output = as_root(pid, "namespace", &["--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{pid}");
        assert!(stderr(&output).contains(expected), "{pid}: {}", stderr(&output));
    }
    for wrong in ["0", "-1", "x", "2147483648", ""] {
        let output = warmstart(&cache())
            .args(["pids", "exec", &format!("--pid={wrong}"), "--", "true"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{wrong}");
    }
    let output = as_root(4711, "fork", &["--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("set-tid, last-pid, namespace, cycle"), "{}", stderr(&output));
}

#[test]
fn a_budget_that_is_too_small_burns_nothing() {
    let _cursor = cursor_is_ours();
    let pid = free_pid(3000);
    let cursor = Cursor::open().unwrap();
    let before = cursor.last().unwrap();
    let output = as_root(pid, "cycle", &["--pid-budget", "500", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let text = stderr(&output);
    assert!(text.contains("pids away, and 500 may be used up"), "{text}");
    let needed: i32 =
        text.split("--pid-budget ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((2000..=4500).contains(&needed), "{text}");
    let burnt = distance(before, cursor.last().unwrap() + 1, cursor.pid_max()).unwrap();
    assert!(burnt < 400, "{burnt} pids were used up");
    let enough = (needed + 500).to_string();
    let output = as_root(pid, "cycle", &[&["--pid-budget", &enough][..], &LOOK].concat());
    assert_had(&output, pid, nix::unistd::geteuid().is_root());
}

/// Runs `pids exec` by cycling, with the cursor 200 pids before the highest. In a
/// namespace of its own: whoever else made a process might take just this pid, and
/// then all would be too far away.
fn near_the_highest(pid: &str, words: &[&str]) -> Output {
    const SCRIPT: &str = r#"
        max=$(cat /proc/sys/kernel/pid_max)
        echo $((max - 200)) >/proc/sys/kernel/ns_last_pid
        pid=$(($1)) binary=$2
        shift 2
        echo $pid
        "$binary" pids exec --via cycle --pid $pid "$@"
        exit $?"#;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", SCRIPT, "sh", pid]);
    command.arg(support::binary()).args(words).output().unwrap()
}

/// Behind the highest pid the kernel goes on at 300.
#[test]
fn all_around_past_the_highest_pid() {
    if !nix::unistd::geteuid().is_root() || !support::can_choose_pids() {
        skip!("the cursor cannot be put before the highest pid");
    }
    for pid in ["max - 1", "300", "700"] {
        let words = ["--pid-budget", "2000", "--", "sh", "-c", "echo $$"];
        let output = near_the_highest(pid, &words);
        let said = stdout(&output);
        let lines: Vec<&str> = said.lines().collect();
        let had = lines.len() == 2 && lines[0] == lines[1];
        assert!(output.status.success() && had, "{pid}: {said}{}", stderr(&output));
    }
    let output = near_the_highest("200", &["--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("does not come up again"), "{}", stderr(&output));
}

/// The exit statuses of a run, whatever the way.
#[test]
fn it_ends_as_the_command_ends() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    let dir = cache();
    let script = dir.path().join("not-executable");
    fs::write(&script, "").unwrap();
    for strategy in Strategy::ALL {
        let run = |rest: &[&str]| {
            let words = [&["--"], rest].concat();
            as_root(free_pid(500), strategy.name(), &words)
        };
        assert_eq!(run(&["sh", "-c", "exit 7"]).status.code(), Some(7), "{strategy}");
        let killed = run(&["sh", "-c", "kill -KILL $$"]).status;
        assert_eq!(killed.signal(), Some(libc::SIGKILL), "{strategy}");
        let none = run(&["no-such-command"]);
        assert_eq!(none.status.code(), Some(127), "{strategy}");
        let text = stderr(&none);
        assert_eq!(text, "warmstart: no-such-command: No such file or directory\n");
        let denied = run(&[script.to_str().unwrap()]);
        assert_eq!(denied.status.code(), Some(126), "{strategy}: {}", stderr(&denied));
    }
}

#[test]
fn signals_are_relayed_by_every_way() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    for strategy in Strategy::ALL {
        let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child = warmstart(&cache())
            .args(["pids", "exec", "--via", strategy.name(), "--pid", &free_pid(500).to_string()])
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n", "{strategy}");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\ngot\n", "{strategy}");
        assert_eq!(child.wait().unwrap().code(), Some(9), "{strategy}");
    }
}

/// Without `--` too, and with every byte.
#[test]
fn the_commands_words_are_its_own() {
    let output = as_root(4711, "namespace", &["printf", "%s.", "--help", "-v", "--", "a b"]);
    assert_eq!(stdout(&output), "--help.-v.--.a b.", "{}", stderr(&output));
    let output = warmstart(&cache()).args(["pids", "exec", "--pid", "5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let output = warmstart(&cache()).args(["pids"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_namespace_is_one_and_leaves_nothing() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = mounts();
    // Its own /proc: the command, its init, and the ps.
    let script = "ls -d /proc/[0-9]* | tr '\\n' ' '; cat /proc/1/comm; id -u; id -g";
    let output = exec(&mut user.warmstart(), 4711, "namespace", &["--", "sh", "-c", script]);
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("/proc/1 /proc/4711 /proc/47"), "{text}{}", stderr(&output));
    assert!(lines[0].ends_with(" warmstart-init"), "{text}");
    assert_eq!(lines[1..], ["65534", "65534"], "{text}");
    assert_eq!(mounts(), before);
    assert_nothing_left(&user.binary());
}

/// As outside, what a command leaves behind lives on; and its init with it,
/// which holds none of the command's descriptors.
#[test]
fn what_a_command_leaves_behind_in_a_namespace_lives_on() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    // Ten seconds at most, if we wait for it.
    let script = "(for i in $(seq 500); do [ -e go ] && break; sleep 0.02; done
        echo late > late) >/dev/null 2>&1 & echo early";
    let output = exec(&mut user.warmstart(), 4711, "namespace", &["--", "sh", "-c", script]);
    assert_eq!(stdout(&output), "early\n", "{}", stderr(&output));
    assert!(!user.home().join("late").exists(), "the command's end waited for it");
    fs::write(user.home().join("go"), "").unwrap();
    assert_nothing_left(&user.binary());
    assert_eq!(fs::read_to_string(user.home().join("late")).unwrap(), "late\n");
}

#[test]
fn a_killed_launcher_takes_its_command_along() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let mut child = user
        .warmstart()
        .args(["pids", "exec", "--pid", "4711", "--via", "namespace", "--"])
        .args(["sh", "-c", "echo ready; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    std::io::BufRead::read_line(&mut out, &mut text).unwrap();
    assert_eq!(text, "ready\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_left(&user.binary());
    // Nobody holds the pipe.
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    assert_eq!(text, "ready\n");
}

#[test]
fn last_pids_side_by_side_do_not_thwart_each_other() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    // Whatever else runs on the machine takes pids as well.
    let rounds: Vec<_> = (0..5).map_while(|_| eight_last_pids_at_once().err()).collect();
    assert!(rounds.len() < 5, "{rounds:#?}");
}

/// Has eight programs started with chosen pids at once; an error is what went
/// otherwise.
fn eight_last_pids_at_once() -> Result<(), String> {
    let before = Cursor::open().unwrap().last().unwrap();
    let first = free_pid(5000);
    // Not one beside the other: their own children get the pids between.
    let pid_max = Cursor::open().unwrap().pid_max();
    let far = (first..pid_max).chain(2000..first).step_by(50);
    let wishes: Vec<i32> = far.filter(|&pid| !is_taken(pid)).take(8).collect();
    let children: Vec<_> = wishes
        .iter()
        .map(|pid| {
            warmstart(&cache())
                .args(["pids", "exec", "--via", "last-pid", "--pid", &pid.to_string()])
                .args(["--", "sh", "-c", "echo $$; sleep 0.3"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    let others: Vec<String> = (wishes.iter().zip(outputs))
        .filter(|(pid, output)| stdout(output) != format!("{pid}\n"))
        .map(|(pid, output)| format!("{pid}: {}{}", stdout(&output), stderr(&output)))
        .collect();
    // The cursor is about where it was.
    let cursor = Cursor::open().unwrap();
    let moved = distance(before, cursor.last().unwrap() + 1, cursor.pid_max());
    match (&others[..], moved) {
        ([], Some(..2000)) => Ok(()),
        _ => Err(format!("{others:?}; the cursor moved from {before} by {moved:?}")),
    }
}

/// Anybody may lock the file: nobody is waited for without end.
#[test]
fn a_lock_that_is_kept_is_given_up() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen here");
    }
    let _cursor = cursor_is_ours();
    let file = fs::File::open("/proc/sys/kernel/ns_last_pid").unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let output = as_root(far_pid(), "last-pid", &["--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("keeps the lock on ns_last_pid"), "{}", stderr(&output));
    drop(lock);
    assert_eq!(as_root(far_pid(), "last-pid", &["--", "true"]).status.code(), Some(0));
}

/// As in a container: no clone3.
#[test]
fn without_clone3_last_pid_is_taken() {
    if !nix::unistd::geteuid().is_root() || !support::can_choose_pids() {
        skip!("a filter of an ordinary user switches file capabilities off");
    }
    let _cursor = cursor_is_ours();
    let filtered = || {
        let mut command = warmstart(&cache());
        seccomp::answer_with(&mut command, &[(libc::SYS_clone3, libc::ENOSYS)]);
        command
    };
    let output = exec(&mut filtered(), far_pid(), "set-tid", &["--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("there is no clone3 here"), "{}", stderr(&output));
    let pid = far_pid();
    let output = exec(&mut filtered(), pid, "", &[&["-v"][..], &LOOK].concat());
    assert_had(&output, pid, true);
    assert_eq!(stderr(&output), format!("warmstart: pid {pid} by last-pid\n"));
}

/// Without clone3 and without namespaces, an ordinary user has one way left.
#[test]
fn without_clone3_and_unshare_cycling_is_left() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let _cursor = cursor_is_ours();
    let filtered = || {
        let mut command = user.warmstart();
        let errors = [(libc::SYS_clone3, libc::ENOSYS), (libc::SYS_unshare, libc::EPERM)];
        seccomp::answer_with(&mut command, &errors);
        command
    };
    let output = exec(&mut filtered(), 4711, "namespace", &["--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("unshare: Operation not permitted"), "{}", stderr(&output));
    let pid = free_pid(2000);
    let output = exec(&mut filtered(), pid, "", &[&["-v"][..], &LOOK].concat());
    assert_had(&output, pid, false);
    assert_eq!(stderr(&output), format!("warmstart: pid {pid} by cycle\n"));
}

fn bench(mut command: Command) -> Value {
    let output = command.args(["pids", "bench", "--json", "--tries", "1"]).output().unwrap();
    assert_eq!(stderr(&output), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_bench_measures_what_works_here() {
    let (user, able) = match (Ordinary::new(), Ordinary::with_capability()) {
        (Ok(user), Ok(able)) => (user, able),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let _cursor = cursor_is_ours();
    for (command, may) in
        [(warmstart(&cache()), true), (able.warmstart(), true), (user.warmstart(), false)]
    {
        let report = bench(command);
        assert_eq!(report["schema_version"], 1);
        assert_eq!(report["may_choose_pids"], may, "{report}");
        for (measured, strategy) in
            report["strategies"].as_array().unwrap().iter().zip(Strategy::ALL)
        {
            assert_eq!(measured["strategy"], strategy.name());
            let works = may || matches!(strategy, Strategy::Namespace | Strategy::Cycle);
            assert_eq!(measured["unavailable"].is_null(), works, "{measured}");
            let distances = measured["distances"].as_array().unwrap();
            assert_eq!(distances.len(), if works { 4 } else { 0 }, "{measured}");
            // Somebody else may be faster, now and then.
            let successes = distances.iter().filter(|it| it["successes"] == 1);
            assert!(successes.count() + 1 >= distances.len(), "{measured}");
        }
    }
    assert_nothing_left(&user.binary());
    let output = user.warmstart().args(["pids", "bench", "-n", "1"]).output().unwrap();
    let text = stdout(&output);
    assert!(text.contains("10000 away"), "{text}");
    assert!(text.contains("\nset-tid: choosing pids needs CAP_CHECKPOINT_RESTORE\n"), "{text}");
}
