//! A program that has put its terminal into another mode before its capture
//! reads keys, not lines, after its restore as well. `top` and the prompt of
//! Python were once restored into a terminal that kept each key until Enter.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command};

use nix::sys::termios::{LocalFlags, tcgetattr};

use support::terminal::Terminal;

mod support;

const PROGRAM: &str = "
import os, signal, termios, tty
before = termios.tcgetattr(0)
tty.setcbreak(0)
sizes = []
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'size %d\\n' % os.get_terminal_size(1).columns))
os.write(1, b'up\\n')
while True:
    key = os.read(0, 1)
    if key == b'q':
        break
    os.write(1, b'key ' + key + b'\\n')
termios.tcsetattr(0, termios.TCSADRAIN, before)
os.write(1, b'bye\\n')
";

/// Starts warmstart with the program, in a session on this terminal.
fn start(terminal: &Terminal, dir: &Path) -> Child {
    let mut command = Command::new(support::binary());
    command.args(["-v", "--ready", "delay:200", "/usr/bin/python3", "-c", PROGRAM]);
    command.env("WARMSTART_CACHE_DIR", dir.join("cache"));
    terminal.wrap(&command).env_remove("PYTHONUNBUFFERED").spawn().unwrap()
}

fn echoes_lines(terminal: &Terminal) -> bool {
    let flags = tcgetattr(&terminal.slave).unwrap().local_flags;
    flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
}

#[test]
fn a_restored_program_reads_keys() {
    if !Path::new("/usr/bin/python3").exists() {
        skip!("there is no python3");
    }
    let dir = support::cache();
    let mut terminal = Terminal::new();
    for round in 0..3 {
        let mut child = start(&terminal, dir.path());
        let sign = if round == 0 { "warmstart: captured" } else { "warmstart: restored" };
        terminal.wait_for(sign);
        if round == 2 {
            // Smaller than at the capture.
            terminal.wait_for("size 66");
        }
        terminal.type_in("x");
        let shown = terminal.wait_for("key x");
        assert!(!shown.trim_end_matches("key x").contains('x'), "echoed: {shown:?}");
        terminal.type_in("q");
        terminal.wait_for("bye");
        assert!(child.wait().unwrap().success());
        assert!(echoes_lines(&terminal), "round {round}");
        terminal.resize(if round == 0 { 77 } else { 66 });
    }
}
