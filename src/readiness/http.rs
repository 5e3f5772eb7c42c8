//! `http:URL`: the program answers a request.
//!
//! The only probe that talks to the program. It connects only once the
//! program itself listens on the port, and holds only when nothing of it is
//! left: no end of any connection of the probe is open in the program.

mod exchange;
mod response;
mod url;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

pub use url::Url;

use super::port::Listeners;
use super::processes::Program;
use super::sockets::{Sockets, States};
use exchange::{Exchange, Progress};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks whether the program still holds a connection of ours.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The state of one `http` probe.
#[derive(Debug)]
pub(super) struct Http {
    url: Url,
    exchange: Option<Exchange>,
    /// Which of the URL's addresses to ask.
    address: usize,
    rest_until: Option<Instant>,
    /// The program's ends of our connections, those of failed attempts too.
    ends: Vec<u64>,
    answered: bool,
    /// Why it does not hold yet.
    why_not: String,
}

impl Http {
    pub(super) fn new(url: Url) -> Self {
        Self {
            url,
            exchange: None,
            address: 0,
            rest_until: None,
            ends: Vec::new(),
            answered: false,
            why_not: String::new(),
        }
    }

    /// Takes a step, and tells whether the program has answered and nothing of
    /// the connection is left.
    pub(super) fn holds(
        &mut self,
        now: Instant,
        listeners: &Listeners,
        program: &mut Program,
        sockets: &mut Sockets,
    ) -> bool {
        if !self.answered {
            self.attempt(now, listeners, sockets);
        }
        if self.answered && !self.ends.is_empty() && !self.rests(now) {
            let held = program.sockets(now);
            self.ends.retain(|end| held.contains_key(end));
            self.rest_until = Some(now + LOOK_AGAIN);
            "the program still holds the probe's connection".clone_into(&mut self.why_not);
        }
        self.answered && self.ends.is_empty()
    }

    /// Goes on with an attempt, or begins one.
    fn attempt(&mut self, now: Instant, listeners: &Listeners, sockets: &mut Sockets) {
        if self.exchange.is_none() {
            if self.rests(now) {
                return;
            }
            let port = self.url.port();
            if listeners.open(Some(port)).is_none() {
                self.why_not = format!("the program does not listen on port {port}");
                return;
            }
            match Exchange::begin(self.url.address(self.address), self.url.request(), now) {
                Ok(exchange) => self.exchange = Some(exchange),
                Err(errno) => return self.failed(now, errno.desc().to_owned()),
            }
        }
        let Some(exchange) = &mut self.exchange else { return };
        let was_answered = exchange.is_answered();
        let progress = exchange.advance(now);
        // The program's end has an inode from its accept(2) on and until it is
        // closed. If it is not in the list at the first byte of the answer, it
        // has been closed already.
        let first_byte = exchange.is_answered() && !was_answered;
        if first_byte || progress != Progress::Pending {
            let (here, there) = (exchange.port(), self.url.port());
            let ends = sockets.list(States::CONNECTED).into_iter().filter(|socket| {
                socket.local_port == there && socket.remote_port == here && socket.inode != 0
            });
            for end in ends {
                if !self.ends.contains(&end.inode) {
                    self.ends.push(end.inode);
                }
            }
        }
        match progress {
            // While it tries again, the last failure says more.
            Progress::Pending if self.rest_until.is_some() => {}
            Progress::Pending => "no complete answer yet".clone_into(&mut self.why_not),
            Progress::Over(Ok(200..=499)) => {
                self.exchange = None;
                self.answered = true;
            }
            Progress::Over(Ok(status)) => self.failed(now, format!("the answer is {status}")),
            Progress::Over(Err(wrong)) => self.failed(now, wrong),
        }
    }

    fn failed(&mut self, now: Instant, why_not: String) {
        // Whoever answers, if badly, is the one to ask again.
        if !self.exchange.take().is_some_and(|exchange| exchange.is_answered()) {
            self.address = self.address.wrapping_add(1);
        }
        self.rest_until = Some(now + PAUSE);
        self.why_not = why_not;
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Returns the probe's URL.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Says why it does not hold yet.
    pub(super) fn why_not(&self) -> &str {
        &self.why_not
    }

    /// Returns what to wait for.
    pub(super) fn events(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.exchange.as_ref().map(Exchange::events)
    }
}
