//! Standard descriptors: pipes, files, nothing at all, and terminals with a
//! real shell on them.

#![allow(clippy::unwrap_used)]

mod modes;
mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modes::{Mode, PATIENCE, Program, eventually, every};
use nix::libc;
use support::terminal::Terminal;

#[test]
fn output_and_errors_to_pipes() {
    every(|program| {
        let output = program.output(
            "os.write(1, b'out'); os.write(2, b'err'); os.write(1, bytes(range(256)))",
            &[],
        );
        let expected = [b"out".to_vec(), (0..=255).collect()].concat();
        assert_eq!((output.stdout, output.stderr), (expected, b"err".to_vec()));
    });
}

#[test]
fn input_from_a_pipe() {
    every(|program| {
        let script = "sys.stdout.buffer.write(sys.stdin.buffer.read().upper())";
        let piped = |command: &mut Command| {
            command.stdin(Stdio::piped());
        };
        let mut child = program.command(script, &[], piped).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Far more than a pipe holds.
        let writer = std::thread::spawn(move || stdin.write_all(&b"abc\n".repeat(100_000)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.stdout == b"ABC\n".repeat(100_000), "{} bytes", output.stdout.len());
    });
}

#[test]
fn input_and_output_are_files() {
    every(|program| {
        let (input, output) = (program.dir.path().join("in"), program.dir.path().join("out"));
        fs::write(&input, "first\nsecond\n").unwrap();
        fs::write(&output, "before\n").unwrap();
        let files = |command: &mut Command| {
            command.stdin(File::open(&input).unwrap());
            command.stdout(File::options().append(true).open(&output).unwrap());
        };
        let script = "sys.stdout.write(os.read(0, 6).decode()); sys.stdout.flush()";
        let status = program.command(script, &[], files).status().unwrap();
        assert!(status.success());
        assert_eq!(fs::read_to_string(&output).unwrap(), "before\nfirst\n");
    });
}

#[test]
fn a_closed_descriptor_stays_closed() {
    let script = "r = []\n\
        for fd in range(3):\n\
        \x20 try: os.fstat(fd); r.append('open')\n\
        \x20 except OSError: r.append('closed')\n\
        open(sys.argv[1], 'w').write(' '.join(r))";
    let found = |mode, redirection: &str| {
        let program = Program::new(mode).unwrap();
        let result = program.dir.path().join("result");
        let inner = program.command(script, &[result.to_str().unwrap()], |_| ());
        let status = Command::new("sh")
            .args(["-c", &format!("exec \"$@\" {redirection}"), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .status()
            .unwrap();
        assert!(status.success(), "{mode:?} {redirection}");
        fs::read_to_string(&result).unwrap()
    };
    for redirection in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"] {
        // Python itself opens something on a closed 2.
        let direct = found(Mode::Direct, redirection);
        assert!(direct.contains("closed") || redirection == "2>&-", "{direct}");
        for mode in [Mode::Plain, Mode::Child, Mode::Tapped] {
            assert_eq!(found(mode, redirection), direct, "{mode:?} {redirection}");
        }
    }
}

#[test]
fn a_tap_loses_nothing_and_waits_for_the_reader() {
    let program = Program::new(Mode::Tapped).unwrap();
    let script = "for i in range(300000): print(i)\nprint('err', file=sys.stderr)";
    let mut child = program.command(script, &[], |_| ()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // A slow reader: the program must wait, not the output be lost.
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    let expected: String = (0..300_000).map(|i| format!("{i}\n")).collect();
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert_eq!(child.wait_with_output().unwrap().stderr, b"err\n");
}

#[test]
fn a_tap_keeps_the_order_of_one_place() {
    let program = Program::new(Mode::Tapped).unwrap();
    let path = program.dir.path().join("both");
    let both = |command: &mut Command| {
        let file = File::options().append(true).create(true).open(&path).unwrap();
        command.stderr(file.try_clone().unwrap()).stdout(file);
    };
    let script = "for i in range(1000): os.write(1 + i % 2, b'%d\\n' % i)";
    assert!(program.command(script, &[], both).status().unwrap().success());
    let expected: String = (0..1000).map(|i| format!("{i}\n")).collect();
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn a_tap_passes_on_what_a_background_child_writes() {
    let program = Program::new(Mode::Tapped).unwrap();
    let script = "sys.stdout.flush()\n\
        if os.fork() == 0:\n\
        \x20 time.sleep(0.5); print('late', flush=True); os._exit(0)\n\
        print('end', flush=True); os._exit(3)";
    let mut child = program.command(script, &[], |_| ()).spawn().unwrap();
    let begun = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(begun.elapsed() < PATIENCE);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "end\nlate\n");
}

/// Calls the test for every mode with a terminal; the run that is captured has
/// one, too.
fn every_on_a_terminal(test: impl Fn(&Program, &mut Terminal)) {
    every(|program| test(program, &mut Terminal::new()));
}

/// Returns the command for a script that runs on the terminal.
fn on_terminal(program: &Program, terminal: &Terminal, script: &str) -> Command {
    program.command(script, &[], |command| terminal.attach(command))
}

#[test]
fn a_terminal_is_a_terminal() {
    every_on_a_terminal(|program, terminal| {
        let script = "print([os.isatty(fd) for fd in range(3)], tuple(os.get_terminal_size()),\n\
            os.tcgetpgrp(0) == os.getpgrp(), flush=True)\n\
            print('say:', flush=True); print('got', input())";
        let mut child = terminal.start(&on_terminal(program, terminal, script));
        terminal.wait_for("[True, True, True] (77, 33) True\r\n");
        terminal.wait_for("say:\r\n");
        terminal.type_in("hello\n");
        terminal.wait_for("got hello\r\n");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_new_window_size_reaches_the_program() {
    every_on_a_terminal(|program, terminal| {
        let script = "sizes = []\n\
            signal.signal(28, lambda s, f: sizes.append(os.get_terminal_size(1).columns))\n\
            print('up', flush=True)\n\
            while 99 not in sizes: time.sleep(0.01)\n\
            print('ok', flush=True)";
        let mut child = terminal.start(&on_terminal(program, terminal, script));
        terminal.wait_for("up");
        terminal.resize(99);
        terminal.wait_for("ok");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn ctrl_c_comes_once() {
    every_on_a_terminal(|program, terminal| {
        let script = "got = []\n\
            for s in (2, 3): signal.signal(s, lambda s, f: got.append(s))\n\
            print('up', flush=True)\n\
            while 3 not in got: time.sleep(0.01)\n\
            time.sleep(0.3); print(got, flush=True)";
        let mut child = terminal.start(&on_terminal(program, terminal, script));
        terminal.wait_for("up");
        terminal.type_in("\x03");
        std::thread::sleep(Duration::from_millis(200));
        terminal.type_in("\x1c");
        terminal.wait_for("[2, 3]");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn ctrl_c_kills() {
    every_on_a_terminal(|program, terminal| {
        let script = "signal.signal(2, signal.SIG_DFL); print('up', flush=True); time.sleep(60)";
        let mut child = terminal.start(&on_terminal(program, terminal, script));
        terminal.wait_for("up");
        terminal.type_in("\x03");
        let status = child.wait().unwrap();
        // setsid(1) either is our child or shows a signal as a shell would.
        assert_eq!(modes::shell_status(status), 128 + libc::SIGINT);
    });
}

/// Starts an interactive bash on the terminal.
fn bash(terminal: &mut Terminal, program: &Program) -> Child {
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "--noediting", "-i"]);
    shell.env("PS1", "PROMPT> ").env("WARMSTART_CACHE_DIR", program.dir.path().join("cache"));
    let child = terminal.start(&shell);
    terminal.wait_for("PROMPT> ");
    terminal.type_in("stty -echo\n");
    terminal.wait_for("PROMPT> ");
    child
}

/// Returns the command for a script, and how to type it to a shell: with the
/// same environment, whatever the shell adds to its own.
fn for_shell(program: &Program, terminal: &Terminal, script: &str) -> String {
    let path = std::env::var("PATH").unwrap();
    let cache = program.dir.path().join("cache").to_str().unwrap().to_owned();
    let command = program.command(script, &[], |command| {
        terminal.attach(command);
        command.env_clear().env("PATH", &path).env("WARMSTART_CACHE_DIR", &cache);
    });
    let quote = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| quote(word.to_str().unwrap()));
    let variables = [format!("PATH={path}"), format!("WARMSTART_CACHE_DIR={cache}")];
    let variables = variables.map(|variable| quote(&variable)).join(" ");
    format!("env -i {variables} {}", words.collect::<Vec<_>>().join(" "))
}

/// Ctrl-Z, `fg`, Ctrl-Z, `bg`, and the exit status, under a shell with job
/// control.
#[test]
fn job_control() {
    every_on_a_terminal(|program, terminal| {
        let script = program.dir.path().join("script.py");
        let text = "conts = []\n\
            signal.signal(18, lambda s, f: conts.append(1))\n\
            print('up', os.getpid(), flush=True)\n\
            while not os.path.exists('END'): time.sleep(0.01)\n\
            print('conts', len(conts), flush=True); sys.exit(9)";
        let end = program.gate().with_extension("end");
        let text = text.replace("END", end.to_str().unwrap());
        let command = for_shell(program, terminal, &text);
        let mut shell = bash(terminal, program);
        fs::write(&script, command).unwrap();
        // In the shell itself, so that the job is warmstart, no script.
        terminal.type_in(&format!("eval \"$(cat {})\"\n", script.display()));
        terminal.wait_for("up ");
        terminal.wait_for("\r\n");
        let before = &terminal.seen[..terminal.at];
        let pid = before.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        let pid = program.outer(pid);
        terminal.type_in("\x1a");
        terminal.wait_for("Stopped");
        terminal.wait_for("PROMPT> ");
        assert_eq!(modes::state(pid), Some('T'));
        terminal.type_in("fg\n");
        eventually("it goes on", || modes::state(pid) != Some('T'));
        std::thread::sleep(Duration::from_millis(300));
        terminal.type_in("\x1a");
        terminal.wait_for("Stopped");
        terminal.wait_for("PROMPT> ");
        terminal.type_in("bg\n");
        terminal.wait_for("PROMPT> ");
        eventually("it goes on", || modes::state(pid) != Some('T'));
        std::thread::sleep(Duration::from_millis(100));
        fs::write(&end, "").unwrap();
        terminal.type_in("wait %1; echo status=$?\n");
        terminal.wait_for("conts 2");
        terminal.wait_for("status=9");
        terminal.type_in("exit\n");
        shell.wait().unwrap();
    });
}

#[test]
fn reading_in_the_background_stops_the_job() {
    every_on_a_terminal(|program, terminal| {
        let command = for_shell(program, terminal, "print('got', input(), flush=True)");
        let mut shell = bash(terminal, program);
        let script = program.dir.path().join("script.sh");
        fs::write(&script, command).unwrap();
        terminal.type_in(&format!("eval \"$(cat {}) &\"\n", script.display()));
        terminal.wait_for("PROMPT> ");
        let end = Instant::now() + PATIENCE;
        while !terminal.seen[terminal.at..].contains("Stopped") {
            assert!(Instant::now() < end);
            terminal.type_in("jobs\n");
            terminal.wait_for("PROMPT> ");
            terminal.at -= "PROMPT> ".len();
            std::thread::sleep(Duration::from_millis(50));
            terminal.read();
            if terminal.seen.contains("Stopped") {
                break;
            }
            terminal.at += "PROMPT> ".len();
        }
        terminal.type_in("fg\n");
        std::thread::sleep(Duration::from_millis(200));
        terminal.type_in("line\n");
        terminal.wait_for("got line");
        terminal.type_in("exit\n");
        assert!(shell.wait().unwrap().signal().is_none());
    });
}

/// It would come back in the background, and read nothing but errors.
#[test]
fn a_shell_with_job_control_is_not_captured() {
    let Some(program) = Program::new(Mode::Restored) else { return };
    let mut terminal = Terminal::new();
    for round in 1..3 {
        let _ = fs::remove_file(program.status_file());
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmstart"));
        command.arg("--status-file").arg(program.status_file());
        command.args([
            "--ready",
            "delay:100",
            "bash",
            "--norc",
            "--noprofile",
            "--noediting",
            "-i",
        ]);
        command.env("WARMSTART_CACHE_DIR", program.dir.path().join("cache"));
        command.env("PS1", "PROMPT> ");
        let mut shell = terminal.start(&command);
        terminal.wait_for("PROMPT> ");
        eventually("it is refused", || {
            let told = program.status_file().exists();
            let reason = || program.status()["reason"].to_string();
            round == 2 || told && reason().contains("has taken the terminal")
        });
        terminal.type_in("echo it=$((40 + 2)); exit 3\n");
        terminal.wait_for("it=42");
        assert_eq!(shell.wait().unwrap().code(), Some(3), "round {round}");
    }
}

#[test]
fn a_hang_up_ends_the_program() {
    every_on_a_terminal(|program, terminal| {
        let script = "print('up', os.getpid(), flush=True); time.sleep(60)";
        let mut child = terminal.start(&on_terminal(program, terminal, script));
        terminal.wait_for("up ");
        terminal.wait_for("\r\n");
        let before = &terminal.seen[..terminal.at];
        let pid = before.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        let pid = program.outer(pid);
        // The last descriptor of the master: the terminal hangs up.
        let gone = std::mem::replace(terminal, Terminal::new());
        drop(gone);
        eventually("the program is gone", || modes::is_gone(pid));
        child.wait().unwrap();
    });
}
