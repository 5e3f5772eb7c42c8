//! What a capture by the native engine is made with.

use std::os::fd::RawFd;
use std::time::SystemTime;

use nix::poll::PollFd;

use super::capture::{Job, Parts, Readiness};
use super::hit::{Lookup, Retire};
use super::probing::Probing;
use crate::readiness::{NotifySocket, Source};
use crate::snapshot::{self, After, FileId, Refusal, StdioOrigin};
use crate::sys::process;

/// The native engine's parts.
pub struct Native {
    /// The program.
    pub pid: i32,
    /// Its probes and warmups.
    pub probing: Probing,
    /// Where its entry goes; holds the right to capture it.
    pub lookup: Option<Lookup>,
    /// The way back, should the entry turn out to be bad.
    pub retire: Option<Retire>,
    /// The caller's descriptors above 2 that it was started with.
    pub passed: Vec<(RawFd, FileId)>,
    /// Those that a restore passes on.
    pub keep: Vec<RawFd>,
    /// What it was started with as 0, 1 and 2.
    pub stdio: [StdioOrigin; 3],
}

impl Parts for Native {
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
        let Some(lookup) = &self.lookup else {
            return Err(Refusal::lasting("the capture is over"));
        };
        let draft = lookup.draft().map_err(Refusal::lasting)?;
        let captured_at = SystemTime::now();
        let frozen = snapshot::freeze(&snapshot::Capture {
            pid: self.pid,
            dir: draft.image_dir(),
            inherited: &self.passed,
            keep: &self.keep,
            stdio: self.stdio,
            after: After::Run,
        });
        match frozen {
            Ok(frozen) => {
                let notified = self.probing.has_notified();
                Ok(Box::new(move || {
                    let snapshot = frozen.write().map_err(|refusal| refusal.reason)?;
                    draft.commit(&snapshot, captured_at, notified)
                }))
            }
            // The relay is about to learn it; nothing stood in the way.
            Err(_) if process::has_ended(self.pid) => Err(Refusal::passing("it has ended")),
            Err(refusal) => Err(refusal),
        }
    }

    fn note_refusal(&mut self, reason: &str) {
        if let Some(lookup) = &self.lookup {
            lookup.note_refusal(reason);
        }
    }

    fn take_notify(&mut self) -> Option<NotifySocket> {
        self.probing.take_notify()
    }

    fn retract(&mut self) {
        if let Some(retire) = self.retire.take() {
            retire.retire();
        }
    }

    fn release(&mut self) {
        self.probing.stop();
        self.lookup = None;
    }
}
