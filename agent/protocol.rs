//! The agent's side of the messages (docs/agent.md; the trainer's is
//! `src/jvm/agent/wire.rs`).
//!
//! The trainer is trusted: it started this JVM. When it is gone, the JVM ends,
//! since nobody has asked for what it would do next.

use alloc::vec::Vec;
use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, Ordering};

use super::libc;

/// The version of the messages.
pub const VERSION: u32 = 1;
/// The exit status of a JVM whose trainer has died.
const ABANDONED: c_int = 70;

/// The descriptor; -1 once it is closed.
static CHANNEL: AtomicI32 = AtomicI32::new(-1);

/// A command as `main` is to see it.
pub struct Command {
    pub argv: Vec<Vec<u8>>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
}

/// What the trainer asks for.
pub enum Order {
    Train { wait_ms: u32, command: Command },
    Classes,
    Link(Vec<Vec<u8>>),
    Prepare { settle_ms: u32 },
    Deliver { command: Command, printed: [Vec<u8>; 2] },
}

/// How an order ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Returned = 0,
    Exited = 1,
    Uncaught = 2,
    Stopped = 3,
    Refused = 4,
}

/// Uses a descriptor from now on, which children do not get.
pub fn open(fd: c_int) {
    // SAFETY: a number; a wrong one is an error that the first message shows.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    CHANNEL.store(fd, Ordering::Relaxed);
}

/// Closes the descriptor.
pub fn close() {
    let fd = CHANNEL.swap(-1, Ordering::Relaxed);
    // SAFETY: the trainer's descriptor, which nobody else uses.
    unsafe { libc::close(fd) };
}

/// Ends the process at once: no line of the program is run.
pub fn abandon() -> ! {
    // SAFETY: no condition.
    unsafe { libc::_exit(ABANDONED) }
}

/// A message in the making.
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u8) -> Self {
        let mut bytes = alloc::vec![0; 4];
        bytes.push(kind);
        Self(bytes)
    }

    pub fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub fn string(self, text: &[u8]) -> Self {
        let mut longer = self.number(length(text.len()));
        longer.0.extend_from_slice(text);
        longer
    }

    pub fn list(self, list: &[Vec<u8>]) -> Self {
        let longer = self.number(length(list.len()));
        list.iter().fold(longer, |message, text| message.string(text))
    }

    /// Sends it; a trainer that is gone ends the process.
    pub fn send(mut self) {
        let len = length(self.0.len() - 4).to_le_bytes();
        for (to, from) in self.0.iter_mut().zip(len) {
            *to = from;
        }
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let fd = CHANNEL.load(Ordering::Relaxed);
            // SAFETY: the buffer is as long as is said.
            let sent =
                unsafe { libc::send(fd, rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
            match usize::try_from(sent) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(_) if libc::interrupted() => {}
                Err(_) => abandon(),
            }
        }
    }
}

/// Tells how an order ended.
pub fn send_end(how: How, code: i32, reason: &[u8]) {
    let mut message = Message::new(b'E');
    message.0.push(how as u8);
    message.number(code.cast_unsigned()).string(reason).send();
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Waits for the next order. Nothing but a read goes on meanwhile: this is
/// where a capture finds the main thread.
pub fn receive() -> Order {
    let mut head = [0; 4];
    fill(&mut head);
    let mut body = alloc::vec![0; u32::from_le_bytes(head) as usize];
    fill(&mut body);
    match Fields(&body).order() {
        Some(order) => order,
        // It speaks another version.
        None => abandon(),
    }
}

fn fill(mut rest: &mut [u8]) {
    while !rest.is_empty() {
        let fd = CHANNEL.load(Ordering::Relaxed);
        // SAFETY: the buffer is as long as is said.
        let len = unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(len) {
            Ok(0) => abandon(),
            Ok(len) => rest = rest.get_mut(len..).unwrap_or_default(),
            Err(_) if libc::interrupted() => {}
            Err(_) => abandon(),
        }
    }
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn order(&mut self) -> Option<Order> {
        let order = match self.take(1)? {
            b"T" => Order::Train { wait_ms: self.number()?, command: self.command()? },
            b"C" => Order::Classes,
            b"L" => Order::Link(self.list()?),
            b"P" => Order::Prepare { settle_ms: self.number()? },
            b"D" => Order::Deliver {
                command: self.command()?,
                printed: [self.string()?, self.string()?],
            },
            _ => return None,
        };
        self.0.is_empty().then_some(order)
    }

    fn command(&mut self) -> Option<Command> {
        Some(Command {
            argv: self.list()?,
            args: self.list()?,
            env: self.list()?,
            cwd: self.string()?,
        })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let len = self.number()? as usize;
        self.take(len).map(<[u8]>::to_vec)
    }

    fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        let count = self.number()?;
        (0..count).map(|_| self.string()).collect()
    }
}
