//! Terminals for programs of the tests.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{self, PtyMaster};

use super::target::PATIENCE;

/// A pseudo-terminal that a test types on and reads.
pub struct Terminal {
    master: PtyMaster,
    pub slave: File,
    /// What came from it.
    pub seen: String,
    /// How much of `seen` has been awaited.
    pub at: usize,
}

impl Terminal {
    pub fn new() -> Self {
        // Close-on-exec from the start: other tests start programs meanwhile.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = pty::posix_openpt(flags).unwrap();
        pty::grantpt(&master).unwrap();
        pty::unlockpt(&master).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(pty::ptsname_r(&master).unwrap())
            .unwrap();
        let this = Self { master, slave, seen: String::new(), at: 0 };
        this.resize(77);
        this
    }

    pub fn resize(&self, columns: u16) {
        let mut stty = Command::new("stty");
        stty.args(["rows", "33", "cols", &columns.to_string()]);
        assert!(stty.stdin(self.slave.try_clone().unwrap()).status().unwrap().success());
    }

    /// Makes it the command's standard descriptors and controlling terminal.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut outer = Command::new("setsid");
        outer.args(["-c", "-w"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        self.attach(&mut outer);
        outer
    }

    pub fn attach(&self, command: &mut Command) {
        let slave = || Stdio::from(self.slave.try_clone().unwrap());
        command.stdin(slave()).stdout(slave()).stderr(slave());
    }

    pub fn start(&self, command: &Command) -> Child {
        self.wrap(command).spawn().unwrap()
    }

    pub fn type_in(&self, text: &str) {
        nix::unistd::write(&self.master, text.as_bytes()).unwrap();
    }

    /// Reads until the text has come, after what was awaited before; returns what
    /// came since.
    pub fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen[self.at..].find(text) {
                let before = self.at;
                self.at += at + text.len();
                return self.seen[before..self.at].to_owned();
            }
            assert!(Instant::now() < end, "no {text:?} in {:?}", &self.seen[self.at..]);
            self.read();
        }
    }

    pub fn read(&mut self) {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(50u16)).unwrap() > 0 {
            let mut buffer = [0; 4096];
            let read = nix::unistd::read(&self.master, &mut buffer).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
}
