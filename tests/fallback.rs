//! What stands in the way of a restore ends in a cold start: one line, the
//! right answer, nothing left over.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::occupy::{Ghost, Occupant};
use support::service::{Run, Service, compile, listeners, pid_of_image, tids_of_image};
use support::{Jdk, can_choose_pids, full_jdks};

/// A JDK and the compiled program, or what is missing.
fn prepare() -> Result<(Jdk, tempfile::TempDir), String> {
    if !can_choose_pids() {
        return Err("choosing pids needs CAP_CHECKPOINT_RESTORE".into());
    }
    let jdk = full_jdks().into_iter().next().ok_or("there is no JDK")?;
    Ok((jdk, compile("Exercise.java")?))
}

/// Asserts that without a namespace the run is a plain cold start for this
/// reason, and works.
fn assert_cold(service: &Service<'_>, reason: &str) {
    let mut run = service.start(&["--pids", "set-tid"]);
    let status = run.wait_status(|_| true);
    assert_eq!(status["outcome"], "cold", "{status}");
    assert_eq!(status["reason"], reason, "{status}");
    assert!(run.get("/work?1").ends_with("exec=2/0"));
    assert_eq!(run.said(), format!("warmstart: started cold: {reason}\n"));
    assert_eq!(listeners(service.port), 1);
    assert_eq!(run.app(), run.pid(), "it is started in our place");
    assert_nothing_left(service);
    assert_eq!(run.end().code(), Some(143));
}

/// Asserts that a run that was asked for nothing is answered from a namespace,
/// without a word.
fn assert_in_a_namespace(service: &Service<'_>) {
    let mut run = service.start(&[]);
    let status = run.wait_status(|_| true);
    assert_eq!((&status["outcome"], &status["pids"]), (&"restored".into(), &"namespace".into()));
    assert_eq!(status["reason"], serde_json::Value::Null);
    assert_eq!(run.app(), pid_of_image(&service.image()), "as it sees itself");
    assert!(run.get("/work?1").ends_with("exec=2/0"));
    assert_eq!(run.said(), "");
    assert_eq!(listeners(service.port), 1);
    assert_nothing_left(service);
    assert_eq!(run.end().code(), Some(143));
}

/// Asserts that the cache holds no half entries.
fn assert_nothing_left(service: &Service<'_>) {
    let tmp = service.cache().join("v1/tmp");
    let left: Vec<_> = fs::read_dir(tmp).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Asserts that it comes back with its pids, outside.
fn assert_restored(service: &Service<'_>) {
    let mut run = service.restore();
    assert!(run.get("/work?1").ends_with("exec=2/0"));
    assert_eq!(run.end().code(), Some(143));
}

#[test]
fn taken_pids_and_tids() {
    let (jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path());
    service.capture(&[]).end();
    let tids: Vec<i32> = tids_of_image(&service.image()).into_iter().collect();
    let pid = pid_of_image(&service.image());
    let others: Vec<i32> = tids.into_iter().filter(|tid| *tid != pid).collect();
    for taken in [pid, others[0], others[others.len() - 1]] {
        let occupant = Occupant::of(taken).unwrap();
        assert_cold(&service, &format!("pid {taken} is taken"));
        if taken != pid {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a half process is left");
        }
        assert_in_a_namespace(&service);
        drop(occupant);
        assert_restored(&service);
    }
}

/// A pid without a process can be one that is about to be free, which is
/// waited for, or a process group's, which is not.
#[test]
fn pids_of_process_groups() {
    let (jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path());
    service.capture(&[]).end();
    let pid = pid_of_image(&service.image());
    let ghost = Ghost::of(pid).unwrap();
    let began = Instant::now();
    assert_cold(&service, &format!("pid {pid} is taken"));
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_in_a_namespace(&service);
    drop(ghost);
    assert_restored(&service);
}

/// Runs with `-v`; asserts that it starts cold, says so with these words, and
/// is captured again.
fn assert_captured_again(service: &Service<'_>, words: &str) -> Run {
    let mut run = service.start(&["-v"]);
    let first = run.wait_status(|_| true);
    assert_eq!(first["outcome"], "cold", "{words}: {first}");
    let last = run.wait_status(|status| *status != first);
    assert_eq!(last["outcome"], "captured", "{words}: {last}\n{}", run.said());
    assert!(run.get("/work?1").ends_with("exec=2/0"));
    assert!(run.said().contains(words), "{words:?} is not in:\n{}", run.said());
    assert_nothing_left(service);
    run
}

#[test]
fn changed_inputs() {
    let (jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let tool = jdk.home.join("bin/jar");
    if !tool.exists() {
        skip!("there is no {}", tool.display());
    }
    let jar = classes.path().join("exercise.jar");
    let make = |extra: &str| {
        fs::write(classes.path().join("extra"), extra).unwrap();
        let mut command = Command::new(&tool);
        command.arg("--create").arg("--file").arg(&jar).arg("-C").arg(classes.path());
        let status = command.arg(".").status().unwrap();
        assert!(status.success());
    };
    // Not in itself.
    make("one");
    fs::remove_file(&jar).unwrap();
    make("two");
    let mut service = Service::exercise(&jdk, &[], &jar);
    service.env.push(("EXERCISE_FLAVOUR".into(), "sweet".into()));
    service.capture(&[]).end();
    assert_restored(&service);

    fs::remove_file(&jar).unwrap();
    make("three");
    assert_captured_again(&service, jar.to_str().unwrap()).end();
    assert_restored(&service);

    service.env[0].1 = "sour".into();
    assert_captured_again(&service, "EXERCISE_FLAVOUR").end();
    assert_restored(&service);

    service.argv.push("more".into());
    assert_captured_again(&service, "argument").end();
    assert_restored(&service);

    // What was there is still there: one entry for each of them.
    service.argv.pop();
    service.env[0].1 = "sweet".into();
    assert_restored(&service);
}

#[test]
fn changed_and_missing_files_that_the_program_held() {
    let (jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let data = support::cache();
    // By its name no input of the key, which would see the change first.
    let held = data.path().join("held.tmp");
    fs::write(&held, "one").unwrap();
    let mut service = Service::exercise(&jdk, &[], classes.path());
    service.env.push(("EXERCISE_DATA".into(), held.to_str().unwrap().into()));
    service.capture(&[]).end();
    assert_restored(&service);

    fs::write(&held, "two").unwrap();
    assert_captured_again(&service, &format!("{} changed", held.display())).end();
    assert_restored(&service);

    fs::remove_file(&held).unwrap();
    assert_captured_again(&service, &format!("{} is missing", held.display())).end();
    assert_restored(&service);
}
