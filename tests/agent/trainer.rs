//! A trainer for the tests: it starts a JVM with the agent and gives orders,
//! and captures nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warmstart::jvm::agent::{self, Delivery, End, FrameReader, MainReached, Order, Report};

/// How long anything may take on a machine that does other things as well.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long threads that a training left may take to end.
pub const WAIT_MS: u32 = 1000;
/// The descriptor that the agent gets.
const FD: &str = "9";

/// How a command is started: what a cold run and a held one have in common.
#[derive(Debug, Clone)]
pub struct Start {
    /// `java`, or another tool of a JDK.
    pub program: PathBuf,
    /// What comes before the program's own arguments.
    pub options: Vec<OsString>,
    /// What is put before an option of the JVM: `-J` for other tools.
    pub prefix: &'static str,
    /// Variables that both have from the beginning.
    pub env: Vec<(OsString, OsString)>,
    /// What is on stdin.
    pub stdin: Vec<u8>,
}

impl Start {
    /// Starts a class of a directory with `java`.
    pub fn new(java: PathBuf, options: &[&OsStr]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let env = vec![
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
            ("TZ".into(), "Europe/Rome".into()),
        ];
        Self { program: java, options, prefix: "", env, stdin: Vec::new() }
    }

    /// Runs it cold.
    pub fn cold(&self, run: &Run) -> Outcome {
        let dir = crate::support::cache();
        let input = dir.path().join("stdin");
        fs::write(&input, &self.stdin).unwrap();
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        let child = Command::new(&self.program)
            .args(&self.options)
            .args(&run.args)
            .env_clear()
            .envs(self.env.iter().cloned())
            .envs(run.env.iter().cloned())
            .current_dir(&run.cwd)
            .stdin(File::open(input).unwrap())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let status = Reaped(child).wait();
        Outcome::new(status, fs::read(out).unwrap(), fs::read(err).unwrap())
    }

    /// Starts it with the agent, in a directory that no run is in, and waits
    /// until `main` is reached.
    pub fn hold(&self) -> Held {
        let mut held = self.spawn();
        let Some(Report::Hello { protocol, vm }) = held.report() else {
            panic!("no hello: {}", held.text());
        };
        assert_eq!(protocol, agent::PROTOCOL);
        assert!(vm.contains("VM"), "{vm}");
        let Some(Report::Main(main)) = held.report() else { panic!("no main: {}", held.text()) };
        held.main = Some(main);
        held
    }

    /// Starts it with the agent.
    pub fn spawn(&self) -> Held {
        let dir = crate::support::cache();
        let library = agent::install(&dir.path().join("agent")).unwrap();
        let mut option = OsString::from(format!("{}-agentpath:", self.prefix));
        option.push(library);
        option.push("=");
        option.push(FD);
        let input = dir.path().join("stdin");
        fs::write(&input, &self.stdin).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        // A shell gives it the number, so that no other test's child has it.
        let script = format!(r#"exec {FD}<&0 0<"$0"; exec "$@""#);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(input).arg(&self.program);
        command.arg(option).args(&self.options);
        let child = command
            .env_clear()
            .envs(self.env.iter().cloned())
            .env("TRAINING", "yes")
            .env("GREETING", "not yours")
            .current_dir("/tmp")
            .stdin(OwnedFd::from(theirs))
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        // The command would keep the agent's end open.
        drop(command);
        Held {
            start: self.clone(),
            child: Reaped(child),
            stream: Some(ours),
            reader: FrameReader::default(),
            main: None,
            dir,
        }
    }

    /// The order's part that says what to run.
    pub fn delivery(&self, run: &Run) -> Delivery {
        let mut argv = vec![self.program.clone().into_os_string()];
        argv.extend(self.options.iter().chain(&run.args).cloned());
        let joined = |(name, value): &(OsString, OsString)| {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            text
        };
        // In the order in which a `Command` passes them.
        let mut env: Vec<_> = self.env.iter().chain(&run.env).cloned().collect();
        env.sort();
        let env = env.iter().map(joined).collect();
        Delivery { argv, args: run.args.clone(), env, cwd: run.cwd.clone() }
    }
}

/// What differs from run to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
}

impl Run {
    pub fn new(cwd: &Path, args: &[&str]) -> Self {
        let env = vec![("GREETING".into(), "hello, wörld".into()), ("A B".into(), "".into())];
        Self { args: args.iter().map(Into::into).collect(), env, cwd: cwd.to_owned() }
    }
}

/// What a run left.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Outcome {
    fn new(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        Self { code: status.code(), signal: status.signal(), stdout, stderr }
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        writeln!(f, "code {:?}, signal {:?}", self.code, self.signal)?;
        writeln!(f, "stdout:\n{}", text(&self.stdout))?;
        writeln!(f, "stderr:\n{}", text(&self.stderr))
    }
}

/// A child that is killed and reaped whatever happens.
struct Reaped(Child);

impl Reaped {
    fn wait(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A JVM with the agent.
pub struct Held {
    start: Start,
    child: Reaped,
    stream: Option<UnixStream>,
    reader: FrameReader,
    main: Option<MainReached>,
    dir: TempDir,
}

impl Held {
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn main(&self) -> &MainReached {
        self.main.as_ref().expect("main was reached")
    }

    /// Returns the next report; `None` at the end.
    pub fn report(&mut self) -> Option<Report> {
        let stream = self.stream.as_mut().expect("it is not closed");
        let mut bytes = [0; 4096];
        loop {
            if let Some(body) = self.reader.next().unwrap() {
                return Some(Report::decode(&body).unwrap());
            }
            match stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(len) => self.reader.feed(&bytes[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}: {}", self.text()),
            }
        }
    }

    pub fn order(&mut self, order: &Order) {
        let stream = self.stream.as_mut().expect("it is not closed");
        stream.write_all(&agent::encode(order)).unwrap();
    }

    /// Sends bytes that may be no order.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.as_mut().expect("it is not closed").write_all(bytes).unwrap();
    }

    /// Trains, and returns how it ended and what it wrote.
    pub fn train(&mut self, run: &Run) -> (End, Outcome) {
        let before = self.written();
        let command = self.start.delivery(run);
        self.order(&Order::Train { wait_ms: WAIT_MS, command });
        let Some(Report::End(end)) = self.report() else { panic!("no end: {}", self.text()) };
        let (stdout, stderr) = self.written_since(before);
        let outcome = Outcome { code: Some(end.code), signal: None, stdout, stderr };
        (end, outcome)
    }

    pub fn prepare(&mut self) {
        self.order(&Order::Prepare { settle_ms: 50 });
        assert_eq!(self.report(), Some(Report::Ready), "{}", self.text());
    }

    /// Delivers the real command, and returns what that left.
    pub fn deliver(mut self, run: &Run) -> Outcome {
        let before = self.written();
        let command = self.start.delivery(run);
        self.order(&Order::Deliver { command, printed: Default::default() });
        // The agent must have closed its end by now, or when it ends.
        assert_eq!(self.report(), None);
        let (dir, out, err) = (self.dir, before.0, before.1);
        let status = self.child.wait();
        let written =
            |name: &str, from: usize| fs::read(dir.path().join(name)).unwrap().split_off(from);
        Outcome::new(status, written("out", out), written("err", err))
    }

    /// Lets go of the descriptor, and waits for the end.
    pub fn abandon(mut self) -> Outcome {
        self.stream = None;
        let dir = self.dir;
        let status = self.child.wait();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        Outcome::new(status, read("out"), read("err"))
    }

    /// Waits for the end without an order.
    pub fn ends(mut self) -> Outcome {
        assert_eq!(self.report(), None);
        self.abandon()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    /// How much it has written to stdout and stderr.
    fn written(&self) -> (usize, usize) {
        (self.read("out").len(), self.read("err").len())
    }

    fn written_since(&self, (out, err): (usize, usize)) -> (Vec<u8>, Vec<u8>) {
        (self.read("out").split_off(out), self.read("err").split_off(err))
    }

    /// Returns all that it has written, for people.
    pub fn text(&self) -> String {
        let all = [self.read("out"), self.read("err")].concat();
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// Makes an `OsStr` of bytes that are no UTF-8.
pub fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}
