//! All probes of a run together.

use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::IDLE_WINDOW;
use super::file::is_newer;
use super::http::Http;
use super::idle::Idle;
use super::log::{Log, Source};
use super::notify::NotifySocket;
use super::pace::{Pace, thread_cpu};
use super::port::Listeners;
use super::probe::Probe;
use super::processes::{Program, State};
use super::sockets::Sockets;
use super::target::Target;

/// How far a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is ready.
    Ready {
        /// Which probes say so, in one line.
        by: String,
    },
    /// It is not ready yet.
    Waiting {
        /// What for, in one line.
        on: String,
    },
    /// It has ended.
    Gone,
}

/// Which probes must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// All that the user asked for.
    All,
    /// All, unless READY=1 comes first: the default.
    AllOrNotify,
}

/// Watches a cold-started program until it is ready.
#[derive(Debug)]
pub struct Monitor {
    target: Target,
    rule: Rule,
    checks: Vec<Check>,
    notify: Option<NotifySocket>,
    program: Program,
    /// Only if a probe asks for ports.
    network: Option<(Sockets, Listeners)>,
    port: Option<u16>,
    pace: Pace,
}

/// A probe with its state.
#[derive(Debug)]
struct Check {
    probe: Probe,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Notify,
    Port(Option<u16>),
    Http(Box<Http>),
    Log(Box<Log>),
    File(PathBuf),
    Idle(Idle),
    Delay(Duration),
}

impl Monitor {
    /// Begins to watch; without probes the default rule applies: READY=1 if it
    /// comes, else a listening TCP socket and an idle program.
    ///
    /// A `notify` probe needs the socket; see
    /// [`wants_socket`](super::wants_socket) for when to make one.
    pub fn new(probes: &[Probe], target: Target, notify: Option<NotifySocket>) -> Self {
        let (rule, probes) = match probes {
            [] => (Rule::AllOrNotify, vec![Probe::Port(None), Probe::Idle(IDLE_WINDOW)]),
            probes => (Rule::All, probes.to_vec()),
        };
        let checks: Vec<Check> =
            probes.into_iter().map(|probe| Check::new(probe, &target)).collect();
        let network = checks
            .iter()
            .any(|check| matches!(check.kind, Kind::Port(_) | Kind::Http(_)))
            .then(|| (Sockets::new(target.pid), Listeners::new()));
        Self {
            rule,
            checks,
            notify,
            program: Program::new(target.pid),
            network,
            port: None,
            pace: Pace::new(target.started.at),
            target,
        }
    }

    /// Looks at the program; never waits, and costs some 10 to 200 µs.
    pub fn poll(&mut self, now: Instant) -> Readiness {
        let before = thread_cpu();
        let readiness = self.look(now);
        self.pace.spent(thread_cpu().saturating_sub(before));
        readiness
    }

    fn look(&mut self, now: Instant) -> Readiness {
        let state = self.program.state();
        // Even if it has ended: its last words are passed on.
        if let Some(notify) = &mut self.notify {
            notify.relay(self.target.pid);
        }
        if state == State::Gone {
            return Readiness::Gone;
        }
        if let Some((sockets, listeners)) = &mut self.network {
            listeners.refresh(now, &mut self.program, sockets);
        }
        let mut missing = Vec::new();
        for at in 0..self.checks.len() {
            // Every check is looked at each time: they collect as they go.
            if let Err(on) = self.check(at, state, now) {
                missing.push(on);
            }
        }
        let notified = self.notify.as_ref().is_some_and(NotifySocket::is_ready);
        if self.rule == Rule::AllOrNotify && notified {
            return Readiness::Ready { by: Probe::Notify.to_string() };
        }
        if missing.is_empty() {
            let by: Vec<String> = self.checks.iter().map(|check| check.probe.to_string()).collect();
            return Readiness::Ready { by: by.join(" and ") };
        }
        let or = match (self.rule, &self.notify) {
            (Rule::AllOrNotify, Some(_)) => format!(", or {}", Probe::Notify.waits_for()),
            _ => String::new(),
        };
        Readiness::Waiting { on: missing.join("; ") + &or }
    }

    /// Looks at one probe; the error says what it waits for.
    fn check(&mut self, at: usize, state: State, now: Instant) -> Result<(), String> {
        let Some(check) = self.checks.get_mut(at) else { return Ok(()) };
        let mut why_not = String::new();
        let holds = match (&mut check.kind, &mut self.network) {
            (Kind::Notify, _) => match &self.notify {
                Some(notify) => notify.is_ready(),
                None => {
                    why_not.push_str("there is no notify socket");
                    false
                }
            },
            (Kind::Port(port), Some((_, listeners))) => {
                let held = listeners.held(*port, now);
                self.port = held.or(self.port);
                held.is_some()
            }
            (Kind::Http(http), Some((sockets, listeners))) => {
                self.port = Some(http.url().port());
                let holds = http.holds(now, listeners, &mut self.program, sockets);
                http.why_not().clone_into(&mut why_not);
                holds
            }
            (Kind::Port(_) | Kind::Http(_), None) => false,
            (Kind::Log(log), _) => log.holds(now),
            (Kind::File(path), _) => is_newer(path, self.target.started.wall),
            (Kind::Idle(idle), _) if state == State::Stopped => {
                idle.reset();
                false
            }
            (Kind::Idle(idle), _) => {
                let used = self.program.cpu(now);
                idle.quiet(now, used) && idle.at_rest(self.program.is_held_up())
            }
            (Kind::Delay(delay), _) => {
                now.saturating_duration_since(self.target.started.at) >= *delay
            }
        };
        match holds {
            true => Ok(()),
            false if why_not.is_empty() => Err(check.probe.waits_for()),
            false => Err(format!("{} ({why_not})", check.probe.waits_for())),
        }
    }

    /// Takes what the program wrote, for `log` probes; chunks may be cut
    /// anywhere.
    pub fn output(&mut self, source: Source, bytes: &[u8]) {
        let now = Instant::now();
        for check in &mut self.checks {
            if let Kind::Log(log) = &mut check.kind {
                log.output(source, bytes, now);
            }
        }
    }

    /// Tells whether the program's output has to be relayed through us.
    pub fn wants_output(&self) -> bool {
        self.checks.iter().any(|check| matches!(check.kind, Kind::Log(_)))
    }

    /// Returns descriptors that make a poll worthwhile before
    /// [`next_poll`](Self::next_poll) is over; they change from poll to poll.
    pub fn fds(&self) -> Vec<PollFd<'_>> {
        let notify = self.notify.iter().filter(|notify| !notify.is_stuck());
        let notify = notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN));
        let http = self.checks.iter().filter_map(|check| match &check.kind {
            Kind::Http(http) => http.events(),
            _ => None,
        });
        notify.chain(http.map(|(fd, events)| PollFd::new(fd, events))).collect()
    }

    /// Returns how long to wait for the next poll: 10 to 20 ms, longer where
    /// polling is expensive, so that it costs less than 1% of a CPU.
    pub fn next_poll(&self) -> Duration {
        let now = Instant::now();
        let pause = self.pace.pause(now);
        let dues = self.checks.iter().filter_map(|check| match check.kind {
            Kind::Delay(delay) => (self.target.started.at + delay).checked_duration_since(now),
            _ => None,
        });
        dues.fold(pause, Duration::min)
    }

    /// Returns the port that the program was found to serve, for
    /// [`Warmup::start`](super::Warmup::start).
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Gives the notify socket back, which is to be relayed as long as the
    /// program runs.
    pub fn into_notify(self) -> Option<NotifySocket> {
        self.notify
    }
}

impl Check {
    fn new(probe: Probe, target: &Target) -> Self {
        let kind = match &probe {
            Probe::Notify => Kind::Notify,
            Probe::Port(port) => Kind::Port(*port),
            Probe::Http(url) => Kind::Http(Box::new(Http::new(url.clone()))),
            Probe::Log(regex) => Kind::Log(Box::new(Log::new(regex.clone()))),
            Probe::File(path) => Kind::File(target.cwd.join(path)),
            Probe::Idle(window) => Kind::Idle(Idle::new(*window)),
            Probe::Delay(delay) => Kind::Delay(*delay),
        };
        Self { probe, kind }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { by } => write!(f, "ready by {by}"),
            Self::Waiting { on } => write!(f, "waiting for {on}"),
            Self::Gone => f.write_str("ended before it was ready"),
        }
    }
}
