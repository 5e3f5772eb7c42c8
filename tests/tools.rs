//! The real tools and their inputs are as later tests take them to be: what a
//! tool does cold is what a restored run of it is compared with.

mod support;

use std::process::{Command, Output, Stdio};

use support::tools::{Tool, inputs};
use support::{cache, full_jdks, stderr, stdout};

/// Prepares runs of a tool with the oldest full JDK that it may have.
fn with(tool: Tool) -> Result<impl Fn(&[&str]) -> Command, String> {
    let oldest = full_jdks().into_iter().find(|jdk| jdk.release >= 11);
    let jdk = oldest.ok_or("there is no JDK 11 or later with all its modules")?;
    tool.command(&jdk)?;
    Ok(move |arguments: &[&str]| {
        let mut command = tool.command(&jdk).expect("it was there");
        command.args(arguments).stdin(Stdio::null());
        command
    })
}

fn run(mut command: Command) -> Output {
    command.output().expect("java")
}

/// What the tool itself wrote to stderr: a JVM from 24 on warns, once, that
/// the library in it uses `sun.misc.Unsafe`.
fn said(output: &Output) -> String {
    let text = stderr(output);
    text.lines().filter(|line| !line.starts_with("WARNING: ")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn closure_compiles_its_inputs() {
    let tool = match with(Tool::Closure) {
        Ok(tool) => tool,
        Err(why) => skip!("{why}"),
    };
    let simple = run(tool(&["--js", "shapes.js", "words.js", "page.js"]));
    let advanced = run(tool(&["-O", "ADVANCED", "--js", "shapes.js", "words.js", "page.js"]));
    for output in [&simple, &advanced] {
        assert_eq!((output.status.code(), said(output)), (Some(0), String::new()));
        assert!(stdout(output).contains("console.log"), "{}", stdout(output));
    }
    assert!(stdout(&simple).contains("neverCalledByAnyone"), "{}", stdout(&simple));
    assert!(!stdout(&advanced).contains("neverCalledByAnyone"), "{}", stdout(&advanced));

    let broken = run(tool(&["--js", "broken.js"]));
    assert_eq!(broken.status.code(), Some(1));
    assert!(said(&broken).starts_with("broken.js:4:13: ERROR"), "{}", stderr(&broken));
    assert_eq!(stdout(&broken), "");

    let mut command = tool(&[]);
    command.stdin(std::fs::File::open(inputs().join("words.js")).expect("words.js"));
    let piped = run(command);
    assert_eq!(piped.status.code(), Some(0), "{}", stderr(&piped));
    assert!(stdout(&piped).contains("countWords"), "{}", stdout(&piped));
}

#[test]
fn openapi_generator_takes_its_input() {
    let tool = match with(Tool::OpenApi) {
        Ok(tool) => tool,
        Err(why) => skip!("{why}"),
    };
    let valid = run(tool(&["validate", "-i", "library.yaml"]));
    assert_eq!(valid.status.code(), Some(0), "{}", stderr(&valid));
    assert!(stdout(&valid).contains("No validation issues"), "{}", stdout(&valid));

    let dir = cache();
    let into = dir.path().join("client");
    let mut command = tool(&["generate", "-i", "library.yaml", "-g", "python", "-o"]);
    command.arg(&into);
    let made = run(command);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    for file in ["openapi_client/api/books_api.py", "openapi_client/models/binding.py"] {
        assert!(into.join(file).is_file(), "{file}: {}", stdout(&made));
    }

    assert_eq!(run(tool(&["no-such-command"])).status.code(), Some(1));
}
