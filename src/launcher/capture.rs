//! From a cold start to an entry, beside the relay.
//!
//! A capture is a row of stages that [`Capture::step`] moves along, each step
//! short but one: the freeze, which is waited for. The image is written and
//! committed on a thread of its own. Whatever goes wrong ends the capture and
//! leaves the program alone.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::outcome::{Herald, Outcome, Status};
use crate::readiness::{NotifySocket, Source};
use crate::snapshot::{Outlook, Refusal};
use crate::sys::process;

/// The first pause after a refusal that may pass, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a program that has ended waits for its entry to be committed.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// How often a stopped program or a running warmup is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What the probes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All hold.
    Ready(String),
    /// Not yet; asks to be looked at again after the pause.
    Waiting(Duration),
    /// The program is gone.
    Gone,
}

/// Writes and commits; one line if it cannot.
pub type Job = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What a capture is made with.
pub trait Parts {
    /// Asks the probes.
    fn readiness(&mut self) -> Readiness;
    /// Shows the program's output to the probes.
    fn output(&mut self, source: Source, bytes: &[u8]);
    /// Adds what the probes wait for.
    fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>);
    /// Starts the next warmup; `None` if there is none left.
    fn start_warmup(&mut self) -> Option<Result<(), String>>;
    /// Asks the running warmup how it went; `None` while it runs.
    fn poll_warmup(&mut self) -> Option<Result<(), String>>;
    /// Freezes the program, reads it and lets it go on.
    fn freeze(&mut self) -> Result<Job, Refusal>;
    /// Remembers that the command was refused for good.
    fn note_refusal(&mut self, reason: &str);
    /// Hands over the socket that the program notifies, once the probes no
    /// longer need it: it is to be served as long as the program runs.
    fn take_notify(&mut self) -> Option<NotifySocket>;
    /// Returns the engine that will restore what was frozen, and why it is not
    /// the native one, if nobody asked for another.
    fn engine(&self) -> (&'static str, Option<String>);
    /// Lets go of what only a capture needs: locks, unfinished files.
    fn release(&mut self);
    /// Returns the id of the entry, there or to be, once it is known.
    fn entry(&self) -> Option<String>;
}

enum Stage {
    Waiting,
    Warming,
    Freezing { deadline: Instant, next: Instant, pause: Duration },
    Writing { result: Receiver<Result<(), String>>, done: OwnedFd },
    Over,
}

/// The capture of one program.
pub struct Capture<'a> {
    parts: Box<dyn Parts + 'a>,
    stage: Stage,
    patience: Duration,
    herald: &'a Herald,
    status: Status,
    /// Why the last try failed: that is said once.
    said: String,
}

impl fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("status", &self.status).finish_non_exhaustive()
    }
}

impl<'a> Capture<'a> {
    /// Makes the capture of a program that has just been started; `status` is
    /// what has been recorded about it, `patience` how long refusals that may
    /// pass are waited out.
    pub fn new(
        parts: Box<dyn Parts + 'a>,
        patience: Duration,
        herald: &'a Herald,
        status: Status,
    ) -> Self {
        let said = String::new();
        Self { parts, stage: Stage::Waiting, patience, herald, status, said }
    }

    /// Does what is due; returns when to come back, if not only by an event.
    pub fn step(&mut self, stopped: bool) -> Option<Duration> {
        loop {
            match &mut self.stage {
                Stage::Waiting => match self.parts.readiness() {
                    Readiness::Waiting(pause) => return Some(pause),
                    Readiness::Gone => self.over(),
                    Readiness::Ready(by) => {
                        self.herald.detail(&format!("ready: {by}"));
                        self.warm_up();
                    }
                },
                Stage::Warming => match self.parts.poll_warmup() {
                    None => return Some(LOOK),
                    Some(Ok(())) => self.warm_up(),
                    Some(Err(reason)) => self.not_warmed(&reason),
                },
                Stage::Freezing { .. } if stopped => return Some(LOOK),
                Stage::Freezing { deadline, next, pause } => {
                    let wait = next.saturating_duration_since(Instant::now());
                    if !wait.is_zero() {
                        return Some(wait);
                    }
                    let (deadline, pause) = (*deadline, *pause);
                    self.freeze(deadline, pause);
                }
                Stage::Writing { result, .. } => match result.try_recv() {
                    Ok(result) => self.written(result),
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => self.written(Err(PANIC.into())),
                },
                Stage::Over => return None,
            }
        }
    }

    /// Shows the program's output to the probes.
    pub fn output(&mut self, source: Source, bytes: &[u8]) {
        self.parts.output(source, bytes);
    }

    /// Hands over the socket that the program notifies, when it is free.
    pub fn take_notify(&mut self) -> Option<NotifySocket> {
        match self.stage {
            Stage::Waiting => None,
            _ => self.parts.take_notify(),
        }
    }

    /// Tells whether there is an entry now.
    pub fn is_committed(&self) -> bool {
        self.status.outcome == Outcome::Captured
    }

    /// Adds what the relay has to wait for.
    pub fn interests<'f>(&'f self, fds: &mut Vec<PollFd<'f>>) {
        self.parts.interests(fds);
        if let Stage::Writing { done, .. } = &self.stage {
            fds.push(PollFd::new(done.as_fd(), PollFlags::POLLIN));
        }
    }

    /// The program was told to end: it is not what one would want to have
    /// back. An image that was read before is.
    pub fn told_to_end(&mut self, signal: i32) {
        if matches!(self.stage, Stage::Waiting | Stage::Warming | Stage::Freezing { .. }) {
            let name =
                nix::sys::signal::Signal::try_from(signal).map_or("a signal", |s| s.as_str());
            // What stood in the way until now may do so in every run.
            if !self.said.is_empty() {
                self.parts.note_refusal(&self.said);
            }
            self.refused(&format!("{name} told it to end before it was captured"));
        }
    }

    /// The program has ended: an image that is already read is still written.
    pub fn program_ended(&mut self) {
        match &self.stage {
            Stage::Writing { result, .. } => match result.recv_timeout(LAST_COMMIT) {
                Ok(result) => self.written(result),
                Err(RecvTimeoutError::Disconnected) => self.written(Err(PANIC.into())),
                Err(RecvTimeoutError::Timeout) => {
                    self.refused("the program ended before its image was written");
                }
            },
            Stage::Over => {}
            _ => self.herald.detail("the program ended before it was captured"),
        }
    }

    fn warm_up(&mut self) {
        match self.parts.start_warmup() {
            Some(Ok(())) => self.stage = Stage::Warming,
            Some(Err(reason)) => self.not_warmed(&reason),
            None => {
                let now = Instant::now();
                let deadline = now + self.patience;
                self.stage = Stage::Freezing { deadline, next: now, pause: PAUSES.0 };
            }
        }
    }

    /// Ends the capture of a program that was not warmed up as was asked for.
    fn not_warmed(&mut self, reason: &str) {
        self.parts.note_refusal(reason);
        self.refused(reason);
    }

    fn freeze(&mut self, deadline: Instant, pause: Duration) {
        match self.parts.freeze() {
            Ok(job) => match start(job) {
                Ok(stage) => self.stage = stage,
                Err(error) => self.refused(&format!("no thread to write the image: {error}")),
            },
            Err(refusal) if refusal.outlook == Outlook::Lasting => {
                self.parts.note_refusal(&refusal.reason);
                self.refused(&refusal.reason);
            }
            Err(refusal) => {
                let next = Instant::now() + pause;
                if next > deadline {
                    let reason = format!("{} (for {:?})", refusal.reason, self.patience);
                    self.parts.note_refusal(&reason);
                    self.refused(&reason);
                } else {
                    if self.said != refusal.reason {
                        self.herald.detail(&format!("not captured yet: {}", refusal.reason));
                        self.said = refusal.reason;
                    }
                    let pause = (pause * 2).min(PAUSES.1);
                    self.stage = Stage::Freezing { deadline, next, pause };
                }
            }
        }
    }

    fn written(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.status.outcome = Outcome::Captured;
                self.status.entry = self.parts.entry().or(self.status.entry.take());
                let (engine, reason) = self.parts.engine();
                self.status.engine = Some(engine);
                self.status.reason = reason;
                self.herald.record(&self.status);
                self.herald.detail("captured");
                self.over();
            }
            Err(reason) => self.refused(&reason),
        }
    }

    fn refused(&mut self, reason: &str) {
        self.status.reason = Some(reason.to_owned());
        self.herald.record(&self.status);
        self.herald.detail(&format!("not captured: {reason}"));
        self.over();
    }

    fn over(&mut self) {
        self.parts.release();
        self.stage = Stage::Over;
    }
}

const PANIC: &str = "writing the image failed";

/// Starts the job on a thread; the descriptor of the stage shows its end.
fn start(job: Job) -> std::io::Result<Stage> {
    let (done, end) = process::pipe()?;
    let (sender, result) = sync_channel(1);
    process::thread("warmstart-write").spawn(move || {
        // Nobody listens any more if the launcher gave up.
        let _ = sender.send(job());
        drop(end);
    })?;
    Ok(Stage::Writing { result, done })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Parts that answer from lists and keep a diary.
    struct Script {
        readiness: Vec<Readiness>,
        warmups: Vec<Result<(), String>>,
        freezes: Vec<Result<Job, Refusal>>,
        diary: Rc<RefCell<Vec<String>>>,
    }

    impl Script {
        fn note(&self, text: impl Into<String>) {
            self.diary.borrow_mut().push(text.into());
        }
    }

    impl Parts for Script {
        fn readiness(&mut self) -> Readiness {
            self.readiness.remove(0)
        }
        fn output(&mut self, _: Source, _: &[u8]) {}
        fn interests<'a>(&'a self, _: &mut Vec<PollFd<'a>>) {}
        fn start_warmup(&mut self) -> Option<Result<(), String>> {
            (!self.warmups.is_empty()).then(|| {
                self.note("warmup");
                Ok(())
            })
        }
        fn poll_warmup(&mut self) -> Option<Result<(), String>> {
            Some(self.warmups.remove(0))
        }
        fn freeze(&mut self) -> Result<Job, Refusal> {
            self.note("freeze");
            self.freezes.remove(0)
        }
        fn note_refusal(&mut self, reason: &str) {
            self.note(format!("refused {reason}"));
        }
        fn take_notify(&mut self) -> Option<NotifySocket> {
            None
        }
        fn engine(&self) -> (&'static str, Option<String>) {
            ("native", None)
        }
        fn release(&mut self) {
            self.note("release");
        }
        fn entry(&self) -> Option<String> {
            None
        }
    }

    fn ready() -> Vec<Readiness> {
        vec![Readiness::Waiting(Duration::from_millis(1)), Readiness::Ready("port".into())]
    }

    fn job(result: Result<(), String>) -> Result<Job, Refusal> {
        Ok(Box::new(move || result))
    }

    /// A job that is done when the other end of its channel is gone.
    fn gated() -> (std::sync::mpsc::Sender<()>, Result<Job, Refusal>) {
        let (gate, opened) = std::sync::mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = opened.recv();
            Ok(())
        });
        (gate, Ok(job))
    }

    /// Runs a script to its end; returns the diary and the status file.
    fn play(mut script: Script, patience: Duration) -> (Vec<String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status");
        let herald = Herald::new(-1, Some(file.clone()));
        let diary = Rc::default();
        script.diary = Rc::clone(&diary);
        let mut capture = Capture::new(Box::new(script), patience, &herald, Status::cold());
        let end = Instant::now() + Duration::from_secs(10);
        while capture.step(false).is_some() || !matches!(capture.stage, Stage::Over) {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        capture.program_ended();
        let diary = diary.borrow().clone();
        (diary, std::fs::read_to_string(file).unwrap_or_default())
    }

    fn script(warmups: Vec<Result<(), String>>, freezes: Vec<Result<Job, Refusal>>) -> Script {
        Script { readiness: ready(), warmups, freezes, diary: Rc::default() }
    }

    #[test]
    fn waits_warms_up_and_waits_out_what_passes() {
        let passing = || Err(Refusal::passing("a connection"));
        let script = script(vec![Ok(()), Ok(())], vec![passing(), passing(), job(Ok(()))]);
        let (diary, status) = play(script, Duration::from_secs(5));
        assert_eq!(diary, ["warmup", "warmup", "freeze", "freeze", "freeze", "release"]);
        assert!(status.contains(r#""outcome":"captured","engine":"native""#), "{status}");
    }

    #[test]
    fn gives_up_on_what_lasts() {
        let script = script(vec![], vec![Err(Refusal::lasting("fd 17 is a pipe"))]);
        let (diary, status) = play(script, Duration::from_secs(5));
        assert_eq!(diary, ["freeze", "refused fd 17 is a pipe", "release"]);
        assert!(status.contains(r#""reason":"fd 17 is a pipe""#), "{status}");
    }

    #[test]
    fn gives_up_when_patience_ends() {
        let freezes = (0..9).map(|_| Err(Refusal::passing("busy"))).collect();
        let (diary, status) = play(script(vec![], freezes), Duration::from_millis(200));
        // At 0, 50 and 150 ms.
        let noted = "refused busy (for 200ms)";
        assert_eq!(diary, ["freeze", "freeze", "freeze", noted, "release"]);
        assert!(status.contains("busy"), "{status}");
    }

    /// `cache ls` knew nothing of a server that has connections all day.
    #[test]
    fn what_stood_in_the_way_until_the_end_is_noted() {
        let herald = Herald::new(-1, None);
        let freezes = (0..2).map(|_| Err(Refusal::passing("a connection"))).collect();
        let parts = Box::new(script(vec![], freezes));
        let diary = Rc::clone(&parts.diary);
        let mut capture = Capture::new(parts, Duration::from_secs(9), &herald, Status::cold());
        while diary.borrow().is_empty() {
            capture.step(false);
        }
        capture.told_to_end(libc::SIGTERM);
        assert_eq!(*diary.borrow(), ["freeze", "refused a connection", "release"]);
    }

    #[test]
    fn a_failed_warmup_or_commit_is_told() {
        let failed = script(vec![Err("warmup failed".into())], vec![]);
        let (diary, status) = play(failed, Duration::ZERO);
        assert_eq!(diary, ["warmup", "refused warmup failed", "release"]);
        assert!(status.contains("warmup failed"));
        let (_, status) = play(script(vec![], vec![job(Err("disk full".into()))]), Duration::ZERO);
        assert!(status.contains(r#""outcome":"cold""#) && status.contains("disk full"));
        let panics: Job = Box::new(|| panic!("on purpose"));
        let (_, status) = play(script(vec![], vec![Ok(panics)]), Duration::ZERO);
        assert!(status.contains(PANIC));
    }

    #[test]
    fn finishes_the_commit_of_a_program_that_ended() {
        let (gate, slow) = gated();
        let dir = tempfile::tempdir().unwrap();
        let herald = Herald::new(-1, Some(dir.path().join("status")));
        let parts = Box::new(script(vec![], vec![slow]));
        let mut capture = Capture::new(parts, Duration::ZERO, &herald, Status::cold());
        while !matches!(capture.stage, Stage::Writing { .. }) {
            capture.step(false);
        }
        let opens = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(gate);
        });
        capture.program_ended();
        opens.join().unwrap();
        let status = std::fs::read_to_string(dir.path().join("status")).unwrap();
        assert!(status.contains("captured"));
    }

    /// A server that was stopped while it was captured came back to life only
    /// to go on ending, in every later run.
    #[test]
    fn a_program_that_is_ending_is_not_kept() {
        let herald = Herald::new(-1, None);
        let parts = Box::new(script(vec![], vec![job(Ok(()))]));
        let diary = Rc::clone(&parts.diary);
        let mut capture = Capture::new(parts, Duration::ZERO, &herald, Status::cold());
        capture.told_to_end(libc::SIGTERM);
        assert_eq!(capture.step(false), None);
        assert_eq!(*diary.borrow(), ["release"]);

        let (gate, reads) = gated();
        let parts = Box::new(script(vec![], vec![reads]));
        let diary = Rc::clone(&parts.diary);
        let mut capture = Capture::new(parts, Duration::ZERO, &herald, Status::cold());
        while !matches!(capture.stage, Stage::Writing { .. }) {
            capture.step(false);
        }
        // Too late: what was read before is good.
        capture.told_to_end(libc::SIGTERM);
        drop(gate);
        capture.program_ended();
        assert_eq!(*diary.borrow(), ["freeze", "release"]);
    }

    #[test]
    fn a_stopped_program_is_not_frozen() {
        let herald = Herald::new(-1, None);
        let parts = Box::new(script(vec![], vec![job(Ok(()))]));
        let diary = Rc::clone(&parts.diary);
        let mut capture = Capture::new(parts, Duration::ZERO, &herald, Status::cold());
        capture.step(true);
        assert_eq!(capture.step(true), Some(LOOK));
        assert!(diary.borrow().is_empty());
        capture.step(false);
        assert_eq!(*diary.borrow(), ["freeze"]);
    }
}
