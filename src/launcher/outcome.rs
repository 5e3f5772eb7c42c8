//! What a run tells: the status file and the line on stderr.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How the program came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// From an entry.
    Restored,
    /// By a plain start.
    Cold,
    /// By a plain start, and an entry was made of it.
    Captured,
}

/// Where the launcher's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// From our own start to the decision, hit or miss.
    #[serde(serialize_with = "to_the_microsecond")]
    pub lookup: f64,
    /// Spent restoring, also in vain; 0 if nothing was tried.
    #[serde(serialize_with = "to_the_microsecond")]
    pub restore: f64,
    /// From our own start until the program ran.
    #[serde(serialize_with = "to_the_microsecond")]
    pub total: f64,
}

/// Writes milliseconds with three decimals: the clock has more, nobody else.
fn to_the_microsecond<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((ms * 1e3).round() / 1e3)
}

/// Converts to milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The content of the status file (`--status-file`), version 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    schema_version: u32,
    /// How the program came to run.
    pub outcome: Outcome,
    /// The engine that restored or captured it.
    pub engine: Option<&'static str>,
    /// The strategy by which it got its pids.
    pub pids: Option<&'static str>,
    /// The id of its entry, also of one that is yet to be.
    pub entry: Option<String>,
    /// Why it was not restored, or not captured: one line.
    pub reason: Option<String>,
    /// Its pid as it sees itself.
    pub app_pid: i32,
    /// Where the time went.
    pub timings_ms: Timings,
}

impl Status {
    /// Makes the status of a cold start that has yet to happen.
    pub fn cold() -> Self {
        Self {
            schema_version: 1,
            outcome: Outcome::Cold,
            engine: None,
            pids: None,
            entry: None,
            reason: None,
            app_pid: 0,
            timings_ms: Timings::default(),
        }
    }
}

/// Speaks for a run: on stderr as much as `-v` and `-q` allow, in the status
/// file if there is one.
#[derive(Debug, Clone)]
pub struct Herald {
    verbosity: i8,
    status_file: Option<PathBuf>,
}

impl Herald {
    /// Makes the herald of a run.
    pub fn new(verbosity: i8, status_file: Option<PathBuf>) -> Self {
        Self { verbosity, status_file }
    }

    /// Says a line that is printed unless `-q` was given.
    pub fn say(&self, line: &str) {
        if self.verbosity >= 0 {
            print(line);
        }
    }

    /// Says a line that is printed with `-v`.
    pub fn detail(&self, line: &str) {
        if self.verbosity > 0 {
            print(line);
        }
    }

    /// Says why warmstart itself ends: always printed.
    pub fn fail(&self, line: &str) {
        print(line);
    }

    /// Whether nothing will be said any more but failures.
    pub fn is_quiet(&self) -> bool {
        self.verbosity <= 0
    }

    /// Replaces the status file; that it cannot be written is said, and the
    /// program goes on.
    pub fn record(&self, status: &Status) {
        let Some(path) = &self.status_file else { return };
        if let Err(error) = write_status(path, status) {
            self.say(&format!("cannot write {}: {error}", path.display()));
        }
    }
}

/// Writes one line, in one go; stderr may be gone, and that is nobody's
/// business.
fn print(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = io::stderr().write_all(format!("warmstart: {line}\n").as_bytes());
}

fn write_status(path: &Path, status: &Status) -> io::Result<()> {
    let mut text = serde_json::to_vec(status)?;
    text.push(b'\n');
    match fs::metadata(path) {
        // A device, a pipe (`/dev/stderr`): renaming would replace the node.
        Ok(metadata) if !metadata.is_file() => {
            return File::options().write(true).open(path)?.write_all(&text);
        }
        Ok(_) if path.is_symlink() => return replace(&path.canonicalize()?, &text),
        _ => {}
    }
    replace(path, &text)
}

/// Replaces a file by way of a temporary one beside it.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_documented_form() {
        let mut status = Status::cold();
        status.app_pid = 7;
        status.timings_ms.lookup = 0.5;
        status.timings_ms.restore = 0.1 + 0.2;
        status.timings_ms.total = 12.345_678_9;
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            r#"{"schema_version":1,"outcome":"cold","engine":null,"pids":null,"entry":null,"#
                .to_owned()
                + r#""reason":null,"app_pid":7,"#
                + r#""timings_ms":{"lookup":0.5,"restore":0.3,"total":12.346}}"#
        );
    }

    #[test]
    fn replaces_files_and_writes_to_devices() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        fs::write(&file, "old").unwrap();
        write_status(&link, &Status::cold()).unwrap();
        assert!(link.is_symlink());
        assert!(fs::read_to_string(&file).unwrap().ends_with("}\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        write_status(Path::new("/dev/null"), &Status::cold()).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(write_status(&dir.path().join("no/such"), &Status::cold()).is_err());
    }
}
