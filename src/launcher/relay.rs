//! The time between the program's start and its end: signals there, status
//! back.
//!
//! The launcher and the program share session and process group, so what a
//! terminal sends (Ctrl-C, Ctrl-Z, hang-up) reaches both and must not be
//! passed on; what somebody sends to our pid was meant for the program and
//! must be. `si_code` tells one from the other. A signal that somebody sends
//! to the whole group by `kill(2)` looks like one to our pid alone and
//! reaches the program twice: nothing tells them apart.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::capture::Capture;
use super::stdio::Tap;
use crate::readiness::NotifySocket;
use crate::sys::process::{self, Change};
use crate::sys::signals::{self, Mask, Received, SignalFd};

/// Signals that cannot be relayed: SIGKILL and SIGSTOP cannot be received,
/// and the rest are how our own faults show.
const NOT_RELAYED: [i32; 8] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The last signal's number on Linux.
const LAST_SIGNAL: i32 = 64;

/// How soon the caller's notify socket is tried again when it was full.
const STUCK: Duration = Duration::from_millis(20);

/// Returns the signals that the relay handles: all that are blocked before a
/// program is started or restored.
pub fn handled() -> Mask {
    let mut numbers = [0; LAST_SIGNAL as usize];
    for (slot, signal) in numbers.iter_mut().zip(1..) {
        *slot = if NOT_RELAYED.contains(&signal) { 0 } else { signal };
    }
    Mask::of(&numbers)
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status.
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
    /// Nobody knows: its status was taken from us.
    Unknown,
}

/// Signals that ask a program to end.
pub const ENDS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// What is to be done about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// The program has it already, or it was not meant for it.
    Nothing,
    /// Send it to the program.
    Forward,
    /// See what became of the program.
    Wait,
    /// See that the program goes on.
    Continue,
    /// See that a tap has the terminal's size.
    Window,
}

/// Decides about a signal.
fn deed(received: &Received, program: i32, own: i32, leads_session: bool) -> Deed {
    let from_kernel = received.code == libc::SI_KERNEL;
    match received.signal {
        libc::SIGCHLD => Deed::Wait,
        _ if !from_kernel && (received.sender == program || received.sender == own) => {
            // A program that signals its parent or its group, or our own
            // write to a closed pipe.
            Deed::Nothing
        }
        libc::SIGWINCH => Deed::Window,
        // A hang-up goes to the session's leader alone (tty_io.c), which a
        // plain start would have made the program.
        libc::SIGHUP | libc::SIGCONT if from_kernel && leads_session => Deed::Forward,
        libc::SIGCONT if !from_kernel => Deed::Continue,
        libc::SIGINT
        | libc::SIGQUIT
        | libc::SIGTSTP
        | libc::SIGTTIN
        | libc::SIGTTOU
        | libc::SIGHUP
        | libc::SIGCONT
        // Our own limits; the program has its own.
        | libc::SIGXCPU
        | libc::SIGXFSZ
            if from_kernel =>
        {
            Deed::Nothing
        }
        // An alarm(2) that was set before our exec is the kernel's, too.
        _ => Deed::Forward,
    }
}

/// The relay of one program, which is our child.
#[derive(Debug)]
pub struct Relay {
    program: i32,
    signals: SignalFd,
    tap: Tap,
    /// Where the program notifies, to be passed on.
    notify: Option<NotifySocket>,
    /// Whether the program is stopped.
    stopped: bool,
    /// Whether we have been stopped with it: the SIGCONT that ended that went
    /// to the group.
    rejoined: bool,
    /// The first signal that asked the program to end.
    told_to_end: Option<i32>,
    ending: Option<Ending>,
}

impl Relay {
    /// Makes the relay; the signals of [`handled`] must be blocked since
    /// before the program started.
    pub fn new(program: i32, tap: Tap, notify: Option<NotifySocket>) -> std::io::Result<Self> {
        let signals = SignalFd::new(&handled())?;
        Ok(Self {
            program,
            signals,
            tap,
            notify,
            stopped: false,
            rejoined: false,
            told_to_end: None,
            ending: None,
        })
    }

    /// Relays until the program ends; does the steps of a capture meanwhile.
    pub fn run(mut self, mut capture: Option<&mut Capture<'_>>) -> Ending {
        self.wait();
        let ending = loop {
            if let Some(ending) = self.ending {
                break ending;
            }
            let mut pause = None;
            if let Some(capture) = &mut capture {
                if let Some(signal) = self.told_to_end {
                    capture.told_to_end(signal);
                }
                pause = capture.step(self.stopped);
                self.notify = capture.take_notify().or(self.notify.take());
            }
            self.sleep(capture.as_deref(), pause);
            self.tap.pump(&mut |source, bytes| {
                if let Some(capture) = &mut capture {
                    capture.output(source, bytes);
                }
            });
            self.take_signals();
            // Also after its end: a program's last words are passed on.
            if let Some(notify) = &mut self.notify {
                notify.relay(self.program);
            }
        };
        self.drain();
        if let Some(capture) = capture {
            capture.program_ended();
        }
        ending
    }

    /// Waits until something may have happened.
    fn sleep(&self, capture: Option<&Capture<'_>>, mut pause: Option<Duration>) {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.tap.interests());
        match &self.notify {
            Some(notify) if notify.is_stuck() => pause = Some(pause.unwrap_or(STUCK).min(STUCK)),
            Some(notify) => fds.push(PollFd::new(notify.as_fd(), PollFlags::POLLIN)),
            None => {}
        }
        if let Some(capture) = capture {
            capture.interests(&mut fds);
        }
        wait_for(&mut fds, pause);
    }

    fn take_signals(&mut self) {
        while let Some(received) = self.signals.next() {
            let own = std::process::id() as i32;
            if ENDS.contains(&received.signal) && received.sender != self.program {
                self.told_to_end.get_or_insert(received.signal);
            }
            match deed(&received, self.program, own, process::leads_session()) {
                Deed::Nothing => {}
                Deed::Wait => self.wait(),
                Deed::Forward => self.forward(&received),
                Deed::Continue => self.carry_on(&received),
                Deed::Window => {
                    let tell_again = self.tap.window_changed();
                    if tell_again || received.code != libc::SI_KERNEL {
                        self.forward(&received);
                    }
                }
            }
        }
    }

    /// Sends a signal on. That the program is gone will show by itself, and
    /// what we may not send to it (a setuid program), nobody else who may
    /// signal us could have.
    fn forward(&self, received: &Received) {
        if self.ending.is_some() {
            return;
        }
        let _ = match received.code {
            libc::SI_QUEUE => signals::queue(self.program, received.signal, received.value),
            _ => signals::send(self.program, received.signal),
        };
    }

    /// Takes all changes of the program's state.
    fn wait(&mut self) {
        while self.ending.is_none() {
            match process::changed(self.program) {
                Ok(None) => return,
                Ok(Some(Change::Exited(status))) => self.ending = Some(Ending::Exited(status)),
                Ok(Some(Change::Killed(signal))) => self.ending = Some(Ending::Killed(signal)),
                Ok(Some(Change::Continued)) => self.stopped = false,
                Ok(Some(Change::Stopped(signal))) => {
                    self.stopped = true;
                    self.stop_too(signal);
                }
                Err(_) => self.ending = Some(Ending::Unknown),
            }
        }
    }

    /// Stops as the program was stopped, so that a shell notices.
    ///
    /// SIGSTOP never comes from a terminal: somebody who stops the program by
    /// its pid will continue it by its pid, which would not wake us. Only
    /// where a shell with job control is our parent is it shown the stop.
    fn stop_too(&mut self, signal: i32) {
        let by_terminal = matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
        if !(by_terminal || signal == libc::SIGSTOP && is_shell_job()) {
            return;
        }
        self.tap.pump(&mut |_, _| ());
        process::stop_by(signal);
        self.rejoined = true;
    }

    /// Somebody continued us: the whole group, or us alone.
    fn carry_on(&mut self, received: &Received) {
        // The kernel signals a group one process after the other; the
        // program's turn may be yet to come.
        for _ in 0..20 {
            self.wait();
            if !self.stopped || self.ending.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if self.stopped || !self.rejoined {
            self.forward(received);
        }
        self.rejoined = false;
    }

    /// Passes on the program's last output; a signal that would have ended
    /// the program ends the wait for a slow reader.
    fn drain(&mut self) {
        let tap = std::mem::take(&mut self.tap);
        tap.drain(self.signals.as_fd(), &mut || {
            let mut received = std::iter::from_fn(|| self.signals.next());
            !received.any(|received| ENDS.contains(&received.signal))
        });
    }
}

/// Polls; rounds a pause up to the next millisecond.
fn wait_for(fds: &mut [PollFd<'_>], pause: Option<Duration>) {
    let timeout = match pause {
        None => PollTimeout::NONE,
        Some(pause) => {
            let ms = pause.as_micros().div_ceil(1000).min(60_000) as u16;
            PollTimeout::from(ms)
        }
    };
    // An error (EINTR, no memory) only means to look again.
    if poll(fds, timeout).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether our parent is a shell that controls us as a job: in our session,
/// but not in our process group.
fn is_shell_job() -> bool {
    use nix::unistd::{getpgid, getpgrp, getppid, getsid};
    let parent = getppid();
    getpgid(Some(parent)).is_ok_and(|group| group != getpgrp())
        && getsid(Some(parent)).ok() == getsid(None).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: i32 = 100;
    const OWN: i32 = 99;

    fn decide(signal: i32, code: i32, sender: i32, leads_session: bool) -> Deed {
        deed(&Received { signal, code, sender, value: 0 }, PROGRAM, OWN, leads_session)
    }

    #[test]
    fn what_the_terminal_sends_is_not_sent_twice() {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGHUP, libc::SIGCONT] {
            assert_eq!(decide(signal, libc::SI_KERNEL, 0, false), Deed::Nothing);
        }
        assert_eq!(decide(libc::SIGHUP, libc::SI_KERNEL, 0, true), Deed::Forward);
    }

    #[test]
    fn what_somebody_sends_is_forwarded() {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGTSTP, libc::SIGUSR1, 40] {
            for code in [libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE] {
                assert_eq!(decide(signal, code, 7, false), Deed::Forward);
            }
        }
        assert_eq!(decide(libc::SIGCONT, libc::SI_USER, 7, false), Deed::Continue);
        assert_eq!(decide(libc::SIGALRM, libc::SI_KERNEL, 0, false), Deed::Forward);
    }

    #[test]
    fn what_the_program_sends_is_not_sent_back() {
        assert_eq!(decide(libc::SIGUSR1, libc::SI_USER, PROGRAM, false), Deed::Nothing);
        assert_eq!(decide(libc::SIGPIPE, libc::SI_USER, OWN, false), Deed::Nothing);
        assert_eq!(decide(libc::SIGCHLD, libc::CLD_EXITED, PROGRAM, false), Deed::Wait);
    }

    #[test]
    fn faults_are_our_own() {
        assert!(!handled().contains(libc::SIGSEGV) && !handled().contains(libc::SIGKILL));
        assert!(handled().contains(libc::SIGTERM) && handled().contains(40));
    }
}
