//! The JVM agent, in every JVM of this machine, without any snapshot: a run
//! that was held before `main`, trained or not, leaves what a cold run leaves.
#![allow(clippy::unwrap_used)]

mod agent {
    pub mod trainer;
}
mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;
use warmstart::jvm::agent::{End, How, Order, Report};

use agent::trainer::{Outcome, Run, Start, WAIT_MS, os};
use support::{Jdk, full_jdks, javac, jdks};

/// Compiles `Tool` once for all tests.
fn classes() -> Option<&'static Path> {
    static CLASSES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let classes = CLASSES.get_or_init(|| {
        let javac = javac()?;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-classes");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/Tool.java");
        let mut command = Command::new(javac);
        command.args(["--release", "11", "-Xlint:-options", "-d"]).arg(&dir).arg(source);
        assert!(command.status().unwrap().success());
        Some(dir)
    });
    classes.as_deref()
}

fn tool(jdk: &Jdk, classes: &Path) -> Start {
    Start::new(jdk.java(), &["-cp".as_ref(), classes.as_os_str(), "Tool".as_ref()])
}

/// A directory with a file in it, under its real path.
fn directory() -> (TempDir, PathBuf) {
    let dir = support::cache();
    let path = dir.path().canonicalize().unwrap();
    fs::write(path.join("here.txt"), "in the right directory").unwrap();
    (dir, path)
}

/// Does something for each JVM; skips where there is none, or no compiler.
macro_rules! each_jvm {
    ($start:ident => $body:block) => {{
        let Some(classes) = classes() else { skip!("there is no javac") };
        let mut jdks = jdks();
        if jdks.is_empty() {
            skip!("there is no JVM");
        }
        // Nothing is done otherwise in those between the oldest and the newest;
        // the tests of captures at main have them.
        if support::repetitions(1) < 2 && jdks.len() > 2 {
            jdks.sort_by_key(|jdk| jdk.release);
            jdks.drain(1..jdks.len() - 1);
        }
        for jdk in jdks {
            eprintln!("with {}", jdk.home.display());
            let $start = tool(&jdk, classes);
            $body
        }
    }};
}

/// Asserts that a run that was held, and one that was trained with other
/// arguments elsewhere, are equal to a cold one.
fn assert_as_cold(start: &Start, args: &[&str], training: &[&str]) {
    let (_cold, cwd) = directory();
    let (_other, elsewhere) = directory();
    let run = Run::new(&cwd, args);
    let cold = start.cold(&run);

    let mut held = start.hold();
    assert!(held.main().arguments.is_empty());
    held.prepare();
    assert_eq!(held.deliver(&run), cold, "held, {args:?}");

    let mut held = start.hold();
    let mut other = Run::new(&elsewhere, training);
    other.env[0].1 = "for training".into();
    for _ in 0..3 {
        let (end, _) = held.train(&other);
        assert_ne!(end.how, How::Refused, "{} {}", end.reason, held.text());
    }
    held.prepare();
    assert_eq!(held.deliver(&run), cold, "trained, {args:?}");
}

#[test]
fn arguments_environment_and_directory_are_those_of_the_day() {
    each_jvm!(start => {
        // A variable that the static initialiser reads keeps training's value,
        // as static state does; without training there is none.
        let (_dir, cwd) = directory();
        let args = ["show", "a b", "\"q\" 'r' \\", "", "ünï ✓", "*", "@none"];
        let run = Run::new(&cwd, &args);
        let cold = start.cold(&run);
        let mut held = start.hold();
        held.prepare();
        assert_eq!(held.deliver(&run), cold);

        let mut held = start.hold();
        for _ in 0..3 {
            let (end, outcome) = held.train(&run);
            assert_eq!((end.how, end.code), (How::Returned, 0));
            assert_eq!(outcome, cold, "while training");
        }
        held.prepare();
        assert_eq!(held.deliver(&run), cold);
    });
}

#[test]
fn an_environment_that_was_read_before_is_read_again() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let (_other, elsewhere) = directory();
        // Read by the JDK while training; `EARLY` stays null then.
        let mut training = Run::new(&elsewhere, &["show"]);
        training.env.clear();
        let mut run = Run::new(&cwd, &["show", "x"]);
        run.env.extend((0..100).map(|n| (format!("V{n}").into(), format!("{n}").into())));
        run.env.push(("EMPTY".into(), "".into()));
        run.env.push(("EQUALS".into(), "a=b=c".into()));
        let mut held = start.hold();
        assert_eq!(held.train(&training).0.how, How::Returned);
        held.prepare();
        let outcome = held.deliver(&run);
        let mut cold = start.cold(&run);
        // The static initialiser ran while training.
        let text = String::from_utf8(cold.stdout).unwrap();
        cold.stdout = text.replacen("hello, wörld hello", "null hello", 1).into_bytes();
        assert_eq!(outcome, cold);
    });
}

#[test]
fn bytes_that_are_no_text_are_passed_on() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let cwd = cwd.join(os(b"caf\xe9"));
        fs::create_dir(&cwd).unwrap();
        fs::write(cwd.join("here.txt"), "x").unwrap();
        let mut run = Run::new(&cwd, &["count"]);
        run.args.push(os(b"\xff\xfe"));
        run.env.push((os(b"X\xff"), os(b"\xfe")));
        let cold = start.cold(&run);
        let mut held = start.hold();
        held.prepare();
        assert_eq!(held.deliver(&run), cold);
    });
}

#[test]
fn exits_are_as_cold() {
    each_jvm!(start => {
        assert_as_cold(&start, &["exit", "42"], &["exit", "1"]);
        assert_as_cold(&start, &["exit", "-1"], &["halt", "1"]);
        assert_as_cold(&start, &["halt", "43"], &["exit", "0"]);
        assert_as_cold(&start, &["finally"], &["finally"]);
        assert_as_cold(&start, &["other"], &["other"]);
        assert_as_cold(&start, &["worker"], &["worker"]);
        assert_as_cold(&start, &["caught"], &["caught"]);
    });
}

#[test]
fn exceptions_are_as_cold() {
    each_jvm!(start => {
        assert_as_cold(&start, &["throw", "real"], &["throw", "training"]);
        assert_as_cold(&start, &["thread-throws", "real"], &["thread-throws", "training"]);
        assert_as_cold(&start, &["handler", "real"], &["handler", "training"]);
        assert_as_cold(&start, &["initializer"], &["show"]);
    });
}

#[test]
fn streams_are_as_cold() {
    each_jvm!(start => {
        assert_as_cold(&start, &["close"], &["close"]);
        assert_as_cold(&start, &["names"], &["redirect"]);
        assert_as_cold(&start, &["unflushed"], &["unflushed"]);
        assert_as_cold(&start, &["exit", "0"], &["descriptor"]);
        let start = Start { stdin: b"one\ntwo\n".to_vec(), ..start };
        assert_as_cold(&start, &["stdin"], &["count"]);
    });
}

#[test]
fn threads_hooks_and_files_are_as_cold() {
    each_jvm!(start => {
        assert_as_cold(&start, &["hooks", "real"], &["hooks", "training"]);
        assert_as_cold(&start, &["hooks", "real", "exit"], &["hooks", "training", "exit"]);
        assert_as_cold(&start, &["daemon"], &["daemon"]);
        assert_as_cold(&start, &["late", "real"], &["late", "training"]);
        assert_as_cold(&start, &["temporary"], &["temporary"]);
        assert_as_cold(&start, &["names"], &["names"]);
        assert_as_cold(&start, &["child", "real"], &["child", "training"]);
    });
}

/// A hook that a static initialiser registers is registered once in a JVM's
/// life: in a training. It must still run, once, at the end of the real run.
#[test]
fn shutdown_hooks_of_static_initialisers_are_kept() {
    each_jvm!(start => {
        assert_as_cold(&start, &["static-hook"], &["static-hook"]);
        let (_dir, cwd) = directory();
        let run = |args: &[&str]| Run::new(&cwd, args);

        // A lock file that is left shows that the loggers' hook is lost.
        let mut held = start.hold();
        held.train(&run(&["logging", "training.log"]));
        held.prepare();
        let outcome = held.deliver(&run(&["logging", "real.log"]));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(cwd.join("real.log").exists());
        assert!(!cwd.join("real.log.lck").exists());

        // One run does not tell which kind of hook it was.
        let mut held = start.hold();
        held.train(&run(&["hooks", "x"]));
        held.train(&run(&["show"]));
        held.order(&Order::Prepare { settle_ms: 0 });
        let Some(Report::End(end)) = held.report() else { panic!("no end: {}", held.text()) };
        assert_eq!(end.how, How::Refused);
        assert!(end.reason.contains("shutdown hook"), "{}", end.reason);
        // A second run does.
        held.train(&run(&["hooks", "x"]));
        held.prepare();
        let run = run(&["hooks", "real"]);
        assert_eq!(held.deliver(&run), start.cold(&run));
    });
}

#[test]
fn defaults_that_a_training_changed_are_put_back() {
    each_jvm!(start => {
        assert_as_cold(&start, &["defaults", "real"], &["defaults", "training"]);
        let mut start = start;
        start.options.insert(0, "-Dtool.property=option".into());
        start.options.insert(0, "-Duser.dir=/usr".into());
        assert_as_cold(&start, &["defaults", "real"], &["defaults", "training"]);
    });
}

/// The other side of the fidelity check: the agent does not hide state.
#[test]
fn static_state_shows() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let run = Run::new(&cwd, &["count"]);
        let mut held = start.hold();
        for count in 1..4 {
            let (_, outcome) = held.train(&run);
            let text = String::from_utf8(outcome.stdout).unwrap();
            assert_eq!(text, format!("run {count} early hello, wörld\n"));
        }
    });
}

#[test]
fn how_a_training_ended_is_told() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let mut held = start.hold();
        let mut ends = |args: &[&str]| {
            let (End { how, code, reason }, _) = held.train(&Run::new(&cwd, args));
            (how, code, reason)
        };
        let plain = String::new;
        assert_eq!(ends(&["show"]), (How::Returned, 0, plain()));
        assert_eq!(ends(&["exit", "7"]), (How::Exited, 7, plain()));
        assert_eq!(ends(&["halt", "8"]), (How::Exited, 8, plain()));
        assert_eq!(ends(&["caught"]), (How::Exited, 0, plain()));
        assert_eq!(ends(&["throw", "x"]), (How::Uncaught, 1, plain()));
        assert_eq!(ends(&["handler", "x"]), (How::Exited, 6, plain()));
        assert_eq!(ends(&["other"]), (How::Stopped, 4, plain()));
        assert_eq!(ends(&["worker"]), (How::Stopped, 5, plain()));
        assert_eq!(ends(&["daemon"]), (How::Returned, 0, plain()));
        let (how, _, reason) = ends(&["left"]);
        assert_eq!(how, How::Refused);
        let mut names: Vec<&str> =
            reason.strip_prefix("left 2 threads running: ").expect(&reason).split(", ").collect();
        names.sort_unstable();
        assert_eq!(names, ["worker-1", "worker-2"]);
    });
}

/// What training writes is what a cold run writes: the trainer compares them.
#[test]
fn training_writes_what_a_cold_run_writes() {
    each_jvm!(start => {
        let mut held = start.hold();
        for args in [
            &["throw", "x"][..],
            &["thread-throws", "x"],
            &["close"],
            &["redirect"],
            &["unflushed"],
            &["other"],
            &["worker"],
            &["exit", "3"],
            &["late", "x"],
            &["names"],
            &["child", "x"],
            &["defaults", "x"],
            &["temporary"],
        ] {
            let (_dir, cwd) = directory();
            let run = Run::new(&cwd, args);
            assert_eq!(held.train(&run).1, start.cold(&run), "{args:?}");
            assert!(!cwd.join("temporary.txt").exists());
        }
    });
}

#[test]
fn a_main_that_goes_on_after_its_exit_is_refused() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let mut held = start.hold();
        let (end, _) = held.train(&Run::new(&cwd, &["catch"]));
        assert_eq!((end.how, &*end.reason), (How::Refused, "the program goes on after its exit"));
        assert_eq!(held.abandon().code, Some(70));
    });
}

#[test]
fn a_directory_that_cannot_be_entered_is_refused() {
    each_jvm!(start => {
        let mut held = start.hold();
        let (end, _) = held.train(&Run::new(Path::new("/nonexistent/x"), &["show"]));
        assert_eq!((end.how, &*end.reason), (How::Refused, "cannot enter /nonexistent/x"));
    });
}

#[test]
fn the_jvm_ends_with_its_trainer() {
    each_jvm!(start => {
        let run = Run::new(Path::new("/"), &["hooks", "x"]);
        // Held; trained; prepared: nothing of the program runs.
        for step in 0..3 {
            let mut held = start.hold();
            if step > 0 {
                held.train(&run);
                held.train(&run);
            }
            if step > 1 {
                held.prepare();
            }
            let before = held.text();
            let outcome = held.abandon();
            assert_eq!((outcome.code, outcome.signal), (Some(70), None));
            let after = [outcome.stdout, outcome.stderr].concat();
            assert_eq!(String::from_utf8(after).unwrap(), before);
        }
    });
}

#[test]
fn an_order_of_another_version_ends_the_jvm() {
    each_jvm!(start => {
        let mut held = start.hold();
        // A list of which half is missing.
        held.raw(&[6, 0, 0, 0, b'L', 9, 0, 0, 0, 0]);
        assert_eq!(held.ends().code, Some(70));
    });
}

#[test]
fn while_prepared_the_process_stands_still() {
    each_jvm!(start => {
        let mut held = start.hold();
        held.train(&Run::new(Path::new("/usr"), &["show"]));
        held.prepare();
        let proc = PathBuf::from(format!("/proc/{}", held.pid()));
        assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
        let mut opened = BTreeMap::new();
        for entry in fs::read_dir(proc.join("fd")).unwrap() {
            let path = entry.unwrap().path();
            let target = fs::read_link(&path).unwrap();
            *opened.entry(target).or_insert(0) += 1;
        }
        // No copy of 0, 1 or 2 is left, and one end of the socket.
        for fd in 0..3 {
            let target = fs::read_link(proc.join(format!("fd/{fd}"))).unwrap();
            assert_eq!(opened[&target], 1, "{opened:?}");
        }
        let sockets = opened.keys().filter(|path| path.to_string_lossy().starts_with("socket:"));
        assert_eq!(sockets.count(), 1, "{opened:?}");
        // Some thread, the main one, reads it: system call 0 of descriptor 9.
        let reads = |task: fs::DirEntry| {
            let call = fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            call.starts_with("0 0x9 ")
        };
        let tasks = || fs::read_dir(proc.join("task")).unwrap().map(Result::unwrap);
        let end = std::time::Instant::now() + agent::trainer::PATIENCE;
        while tasks().filter_map(|task| reads(task).then_some(())).count() != 1 {
            assert!(std::time::Instant::now() < end, "nobody reads");
        }
    });
}

#[test]
fn nothing_happens_where_main_is_not_reached() {
    each_jvm!(start => {
        let options: [&[&OsStr]; 3] = [
            &["-version".as_ref()],
            &["-cp".as_ref(), "/nonexistent".as_ref(), "NoSuchClass".as_ref()],
            &["--dry-run".as_ref(), "-cp".as_ref(), start.options[1].as_ref(), "Tool".as_ref()],
        ];
        for options in options {
            let start = Start::new(start.program.clone(), options);
            let cold = start.cold(&Run { cwd: "/tmp".into(), ..Run::default() });
            let mut held = start.spawn();
            assert!(matches!(held.report(), Some(Report::Hello { .. })));
            assert_eq!(held.ends(), cold);
        }
    });
}

#[test]
fn every_way_of_launching_is_held() {
    let jdks = full_jdks();
    if jdks.is_empty() {
        skip!("there is no JDK");
    }
    let Some(classes) = classes() else { skip!("there is no javac") };
    for jdk in jdks {
        let (_dir, dir) = directory();
        let run = |tool: &str, args: &[&OsStr]| {
            let status = Command::new(jdk.home.join("bin").join(tool)).args(args).status();
            assert!(status.unwrap().success(), "{tool} {args:?}");
        };
        let jar = dir.join("tool.jar");
        let (jar_os, classes) = (jar.as_os_str(), classes.as_os_str());
        run(
            "jar",
            &["cfe".as_ref(), jar_os, "Tool".as_ref(), "-C".as_ref(), classes, ".".as_ref()],
        );
        let module = dir.join("module");
        fs::create_dir_all(module.join("p")).unwrap();
        fs::write(module.join("module-info.java"), "module m { }").unwrap();
        let main = "package p; public class Main { public static void main(String[] a) \
                    { System.out.println(String.join(\"|\", a) + System.getenv(\"GREETING\")); } }";
        fs::write(module.join("p/Main.java"), main).unwrap();
        let (info, source) = (module.join("module-info.java"), module.join("p/Main.java"));
        let mods = dir.join("mods");
        run("javac", &["-d".as_ref(), mods.as_ref(), info.as_ref(), source.as_ref()]);

        let java = jdk.java();
        let args = ["show", "a b", "ü"];
        let mut starts = vec![
            Start::new(java.clone(), &["-jar".as_ref(), jar_os]),
            Start::new(
                java.clone(),
                &["-p".as_ref(), mods.as_ref(), "-m".as_ref(), "m/p.Main".as_ref()],
            ),
            Start::new(java.clone(), &["-Xcheck:jni".as_ref(), "-jar".as_ref(), jar_os]),
            Start::new(
                java.clone(),
                &["-Xint".as_ref(), "-Xshare:off".as_ref(), "-jar".as_ref(), jar_os],
            ),
        ];
        if jdk.release >= 25 {
            let mains = [
                ("Instance", "void main(String[] a) { IO.println(String.join(\"|\", a)); }"),
                (
                    "Nothing",
                    "void main() { IO.println(System.getenv(\"GREETING\")); System.exit(3); }",
                ),
                ("Static", "static void main() { IO.println(1); throw new Error(); }"),
            ];
            for (name, text) in mains {
                let file = dir.join(format!("{name}.java"));
                let early =
                    "static final String E = System.getenv(\"GREETING\"); { IO.println(E); }";
                fs::write(&file, format!("class {name} {{ {early} {text} }}")).unwrap();
                run("javac", &["-d".as_ref(), dir.as_ref(), file.as_ref()]);
                starts
                    .push(Start::new(java.clone(), &["-cp".as_ref(), dir.as_ref(), name.as_ref()]));
            }
        }
        for start in starts {
            assert_as_held(&start, &args, "");
        }
        let start = Start::new(java, &[source.as_ref()]);
        assert_as_held(&start, &args, source.to_str().unwrap());
    }
}

/// Asserts that a held run is equal to a cold one, and what the launcher passes
/// by itself.
fn assert_as_held(start: &Start, args: &[&str], prefix: &str) {
    let (_dir, cwd) = directory();
    let run = Run::new(&cwd, args);
    let mut held = start.hold();
    assert_eq!(held.main().arguments.join("".as_ref()), prefix);
    held.prepare();
    let mut outcome = held.deliver(&run);
    let mut cold = start.cold(&run);
    if start.options[0] == "-Xcheck:jni" {
        // It warns of the launcher itself, and of local references in plenty.
        outcome.stdout = without_warnings(&outcome.stdout);
        cold.stdout = without_warnings(&cold.stdout);
    }
    assert_eq!(outcome, cold, "{:?}", start.options);
}

fn without_warnings(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let kept = text.lines().filter(|line| !line.starts_with("WARNING") && !line.starts_with('\t'));
    kept.collect::<Vec<_>>().join("\n").into_bytes()
}

#[test]
fn javac_is_held_trained_and_right() {
    let jdks = full_jdks();
    if jdks.is_empty() {
        skip!("there is no JDK");
    }
    for jdk in jdks {
        let mut start = Start::new(jdk.javac().unwrap(), &[]);
        start.prefix = "-J";
        let (_dir, dir) = directory();
        let write = |name: &str, text: &str| {
            let text = format!("class {name} {{ {text} }}");
            fs::write(dir.join(format!("{name}.java")), text).unwrap();
        };
        write("One", "int f() { return 1; }");
        write(
            "Two",
            "java.util.function.Supplier<String> f() { return () -> \"two\" + hashCode(); }",
        );
        write("Wrong", "int f() { return \"\"; }");
        let mut held = start.hold();
        for _ in 0..3 {
            let (end, _) = held.train(&Run::new(&dir, &["-d", "training", "One.java"]));
            assert_eq!((end.how, end.code), (How::Exited, 0));
        }
        // An error, and an order that finds a trained JVM again.
        let wrong = Run::new(&dir, &["Wrong.java"]);
        let (end, outcome) = held.train(&wrong);
        assert_eq!((end.how, end.code), (How::Exited, 1));
        assert_eq!(outcome, start.cold(&wrong));
        held.prepare();
        let run = Run::new(&dir, &["-d", "out", "Two.java"]);
        let outcome = held.deliver(&run);
        let warm = fs::read(dir.join("out/Two.class")).unwrap();
        assert_eq!(outcome, start.cold(&run));
        assert_eq!(warm, fs::read(dir.join("out/Two.class")).unwrap());
        assert!(dir.join("training/One.class").exists());
    }
}

/// The middle way: classes of a training are linked in another JVM, in which
/// none of their code has run.
#[test]
fn recorded_classes_are_linked_and_not_initialised() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let run = Run::new(&cwd, &["random"]);
        let mut held = start.hold();
        held.train(&run);
        held.order(&Order::Classes);
        let Some(Report::Classes(mut names)) = held.report() else { panic!("no classes") };
        let has = |name: &str| names.iter().any(|known| known == name.as_bytes());
        assert!(has("Tool") && has("java/util/UUID") && has("java/lang/Object"));
        let strange = |name: &Vec<u8>| {
            let text = String::from_utf8_lossy(name).into_owned();
            text.contains("Lambda$") || text.contains('.') || text.starts_with('[') || text == "int"
        };
        let found: Vec<_> = names.iter().filter(|name| strange(name)).collect();
        assert!(found.is_empty(), "{:?}", found.iter().map(|name| os(name)).collect::<Vec<_>>());

        let count = names.len();
        names.push(b"no/such/Class".to_vec());
        names.push(b"".to_vec());
        names.push(b"\xff\xfe".to_vec());
        let mut held = start.hold();
        held.order(&Order::Link(names));
        let Some(Report::End(end)) = held.report() else { panic!("no end: {}", held.text()) };
        assert_eq!((end.how, &*end.reason), (How::Returned, ""));
        let linked = usize::try_from(end.code).unwrap();
        // Some are in packages that only their own loader can see.
        assert!(linked <= count && linked > count * 9 / 10, "{linked} of {count}");
        held.prepare();
        // `Tool` was linked, yet its initialiser reads today's environment.
        let run = Run::new(&cwd, &["count"]);
        let outcome = held.deliver(&run);
        assert_eq!(outcome, start.cold(&run));
        assert_eq!(outcome.stdout, "run 1 early hello, wörld\n".as_bytes());
    });
}

/// Two copies of one JVM must not draw the same numbers. There is no copy here,
/// so the seeds themselves are looked at, before and after a delivery.
#[test]
fn seeds_are_not_frozen() {
    each_jvm!(start => {
        let (_dir, cwd) = directory();
        let mut start = start;
        for package in ["java.lang", "java.util", "java.util.concurrent", "sun.security.provider"] {
            start.options.insert(0, format!("--add-opens=java.base/{package}=ALL-UNNAMED").into());
        }
        let mut held = start.hold();
        let random = Run::new(&cwd, &["random"]);
        assert_eq!(held.train(&random).0.how, How::Returned);
        let run = Run::new(&cwd, &["seeds"]);
        let seeds = |outcome: Outcome| -> BTreeMap<String, String> {
            assert_eq!((outcome.code, &*outcome.stderr), (Some(0), &b""[..]), "{outcome:?}");
            let text = String::from_utf8(outcome.stdout).unwrap();
            let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            text.lines().filter_map(pair).collect()
        };
        let trained = seeds(held.train(&run).1);
        assert_eq!(trained.len(), 7, "{trained:?}");
        // They stay as long as nobody draws.
        assert_eq!(seeds(held.train(&run).1), trained);
        held.prepare();
        let real = seeds(held.deliver(&run));
        for (name, seed) in &trained {
            assert_ne!(real.get(name), Some(seed), "{name}");
        }
        assert_eq!(real.len(), trained.len());

        // All generators work with what they were given.
        let mut held = start.hold();
        held.train(&random);
        held.prepare();
        let outcome = held.deliver(&random);
        assert_eq!((outcome.code, &*outcome.stderr), (Some(0), &b""[..]), "{outcome:?}");
        assert_eq!(String::from_utf8(outcome.stdout).unwrap().lines().count(), 8);
    });
}

#[test]
fn an_option_that_names_no_descriptor_changes_nothing() {
    each_jvm!(start => {
        let dir = support::cache();
        let library = warmstart::jvm::agent::install(dir.path()).unwrap();
        let run = Run::new(Path::new("/usr"), &["exit", "3"]);
        let cold = start.cold(&run);
        for option in ["", "=", "=x", "=-", "=99999999999999999999"] {
            let mut start = start.clone();
            start.options.insert(0, format!("-agentpath:{}{option}", library.display()).into());
            assert_eq!(start.cold(&run), cold, "{option}");
        }
    });
}

/// A leftover of `WAIT_MS` would make each of these tests slow.
#[test]
fn trainings_do_not_wait_for_nothing() {
    each_jvm!(start => {
        let mut held = start.hold();
        let run = Run::new(Path::new("/usr"), &["count"]);
        held.train(&run);
        let began = std::time::Instant::now();
        (0..3).for_each(|_| assert_eq!(held.train(&run).0.how, How::Returned));
        assert!(began.elapsed().as_millis() < u128::from(WAIT_MS), "{:?}", began.elapsed());
    });
}

/// Reads `pub const NAME: usize = NUMBER;` of a source of the agent.
fn slots(source: &str) -> Vec<(String, usize)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent").join(source);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.trim().strip_prefix("pub const ")?.split_once(": usize = ")?;
        Some((name.to_owned(), rest.strip_suffix(';')?.parse().ok()?))
    });
    lines.collect()
}

/// Returns the members of a table of functions in a header, in their order.
fn members(header: &str, from: &str, to: &str) -> Vec<String> {
    let body = header.split_once(from).unwrap().1.split_once(to).unwrap().0;
    // Comments hold no semicolons that count.
    let mut code = String::new();
    for (index, part) in body.split("/*").enumerate() {
        code += if index == 0 { part } else { part.split_once("*/").unwrap().1 };
    }
    let name = |member: &str| {
        let after = member.split_once("JNICALL *").map(|(_, rest)| rest.split(')').next());
        after.flatten().map(|name| name.trim().to_owned())
    };
    let members = code.split(';').filter(|member| !member.trim().is_empty());
    members
        .filter(|member| !member.trim_start().starts_with('#'))
        .map(|member| name(member).unwrap_or_else(|| "reserved".into()))
        .collect()
}

#[test]
fn the_tables_are_those_of_the_headers() {
    let jdks: Vec<Jdk> =
        full_jdks().into_iter().filter(|jdk| jdk.home.join("include/jni.h").exists()).collect();
    if jdks.is_empty() {
        skip!("no JDK here has headers");
    }
    for jdk in jdks {
        let header = |name: &str| fs::read_to_string(jdk.home.join("include").join(name)).unwrap();
        let jni = members(&header("jni.h"), "struct JNINativeInterface_ {", "\n};");
        let jvmti = members(
            &header("jvmti.h"),
            "typedef struct jvmtiInterface_1_ {",
            "} jvmtiInterface_1;",
        );
        for (source, members) in [("jni.rs", jni), ("jvmti.rs", jvmti)] {
            let slots = slots(source);
            assert!(slots.len() > 10, "{source} has no table");
            for (name, slot) in slots {
                assert_eq!(members.get(slot), Some(&name), "{source}: {name}");
            }
        }
    }
}
