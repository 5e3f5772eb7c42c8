//! A program that has put its terminal into another mode before its capture
//! reads keys, not lines, after its restore as well. `top` and the prompt of
//! Python were once restored into a terminal that kept each key until Enter.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{self, PtyMaster};
use nix::sys::termios::{LocalFlags, tcgetattr};

mod support;

const PATIENCE: Duration = Duration::from_secs(60);
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

struct Terminal {
    master: PtyMaster,
    slave: File,
    seen: String,
}

impl Terminal {
    fn new() -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = pty::posix_openpt(flags).unwrap();
        pty::grantpt(&master).unwrap();
        pty::unlockpt(&master).unwrap();
        let name = pty::ptsname_r(&master).unwrap();
        let mut slave = File::options();
        slave.read(true).write(true).custom_flags(libc::O_NOCTTY);
        Self { master, slave: slave.open(name).unwrap(), seen: String::new() }
    }

    fn set_columns(&self, columns: u16) {
        let mut stty = Command::new("stty");
        stty.args(["rows", "33", "cols", &columns.to_string()]);
        assert!(stty.stdin(self.slave.try_clone().unwrap()).status().unwrap().success());
    }

    /// Starts warmstart with the program, in a session on this terminal.
    fn start(&self, dir: &Path) -> Child {
        let slave = || Stdio::from(self.slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["-c", "-w"]).arg(support::binary());
        command.args(["-v", "--ready", "delay:200", "/usr/bin/python3", "-c", PROGRAM]);
        command.env("WARMSTART_CACHE_DIR", dir.join("cache")).env_remove("PYTHONUNBUFFERED");
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.spawn().unwrap()
    }

    fn type_in(&self, text: &str) {
        nix::unistd::write(&self.master, text.as_bytes()).unwrap();
    }

    /// Reads until the text has come; forgets what came before.
    fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < end, "no {text:?} in {:?}", self.seen);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(50u16)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let read = nix::unistd::read(&self.master, &mut buffer).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
    }

    fn echoes_lines(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
    }
}

#[test]
fn a_restored_program_reads_keys() {
    if !Path::new("/usr/bin/python3").exists() {
        skip!("there is no python3");
    }
    let dir = support::cache();
    let mut terminal = Terminal::new();
    terminal.set_columns(77);
    for round in 0..3 {
        let mut child = terminal.start(dir.path());
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
        assert!(terminal.echoes_lines(), "round {round}");
        terminal.set_columns(if round == 0 { 77 } else { 66 });
    }
}
