//! `port[:N]`: the program listens on a TCP port, found without connecting.

use std::time::{Duration, Instant};

use super::PORT_HELD;
use super::processes::{Holder, Program, own_sockets};
use super::sockets::{Sockets, States};

/// How often to look again whether a listening socket of another program has
/// become this one's: a child that was just born may not have been seen.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The listening sockets of the program.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Sockets that we hold ourselves: a program that inherited one of them
    /// from the caller has not begun to listen, the caller had.
    inherited: Vec<u64>,
    seen: Vec<Listener>,
    looked: Option<Instant>,
}

/// A listening socket of the machine.
#[derive(Debug)]
struct Listener {
    inode: u64,
    port: u16,
    /// Who of the program holds it, and since when.
    held: Option<(Holder, Instant)>,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { inherited: own_sockets(), seen: Vec::new(), looked: None }
    }

    /// Looks who listens now.
    pub(super) fn refresh(&mut self, now: Instant, program: &mut Program, sockets: &mut Sockets) {
        let listening = sockets.list(States::LISTENING);
        self.seen.retain(|seen| listening.iter().any(|socket| socket.inode == seen.inode));
        let mut look = false;
        for socket in listening {
            if socket.inode != 0
                && !self.inherited.contains(&socket.inode)
                && !self.seen.iter().any(|seen| seen.inode == socket.inode)
            {
                let (inode, port) = (socket.inode, socket.local_port);
                self.seen.push(Listener { inode, port, held: None });
                look = true;
            }
        }
        // A socket that its holder closed may still be held by a child.
        let lost = |l: &Listener| l.held.is_some_and(|(holder, _)| !holder.holds(l.inode));
        if look || self.seen.iter().any(lost) {
            program.doubt();
            look = true;
        }
        let due = self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AGAIN);
        if look || (due && self.seen.iter().any(|l| l.held.is_none())) {
            self.look(now, program);
        }
    }

    /// Matches listening sockets with the program's descriptors.
    fn look(&mut self, now: Instant, program: &mut Program) {
        let held = program.sockets(now);
        for listener in &mut self.seen {
            let since = listener.held.map_or(now, |(_, since)| since);
            listener.held = held.get(&listener.inode).map(|&holder| (holder, since));
        }
        self.looked = Some(now);
    }

    /// Returns the lowest port that the program listens on now, be it this one
    /// or any.
    pub(super) fn open(&self, port: Option<u16>) -> Option<u16> {
        self.lowest(port, |_| true)
    }

    /// Returns the lowest port that the program has listened on for
    /// [`PORT_HELD`], be it this one or any.
    pub(super) fn held(&self, port: Option<u16>, now: Instant) -> Option<u16> {
        self.lowest(port, |since| now.saturating_duration_since(since) >= PORT_HELD)
    }

    fn lowest(&self, port: Option<u16>, ripe: impl Fn(Instant) -> bool) -> Option<u16> {
        self.seen
            .iter()
            .filter(|l| l.held.is_some_and(|(_, since)| ripe(since)))
            .map(|l| l.port)
            .filter(|&open| port.is_none_or(|wanted| wanted == open))
            .min()
    }
}
