//! One run of a command, seen from outside: exit status, signals, what the
//! program finds, what warmstart tells.

#![allow(clippy::unwrap_used)]

mod modes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use modes::{Mode, Program, Running, eventually, every, is_gone, send};
use nix::libc;

const FATAL: [i32; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGALRM];

/// Runs warmstart with these words, in a directory of its own.
fn warmstart(dir: &tempfile::TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmstart"));
    command.env("WARMSTART_CACHE_DIR", dir.path().join("cache")).args(words);
    command
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn exit_status_is_the_programs() {
    every(|program| {
        for status in [0, 1, 42, 255] {
            let output = program.output(&format!("sys.exit({status})"), &[]);
            assert_eq!(output.status.code(), Some(status));
            assert_eq!(stderr(&output), "");
        }
    });
}

#[test]
fn dies_of_the_signal_that_was_sent() {
    every(|program| {
        for signal in FATAL {
            let running = program.start(
                "for s in (1, 2, 3, 10, 14, 15): signal.signal(s, signal.SIG_DFL)\n\
                 print('up', flush=True); time.sleep(30)",
            );
            running.signal(signal);
            let (status, _) = running.end();
            assert_eq!(status.signal(), Some(signal));
        }
    });
}

#[test]
fn dies_of_the_signal_that_killed_the_program() {
    every(|program| {
        for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT, libc::SIGTERM] {
            let script = format!("signal.signal({signal}, signal.SIG_DFL)");
            let script = if signal == libc::SIGKILL { String::new() } else { script };
            let output = program.output(&format!("{script}\nos.kill(os.getpid(), {signal})"), &[]);
            assert_eq!(output.status.signal(), Some(signal));
        }
    });
}

#[test]
fn handled_signals_reach_the_program_once() {
    every(|program| {
        let mut running = program.start(
            "got = []\n\
             def handle(s, f): got.append(s); os.write(1, b'%d\\n' % s)\n\
             for s in (1, 2, 10, 12, 15, 28): signal.signal(s, handle)\n\
             print('up', flush=True)\n\
             while 15 not in got: time.sleep(0.01)\n\
             time.sleep(0.2); print(got); sys.exit(7)",
        );
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGWINCH,
            libc::SIGTERM,
        ] {
            running.signal(signal);
            // Two that wait together are handled in the order of their numbers.
            assert_eq!(running.line(), signal.to_string());
        }
        let (status, said) = running.end();
        assert_eq!(said, "[1, 2, 10, 12, 28, 15]\n");
        assert_eq!(status.code(), Some(7));
    });
}

#[test]
fn a_queued_value_comes_along() {
    every(|program| {
        let running = program.start(
            "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\n\
             print('up', flush=True)\n\
             import ctypes\n\
             info = (ctypes.c_int * 32)()\n\
             mask = ctypes.c_uint64(1 << 39)\n\
             libc = ctypes.CDLL(None)\n\
             libc.syscall(128, ctypes.byref(mask), info, None, 8)\n\
             print(info[0], info[6])",
        );
        let pid = running.pid().to_string();
        let sent = Command::new("/bin/kill").args(["-q", "1234", "-40", &pid]).status().unwrap();
        assert!(sent.success());
        assert_eq!(running.end().1, "40 1234\n");
    });
}

#[test]
fn a_program_may_signal_its_parent() {
    let program = Program::new(Mode::Child).unwrap();
    let output = program.output("os.kill(os.getppid(), 15); time.sleep(0.2); print('alive')", &[]);
    assert_eq!((output.stdout, output.status.code()), (b"alive\n".to_vec(), Some(0)));
}

#[test]
fn no_such_program_and_not_executable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "#!/bin/sh\nexit 3\n").unwrap();
    let file = file.to_str().unwrap();
    for options in [&[][..], &["--no-capture"], &["--refresh"]] {
        for (name, status, reason) in [
            ("no-such-program", 127, "No such file or directory"),
            ("/no/such/program", 127, "No such file or directory"),
            (file, 126, "Permission denied"),
            ("/", 126, "Permission denied"),
        ] {
            let output = warmstart(&dir, options).arg(name).output().unwrap();
            assert_eq!(output.status.code(), Some(status), "{name}");
            assert_eq!(stderr(&output), format!("warmstart: {name}: {reason}\n"));
        }
    }
}

#[test]
fn a_file_of_no_known_format_is_a_shell_script() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script");
    fs::write(&file, "echo \"$0 $1\"; exit 3\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("/nowhere:{}", dir.path().display());
    for options in [&[][..], &["--no-capture"]] {
        let mut command = warmstart(&dir, options);
        let output = command.args(["script", "a b"]).env("PATH", &path).output().unwrap();
        assert_eq!(output.stdout, format!("{} a b\n", file.display()).into_bytes());
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn our_own_failures_are_125() {
    let dir = tempfile::tempdir().unwrap();
    let output = warmstart(&dir, &["--keep-fd", "97", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output), "warmstart: --keep-fd 97: descriptor 97 is not open\n");
    let output = warmstart(&dir, &["--require-warm", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output).lines().count(), 1);
}

/// What a program can find out about how it was started.
const LOOK_AROUND: &str = "import resource\n\
    read = lambda n: open('/proc/self/' + n, 'rb').read()\n\
    print(read('cmdline'), read('environ'), os.getcwd(), os.getpgrp(), os.getsid(0))\n\
    print([l for l in read('status').split(b'\\n') if l.split(b':')[0] in (\n\
      b'SigBlk', b'SigIgn', b'Umask', b'Uid', b'Gid', b'Groups', b'CapEff', b'CapPrm',\n\
      b'CapInh', b'CapBnd', b'CapAmb', b'NoNewPrivs', b'Seccomp', b'Cpus_allowed_list')])\n\
    print(read('limits'), read('oom_score_adj'), os.nice(0), read('cgroup'))\n\
    print({fd: os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd')\n\
      if os.path.exists('/proc/self/fd/' + fd)})";

#[test]
fn the_program_finds_what_a_plain_start_gives() {
    // A caller with a mask, ignored signals, an open descriptor, limits and
    // names of its own; \\377 is no UTF-8.
    let caller = r#"
        trap '' HUP PIPE USR2 CHLD; ulimit -n 777; umask 027; cd /usr
        exec 7</etc/hostname; export ODD="$(printf 'a\377b')" EMPTY= ; unset OLDPWD _
        exec nice -n 3 "$@" 'ünd' '' --help "$(printf '\377')" </dev/null 2>/dev/null"#;
    let look = |mode| {
        let program = Program::new(mode)?;
        // The same names in all modes.
        let inner = program.command(LOOK_AROUND, &[], |_| ());
        let dir = program.dir.path().to_str().unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", caller, "caller"]).arg(inner.get_program()).args(inner.get_args());
        command.env("WARMSTART_CACHE_DIR", "/nowhere/cache").env_remove("OLDPWD");
        let output = command.output().unwrap();
        let text: String = output.stdout.iter().map(|&byte| char::from(byte)).collect();
        assert!(output.status.success(), "{mode:?} {text}");
        // Every run has a group of its test's; the pipe is another one.
        let text = text.replace(dir, "DIR");
        let pipe = text.find("pipe:[").unwrap();
        let end = text[pipe..].find(']').unwrap() + pipe;
        Some(format!("{}{}", &text[..pipe], &text[end..]))
    };
    let direct = look(Mode::Direct).unwrap();
    assert!(direct.contains("777") && direct.contains("hostname"), "{direct}");
    for mode in [Mode::Plain, Mode::Child] {
        assert_eq!(look(mode).unwrap(), direct, "{mode:?}");
    }
}

#[test]
fn a_blocked_signal_stays_blocked() {
    let script = "import subprocess\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [10, 40])\n\
        sys.exit(subprocess.call(sys.argv[1:]))";
    let seen = |mode| {
        let program = Program::new(mode).unwrap();
        let inner = program.command(
            "print([l for l in open('/proc/self/status') if l.startswith('SigBlk')])",
            &[],
            |_| (),
        );
        let outer = Command::new("python3")
            .args(["-c", &format!("import os, sys, signal\n{script}")])
            .arg(inner.get_program())
            .args(inner.get_args())
            .output()
            .unwrap();
        assert!(outer.status.success());
        String::from_utf8(outer.stdout).unwrap()
    };
    let direct = seen(Mode::Direct);
    assert!(direct.contains("SigBlk:\\t0000008000000200"), "{direct}");
    for mode in [Mode::Plain, Mode::Child] {
        assert_eq!(seen(mode), direct, "{mode:?}");
    }
}

#[test]
fn sigpipe_is_the_callers() {
    every(|program| {
        let script = "signal.signal(13, signal.SIG_DFL) if 'ignored' not in sys.argv else 0\n\
             while True: os.write(1, b'x' * 1000)";
        let mut command = program.command(script, &[], |_| ());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGPIPE));
    });
}

#[test]
fn the_program_does_not_outlive_a_killed_launcher() {
    for mode in [Mode::Child, Mode::Restored, Mode::Enclosed] {
        let Some(program) = Program::new(mode) else { continue };
        let running = program.start("print(os.getpid(), flush=True); time.sleep(60)");
        let pid = program.outer(running.first.parse().unwrap());
        assert_ne!(pid, running.pid());
        running.signal(libc::SIGKILL);
        eventually("the program is gone", || is_gone(pid));
        assert_eq!(running.end().0.signal(), Some(libc::SIGKILL));
    }
}

#[test]
fn nohup_is_inherited() {
    for mode in modes::ALL {
        let Some(mut program) = Program::new(mode) else { continue };
        eprintln!("-- {mode:?}");
        // Also for the run that is captured: which signals are ignored belongs
        // to the key.
        program.via = vec!["nohup".into()];
        let inner =
            program.command("print('up', flush=True); time.sleep(1); print('end')", &[], |_| ());
        let mut command = Command::new("nohup");
        command.arg(inner.get_program()).args(inner.get_args());
        command.env("WARMSTART_CACHE_DIR", program.dir.path().join("cache"));
        let running = Running::of(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        running.signal(libc::SIGHUP);
        let (status, said) = running.end();
        assert_eq!((status.code(), said.as_str()), (Some(0), "end\n"));
    }
}

#[test]
fn descriptors_that_are_named_make_the_run_plain() {
    for (script, args, wanted) in [
        ("print(open(sys.argv[1]).read(), end='')", &["/dev/fd/7"][..], "hello\n"),
        ("print(os.read(7, 99).decode(), end='')", &[], "hello\n"),
    ] {
        let program = Program::new(Mode::Child).unwrap();
        let inner = program.command(script, args, |_| ());
        let output = Command::new("sh")
            .args(["-c", "exec \"$@\" 7<<E\nhello\nE\n", "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", stderr(&output));
        let reason = program.status()["reason"].as_str().unwrap_or_default().to_owned();
        assert_eq!(reason.contains("descriptor 7 is named"), !args.is_empty(), "{reason}");
    }
}

#[test]
fn status_file_tells_what_happened() {
    for mode in [Mode::Plain, Mode::Child] {
        let program = Program::new(mode).unwrap();
        let running = program.start("print(os.getpid(), flush=True); time.sleep(60)");
        let status = program.status();
        assert_eq!(status["schema_version"], 1);
        assert_eq!(status["outcome"], "cold");
        assert_eq!(status["engine"], serde_json::Value::Null);
        assert_eq!(status["app_pid"].to_string(), running.first);
        assert_eq!(running.first == running.pid().to_string(), mode == Mode::Plain);
        assert!(status["timings_ms"]["total"].as_f64().unwrap() > 0.0);
        running.signal(libc::SIGTERM);
        running.end();
    }
    let dir = tempfile::tempdir().unwrap();
    let output = warmstart(&dir, &["--status-file", "/no/such/dir/s", "true"]).output().unwrap();
    assert!(output.status.success());
    assert!(stderr(&output).starts_with("warmstart: cannot write /no/such/dir/s: "));
}

#[test]
fn a_stopped_program_goes_on() {
    // By its pid, without a shell: the launcher must not stay behind.
    let program = Program::new(Mode::Child).unwrap();
    let running = program.start("print(os.getpid(), flush=True); time.sleep(0.5); sys.exit(5)");
    let pid: i32 = running.first.parse().unwrap();
    send(pid, libc::SIGSTOP);
    eventually("it is stopped", || modes::state(pid) == Some('T'));
    std::thread::sleep(Duration::from_millis(50));
    send(pid, libc::SIGCONT);
    assert_eq!(running.end().0.code(), Some(5));
}

#[test]
fn our_copies_of_its_descriptors_are_closed() {
    // Whoever reads its output sees the end when the program closes it.
    every(|program| {
        let mut running = program.start("print('up', flush=True); os.close(1); time.sleep(60)");
        let begun = Instant::now();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut running.rest, &mut rest).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        running.signal(libc::SIGTERM);
        running.child.wait().unwrap();
    });
}
