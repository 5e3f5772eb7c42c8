//! Real tools do, restored, what they do cold: javac, the Closure compiler and
//! openapi-generator, with arguments, inputs and directories that neither the
//! capture nor a training has seen.

#![allow(clippy::unwrap_used)]

mod support;
mod tooling;

use std::fs;
use std::time::SystemTime;

use regex::bytes::{Captures, Regex};
use support::tools::{self, inputs};
use support::{Jdk, full_jdks};
use tooling::{Case, Outcome, Tool};

/// The JDKs that the tools are tried on.
fn jdks() -> Vec<Jdk> {
    full_jdks().into_iter().filter(|jdk| [17, 25].contains(&jdk.release)).collect()
}

/// The same for tools that run for seconds: an ordinary run of the tests has
/// time for the newest only.
fn jdks_for_slow_tools() -> Vec<Jdk> {
    let mut jdks = jdks();
    jdks.sort_by_key(|jdk| std::cmp::Reverse(jdk.release));
    if support::repetitions(1) == 1 {
        jdks.truncate(1);
    }
    jdks
}

fn case(words: &[&str]) -> Case {
    Case::new(words)
}

/// Takes out a warning of openapi-generator's: how often a cold run says it, and
/// when, is chance (the order of a set, which each JVM salts anew).
fn without_chance(outcome: &mut Outcome) {
    let chance = "[main] WARN  o.o.codegen.utils.ModelUtils - Failed to get the schema name: null";
    let lines = outcome.stdout.split_inclusive('\n');
    outcome.stdout = lines.filter(|line| line.trim_end() != chance).collect();
}

/// Replaces the moments that openapi-generator writes into what it generates,
/// which are not the same in two cold runs; fails unless each is of this run, and
/// not of a training.
fn mask_moments(outcome: &mut Outcome, began: SystemTime) {
    let moment = r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.\d+Z\[UTC\]";
    let moment = Regex::new(moment).unwrap();
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (began, ended) = (since(began), since(SystemTime::now()));
    for (name, content) in &mut outcome.files {
        let replace = |found: &Captures<'_>| {
            let number = |index: usize| -> u64 {
                std::str::from_utf8(&found[index]).unwrap().parse().unwrap()
            };
            let days = days_since_1970(number(1), number(2), number(3));
            let seconds = ((days * 24 + number(4)) * 60 + number(5)) * 60 + number(6);
            let text = String::from_utf8_lossy(&found[0]).into_owned();
            assert!((began..=ended).contains(&seconds), "{name}: {text} is not of this run");
            b"MOMENT".to_vec()
        };
        *content = moment.replace_all(content, replace).into_owned();
    }
}

/// Days from 1970 to a day of the Gregorian calendar.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469
}

#[test]
fn days_are_counted() {
    assert_eq!(days_since_1970(1970, 1, 1), 0);
    assert_eq!(days_since_1970(2000, 2, 29), 11_016);
    assert_eq!(days_since_1970(2026, 11, 22), 20_779);
}

/// How a tool is captured.
struct Way<'a> {
    /// Options beside `--at main`.
    options: &'a [&'a str],
    /// What the capture's own run does.
    first: Case,
}

/// Holds every case, restored from an image of each way, against cold runs. An
/// ordinary run of the tests has minutes only: it takes the last way, and looks
/// at each cold run once (`WARMSTART_REPEAT=2`: at all of it). Returns what the
/// cold runs came to.
fn hold_against_cold(what: &str, mut tool: Tool, cases: &[Case], ways: &[Way<'_>]) -> Vec<Outcome> {
    let is_thorough = support::repetitions(1) > 1;
    let ways = if is_thorough { ways } else { &ways[ways.len().saturating_sub(1)..] };
    let cold: Vec<Outcome> = cases
        .iter()
        .map(|case| {
            let run = || {
                let began = SystemTime::now();
                let mut outcome = tool.cold(case);
                mask_moments(&mut outcome, began);
                without_chance(&mut outcome);
                outcome
            };
            let one = run();
            if is_thorough {
                assert_eq!(one, run(), "two cold runs of {what} differ: {case:?}");
            }
            one
        })
        .collect();
    let usual = tool.options.clone();
    let mut differences = Vec::new();
    for Way { options, first } in ways {
        tool.options = usual.clone();
        tool.options.extend(options.iter().map(ToString::to_string));
        let (_, status) = tool.capture(first);
        let log = tool.log();
        assert!(status.contains(r#""outcome":"captured""#), "{what} {options:?}: {status}\n{log}");
        let reason = status.split_once(r#""reason":"#).map_or("", |(_, reason)| reason);
        let reason = reason.split(r#","app_pid""#).next().unwrap_or_default();
        eprintln!("{what} {options:?}: captured, reason {reason}");
        for (case, cold) in cases.iter().zip(&cold) {
            let began = SystemTime::now();
            let mut restored = tool.restored(case);
            mask_moments(&mut restored, began);
            without_chance(&mut restored);
            if let Some(difference) = difference(cold, &restored) {
                differences.push(format!("{what} {options:?} {:?}: {difference}", case.args));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    cold
}

/// Fails unless a run ended so, and wrote this to its output.
fn check(outcome: &Outcome, status: i32, text: &str) {
    assert_eq!(outcome.status, format!("exit status: {status}"), "{}", outcome.stderr);
    assert!(outcome.stdout.contains(text), "{}", outcome.stdout);
}

/// Says what a restored run did otherwise, in lines that can be read: whole
/// outcomes of a generator are megabytes.
fn difference(cold: &Outcome, restored: &Outcome) -> Option<String> {
    if cold == restored {
        return None;
    }
    let mut lines = Vec::new();
    for (name, cold, restored) in [
        ("status", &cold.status, &restored.status),
        ("stdout", &cold.stdout, &restored.stdout),
        ("stderr", &cold.stderr, &restored.stderr),
    ] {
        if cold != restored {
            lines.push(format!("{name}, cold:\n{cold}\nrestored:\n{restored}"));
        }
    }
    let names = cold.files.keys().chain(restored.files.keys());
    let mut names: Vec<_> =
        names.filter(|name| cold.files.get(*name) != restored.files.get(*name)).collect();
    names.sort();
    names.dedup();
    lines.extend(names.iter().map(|name| {
        let len = |outcome: &Outcome| outcome.files.get(*name).map(Vec::len);
        format!("{name}: {:?} bytes cold, {:?} restored", len(cold), len(restored))
    }));
    Some(lines.join("\n"))
}

/// Adds the inputs of the tools to what lies in their working directory.
fn with_inputs(mut tool: Tool) -> Tool {
    for entry in fs::read_dir(inputs()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        tool = tool.file(&name, fs::read(entry.path()).unwrap());
    }
    tool
}

/// A javac among sources.
fn javac(jdk: &Jdk) -> Tool {
    let javac = jdk.javac().unwrap();
    Tool::new(&[javac.to_str().unwrap()])
        .file("Hello.java", "class Hello { public static void main(String[] a) { } }\n")
        .file(
            "One.java",
            "import java.util.*;\npublic class One {\n  record Pair(String a, int b) {}\n\
             \x20 public static void main(String[] args) {\n\
             \x20   List<Pair> pairs = new ArrayList<>();\n\
             \x20   for (String arg : args) pairs.add(new Pair(arg, arg.length()));\n\
             \x20   pairs.stream().filter(p -> p.b() > 1).map(Pair::a).forEach(System.out::println);\n\
             \x20 }\n}\n",
        )
        .file(
            "shapes/Shape.java",
            "package shapes;\npublic sealed interface Shape permits Circle, Square {\n\
             \x20 double area();\n}\n",
        )
        .file(
            "shapes/Circle.java",
            "package shapes;\npublic record Circle(double r) implements Shape {\n\
             \x20 public double area() { return Math.PI * r * r; }\n}\n",
        )
        .file(
            "shapes/Square.java",
            "package shapes;\npublic record Square(double a) implements Shape {\n\
             \x20 public double area() { return a * a; }\n}\n",
        )
        .file(
            "Main.java",
            "import java.util.*;\nimport shapes.*;\npublic class Main {\n\
             \x20 enum Kind { ROUND, OTHER }\n\
             \x20 static Kind kind(Shape s) { return s instanceof Circle c && c.r() > 0 ? Kind.ROUND : Kind.OTHER; }\n\
             \x20 public static void main(String[] args) {\n\
             \x20   var all = new EnumMap<Kind, List<Shape>>(Kind.class);\n\
             \x20   for (Shape s : List.of(new Circle(1), new Square(2)))\n\
             \x20     all.computeIfAbsent(kind(s), k -> new ArrayList<>()).add(s);\n\
             \x20   switch (args.length) { case 0 -> System.out.println(all); default -> { } }\n\
             \x20   String text = \"\"\"\n      Grüße an €\n      \"\"\";\n\
             \x20   System.out.println(text);\n\
             \x20 }\n}\n",
        )
        .file(
            "Broken.java",
            "import java.util.*;\npublic class Broken {\n  int x = \"no number\";\n\
             \x20 List raw = new ArrayList();\n  void f() { raw.add(1); undefined(); return 1; }\n\
             \x20 // unmappable? grüß €\n  class Broken { }\n}\n",
        )
        .file("Syntax.java", "public class Syntax {\n  void f( { }\n  \"open\n")
        .file("arguments", "-d 'from file'\n-Xlint:all\nMain.java\nshapes/Shape.java\n")
        .file("recursive", "@arguments\n-nosuchoption\n")
}

#[test]
fn javac_does_what_it_does_cold() {
    let jdks = jdks();
    if jdks.is_empty() {
        skip!("there is neither a JDK 17 nor a JDK 25");
    }
    let cases = [
        case(&["One.java"]),
        case(&["-d", "classes", "One.java"]).dir("another directory"),
        case(&["-d", "into/deep", "Main.java", "shapes/Shape.java", "shapes/Circle.java"]),
        case(&["-Xlint:all", "-g", "-parameters", "Main.java"]).dir("elsewhere"),
        case(&["Broken.java"]),
        case(&["-Xlint:all", "-Xdiags:verbose", "Broken.java", "One.java"]).dir("elsewhere"),
        case(&["Syntax.java"]),
        case(&["NotThere.java"]),
        case(&["@arguments"]),
        case(&["@arguments", "One.java"]).dir("grüße"),
        case(&["@recursive"]),
        case(&["@not-there"]),
        case(&["--release", "11", "-d", "x", "Hello.java"]),
        case(&["-version"]),
        case(&["--help"]),
        case(&["--nonsense"]),
        case(&[]),
    ];
    // An ordinary run of the tests shares the cases out among the JDKs.
    let shares = if support::repetitions(1) > 1 { 1 } else { jdks.len() };
    for (index, jdk) in jdks.iter().enumerate() {
        let ways = [
            Way { options: &[], first: case(&["-version"]) },
            Way { options: &["--train=2"], first: case(&["-d", "trained", "Hello.java"]) },
        ];
        let mine = cases.iter().enumerate().filter(|(number, _)| number % shares == index % shares);
        let mine: Vec<Case> = mine.map(|(_, case)| case.clone()).collect();
        let cold = hold_against_cold(&format!("javac {}", jdk.release), javac(jdk), &mine, &ways);
        assert!(
            cold.iter().any(|outcome| outcome.files.keys().any(|name| name.ends_with(".class")))
        );
        assert!(cold.iter().any(|outcome| outcome.stderr.contains("error: ")));
    }
}

#[test]
fn closure_does_what_it_does_cold() {
    let jar = match tools::Tool::Closure.jar() {
        Ok(jar) => jar,
        Err(why) => skip!("{why}"),
    };
    let words = fs::read_to_string(inputs().join("words.js")).unwrap();
    let cases = [
        case(&["--js", "shapes.js", "words.js", "page.js"]).dir("elsewhere"),
        case(&["-O", "ADVANCED", "--js", "shapes.js", "words.js", "page.js"]),
        case(&[
            "--compilation_level=SIMPLE",
            "--js_output_file=out/page.js",
            "--create_source_map=out/page.map",
            "--js",
            "*.js",
            "--js=!broken.js",
        ]),
        case(&["--js", "broken.js"]),
        case(&["--js", "not-there.js"]),
        case(&[]).stdin(&words),
        case(&["-W", "VERBOSE"]).stdin("var x = 1; var x = y;;\nfunction f( {"),
        case(&["--version"]),
        case(&["--nonsense"]),
    ];
    let count = if support::repetitions(1) > 1 { cases.len() } else { 6 };
    let cases = &cases[..count];
    let jdks = jdks_for_slow_tools();
    if jdks.is_empty() {
        skip!("there is neither a JDK 17 nor a JDK 25");
    }
    for jdk in jdks {
        let java = jdk.java();
        let [java, jar] = [&java, &jar].map(|path| path.to_str().unwrap());
        let first = || case(&["--js", "words.js"]);
        let ways =
            [Way { options: &[], first: first() }, Way { options: &["--train=2"], first: first() }];
        let what = format!("closure {}", jdk.release);
        let warns = jdk.release >= 24;
        if !warns || support::repetitions(1) > 1 {
            let tool = with_inputs(Tool::new(&[java, "-jar", jar]));
            check_closure(&hold_against_cold(&what, tool, cases, &ways));
        }
        if warns {
            // The JVM's warning, once in each JVM, makes all training vain.
            let silent = "--sun-misc-unsafe-memory-access=allow";
            let tool = with_inputs(Tool::new(&[java, silent, "-jar", jar]));
            let what = format!("{what} {silent}");
            check_closure(&hold_against_cold(&what, tool, cases, &ways[1..]));
        }
    }
}

/// The cases do what they are there for.
fn check_closure(cold: &[Outcome]) {
    let unused = |outcome: &Outcome| outcome.stdout.contains("neverCalledByAnyone");
    check(&cold[0], 0, "console.log");
    check(&cold[1], 0, "console.log");
    assert!(unused(&cold[0]) && !unused(&cold[1]), "{}", cold[1].stdout);
    check(&cold[3], 1, "");
    assert!(cold[3].stderr.starts_with("broken.js:4:13: ERROR"), "{}", cold[3].stderr);
    check(&cold[5], 0, "countWords");
}

#[test]
fn openapi_generator_does_what_it_does_cold() {
    let jar = match tools::Tool::OpenApi.jar() {
        Ok(jar) => jar,
        Err(why) => skip!("{why}"),
    };
    let generate =
        |language, into| case(&["generate", "-i", "library.yaml", "-g", language, "-o", into]);
    let cases = [
        case(&["list"]).dir("elsewhere"),
        case(&["list", "-i", "all", "-s"]),
        case(&["help"]),
        case(&["help", "generate"]),
        case(&["version"]),
        case(&["validate", "-i", "library.yaml", "--recommend"]),
        case(&["validate", "-i", "not-there.yaml"]),
        generate("python", "client"),
        generate("java", "a b/client").dir("elsewhere"),
        generate("no-such-language", "client"),
        case(&["no-such-command"]),
        case(&[]),
    ];
    let jdks = jdks_for_slow_tools();
    if jdks.is_empty() {
        skip!("there is neither a JDK 17 nor a JDK 25");
    }
    for jdk in jdks {
        let java = jdk.java();
        let command = [java.to_str().unwrap(), "-jar", jar.to_str().unwrap()];
        let mut tool = with_inputs(Tool::new(&command));
        tool.env.push(("TZ".into(), "UTC".into()));
        let ways = [
            Way { options: &[], first: case(&["version"]) },
            Way { options: &["--train=2", "--train-dir=."], first: generate("python", "trained") },
            Way { options: &["--train=2", "--train-with=help"], first: case(&["list", "-s"]) },
        ];
        let what = format!("openapi-generator {}", jdk.release);
        let cold = hold_against_cold(&what, tool, &cases, &ways);
        check(&cold[0], 0, "python");
        check(&cold[5], 0, "No validation issues");
        check(&cold[7], 0, "");
        let api = |name: &String| name.ends_with("openapi_client/api/books_api.py");
        assert!(cold[7].files.keys().any(api), "{}", cold[7].stdout);
        check(&cold[10], 1, "");
    }
}
