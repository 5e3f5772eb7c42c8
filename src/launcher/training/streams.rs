//! Standard descriptors for a program that nobody watches: of the kinds that
//! the caller's are, and what is written to them is ours.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::fingerprint::Stream;

/// What is kept of what a program prints, in bytes for each stream. What
/// prints more is not compared any further.
const LEN_KEPT: u64 = 64 << 20;

/// A terminal's size, where nobody looks.
const WINDOW: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// End of file, as it is typed.
const END_OF_FILE: u8 = 4;

/// What a program has printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Printed {
    /// To stdout and stderr, where they are no terminal.
    pub streams: [Vec<u8>; 2],
    /// To the terminal.
    pub terminal: Vec<u8>,
}

impl Printed {
    /// Says which of two is another; `None` if they are equal.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let [out, err] = &self.streams;
        let [other_out, other_err] = &other.streams;
        [
            ("stdout", out == other_out),
            ("stderr", err == other_err),
            ("to the terminal", self.terminal == other.terminal),
        ]
        .into_iter()
        .find_map(|(name, equal)| (!equal).then_some(name))
    }
}

/// The 0, 1 and 2 of a program.
#[derive(Debug)]
pub struct Streams {
    kinds: [Stream; 3],
    null: File,
    files: [Option<File>; 2],
    terminal: Option<Terminal>,
}

#[derive(Debug)]
struct Terminal {
    master: File,
    slave: OwnedFd,
    printed: Vec<u8>,
}

impl Streams {
    /// Makes descriptors of these kinds: a terminal is a terminal, what is
    /// closed is closed, and anything else is no terminal.
    ///
    /// # Errors
    /// If there are no more descriptors or terminals.
    pub fn new(kinds: [Stream; 3]) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let file = |kind| match kind {
            Stream::Terminal | Stream::Closed => Ok(None),
            _ => {
                let file = File::from(memfd_create(c"warmstart-output", MFdFlags::MFD_CLOEXEC)?);
                // What is taken away leaves no hole behind.
                fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
                Ok::<_, io::Error>(Some(file))
            }
        };
        let files = [file(kinds[1])?, file(kinds[2])?];
        let terminal = if kinds.contains(&Stream::Terminal) {
            let pair = openpty(&WINDOW, None)?;
            for fd in [&pair.master, &pair.slave] {
                fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
            }
            fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let master = File::from(pair.master);
            Some(Terminal { master, slave: pair.slave, printed: Vec::new() })
        } else {
            None
        };
        Ok(Self { kinds, null, files, terminal })
    }

    /// Returns what the program gets as 0, 1 and 2; nothing for what is closed.
    pub fn descriptors(&self) -> [Option<RawFd>; 3] {
        std::array::from_fn(|number| match (self.kinds[number], &self.terminal) {
            (Stream::Closed, _) => None,
            (Stream::Terminal, Some(terminal)) => Some(terminal.slave.as_raw_fd()),
            _ => match number.checked_sub(1).and_then(|index| self.files[index].as_ref()) {
                Some(file) => Some(file.as_raw_fd()),
                None => Some(self.null.as_raw_fd()),
            },
        })
    }

    /// Tells which are closed.
    pub fn closed(&self) -> [bool; 3] {
        self.kinds.map(|kind| kind == Stream::Closed)
    }

    /// Returns what has to be read lest the program waits for us.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(|terminal| terminal.master.as_fd())
    }

    /// Reads what the terminal has.
    pub fn pump(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = terminal.master.read(&mut buffer) {
            if (terminal.printed.len() as u64) < LEN_KEPT {
                terminal.printed.extend_from_slice(&buffer[..len]);
            }
        }
    }

    /// Prepares for one more run: whoever reads from the terminal comes to an
    /// end.
    ///
    /// # Errors
    /// If what was printed cannot be forgotten.
    pub fn begin(&mut self) -> io::Result<()> {
        self.take()?;
        if let Some(terminal) = &mut self.terminal
            && self.kinds[0] == Stream::Terminal
        {
            // Full of them, it needs no more.
            let _ = terminal.master.write(&[END_OF_FILE]);
        }
        Ok(())
    }

    /// Takes what was printed since the last time.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn take(&mut self) -> io::Result<Printed> {
        self.pump();
        let mut printed = Printed::default();
        for (file, printed) in self.files.iter_mut().zip(&mut printed.streams) {
            let Some(file) = file else { continue };
            file.rewind()?;
            file.take(LEN_KEPT).read_to_end(printed)?;
            file.set_len(0)?;
        }
        if let Some(terminal) = &mut self.terminal {
            printed.terminal = std::mem::take(&mut terminal.printed);
        }
        Ok(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn write(fd: Option<RawFd>, text: &[u8]) {
        let path = format!("/proc/self/fd/{}", fd.unwrap());
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(text).unwrap();
    }

    #[test]
    fn what_is_printed_is_taken_once() {
        let kinds = [Stream::Pipe, Stream::File, Stream::Socket];
        let mut streams = Streams::new(kinds).unwrap();
        let fds = streams.descriptors();
        write(fds[1], b"out");
        write(fds[2], b"err");
        let first = streams.take().unwrap();
        assert_eq!(first.streams, [b"out".to_vec(), b"err".to_vec()]);
        write(fds[1], b"more");
        let second = streams.take().unwrap();
        assert_eq!(second.streams, [b"more".to_vec(), Vec::new()]);
        assert_eq!(first.difference(&second), Some("stdout"));
        assert_eq!(first.difference(&first.clone()), None);
        assert_eq!(streams.closed(), [false; 3]);
    }

    #[test]
    fn a_terminal_is_one_and_ends() {
        let kinds = [Stream::Terminal, Stream::Terminal, Stream::Closed];
        let mut streams = Streams::new(kinds).unwrap();
        let fds = streams.descriptors();
        assert_eq!((fds[0], fds[2], streams.closed()[2]), (fds[1], None, true));
        streams.begin().unwrap();
        let slave = streams.terminal.as_ref().unwrap().slave.as_raw_fd();
        let mut file = File::open(format!("/proc/self/fd/{slave}")).unwrap();
        assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);
        write(fds[1], b"shown\n");
        assert!(streams.take().unwrap().terminal.ends_with(b"shown\r\n"));
    }
}
