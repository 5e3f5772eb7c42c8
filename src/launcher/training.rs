//! Captures a JVM at `main`, in the second process of a run ([`super::aside`]).
//!
//! A JVM of ours is started with the agent, up to its call of `main`. If that
//! was asked for, `main` runs some times before the capture, and what it prints
//! is compared with what a cold run prints, under the same conditions. A
//! difference says that the program keeps state: then its classes are loaded
//! and linked in another JVM, in which nothing of the program has run, and
//! that one is captured. What cannot be done leaves the next lower tier, and
//! the reason is kept with the entry.

mod drill;
mod fidelity;
mod log;
mod maker;
mod proof;
mod scratch;
mod session;
mod streams;

use self::log::Log;
use self::maker::Maker;
use super::aside::Report;
use super::hit::{self, Caller, Found, Lookup};
use super::probing::chain;
use super::{Options, Policy, run};
use crate::command::Command;
use crate::fingerprint::{Point, Stream};
use crate::sys::process::{self, Inherited};

/// How the reason of an entry ends that is used in spite of it.
const STATEFUL: &str = "--allow-stateful";

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
            if options.verify_every.is_some() {
                // That of the capture stays.
                let mut log = Log::new(lookup.log_path().with_extension("verify.log"));
                return verify(&mut lookup, options, streams, inherited, &mut log);
            }
            let mut log = Log::new(lookup.log_path());
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
                Ok(tier) => Report { entry, reason: tier.reason.clone(), tier: Some(tier) },
                Err(Failed { reason, noted }) => {
                    if noted {
                        lookup.note_refusal(&reason);
                    }
                    Report { entry, reason: Some(reason), tier: None }
                }
            }
        }
        Err(reason) => Report { reason: Some(chain(&reason)), ..Report::default() },
    };
    let status = u8::from(report.tier.is_none());
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
        Ok(None) => {
            log.line("a restored run did what a cold one does");
            0
        }
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
