//! A server of ours under warmstart: captured, restored, asked, ended.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Jdk, Ordinary, binary, with_free_pids};

/// The time within which each step must happen, cold starts included, on a
/// machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(90);

/// Compiles a program of `tests/programs` for all Java runtimes into a
/// directory that everybody may read; an error says what is missing here.
pub fn compile(name: &str) -> Result<TempDir, String> {
    let javac = super::javac().ok_or("there is no javac")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let dir = super::cache();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut compile = Command::new(javac);
    compile.args(["--release", "11", "-d"]).arg(dir.path()).arg(source);
    let output = compile.output().map_err(|error| format!("javac: {error}"))?;
    assert!(output.status.success(), "{}", super::stderr(&output));
    Ok(dir)
}

/// Returns a TCP port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// How a server is run.
#[derive(Debug)]
pub struct Service<'a> {
    /// The command.
    pub argv: Vec<OsString>,
    /// Variables on top of ours.
    pub env: Vec<(String, String)>,
    /// The port that it listens on.
    pub port: u16,
    /// The user who runs it, if not ours.
    pub user: Option<&'a Ordinary>,
    /// The warmstart that is tested.
    pub binary: PathBuf,
    /// What warmstart is called through (`unshare -pf ...`), if anything.
    pub via: Vec<OsString>,
    dir: TempDir,
}

impl<'a> Service<'a> {
    /// Makes one of a command that listens on `port`.
    pub fn new<W: Into<OsString>>(argv: impl IntoIterator<Item = W>, port: u16) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        let binary = binary().to_owned();
        let dir = super::cache();
        Self { argv, env: Vec::new(), port, user: None, binary, via: Vec::new(), dir }
    }

    /// Makes one of `Exercise`, compiled into `classes`.
    pub fn exercise(jdk: &Jdk, options: &[&str], classes: &Path) -> Self {
        let port = free_port();
        let mut argv: Vec<OsString> = vec![jdk.java().into()];
        argv.extend(options.iter().map(Into::into));
        argv.extend(["-cp".into(), classes.into(), "Exercise".into(), port.to_string().into()]);
        Self::new(argv, port)
    }

    /// Lets another user run it.
    pub fn run_by(mut self, user: &'a Ordinary) -> Self {
        self.user = Some(user);
        self
    }

    fn work_dir(&self) -> PathBuf {
        self.user.map_or_else(|| self.dir.path().to_owned(), Ordinary::home)
    }

    /// Returns the cache directory.
    pub fn cache(&self) -> PathBuf {
        self.work_dir().join("cache")
    }

    /// Returns the directory of the only image; fails if there are others.
    pub fn image(&self) -> PathBuf {
        let entries = fs::read_dir(self.cache().join("v1/entries")).unwrap();
        let entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].join("image")
    }

    /// What `cache show` says of the only entry.
    pub fn cache_show(&self) -> std::process::Output {
        let image = self.image();
        let id = image.parent().unwrap().file_name().unwrap();
        let mut command = Command::new(binary());
        command.args(["cache", "show"]).arg(id).env("WARMSTART_CACHE_DIR", self.cache());
        command.output().unwrap()
    }

    /// Starts a run of warmstart with these options.
    pub fn start(&self, options: &[&str]) -> Run {
        let dir = self.work_dir();
        let status = dir.join("status");
        let _ = fs::remove_file(&status);
        let said = self.dir.path().join("stderr");
        let mut command = match (self.user, &self.via[..]) {
            (Some(user), _) => user.warmstart(),
            (None, []) => Command::new(&self.binary),
            (None, [first, rest @ ..]) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.binary);
                command
            }
        };
        command.env("WARMSTART_CACHE_DIR", self.cache()).current_dir(&dir);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("--status-file").arg(&status).args(options).arg("--").args(&self.argv);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&said).unwrap());
        let began = Instant::now();
        Run { child: command.spawn().unwrap(), began, status, said, port: self.port, app: 0 }
    }

    /// Runs cold until an image is there; the program runs on.
    pub fn capture(&self, options: &[&str]) -> Run {
        let mut run = self.start(options);
        let first = run.wait_status(|_| true);
        assert_eq!(first["outcome"], "cold", "{first}");
        // What it says next is the last word about the capture.
        let status = run.wait_status(|status| *status != first);
        assert_eq!(status["outcome"], "captured", "{status}\n{}", run.said());
        run
    }

    /// Runs from the image, with its pids outside. Where another process of
    /// this machine has one of them for the moment, which is no failure, it is
    /// tried again.
    pub fn restore(&self) -> Run {
        self.restore_as(&[])
    }

    /// The same for what was captured with options, some of which are part of
    /// the key.
    pub fn restore_as(&self, options: &[&str]) -> Run {
        let attempt = || {
            let mut run = self.start(options);
            let status = run.wait_status(|_| true);
            if status["pids"] == "set-tid" {
                return Some(run);
            }
            assert_eq!(status["pids"], "namespace", "not restored: {status}\n{}", run.said());
            run.get("/");
            run.end();
            None
        };
        with_free_pids(attempt, Option::is_none).unwrap()
    }

    /// Runs from the image in namespaces of its own.
    pub fn restore_enclosed(&self, options: &[&str]) -> Run {
        let mut run = self.start(&[&["--pids", "namespace"], options].concat());
        let status = run.wait_status(|_| true);
        assert_eq!(status["pids"], "namespace", "{status}\n{}", run.said());
        run
    }
}

/// Returns the numbers in the names of an image's files of one kind.
fn numbers(image: &Path, kind: &str) -> BTreeSet<i32> {
    let names = fs::read_dir(image).unwrap().map(|entry| entry.unwrap().file_name());
    let number = |name: OsString| {
        name.to_str()?.strip_prefix(kind)?.strip_suffix(".img")?.parse::<i32>().ok()
    };
    names.filter_map(number).collect()
}

/// Returns the threads that an image holds.
pub fn tids_of_image(image: &Path) -> BTreeSet<i32> {
    numbers(image, "core-")
}

/// Returns the process that an image holds: not always its lowest tid, since
/// numbers start over at `pid_max`.
pub fn pid_of_image(image: &Path) -> i32 {
    *numbers(image, "mm-").first().unwrap()
}

/// Returns the threads of a process.
pub fn tids(pid: i32) -> BTreeSet<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Counts the sockets that listen on a port.
pub fn listeners(port: u16) -> usize {
    let wanted = format!(":{port:04X}");
    let listens = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next().is_some_and(|local| local.ends_with(&wanted));
        local && words.nth(1) == Some("0A")
    };
    let count = |path| fs::read_to_string(path).unwrap_or_default().lines().filter(listens).count();
    count("/proc/net/tcp") + count("/proc/net/tcp6")
}

/// A run of warmstart; it and its program end when dropped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    began: Instant,
    status: PathBuf,
    said: PathBuf,
    port: u16,
    app: i32,
}

impl Run {
    /// Waits for a status that pleases.
    pub fn wait_status(&mut self, pleases: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = fs::read(&self.status).unwrap_or_default();
            if let Ok(status) = serde_json::from_slice::<Value>(&text) {
                self.app = status["app_pid"].as_i64().unwrap() as i32;
                if pleases(&status) {
                    return status;
                }
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "warmstart ended with {}:\n{}", ended.unwrap(), self.said());
            assert!(Instant::now() < end, "no such status in time:\n{}", self.said());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The program's pid.
    pub fn app(&self) -> i32 {
        self.app
    }

    /// The launcher's pid; the program's own after a plain start.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The port that its program listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was written to stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Asks the server, as soon as it listens; returns its answer's body.
    pub fn get(&mut self, path: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let error = match ask(self.port, path) {
                Ok(body) => return body,
                Err(error) => error,
            };
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let ended = self.child.try_wait().unwrap();
            assert!(refused && ended.is_none(), "{path}: {error}, {ended:?}:\n{}", self.said());
            assert!(Instant::now() < end, "{path}: {error}:\n{}", self.said());
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Ends the program by SIGTERM to warmstart.
    pub fn end(self) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        self.wait()
    }

    /// Waits for the program's end.
    pub fn wait(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The program ends with the launcher, by its parent-death signal.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Makes one HTTP request; returns the body of the answer.
pub fn ask(port: u16, path: &str) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{answer:?}")))?;
    Ok(body.to_owned())
}
