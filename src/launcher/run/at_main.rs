//! The part of a run that is about captures at `main`: an entry of that kind is
//! looked for, and one is made once the program has ended.

use super::super::aside::{self, Aside, Errand};
use super::super::hit::{self, Found, Lookup, NoLookup};
use super::super::outcome::{Outcome, ms};
use super::super::relay::{self, Ending, Relay};
use super::super::stdio::{self, Tap};
use super::super::{CapturePoint, OWN_FAILURE, Policy, spawn};
use super::{Run, Start, end_like};
use crate::fingerprint::{Host, Point};
use crate::privilege;
use crate::sys;
use crate::sys::process::{self, SpawnError};
use crate::ui;

impl Run {
    /// Runs a command that is captured at main only.
    pub(super) fn go_at_main(mut self, host: Host) -> u8 {
        let captures = matches!(self.options.policy, Policy::Auto | Policy::Refresh);
        let streams = Some(host.streams).filter(|_| captures);
        match hit::look_up(&self.command, &self.options, host, Point::Main) {
            Ok(lookup) => {
                self.later = streams;
                self.log = Some(lookup.log_path());
                self.looked_up(Box::new(lookup))
            }
            Err(NoLookup::Unread(_)) => {
                self.later = streams;
                self.status.reason = Some("no entry yet".into());
                self.herald.detail("started cold: no entry yet; its files were never read");
                self.start(Start::Followed)
            }
            Err(error) => self.no_lookup(error),
        }
    }

    /// Looks for an entry at main of a command that has none of its own.
    pub(super) fn found_at_main(&mut self, host: Host) -> Option<Box<Lookup>> {
        if self.options.at == CapturePoint::Ready {
            return None;
        }
        let streams = host.streams;
        let lookup = hit::look_up(&self.command, &self.options, host, Point::Main);
        if let (Ok(_) | Err(NoLookup::Unread(_)), Policy::Auto | Policy::Refresh) =
            (&lookup, self.options.policy)
        {
            self.later = Some(streams);
        }
        let mut lookup = Box::new(lookup.ok()?);
        self.log = Some(lookup.log_path());
        if self.options.policy == Policy::Refresh {
            return None;
        }
        matches!(lookup.find(), Found::Entry).then_some(lookup)
    }

    /// Has a restored run compared with a cold one, by a second process; what
    /// comes of it the next run says.
    pub(super) fn verify(&self) {
        let Some(streams) = self.streams else { return };
        let (command, options) = (&self.command, &self.options);
        // Nobody depends on it.
        let _ = aside::start(command, options, &streams, &self.inherited, Errand::Verify);
    }

    /// Starts the program as a child, only to know when it ends.
    pub(super) fn start_followed(mut self) -> u8 {
        let exec = match spawn::prepare(&self.command) {
            Ok(exec) => exec,
            Err(error) => return self.cannot_execute(&error.into()),
        };
        self.block_signals();
        let pid = match process::spawn(exec, &self.inherited, [None; 3]) {
            Ok(pid) => pid,
            Err(SpawnError::Exec(error)) => return self.cannot_execute(&error),
            Err(error) => return self.not_captured(error.to_string()),
        };
        privilege::give_up();
        self.status.app_pid = pid;
        self.status.timings_ms.total = ms(sys::start::age());
        self.herald.record(&self.status);
        stdio::let_go(self.herald.is_quiet() && !self.options.wait);
        stdio::let_go_of(&self.passed);
        match Relay::new(pid, Tap::default(), None) {
            Ok(relay) => {
                let ending = relay.run(None);
                self.follow(ending);
                end_like(ending)
            }
            Err(error) => {
                self.herald.fail(&format!("signalfd: {error}"));
                OWN_FAILURE
            }
        }
    }

    /// Sees to the capture at main of a program that has ended by itself.
    pub(super) fn follow(&mut self, ending: Ending) {
        let (Some(streams), Ending::Exited(_)) = (self.later, ending) else { return };
        if was_stopped(ending) {
            return;
        }
        let errand = if self.options.wait { Errand::Awaited } else { Errand::Capture };
        match aside::start(&self.command, &self.options, &streams, &self.inherited, errand) {
            Ok(aside) if errand == Errand::Awaited => {
                let report = self.waited_for(aside);
                if report.tier.is_some() {
                    self.status.outcome = Outcome::Captured;
                    self.status.engine = Some("native");
                }
                self.status.entry = report.entry.or(self.status.entry.take());
                self.status.reason = report.reason;
                self.herald.record(&self.status);
                match (&report.tier, &self.status.reason) {
                    (None, reason) => {
                        let reason = reason.as_deref().unwrap_or("the second process ended");
                        self.herald.say(&format!("not captured at main: {reason}"));
                    }
                    (Some(tier), None) => {
                        self.herald.detail(&format!("captured at main: {}", tier.line()));
                    }
                    // It is not what was asked for.
                    (Some(tier), Some(_)) => {
                        self.herald.say(&format!("captured at main: {}", tier.line()));
                    }
                }
            }
            Ok(_) => {
                let log = self.log.as_ref().map(|log| format!(": {}", log.display()));
                let log = log.unwrap_or_default();
                self.herald
                    .detail(&format!("it is being captured at main, by a second process{log}"));
            }
            Err(error) => self.herald.detail(&format!("not captured at main: {error}")),
        }
    }

    /// Waits for the second process, and shows how it gets on.
    pub(super) fn waited_for(&self, aside: Aside) -> aside::Report {
        // Whoever is tired of waiting may say so.
        self.inherited.mask.set();
        let progress = (self.options.verbosity == 0).then(ui::Progress::spinner);
        aside.wait(&mut |line| match &progress {
            Some(progress) => progress.say(line),
            None => self.herald.detail(line),
        })
    }
}

/// Whether a program ended because it was told to: a JVM ends with 128 and the
/// signal's number.
pub(super) fn was_stopped(ending: Ending) -> bool {
    relay::ENDS.iter().any(|&signal| match ending {
        Ending::Exited(status) => status == 128 + signal,
        Ending::Killed(by) => by == signal,
        Ending::Unknown => false,
    })
}
