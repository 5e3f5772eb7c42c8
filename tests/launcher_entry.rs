//! The course of runs over an entry's life: captured, restored, in the way of
//! itself, stale, refused. All need the native engine and the right to choose
//! pids; where that is missing they are skipped, loudly.

#![allow(clippy::unwrap_used)]

mod modes;
mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use modes::{Mode, Program, Running, eventually, send};
use nix::libc;
use support::with_free_pids;

/// Returns the restored mode's program, if it is to be had here.
fn program() -> Option<Program> {
    Program::new(Mode::Restored)
}

/// Returns a command that may start cold, captures, and is captured already.
fn captured(program: &Program, script: &str, options: &[&str]) -> Command {
    program.command(script, &[], |_| ());
    bare(program, script, options)
}

/// Returns the same command without having captured it.
fn bare(program: &Program, script: &str, options: &[&str]) -> Command {
    program.again(script, options)
}

/// Starts the command with the pids of its image.
fn restored(program: &Program, command: &mut Command) -> Running {
    let attempt = || {
        let _ = fs::remove_file(program.status_file());
        let running = Running::of(command);
        // Written when the program runs already.
        eventually("there is a status", || program.status_file().exists());
        let status = program.status();
        if status["pids"] == "set-tid" {
            return Some(running);
        }
        // For no other reason.
        let is_taken = status["reason"].as_str().is_some_and(|why| why.ends_with("is taken"));
        assert!(is_taken || status["pids"] == "namespace", "{status}");
        running.signal(libc::SIGTERM);
        running.end();
        None
    };
    with_free_pids(attempt, Option::is_none).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_hit_says_nothing_and_tells_the_status_file() {
    let Some(program) = program() else { return };
    let mut command = captured(&program, "print(os.getpid())", &[]);
    let attempt = || {
        let output = command.output().unwrap();
        assert_eq!(stderr(&output), "");
        (output, program.status())
    };
    let (output, status) = with_free_pids(attempt, |(_, status)| status["pids"] == "namespace");
    assert_eq!(status["outcome"], "restored");
    assert_eq!((&status["engine"], &status["pids"]), (&"native".into(), &"set-tid".into()));
    assert_eq!(status["reason"], serde_json::Value::Null);
    assert_eq!(status["app_pid"].to_string(), String::from_utf8_lossy(&output.stdout).trim());
    assert!(status["timings_ms"]["restore"].as_f64().unwrap() > 0.0);
}

const SET_TID: &[&str] = &["--pids", "set-tid"];

#[test]
fn a_taken_pid_means_a_plain_cold_start() {
    let Some(program) = program() else { return };
    let script = "print(os.getpid(), flush=True); time.sleep(60)";
    let first = restored(&program, &mut captured(&program, script, SET_TID));
    let mut second = bare(&program, script, SET_TID);
    let second = Running::of(&mut second);
    let status = program.status();
    assert_eq!(status["outcome"], "cold");
    // In the launcher's place, and the entry is as it was.
    assert_eq!(status["app_pid"], second.pid());
    assert_eq!(second.first, second.pid().to_string());
    second.signal(libc::SIGTERM);
    let said = second.child.wait_with_output().unwrap();
    let taken = format!("warmstart: started cold: pid {} is taken\n", first.first);
    assert_eq!(stderr(&said), taken);

    let quiet =
        bare(&program, script, &["-q", "--require-warm", "--pids", "set-tid"]).output().unwrap();
    assert_eq!(quiet.status.code(), Some(125));
    assert!(stderr(&quiet).contains("is taken"));
    first.signal(libc::SIGTERM);
    first.end();
    let third = restored(&program, &mut bare(&program, script, SET_TID));
    third.signal(libc::SIGTERM);
    third.end();
}

/// Without a word about pids the second copy runs beside the first.
#[test]
fn a_taken_pid_is_free_in_a_namespace() {
    let Some(program) = program() else { return };
    let script = "print(os.getpid(), flush=True); time.sleep(60)";
    let first = restored(&program, &mut captured(&program, script, &[]));
    fs::remove_file(program.status_file()).unwrap();
    let second = Running::of(&mut bare(&program, script, &[]));
    eventually("the second is restored", || program.status_file().exists());
    let status = program.status();
    assert_eq!((&status["outcome"], &status["pids"]), (&"restored".into(), &"namespace".into()));
    assert_eq!(status["app_pid"].to_string(), second.first);
    assert_eq!(first.first, second.first, "the pid that each of them sees itself");
    for running in [first, second] {
        running.signal(libc::SIGTERM);
        assert_eq!(running.end().0.signal(), Some(libc::SIGTERM));
    }
}

#[test]
fn a_damaged_entry_is_replaced() {
    let Some(program) = program() else { return };
    let script = "print('ok'); time.sleep(float(os.environ.get('NAP', 0)))";
    captured(&program, script, &[]);
    let entries = program.dir.path().join("cache/v1/entries");
    let id = program.status()["entry"].as_str().unwrap().to_owned();
    let pages = entries.join(&id).join("image/pages-1.img");
    let mut bytes = fs::read(&pages).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pages, bytes).unwrap();

    // The gate is closed, so that there is time to capture.
    fs::remove_file(program.gate()).unwrap();
    fs::remove_file(program.status_file()).unwrap();
    let child = bare(&program, script, &[]).spawn().unwrap();
    eventually("captured again", || {
        program.status_file().exists() && program.status()["outcome"] == "captured"
    });
    assert_eq!(program.status()["entry"], *id);
    fs::write(program.gate(), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"ok\n");
    let said = "warmstart: started cold: pages-1.img of the image is damaged\n";
    assert_eq!(stderr(&output), said);
    let output = bare(&program, script, &[]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"ok\n"[..], ""));
    assert_eq!(program.status()["outcome"], "restored");
}

#[test]
fn only_one_of_two_cold_runs_captures() {
    let Some(program) = program() else { return };
    let script = "print('both')";
    fs::remove_file(program.status_file()).unwrap();
    let _ = fs::remove_file(program.gate());
    let first = bare(&program, script, &["--ready", "file:/nowhere/at/all"]).spawn().unwrap();
    eventually("the first runs", || program.status_file().exists());
    eventually("the first has a child", || program.status()["app_pid"] != first.id());
    fs::remove_file(program.status_file()).unwrap();
    let second = bare(&program, script, &["--ready", "file:/nowhere/at/all"]).spawn().unwrap();
    eventually("the second runs", || program.status_file().exists());
    let status = program.status();
    assert_eq!(status["app_pid"], second.id());
    assert_eq!(status["reason"], "another run is capturing this command");
    fs::write(program.gate(), "").unwrap();
    for child in [first, second] {
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"both\n"[..], ""));
    }
}

#[test]
fn a_refusal_is_told_and_the_program_goes_on() {
    let Some(program) = program() else { return };
    let script = "print('still here')";
    let _ = fs::remove_file(program.gate());
    let child = bare(&program, script, &["--warmup", "exit 3"]).spawn().unwrap();
    eventually("the warm-up failed", || {
        program.status_file().exists()
            && program.status()["reason"].as_str().unwrap_or_default().contains("exit 3")
    });
    fs::write(program.gate(), "").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"still here\n");
    assert_eq!(program.status()["outcome"], "cold");
}

#[test]
fn a_launcher_killed_at_any_moment_leaves_no_trace() {
    let Some(program) = program() else { return };
    let script = "print('fine')";
    for pause_ms in [5, 40, 150, 170, 190, 250] {
        let _ = fs::remove_file(program.gate());
        let mut child = bare(&program, script, &["--refresh"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        send(child.id() as i32, libc::SIGKILL);
        child.wait().unwrap();
        fs::write(program.gate(), "").unwrap();
        // Restored or cold, or cold with a word about a pid that is taken
        // still: right in any case. (A capture now, with the gate open, might
        // come when all is said.)
        let output = bare(&program, script, &["--no-capture"]).output().unwrap();
        assert_eq!(output.stdout, b"fine\n", "{pause_ms} ms: {}", stderr(&output));
        assert!(output.status.success());
    }
}

#[test]
fn nothing_is_captured_unasked() {
    let Some(program) = program() else { return };
    fs::write(program.gate(), "").unwrap();
    let output = bare(&program, "print(1)", &["--no-capture"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"1\n"[..], ""));
    let status = program.status();
    assert_eq!((&status["outcome"], &status["reason"]), (&"cold".into(), &"no entry yet".into()));
}

/// The key of `sh -c 'exec ...'` sees the shell: what it became was restored
/// although its program had been changed.
#[test]
fn what_a_shell_became_counts() {
    let Some(program) = program() else { return };
    let dir = program.dir.path();
    let write = |version: u32| {
        let text = format!(
            "import os, time\nwhile not os.path.exists('{}'): time.sleep(0.02)\nprint({version})",
            program.gate().display()
        );
        fs::write(dir.join("app.py"), text).unwrap();
    };
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmstart"));
        command.env("WARMSTART_CACHE_DIR", dir.join("cache")).current_dir(dir);
        command.arg("--status-file").arg(program.status_file());
        command.args(["--ready", "delay:300", "--", "sh", "-c", "exec python3 app.py"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let _ = fs::remove_file(program.status_file());
        command.spawn().unwrap()
    };
    write(1);
    let _ = fs::remove_file(program.gate());
    let first = run();
    eventually("captured", || {
        program.status_file().exists() && program.status()["outcome"] == "captured"
    });
    fs::write(program.gate(), "").unwrap();
    assert_eq!(first.wait_with_output().unwrap().stdout, b"1\n");
    let second = run().wait_with_output().unwrap();
    assert_eq!((second.stdout.as_slice(), stderr(&second).as_str()), (&b"1\n"[..], ""));
    assert_eq!(program.status()["outcome"], "restored");

    write(2);
    let third = run().wait_with_output().unwrap();
    assert_eq!(third.stdout, b"2\n");
    // It is found twice: as the inner command's, and by its name in memory.
    let said = format!("warmstart: started cold: {} changed\n", dir.join("app.py").display());
    assert_eq!(stderr(&third), said);
}
