//! A program under watch, driven as the launcher drives it.

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use warmstart::readiness::{Monitor, NotifySocket, Probe, Readiness, Source, Started, Target};

/// The system's: one that any user may execute.
pub const PYTHON: &str = "/usr/bin/python3";

/// A server: port, mode, status.
pub const SERVER: &str = r#"
import socket, sys, threading, time
port, mode, status = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def say(*words): print(*words, flush=True)
seen = 0
def serve(c):
    global seen
    try:
        say('accepted')
        if mode == 'ssh':
            c.sendall(b'SSH-2.0-Test\r\n'); c.recv(4096); c.close(); return
        request = b''
        while not request.endswith(b'\n'):
            request += c.recv(4096)
        say(request.decode().splitlines()[0])
        seen += 1
        answer = '503' if mode == 'recover' and seen < 4 else status
        head = 'HTTP/1.1 %s Whatever\r\n' % answer
        if mode == 'chunked':
            c.sendall((head + 'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n').encode())
            time.sleep(0.05)
            c.sendall(b'0\r\n\r\n')
        elif mode == 'slow':
            for byte in (head + '\r\nok').encode():
                c.sendall(bytes([byte])); time.sleep(0.005)
        else:
            c.sendall((head + 'Content-Length: 2\r\n\r\nok').encode())
        if mode == 'keep':
            while c.recv(4096): pass
        if mode == 'hold':
            say('holding'); time.sleep(2.5); say('let go')
        c.close()
    except Exception as e:
        say('Error', repr(e))
s = socket.socket()
s.bind(('127.0.0.1', port))
s.listen()
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,)).start()
    del c
"#;

/// Makes a command that runs a Python script.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-c", script]);
    command
}

/// Makes a command that runs a shell script.
pub fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

/// Returns a port that nobody listens on, and that no other test gets.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut given = GIVEN.lock().unwrap();
        if !given.contains(&port) {
            given.push(port);
            return port;
        }
    }
}

/// A program and its monitor; killed with its children when dropped.
pub struct Program {
    child: Child,
    started: Instant,
    printed: Vec<u8>,
    last: Readiness,
    port: Option<u16>,
    _dir: tempfile::TempDir,
    pub monitor: Monitor,
    notify: Option<NotifySocket>,
}

impl Program {
    pub fn start(command: &mut Command, probes: &[&str]) -> Self {
        Self::begin(command, probes, None, |_| {})
    }

    pub fn start_with(
        command: &mut Command,
        probes: &[&str],
        notify: Option<NotifySocket>,
    ) -> Self {
        Self::begin(command, probes, notify, |_| {})
    }

    /// Starts a program in a directory that was prepared a while ago.
    pub fn prepared(command: &mut Command, probes: &[&str], prepare: impl Fn(&Path)) -> Self {
        Self::begin(command, probes, None, |dir| {
            prepare(dir);
            std::thread::sleep(Duration::from_millis(30));
        })
    }

    fn begin(
        command: &mut Command,
        probes: &[&str],
        notify: Option<NotifySocket>,
        prepare: impl Fn(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let probes: Vec<Probe> = probes.iter().map(|probe| probe.parse().unwrap()).collect();
        let started = Started::now();
        command.current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(command, 0);
        let child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let target = Target { pid, started, cwd: dir.path().to_owned() };
        Self {
            child,
            started: started.at,
            printed: Vec::new(),
            last: Readiness::Gone,
            port: probes.iter().find_map(|probe| match probe {
                Probe::Port(port) => *port,
                _ => None,
            }),
            _dir: dir,
            monitor: Monitor::new(&probes, target, notify),
            notify: None,
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Returns the port it listens on.
    pub fn port(&self) -> u16 {
        self.monitor.port().or(self.port).unwrap()
    }

    /// Looks once, and waits for output or the next look.
    pub fn step(&mut self) -> Readiness {
        self.last = self.monitor.poll(Instant::now());
        let pause = self.monitor.next_poll();
        let (stdout, stderr) =
            (self.child.stdout.as_mut().unwrap(), self.child.stderr.as_mut().unwrap());
        let ready = {
            let mut fds = vec![
                PollFd::new(stdout.as_fd(), PollFlags::POLLIN),
                PollFd::new(stderr.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.monitor.fds());
            poll(&mut fds, PollTimeout::try_from(pause).unwrap()).unwrap();
            [fds[0].any() == Some(true), fds[1].any() == Some(true)]
        };
        let mut buffer = [0; 4096];
        let mut closed = 0;
        if ready[0] {
            let len = stdout.read(&mut buffer).unwrap();
            self.monitor.output(Source::Stdout, &buffer[..len]);
            self.printed.extend_from_slice(&buffer[..len]);
            closed += usize::from(len == 0);
        }
        if ready[1] {
            let len = stderr.read(&mut buffer).unwrap();
            self.monitor.output(Source::Stderr, &buffer[..len]);
            self.printed.extend_from_slice(&buffer[..len]);
            closed += usize::from(len == 0);
        }
        if closed > 0 {
            // A hangup makes poll(2) return at once.
            std::thread::sleep(pause);
        }
        self.last.clone()
    }

    pub fn until(&mut self, limit: Duration, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        let begun = Instant::now();
        loop {
            let readiness = self.step();
            if wanted(&readiness) {
                return readiness;
            }
            assert_ne!(readiness, Readiness::Gone, "{}", self.printed());
            assert!(begun.elapsed() < limit, "{readiness:?}, printed: {}", self.printed());
        }
    }

    /// Waits until it is ready and returns how long it took from the start.
    pub fn until_ready(&mut self, limit: Duration) -> Duration {
        self.until(limit, |readiness| matches!(readiness, Readiness::Ready { .. }));
        self.started.elapsed()
    }

    /// Waits until it has printed something and returns when that was seen.
    pub fn until_printed(&mut self, text: &str, limit: Duration) -> Instant {
        let begun = Instant::now();
        while !self.printed().contains(text) {
            self.step();
            assert!(begun.elapsed() < limit, "{:?}, printed: {}", self.last, self.printed());
        }
        Instant::now()
    }

    /// Checks that it does not become ready for a while, and returns what is
    /// said to be missing.
    pub fn stays_waiting(&mut self, time: Duration, for_what: &str) -> String {
        let begun = Instant::now();
        loop {
            let readiness = self.step();
            let Readiness::Waiting { on } = &readiness else {
                panic!("{readiness:?} after {:?}", begun.elapsed());
            };
            assert!(on.contains(for_what), "{on}");
            if begun.elapsed() >= time {
                return on.clone();
            }
        }
    }

    pub fn ready_by(&self) -> &str {
        match &self.last {
            Readiness::Ready { by } => by,
            other => panic!("{other:?}"),
        }
    }

    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed).into_owned()
    }

    pub fn signal(&self, name: &str) {
        let signal = format!("SIG{name}").parse::<nix::sys::signal::Signal>().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Counts its sockets beside the one it listens on.
    pub fn connected_sockets(&self) -> usize {
        let dir = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let sockets: Vec<String> = dir
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.to_owned()))
            .collect();
        let mut connected = 0;
        for table in ["tcp", "tcp6"] {
            let text =
                std::fs::read_to_string(format!("/proc/{}/net/{table}", self.pid())).unwrap();
            for line in text.lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let ours = sockets.iter().any(|socket| *socket == format!("{}]", fields[9]));
                connected += usize::from(ours && fields[3] != "0A");
            }
        }
        connected
    }

    /// Ends it and returns its notify socket.
    pub fn into_notify(mut self) -> Option<NotifySocket> {
        let target =
            Target { pid: self.pid(), started: Started::now(), cwd: self._dir.path().to_owned() };
        let monitor = std::mem::replace(&mut self.monitor, Monitor::new(&[], target, None));
        self.notify = monitor.into_notify();
        self.notify.take()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.pid());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
