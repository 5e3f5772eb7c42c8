//! Captures a JVM at `main`, in the second process of a run ([`super::aside`]).
//!
//! A JVM of ours is started with the agent, up to its call of `main`. If that
//! was asked for, `main` runs some times before the capture, and what it prints
//! is compared with what a cold run prints, under the same conditions. A
//! difference says that the program keeps state: then its classes are loaded
//! and linked in another JVM, in which nothing of the program has run, and
//! that one is captured. What cannot be done leaves the next lower tier, and
//! the reason is kept with the entry.

mod fidelity;
mod log;
mod scratch;
mod session;
mod streams;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use self::fidelity::Reference;
use self::log::Log;
use self::scratch::Scratch;
use self::session::{Session, Setting};
use super::aside::Report;
use super::delivery::{AGENT_FD, AtMain};
use super::hit::{self, Caller, Draft, Found, Lookup, Origin};
use super::probing::chain;
use super::{Options, Policy, Training, run};
use crate::cache::{Staging, Tier, Warmth};
use crate::command::Command;
use crate::fingerprint::{JvmLine, Point, Stream};
use crate::jvm::agent::{self, Delivery, Order};
use crate::snapshot::{self, After, Outlook, StdinAtStart};
use crate::sys::process::{self, Inherited};

/// How long a JVM gets for giving memory back to the kernel before a capture:
/// G1 does it on a thread of its own.
const SETTLE: Duration = Duration::from_millis(300);
/// How long threads that training left behind may take to end.
const LEFT_THREADS: Duration = Duration::from_secs(2);
/// How long a JVM gets for what is not the program's own: collections, lists.
const ORDER: Duration = Duration::from_secs(30);
/// How long refusals of a capture that may pass are waited out.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many classes are linked, at most.
const CLASSES_MAX: usize = 100_000;

/// Makes the capture that this process is for; returns its exit status.
pub fn main(command: &Command, options: &Options, streams: [Stream; 3]) -> u8 {
    process::be_nice();
    process::adopt_orphans();
    let inherited = Inherited::now();
    let ignored = run::ignored_signals(&inherited);
    let blocked = inherited.mask.signals();
    let mut host = hit::host(Caller { closed_stdio: [false; 3], ignored: &ignored, blocked });
    host.streams = streams;
    let report = match hit::look_up(command, options, host, Point::Main) {
        Ok(mut lookup) => {
            let mut log = Log::new(lookup.log_path());
            if options.verify_every.is_some() {
                return verify(&mut lookup, options, streams, inherited, &mut log);
            }
            let made = claim(&mut lookup, options, &mut log).and_then(|()| {
                // The log is ours with the claim: it tells of what comes to
                // nothing at once, too.
                log.line("preparing a capture");
                Maker::new(&lookup, options, streams, inherited, &mut log)?.make()
            });
            session::end_leftovers();
            log.outcome(&made);
            let entry = Some(lookup.id());
            match made {
                Ok(tier) => Report { entry, reason: tier.reason, captured: true },
                Err(Failed { reason, noted }) => {
                    if noted {
                        lookup.note_refusal(&reason);
                    }
                    Report { entry, reason: Some(reason), captured: false }
                }
            }
        }
        Err(reason) => Report { reason: Some(chain(&reason)), ..Report::default() },
    };
    let status = u8::from(!report.captured);
    log::print(&serde_json::to_string(&report).unwrap_or_default());
    status
}

/// Compares a restored run with a cold one, and retires the entry if they
/// differ; returns the exit status of this process.
fn verify(
    lookup: &mut Lookup,
    options: &Options,
    streams: [Stream; 3],
    inherited: Inherited,
    log: &mut Log,
) -> u8 {
    if !matches!(lookup.find(), Found::Entry) {
        return 1;
    }
    // Held, it could not be removed.
    lookup.let_go();
    let compared = Maker::new(lookup, options, streams, inherited, log)
        .and_then(|mut maker| maker.compare())
        .map_err(|failed| failed.reason);
    session::end_leftovers();
    match compared {
        Ok(None) => 0,
        Ok(Some(difference)) => {
            log.line(&difference);
            lookup.retire(&difference);
            1
        }
        Err(reason) => {
            log.line(&format!("not compared: {reason}"));
            1
        }
    }
}

/// Why there is no entry at main.
#[derive(Debug)]
struct Failed {
    reason: String,
    /// Whether the next run need not try again.
    noted: bool,
}

impl Failed {
    /// A reason that will be there the next time.
    fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), noted: true }
    }

    /// A reason that says nothing about the program.
    fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), noted: false }
    }
}

/// Takes the right to capture, if there is something to capture.
fn claim(lookup: &mut Lookup, options: &Options, log: &mut Log) -> Result<(), Failed> {
    lookup.save_digests();
    if options.policy != Policy::Refresh {
        match lookup.find() {
            Found::Entry => return Err(Failed::passing("there is an entry already")),
            Found::Unusable(reason) => log.line(&format!("the entry there is: {reason}")),
            Found::Nothing => {}
        }
        if let Some(reason) = lookup.refused_lately() {
            return Err(Failed::passing(format!("{reason} (--refresh tries again)")));
        }
    }
    lookup.claim().map_err(Failed::passing)
}

/// Why a tier was not reached.
#[derive(Debug)]
enum Setback {
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
struct Maker<'a> {
    lookup: &'a Lookup,
    whole: Command,
    line: JvmLine,
    options: &'a Options,
    training: Option<&'a Training>,
    /// The lines of arguments to train with.
    lines: Vec<Vec<OsString>>,
    scratch: Option<Scratch>,
    /// Where the copy is, and other files that are soon gone.
    workspace: Staging,
    agent: PathBuf,
    streams: [Stream; 3],
    inherited: Inherited,
    /// When all of it has to be done.
    end: Instant,
    /// What is linked if training is of no use.
    classes: Vec<Vec<u8>>,
    log: &'a mut Log,
}

impl<'a> Maker<'a> {
    fn new(
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
    fn make(mut self) -> Result<Tier, Failed> {
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
            Warmth::Trained => self.train(&mut session, &references, &mut tier)?,
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

    fn setting(&self, patience: Duration) -> Setting<'_> {
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
    fn cold(&self, arguments: &[OsString]) -> Command {
        let mut argv = self.line.jvm.clone();
        argv.extend(arguments.iter().cloned());
        Command { argv, env: self.whole.env.clone(), cwd: self.directory().to_owned() }
    }

    /// Returns the working directory of training.
    fn directory(&self) -> &Path {
        self.scratch.as_ref().map_or(&self.whole.cwd, Scratch::path)
    }

    fn renew_scratch(&mut self) -> Result<(), Setback> {
        match &mut self.scratch {
            Some(scratch) => scratch.renew().map_err(|error| Setback::Lower(error.to_string())),
            None => Ok(()),
        }
    }

    /// Runs each line of arguments once in a JVM of its own, as a cold run.
    fn references(&mut self) -> Result<Vec<Reference>, Setback> {
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

    /// Trains, and compares each run with a cold one.
    fn train(
        &mut self,
        session: &mut Session,
        references: &[Reference],
        tier: &mut Tier,
    ) -> Result<(), Setback> {
        let Some(training) = self.training else { return Ok(()) };
        let wait_ms = u32::try_from(LEFT_THREADS.as_millis()).unwrap_or(u32::MAX);
        for round in 1..=training.runs {
            for reference in references {
                self.renew_scratch()?;
                self.log.line(&format!(
                    "training, run {round} of {}: {}",
                    training.runs,
                    fidelity::shown(&reference.arguments)
                ));
                let command = self.cold(&reference.arguments);
                let order = Order::Train {
                    wait_ms,
                    command: Delivery {
                        args: reference.arguments.clone(),
                        argv: command.argv,
                        env: command.env,
                        cwd: command.cwd,
                    },
                };
                let patience = self.options.capture_timeout;
                let left = self.end.saturating_duration_since(Instant::now());
                let ran = session
                    .train(&order, patience.min(left))
                    .map_err(|reason| Setback::Lower(format!("training run {round}: {reason}")))?;
                tier.runs += 1;
                let files = self.scratch.as_ref().map(Scratch::digest);
                let Some(difference) = reference.difference(&ran, files.as_ref()) else { continue };
                let reason = format!("training run {round} {difference}");
                if training.allow_stateful {
                    tier.reason.get_or_insert(format!("{reason}; --allow-stateful"));
                    continue;
                }
                self.record_classes(session);
                return Err(Setback::Lower(reason));
            }
        }
        Ok(())
    }

    /// Asks for the classes of a JVM that will not be captured.
    fn record_classes(&mut self, session: &mut Session) {
        if let Ok(agent::Report::Classes(classes)) = session.order(&Order::Classes, ORDER) {
            self.log.line(&format!("{} classes were recorded", classes.len()));
            self.classes = classes;
            self.classes.truncate(CLASSES_MAX);
        }
    }

    fn link(&mut self, session: &mut Session) -> Result<(), Setback> {
        let order = Order::Link(std::mem::take(&mut self.classes));
        match session.order(&order, ORDER) {
            Ok(agent::Report::End(end)) if end.how != agent::How::Refused => {
                self.log.line(&format!("{} classes were linked", end.code));
                Ok(())
            }
            Ok(other) => Err(Setback::Lower(format!("linking: {other:?}"))),
            Err(reason) => Err(Setback::Lower(format!("linking: {reason}"))),
        }
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

    /// Restores what was made and compares it with a cold run: the entry is
    /// removed if it does not behave like one.
    fn prove(&mut self, references: &[Reference], tier: &mut Tier) -> Result<(), Setback> {
        let stateful = self.training.is_some_and(|training| training.allow_stateful);
        for reference in references {
            self.renew_scratch()?;
            self.log.line(&format!("a restored run: {}", fidelity::shown(&reference.arguments)));
            match self.restored(&reference.arguments) {
                Ok(ran) => {
                    let files = self.scratch.as_ref().map(Scratch::digest);
                    let Some(difference) = reference.difference(&ran, files.as_ref()) else {
                        continue;
                    };
                    let reason = format!("a restored run {difference}");
                    if stateful {
                        tier.reason.get_or_insert(format!("{reason}; --allow-stateful"));
                        continue;
                    }
                    self.lookup.remove();
                    return Err(Setback::Lower(reason));
                }
                // Nothing was found out about the entry.
                Err(reason) => {
                    self.log.line(&format!("not compared: {reason}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Says what a restored run of the command does otherwise than a cold one.
    fn compare(&mut self) -> Result<Option<String>, Failed> {
        self.lines.truncate(1);
        let references = match self.references() {
            Ok(references) => references,
            Err(Setback::Lower(reason)) => return Err(Failed::passing(reason)),
            Err(Setback::Failed(failed)) => return Err(failed),
        };
        for reference in &references {
            if let Err(Setback::Lower(reason)) = self.renew_scratch() {
                return Err(Failed::passing(reason));
            }
            let ran = self.restored(&reference.arguments).map_err(Failed::passing)?;
            let files = self.scratch.as_ref().map(Scratch::digest);
            if let Some(difference) = reference.difference(&ran, files.as_ref()) {
                return Ok(Some(format!("a restored run {difference}")));
            }
        }
        Ok(None)
    }

    /// Runs a line of arguments from the entry.
    fn restored(&self, arguments: &[OsString]) -> Result<session::Ran, String> {
        let status_file = self.workspace.image_dir().join("status");
        let mut command = self.cold(arguments);
        let mut argv: Vec<OsString> =
            ["warmstart", "run", "-q", "--at", "main"].map(Into::into).into();
        argv.extend(self.options.words.iter().cloned());
        argv.extend(["--require-warm".into(), "--status-file".into(), status_file.clone().into()]);
        argv.push("--".into());
        argv.extend(self.line.typed(&self.whole, arguments));
        command.argv = argv;
        let setting = self.setting(self.options.capture_timeout);
        let ran = session::run(&command, Some(Path::new("/proc/self/exe")), &setting);
        let status = std::fs::read_to_string(&status_file);
        let _ = std::fs::remove_file(&status_file);
        match status {
            Ok(status) if status.contains(r#""outcome":"restored""#) => ran,
            _ => Err("it could not be restored here".into()),
        }
    }
}

fn name(warmth: Warmth) -> &'static str {
    match warmth {
        Warmth::Untrained => "captured",
        Warmth::Linked => "linked",
        Warmth::Trained => "trained",
    }
}
