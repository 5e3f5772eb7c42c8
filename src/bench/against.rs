//! What else starts a program faster: CRIU, with an image of its own
//! ([`Alternative::Criu`]), and what a JDK itself has: archives made from a run of the same
//! command, in a temporary directory.
//!
//! [`options`] says which options make and use an archive, and is pure; here
//! they are carried out: the archive is made by a run of the command up to its
//! mark, and then *tried* by another one. A JVM that cannot use an archive
//! goes on without it and says nothing, or little; the trial insists
//! (`-Xshare:on`, `-XX:AOTMode=on`) and counts the classes that came from the
//! archive. Without any there is no contender, only a reason.

mod options;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::prepare::prepare;
use super::process::{Output, Running, Scratch, describe};
use super::run::{FileState, Outcome, output, watch};
use super::{AtMain, BenchError, Mark, Options};
use crate::command::Command;

pub use options::Alternative;
use options::{Plan, Step};

/// An alternative and its archive, or why it has none.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) alternative: Alternative,
    pub(super) archive: Result<Archive, String>,
}

/// An archive that was tried.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Archive {
    /// The command with the options that use it.
    pub(super) command: Command,
    /// What is worth knowing about it; `None` of an image of CRIU's.
    pub(super) facts: Option<Facts>,
    /// The launcher's options, if it is restored by the launcher.
    pub(super) through: Option<Vec<OsString>>,
}

/// What is worth knowing about an archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
    /// How large it is.
    pub len_bytes: u64,
    /// From the start of the command to an archive, in milliseconds.
    pub made_ms: f64,
    /// How many classes the command loaded when it was tried.
    pub classes: usize,
    /// How many of these came from the archive.
    pub classes_archived: usize,
}

/// Makes an archive of the command and tries it; or an image, for CRIU.
pub(super) fn make(
    alternative: Alternative,
    command: &Command,
    mark: &Mark,
    options: &Options,
    scratch: &Scratch,
) -> Contender {
    if alternative == Alternative::Criu {
        return Contender { alternative, archive: image(command, mark, options, scratch) };
    }
    let timeout = options.timeout;
    let work = Work { mark, timeout, scratch, name: alternative.name() };
    let archive = Plan::of(alternative, command, &work.path("archive"), &work.path("record"))
        .and_then(|plan| work.archive(plan));
    Contender { alternative, archive }
}

/// Has an image made for CRIU, beside the one that is measured.
fn image(
    command: &Command,
    mark: &Mark,
    options: &Options,
    scratch: &Scratch,
) -> Result<Archive, String> {
    let mut words = options.launcher_options.clone();
    words.extend(["--engine", "criu"].map(OsString::from));
    let criu = Options {
        launcher_options: words.clone(),
        until: Some(mark.clone()),
        at_main: AtMain::Never,
        ..options.clone()
    };
    prepare(command, &criu, scratch).map_err(|error| error.to_string())?;
    Ok(Archive { command: command.clone(), facts: None, through: Some(words) })
}

struct Work<'a> {
    mark: &'a Mark,
    timeout: Duration,
    scratch: &'a Scratch,
    name: &'static str,
}

impl Work<'_> {
    fn path(&self, what: &str) -> PathBuf {
        self.scratch.file(&format!("{}.{what}", self.name))
    }

    /// Carries a plan out.
    fn archive(&self, plan: Plan) -> Result<Archive, String> {
        let started = Instant::now();
        let path = self.path("archive");
        let mut last = String::new();
        for step in &plan.steps {
            last = match step {
                Step::Run(command) => self.run(command, self.mark, "making.log"),
                Step::Assemble(command) => self.run(command, &Mark::Exit, "making.log"),
            }?;
        }
        let made_ms = started.elapsed().as_secs_f64() * 1000.0;
        let len_bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if len_bytes == 0 {
            return Err(format!("no archive was made: {last}"));
        }

        let log = self.path("classes");
        let said = self.run(&plan.trial(&log), self.mark, "trial.log")?;
        let text = std::fs::read(&log).unwrap_or_default();
        let (classes, classes_archived) = count(&text, plan.source);
        if classes_archived == 0 {
            return Err(format!("the archive was made, and is not used: {said}"));
        }
        let facts = Facts { len_bytes, made_ms, classes, classes_archived };
        Ok(Archive { command: plan.usage(), facts: Some(facts), through: None })
    }

    /// Runs a command up to a mark and ends it with all the time that it takes
    /// to write an archive; returns what there is to say about it, should no
    /// archive come of it.
    fn run(&self, command: &Command, mark: &Mark, log: &str) -> Result<String, String> {
        let log = self.path(log);
        let output = match output(mark) {
            Output::Discard => Output::File(log.clone()),
            search => search,
        };
        let before = FileState::of(mark);
        let mut running = Running::start(command, &output).map_err(reason)?;
        let outcome = watch(&mut running, mark, &before, self.timeout);
        running.end_within(self.timeout);
        let said = said_by_jvm(&std::fs::read(&log).unwrap_or_default());
        let ended = |outcome: &Outcome| match outcome {
            Ok(sample) => sample.end.map_or("it got to its mark".into(), describe),
            Err(why) => why.clone(),
        };
        match (said, outcome) {
            (Some(said), Ok(_)) => Ok(said),
            (None, outcome @ Ok(_)) => Ok(format!("the program {}", ended(&outcome))),
            (Some(said), Err(why)) => Err(format!("the program {why}: {said}")),
            (None, Err(why)) => Err(format!("the program {why}")),
        }
    }
}

/// An error and its causes, in one line.
fn reason(error: BenchError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// How long a quoted line may be, in characters.
const LEN_SAID_MAX: usize = 300;
/// How much of an output is looked at, from its end, in bytes.
const LEN_OUTPUT_MAX: usize = 1 << 20;

/// Finds the line in which a JVM said what is wrong: the last of its errors
/// and warnings, else of what it says when it cannot start.
fn said_by_jvm(output: &[u8]) -> Option<String> {
    const WORDS: [&str; 5] = ["Unable to ", "Unrecognized ", "Unrecognised ", "Error ", "Error: "];
    let text = String::from_utf8_lossy(&output[output.len().saturating_sub(LEN_OUTPUT_MAX)..]);
    let lines = || text.lines().map(str::trim);
    let logged = |line: &&str| {
        line.starts_with('[') && (line.contains("[error]") || line.contains("[warning]"))
    };
    let found = lines()
        .rfind(|line| logged(line))
        .or_else(|| lines().find(|line| WORDS.iter().any(|word| line.starts_with(word))))?;
    // The time is of no interest, nor is what does not fit a line.
    let rest = found.split_once("][").filter(|_| found.starts_with('[')).map(|(_, rest)| rest);
    let message = rest.and_then(|rest| rest.rsplit_once("] ")).map_or(found, |(_, text)| text);
    // "Error occurred during initialization of VM": why is in the next line.
    let why = lines().skip_while(|line| *line != found).nth(1).unwrap_or_default();
    let message = match message.ends_with("initialization of VM") && !why.is_empty() {
        true => format!("{message}: {why}"),
        false => message.trim().to_owned(),
    };
    Some(message.chars().take(LEN_SAID_MAX).collect())
}

/// Counts the classes in a log of `-Xlog:class+load`, and those that came from
/// the archive.
fn count(log: &[u8], source: &str) -> (usize, usize) {
    let text = String::from_utf8_lossy(log);
    let sources = || text.lines().filter_map(|line| Some(line.split_once(" source: ")?.1.trim()));
    (sources().count(), sources().filter(|of| *of == source).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_by_where_they_came_from() {
        let log = b"java.lang.Object source: shared objects file\n\
            Hello source: shared objects file (top)\n\
            a.B source: file:/tmp/a b.jar\n\
            a.C$$Lambda/0x1 source: a.C\n\
            [warning] not a class\n";
        assert_eq!(count(log, "shared objects file (top)"), (4, 1));
        assert_eq!(count(log, "shared objects file"), (4, 1));
        assert_eq!(count(b"", "shared objects file"), (0, 0));
    }

    #[test]
    fn what_the_jvm_said_is_found_among_what_the_program_said() {
        let said = |text: &str| said_by_jvm(text.as_bytes());
        let text = "Hello\n[0.025s][warning][cds,dynamic] -XX:ArchiveClassesAtExit is \
                    unsupported here. See [1] \nErrors: 0\n";
        assert_eq!(
            said(text).as_deref(),
            Some("-XX:ArchiveClassesAtExit is unsupported here. See [1]")
        );
        let text = "Unrecognized VM option 'X'\nError: Could not create the Java Virtual Machine.";
        assert_eq!(said(text).as_deref(), Some("Unrecognized VM option 'X'"));
        let text = "Error occurred during initialization of VM\nUnable to use shared archive.\n";
        assert_eq!(
            said(text).as_deref(),
            Some("Error occurred during initialization of VM: Unable to use shared archive.")
        );
        assert_eq!(said("Hello\n[INFO] all is well\n"), None);
        assert_eq!(
            said(&format!("Error {}", "ä".repeat(1000))).map(|text| text.chars().count()),
            Some(300)
        );
        assert_eq!(said_by_jvm(b"\xff\xfe"), None);
    }

    #[test]
    fn what_is_no_jvm_has_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        let command = Command { argv: vec!["/bin/true".into()], env: Vec::new(), cwd: "/".into() };
        let options = Options {
            launcher: "/bin/false".into(),
            launcher_options: Vec::new(),
            runs: 1,
            until: None,
            at_main: AtMain::Never,
            against: Vec::new(),
            temp_dir: dir.path().to_owned(),
            timeout: Duration::from_secs(5),
        };
        let contender = make(Alternative::AotCache, &command, &Mark::Exit, &options, &scratch);
        let why = contender.archive.unwrap_err();
        assert!(why.contains("not a launcher of a JDK"), "{why}");
    }
}
