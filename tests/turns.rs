//! Restores without `clone3`: pids made the next one, one after the other;
//! and where captured programs are put, so that their pids are free later.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::occupy::Occupant;
use support::seccomp;
use trial::{Ended, Trial};

const CURSOR: &str = "/proc/sys/kernel/ns_last_pid";

/// What container runtimes answer to calls that they do not know, or like.
const SANDBOX: [(i64, i32); 2] =
    [(libc::SYS_clone3, libc::ENOSYS), (libc::SYS_unshare, libc::EPERM)];

/// The cursor is the machine's: one test at a time moves it.
static CURSOR_LOCK: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CURSOR_LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A captured JVM, whose dozen of threads the late part makes use of.
fn captured() -> Result<Trial, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root: an unprivileged filter switches capabilities off".into());
    }
    let jdk = support::full_jdks().into_iter().next().ok_or("there is no JDK")?;
    let late = "Thread other = new Thread(() -> System.gc());
        other.start(); other.join();
        new ProcessBuilder(\"/bin/true\").start().waitFor();";
    let trial = Trial::java(&jdk, "", "", late).ok_or("there is no compiler")?;
    trial.capture()?;
    Ok(trial)
}

fn in_a_sandbox(trial: &Trial, options: &[&str]) -> (Ended, String) {
    trial.open_gate();
    let mut command = trial.command(options);
    seccomp::answer_with(&mut command, &SANDBOX);
    let ended = trial.end(command);
    ended.check(&options.join(" "));
    let pids = trial.status().unwrap()["pids"].as_str().unwrap_or("none").to_owned();
    (ended, pids)
}

fn leader(trial: &Trial) -> i32 {
    let plan = warmstart::snapshot::plan_of(&trial.entry().join("image")).unwrap();
    plan.pid()
}

#[test]
fn without_clone3_and_namespaces_the_cursor_is_positioned() {
    let _alone = alone();
    let trial = match captured() {
        Ok(trial) => trial,
        Err(missing) => skip!("{missing}"),
    };
    for round in 0..support::repetitions(5) {
        let attempt = || in_a_sandbox(&trial, &[]);
        let (ended, pids) = support::with_free_pids(attempt, |(ended, _)| ended.met_a_taken_pid());
        assert!(ended.restored() && pids == "last-pid", "{round}: {pids} {ended:?}");
        assert_eq!(ended.app_pid, leader(&trial));
    }
    trial.check_nothing_left();
}

/// Who ends a program and starts it again at once may find it not yet reaped.
#[test]
fn a_process_that_has_ended_is_waited_for() {
    let _alone = alone();
    let trial = match captured() {
        Ok(trial) => trial,
        Err(missing) => skip!("{missing}"),
    };
    let after_a_zombie = |run: &dyn Fn() -> (Ended, String)| {
        let attempt = || {
            let zombie = Occupant::of(leader(&trial)).unwrap();
            zombie.end().unwrap();
            let reaper = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                drop(zombie);
            });
            let answer = run();
            reaper.join().unwrap();
            answer
        };
        // A machine that stands still does so for longer than it is waited for.
        let is_taken = |(ended, _): &(Ended, String)| {
            ended.reason.as_ref().is_some_and(|reason| reason.contains("is taken"))
        };
        let (ended, pids) = support::with_free_pids(attempt, is_taken);
        assert!(ended.restored(), "{ended:?}");
        pids
    };
    assert_eq!(after_a_zombie(&|| in_a_sandbox(&trial, &[])), "last-pid");
    let by_set_tid = || {
        let ended = trial.end(trial.command(&["--pids", "set-tid"]));
        ended.check("set-tid");
        (ended, trial.status().unwrap()["pids"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(after_a_zombie(&by_set_tid), "set-tid");
    trial.check_nothing_left();
}

#[test]
fn pids_that_are_near_are_reached_by_using_up_others() {
    let _alone = alone();
    let trial = match captured() {
        Ok(trial) => trial,
        Err(missing) => skip!("{missing}"),
    };
    let (mut restored, mut reasons) = (0, Vec::new());
    for _ in 0..20 {
        // As in a fresh container: just before the program's own.
        let before = fs::read_to_string(CURSOR).unwrap();
        fs::write(CURSOR, (leader(&trial) - 40).to_string()).unwrap();
        let (ended, pids) = in_a_sandbox(&trial, &["--pids", "cycle", "--pid-budget", "500"]);
        fs::write(CURSOR, before.trim()).unwrap();
        match ended.restored() {
            true => assert_eq!((pids.as_str(), ended.app_pid), ("cycle", leader(&trial))),
            // Other tests make processes as well, and move the cursor.
            false => {
                reasons.extend(ended.reason);
                continue;
            }
        }
        restored += 1;
        if restored == 3 {
            break;
        }
    }
    assert_eq!(restored, 3, "three of twenty; else {reasons:?}");
    trial.check_nothing_left();
}

#[test]
fn what_cannot_be_reached_is_a_cold_start() {
    let _alone = alone();
    let trial = match captured() {
        Ok(trial) => trial,
        Err(missing) => skip!("{missing}"),
    };
    let (ended, pids) = in_a_sandbox(&trial, &["--pids", "cycle", "--pid-budget", "1"]);
    assert_eq!((ended.outcome.as_str(), pids.as_str()), ("cold", "none"));
    assert!(ended.reason.unwrap().contains("may be used up"));
    let (ended, pids) = in_a_sandbox(&trial, &["--pids", "set-tid"]);
    assert_eq!((ended.outcome.as_str(), pids.as_str()), ("cold", "none"));
    let (ended, pids) = in_a_sandbox(&trial, &["--pids", "namespace"]);
    assert_eq!((ended.outcome.as_str(), pids.as_str()), ("cold", "none"));
    assert!(ended.reason.unwrap().contains("namespaces cannot be made here: unshare"));
    trial.check_nothing_left();
}

#[test]
fn a_captured_program_has_a_slot_of_its_own() {
    let _alone = alone();
    if !nix::unistd::geteuid().is_root() {
        skip!("not root");
    }
    let slot = |pid: i32| (pid - 2000) / 256;
    let mut slots = Vec::new();
    for number in 0..3 {
        let mut trial = Trial::python(
            "import threading
for _ in range(3): threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()",
            "",
        );
        trial.argv.push(number.to_string());
        // Whoever keeps the cursor's lock keeps a start from being placed, and
        // two that move it at a time may put it back to each other's place.
        let captured = (0..20).find_map(|_| {
            trial.capture().unwrap();
            let plan = warmstart::snapshot::plan_of(&trial.entry().join("image")).unwrap();
            // The next process of all is not the program's neighbour.
            let mut other = std::process::Command::new("true").spawn().unwrap();
            let next = other.id() as i32;
            other.wait().unwrap();
            let is_placed = (plan.pid() - 2000) % 256 == 0 && slot(next) != slot(plan.pid());
            is_placed.then_some(plan)
        });
        let plan = captured.expect("the first pid of a slot");
        let pid = plan.pid();
        let tids: Vec<i32> = plan.file().threads.iter().map(|thread| thread.tid).collect();
        let near = tids.iter().filter(|tid| slot(**tid) == slot(pid)).count();
        assert!(tids.len() == 4 && near >= 3, "{tids:?}");
        slots.push(slot(pid));
        trial.run_restored("in its slot");
    }
    slots.dedup();
    assert!(slots.len() > 1, "{slots:?}");
}
