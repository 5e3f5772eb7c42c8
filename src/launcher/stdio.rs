//! The program's output, where a probe has to see it (`log:`), and our own
//! standard descriptors while a program runs.
//!
//! Normally the program inherits 0, 1 and 2 and we never touch them. A tap
//! puts a pipe in the place of 1 and 2 (a pseudo-terminal where the caller
//! has a terminal, so that `isatty` stays true) and passes on every byte in
//! order, never more than one chunk ahead of the reader. When the reader is
//! gone, our end is closed, so that the program finds out as it would have.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty;
use nix::sys::termios::{self, OutputFlags, SetArg};

use crate::readiness::Source;
use crate::sys::{descriptors, kcmp, process, tty};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// What a pipe that polls writable takes without blocking (`PIPE_BUF`).
const SAFE_WRITE: usize = 4096;

/// Where the bytes of a stream go: the caller's 1 or 2.
#[derive(Debug)]
struct Sink {
    file: File,
    kind: SinkKind,
}

#[derive(Debug, PartialEq, Eq)]
enum SinkKind {
    /// An open file description of our own, which does not block.
    Own,
    /// One that is shared with the caller: writes may block, so they are
    /// small and come after poll.
    Shared,
    /// A socket, which has calls of its own that do not block.
    Socket,
}

impl Sink {
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self { file, kind: SinkKind::Socket });
        }
        if kind.is_fifo() || file.is_terminal() {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if let Ok(file) = File::options().write(true).custom_flags(flags).open(path) {
                return Ok(Self { file, kind: SinkKind::Own });
            }
        }
        Ok(Self { file, kind: SinkKind::Shared })
    }

    /// Writes what can be written without waiting.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.kind {
            SinkKind::Own => self.file.write(bytes),
            SinkKind::Socket => descriptors::send_now(self.file.as_raw_fd(), bytes),
            SinkKind::Shared => {
                let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::ZERO) {
                    Ok(0) => Err(ErrorKind::WouldBlock.into()),
                    Ok(_) => self.file.write(&bytes[..bytes.len().min(SAFE_WRITE)]),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

/// Is shown all that passes.
pub type Seen<'a> = dyn FnMut(Source, &[u8]) + 'a;

/// One of the program's output streams on its way to the caller.
#[derive(Debug)]
struct Stream {
    origin: Source,
    source: Option<File>,
    sink: Sink,
    buffer: Vec<u8>,
    filled: usize,
    written: usize,
}

impl Stream {
    fn new(origin: Source, source: OwnedFd, sink: Sink) -> io::Result<Self> {
        fcntl(&source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let buffer = vec![0; CHUNK];
        Ok(Self { origin, source: Some(source.into()), sink, buffer, filled: 0, written: 0 })
    }

    /// Moves what can be moved without waiting; returns whether anything was.
    fn pump(&mut self, seen: &mut Seen<'_>) -> bool {
        let mut moved = false;
        loop {
            while self.written < self.filled {
                match self.sink.write(&self.buffer[self.written..self.filled]) {
                    Ok(len) if len > 0 => self.written += len,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                    // The reader is gone (or the disk is full): the program
                    // has to learn it by its own next write.
                    Ok(_) | Err(_) => {
                        self.source = None;
                        self.filled = 0;
                        self.written = 0;
                        return true;
                    }
                }
                moved = true;
            }
            let Some(source) = &mut self.source else { return moved };
            match source.read(&mut self.buffer) {
                Ok(len) if len > 0 => {
                    (self.filled, self.written) = (len, 0);
                    seen(self.origin, &self.buffer[..len]);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                // The end; a terminal's is EIO.
                Ok(_) | Err(_) => self.source = None,
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.source.is_none() && self.written == self.filled
    }

    /// What to wait for.
    fn interest(&self) -> Option<PollFd<'_>> {
        if self.written < self.filled {
            return Some(PollFd::new(self.sink.file.as_fd(), PollFlags::POLLOUT));
        }
        self.source.as_ref().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN))
    }
}

/// A tap on the program's output; the default one taps nothing.
#[derive(Debug, Default)]
pub struct Tap {
    streams: Vec<Stream>,
    /// The caller's terminal and the pseudo-terminal in its place.
    window: Option<(OwnedFd, OwnedFd)>,
}

/// The program's ends of a tap, for its 0, 1 and 2.
pub type Ends = [Option<OwnedFd>; 3];

impl Tap {
    /// Taps 1 and 2, as far as they are open; through one channel where both
    /// lead to one place, so that their order is kept.
    pub fn new(closed: [bool; 3]) -> io::Result<(Self, Ends)> {
        let mut tap = Self::default();
        let mut ends: Ends = [None, None, None];
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let outputs = [(1, stdout.as_fd()), (2, stderr.as_fd())];
        let one_place = !closed[1] && !closed[2] && same_place(outputs[0].1, outputs[1].1);
        for (number, fd) in outputs {
            if closed[number] {
                continue;
            }
            if number == 2 && one_place {
                ends[2] = ends[1].as_ref().map(OwnedFd::try_clone).transpose()?;
                continue;
            }
            let (source, end) =
                if fd.is_terminal() { tap.pseudo_terminal(fd)? } else { process::pipe()? };
            ends[number] = Some(end);
            let origin = if number == 1 { Source::Stdout } else { Source::Stderr };
            tap.streams.push(Stream::new(origin, source, Sink::of(fd)?)?);
        }
        Ok((tap, ends))
    }

    fn pseudo_terminal(&mut self, real: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = pty::posix_openpt(flags)?;
        pty::grantpt(&master)?;
        pty::unlockpt(&master)?;
        let slave = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(pty::ptsname_r(&master)?)?;
        let mut settings = termios::tcgetattr(real)?;
        // The real one turns \n into \r\n already.
        settings.output_flags.remove(OutputFlags::OPOST);
        termios::tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
        copy_window_size(real, slave.as_fd());
        let master: OwnedFd = master.into();
        // The size of a pseudo-terminal can be set at either end.
        self.window = Some((real.try_clone_to_owned()?, master.try_clone()?));
        Ok((master, slave.into()))
    }

    /// Passes on the size of the caller's window; returns whether the program
    /// has to be told again, since it may have asked too early.
    pub fn window_changed(&self) -> bool {
        if let Some((real, ours)) = &self.window {
            copy_window_size(real.as_fd(), ours.as_fd());
        }
        self.window.is_some()
    }

    /// Moves what can be moved without waiting, and shows it to `seen`;
    /// returns whether anything was moved.
    pub fn pump(&mut self, seen: &mut Seen<'_>) -> bool {
        let mut moved = false;
        for stream in &mut self.streams {
            moved |= stream.pump(seen);
        }
        // With the sink of a stream that has ended goes our copy of the
        // caller's descriptor: its reader, too, is to see the end.
        self.streams.retain(|stream| !stream.has_ended());
        moved
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.streams.iter().filter_map(Stream::interest)
    }

    /// Passes on what an ended program has left, for as long as `patient` says
    /// (asked after each wait, which `alarm` ends as well). If another process
    /// still holds the program's end, or the reader is slow and patience is
    /// over, a process stays behind that passes on the rest.
    pub fn drain(mut self, alarm: BorrowedFd<'_>, patient: &mut dyn FnMut() -> bool) {
        loop {
            self.pump(&mut |_, _| ());
            if self.streams.iter().all(|stream| stream.written == stream.filled) {
                break;
            }
            let mut fds: Vec<_> = self.interests().collect();
            fds.push(PollFd::new(alarm, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE).is_err() || !patient() {
                break;
            }
        }
        if !self.streams.is_empty() {
            process::leave_behind(move || self.pass_on());
        }
    }

    /// Passes on until the end; allocates nothing.
    fn pass_on(&mut self) {
        loop {
            self.pump(&mut |_, _| ());
            let mut wanted = [None, None];
            for (slot, fd) in wanted.iter_mut().zip(self.interests()) {
                *slot = Some(fd);
            }
            let done = match wanted {
                [Some(one), Some(other)] => poll(&mut [one, other], PollTimeout::NONE),
                [Some(one), None] => poll(&mut [one], PollTimeout::NONE),
                _ => return,
            };
            if matches!(done, Err(error) if error != nix::errno::Errno::EINTR) {
                return;
            }
        }
    }
}

/// Whether two descriptors lead to one place.
fn same_place(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let own = std::process::id() as i32;
    if kcmp::same_file(own, one.as_raw_fd(), own, other.as_raw_fd()).unwrap_or(false) {
        return true;
    }
    let terminal = |fd: BorrowedFd<'_>| fd.is_terminal().then(|| nix::sys::stat::fstat(fd).ok());
    match (terminal(one).flatten(), terminal(other).flatten()) {
        (Some(one), Some(other)) => one.st_rdev == other.st_rdev,
        _ => false,
    }
}

/// Gives one terminal the window size of another, if both are terminals.
fn copy_window_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = tty::size(from) {
        // It is not worth a word if the program's terminal is gone already.
        let _ = tty::set_size(to, &size);
    }
}

/// Closes our copies of the program's standard descriptors, so that a reader
/// sees the end when the program closes its own; 2 only if we have nothing
/// more to say.
pub fn let_go(stderr_too: bool) {
    let_go_of_those(stderr_too, |_| true);
}

/// The same, but for files: nobody sees their end, and a capture compares what
/// the program has open with them.
pub fn let_go_but_files(stderr_too: bool) {
    let is_file =
        |fd: i32| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|meta| meta.is_file());
    let_go_of_those(stderr_too, |fd| !is_file(fd));
}

fn let_go_of_those(stderr_too: bool, wanted: impl Fn(i32) -> bool) {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let last = if stderr_too { 2 } else { 1 };
        for fd in (0..=last).filter(|fd| wanted(*fd)) {
            // Fails for no reason we could do anything about.
            let _ = descriptors::duplicate_onto(null.as_raw_fd(), fd);
        }
    }
}

/// Closes our copies of the descriptors above 2 that the program inherited.
pub fn let_go_of(passed: &[RawFd]) {
    for &fd in passed {
        descriptors::close(fd);
    }
}
