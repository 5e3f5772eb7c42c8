//! `warmstart doctor` and `warmstart setup`, as root and as an ordinary user.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use serde_json::Value;
use support::{Ordinary, cache, stderr, stdout, warmstart};

fn doctor(mut command: std::process::Command) -> (Option<i32>, Value) {
    let output = command.args(["doctor", "--json"]).output().unwrap();
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    (output.status.code(), json)
}

#[test]
fn root_can_restore() {
    if !nix::unistd::geteuid().is_root() {
        skip!("this is not root");
    }
    let (status, json) = doctor(warmstart(&cache()));
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["uid"], 0);
    assert_eq!(json["strategies"][0]["name"], "set-tid");
    assert_eq!(json["strategies"][0]["works"], true, "{json}");
    assert_eq!(json["restoring"]["works"], status == Some(0));
}

#[test]
fn the_table_names_each_check_once() {
    let output = warmstart(&cache()).arg("doctor").output().unwrap();
    let text = stdout(&output);
    for name in ["kernel", "clone3 set_tid", "capability", "ptrace", "vDSO", "cache", "pid_max"] {
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}  ")));
        assert_eq!(lines.count(), 1, "{name}: {text}");
    }
}

#[test]
fn a_broken_cache_directory_stands_in_the_way() {
    let dir = cache();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = warmstart(&dir);
    command.env("WARMSTART_CACHE_DIR", &file);
    let (status, json) = doctor(command);
    assert_eq!(status, Some(1));
    assert_eq!(json["restoring"]["works"], false);
}

#[test]
fn an_ordinary_user_needs_the_capability_and_is_told_how() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let (status, json) = doctor(user.warmstart());
    assert_eq!(status, Some(1));
    assert_eq!(json["uid"], support::NOBODY);
    let wanted = format!("sudo {} setup", user.binary().display());
    assert_eq!(json["restoring"]["enable"], wanted, "{json}");

    // Without sudo, or with one that says no: the command is shown, status 1.
    let output = user.warmstart().arg("setup").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("sudo "), "{}", stdout(&output));
    assert!(stderr(&output).contains("sudo"), "{}", stderr(&output));
}

#[test]
fn setup_gives_the_capability_and_takes_it_back() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let (status, json) = doctor(user.warmstart());
    assert_eq!((status, &json["strategies"][0]["works"]), (Some(0), &Value::Bool(true)), "{json}");

    let root = |args: &[&str]| {
        let output = std::process::Command::new(user.binary()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(root(&["setup"]).contains("nothing to do"));
    let shown = root(&["setup", "--undo", "--dry-run"]);
    assert_eq!(shown, format!("setcap -r {}\n", user.binary().display()));
    assert_eq!(doctor(user.warmstart()).0, Some(0), "a dry run changes nothing");
    root(&["setup", "--undo"]);
    assert_eq!(doctor(user.warmstart()).0, Some(1));
    assert!(root(&["setup", "--undo"]).contains("nothing to do"));
}

#[test]
fn a_binary_that_others_may_write_gets_no_capability() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o775);
    std::fs::set_permissions(user.binary(), open).unwrap();
    let output = std::process::Command::new(user.binary()).arg("setup").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("can be written by others"), "{text}");
    assert!(text.contains("try: chmod go-w"), "{text}");
}

/// libc hides `LD_LIBRARY_PATH` and others from a privileged binary; the
/// program must see them all the same, and none of our capability.
#[test]
fn the_program_gets_the_whole_environment_and_no_capability() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let script = "echo $LD_LIBRARY_PATH $TMPDIR $TZDIR; grep ^Cap /proc/self/status";
    let output = user
        .warmstart()
        .env("LD_LIBRARY_PATH", "/a:/b")
        .env("TMPDIR", "/var/tmp")
        .env("TZDIR", "/tz")
        .args(["--no-capture", "sh", "-c", script])
        .output()
        .unwrap();
    let text = stdout(&output);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("/a:/b /var/tmp /tz"), "{text}{}", stderr(&output));
    for line in lines.filter(|line| !line.starts_with("CapBnd")) {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
}

/// The file has no effective flag, so it can be executed where the bounding
/// set lacks the capability (a container), where nothing can be restored.
#[test]
fn a_smaller_bounding_set_does_not_stop_the_program() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set=-checkpoint_restore", "--reuid=65534", "--regid=65534"])
        .args(["--clear-groups", "--inh-caps=-all", "--"])
        .arg(user.binary())
        .args(["--no-capture", "echo", "hi"])
        .env("HOME", user.home())
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "hi\n", "{}", stderr(&output));
}

/// A setuid binary would run every program as its owner.
#[test]
fn a_setuid_binary_runs_nothing() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    for mode in [0o4755, 0o2755] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(user.binary(), mode).unwrap();
        let output = user.warmstart().args(["--no-capture", "id", "-u"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", stdout(&output));
        assert!(stderr(&output).contains("setuid"), "{}", stderr(&output));
    }
}
