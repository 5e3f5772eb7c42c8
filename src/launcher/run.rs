//! The course of one run.

mod at_main;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::capture::Capture;
use super::engine::Engines;
use super::hit::{Found, Lookup, NoLookup};
use super::outcome::{Herald, Outcome, Status, ms};
use super::parts::{Key, Place, Running};
use super::probing::{self, Probing};
use super::relay::{self, Ending, Relay};
use super::stdio::{self, Tap};
use super::terminal::{Entered, Mode};
use super::{CapturePoint, OWN_FAILURE, Options, Policy, descriptors, hit, spawn};
use crate::command::Command;
use crate::fingerprint::{Host, Point, Stream};
use crate::pids::Strategy;
use crate::pids::range::RangeError;
use crate::privilege;
use crate::readiness::{Probe, Started, Target};
use crate::restore::{CannotRestore, Restored};
use crate::snapshot::{FileId, StdinAtStart, StdioOrigin};
use crate::sys::process::{self, Inherited, SpawnError};
use crate::sys::{self, signals};

/// Signals that a caller may have ignored for the program, as `nohup(1)` and
/// shells do; asking about all of them would cost a call each.
const IGNORABLE: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGXFSZ,
    libc::SIGWINCH,
];

/// What runs longer than this until it is told to end is taken for a server.
const SERVES: Duration = Duration::from_secs(10);

/// Differences from the nearest entry that are told.
const DIFFERENCES_MAX: usize = 12;

/// One run of a command.
pub struct Run {
    command: Command,
    options: Options,
    /// Signals and standard descriptors as the caller gave them.
    inherited: Inherited,
    /// The signals that the caller ignores.
    ignored: Vec<i32>,
    /// The caller's descriptors above 2, those of `--keep-fd` included.
    passed: Vec<RawFd>,
    herald: Herald,
    status: Status,
    /// What 0, 1 and 2 are, if the program is to be captured at main once it
    /// has ended.
    later: Option<[Stream; 3]>,
    /// What 0, 1 and 2 were at the start, once that is known.
    streams: Option<[Stream; 3]>,
    /// The log of a capture at main, there or to be.
    log: Option<PathBuf>,
}

/// A program that is restored.
struct Back {
    restored: Restored,
    began: Instant,
    /// Its terminal, if it had changed the mode of that.
    terminal: Option<Entered>,
}

/// How long a restored program may take to be where it was, before it is told
/// that its window has another size.
const WINDOW_PAUSE: Duration = Duration::from_millis(20);

/// How a cold start is to be done.
enum Start {
    /// By `execve` in our place.
    Plain,
    /// As a child that is captured.
    Captured(Box<Lookup>),
    /// As a child that is captured at main in a second process, once it has
    /// ended.
    Followed,
}

impl Run {
    /// Takes stock of what the caller gave us.
    pub fn new(command: Command, options: Options) -> Self {
        let herald = Herald::new(options.verbosity, options.status_file.clone());
        let inherited = Inherited::now();
        let ignored = ignored_signals(&inherited);
        let (passed, status) = (Vec::new(), Status::cold());
        let (later, streams, log) = (None, None, None);
        Self { command, options, inherited, ignored, passed, herald, status, later, streams, log }
    }

    /// Runs; returns the exit status, if there is a process left to have one.
    pub fn go(mut self) -> u8 {
        match sys::descriptors::inheritable() {
            Ok(passed) => self.passed = passed,
            // Without /proc nothing can be said about the descriptors.
            Err(error) => {
                return self.refuse(format!("cannot list /proc/self/fd: {error}"), Start::Plain);
            }
        }
        let open = |fd: &RawFd| *fd < 3 || self.passed.contains(fd);
        if let Some(fd) = self.options.keep.iter().find(|fd| **fd < 0 || !open(fd)) {
            self.herald.fail(&format!("--keep-fd {fd}: descriptor {fd} is not open"));
            return OWN_FAILURE;
        }
        if let Some(reason) = self.reason_for_plain() {
            self.herald.detail(&format!("neither restored nor captured: {reason}"));
            self.status.reason = Some(reason);
            return match self.options.policy {
                Policy::RequireWarm => self.require_warm(),
                _ => self.start(Start::Plain),
            };
        }
        let host = self.host();
        self.streams = Some(host.streams);
        if self.options.at == CapturePoint::Main {
            return self.go_at_main(host);
        }
        let reason = match hit::look_up(&self.command, &self.options, host, Point::Ready) {
            Ok(lookup) => return self.looked_up(Box::new(lookup)),
            Err(reason) => reason,
        };
        // Not even its own files are known: one at main may be there all the
        // same.
        let host = match &reason {
            NoLookup::Unread(unread) => Some(unread.host().clone()),
            NoLookup::NoEntry => Some(self.host()),
            _ => None,
        };
        match host.and_then(|host| self.found_at_main(host)) {
            Some(lookup) => self.looked_up(lookup),
            None => self.no_lookup(reason),
        }
    }

    /// Looks at machine and caller.
    fn host(&self) -> Host {
        hit::host(hit::Caller {
            closed_stdio: self.inherited.closed_stdio,
            ignored: &self.ignored,
            blocked: self.inherited.mask.signals(),
        })
    }

    /// Starts without an entry, since there is no key.
    fn no_lookup(mut self, reason: NoLookup) -> u8 {
        match reason {
            // There is nothing to restore, or the start will say what is wrong.
            NoLookup::NoCache | NoLookup::NoEntry | NoLookup::NoProgram => {
                self.status.reason = Some(reason.to_string());
                match (self.options.policy, reason) {
                    (Policy::RequireWarm, NoLookup::NoCache | NoLookup::NoEntry) => {
                        self.require_warm()
                    }
                    _ => self.start(Start::Plain),
                }
            }
            NoLookup::Unread(unread) => {
                self.status.reason = Some("no entry yet".into());
                self.status.timings_ms.lookup = ms(sys::start::age());
                self.herald.detail("started cold: no entry yet; its files are read meanwhile");
                self.start_captured(Key::Unread(unread))
            }
            reason => self.refuse(probing::chain(&reason), Start::Plain),
        }
    }

    fn reason_for_plain(&self) -> Option<String> {
        let unkept: Vec<_> =
            self.passed.iter().copied().filter(|fd| !self.options.keep.contains(fd)).collect();
        descriptors::reason_for_plain(&self.command, &unkept, std::process::id())
    }

    /// Goes on with a key.
    fn looked_up(mut self, mut lookup: Box<Lookup>) -> u8 {
        self.status.entry = Some(lookup.id());
        let found = match self.options.policy {
            Policy::Refresh => Found::Nothing,
            _ => lookup.find(),
        };
        let is_at_main = lookup.line().is_some();
        if !matches!(found, Found::Entry)
            && !is_at_main
            && let Some(at_main) = self.found_at_main(lookup.host().clone())
        {
            return self.looked_up(at_main);
        }
        self.status.timings_ms.lookup = ms(sys::start::age());
        match found {
            Found::Entry => match self.restore(&lookup) {
                Ok(back) => self.restored(back, lookup),
                Err(reason) => {
                    self.inherited.mask.set();
                    let is_worth = is_worth_a_capture(&reason, &mut lookup);
                    let start = if is_worth && !is_at_main {
                        Start::Captured(lookup)
                    } else {
                        lookup.save_digests();
                        self.later = self.later.filter(|_| is_worth);
                        if is_worth { Start::Followed } else { Start::Plain }
                    };
                    self.refuse(reason.to_string(), start)
                }
            },
            Found::Unusable(reason) if is_at_main => self.refuse(reason, Start::Followed),
            Found::Unusable(reason) => self.refuse(reason, Start::Captured(lookup)),
            Found::Nothing => {
                if let Some(reason) = lookup.retired().filter(|_| self.later.is_some()) {
                    return self.refuse(reason, Start::Plain);
                }
                self.tell_miss(&lookup);
                match self.options.policy {
                    Policy::RequireWarm => self.require_warm(),
                    _ if is_at_main => {
                        lookup.save_digests();
                        self.start(Start::Followed)
                    }
                    _ => self.start(Start::Captured(lookup)),
                }
            }
        }
    }

    fn tell_miss(&mut self, lookup: &Lookup) {
        let reason = match self.options.policy {
            Policy::Refresh => "asked to capture anew",
            _ => "no entry yet",
        };
        self.status.reason = Some(reason.to_owned());
        if !self.herald.is_quiet() {
            self.herald.detail(&format!("started cold: {reason} ({})", lookup.id()));
            let differences = lookup.differences();
            // With more, it is another command's entry.
            if differences.len() <= DIFFERENCES_MAX {
                differences.iter().for_each(|difference| self.herald.detail(difference));
            }
            if let Some(log) = lookup.log() {
                self.herald.detail(&format!("the last capture at main: {}", log.display()));
            }
        }
    }

    fn restore(&mut self, lookup: &Lookup) -> Result<Back, CannotRestore> {
        self.block_signals();
        let began = Instant::now();
        let closed = self.inherited.closed_stdio;
        let terminal = lookup.terminal().and_then(|mode| Entered::new(&mode));
        let restored = lookup.restore(&self.options, &self.ignored, closed);
        self.status.timings_ms.restore = ms(began.elapsed());
        Ok(Back { restored: restored?, began, terminal })
    }

    fn restored(mut self, back: Back, mut lookup: Box<Lookup>) -> u8 {
        let Back { restored, began, terminal } = back;
        let resized = terminal.is_some_and(Entered::keep);
        self.status.outcome = Outcome::Restored;
        self.status.engine = Some(restored.engine.name());
        self.status.reason = lookup.why_not_native();
        self.status.pids = Some(restored.pids.name());
        self.status.app_pid = restored.app_pid;
        self.status.timings_ms.lookup += ms(restored.before_clone);
        self.status.timings_ms.restore = ms(restored.total.saturating_sub(restored.before_clone));
        self.status.timings_ms.total =
            ms(sys::start::age().saturating_sub(began.elapsed()) + restored.total);
        self.herald.record(&self.status);
        privilege::give_up();
        let tier = lookup.tier().map(|tier| format!(" ({tier})")).unwrap_or_default();
        self.herald.detail(&format!("restored {} as pid {}{tier}", lookup.id(), restored.pid));
        let notify = lookup
            .notify()
            .and_then(|notify| probing::renotify(&notify.path, notify.notified, &self.command));
        let every = self.options.verify_every.filter(|_| lookup.line().is_some());
        let verify = every.is_some_and(|every| lookup.restores().is_multiple_of(u64::from(every)));
        lookup.finish_hit();
        stdio::let_go(self.herald.is_quiet());
        stdio::let_go_of(&self.passed);
        if resized {
            // A signal that comes before it waits again interrupts nothing.
            std::thread::sleep(WINDOW_PAUSE);
            let _ = kill(Pid::from_raw(restored.pid), Signal::SIGWINCH);
        }
        match Relay::new(restored.pid, Tap::default(), notify) {
            Ok(relay) => {
                let ending = relay.run(None);
                restored.leave();
                if verify && matches!(ending, Ending::Exited(_)) {
                    self.verify();
                }
                if self.options.at == CapturePoint::Auto
                    && at_main::was_stopped(ending)
                    && began.elapsed() > SERVES
                {
                    lookup.note_server();
                }
                end_like(ending)
            }
            Err(error) => {
                self.herald.fail(&format!("signalfd: {error}"));
                OWN_FAILURE
            }
        }
    }

    /// Blocks what the relay handles, and sees that the kernel keeps our
    /// child's status for us.
    fn block_signals(&self) {
        relay::handled().block();
        if self.inherited.sigchld_ignored {
            signals::set_default(libc::SIGCHLD);
        }
    }

    /// Starts cold for a reason that is said, or does not.
    fn refuse(mut self, reason: String, start: Start) -> u8 {
        self.status.reason = Some(reason);
        if self.options.policy == Policy::RequireWarm {
            return self.require_warm();
        }
        let reason = self.status.reason.as_deref().unwrap_or_default();
        self.herald.say(&format!("started cold: {reason}"));
        self.start(start)
    }

    fn require_warm(self) -> u8 {
        let reason = self.status.reason.as_deref().unwrap_or("no entry");
        self.herald.fail(&format!("not restored, as --require-warm asks: {reason}"));
        OWN_FAILURE
    }

    fn start(self, start: Start) -> u8 {
        match start {
            Start::Captured(mut lookup) if self.options.policy != Policy::NoCapture => {
                match lookup.claim() {
                    Ok(()) => self.start_captured(Key::Known(lookup)),
                    Err(reason) => self.not_captured(reason),
                }
            }
            Start::Followed if self.later.is_some() => self.start_followed(),
            _ => self.start_plain(),
        }
    }

    fn start_plain(mut self) -> u8 {
        let exec = match spawn::prepare(&self.command) {
            Ok(exec) => exec,
            Err(error) => return self.cannot_execute(&error.into()),
        };
        self.status.app_pid = std::process::id() as i32;
        self.status.timings_ms.total = ms(sys::start::age());
        self.herald.record(&self.status);
        let error = exec.become_program(&self.inherited);
        self.cannot_execute(&error)
    }

    fn start_captured(mut self, key: Key) -> u8 {
        let mut command = self.command.clone();
        let ready = &self.options.ready;
        let notify = match probing::notify_socket(ready, &mut command, &self.options.cache_dir) {
            Ok(notify) => notify,
            Err(error) => return self.not_captured(probing::chain(&error)),
        };
        let exec = match spawn::prepare(&command) {
            Ok(exec) => exec,
            Err(error) => return self.cannot_execute(&error.into()),
        };
        let (tap, ends) = match self.tap() {
            Ok(tap) => tap,
            Err(error) => return self.not_captured(format!("cannot see its output: {error}")),
        };
        self.block_signals();
        let started = Started::now();
        let stdio = ends.each_ref().map(|end| end.as_ref().map(AsRawFd::as_raw_fd));
        let stdin = match self.inherited.closed_stdio[0] {
            true => StdinAtStart::Other,
            false => StdinAtStart::of(std::io::stdin()),
        };
        let terminal = Mode::ours();
        let origins = self.origins(&ends);
        let uses_pids = self.options.pids.iter().any(|way| *way != Strategy::Namespace);
        let mark = uses_pids.then(|| key.mark());
        let started_as = spawn::placed(exec, &self.inherited, mark, stdio);
        let (pid, placed) = match started_as {
            Ok(started) => started,
            Err(SpawnError::Exec(error)) => return self.cannot_execute(&error),
            Err(error) => return self.not_captured(error.to_string()),
        };
        // Before any thread of ours is made; but the cursor is put back with it.
        if placed.is_none() {
            privilege::give_up();
        }
        let passed = self.passed.iter().filter_map(|fd| Some((*fd, FileId::numbered(*fd).ok()?)));
        let passed: Vec<_> = passed.collect();
        drop(ends);
        self.status.app_pid = pid;
        self.status.timings_ms.total = ms(sys::start::age());
        self.herald.record(&self.status);
        // A warmup's output goes to our stderr.
        let quiet = self.herald.is_quiet() && self.options.warmup.is_empty();
        stdio::let_go_but_files(quiet);
        stdio::let_go_of(&self.passed);
        let notify_path = notify.as_ref().map(|notify| notify.path().to_owned());
        let target = Target { pid, started, cwd: self.command.cwd.clone() };
        let parts = Running {
            pid,
            probing: Probing::new(ready, &self.options.warmup, &self.command, target, notify),
            place: Place::new(key, notify_path),
            passed,
            keep: self.options.keep.clone(),
            tcp: self.options.tcp,
            stdio: origins,
            stdin,
            terminal,
            started: started.exact,
            placed,
            engines: Engines::of(&self.options),
            taken: None,
        };
        let patience = self.options.capture_timeout;
        let herald = self.herald.clone();
        let mut capture = Capture::new(Box::new(parts), patience, &herald, self.status.clone());
        match Relay::new(pid, tap, None) {
            Ok(relay) => {
                let ending = relay.run(Some(&mut capture));
                if !capture.is_committed() {
                    drop(capture);
                    self.follow(ending);
                }
                end_like(ending)
            }
            Err(error) => {
                self.herald.fail(&format!("signalfd: {error}"));
                OWN_FAILURE
            }
        }
    }

    /// Says what the program has as 0, 1 and 2, given the ends of a tap.
    fn origins(&self, ends: &[Option<OwnedFd>; 3]) -> [StdioOrigin; 3] {
        std::array::from_fn(|index| {
            let fd = match &ends[index] {
                Some(end) => end.as_raw_fd(),
                None if self.inherited.closed_stdio[index] => return StdioOrigin::Closed,
                None => index as RawFd,
            };
            FileId::numbered(fd).map_or(StdioOrigin::Closed, |id| {
                let nonblocking = sys::descriptors::is_nonblocking(fd);
                StdioOrigin::Given { id, nonblocking }
            })
        })
    }

    /// Starts plain, since a capture cannot even be tried.
    fn not_captured(mut self, reason: String) -> u8 {
        self.herald.detail(&format!("not captured: {reason}"));
        self.status.reason = Some(reason);
        self.start_plain()
    }

    /// Makes the tap that the probes ask for.
    fn tap(&self) -> std::io::Result<(Tap, [Option<OwnedFd>; 3])> {
        if self.options.ready.iter().any(|probe| matches!(probe, Probe::Log(_))) {
            Tap::new(self.inherited.closed_stdio)
        } else {
            Ok((Tap::default(), [None, None, None]))
        }
    }

    fn cannot_execute(&self, error: &std::io::Error) -> u8 {
        self.herald.fail(&spawn::complaint(&self.command, error));
        spawn::exit_status(error)
    }
}

/// Finds out which signals the caller ignores.
pub fn ignored_signals(inherited: &Inherited) -> Vec<i32> {
    let ours = IGNORABLE.into_iter().filter(|&signal| signals::is_ignored(signal));
    // What the runtime or the relay changes is known from before.
    let changed =
        [(libc::SIGPIPE, inherited.sigpipe_ignored), (libc::SIGCHLD, inherited.sigchld_ignored)];
    ours.chain(changed.into_iter().filter_map(|(signal, ignored)| ignored.then_some(signal)))
        .collect()
}

/// Whether a new capture is to replace an entry that was not restored.
fn is_worth_a_capture(reason: &CannotRestore, lookup: &mut Lookup) -> bool {
    match reason {
        // The entry may be restored next time.
        CannotRestore::PidTaken(_)
        | CannotRestore::PidUnreaped(_)
        | CannotRestore::PidOvertaken(_)
        | CannotRestore::PidNotReached(_)
        | CannotRestore::NotPermitted
        | CannotRestore::NoWay(_)
        | CannotRestore::NoNamespaces(_)
        // As it may where there is no terminal.
        | CannotRestore::NotInNamespace(_)
        // It may be there again.
        | CannotRestore::NoEngine(_)
        // Another copy has the port, as the program will hear itself.
        | CannotRestore::AddressInUse(_) => false,
        // Another capture has clocks that suit.
        CannotRestore::OtherBoot => true,
        CannotRestore::PidsNotPermitted(
            RangeError::Untrusted { .. } | RangeError::Malformed { .. },
        ) => false,
        CannotRestore::Unusable(_) => true,
        // Where all pids are outside, a new capture would be of no use either.
        CannotRestore::PidsNotPermitted(RangeError::Outside { .. })
        | CannotRestore::Step { .. }
        | CannotRestore::Raced { .. }
        | CannotRestore::Deadline(_) => lookup.note_failed(reason),
    }
}

/// Ends as the program ended: returns its exit status, or dies by its signal.
pub fn end_like(ending: Ending) -> u8 {
    match ending {
        Ending::Exited(status) => status as u8,
        Ending::Killed(signal) => process::die_by(signal),
        Ending::Unknown => OWN_FAILURE,
    }
}
