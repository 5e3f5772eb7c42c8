//! Many restored runs of one tool at once, each on another input, are all
//! right: none of them sees another's, and none is refused.

#![allow(clippy::unwrap_used)]

mod support;
mod tooling;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Jdk, repetitions, stderr, stdout};
use tooling::{Case, Tool};

/// How many run at the same time.
const AT_ONCE: usize = 8;

/// A source file like no other of them, in what it declares and how much.
fn source(number: usize) -> String {
    let mut text = format!(
        "import java.util.function.*;\npublic class File{number} {{\n\
         \x20 static final String NAME = \"file {number}\";\n"
    );
    for method in 0..number % 7 + 1 {
        let _ = writeln!(
            text,
            "  static long m{method}(long x) {{ LongUnaryOperator f = y -> y * {number} + x; \
             return x > {method} ? f.applyAsLong(x) : m{method}(x + {}); }}",
            number + 1
        );
    }
    text.push_str(
        "  record Pair(int a, String b) { }\n  public static void main(String[] args) {\n",
    );
    let _ = writeln!(
        text,
        "    System.out.println(NAME + m0(args.length) + new Pair({number}, NAME));\n  }}\n}}"
    );
    text
}

/// The class files of a directory.
fn classes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let class = |path: &Path| path.extension().is_some_and(|extension| extension == "class");
    entries
        .filter(|entry| class(&entry.path()))
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// What became of one run.
struct Ran {
    took: Duration,
    /// How its pid was chosen, where it was restored.
    pids: String,
    /// What was wrong with it.
    wrong: Option<String>,
}

/// Compiles one file in a directory of its own, restored, and holds what comes
/// of it against what a cold javac made.
fn compile(tool: &Tool, number: usize, cold: &BTreeMap<String, Vec<u8>>) -> Ran {
    let dir = tool.root().join(format!("run {number}"));
    fs::create_dir_all(&dir).unwrap();
    let name = format!("File{number}");
    fs::write(dir.join(format!("{name}.java")), source(number)).unwrap();
    let status_file = tool.root().join(format!("status {number}"));
    let options = ["--no-capture", "--status-file", status_file.to_str().unwrap()];
    let args = ["-d", ".", &format!("{name}.java")];
    let mut command = tool.prepared(&dir, &options, &args);
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let took = began.elapsed();
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(&status_file).unwrap_or_default()).unwrap_or_default();
    let own =
        |class: &str| class.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['.', '$']));
    let expected: BTreeMap<_, _> =
        cold.iter().filter(|(class, _)| own(class)).map(|(a, b)| (a.clone(), b.clone())).collect();
    let mut wrong = Vec::new();
    if !output.status.success() {
        wrong.push(output.status.to_string());
    }
    if !(output.stdout.is_empty() && output.stderr.is_empty()) {
        wrong.push(format!("it printed {:?} {:?}", stdout(&output), stderr(&output)));
    }
    let made = classes(&dir);
    if made.is_empty() || made != expected {
        let (made, expected) = (made.keys(), expected.keys());
        wrong.push(format!("its class files are others: {made:?}, cold {expected:?}"));
    }
    if status["outcome"] != "restored" {
        wrong.push(format!("it was not restored: {status}"));
    }
    fs::remove_dir_all(&dir).unwrap();
    let wrong = (!wrong.is_empty()).then(|| format!("run {number}: {}", wrong.join(", ")));
    Ran { took, pids: status["pids"].to_string(), wrong }
}

fn many_of(jdk: &Jdk) {
    let count = repetitions(16);
    let javac = jdk.javac().unwrap();
    let mut tool = Tool::new(&[javac.to_str().unwrap()])
        .file("Hello.java", "class Hello { public static void main(String[] a) { } }\n");
    tool.options.push("--train=2".into());
    tool.must_capture(&Case::new(&["-d", "out", "Hello.java"]));

    let sources = tool.root().join("cold");
    fs::create_dir(&sources).unwrap();
    let mut javac = Command::new(&tool.command[0]);
    javac.args(["-d", "."]);
    for number in 0..count {
        let name = format!("File{number}.java");
        fs::write(sources.join(&name), source(number)).unwrap();
        javac.arg(name);
    }
    tool.surround(&mut javac, &sources);
    let began = Instant::now();
    assert!(javac.status().unwrap().success());
    eprintln!("javac {}: {count} files in one cold run: {:?}", jdk.release, began.elapsed());
    let cold = classes(&sources);
    assert!(cold.len() > count, "{}", cold.len());

    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let ran = compile(&tool, number, &cold);
                    runs.lock().unwrap().push(ran);
                }
            });
        }
    });
    let whole = began.elapsed();
    let runs = runs.into_inner().unwrap();
    assert_eq!(runs.len(), count);
    let mut times: Vec<Duration> = runs.iter().map(|ran| ran.took).collect();
    times.sort_unstable();
    let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
    for ran in &runs {
        *ways.entry(&ran.pids).or_default() += 1;
    }
    let wrong: Vec<&str> = runs.iter().filter_map(|ran| ran.wrong.as_deref()).collect();
    eprintln!(
        "javac {}: {count} restored runs, {AT_ONCE} at a time: {whole:?}; each {:?} (median), \
         {:?} to {:?}; pids by {ways:?}; {} wrong",
        jdk.release,
        times[count / 2],
        times[0],
        times[count - 1],
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Both one after the other: each has the machine for itself.
#[test]
fn every_restored_javac_is_right() {
    let jdks = support::full_jdks();
    let mut tried = 0;
    for jdk in jdks.iter().filter(|jdk| [17, 25].contains(&jdk.release)) {
        many_of(jdk);
        tried += 1;
    }
    if tried == 0 {
        skip!("there is neither a JDK 17 nor a JDK 25 with a compiler");
    }
}
