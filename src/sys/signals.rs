//! Signals: masks, dispositions, receiving through signalfd, sending.
//!
//! Signals are plain numbers here, because nix's `Signal` knows no real-time
//! ones and those are relayed too.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal mask of a thread.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.signals()).finish()
    }
}

impl Mask {
    /// Makes the set of these signals; numbers that are no signal are left out.
    pub fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for &signal in signals {
            // SAFETY: the set is initialised; a bad number is answered by EINVAL.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        Self(set)
    }

    /// Whether the set holds the signal.
    pub fn contains(&self, signal: i32) -> bool {
        // SAFETY: the set is initialised; a bad number is answered by EINVAL.
        unsafe { libc::sigismember(&self.0, signal) == 1 }
    }

    /// Returns the signals of the set, ascending.
    pub fn signals(&self) -> Vec<i32> {
        (1..=64).filter(|&signal| self.contains(signal)).collect()
    }

    fn apply(&self, how: i32) -> Self {
        let mut before = Self::of(&[]);
        // SAFETY: both sets are initialised, `how` is one of the three
        // constants, so the call cannot fail. Async-signal-safe.
        unsafe { libc::pthread_sigmask(how, &self.0, &mut before.0) };
        before
    }

    /// Blocks the signals of this set in the calling thread; returns the mask
    /// as it was.
    pub fn block(&self) -> Self {
        self.apply(libc::SIG_BLOCK)
    }

    /// Unblocks the signals of this set in the calling thread.
    pub fn unblock(&self) {
        self.apply(libc::SIG_UNBLOCK);
    }

    /// Makes this set the mask of the calling thread.
    pub fn set(&self) {
        self.apply(libc::SIG_SETMASK);
    }
}

fn action(signal: i32, new: Option<libc::sighandler_t>) -> Option<libc::sighandler_t> {
    // SAFETY: sigaction is plain data, for which all zeros is a value.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: as above; sa_mask zero is the empty set on Linux.
    let mut act: libc::sigaction = unsafe { std::mem::zeroed() };
    let new = match new {
        Some(handler) => {
            act.sa_sigaction = handler;
            &raw const act
        }
        None => std::ptr::null(),
    };
    // SAFETY: `new` is null or points to an initialised action whose handler
    // is SIG_DFL or SIG_IGN, never code of ours. Async-signal-safe.
    let done = unsafe { libc::sigaction(signal, new, &mut old) } == 0;
    done.then_some(old.sa_sigaction)
}

/// Whether the signal is ignored by this process.
pub fn is_ignored(signal: i32) -> bool {
    action(signal, None) == Some(libc::SIG_IGN)
}

/// Gives the signal its default action. Async-signal-safe.
pub fn set_default(signal: i32) {
    action(signal, Some(libc::SIG_DFL));
}

/// Ignores the signal. Async-signal-safe.
pub fn set_ignored(signal: i32) {
    action(signal, Some(libc::SIG_IGN));
}

/// A signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// `si_code`: how it was sent (`sigaction(2)`).
    pub code: i32,
    /// The pid of the sender for kill, tgkill and sigqueue; 0 if it is outside
    /// our pid namespace.
    pub sender: i32,
    /// The value that came with it by `sigqueue(3)`.
    pub value: u64,
}

/// Receives blocked signals through a descriptor (`signalfd(2)`).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Opens a descriptor for the signals of the set, which must be blocked.
    pub fn new(mask: &Mask) -> io::Result<Self> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &mask.0, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and is owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes the next signal, if there is one.
    pub fn next(&self) -> Option<Received> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is ours and has the length given.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), len) };
        if read != len as isize {
            return None;
        }
        // SAFETY: plain data, zeroed before and filled by the kernel.
        let info = unsafe { info.assume_init() };
        Some(Received {
            signal: info.ssi_signo as i32,
            code: info.ssi_code,
            sender: info.ssi_pid as i32,
            value: info.ssi_ptr,
        })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to a process (`kill(2)`; never to a group).
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes two numbers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal with a value to a process (`sigqueue(3)`).
pub fn queue(pid: i32, signal: i32, value: u64) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let value = libc::sigval { sival_ptr: value as usize as *mut libc::c_void };
    // SAFETY: the value is passed on as a number and never dereferenced.
    match unsafe { libc::sigqueue(pid, signal, value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let mask = Mask::of(&[libc::SIGTERM, 40, 1000]);
        assert!(mask.contains(libc::SIGTERM) && mask.contains(40));
        assert!(!mask.contains(libc::SIGHUP));
        assert_eq!(format!("{mask:?}"), "[15, 40]");
    }

    #[test]
    fn a_blocked_signal_comes_through_the_descriptor() {
        let mask = Mask::of(&[libc::SIGUSR2]);
        mask.block();
        let fd = SignalFd::new(&mask).unwrap();
        assert_eq!(fd.next(), None);
        // SAFETY: sends a signal, which this thread blocks, to this thread.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        let received = fd.next().unwrap();
        assert_eq!(received.signal, libc::SIGUSR2);
        assert_eq!(received.sender, std::process::id() as i32);
    }

    #[test]
    fn never_to_a_group() {
        assert!(send(0, 0).is_err() && send(-1, 0).is_err() && queue(0, 0, 0).is_err());
    }
}
