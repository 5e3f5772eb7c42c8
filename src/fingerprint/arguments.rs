//! Files that arguments and environment name: scripts, configurations, data.
//!
//! An interpreter has closed its script by the time it is captured, and a
//! server its configuration: nothing but their names says that they
//! belong to the image.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::FingerprintError;
use super::collector::{Collector, path_of};
use super::environment::{self, Variable};

/// Arguments that are looked at; more are a list of files to work on, which
/// no program is captured with.
const ARGUMENTS_MAX: usize = 1024;

/// What a program writes rather than reads, by the end of its name. A log
/// would otherwise make each run a program of its own.
const WRITTEN: [&[u8]; 5] = [b".log", b".pid", b".lock", b".tmp", b".out"];

/// Words in the name of an option or a directory that say the same of a
/// directory: what is in it comes from the program.
const WRITTEN_DIRECTORIES: [&str; 28] = [
    "log", "logs", "tmp", "tmpdir", "temp", "data", "datadir", "db", "database", "cache", "caches",
    "work", "workdir", "out", "output", "outdir", "run", "state", "var", "store", "storage",
    "spool", "upload", "uploads", "target", "build", "dump", "proc",
];

/// Files of the environment that count, at most, and the length of each: what
/// is longer is no configuration.
const VARIABLE_FILES_MAX: usize = 64;
const LEN_VARIABLE_FILE_MAX: u64 = 16 << 20;

/// Variables whose files say nothing about what a program becomes, or are
/// written to by everybody.
const NO_FILES: [&[u8]; 16] = [
    b"HOME",
    b"PWD",
    b"SHELL",
    b"EDITOR",
    b"VISUAL",
    b"PAGER",
    b"BROWSER",
    b"MAIL",
    b"HISTFILE",
    b"LESSHISTFILE",
    b"XAUTHORITY",
    b"ICEAUTHORITY",
    b"TTY",
    b"DBUS_SESSION_BUS_ADDRESS",
    b"GITHUB_EVENT_PATH",
    b"LS_COLORS",
];

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
/// or in a list with commas; and what is in a directory that one names, if it
/// is small and nothing says that the program writes there.
pub(super) fn collect(
    collector: &mut Collector<'_>,
    argv: &[OsString],
) -> Result<(), FingerprintError> {
    let mut previous: &[u8] = b"";
    for argument in argv.iter().skip(1).take(ARGUMENTS_MAX) {
        let argument = argument.as_bytes();
        if WRITING_OPTIONS.iter().any(|option| argument.starts_with(option)) {
            continue;
        }
        // `--dir=conf`, or `--dir conf`.
        let own = argument.starts_with(b"-") || !previous.starts_with(b"-");
        let option = if own { argument } else { previous };
        for name in candidates(argument) {
            let path = collector.cwd().join(path_of(name));
            // The jar of -jar, for one.
            if collector.has_file(&path) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    collector.file_with("file", &path, Ok(metadata))?;
                }
                Ok(metadata) if metadata.is_dir() && is_read(option, &path, collector.cwd()) => {
                    collector.named_directory(&path)?;
                }
                _ => {}
            }
        }
        previous = argument;
    }
    Ok(())
}

/// Tells whether a directory can be one that a program reads its configuration
/// from: nothing says that it writes there, nor does it work in it.
fn is_read(option: &[u8], dir: &Path, cwd: &Path) -> bool {
    let named = option.starts_with(b"-") || option.contains(&b'=');
    let name = option.split(|byte| *byte == b'=').next().filter(|_| named).unwrap_or_default();
    let base = dir.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let words = |text: &[u8]| -> bool {
        text.split(|byte| !byte.is_ascii_alphanumeric()).any(|word| {
            WRITTEN_DIRECTORIES.iter().any(|written| word.eq_ignore_ascii_case(written.as_bytes()))
        })
    };
    if words(name) || words(base) {
        return false;
    }
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    !real(cwd).starts_with(real(dir))
}

/// Adds the regular files whose absolute paths are in the environment
/// (`APP_CONFIG=/etc/app.cfg`, `OPTS=-Dconfig=/etc/app.cfg -v`).
pub(super) fn collect_environment(
    collector: &mut Collector<'_>,
    variables: &[Variable<'_>],
) -> Result<(), FingerprintError> {
    let mut left = VARIABLE_FILES_MAX;
    for variable in variables {
        for path in paths_of(*variable) {
            // Several variables name one file (`SSL_CERT_FILE` and its like).
            if collector.has_file(path) {
                continue;
            }
            if let Some(metadata) = small_file(path) {
                if left == 0 {
                    return Ok(());
                }
                if !collector.is_output(path) {
                    collector.file_with("file", path, Ok(metadata))?;
                    left -= 1;
                }
            }
        }
    }
    Ok(())
}

/// Tells whether a `NAME=value` string names a file whose content counts.
pub fn names_file(string: &OsString) -> bool {
    let variables = environment::relevant(std::slice::from_ref(string), &[]);
    variables.into_iter().flat_map(paths_of).any(|path| small_file(path).is_some())
}

/// Returns what the kernel says of a file that may be a configuration.
fn small_file(path: &Path) -> Option<Metadata> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= LEN_VARIABLE_FILE_MAX).then_some(metadata)
}

/// Returns the paths that a variable names. A list with colons is none:
/// `PATH` and its like name places to search.
fn paths_of(variable: Variable<'_>) -> Vec<&Path> {
    let Some(value) = variable.value.filter(|value| value.contains(&b'/')) else {
        return Vec::new();
    };
    if NO_FILES.contains(&variable.name) || variable.name.ends_with(b"_SOCK") {
        return Vec::new();
    }
    let whole = candidates(value);
    let words = value
        .split(u8::is_ascii_whitespace)
        .filter(|word| word.len() < value.len())
        .filter(|word| !WRITING_OPTIONS.iter().any(|option| word.starts_with(option)))
        .flat_map(candidates);
    let mut paths: Vec<&Path> = Vec::new();
    for path in whole.into_iter().chain(words).map(path_of).filter(|path| path.is_absolute()) {
        if !paths.contains(&path) && !path.starts_with("/proc") {
            paths.push(path);
        }
    }
    paths
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
        .filter(|name| !is_written(name))
        .collect()
}

/// Tells whether a file is one that programs write, by the end of its name.
pub fn is_written(name: &[u8]) -> bool {
    WRITTEN.iter().any(|end| name.ends_with(end))
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
