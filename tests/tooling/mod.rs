//! Runs a JVM's tools cold and restored, in the same surroundings, and holds
//! one against the other.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::{self, Jdk, stderr, stdout};

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status or signal.
    pub status: String,
    pub stdout: String,
    pub stderr: String,
    /// The files of the working directory, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A run: what it is given.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: String,
    /// The working directory's name.
    pub dir: &'static str,
}

impl Case {
    pub fn new(args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        Self { args, dir: "work", ..Self::default() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.into();
        self
    }

    pub fn dir(mut self, name: &'static str) -> Self {
        self.dir = name;
        self
    }
}

/// A tool with a cache and a place to work in.
pub struct Tool {
    /// The command, up to the tool's own arguments.
    pub command: Vec<String>,
    /// Files that are in the working directory before each run.
    pub files: Vec<(String, Vec<u8>)>,
    /// What is in the environment of each run.
    pub env: Vec<(String, String)>,
    /// Options of warmstart.
    pub options: Vec<String>,
    root: TempDir,
    cache: TempDir,
}

impl Tool {
    pub fn new(command: &[&str]) -> Self {
        Self {
            command: command.iter().map(ToString::to_string).collect(),
            files: Vec::new(),
            env: Vec::new(),
            options: vec!["--at".into(), "main".into()],
            root: support::cache(),
            cache: support::cache(),
        }
    }

    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn cache(&self) -> &TempDir {
        &self.cache
    }

    /// Makes a working directory as it is before each run.
    fn prepare(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, content) in &self.files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    /// Gives a command the tool's surroundings, in a directory.
    pub fn surround(&self, command: &mut Command, dir: &Path) {
        command
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("LANG", "C.UTF-8")
            .env("WARMSTART_CACHE_DIR", self.cache.path())
            .envs(self.env.iter().cloned());
    }

    fn run(&self, case: &Case, mut command: Command) -> Outcome {
        let dir = self.prepare(case.dir);
        self.surround(&mut command, &dir);
        command
            .args(&self.command[usize::from(command.get_program() == self.command[0].as_str())..])
            .args(&case.args)
            .envs(case.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may not read any.
        let _ = stdin.write_all(case.stdin.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let outcome = Outcome {
            status: output.status.to_string(),
            stdout: stdout(&output),
            stderr: stderr(&output),
            files: files(&dir),
        };
        let _ = fs::remove_dir_all(&dir);
        outcome
    }

    /// Runs it without warmstart.
    pub fn cold(&self, case: &Case) -> Outcome {
        self.run(case, Command::new(&self.command[0]))
    }

    fn warmstart(&self, options: &[&str]) -> Command {
        let mut command = Command::new(support::binary());
        command.args(&self.options).args(options).arg("--");
        command
    }

    /// Runs it cold through warmstart and waits for the capture; returns what
    /// the status file says of it.
    pub fn capture(&self, case: &Case) -> (Outcome, String) {
        self.run_with(case, &["-q", "--wait"])
    }

    /// Runs it through warmstart; returns what the status file says of it.
    pub fn run_with(&self, case: &Case, options: &[&str]) -> (Outcome, String) {
        let file = self.root.path().join("status.json");
        let _ = fs::remove_file(&file);
        let options = [options, &["--status-file", file.to_str().unwrap()]].concat();
        let outcome = self.run(case, self.warmstart(&options));
        (outcome, fs::read_to_string(&file).unwrap_or_default())
    }

    /// Prepares a run of the binary with these options, in a directory.
    pub fn prepared(&self, dir: &Path, options: &[&str], args: &[&str]) -> Command {
        let mut command = self.warmstart(options);
        self.surround(&mut command, dir);
        command.args(&self.command).args(args);
        command
    }

    /// Captures it, and fails the test unless there is an entry then.
    pub fn must_capture(&self, case: &Case) {
        let cold = self.cold(case);
        let (first, status) = self.capture(case);
        assert!(
            status.contains(r#""outcome":"captured""#),
            "{:?}: {status}\n{first:?}\n{}",
            self.command,
            self.log()
        );
        assert_eq!(first, cold, "the first run of {:?} {case:?}", self.command);
    }

    /// Runs it from its entry; fails the test if it is not restored.
    pub fn restored(&self, case: &Case) -> Outcome {
        let (outcome, status) = self.run_with(case, &["--require-warm"]);
        assert!(
            status.contains(r#""outcome":"restored""#),
            "{:?} {case:?}: {status}\n{outcome:?}",
            self.command
        );
        outcome
    }

    /// Holds a restored run against a cold one.
    pub fn compare(&self, case: &Case) {
        let cold = self.cold(case);
        let restored = self.restored(case);
        assert_eq!(restored, cold, "restored (left), cold (right): {:?} {case:?}", self.command);
    }

    /// Returns what `cache ls`, and the logs of captures, say.
    pub fn log(&self) -> String {
        let mut list = Command::new(support::binary());
        list.args(["cache", "ls"]).env("WARMSTART_CACHE_DIR", self.cache.path());
        let mut text = stdout(&list.output().unwrap());
        for log in fs::read_dir(self.cache.path().join("v1/logs")).into_iter().flatten().flatten() {
            text.push_str(&fs::read_to_string(log.path()).unwrap_or_default());
        }
        text
    }

    /// Returns what `cache show` says of the only entry.
    pub fn show(&self) -> String {
        let entries = self.cache.path().join("v1/entries");
        let mut names = fs::read_dir(entries).unwrap().flatten().map(|entry| entry.file_name());
        let id = names.next().expect("an entry");
        let mut show = Command::new(support::binary());
        show.args(["cache", "show"]).arg(id).env("WARMSTART_CACHE_DIR", self.cache.path());
        let output: Output = show.output().unwrap();
        stdout(&output)
    }
}

/// Compiles `tests/programs/Tools.java`, once; there may be no compiler.
pub fn classes() -> Option<PathBuf> {
    static CLASSES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let javac = support::javac()?;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools-classes");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/Tools.java");
        let mut compiler = Command::new(javac);
        compiler.args(["--release", "11", "-d"]).arg(&dir).arg(source);
        compiler.status().ok()?.success().then_some(dir)
    };
    CLASSES.get_or_init(compile).clone()
}

/// The programs of `Tools.java` on a JVM.
pub fn programs(jdk: &Jdk) -> Option<Tool> {
    let classes = classes()?;
    let java = jdk.java();
    let tool = Tool::new(&[java.to_str()?, "-Xshare:auto", "-cp", classes.to_str()?, "Tools"]);
    Some(tool.file("in.txt", "first line\nzweite Zeile: grüß €\n"))
}

/// Reads all files below a directory.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}
