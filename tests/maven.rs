//! A Maven build through a shim directory (`warmstart setup --shim`) comes to
//! the same as without: files, exit status, and output apart from times.
//!
//! Maven and its plugins are those of Debian, below `/usr/share/maven-repo`.

#![allow(clippy::unwrap_used)]

mod support;
mod tooling;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use regex::Regex;
use support::{repetitions, stderr, stdout};
use tempfile::TempDir;
use tooling::Outcome;

/// What Debian has Maven's artifacts in.
const REPOSITORY: &str = "/usr/share/maven-repo";
/// The packages of what the build takes, and where they put it.
const NEEDED: [(&str, &str); 5] = [
    ("maven", "/usr/bin/mvn"),
    ("libmaven-compiler-plugin-java", "org/apache/maven/plugins/maven-compiler-plugin/3.10.1"),
    ("libmaven-resources-plugin-java", "org/apache/maven/plugins/maven-resources-plugin/3.3.0"),
    ("libmaven-jar-plugin-java", "org/apache/maven/plugins/maven-jar-plugin/3.3.0"),
    // Poms of the others name it.
    ("junit5", "org/junit/junit-bom/debian"),
];

/// A build, with and without the shim.
struct Build {
    root: TempDir,
    jdk: PathBuf,
}

impl Build {
    /// Prepares a project and a repository of its own, filled from Debian's.
    fn new() -> Result<Self, String> {
        for (package, path) in NEEDED {
            if !Path::new(REPOSITORY).join(path).exists() {
                return Err(format!("there is no {path} (package {package})"));
            }
        }
        let jdk = support::full_jdks().into_iter().find(|jdk| jdk.release >= 17);
        let jdk = jdk.ok_or("there is no JDK 17 or later with a compiler")?.home;
        let build = Self { root: support::cache(), jdk };
        let settings = format!(
            "<settings><mirrors><mirror><id>debian</id><mirrorOf>*</mirrorOf>\
             <url>file://{REPOSITORY}</url></mirror></mirrors></settings>"
        );
        fs::write(build.path("settings.xml"), settings).unwrap();
        let first = build.run(&build.jdk, &["process-classes"], |_| {});
        assert_eq!(first.status, "exit status: 0", "{}", first.stdout);
        Ok(build)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes the project anew, as it is before each build.
    fn renew(&self, change: impl Fn(&Path)) -> PathBuf {
        let project = self.path("project");
        let _ = fs::remove_dir_all(&project);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/maven");
        assert!(Command::new("cp").arg("-r").arg(source).arg(&project).status().unwrap().success());
        change(&project);
        project
    }

    /// Runs a build with this JAVA_HOME.
    fn run(&self, home: &Path, args: &[&str], change: impl Fn(&Path)) -> Outcome {
        self.timed(home, args, change).0
    }

    fn timed(&self, home: &Path, args: &[&str], change: impl Fn(&Path)) -> (Outcome, Duration) {
        let project = self.renew(change);
        let mut maven = Command::new("mvn");
        maven
            .args(["-B", "-s"])
            .arg(self.path("settings.xml"))
            .arg(format!("-Dmaven.repo.local={}", self.path("repository").display()))
            .args(args)
            .current_dir(&project)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("LANG", "C.UTF-8")
            .env("JAVA_HOME", home)
            .env("WARMSTART_CACHE_DIR", self.path("cache"))
            .stdin(Stdio::null());
        let began = Instant::now();
        let output = maven.output().unwrap();
        let took = began.elapsed();
        let outcome = Outcome {
            status: output.status.to_string(),
            stdout: without_times(&stdout(&output)),
            stderr: without_times(&stderr(&output)),
            files: tooling::files(&project),
        };
        (outcome, took)
    }

    /// Makes a shim with these options of a run; each has its own directory.
    fn shim(&self, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.path(name);
        let mut setup = Command::new(support::binary());
        setup.args(["setup", "--shim"]).arg(&dir).arg("--").args(options);
        let output = setup.env("JAVA_HOME", &self.jdk).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        dir
    }

    /// What became of the last run, by its status file.
    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("status")).unwrap_or_default())
            .unwrap_or_default()
    }
}

/// Takes the two lines out in which any two builds differ.
fn without_times(text: &str) -> String {
    let times = r"(?m)^(\[INFO\] (?:Total time:  |Finished at: )).*$";
    Regex::new(times).unwrap().replace_all(text, "${1}TIME").into_owned()
}

/// An error in one file, which the first build has not seen.
fn break_it(project: &Path) {
    let file = project.join("src/main/java/demo/Name.java");
    let text = fs::read_to_string(&file).unwrap().replace("text + \"!\"", "text +");
    fs::write(file, text).unwrap();
}

/// Holds builds through a shim with these options against cold ones; the first,
/// which is captured, has these goals.
fn hold_against_cold(options: &[&str], first: &[&str]) {
    let build = match Build::new() {
        Ok(build) => build,
        Err(missing) => skip!("{missing}"),
    };
    let status = build.path("status");
    let status = ["--status-file", status.to_str().unwrap()];
    let capturing = build.shim("capturing", &[options, &status, &["--wait"]].concat());
    let shim = build.shim("shim", &[options, &status, &["--require-warm"]].concat());
    let nothing = |_: &Path| {};
    let goals = ["-o", "process-classes"];

    let cold = build.run(&build.jdk, &goals, nothing);
    if repetitions(1) > 1 {
        assert_eq!(cold, build.run(&build.jdk, &goals, nothing), "two cold builds differ");
    }
    assert!(cold.files.contains_key("target/greeter-1.0.jar"), "{}", cold.stdout);
    let captured = build.run(&capturing, first, nothing);
    if first == goals {
        assert_eq!(captured, cold, "the build that was captured");
    } else {
        let plain = build.run(&build.jdk, first, nothing);
        assert_eq!(captured, plain, "the build that was captured");
    }
    assert_eq!(build.status()["outcome"], "captured", "{}", build.status());
    assert_eq!(build.status()["reason"], serde_json::Value::Null, "{}", build.status());

    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..repetitions(1) {
        for (home, times) in [&build.jdk, &shim].into_iter().zip(&mut times) {
            let (outcome, took) = build.timed(home, &goals, nothing);
            assert_eq!(outcome, cold, "{}: {}", home.display(), build.status());
            times.push(took);
        }
        assert_eq!(build.status()["outcome"], "restored", "{}", build.status());
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let [cold_time, restored] = times.map(|times| times[times.len() / 2]);
    eprintln!("mvn {options:?}: {cold_time:?} cold, {restored:?} through the shim (medians)");

    let others = [
        (&goals[..], &break_it as &dyn Fn(&Path)),
        (&["-v"], &nothing),
        (&["-o", "-q", "compile"], &nothing),
        (&["-o", "no-such-phase"], &nothing),
    ];
    // An ordinary run of the tests has time for the first ones.
    let count = if repetitions(1) > 1 { others.len() } else { 2 };
    for (args, change) in &others[..count] {
        let cold = build.run(&build.jdk, args, change);
        assert_eq!(build.run(&shim, args, change), cold, "{args:?}: {}", build.status());
        assert_eq!(build.status()["outcome"], "restored", "{args:?}: {}", build.status());
    }
}

#[test]
fn a_maven_build_through_the_shim_is_the_same() {
    hold_against_cold(&[], &["-o", "process-classes"]);
}

/// Quiet in training: a build that says how long it took says something else
/// each time, and is not taken.
#[test]
#[ignore = "a minute: cargo test --release --test maven -- --ignored"]
fn a_trained_maven_build_is_the_same() {
    hold_against_cold(&["--train=2", "--train-dir=."], &["-o", "-q", "process-classes"]);
}
