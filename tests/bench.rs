//! `warmstart bench` from outside.

mod support;

use support::{cache, stderr, warmstart};

#[test]
fn a_program_without_an_image_is_said_so() {
    let output = warmstart(&cache()).args(["bench", "-n", "1", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("warmstart: no image of the command: "), "{text}");
}

#[test]
fn a_command_that_is_not_there_is_said_so() {
    let output = warmstart(&cache()).args(["bench", "-n", "1", "--", "/no/such"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no image of the command"), "{}", stderr(&output));
}
