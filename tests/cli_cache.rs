//! `warmstart cache` on a cache that is not there, empty, or not ours.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::process::Output;

use serde_json::Value;
use support::{cache, stderr, stdout, warmstart};

fn run(cache: &tempfile::TempDir, args: &[&str]) -> Output {
    warmstart(cache).env("WARMSTART_CACHE_DIR", cache.path().join("c")).args(args).output().unwrap()
}

#[test]
fn a_cache_that_is_not_there_is_empty_and_is_not_made() {
    let dir = cache();
    for args in
        [&["cache", "ls"][..], &["cache", "verify"], &["cache", "prune"], &["cache", "rm", "--all"]]
    {
        let output = run(&dir, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stdout(&output).is_empty(), "{args:?}");

        let json: Value = serde_json::from_slice(&run(&dir, &[args, &["--json"]].concat()).stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}"));
        assert_eq!(json["schema_version"], 1, "{args:?}");
    }
    assert!(!dir.path().join("c").exists());
}

/// It removed nothing for its age or size, and somebody wondered why.
#[test]
fn a_prune_without_limits_names_them() {
    let dir = cache();
    for there in [false, true] {
        if there {
            assert!(run(&dir, &["true"]).status.success());
            assert!(dir.path().join("c").exists());
        }
        let text = stdout(&run(&dir, &["cache", "prune"]));
        assert!(text.contains("neither --max-size nor --older-than was given"), "{text}");
        let text = stdout(&run(&dir, &["cache", "prune", "--max-size", "1G"]));
        assert_eq!(text, "removed 0 entries, 0.0 KiB\n");
    }
}

#[test]
fn an_unknown_id_is_said_with_a_hint() {
    let dir = cache();
    for args in [["cache", "show", "abc"], ["cache", "rm", "abc"]] {
        let output = run(&dir, &args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(stderr(&output), "warmstart: no entry `abc`\n  try: warmstart cache ls\n");
    }
}

#[test]
fn the_path_is_that_of_the_environment() {
    let dir = cache();
    let path = dir.path().join("c").display().to_string();
    assert_eq!(stdout(&run(&dir, &["cache", "path"])), format!("{path}\n"));
    let json: Value =
        serde_json::from_slice(&run(&dir, &["cache", "--json", "path"]).stdout).unwrap();
    assert_eq!(json["path"], path);

    let by_xdg = warmstart(&dir)
        .env_remove("WARMSTART_CACHE_DIR")
        .env("XDG_CACHE_HOME", "/x")
        .args(["cache", "path"])
        .output()
        .unwrap();
    assert_eq!(stdout(&by_xdg), "/x/warmstart\n");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let dir = cache();
    let open = dir.path().join("c");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let output = run(&dir, &["cache", "ls"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("others may write"), "{}", stderr(&output));
}
