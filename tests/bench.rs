//! `warmstart bench` from outside.

mod support;

use std::process::Output;

use serde_json::Value;
use support::{Ordinary, cache, stderr, stdout, warmstart};

/// A server that takes a second to start, as Python is everywhere.
const SERVER: &str = "
import sys, time, http.server
time.sleep(1)
server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
server.serve_forever()";

fn bench(args: &[&str]) -> Output {
    // Descriptors of the test runner's must not reach the programs.
    warmstart(&cache())
        .arg("bench")
        .args(args)
        .env("WARMSTART_CRIU", "/nonexistent")
        .output()
        .expect("the binary")
}

fn port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port().to_string()
}

/// Tells whether restoring works here at all.
fn can_restore() -> bool {
    warmstart(&cache()).arg("doctor").output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_program_without_an_image_is_said_so() {
    let output = bench(&["-n", "1", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.starts_with(
            "warmstart: no image of the command: the program ended with status 0 before"
        ),
        "{text}"
    );
}

#[test]
fn a_command_that_is_not_there_is_said_so() {
    let output = bench(&["-n", "1", "--", "/no/such"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no image of the command"), "{}", stderr(&output));
}

#[test]
fn a_program_that_is_refused_is_not_waited_for() {
    let start = std::time::Instant::now();
    // A descriptor of a process stands in the way of a capture, for good.
    let output = bench(&[
        "-n",
        "1",
        "--ready",
        "delay:100",
        "--capture-timeout",
        "1",
        "--timeout",
        "60",
        "--",
        "/usr/bin/python3",
        "-S",
        "-c",
        "import os, time; its = os.pidfd_open(os.getpid()); time.sleep(50)",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("no image of the command: "), "{}", stderr(&output));
    assert!(start.elapsed().as_secs() < 30, "{}", stderr(&output));
}

#[test]
fn a_server_is_restored_faster_than_it_starts() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let dir = cache();
    let svg = dir.path().join("runs.svg");
    let output = bench(&[
        "-n",
        "3",
        "--json",
        "--svg",
        svg.to_str().expect("a plain path"),
        "--",
        "/usr/bin/python3",
        "-c",
        SERVER,
        &port(),
    ]);
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert_eq!(json["schema_version"], 1);
    assert!(json["until"].as_str().is_some_and(|until| until.contains("HTTP")), "{json}");
    for side in ["cold", "restored"] {
        assert_eq!(json[side]["samples_ms"].as_array().map(Vec::len), Some(3), "{json}");
        assert_eq!(json[side]["failed"], Value::Array(Vec::new()), "{json}");
    }
    assert!(json["cold"]["summary_ms"]["min"].as_f64() >= Some(1000.0), "{json}");
    assert!(json["restored"]["summary_ms"]["median"].as_f64() < Some(800.0), "{json}");
    assert!(json["launcher_ms"]["median"].as_f64() > Some(0.0), "{json}");
    let picture = std::fs::read_to_string(svg).expect("the picture");
    assert_eq!(picture.matches("<circle").count(), 6);
}

#[test]
fn output_can_be_timed() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let script = "
import time
time.sleep(0.5)
while True:
    print('tick', flush=True)
    time.sleep(0.05)";
    let output = bench(&[
        "-n",
        "2",
        "--json",
        "--ready",
        "log:tick",
        "--",
        "/usr/bin/python3",
        "-c",
        script,
    ]);
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert!(json["cold"]["summary_ms"]["min"].as_f64() >= Some(500.0), "{json}");
    assert!(json["restored"]["summary_ms"]["median"].as_f64() < Some(400.0), "{json}");
}

/// With the one capability an ordinary user restores as root does.
#[test]
fn an_ordinary_user_restores() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let output = user
        .warmstart()
        .args(["bench", "-n", "2", "--json", "--", "/usr/bin/python3", "-c", SERVER, &port()])
        .output()
        .expect("the binary");
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert!(json["restored"]["summary_ms"]["median"].as_f64() < Some(800.0), "{json}");
}
