//! Files that the arguments name: scripts, configurations, data.
//!
//! An interpreter has closed its script by the time it is captured, and a
//! server its configuration: nothing but the arguments says that they
//! belong to the image.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::FingerprintError;
use super::collector::{Collector, path_of};

/// Arguments that are looked at; more are a list of files to work on, which
/// no program is captured with.
const ARGUMENTS_MAX: usize = 1024;

/// What a program writes rather than reads, by the end of its name. A log
/// would otherwise make each run a program of its own.
const WRITTEN: [&[u8]; 5] = [b".log", b".pid", b".lock", b".tmp", b".out"];

/// Options that name what a JVM writes.
const WRITING_OPTIONS: [&[u8]; 6] = [
    b"-Xlog",
    b"-XX:LogFile",
    b"-XX:ErrorFile",
    b"-XX:HeapDumpPath",
    b"-XX:StartFlightRecording",
    b"-XX:VMLogFile",
];

/// Adds each regular file that an argument names, alone (`app.yml`, `@args`),
/// as an option's value (`--config=app.yml`), as a URL (`file:/etc/app.yml`)
/// or in a list with commas.
pub(super) fn collect(
    collector: &mut Collector<'_>,
    argv: &[OsString],
) -> Result<(), FingerprintError> {
    for argument in argv.iter().skip(1).take(ARGUMENTS_MAX) {
        let argument = argument.as_bytes();
        if WRITING_OPTIONS.iter().any(|option| argument.starts_with(option)) {
            continue;
        }
        for name in candidates(argument) {
            let path = collector.cwd().join(path_of(name));
            // The jar of -jar, for one.
            if collector.has_file(&path) {
                continue;
            }
            if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                collector.file("file", &path)?;
            }
        }
    }
    Ok(())
}

/// Returns what in an argument may be a file's name.
fn candidates(argument: &[u8]) -> Vec<&[u8]> {
    let value = argument.iter().position(|byte| *byte == b'=').map(|at| &argument[at + 1..]);
    let whole = (!argument.starts_with(b"-")).then_some(argument);
    let mut names = Vec::new();
    for text in [whole, value].into_iter().flatten() {
        names.push(text);
        if text.contains(&b',') {
            names.extend(text.split(|byte| *byte == b','));
        }
    }
    names
        .into_iter()
        .map(|name| {
            let name = name.strip_prefix(b"@").unwrap_or(name);
            let name = name.strip_prefix(b"file:").unwrap_or(name);
            // file:///etc is /etc, and the kernel takes // for /.
            name
        })
        .filter(|name| !name.is_empty() && !name.contains(&0))
        .filter(|name| !WRITTEN.iter().any(|end| name.ends_with(end)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(argument: &str) -> Vec<String> {
        let names = candidates(argument.as_bytes());
        names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn files_are_seen_in_every_usual_form() {
        assert_eq!(names("app.yml"), ["app.yml"]);
        assert_eq!(names("@args"), ["args"]);
        assert_eq!(names("--config=app.yml"), ["app.yml"]);
        assert_eq!(names("config=app.yml"), ["config=app.yml", "app.yml"]);
        assert_eq!(names("--location=file:/etc/a.yml,b"), ["/etc/a.yml,b", "/etc/a.yml", "b"]);
        assert!(names("-v").is_empty());
        assert!(names("").is_empty());
        assert!(names("--log=server.log").is_empty());
        assert!(names("--pid-file=x.pid").is_empty());
    }
}
