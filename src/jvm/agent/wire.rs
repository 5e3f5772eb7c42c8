//! The messages between the trainer and the agent.
//!
//! A message is a little-endian `u32`, the length of its body, and the body.
//! The body's first byte is its kind. A string is a `u32` length and that many
//! bytes, a list is a `u32` count and so many strings.
//!
//! Whoever answers is a JVM in which a stranger's program has run: every
//! length is checked, and what is left over is an error.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The longest body of a message that is believed, in bytes: the names of all
/// classes of a large program are a few megabytes.
const BODY_MAX: u32 = 64 << 20;

/// A command as `main` is to see it: the real one, or one to train with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The whole command line, as `/proc/PID/cmdline` shows it.
    pub argv: Vec<OsString>,
    /// The program's arguments; what the launcher itself passes
    /// ([`MainReached::arguments`]) is put before them.
    pub args: Vec<OsString>,
    /// The whole environment, `NAME=value` each.
    pub env: Vec<OsString>,
    /// The working directory, absolute.
    pub cwd: PathBuf,
}

/// What the trainer asks of the agent, while that holds `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Runs `main` as training, then answers [`Report::End`].
    Train {
        /// How long threads that the program left running may take to end, in
        /// milliseconds.
        wait_ms: u32,
        /// With what.
        command: Delivery,
    },
    /// Asks for the loaded classes: [`Report::Classes`].
    Classes,
    /// Loads and links these classes (`a/b/C`) without initialising them, then
    /// answers [`Report::End`] with the number of those that are linked.
    Link(Vec<Vec<u8>>),
    /// Makes ready for a capture: [`Report::Ready`], and a read in which the
    /// main thread waits. The process is in `/` then.
    Prepare {
        /// How long the JVM gets for giving memory back, in milliseconds.
        settle_ms: u32,
    },
    /// Runs `main` for good. Nothing is answered any more: the descriptor is
    /// closed.
    Deliver {
        /// With what.
        command: Delivery,
        /// What the JVM prints at each start before it calls `main`, on stdout
        /// and stderr: it is printed again.
        printed: [String; 2],
    },
}

/// The launcher is about to call `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainReached {
    /// What the launcher passes by itself: empty if the JVM was started
    /// without arguments for the program.
    pub arguments: Vec<OsString>,
    /// The class whose `main` it is (`a.b.C`).
    pub class: OsString,
    /// The value of the property `sun.java.command`.
    pub command: OsString,
}

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// `main` returned, or the order was carried out.
    Returned,
    /// `System.exit`, `Runtime.exit` or `Runtime.halt` was called.
    Exited,
    /// `main` ended with an exception that nobody caught.
    Uncaught,
    /// Another thread called for the exit, and `main` was stopped.
    Stopped,
    /// This JVM must not be captured ([`End::reason`] says why).
    Refused,
}

/// The end of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub how: How,
    /// The exit status that a plain run would have ended with (1 after an
    /// uncaught exception); for [`Order::Link`] a number of classes.
    pub code: i32,
    /// Why it was refused; empty otherwise.
    pub reason: String,
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The JVM is up, and all is prepared for holding `main`.
    Hello {
        /// The version of the agent's messages ([`super::PROTOCOL`]).
        protocol: u32,
        /// The JVM's name and version, for people.
        vm: String,
    },
    /// This JVM cannot be served; it runs on as if there were no agent.
    Unfit(String),
    /// The launcher is about to call `main`; the agent waits for orders.
    Main(MainReached),
    /// An order was carried out.
    End(End),
    /// The loaded classes (`a/b/C`, in the class files' UTF-8).
    Classes(Vec<Vec<u8>>),
    /// The process may be captured: its main thread is in, or about to enter,
    /// a read.
    Ready,
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body is empty or longer than any message.
    #[error("a message of {0} bytes")]
    Length(u32),
    /// There is no such kind of message.
    #[error("a message of unknown kind {0:#04x}")]
    Kind(u8),
    /// The body ends in the middle of a field, or goes on behind the last.
    #[error("a message of kind {:?} is not well formed", *.0 as char)]
    Malformed(u8),
}

/// Makes a message of an order, with its length before it.
pub fn encode(order: &Order) -> Vec<u8> {
    let mut message = vec![0; 4];
    match order {
        Order::Train { wait_ms, command } => {
            message.push(b'T');
            message.extend_from_slice(&wait_ms.to_le_bytes());
            put_command(&mut message, command);
        }
        Order::Classes => message.push(b'C'),
        Order::Link(names) => {
            message.push(b'L');
            put_list(&mut message, names.iter().map(Vec::as_slice));
        }
        Order::Prepare { settle_ms } => {
            message.push(b'P');
            message.extend_from_slice(&settle_ms.to_le_bytes());
        }
        Order::Deliver { command, printed } => {
            message.push(b'D');
            put_command(&mut message, command);
            printed.iter().for_each(|text| put_string(&mut message, text.as_bytes()));
        }
    }
    let len = length(message.len() - 4);
    message[..4].copy_from_slice(&len);
    message
}

fn put_command(message: &mut Vec<u8>, command: &Delivery) {
    for list in [&command.argv, &command.args, &command.env] {
        put_list(message, list.iter().map(|text| text.as_bytes()));
    }
    put_string(message, command.cwd.as_os_str().as_bytes());
}

fn put_list<'a>(message: &mut Vec<u8>, list: impl ExactSizeIterator<Item = &'a [u8]>) {
    message.extend_from_slice(&length(list.len()));
    for text in list {
        put_string(message, text);
    }
}

fn put_string(message: &mut Vec<u8>, text: &[u8]) {
    message.extend_from_slice(&length(text.len()));
    message.extend_from_slice(text);
}

/// Encodes a length. A kernel that takes commands of 4 GiB does not exist, and
/// lists of classes come from messages that were shorter.
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("messages are shorter than 4 GiB").to_le_bytes()
}

impl Report {
    /// Reads the body of a message ([`FrameReader::next`]).
    ///
    /// # Errors
    ///
    /// It is none that an agent sends.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let Some((&kind, fields)) = body.split_first() else { return Err(WireError::Length(0)) };
        let mut fields = Fields(fields);
        let report = match kind {
            b'H' => fields.hello(),
            b'X' => fields.text().map(Self::Unfit),
            b'M' => fields.main(),
            b'E' => fields.end(),
            b'K' => fields.list().map(Self::Classes),
            b'R' => Some(Self::Ready),
            _ => return Err(WireError::Kind(kind)),
        };
        report.filter(|_| fields.0.is_empty()).ok_or(WireError::Malformed(kind))
    }
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len).map(<[u8]>::to_vec)
    }

    /// Reads text for people, in which nothing is there to move a cursor.
    fn text(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.string()?).into_owned();
        Some(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
    }

    fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        let count = self.number()?;
        // Not reserved: the count may be a lie.
        (0..count).map(|_| self.string()).collect()
    }

    fn hello(&mut self) -> Option<Report> {
        Some(Report::Hello { protocol: self.number()?, vm: self.text()? })
    }

    fn main(&mut self) -> Option<Report> {
        Some(Report::Main(MainReached {
            arguments: self.list()?.into_iter().map(OsString::from_vec).collect(),
            class: OsString::from_vec(self.string()?),
            command: OsString::from_vec(self.string()?),
        }))
    }

    fn end(&mut self) -> Option<Report> {
        let how = match self.take(1)? {
            [0] => How::Returned,
            [1] => How::Exited,
            [2] => How::Uncaught,
            [3] => How::Stopped,
            [4] => How::Refused,
            _ => return None,
        };
        let code = self.number()?.cast_signed();
        Some(Report::End(End { how, code, reason: self.text()? }))
    }
}

/// Cuts what comes from a socket into messages, wherever reads part them.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
}

impl FrameReader {
    /// Adds bytes that were read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the body of the next message, if all of it is there.
    ///
    /// # Errors
    ///
    /// The next message is empty or too long. What follows makes no sense
    /// then, and the same error comes again.
    #[allow(clippy::should_implement_trait)] // more may come after `None`
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head);
        if len == 0 || len > BODY_MAX {
            return Err(WireError::Length(len));
        }
        let Some(body) = rest.get(..len as usize) else { return Ok(None) };
        let body = body.to_vec();
        self.bytes.drain(..4 + body.len());
        Ok(Some(body))
    }

    /// Tells whether nothing is left of what was fed: an end of the stream is
    /// in order here.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests;
