//! Restores in namespaces of their own: what an ordinary user gets who has no
//! capability, with nothing set up.
//!
//! `modes` runs every test of exit status, signals, streams and terminals
//! there as well (`tests/launcher.rs`, `tests/stdio.rs`).

#![allow(clippy::unwrap_used)]

mod modes;
mod support;
mod trial;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use modes::{Mode, Program};
use support::enclosed::{assert_no_capability, init, inner_tids, mounts, outer};
use support::service::{Service, compile, pid_of_image, tids_of_image};
use support::{Jdk, Ordinary, jdk, repetitions};
use trial::{PATIENCE, Trial};

/// What a process looks like to those outside.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    links: Vec<PathBuf>,
    files: Vec<String>,
}

impl Looks {
    fn of(pid: i32) -> Self {
        let link = |name| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        let file = |name| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self {
            links: ["exe", "cwd", "root"].map(link).into(),
            files: ["comm", "cmdline", "environ", "limits", "oom_score_adj", "auxv"]
                .map(file)
                .into(),
        }
    }
}

fn restored_servers_are_whole(jdk: &Jdk) {
    let (user, classes) =
        match Ordinary::with_namespaces().and_then(|user| Ok((user, compile("Exercise.java")?))) {
            Ok(prepared) => prepared,
            Err(missing) => skip!("{missing}"),
        };
    let mut service = Service::exercise(jdk, &[], classes.path()).run_by(&user);
    service.env.push(("LD_LIBRARY_PATH".into(), "/no/such/lib".into()));
    let cold = service.capture(&[]);
    let looks = Looks::of(cold.app());
    assert_eq!(cold.end().code(), Some(143));
    let (captured, pid) = (tids_of_image(&service.image()), pid_of_image(&service.image()));
    let before = mounts();
    for round in 1..=repetitions(3) {
        let mut run = service.start(&[]);
        let status = run.wait_status(|_| true);
        assert_eq!((&status["pids"], run.app()), (&"namespace".into(), pid), "{status}");
        let outside = outer(run.pid(), pid);
        let alive = inner_tids(outside);
        let missing: Vec<_> = captured.difference(&alive).collect();
        // One whose patience ended during the capture may have ended since.
        assert!(missing.len() <= captured.len() / 4, "round {round}: no {missing:?}");
        assert_eq!(Looks::of(outside), looks, "round {round}");
        assert_no_capability(outside, pid);
        // Files, threads and children of its own, and what it sees of itself.
        let answer = run.get(&format!("/work?{round}"));
        assert!(answer.ends_with(&format!("exec={}/0", round + 1)), "{answer}");
        let answer = run.get("/environment?LD_LIBRARY_PATH");
        assert_eq!(answer, format!("/no/such/lib\n{}\n{pid}", user.home().display()));
        assert_no_capability(outside, pid);
        assert_eq!(mounts(), before, "round {round}");
        assert_eq!(run.said(), "", "round {round}");
        let init = init(run.pid());
        assert_no_capability(init, 1);
        assert_eq!(run.end().code(), Some(143), "round {round}");
        assert!(modes::is_gone(init) && modes::is_gone(outside), "round {round}: left over");
    }
    assert_eq!(mounts(), before);
}

#[test]
fn a_server_on_jdk_17() {
    let Some(jdk) = jdk(17) else { skip!("there is no JDK 17") };
    restored_servers_are_whole(&jdk);
}

#[test]
fn a_server_on_jdk_25() {
    let Some(jdk) = jdk(25) else { skip!("there is no JDK 25") };
    restored_servers_are_whole(&jdk);
}

/// Its `/proc` is the namespace's: itself, the init, and nobody else.
#[test]
fn a_program_sees_its_own_processes() {
    let Some(program) = Program::new(Mode::Enclosed) else { return };
    let script = "pids = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())\n\
        print(pids == [1, os.getpid()], os.readlink('/proc/self') == str(os.getpid()),\n\
            os.getppid(), open('/proc/1/comm').read().strip(), os.getpgrp(), os.getsid(0))";
    let output = program.output(script, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "True True 0 warmstart-init 0 0\n", "{output:?}");
}

/// What a program leaves behind lives on, as after any other start, and nobody
/// waits for it but those who read what it writes.
#[test]
fn a_background_child_lives_on() {
    modes::every(|program| {
        // A tap passes on what is written: that launcher stays.
        if program.mode == Mode::Tapped {
            return;
        }
        let go = program.dir.path().join("go");
        let script = format!(
            "r, w = os.pipe()\n\
             if os.fork() == 0:\n\
             \x20 os.close(w); os.read(r, 1)\n\
             \x20 for i in range(500):\n\
             \x20   if os.path.exists('{}'): break\n\
             \x20   time.sleep(0.02)\n\
             \x20 else: print('not told', flush=True)\n\
             \x20 print('late', os.getpid(), flush=True); os._exit(0)\n\
             print('end', flush=True); os._exit(3)",
            go.display()
        );
        let began = Instant::now();
        let mut child = program.command(&script, &[], |_| ()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        // If the launcher waited for it, it would not be told.
        assert_eq!(child.wait().unwrap().code(), Some(3));
        fs::write(&go, "").unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!((first.as_str(), rest.split(' ').next()), ("end\n", Some("late")));
        assert!(began.elapsed() < PATIENCE);
    });
}

#[test]
fn sessions_of_its_own() {
    let user = match Ordinary::with_namespaces() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    for early in ["os.setpgid(0, 0)", "os.setsid()"] {
        let late = format!(
            "import signal
got = []
signal.signal(signal.SIGTERM, lambda *a: got.append(1))
os.killpg(0, signal.SIGTERM)
led = [os.getpgrp(), os.getsid(0)]
if led != [os.getpid(), os.getpid() if {early:?} == 'os.setsid()' else 0] or not got: sys.exit(9)"
        );
        let trial = Trial::python(early, &late).run_by(&user);
        trial.capture().unwrap();
        trial.run().check_restored(early);
        assert_eq!(trial.status().unwrap()["pids"], "namespace");
    }
}

/// From inside, the groups of others on a terminal are all the same: a shell
/// with job control would take itself for the one whose turn it is.
#[test]
fn a_group_of_its_own_on_a_terminal_is_refused_by_name() {
    let user = match Ordinary::with_namespaces() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    if !trial::installed("script") {
        skip!("there is no script (package bsdutils)");
    }
    let trial = Trial::python("os.setpgid(0, 0)", "pass").run_by(&user);
    trial.capture().unwrap();
    for _ in 0..3 {
        let inner = trial.command(&[]);
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let words: Vec<String> =
            words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let out = trial.path("out");
        // As in the captured run, but for the terminal: null and pipes.
        let line = format!("{} </dev/null 2>&1 | cat >'{}'", words.join(" "), out.display());
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap());
        }
        trial.open_gate();
        assert!(command.status().unwrap().success());
        let said = fs::read_to_string(out).unwrap();
        let why = "not in a pid namespace: it leads a process group of its own on a terminal";
        let status = trial.status().unwrap();
        let expected = format!("warmstart: started cold: {why}\n{}", trial::ANSWER);
        assert_eq!(said, expected, "{status}");
        assert_eq!(status["outcome"], "cold");
    }
    // The image is none the worse for it.
    trial.run().check_restored("without a terminal");
}
