//! `warmstart doctor` and `warmstart setup`, as root and as an ordinary user.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::etc::OwnEtc;
use support::{Ordinary, cache, stderr, stdout, warmstart};

fn doctor(mut command: std::process::Command) -> (Option<i32>, Value) {
    let output = command.args(["doctor", "--json"]).output().unwrap();
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    (output.status.code(), json)
}

fn strategy<'a>(json: &'a Value, name: &str) -> &'a Value {
    let all = json["strategies"].as_array().unwrap();
    all.iter().find(|strategy| strategy["name"] == name).unwrap()
}

/// A user namespace in which no other can be made, and a user in it who is
/// nobody there as well.
#[test]
fn namespaces_that_cannot_be_made_are_named_with_the_way_out() {
    let user = match Ordinary::new() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    const INSIDE: &str = "echo 0 > /proc/sys/user/max_user_namespaces || exit 99
        exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"";
    let mut command = user.command("unshare");
    command.args(["--user", "--keep-caps", "--map-user=65534", "--map-group=65534"]);
    command.args(["sh", "-c", INSIDE, "sh"]).arg(user.binary()).args(["doctor", "--json"]);
    let output = command.output().unwrap();
    if output.status.code() != Some(1) || output.stdout.is_empty() {
        skip!("no user namespace with a limit can be made: {}", stderr(&output));
    }
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let namespace = strategy(&json, "namespace");
    assert_eq!(namespace["works"], false, "{json}");
    assert_eq!(namespace["enable"], "sudo sysctl -w user.max_user_namespaces=10000", "{json}");
    assert!(namespace["reason"].as_str().unwrap().contains("unshare: "), "{json}");
    assert_eq!(json["restoring"]["works"], false, "{json}");
    assert_eq!(json["pids"], Value::Null);
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
    for name in [
        "kernel",
        "criu",
        "clone3 set_tid",
        "capability",
        "pid range",
        "ptrace",
        "vDSO",
        "cache",
        "pid_max",
        "namespaces",
        "seccomp",
        "clock",
    ] {
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
    assert_eq!(json["uid"], support::NOBODY);
    let wanted = format!("sudo {} setup", user.binary().display());
    for name in ["set-tid", "last-pid"] {
        assert_eq!(strategy(&json, name)["works"], false, "{json}");
        assert_eq!(strategy(&json, name)["enable"], wanted, "{json}");
    }
    // Where namespaces work they do without it.
    let inside = strategy(&json, "namespace")["works"] == true;
    assert_eq!(json["pids"], if inside { Value::from("namespace") } else { Value::Null }, "{json}");
    assert_eq!(status, Some(if inside { 0 } else { 1 }));

    // Without sudo, or with one that says no: the command is shown, status 1.
    let output = user.warmstart().arg("setup").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("sudo "), "{}", stdout(&output));
    assert!(stderr(&output).contains("sudo"), "{}", stderr(&output));
}

/// Runs the user's binary as root, where `/etc` is the test's own.
fn as_root(etc: &OwnEtc, user: &Ordinary, args: &[&str]) -> Output {
    let mut command = Command::new(user.binary());
    command.args(args);
    etc.command(&command).output().unwrap()
}

#[test]
fn setup_shows_what_it_does_and_takes_it_back() {
    let (user, etc) = match (Ordinary::new(), OwnEtc::new()) {
        (Ok(user), Ok(etc)) => (user, etc),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let root = |args: &[&str]| {
        let output = as_root(&etc, &user, args);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let binary = user.binary().display().to_string();
    let write = "install -d -m 755 /etc/warmstart && printf 'min = 1000\\nmax = 4194303\\n' | \
                 install -m 644 /dev/stdin /etc/warmstart/pids.conf\n";
    let give = format!("setcap cap_checkpoint_restore=p {binary}\n");
    let permits = "/etc/warmstart/pids.conf permits pids 1000-4194303\n";
    assert_eq!(root(&["setup", "--dry-run"]), format!("{write}{give}"));
    etc.change("test ! -e /etc/warmstart");
    let set_tid_works = || strategy(&doctor(user.warmstart()).1, "set-tid")["works"] == true;
    assert!(!set_tid_works(), "a dry run changes nothing");

    let said = root(&["setup"]);
    let carries = format!("{binary} carries cap_checkpoint_restore\n");
    assert_eq!(said, format!("{write}{give}{carries}{permits}"));
    etc.change("test \"$(stat -c %u%g%a /etc/warmstart /etc/warmstart/pids.conf | xargs)\" = '00755 00644'");
    let (status, json) = doctor(user.warmstart());
    assert_eq!((status, &json["pids"]), (Some(0), &Value::from("set-tid")), "{json}");
    assert_eq!(root(&["setup"]), format!("{carries}{permits}nothing to do\n"));

    // After an update of its package the binary is a new file.
    support::install(&support::binary(), &user.binary()).unwrap();
    assert!(root(&["setup"]).starts_with(&give));

    let shown = root(&["setup", "--undo", "--dry-run"]);
    let remove = "rm /etc/warmstart/pids.conf && rmdir --ignore-fail-on-non-empty /etc/warmstart\n";
    assert_eq!(shown, format!("{remove}setcap -r {binary}\n"));
    assert!(set_tid_works(), "a dry run changes nothing");
    assert!(root(&["setup", "--undo"]).starts_with(&shown));
    etc.change("test ! -e /etc/warmstart");
    assert!(!set_tid_works());
    assert!(root(&["setup", "--undo"]).ends_with("nothing to do\n"));
}

/// What `setup` shows is what an ordinary user's shell is given: it must do
/// the same.
#[test]
fn the_lines_that_setup_shows_do_what_it_does() {
    let (user, etc) = match (Ordinary::new(), OwnEtc::new()) {
        (Ok(user), Ok(etc)) => (user, etc),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let lines = |args: &[&str]| stdout(&as_root(&etc, &user, args));
    let setup = lines(&["setup", "--pid-range", "300-5000", "--dry-run"]);
    etc.change(&setup);
    let again = lines(&["setup", "--pid-range", "300-5000"]);
    assert!(again.ends_with("permits pids 300-5000\nnothing to do\n"), "{again}");
    etc.change(&lines(&["setup", "--undo", "--dry-run"]));
    etc.change("test ! -e /etc/warmstart");
    assert!(lines(&["setup", "--undo"]).ends_with("carries no capability\nnothing to do\n"));
}

#[test]
fn setup_keeps_a_range_and_never_guesses_one() {
    let (user, etc) = match (Ordinary::new(), OwnEtc::new()) {
        (Ok(user), Ok(etc)) => (user, etc),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let setup = |args: &[&str]| {
        let output = as_root(&etc, &user, &[&["setup"], args].concat());
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    assert_eq!(setup(&["--pid-range", "5-4"]).0, Some(2));
    assert_eq!(setup(&["--pid-range", "2000-3000", "--undo"]).0, Some(2));
    assert!(setup(&["--pid-range", "2000-3000"]).1.ends_with("permits pids 2000-3000\n"));
    assert!(setup(&[]).1.ends_with("permits pids 2000-3000\nnothing to do\n"));
    etc.change("echo oops >> /etc/warmstart/pids.conf");
    let (status, text) = setup(&[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("pids.conf: line 3 is not"), "{text}");
    assert!(text.contains("try: sudo warmstart setup --pid-range"), "{text}");
    assert_eq!(setup(&["--pid-range", "2000-4000"]).0, Some(0));
    // Somebody else's file in there stays; a directory of somebody else's is
    // not written to.
    etc.change("touch /etc/warmstart/other");
    assert_eq!(setup(&["--undo"]).0, Some(0));
    etc.change("test -e /etc/warmstart/other; chown 65534 /etc/warmstart");
    let (status, text) = setup(&[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("/etc/warmstart does not belong to root"), "{text}");
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
