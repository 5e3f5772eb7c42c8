//! What the tests share: the binary, JDKs, caches, an ordinary user, loud
//! skips. Each test file uses its part of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warmstart::pids::cursor;
use warmstart::pids::last_pid::LastPid;
use warmstart::privilege::file::{self, FileCaps};

/// The uid and gid of an ordinary user: `nobody`.
pub const NOBODY: u32 = 65534;

pub mod enclosed;
pub mod etc;
pub mod occupy;
pub mod seccomp;
pub mod service;
pub mod session;
pub mod target;
pub mod terminal;
pub mod tools;

/// Returns the path of the binary under test: the one that was built with the
/// tests, or the one that `WARMSTART_TEST_BINARY` names (a released build).
pub fn binary() -> PathBuf {
    let named = std::env::var_os("WARMSTART_TEST_BINARY").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_warmstart")))
}

/// Returns how often a test repeats what it does: `usual`, or as often as
/// `WARMSTART_REPEAT` says.
pub fn repetitions(usual: usize) -> usize {
    let asked = std::env::var("WARMSTART_REPEAT").ok();
    asked.map_or(usual, |count| count.parse().expect("WARMSTART_REPEAT is a number"))
}

/// Leaves a test that cannot run here, loudly; fails it where it must run.
///
/// `scripts/test` sets `WARMSTART_TESTS_MUST_RUN=1` after it has installed all
/// that the tests need.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        let why = format!($($why)*);
        if std::env::var_os("WARMSTART_TESTS_MUST_RUN").is_some_and(|value| value == "1") {
            panic!("this test must run here, but {why}");
        }
        eprintln!("SKIP: {why}");
        return;
    }};
}

/// A Java runtime, perhaps with a compiler.
#[derive(Debug, Clone)]
pub struct Jdk {
    /// Its feature release: 17.
    pub release: u32,
    /// Its directory.
    pub home: PathBuf,
}

impl Jdk {
    /// Returns the path of its `java`.
    pub fn java(&self) -> PathBuf {
        self.home.join("bin/java")
    }

    /// Returns the path of its `javac`, if it has one.
    pub fn javac(&self) -> Option<PathBuf> {
        Some(self.home.join("bin/javac")).filter(|path| path.exists())
    }

    /// Tells whether libjvm has a collector: its flag is in there.
    pub fn has_collector(&self, flag: &str) -> bool {
        let flag = format!("-XX:+{flag}");
        Command::new(self.java())
            .args([flag.as_str(), "-version"])
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

/// Finds the Java runtimes of this machine: those that `WARMSTART_TEST_JDKS`
/// names (homes, separated by colons), those of the distribution, and those
/// that `scripts/test` put below `target/jdks`; one for each release, in the
/// order of releases, those with a compiler first.
pub fn jdks() -> Vec<Jdk> {
    let named = std::env::var("WARMSTART_TEST_JDKS").unwrap_or_default();
    let mut homes: Vec<PathBuf> =
        named.split(':').filter(|home| !home.is_empty()).map(PathBuf::from).collect();
    let below = [
        PathBuf::from("/usr/lib/jvm"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/jdks"),
        PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_default()).join("jdks"),
    ];
    for dir in below {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        homes.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut jdks: Vec<Jdk> = homes.iter().filter_map(|home| jdk_at(home)).collect();
    jdks.sort_by_key(|jdk| (jdk.release, jdk.javac().is_none(), jdk.home.clone()));
    jdks.dedup_by_key(|jdk| jdk.release);
    jdks
}

/// Finds those with a compiler, and so with every module and tool: the runtimes
/// that `scripts/test` fetches have few.
pub fn full_jdks() -> Vec<Jdk> {
    jdks().into_iter().filter(|jdk| jdk.javac().is_some()).collect()
}

/// Finds the runtime of a release.
pub fn jdk(release: u32) -> Option<Jdk> {
    jdks().into_iter().find(|jdk| jdk.release == release)
}

/// Finds a `javac`; what it compiles with `--release 11` runs on all of them.
pub fn javac() -> Option<PathBuf> {
    jdks().iter().find_map(Jdk::javac)
}

/// Reads `JAVA_VERSION="17.0.15"` from a runtime's `release` file.
fn jdk_at(home: &Path) -> Option<Jdk> {
    let text = std::fs::read_to_string(home.join("release")).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION=\""))?;
    let release = version.split(['.', '"', '+', '-']).next()?.parse().ok()?;
    let home = home.canonicalize().ok()?;
    home.join("bin/java").exists().then_some(Jdk { release, home })
}

/// Whether this process may choose pids, and so what it starts:
/// CAP_CHECKPOINT_RESTORE (40) or CAP_SYS_ADMIN (21).
pub fn can_choose_pids() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & (1 << 40 | 1 << 21) != 0)
}

/// Does something until it does not find a pid taken: by another process of this
/// machine, for the moment, which is no failure.
#[track_caller]
pub fn with_free_pids<T>(mut attempt: impl FnMut() -> T, is_taken: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = attempt();
        if !is_taken(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < end, "a pid stays taken");
        eprintln!("once more: a pid is taken");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a directory for a cache, which only we may use.
pub fn cache() -> TempDir {
    tempfile::Builder::new().prefix("warmstart-test-").tempdir().expect("a temporary directory")
}

/// Prepares a run of the binary with a cache of its own.
pub fn warmstart(cache: &TempDir) -> Command {
    let mut command = Command::new(binary());
    command.env("WARMSTART_CACHE_DIR", cache.path());
    command
}

/// Copies a program, through another process.
///
/// A descriptor that this process had open for writing would be inherited by
/// whatever another test forks meanwhile, and until that has gone to its exec
/// the copy cannot be executed ("Text file busy").
pub fn install(from: &Path, to: &Path) -> std::io::Result<()> {
    let status = Command::new("install").args(["-m", "755", "--"]).arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("install failed")) }
}

/// Sees to it that programs which are started now have pids that an ordinary
/// user may choose again: those below 1000 are no longer permitted, and a
/// container or a counter that has just begun anew is there.
fn leave_low_pids() {
    // Locked: another test may be about to move the cursor and put it back.
    let Ok(mut last_pid) = LastPid::lock() else { return };
    let (Some(last), Some(max)) = (last_pid.before(), cursor::pid_max()) else { return };
    if last < 1000 || last + 2000 > max {
        // Where that is not possible a test says by itself that it fails.
        let _ = last_pid.set(1000);
    }
}

/// An ordinary user with a copy of the binary of their own.
#[derive(Debug)]
pub struct Ordinary {
    dir: TempDir,
}

impl Ordinary {
    /// Makes one without the capability; an error says what is missing here.
    pub fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can become an ordinary user".into());
        }
        if Command::new("setpriv").arg("--version").output().is_err() {
            return Err("there is no setpriv (package util-linux)".into());
        }
        let dir = cache();
        let user = Self { dir };
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        let prepare = || -> std::io::Result<()> {
            mode(user.dir.path(), 0o755)?;
            install(&binary(), &user.binary())?;
            std::fs::create_dir(user.home())?;
            std::os::unix::fs::chown(user.home(), Some(NOBODY), Some(NOBODY))
        };
        prepare().map_err(|error| error.to_string())?;
        Ok(user)
    }

    /// Makes one without the capability who can make namespaces.
    pub fn with_namespaces() -> Result<Self, String> {
        let user = Self::new()?;
        let mut probe = user.command("unshare");
        probe.args(["--user", "--map-current-user", "--pid", "--mount", "--fork", "true"]);
        let output = probe.output().map_err(|error| format!("unshare: {error}"))?;
        match output.status.success() {
            true => Ok(user),
            false => Err(format!("users cannot make namespaces: {}", stderr(&output).trim())),
        }
    }

    /// Makes one whose binary carries the capability. Not by `setup`, which
    /// would also write to the machine's `/etc` ([`etc::OwnEtc`]).
    pub fn with_capability() -> Result<Self, String> {
        let user = Self::new()?;
        file::set(&user.binary(), &FileCaps::OURS)
            .map_err(|error| format!("no file capability can be given: {error}"))?;
        leave_low_pids();
        Ok(user)
    }

    /// Returns the path of their binary.
    pub fn binary(&self) -> PathBuf {
        self.dir.path().join("warmstart")
    }

    /// Returns their home, the only place where they may write.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Prepares a command that they run, with their home as its directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .current_dir(self.home())
            .env("HOME", self.home())
            .env_remove("XDG_CACHE_HOME")
            .env_remove("WARMSTART_CACHE_DIR");
        command
    }

    /// Prepares a run of their binary.
    pub fn warmstart(&self) -> Command {
        self.command(self.binary())
    }
}

/// Returns what was written to stdout.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns what was written to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
