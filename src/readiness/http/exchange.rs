//! One request and its answer, in steps that never wait.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket,
    sockopt,
};

use super::response::Response;

/// How long an answer may take. Generous: the first request is often the one
/// that makes a server load half of itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer whose length is not known may go on.
const ENDLESS: Duration = Duration::from_secs(3);
/// How long a server that was asked to close may take to do so, before our
/// side is closed, and again afterwards before the connection is reset.
const CLOSING: Duration = Duration::from_millis(200);

/// A connection to the program.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
    request: Vec<u8>,
    response: Response,
    begun: Instant,
    answered: Option<Instant>,
    /// The answer is complete, our side may be half closed.
    closing: Option<(Instant, HalfClosed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HalfClosed {
    No,
    Yes,
}

/// What has become of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    Pending,
    /// It is over, and this was the status or what went wrong.
    Over(Result<u16, String>),
}

impl Exchange {
    /// Begins to connect.
    pub(super) fn begin(
        address: SocketAddr,
        request: Vec<u8>,
        now: Instant,
    ) -> Result<Self, Errno> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None)?;
        let connected = match address {
            SocketAddr::V4(address) => connect(socket.as_raw_fd(), &SockaddrIn::from(address)),
            SocketAddr::V6(address) => connect(socket.as_raw_fd(), &SockaddrIn6::from(address)),
        };
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Self {
            stream: TcpStream::from(socket),
            request,
            response: Response::default(),
            begun: now,
            answered: None,
            closing: None,
        })
    }

    /// Returns our port, which tells the program's end of the connection from
    /// its others.
    pub(super) fn port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }

    /// Returns what to wait for.
    pub(super) fn events(&self) -> (BorrowedFd<'_>, PollFlags) {
        let events = if self.request.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        (self.stream.as_fd(), events)
    }

    /// Tells whether the program has begun to answer.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Sends and receives what can be now.
    pub(super) fn advance(&mut self, now: Instant) -> Progress {
        match self.transfer(now) {
            Ok(Progress::Pending) => self.watch_time(now),
            Ok(over) => over,
            // A reset after the answer is a way to close.
            Err(_) if self.response.is_complete() => self.over(),
            Err(wrong) => Progress::Over(Err(wrong)),
        }
    }

    fn transfer(&mut self, now: Instant) -> Result<Progress, String> {
        while !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(len) => drop(self.request.drain(..len)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Connecting still, or the server reads slowly.
                Err(error) if is_later(&error) => return Ok(Progress::Pending),
                Err(error) => return Err(error.to_string()),
            }
        }
        let mut buffer = [0; 4096];
        // Bounded, so that a server that sends without end cannot hold the
        // launcher.
        for _ in 0..64 {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(self.over()),
                Ok(len) => {
                    self.answered.get_or_insert(now);
                    self.response.add(&buffer[..len])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Progress::Pending)
    }

    /// Ends an exchange that takes too long, and asks a server to close that
    /// does not by itself.
    fn watch_time(&mut self, now: Instant) -> Progress {
        let since = |at: Instant| now.saturating_duration_since(at);
        let endless = self.answered.is_some_and(|at| since(at) >= ENDLESS);
        let enough = self.response.is_complete() || (endless && self.response.status().is_some());
        match self.closing {
            None if enough => self.closing = Some((now, HalfClosed::No)),
            None if since(self.begun) >= PATIENCE => {
                return Progress::Over(Err(format!("no answer in {} s", PATIENCE.as_secs())));
            }
            None => {}
            Some((at, HalfClosed::No)) if since(at) >= CLOSING => {
                // An error means that the server has closed meanwhile: the next
                // read shows it.
                let _ = self.stream.shutdown(Shutdown::Write);
                self.closing = Some((now, HalfClosed::Yes));
            }
            Some((at, HalfClosed::Yes)) if since(at) >= CLOSING => return self.over(),
            Some(_) => {}
        }
        Progress::Pending
    }

    fn over(&self) -> Progress {
        Progress::Over(
            self.response.status().ok_or_else(|| "it closed without an answer".to_owned()),
        )
    }
}

impl Drop for Exchange {
    /// Resets the connection (`SO_LINGER`, `socket(7)`).
    ///
    /// The server has closed its end by now, or does not care. A reset leaves
    /// no TIME_WAIT on either side, which would keep a restored server without
    /// SO_REUSEADDR from its own port for a minute.
    fn drop(&mut self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = setsockopt(&self.stream, sockopt::Linger, &linger);
    }
}

fn is_later(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOTCONN)
}
