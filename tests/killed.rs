//! SIGKILL for the launcher at any moment: the program does not outlive it,
//! nothing stays behind, and the next run gives the right answer.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use trial::{Dice, PATIENCE, Trial, repeat};

/// Kills a run after a while; its program must go with it.
fn kill_after(trial: &Trial, options: &[&str], delay: Duration) {
    let began = Instant::now();
    let mut child = trial.command(options).spawn().unwrap();
    // Sleeping is too coarse for the moments of a restore.
    while began.elapsed() < delay {
        if delay.saturating_sub(began.elapsed()) > Duration::from_millis(2) {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            std::hint::spin_loop();
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    trial.check_nothing_left();
}

/// Captures again and again, each time killed; a run between them is right.
fn kill_captures(trial: &Trial, count: u32) {
    trial::adopt_orphans();
    let began = Instant::now();
    trial.capture().unwrap();
    let whole_us = began.elapsed().as_micros() as u64;
    let mut dice = Dice::new();
    let mut endings: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..count {
        trial.close_gate();
        // Half of them while the image is written, which comes last.
        let part = match round % 2 {
            0 => dice.below(whole_us * 11 / 10),
            _ => whole_us / 2 + dice.below(whole_us * 6 / 10),
        };
        let options: &[&str] = if round % 3 == 0 { &[] } else { &["--refresh"] };
        kill_after(trial, options, Duration::from_micros(part));
        let ended = trial.run();
        ended.check(&format!("round {round}, killed after {part} us of {whole_us}"));
        // Without numbers: reasons name pids.
        let how: String = ended.reason.unwrap_or(ended.outcome);
        *endings.entry(how.replace(|c: char| c.is_ascii_digit(), "")).or_default() += 1;
        // Sometimes there is no entry to fall back on.
        match round % 8 {
            4 => fs::remove_dir_all(trial.cache.join("v1/entries")).unwrap(),
            7 => trial.capture().unwrap(),
            _ => {}
        }
    }
    eprintln!("the runs after {count} killed captures: {endings:?}");
    assert!(endings.contains_key("restored") || count < 10);
    trial.capture().unwrap();
    assert!(trial.unfinished().is_empty(), "{:?}", trial.unfinished());
    trial.run_restored("after all");
    trial.check_nothing_left();
}

/// Restores again and again, each time killed.
fn kill_restores(trial: &Trial, count: u32) {
    trial::adopt_orphans();
    trial.capture().unwrap();
    let mut dice = Dice::new();
    let began = Instant::now();
    trial.run_restored("at first");
    // A debug build, on a busy machine, needs longer than the 10 ms of a
    // released one.
    let whole_us = (began.elapsed().as_micros() as u64 * 3 / 2).max(10_000);
    for round in 0..count {
        trial.close_gate();
        let delay_us = dice.below(whole_us);
        kill_after(trial, &["--no-capture"], Duration::from_micros(delay_us));
        if round % 10 == 9 {
            trial.run_restored(&format!("round {round}, killed after {delay_us} us"));
        }
    }
    trial.run_restored("after all");
    trial.check_nothing_left();
}

#[test]
fn captures_of_a_python_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    kill_captures(&Trial::python("pass", "pass"), repeat(40));
}

#[test]
fn restores_of_a_python_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    kill_restores(&Trial::python("pass", "pass"), repeat(60));
}

/// The init of the namespace goes with the program, at any moment of both.
#[test]
fn restores_in_a_namespace() {
    let user = match support::Ordinary::with_namespaces() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    let mut trial = Trial::python("pass", "pass").run_by(&user);
    trial.options.extend(["--pids".into(), "namespace".into()]);
    kill_restores(&trial, repeat(60));
    assert_eq!(trial.status().unwrap()["pids"], "namespace");
}

#[test]
fn captures_and_restores_of_a_java_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let Some(trial) = Trial::java(&jdk, "", "", "") else { skip!("there is no javac") };
    kill_captures(&trial, repeat(10));
    kill_restores(&trial, repeat(20));
    // A JVM that was killed leaves its performance data behind; a restored one
    // has put it there anew and removes it when it ends.
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let perf = Path::new("/tmp").join(format!("hsperfdata_{}", user.name));
    let ended = trial.run_restored("with its performance data");
    let file = perf.join(ended.app_pid.to_string());
    assert!(!file.exists(), "{} is left", file.display());
}

/// The program is killed with the launcher also while it is frozen, when its
/// threads belong to the launcher's trace.
#[test]
fn killed_while_the_program_is_frozen() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    trial::adopt_orphans();
    // So much memory that the freeze takes its time.
    let trial = Trial::python("data = os.urandom(200 << 20)", "pass");
    let child = trial.command(&["--refresh"]).spawn();
    let mut child = child.unwrap();
    let pages = || {
        let staged = trial.unfinished();
        staged.iter().any(|dir| {
            fs::metadata(dir.join("image/pages-1.img")).is_ok_and(|meta| meta.len() > 1 << 20)
        })
    };
    let end = Instant::now() + PATIENCE;
    while !pages() {
        assert!(Instant::now() < end, "no pages are written");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    trial.check_nothing_left();
    assert!(!trial.unfinished().is_empty(), "the capture was over");
    // It is no entry, and the next capture sweeps it away.
    let ended = trial.run();
    ended.check("after the kill");
    assert!(!ended.restored());
    trial.capture().unwrap();
    assert!(trial.unfinished().is_empty());
    trial.run_restored("after the capture");
}
