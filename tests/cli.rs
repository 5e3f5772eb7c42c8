//! The command line from outside: what is ours, what is COMMAND's, statuses.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output};

use support::{cache, stderr, stdout, warmstart};

fn run(args: &[&str]) -> Output {
    warmstart(&cache()).args(args).output().unwrap()
}

#[test]
fn usage_errors_of_a_run_are_125_and_one_line_with_a_hint() {
    for args in [
        &[][..],
        &["--"],
        &["-v"],
        &["run"],
        &["--nonsense", "true"],
        &["run", "--nonsense", "true"],
        &["--ready", "nonsense", "true"],
        &["--ready", "log:(", "true"],
        &["--keep-fd", "1", "true"],
        &["--capture-timeout", "soon", "true"],
        &["--engine", "criu", "--at", "main", "true"],
        &["--engine", "criu", "--pids", "cycle", "true"],
        &["--pids", "nonsense", "true"],
        &["--pids", "set-tid", "--clock", "continuous", "true"],
        &["--train=0", "true"],
        &["--train-with", "x", "true"],
        &["--allow-stateful", "true"],
        &["--at", "ready", "--train", "true"],
        &["--wait", "--no-capture", "true"],
        &["--input", "/no/such/input", "true"],
        &["--refresh", "--no-capture", "true"],
        &[""],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        let text = stderr(&output);
        assert!(text.starts_with("warmstart: "), "{args:?}: {text}");
        assert!(text.lines().count() <= 2, "{args:?}: {text}");
        assert!(!text.contains("error:"), "{args:?}: {text}");
    }
}

#[test]
fn usage_errors_of_management_commands_are_2() {
    for args in [
        &["bench"][..],
        &["bench", "--runs", "0", "--", "true"],
        &["bench", "--until", "soon", "--", "true"],
        &["bench", "--input", "/no/such/input", "--", "true"],
        &["doctor", "--nonsense"],
        &["cache"],
        &["cache", "rm"],
        &["cache", "rm", "--all", "x"],
        &["cache", "prune", "--max-size", "lots"],
        &["image", "dump"],
        &["image", "dump", "0", "-o", "x"],
        &["image", "dump", "1", "-o", "x", "--leave-running", "--leave-stopped"],
        &["completions", "nosuchshell"],
        &["setup", "extra"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).starts_with("warmstart: "), "{args:?}: {}", stderr(&output));
    }
    // What would help is the help of that very command.
    for (args, help) in [(&["cache"][..], "cache"), (&["cache", "rm"], "cache rm")] {
        let said = stderr(&run(args));
        assert!(said.contains(&format!("  try: warmstart {help} --help\n")), "{said}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["-h"], &["run", "--help"], &["bench", "--help"], &["help"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
        assert!(stdout(&output).contains("Usage: warmstart"), "{args:?}");
        assert!(stdout(&output).contains("Examples:"), "{args:?}");
    }
    for args in [["--version"], ["-V"]] {
        assert_eq!(
            stdout(&run(&args)),
            concat!("warmstart ", env!("CARGO_PKG_VERSION"), "\n"),
            "{args:?}"
        );
    }
}

#[test]
fn an_input_that_is_not_there_is_named() {
    let output = run(&["--input", "/dev/null", "--input", "/no/such/input", "true"]);
    let text = stderr(&output);
    assert!(text.starts_with("warmstart: --input /no/such/input: No such file"), "{text}");
    assert!(run(&["--no-capture", "--input", "/dev/null", "true"]).status.success());
}

#[test]
fn help_shows_what_may_be_chosen_and_every_command() {
    let text = stdout(&run(&["--help"]));
    let after = |option: &str| text.split_once(option).map(|(_, rest)| rest).unwrap().to_owned();
    let at: String = after("--at <POINT>").chars().take(400).collect();
    assert!(at.contains("auto") && at.contains("ready"), "{at}");
    for command in ["bench", "cache", "doctor", "setup", "image", "completions", "man"] {
        let listed = text.lines().any(|line| line.split_whitespace().next() == Some(command));
        assert!(listed, "{command}: {text}");
    }
}

#[test]
fn a_commands_options_are_its_own() {
    for args in [
        &["--no-capture", "echo", "--help", "-v", "--", "x"][..],
        &["--no-capture", "--", "echo", "--help", "-v", "--", "x"],
        &["run", "--no-capture", "echo", "--help", "-v", "--", "x"],
    ] {
        // Bash's echo would do; coreutils' answers to a lone --help only.
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(stdout(&output), "--help -v -- x\n", "{args:?}");
    }
}

#[test]
fn a_command_named_like_ours_is_run_by_run() {
    let dir = cache();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh\necho I am \"$@\"\n").unwrap();
    support::install(&script, &dir.path().join("doctor")).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = warmstart(&cache())
        .env("PATH", path)
        .args(["run", "--no-capture", "doctor", "--json"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "I am --json\n");
}

#[test]
fn bytes_that_are_no_utf8_arrive() {
    let odd = std::ffi::OsString::from_vec(b"a\xff\xfeb".to_vec());
    let output =
        warmstart(&cache()).args(["--no-capture", "printf", "%s"]).arg(&odd).output().unwrap();
    assert_eq!(output.stdout, b"a\xff\xfeb");
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(stdout(&output).contains("warmstart"), "{shell}");
    }
    let page = stdout(&run(&["man"]));
    assert!(page.contains(".TH warmstart 1"), "{page}");
    let dir = cache();
    assert!(run(&["man", "-o", dir.path().to_str().unwrap()]).status.success());
    for page in ["warmstart.1", "warmstart-bench.1", "warmstart-image-dump.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let output = Command::new("sh")
        .args(["-c", "\"$0\" --help | true; \"$0\" doctor >&-; \"$0\" --nonsense 2>&-; echo $?"])
        .arg(support::binary())
        .output()
        .unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "125\n");
}

#[test]
fn without_a_home_the_program_runs_all_the_same() {
    let output = Command::new(support::binary())
        .env_remove("HOME")
        .env_remove("XDG_CACHE_HOME")
        .env("WARMSTART_CACHE_DIR", "/proc/nowhere")
        .args(["echo", "hi"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "hi\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn in_a_removed_directory_the_program_runs_all_the_same() {
    let dir = cache();
    let output = Command::new("sh")
        .args(["-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" echo hi"])
        .arg(support::binary())
        .current_dir(dir.path())
        .env("WARMSTART_CACHE_DIR", dir.path().join("cache"))
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "hi\n", "{}", stderr(&output));
}
