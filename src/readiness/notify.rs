//! `notify`: the program says READY=1 on NOTIFY_SOCKET (`sd_notify(3)`).
//!
//! When the caller has a NOTIFY_SOCKET (a systemd service), the program gets
//! one of ours instead and every datagram of it is passed on: systemd listens
//! to the service's main process only, and that is the launcher, not the
//! program. When the caller has none, the program gets one only if the user
//! asked for `notify`: its mere presence changes what programs do, and it
//! would be in the image for ever.
//!
//! A restored program has the address of its cold run in its environment. The
//! address is therefore a path that the launcher can [`NotifySocket::rebind`];
//! if it does not, the program's messages go nowhere, which `sd_notify(3)`
//! asks programs to ignore.

mod datagram;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, setsockopt, socket, sockopt,
};
use nix::unistd::geteuid;

use super::probe::Probe;
use super::processes::{descends, exists};
use datagram::Datagram;

/// The longest path that an address holds (`sun_path`, `unix(7)`).
const MAX_PATH: usize = 107;
/// `notify-`, a pid, `-`, 16 hexadecimal digits.
const MAX_NAME: usize = 7 + 10 + 1 + 16;
/// Datagrams taken at once, so that a chatty program cannot hold the launcher.
const MAX_BATCH: usize = 64;

/// Why there is no notify socket.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The directory for the socket cannot be used.
    #[error("no directory for a notify socket: {path}: {wrong}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The caller's NOTIFY_SOCKET is neither a path nor an abstract name.
    #[error("NOTIFY_SOCKET={} is not an address that we can pass messages on to", .0.display())]
    Address(OsString),
    /// A live socket has the path.
    #[error("notify socket {0}: in use")]
    InUse(PathBuf),
    /// A system call failed.
    #[error("notify socket {path}: cannot {step}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The step, a verb.
        step: &'static str,
        /// The error.
        source: Errno,
    },
}

/// Tells whether the program is to have a notify socket of ours: if it was
/// asked for, or if the caller has one (its NOTIFY_SOCKET), so that the
/// program's messages are passed on.
pub fn wants_socket(probes: &[Probe], caller: Option<&OsStr>) -> bool {
    caller.is_some_and(|address| !address.is_empty())
        || probes.iter().any(|probe| matches!(probe, Probe::Notify))
}

/// Returns the directory for [`NotifySocket::bind`]: `/run/warmstart` for root,
/// whose services may change their user and must still reach it; else
/// `warmstart` in the user's runtime directory (XDG_RUNTIME_DIR); else a
/// directory in the cache.
pub fn socket_dir(runtime_dir: Option<&Path>, cache_dir: &Path) -> PathBuf {
    if geteuid().is_root() {
        return PathBuf::from("/run/warmstart");
    }
    match runtime_dir {
        Some(dir) if dir.is_absolute() && dir.is_dir() => dir.join("warmstart"),
        _ => cache_dir.join("notify"),
    }
}

/// Sends a message to a NOTIFY_SOCKET, such as `READY=1` to the caller's once
/// a program is restored that had been ready before it was captured.
pub fn tell(caller: &OsStr, message: &str) -> Result<(), NotifyError> {
    let address = parse_address(caller)?;
    let failed = |step| move |source| NotifyError::Socket { path: caller.into(), step, source };
    let socket = datagram_socket().map_err(failed("create a socket"))?;
    Datagram::of(message).send(&socket, &address).map_err(failed("send"))
}

/// The socket that the program's NOTIFY_SOCKET names; removed when dropped.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
    /// The caller's, which everything is passed on to.
    caller: Option<UnixAddr>,
    /// What the caller's had no room for yet; meanwhile nothing more is taken,
    /// so that the program waits as it would have waited for the caller.
    waiting: Option<Datagram>,
    ready: bool,
}

impl NotifySocket {
    /// Makes a socket under a fresh name in a directory, which is made if need
    /// be and must be nobody else's to write; `caller` is the value of the
    /// caller's NOTIFY_SOCKET.
    pub fn bind(dir: &Path, caller: Option<&OsStr>) -> Result<Self, NotifyError> {
        private_dir(dir).map_err(|wrong| NotifyError::Directory { path: dir.to_owned(), wrong })?;
        let random = RandomState::new().hash_one(std::process::id());
        let path = dir.join(format!("notify-{}-{random:016x}", std::process::id()));
        Self::at(path, caller)
    }

    /// Makes a socket under the name that an earlier run had, for the program
    /// that is restored from it.
    pub fn rebind(path: &Path, caller: Option<&OsStr>) -> Result<Self, NotifyError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        private_dir(dir).map_err(|wrong| NotifyError::Directory { path: dir.to_owned(), wrong })?;
        // A launcher that was killed has left its socket: nobody answers there.
        if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            let probe = datagram_socket().ok();
            let address = UnixAddr::new(path).ok();
            let alive = match (probe, address) {
                (Some(probe), Some(address)) => connect(probe.as_raw_fd(), &address).is_ok(),
                _ => false,
            };
            if alive {
                return Err(NotifyError::InUse(path.to_owned()));
            }
            // If it stays, bind(2) says so.
            let _ = fs::remove_file(path);
        }
        Self::at(path.to_owned(), caller)
    }

    fn at(path: PathBuf, caller: Option<&OsStr>) -> Result<Self, NotifyError> {
        let caller = caller.filter(|address| !address.is_empty()).map(parse_address).transpose()?;
        let failed = |step| {
            let path = path.clone();
            move |source| NotifyError::Socket { path, step, source }
        };
        let socket = datagram_socket().map_err(failed("create it"))?;
        setsockopt(&socket, sockopt::PassCred, &true).map_err(failed("set SO_PASSCRED"))?;
        let address = UnixAddr::new(path.as_path()).map_err(failed("name it"))?;
        bind(socket.as_raw_fd(), &address).map_err(failed("bind it"))?;
        let this = Self { socket, path: path.clone(), caller, waiting: None, ready: false };
        // A service that has changed its user must still reach it; who sends is
        // checked for each datagram.
        fs::set_permissions(&this.path, Permissions::from_mode(0o666)).map_err(|error| {
            failed("open it to others")(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        })?;
        Ok(this)
    }

    /// Returns the value for the program's NOTIFY_SOCKET, and the path to
    /// [`rebind`](Self::rebind) when it is restored.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the program has said READY=1.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes what has come from the program or its descendants, and passes it
    /// on to the caller's socket; never waits.
    ///
    /// To be called as long as the program runs, whenever the socket is
    /// readable: a program may wait for its message to be taken.
    pub fn relay(&mut self, program: i32) {
        for _ in 0..MAX_BATCH {
            let datagram = match self.waiting.take() {
                Some(datagram) => datagram,
                None => match Datagram::receive(&self.socket) {
                    Ok(Some(datagram)) if is_from(&datagram, program) => {
                        self.ready |= datagram.says("READY=1");
                        datagram.with_main_pid(program, std::process::id())
                    }
                    Ok(_) => continue,
                    Err(Errno::EINTR) => continue,
                    Err(_) => return,
                },
            };
            if let Some(caller) = &self.caller
                && datagram.send(&self.socket, caller) == Err(Errno::EAGAIN)
            {
                self.waiting = Some(datagram);
                return;
            }
        }
    }

    /// Tells whether a message waits for room at the caller's socket: then
    /// [`relay`](Self::relay) is to be called after a while, not when the
    /// socket is readable.
    pub fn is_stuck(&self) -> bool {
        self.waiting.is_some()
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // Nothing can be done about a path that somebody has removed already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells whether a datagram may have come from the program.
///
/// A helper such as `systemd-notify(1)` may have ended by now; then its user
/// has to do: only those who can read the program's environment know the name.
fn is_from(datagram: &Datagram, program: i32) -> bool {
    let Some((pid, uid)) = datagram.sender else { return false };
    if pid > 0 && exists(pid) {
        return descends(pid, program);
    }
    uid == geteuid().as_raw() || uid == 0
}

fn datagram_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
}

/// Reads the value of a NOTIFY_SOCKET: a path, or `@` and an abstract name.
fn parse_address(value: &OsStr) -> Result<UnixAddr, NotifyError> {
    let address = match value.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => UnixAddr::new_abstract(name),
        [b'/', ..] => UnixAddr::new(value),
        _ => Err(Errno::EINVAL),
    };
    address.map_err(|_| NotifyError::Address(value.to_owned()))
}

/// Makes a directory that others may pass through but only we may write, or
/// checks that it is one; the error says what is wrong.
fn private_dir(dir: &Path) -> Result<(), String> {
    if dir.as_os_str().len() + 1 + MAX_NAME > MAX_PATH {
        return Err(format!("its path is longer than a socket's may be ({MAX_PATH} bytes)"));
    }
    let made = DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|error| error.to_string())?;
    let metadata = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
    if !metadata.is_dir() {
        return Err("it is not a directory".to_owned());
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err("it belongs to another user".to_owned());
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("others may write to it".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
