//! Makes an entry at `main`, of the highest tier that can be.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::super::delivery::AGENT_FD;
use super::super::hit::{Draft, Lookup, Origin};
use super::super::{Options, Training};
use super::Failed;
use super::fidelity::{self, Reference};
use super::log::Log;
use super::scratch::Scratch;
use super::session::{self, Session, Setting};
use crate::cache::{AtMain, Staging, Tier, Warmth};
use crate::command::Command;
use crate::fingerprint::{JvmLine, Stream};
use crate::jvm::agent::{self, Order};
use crate::snapshot::{self, After, Children, Outlook, StdinAtStart};
use crate::sys::process::Inherited;

/// How long a JVM gets for giving memory back to the kernel before a capture:
/// G1 does it on a thread of its own.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a JVM gets for what is not the program's own: collections, lists.
pub(super) const ORDER: Duration = Duration::from_secs(30);
/// How long refusals of a capture that may pass are waited out.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a tier was not reached.
#[derive(Debug)]
pub(super) enum Setback {
    /// A lower one may be.
    Lower(String),
    /// None can be.
    Failed(Failed),
}

impl From<Failed> for Setback {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// What an entry at main is made with.
pub(super) struct Maker<'a> {
    pub(super) lookup: &'a Lookup,
    pub(super) whole: Command,
    pub(super) line: JvmLine,
    pub(super) options: &'a Options,
    pub(super) training: Option<&'a Training>,
    /// The lines of arguments to train with.
    pub(super) lines: Vec<Vec<OsString>>,
    pub(super) scratch: Option<Scratch>,
    /// Where the copy is, and other files that are soon gone.
    pub(super) workspace: Staging,
    pub(super) agent: PathBuf,
    pub(super) streams: [Stream; 3],
    pub(super) inherited: Inherited,
    /// When all of it has to be done.
    pub(super) end: Instant,
    /// What is linked if training is of no use.
    pub(super) classes: Vec<Vec<u8>>,
    pub(super) log: &'a mut Log,
}

impl<'a> Maker<'a> {
    pub(super) fn new(
        lookup: &'a Lookup,
        options: &'a Options,
        streams: [Stream; 3],
        inherited: Inherited,
        log: &'a mut Log,
    ) -> Result<Self, Failed> {
        let (whole, line) =
            lookup.line().cloned().ok_or_else(|| Failed::lasting("it is no JVM's command"))?;
        let agent = agent::install(&lookup.agent_dir())
            .map_err(|error| Failed::passing(format!("the agent: {error}")))?;
        let training = options.training.as_ref();
        let mut lines = vec![line.arguments.clone()];
        for words in training.iter().flat_map(|training| &training.with) {
            lines.push(crate::jvm::words_of(words));
        }
        let workspace = lookup.workspace().map_err(Failed::passing)?;
        let scratch = training.and_then(|training| training.dir.as_ref()).map(|dir| {
            Scratch::new(&whole.cwd.join(dir), &workspace.image_dir().join("copy"))
                .map_err(|error| Failed::lasting(format!("--train-dir {}: {error}", dir.display())))
        });
        let runs = training.map_or(0, |training| training.runs) + 3;
        let patience = options.capture_timeout * runs * u32::try_from(lines.len()).unwrap_or(1);
        Ok(Self {
            lookup,
            whole,
            line,
            options,
            training,
            lines,
            scratch: scratch.transpose()?,
            workspace,
            agent,
            streams,
            inherited,
            end: Instant::now() + patience,
            classes: Vec::new(),
            log,
        })
    }

    /// Makes the best entry that can be.
    pub(super) fn make(mut self) -> Result<Tier, Failed> {
        let goals: &[Warmth] = match self.training {
            Some(_) => &[Warmth::Trained, Warmth::Linked, Warmth::Untrained],
            None => &[Warmth::Untrained],
        };
        let mut reason = None;
        for goal in goals {
            match self.attempt(*goal, &reason) {
                Ok(tier) => return Ok(tier),
                Err(Setback::Failed(failed)) => return Err(failed),
                Err(Setback::Lower(why)) => {
                    self.log.line(&format!("not {}: {why}", name(*goal)));
                    reason.get_or_insert(why);
                }
            }
        }
        Err(Failed::lasting(reason.unwrap_or_default()))
    }

    fn attempt(&mut self, goal: Warmth, before: &Option<String>) -> Result<Tier, Setback> {
        if Instant::now() > self.end {
            return Err(Failed::passing("it took too long").into());
        }
        if goal == Warmth::Linked && self.classes.is_empty() {
            return Err(Setback::Lower("no classes were recorded".into()));
        }
        let mut tier = Tier { warmth: goal, runs: 0, reason: before.clone() };
        let references = if goal == Warmth::Trained { self.references()? } else { Vec::new() };
        let mut session = self.session()?;
        let printed = session.printed().map_err(Failed::passing)?;
        if !session::is_steady(&printed) {
            return Err(Failed::lasting("the JVM prints before main").into());
        }
        match goal {
            Warmth::Untrained => {}
            Warmth::Linked => self.link(&mut session)?,
            Warmth::Trained => {
                self.train(&mut session, &references, &mut tier)?;
                self.train_elsewhere(&mut session, &references)?;
            }
        }
        let settle_ms = u32::try_from(SETTLE.as_millis()).unwrap_or(0);
        match session.order(&Order::Prepare { settle_ms }, ORDER) {
            Ok(agent::Report::Ready) => {}
            Ok(agent::Report::End(end)) => return Err(Setback::Lower(end.reason)),
            Ok(other) => return Err(Setback::Lower(format!("the agent answered {other:?}"))),
            Err(reason) => return Err(Setback::Lower(reason)),
        }
        let texts = [&printed.streams[0], &printed.streams[1]];
        let [out, err] = texts.map(|text| String::from_utf8_lossy(text).into_owned());
        let terminal = String::from_utf8_lossy(&printed.terminal).replace("\r\n", "\n");
        // On a terminal both come out in one place.
        let err = if terminal.is_empty() { err } else { terminal };
        let at_main = AtMain { fd: AGENT_FD, printed: [out, err], tier: tier.clone() };
        self.capture(session, at_main)?;
        self.prove(&references, &mut tier)?;
        Ok(tier)
    }

    pub(super) fn setting(&self, patience: Duration) -> Setting<'_> {
        let uses_pids =
            self.options.pids.iter().any(|way| *way != crate::pids::Strategy::Namespace);
        Setting {
            streams: self.streams,
            inherited: self.inherited,
            mark: uses_pids.then(|| self.lookup.mark()),
            patience: patience.min(self.end.saturating_duration_since(Instant::now())),
            agent: &self.agent,
        }
    }

    fn session(&mut self) -> Result<Session, Failed> {
        self.log.line("starting a JVM up to main");
        let setting = self.setting(ORDER);
        Session::start(&self.whole, &self.line, &setting).map_err(|reason| {
            // Of a build whose directory was temporary: that says nothing about
            // the program.
            if self.whole.cwd.is_dir() { Failed::lasting(reason) } else { Failed::passing(reason) }
        })
    }

    /// Returns the command of a line of arguments, for a cold run.
    pub(super) fn cold(&self, arguments: &[OsString]) -> Command {
        let mut argv: Vec<OsString> = self.line.jvm.iter().map(|word| self.reached(word)).collect();
        argv.extend(arguments.iter().cloned());
        Command { argv, env: self.whole.env.clone(), cwd: self.directory().to_owned() }
    }

    /// Returns a word of the JVM's line for the copy: relative paths in it
    /// (`-jar ../app.jar`, `-cp ../lib/*:classes`) that lead nowhere from there
    /// are made absolute. A JVM that is trained has them from its start, which
    /// is in the directory itself.
    fn reached(&self, word: &OsStr) -> OsString {
        let Some(scratch) = &self.scratch else { return word.to_owned() };
        let paths = word.as_bytes().split(|byte| *byte == b':').map(|part| {
            let dir = Path::new(OsStr::from_bytes(part.strip_suffix(b"*").unwrap_or(part)));
            let is_there = |from: &Path| from.join(dir).exists();
            let is_lost = is_there(&self.whole.cwd) && !is_there(scratch.path());
            match part.is_empty() || !is_lost {
                true => part.to_vec(),
                false => self.whole.cwd.join(OsStr::from_bytes(part)).into_os_string().into_vec(),
            }
        });
        OsString::from_vec(paths.collect::<Vec<_>>().join(&b':'))
    }

    /// Returns the working directory of training.
    fn directory(&self) -> &Path {
        self.scratch.as_ref().map_or(&self.whole.cwd, Scratch::path)
    }

    pub(super) fn renew_scratch(&mut self) -> Result<(), Setback> {
        match &mut self.scratch {
            Some(scratch) => scratch.renew().map_err(|error| Setback::Lower(error.to_string())),
            None => Ok(()),
        }
    }

    /// Runs each line of arguments once in a JVM of its own, as a cold run.
    pub(super) fn references(&mut self) -> Result<Vec<Reference>, Setback> {
        let mut references = Vec::new();
        for arguments in self.lines.clone() {
            self.renew_scratch()?;
            self.log.line(&format!("a cold run to compare with: {}", fidelity::shown(&arguments)));
            let setting = self.setting(self.options.capture_timeout);
            let program = Some(self.line.program.as_path());
            let ran =
                session::run(&self.cold(&arguments), program, &setting).map_err(|reason| {
                    Setback::Lower(format!("a cold run to compare with: {reason}"))
                })?;
            let files = self.scratch.as_ref().map(Scratch::digest);
            references.push(Reference { arguments, ran, files });
        }
        Ok(references)
    }

    /// Makes the entry of a JVM that is ready for it.
    fn capture(&mut self, session: Session, at_main: AtMain) -> Result<(), Setback> {
        self.log.line("capturing");
        let end = Instant::now() + PATIENCE;
        let is_trained = at_main.tier.warmth == Warmth::Trained;
        let (frozen, draft, captured_at): (_, Draft, _) = loop {
            let draft = self.lookup.draft().map_err(Failed::passing)?;
            let captured_at = SystemTime::now();
            let frozen = snapshot::freeze(&snapshot::Capture {
                pid: session.pid(),
                dir: draft.image_dir(),
                stdio: session.origins(),
                stdin: StdinAtStart::Other,
                inherited: &[(AGENT_FD, session.given())],
                keep: &[AGENT_FD],
                started: Some(session.started),
                // What the agent leaves behind would be in every run.
                children: Children::Refused,
                tcp: self.options.tcp,
                after: After::Kill,
            });
            match frozen {
                Ok(frozen) => break (frozen, draft, captured_at),
                Err(refusal) if refusal.outlook == Outlook::Passing && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                // What the program did may be what stands in the way.
                Err(refusal) if is_trained => return Err(Setback::Lower(refusal.reason)),
                Err(refusal) => return Err(Failed::lasting(refusal.reason).into()),
            }
        };
        drop(session);
        let snapshot = frozen.write().map_err(|refusal| Failed::passing(refusal.reason))?;
        self.log.line(&format!(
            "the image has {} KiB of {} threads",
            snapshot.len_pages >> 10,
            snapshot.threads
        ));
        let commit = draft.commit(&snapshot, Origin::Main(at_main), captured_at);
        commit.map_err(|reason| Failed::passing(reason).into())
    }
}

fn name(warmth: Warmth) -> &'static str {
    match warmth {
        Warmth::Untrained => "captured",
        Warmth::Linked => "linked",
        Warmth::Trained => "trained",
    }
}
