//! What a capture of a run is made with.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::poll::PollFd;

use super::capture::{Job, Parts, Readiness};
use super::engine::{Engines, Taken};
use super::hit::{Lookup, Origin, Unread};
use super::inner;
use super::probing::Probing;
use super::terminal::Mode;
use crate::pids::placing::Placed;
use crate::privilege;
use crate::readiness::{NotifySocket, Source};
use crate::snapshot::{
    After, Capture, Children, FileId, OpenTcp, Refusal, StdinAtStart, StdioOrigin,
};
use crate::sys::process;

/// The key of a command that is started cold.
pub enum Key {
    /// Computed before the start; holds the right to capture.
    Known(Box<Lookup>),
    /// To be computed while the program runs.
    Unread(Box<Unread>),
}

/// What ends sooner is never captured: its files are not read.
const SHORT_RUN: Duration = Duration::from_millis(200);

impl Key {
    /// Returns bytes that are an entry's own: the beginning of its name, or of
    /// what stands for that.
    pub fn mark(&self) -> [u8; 8] {
        match self {
            Self::Known(lookup) => lookup.mark(),
            Self::Unread(unread) => unread.mark(),
        }
    }
}

/// Where an entry goes, as soon as that is known.
pub struct Place {
    state: State,
    id: Option<String>,
    notify: Option<PathBuf>,
}

enum State {
    Known(Box<Lookup>),
    Reading(JoinHandle<Result<Lookup, String>>),
    Gone,
}

impl Place {
    /// Makes the place, for a program that runs by now; `notify` is the path
    /// of the socket that it notifies.
    pub fn new(key: Key, notify: Option<PathBuf>) -> Self {
        let mut place = Self { state: State::Gone, id: None, notify };
        match key {
            Key::Known(mut lookup) => {
                lookup.save_digests();
                place.known(lookup);
            }
            Key::Unread(unread) => {
                let thread = process::thread("warmstart-read");
                let reading = thread.spawn(move || {
                    // The program's own start comes first: a short one would
                    // take half as long again beside it, for nothing.
                    process::be_nice();
                    std::thread::sleep(SHORT_RUN);
                    unread.read()
                });
                place.state = reading.map_or(State::Gone, State::Reading);
            }
        }
        place
    }

    fn known(&mut self, mut lookup: Box<Lookup>) {
        if let Some(notify) = &self.notify {
            lookup.set_notify(notify);
        }
        self.id = Some(lookup.id());
        self.state = State::Known(lookup);
    }

    /// Returns the lookup, once there is one.
    fn lookup(&mut self) -> Result<&Lookup, Refusal> {
        if let State::Reading(reading) = &self.state {
            if !reading.is_finished() {
                return Err(Refusal::passing("its files are still being read"));
            }
            let State::Reading(reading) = std::mem::replace(&mut self.state, State::Gone) else {
                return Err(Refusal::lasting("the capture is over"));
            };
            let read = reading.join().unwrap_or_else(|_| Err("reading its files failed".into()));
            self.known(Box::new(read.map_err(Refusal::lasting)?));
        }
        match &self.state {
            State::Known(lookup) => Ok(lookup),
            _ => Err(Refusal::lasting("the capture is over")),
        }
    }
}

/// The parts of a program that the user has started.
pub struct Running {
    /// The program.
    pub pid: i32,
    /// Its probes and warmups.
    pub probing: Probing,
    /// Where its entry goes.
    pub place: Place,
    /// The caller's descriptors above 2 that it was started with.
    pub passed: Vec<(RawFd, FileId)>,
    /// Those that a restore passes on.
    pub keep: Vec<RawFd>,
    /// What is done about open TCP connections.
    pub tcp: OpenTcp,
    /// What it was started with as 0, 1 and 2.
    pub stdio: [StdioOrigin; 3],
    /// How far 0 had been read then.
    pub stdin: StdinAtStart,
    /// The mode of the terminal that it was started on.
    pub terminal: Option<Mode>,
    /// When it was started.
    pub started: SystemTime,
    /// What puts the pid cursor back once its threads are all there.
    pub placed: Option<Placed>,
    /// What may capture and restore it.
    pub engines: Engines,
    /// The engine that has, and why it is not the native one.
    pub taken: Option<(&'static str, Option<String>)>,
}

impl Parts for Running {
    fn readiness(&mut self) -> Readiness {
        self.probing.readiness()
    }

    fn output(&mut self, source: Source, bytes: &[u8]) {
        self.probing.output(source, bytes);
    }

    fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        self.probing.interests(fds);
    }

    fn start_warmup(&mut self) -> Option<Result<(), String>> {
        self.probing.start_warmup()
    }

    fn poll_warmup(&mut self) -> Option<Result<(), String>> {
        self.probing.poll_warmup()
    }

    fn freeze(&mut self) -> Result<Job, Refusal> {
        let lookup = self.place.lookup()?;
        let draft = lookup.draft().map_err(Refusal::lasting)?;
        let captured_at = SystemTime::now();
        let running = inner::Running::of(self.pid);
        let taken = self.engines.freeze(&Capture {
            pid: self.pid,
            dir: draft.image_dir(),
            inherited: &self.passed,
            keep: &self.keep,
            stdio: self.stdio,
            stdin: self.stdin,
            started: Some(self.started),
            children: Children::Captured,
            tcp: self.tcp,
            after: After::Run,
        });
        match taken {
            Ok(Taken { write, engine, reason }) => {
                let running = running.map_err(|error| {
                    Refusal::passing(format!("its command cannot be read: {error}"))
                })?;
                // A shell may have been about to become something else.
                if inner::Running::of(self.pid).is_ok_and(|now| now.exe != running.exe) {
                    return Err(Refusal::passing("it was starting another program"));
                }
                let notified = self.probing.has_notified();
                let terminal = Mode::changed_by(self.pid, self.terminal.as_ref());
                self.taken = Some((engine, reason));
                Ok(Box::new(move || {
                    let snapshot = write().map_err(|refusal| refusal.reason)?;
                    draft.commit(
                        &snapshot,
                        Origin::Run { running, notified, terminal },
                        captured_at,
                    )
                }))
            }
            // The relay is about to learn it; nothing stood in the way.
            Err(_) if process::has_ended(self.pid) => Err(Refusal::passing("it has ended")),
            Err(refusal) => Err(refusal),
        }
    }

    fn note_refusal(&mut self, reason: &str) {
        if let Ok(lookup) = self.place.lookup() {
            lookup.note_refusal(reason);
        }
    }

    fn take_notify(&mut self) -> Option<NotifySocket> {
        self.probing.take_notify()
    }

    fn engine(&self) -> (&'static str, Option<String>) {
        self.taken.clone().unwrap_or(("native", None))
    }

    fn entry(&self) -> Option<String> {
        self.place.id.clone()
    }

    fn release(&mut self) {
        self.probing.stop();
        self.place.state = State::Gone;
        self.placed = None;
        privilege::give_up();
    }
}
