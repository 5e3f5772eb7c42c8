//! Programs that are captured at `main` do, restored, what they do cold: with
//! arguments, environments and directories that the capture never saw.

mod support;
mod tooling;

use tooling::{Case, Tool, programs};

/// What programs do that tools do; the last ones take other paths out.
fn cases() -> Vec<Case> {
    let case = |words: &[&str]| Case::new(words);
    vec![
        case(&[]),
        case(&[
            "args",
            "a b",
            "",
            "'q' \"d\"",
            "grüß €",
            "\\",
            "*",
            "-x",
            "--",
            "@no",
            "line\nbreak",
        ]),
        case(&["env"]).env("GREETING", "hello wörld").env("EMPTY", "").dir("elsewhere"),
        case(&["env"]),
        case(&["files"]),
        case(&["files"]).dir("another directory"),
        case(&["stdin"]).stdin("one\ntwo\nohne Ende: ü"),
        case(&["stdin"]),
        case(&["return"]),
        case(&["exit", "0"]),
        case(&["exit", "42"]),
        case(&["halt"]),
        case(&["finally"]),
        case(&["elsewhere"]),
        case(&["throw"]),
        case(&["thrower"]),
        case(&["closed"]),
        case(&["child"]).env("GREETING", "to the child").stdin("for the child\n").dir("other"),
        case(&["hooks"]),
        case(&["daemons"]),
        case(&["pool"]),
        case(&["locale"]),
        case(&["properties", "x"]).dir("other"),
        case(&["caller"]),
        case(&["handler"]),
        case(&["count"]),
        case(&["nonsense"]),
    ]
}

fn hold_against_cold(options: &[&str], training: &Case) {
    let mut tried = 0;
    for release in [17, 25] {
        let Some(jdk) = support::jdk(release) else { continue };
        let Some(mut tool) = programs(&jdk) else { skip!("there is no javac") };
        tool.options.extend(options.iter().map(ToString::to_string));
        tool.must_capture(training);
        for case in cases() {
            // It says what training has done, on purpose.
            if options.is_empty() || case.args.first().is_none_or(|word| word != "count") {
                tool.compare(&case);
            }
        }
        tried += 1;
    }
    if tried == 0 {
        skip!("there is neither a JDK 17 nor a JDK 25");
    }
}

#[test]
fn untrained_programs_do_what_they_do_cold() {
    hold_against_cold(&[], &Case::new(&["return"]));
}

#[test]
fn trained_programs_do_what_they_do_cold() {
    hold_against_cold(&["--train=2", "--train-with=args 'a b'"], &Case::new(&["work"]));
}

#[test]
fn locale_and_time_zone_make_another_image() {
    let Some(jdk) = support::jdk(17) else { skip!("there is no JDK 17") };
    let Some(tool) = programs(&jdk) else { skip!("there is no javac") };
    tool.must_capture(&Case::new(&["return"]));
    for (name, value) in [("TZ", "Asia/Tokyo"), ("LC_ALL", "C"), ("JDK_JAVA_OPTIONS", "-Dx=y")] {
        let case = Case::new(&["locale"]).env(name, value);
        tool.must_capture(&case);
        tool.compare(&case);
    }
    tool.compare(&Case::new(&["locale"]));
}

/// What training does a second time otherwise is found out, and what remains
/// is right.
#[test]
fn programs_that_keep_state_are_found_out() {
    let Some(jdk) = support::jdk(17) else { skip!("there is no JDK 17") };
    for (mode, reason) in [
        ("count", "printed other text than a cold run (stdout)"),
        ("once", "printed other text than a cold run (stderr)"),
        ("status", "ended with status 7, a cold run with 0"),
        ("config", "a training run in an empty directory"),
        ("log", "left descriptor"),
    ] {
        let Some(tool) = programs(&jdk) else { skip!("there is no javac") };
        let tool = tool.option("--train=2");
        let case = Case::new(&[mode]);
        // Training in the caller's directory writes to its files.
        let (first, status) = tool.capture(&case);
        assert!(status.contains(r#""outcome":"captured""#), "{mode}: {status}");
        assert_eq!(first.stdout, tool.cold(&case).stdout, "{mode}");
        let shown = tool.show();
        assert!(shown.contains("classes linked, main has not run"), "{mode}: {shown}");
        assert!(shown.contains(reason), "{mode}: {shown}");
        tool.compare(&case);
        tool.compare(&Case::new(&["args", "x"]));
    }
    let Some(tool) = programs(&jdk) else { skip!("there is no javac") };
    let tool = tool.option("--train=2").option("--allow-stateful");
    let case = Case::new(&["count"]);
    tool.must_capture(&case);
    let shown = tool.show();
    for line in ["trained, main has run 2 times", "option --train: 2\n", "--allow-stateful: yes\n"]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(tool.restored(&case).stdout, "run 3\n");
}

/// What the class path finds outside of the copied directory is found there.
#[test]
fn a_relative_class_path_leads_out_of_the_copy() {
    let Some(jdk) = support::jdk(17) else { skip!("there is no JDK 17") };
    let Some(classes) = tooling::classes() else { skip!("there is no javac") };
    let java = jdk.java();
    let tool = Tool::new(&[java.to_str().unwrap(), "-cp", "nowhere:../classes", "Tools"]);
    let tool = tool.option("--train=2").option("--train-dir=.");
    std::os::unix::fs::symlink(classes, tool.root().join("classes")).unwrap();
    let case = Case::new(&["args", "x"]);
    tool.must_capture(&case);
    assert!(tool.show().contains("trained, main has run 2 times"), "{}", tool.show());
    tool.compare(&case);
}

/// Training that comes to no end, or leaves something behind, costs the
/// training and nothing else.
#[test]
fn training_that_goes_wrong_leaves_a_lower_tier() {
    let Some(jdk) = support::jdk(17) else { skip!("there is no JDK 17") };
    for mode in ["stubborn", "hang", "loop", "thread"] {
        let Some(tool) = programs(&jdk) else { skip!("there is no javac") };
        let tool = tool.option("--train=2").option("--capture-timeout=3");
        let case = Case::new(&[mode]);
        tool.must_capture(&case);
        let shown = tool.show();
        assert!(!shown.contains("trained, main has run"), "{mode}: {shown}");
        assert!(shown.contains("training run 2"), "{mode}: {shown}");
        tool.compare(&case);
        tool.compare(&Case::new(&["args", "x"]));
    }
}
