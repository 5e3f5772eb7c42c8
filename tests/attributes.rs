//! What a restored program has from its caller, and what from its image.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use trial::{Ended, Trial};

/// Writes down what a program is surrounded by, once it is past the gate.
const LOOK: &str = "
import resource, signal, json
status = dict(l.rstrip('\\n').split(':\\t', 1) for l in open('/proc/self/status') if ':\\t' in l)
try: os.close(os.open('/dev/tty', os.O_RDWR)); tty = True
except OSError: tty = False
json.dump({
  'umask': status['Umask'], 'ignored': status['SigIgn'], 'blocked': status['SigBlk'],
  'affinity': status['Cpus_allowed_list'], 'nice': os.nice(0),
  'no_new_privs': status['NoNewPrivs'], 'caps': status['CapEff'], 'groups': status['Groups'],
  'oom': open('/proc/self/oom_score_adj').read().strip(),
  'cgroup': open('/proc/self/cgroup').read(),
  'pid': os.getpid(), 'blocking': os.get_blocking(1),
  'dumped': open('/proc/self/coredump_filter').read().strip(),
  'slack': open('/proc/self/timerslack_ns').read().strip(),
  'session': os.getsid(0), 'group': os.getpgrp(), 'parent': os.getppid(), 'tty': tty,
  'cwd': os.getcwd(), 'name': open('/proc/self/comm').read().strip(),
  'exe': os.readlink('/proc/self/exe'), 'args': open('/proc/self/cmdline').read(),
  'limits': {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource)
             if n.startswith('RLIMIT_')},
}, open(os.path.join(home, 'seen'), 'w'))
";

fn seen(trial: &Trial) -> serde_json::Value {
    serde_json::from_slice(&fs::read(trial.path("seen")).unwrap()).unwrap()
}

/// Runs with words before `warmstart` and returns what the program saw.
fn look(trial: &mut Trial, via: &str) -> (Ended, serde_json::Value) {
    trial.via = words(via);
    let ended = trial.run();
    ended.check(via);
    (ended, seen(trial))
}

fn words(via: &str) -> Vec<String> {
    match via {
        "" => Vec::new(),
        via => ["sh", "-c", &format!("{via} exec \"$@\""), "sh"].map(str::to_owned).into(),
    }
}

#[test]
fn what_comes_from_the_caller() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let mut trial = Trial::python("pass", LOOK);
    trial.capture().unwrap();
    trial.run_restored("plain");
    let plain = seen(&trial);
    // Not part of the key: a restore under them is still a restore.
    for (via, key, pointer) in [
        ("renice -n 5 -p $$ >/dev/null;", "nice", ""),
        ("echo 300 > /proc/self/oom_score_adj;", "oom", ""),
        ("ulimit -c 4096;", "limits", "/RLIMIT_CORE"),
        ("ulimit -f 123456;", "limits", "/RLIMIT_FSIZE"),
    ] {
        let (ended, now) = look(&mut trial, via);
        ended.check_restored(via);
        let path = format!("/{key}{pointer}");
        let cold = {
            // The same without an image.
            trial.cache = trial.path("other-cache");
            let (ended, cold) = look(&mut trial, via);
            trial.cache = trial.path("cache");
            assert_eq!(ended.outcome, "cold");
            cold
        };
        assert_ne!(now.pointer(&path), plain.pointer(&path), "{via}");
        assert_eq!(now.pointer(&path), cold.pointer(&path), "{via}");
        for same in ["umask", "cwd", "name", "exe", "args", "ignored", "blocked", "caps"] {
            assert_eq!(now[same], cold[same], "{same} {via}");
        }
    }
}

/// Part of the key, because programs size or arrange themselves by it: a
/// caller with another one gets a cold start, never the other's image.
#[test]
fn what_makes_another_image() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let mut trial = Trial::python("pass", LOOK);
    trial.capture().unwrap();
    trial.run_restored("plain");
    let plain = seen(&trial);
    let mut ways = vec![
        ("umask 027;", "umask"),
        ("ulimit -n 512;", "limits"),
        // The path is relative to where the program runs.
        ("cd /usr;", "cwd"),
    ];
    // Whoever started the test may ignore some already: a background job.
    let ignores = |signal: i32| {
        let mask = plain["ignored"].as_str().unwrap();
        u64::from_str_radix(mask, 16).unwrap() >> (signal - 1) & 1 == 1
    };
    if !ignores(libc::SIGHUP) {
        ways.push(("trap '' HUP;", "ignored"));
    }
    if !ignores(libc::SIGQUIT) {
        ways.push(("trap '' INT QUIT;", "ignored"));
    }
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus > 1 && trial::installed("taskset") {
        ways.push(("taskset -p 1 $$ >/dev/null;", "affinity"));
    }
    for (via, key) in ways {
        let (ended, now) = look(&mut trial, via);
        assert!(!ended.restored(), "{via} {ended:?}");
        assert_ne!(now[key], plain[key], "{via}");
        // With an image of its own, the program finds the same restored.
        trial.capture().unwrap();
        let ended = trial.run_restored(via);
        let restored = seen(&trial);
        for same in [key, "umask", "ignored", "blocked", "limits", "affinity", "cwd", "nice"] {
            assert_eq!(restored[same], now[same], "{same} {via} {ended:?}");
        }
        let entries = trial.cache.join("v1/entries");
        trial.via.clear();
        trial.run_restored("plain again");
        assert_eq!(seen(&trial)[key], plain[key], "{}", entries.display());
    }
}

#[test]
fn session_group_and_parent_are_the_launchers() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("pass", LOOK);
    trial.capture().unwrap();
    let own = (nix::unistd::getsid(None).unwrap(), nix::unistd::getpgrp());
    trial.run_restored("in our group");
    let now = seen(&trial);
    assert_eq!(
        (now["session"].clone(), now["group"].clone()),
        (own.0.as_raw().into(), own.1.as_raw().into())
    );
    // A group of its own.
    let mut command = trial.command(&[]);
    let ended = trial.end({
        command.process_group(0);
        command
    });
    ended.check_restored("in a group of its own");
    let now = seen(&trial);
    assert_eq!(now["group"], now["parent"]);
    assert_eq!(now["session"], own.0.as_raw());
    // A session of its own has no terminal.
    let mut trial = trial;
    trial.via = vec!["setsid".into(), "-w".into()];
    let ended = trial.run();
    ended.check_restored("in a session of its own");
    let now = seen(&trial);
    assert_eq!(now["session"], now["parent"]);
    assert_eq!(now["tty"], false);
}

#[test]
fn a_terminal_is_the_callers() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    if !trial::installed("script") {
        skip!("there is no script (package bsdutils)");
    }
    let trial = Trial::python("pass", LOOK);
    // 0, 1 and 2 are as in the captured run; only /dev/tty is there now.
    trial.capture().unwrap();
    let inner = trial.command(&[]);
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let out = trial.path("out");
    let line = format!("{} </dev/null 2>&1 | cat > '{}'", words.join(" "), out.display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    trial.open_gate();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(out).unwrap(), trial::ANSWER);
    let now = seen(&trial);
    assert_eq!(now["tty"], true);
    assert_eq!(trial.status().unwrap()["outcome"], "restored", "{:?}", trial.status());
}

/// What the program has changed itself is the image's.
#[test]
fn what_the_program_changed_comes_from_the_image() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "import resource, signal
os.umask(0o31)
os.chdir('/usr/lib')
resource.setrlimit(resource.RLIMIT_CORE, (1000, 2000))
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGHUP, lambda *a: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
open('/proc/self/comm', 'w').write('renamed')";
    let mut trial = Trial::python(early, LOOK);
    trial.capture().unwrap();
    // The caller's own limit is another one now; the program's stays.
    let (ended, now) = look(&mut trial, "ulimit -c 77777;");
    ended.check_restored("with another limit");
    assert_eq!(now["umask"], "0031");
    assert_eq!(now["cwd"], "/usr/lib");
    assert_eq!(now["name"], "renamed");
    assert_eq!(now["limits"]["RLIMIT_CORE"], serde_json::json!([1000, 2000]));
    assert_eq!(now["limits"]["RLIMIT_NOFILE"], serde_json::json!([300, 400]));
    let bits = |name: &str| u64::from_str_radix(now[name].as_str().unwrap(), 16).unwrap();
    assert_ne!(bits("ignored") & 1 << (libc_signal("USR1") - 1), 0);
    assert_eq!(bits("ignored") & 1 << (libc_signal("HUP") - 1), 0);
    assert_ne!(bits("blocked") & 1 << (libc_signal("USR2") - 1), 0);
}

/// A program in a group of its own signals that group, and not the caller.
#[test]
fn a_group_or_session_that_the_program_leads_is_its_own_again() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let caller = nix::unistd::getsid(None).unwrap().as_raw();
    for (early, leads_session) in [("os.setpgid(0, 0)", false), ("os.setsid()", true)] {
        let late = format!(
            "{LOOK}
import signal
signal.signal(signal.SIGTERM, lambda *a: None)
os.killpg(0, signal.SIGTERM)"
        );
        let trial = Trial::python(early, &late);
        trial.capture().unwrap();
        trial.run_restored(early);
        let now = seen(&trial);
        assert_eq!(now["group"], now["pid"], "{early}");
        let session = if leads_session { now["pid"].clone() } else { caller.into() };
        assert_eq!(now["session"], session, "{early}");
    }
}

/// What only the program itself can have set: it is not the caller's.
#[test]
fn flags_and_scheduling_that_the_program_changed_are_set_again() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "os.set_blocking(1, False)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.nice(3)
open('/proc/self/coredump_filter', 'w').write('0x7f')
# As who offers its workers to the kernel when memory is short.
open('/proc/self/oom_score_adj', 'w').write('77')
open('/proc/self/timerslack_ns', 'w').write('70000')";
    let trial = Trial::python(early, LOOK);
    let waiting = trial.start(&["--refresh"]);
    trial.open_gate();
    let (code, _, _) = waiting.finish();
    assert_eq!(code, Some(trial::STATUS), "{:?}", trial.status());
    let first = seen(&trial);
    assert_eq!((&first["blocking"], &first["dumped"]), (&false.into(), &"0000007f".into()));
    trial.run_restored("changed");
    let now = seen(&trial);
    for same in ["blocking", "affinity", "nice", "dumped", "oom", "slack"] {
        assert_eq!(now[same], first[same], "{same}");
    }
}

#[test]
fn a_policy_or_securebits_of_its_own_are_refused() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    for (early, words) in [
        (
            "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
            "scheduling policy SCHED_BATCH",
        ),
        // PR_SET_KEEPCAPS
        ("import ctypes\nctypes.CDLL(None).prctl(8, 1, 0, 0, 0)", "securebits (0x10)"),
    ] {
        let refused = Trial::python(early, "").capture().unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
}

fn libc_signal(name: &str) -> u32 {
    match name {
        "HUP" => nix::libc::SIGHUP as u32,
        "USR1" => nix::libc::SIGUSR1 as u32,
        _ => nix::libc::SIGUSR2 as u32,
    }
}

/// A JVM installs its handler of SIGHUP unless nohup(1) ignores it: an image
/// made with the handler must not serve a run under nohup, nor the reverse.
#[test]
fn a_jvm_under_nohup_survives_a_hangup() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let Some(mut trial) = Trial::java(&jdk, "", "", "") else { skip!("there is no javac") };
    for (nohup, survives) in [("", false), ("trap '' HUP;", true), ("", false)] {
        trial.via = words(nohup);
        // Captured by the first that needs it.
        let waiting = trial.start(&[]);
        let pid = |trial: &Trial| trial.status().unwrap()["app_pid"].as_i64().unwrap() as i32;
        waiting.end_program(pid(&trial));
        let waiting = trial.start(&[]);
        assert_eq!(trial.status().unwrap()["outcome"], "restored", "{:?}", trial.status());
        let hangup = nix::sys::signal::Signal::SIGHUP;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid(&trial)), hangup).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (code, said, _) = waiting.finish();
        let survived = (code, said.as_str()) == (Some(trial::STATUS), trial::ANSWER);
        assert_eq!(survived, survives, "{nohup} {code:?} {said}");
    }
}
