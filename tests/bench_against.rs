//! `warmstart bench` of tools, and against what a JDK has itself.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::service::compile;
use support::{Jdk, cache, jdk, jdks, stderr, warmstart};

/// Measures `Tool 1500 3`, captured while it waits.
fn bench(jdk: &Jdk, classes: &Path, options: &[&str]) -> Output {
    let mut command = warmstart(&cache());
    command
        .args(["bench", "-n", "2", "--ready", "delay:700", "--until", "exit"])
        .args(options)
        .arg("--")
        .arg(jdk.java())
        .arg("-cp")
        // A jar: classes in a directory are not archived.
        .arg(classes.join("tool.jar"))
        .args(["Sleeper", "1500", "3"]);
    command.output().expect("the binary")
}

/// Compiles the tool into a jar.
fn tool() -> Result<tempfile::TempDir, String> {
    let dir = compile("Sleeper.java")?;
    let script = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1] + '/tool.jar', 'w') as jar:\n    \
        jar.write(sys.argv[1] + '/Sleeper.class', 'Sleeper.class')";
    let made = std::process::Command::new("python3").args(["-c", script]).arg(dir.path()).status();
    assert!(made.expect("python3").success());
    Ok(dir)
}

fn can_restore() -> bool {
    warmstart(&cache()).arg("doctor").output().is_ok_and(|output| output.status.success())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

/// Checks that each alternative has two runs with an archive of which classes
/// came, or a reason; returns those that have runs.
fn measured(json: &Value) -> Vec<&Value> {
    let against = json["against"].as_array().expect("a list");
    for it in against {
        assert_eq!(it["failed"], Value::Array(Vec::new()), "{json}");
        let runs = it["samples_ms"].as_array().map_or(0, Vec::len);
        match it["unavailable"].as_str() {
            Some(why) => assert!(!why.is_empty() && runs == 0, "{json}"),
            None => {
                assert_eq!(runs, 2, "{json}");
                assert!(it["archive"]["classes_archived"].as_u64() > Some(0), "{json}");
                assert!(it["archive"]["len_bytes"].as_u64() > Some(10_000), "{json}");
                assert!(it["ratio"]["n"] == 2 && it["restored_ratio"]["n"] == 2, "{json}");
            }
        }
    }
    against.iter().filter(|it| it["unavailable"].is_null()).collect()
}

#[test]
fn a_tool_is_timed_to_its_end_against_both_archives() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let classes = match tool() {
        Ok(classes) => classes,
        Err(why) => skip!("{why}"),
    };
    let Some(jdk) = jdk(17) else { skip!("there is no JDK 17") };
    let output = bench(&jdk, classes.path(), &["--json", "--against", "aot-cache,appcds"]);
    let json = json(&output);
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert_eq!(json["exit_status"], 3, "{json}");
    for side in ["cold", "restored"] {
        assert_eq!(json[side]["samples_ms"].as_array().map(Vec::len), Some(2), "{json}");
        assert_eq!(json[side]["failed"], Value::Array(Vec::new()), "{json}");
    }
    let cold = json["cold"]["summary_ms"]["min"].as_f64();
    assert!(cold >= Some(1500.0), "{json}");
    assert!(json["restored"]["summary_ms"]["median"].as_f64() < cold, "{json}");

    assert_eq!(
        json["against"][0]["unavailable"], "aot-cache needs JDK 24 or later, this is JDK 17",
        "{json}"
    );
    let [cds] = &measured(&json)[..] else { panic!("{json}") };
    assert_eq!(cds["name"], "appcds");
    assert!(cds["summary_ms"]["min"].as_f64() >= Some(1500.0), "{json}");
}

#[test]
fn the_aot_cache_of_jdk_25_is_made_and_used() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let classes = match tool() {
        Ok(classes) => classes,
        Err(why) => skip!("{why}"),
    };
    let Some(jdk) = jdk(25) else { skip!("there is no JDK 25") };
    // Twice the same is once.
    let list = ["--json", "--against", "aot-cache,appcds", "--against", "aot-cache"];
    let output = bench(&jdk, classes.path(), &list);
    let json = json(&output);
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert_eq!(json["against"].as_array().map(Vec::len), Some(2), "{json}");
    // A runtime that was cut down has no archive for appcds to begin with.
    let measured = measured(&json);
    let cache = measured.first().unwrap_or_else(|| panic!("{json}"));
    assert_eq!(cache["name"], "aot-cache");
    assert!(cache["archive"]["classes_archived"].as_u64() > Some(300), "{json}");
}

/// The JVM says nothing about such an archive, and goes on without it.
#[test]
fn an_archive_that_is_not_used_is_no_result() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let classes = match tool() {
        Ok(classes) => classes,
        Err(why) => skip!("{why}"),
    };
    let Some(jdk) = jdks().into_iter().find(|jdk| jdk.release >= 13) else {
        skip!("there is no JDK 13 or later")
    };
    let jar = classes.path().join("tool.jar");
    let output = warmstart(&cache())
        .args(["bench", "-n", "1", "--ready", "delay:700", "--until", "exit", "--against"])
        .args(["appcds", "--"])
        .arg(jdk.java())
        // It comes after the options of `bench`, and wins.
        .args(["-XX:SharedArchiveFile=/no/such", "-Xlog:disable", "-cp"])
        .arg(&jar)
        .args(["Sleeper", "1500", "0"])
        .output()
        .expect("the binary");
    let text = support::stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("appcds: not measured: "), "{text}");
    assert!(text.contains("restored is "), "{text}");
}

#[test]
fn a_list_with_a_mistake_is_wrong_usage() {
    let output = warmstart(&cache())
        .args(["bench", "--against", "aot-cache,crac", "--", "true"])
        .output()
        .expect("the binary");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("`crac` is none of aot-cache, appcds, criu"),
        "{}",
        stderr(&output)
    );
}
