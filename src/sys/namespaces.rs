//! A pid and mount namespace of our own, with a tiny init: `unshare(2)`,
//! `user_namespaces(7)`, `pid_namespaces(7)`.
//!
//! The caller stays where it is, in the outer pid namespace, and is the parent
//! of what it starts inside: signals, job control and the exit status are as
//! without a namespace. The init mounts `/proc`, reaps what is left behind, and
//! ends when the caller has let go and nobody else is there; with it the kernel
//! ends the namespace.
//!
//! Nothing here allocates, so that it can be tried out in a forked child.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::birth::{self, Birth};
use super::capability;
use super::process::pipe;
use super::signals;

/// What did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", step.name(), nix::errno::Errno::from_raw(*errno).desc())]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// Its errno.
    pub errno: i32,
}

/// The steps into a namespace, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Anything before.
    Start,
    /// `unshare(2)`.
    Unshare,
    /// Mapping the caller's own uid and gid.
    Map,
    /// Setting the clocks.
    Clocks,
    /// Keeping the mounts to ourselves.
    Slave,
    /// Forking the init.
    Init,
    /// Mounting `/proc` in the init.
    Proc,
    /// Setting `ns_last_pid` in the init.
    LastPid,
    /// Giving up the capabilities that the namespace gave.
    Drop,
    /// Making a process inside.
    Child,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::Unshare,
        Self::Map,
        Self::Clocks,
        Self::Slave,
        Self::Init,
        Self::Proc,
        Self::LastPid,
        Self::Drop,
        Self::Child,
    ];

    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start => "fork or pipe",
            Self::Unshare => "unshare",
            Self::Map => "mapping the own uid and gid",
            Self::Clocks => "setting the clocks",
            Self::Slave => "making the mounts private",
            Self::Init => "forking an init",
            Self::Proc => "mounting /proc",
            Self::LastPid => "writing ns_last_pid",
            Self::Drop => "capset",
            Self::Child => "making a process inside",
        }
    }
}

/// Whose namespaces they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A user namespace of our own, in which the effective uid and gid are
    /// mapped to themselves: needs no privilege.
    OwnUser,
    /// Ours as we are: needs CAP_SYS_ADMIN.
    AsWeAre,
}

/// Whether there is a time namespace, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// No.
    Ours,
    /// Yes, with the clocks as they are.
    Own,
    /// Yes, with clocks of its own (`time_namespaces(7)`).
    Shifted(Offsets),
}

/// What a time namespace adds to the machine's clocks, in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// To CLOCK_MONOTONIC and its like.
    pub monotonic: i64,
    /// To CLOCK_BOOTTIME.
    pub boottime: i64,
}

/// A pid namespace that the next children are born in.
#[derive(Debug)]
pub struct Enclosure {
    init: i32,
    /// Its end tells the init that we are gone.
    lifeline: OwnedFd,
    report: OwnedFd,
}

pub(super) fn failed(step: Step) -> Failed {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Failed { step, errno }
}

fn check(result: i32, step: Step) -> Result<(), Failed> {
    if result == 0 { Ok(()) } else { Err(failed(step)) }
}

/// Makes the calling process's next children be born in a pid namespace of
/// their own, with its own `/proc`, and the first of them after the init with
/// the pid that follows `last_pid`.
///
/// The calling thread must be the only one (`CLONE_NEWUSER`), and can make no
/// other afterwards. Its own view of the mounts changes as well: `/proc` is
/// that of the namespace, in which it does not appear. In a user namespace of
/// its own it ends with no capability at all.
pub fn enter(owner: Owner, time: Time, last_pid: i32) -> Result<Enclosure, Failed> {
    make(owner, time)?;
    let enclosure = start_init(last_pid)?;
    if owner == Owner::OwnUser {
        capability::capset(&capability::Sets::default()).map_err(|_| failed(Step::Drop))?;
    }
    Ok(enclosure)
}

/// Makes the namespaces; the next children are born in them.
pub(super) fn make(owner: Owner, time: Time) -> Result<(), Failed> {
    // SAFETY: take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // Else the maps are root's files. Fails for no valid argument.
    let _ = capability::set_dumpable();
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    if owner == Owner::OwnUser {
        flags |= libc::CLONE_NEWUSER;
    }
    if time != Time::Ours {
        flags |= libc::CLONE_NEWTIME;
    }
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(flags) }, Step::Unshare)?;
    if owner == Owner::OwnUser {
        write_file(c"/proc/self/setgroups", b"deny", Step::Map)?;
        write_map(c"/proc/self/uid_map", uid)?;
        write_map(c"/proc/self/gid_map", gid)?;
    }
    if let Time::Shifted(offsets) = time {
        write_clocks(offsets)?;
    }
    // What root's program mounts is to appear outside as from anywhere: only
    // `/proc`, below which the new one is mounted, is parted.
    if owner == Owner::AsWeAre && part(c"/proc", libc::MS_PRIVATE).is_ok() {
        return Ok(());
    }
    // What is mounted outside still appears inside, but not the reverse.
    part(c"/", libc::MS_REC | libc::MS_SLAVE)
}

/// Changes how a mount shares what is mounted below it
/// (`mount_namespaces(7)`).
fn part(mount: &CStr, flags: libc::c_ulong) -> Result<(), Failed> {
    let none = std::ptr::null();
    // SAFETY: the target is a C string; the rest is not looked at.
    let result = unsafe { libc::mount(none, mount.as_ptr(), none, flags, none.cast()) };
    check(result, Step::Slave)
}

/// Sets the clocks of the time namespace that the next children are born in.
fn write_clocks(offsets: Offsets) -> Result<(), Failed> {
    const NS: i64 = 1_000_000_000;
    let Offsets { monotonic: m, boottime: b } = offsets;
    let mut buffer = [0; 128];
    let mut rest = &mut buffer[..];
    // Four numbers of at most twenty digits fit. Whole seconds may be negative,
    // the rest never is.
    let (ms, mn) = (m.div_euclid(NS), m.rem_euclid(NS));
    let (bs, bn) = (b.div_euclid(NS), b.rem_euclid(NS));
    let _ = write!(rest, "monotonic {ms} {mn}\nboottime {bs} {bn}\n");
    let left = rest.len();
    write_file(c"/proc/self/timens_offsets", &buffer[..buffer.len() - left], Step::Clocks)
}

fn write_map(path: &CStr, id: u32) -> Result<(), Failed> {
    let mut buffer = [0; 32];
    let mut rest = &mut buffer[..];
    // Two numbers of at most ten digits fit.
    let _ = write!(rest, "{id} {id} 1");
    let left = rest.len();
    write_file(path, &buffer[..buffer.len() - left], Step::Map)
}

/// Writes a file of `/proc` in one call.
fn write_file(path: &CStr, text: &[u8], step: Step) -> Result<(), Failed> {
    // SAFETY: the path is a C string, the buffer is ours; what is opened is
    // closed.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(failed(step));
        }
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        let result = if written == text.len() as isize { Ok(()) } else { Err(failed(step)) };
        libc::close(fd);
        result
    }
}

fn start_init(last_pid: i32) -> Result<Enclosure, Failed> {
    let (held, lifeline) = pipe().map_err(|_| failed(Step::Start))?;
    let (report, reporter) = pipe().map_err(|_| failed(Step::Start))?;
    // SAFETY: `run_init` is async-signal-safe and does not return.
    let init = match unsafe { libc::fork() } {
        -1 => return Err(failed(Step::Init)),
        0 => run_init(last_pid + 1, Some(last_pid), held.as_raw_fd(), reporter.as_raw_fd()),
        pid => pid,
    };
    drop(reporter);
    match read_report(report.as_raw_fd()) {
        Some(Ok(())) => Ok(Enclosure { init, lifeline, report }),
        failure => {
            let _ = birth::reap(init);
            Err(match failure {
                Some(Err(failed)) => failed,
                _ => Failed { step: Step::Init, errno: libc::ECHILD },
            })
        }
    }
}

/// What the init reports: a step and an errno, 0 for success.
fn write_report(fd: RawFd, result: Result<(), Failed>) {
    let (step, errno) = result.map_or_else(|it| (it.step as u8, it.errno), |()| (0, 0));
    let mut report = [step; 5];
    report[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: writes our own buffer; a pipe takes five bytes at once.
    unsafe { libc::write(fd, report.as_ptr().cast(), report.len()) };
}

pub(super) fn read_report(fd: RawFd) -> Option<Result<(), Failed>> {
    let mut report = [0; 5];
    if read(fd, &mut report) != 5 {
        return None;
    }
    let errno = i32::from_ne_bytes([report[1], report[2], report[3], report[4]]);
    let step = Step::numbered(report[0])?;
    Some(if errno == 0 { Ok(()) } else { Err(Failed { step, errno }) })
}

pub(super) fn read(fd: RawFd, buffer: &mut [u8]) -> isize {
    loop {
        // SAFETY: the buffer is ours and has the length given.
        let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return read;
        }
    }
}

/// The life of the init of a namespace with a program of this pid.
pub(super) fn run_init(program: i32, last_pid: Option<i32>, held: RawFd, reporter: RawFd) -> ! {
    // Children are reaped by the kernel then (`wait(2)`, NOTES).
    signals::set_ignored(libc::SIGCHLD);
    let result = prepare_inside(last_pid);
    write_report(reporter, result);
    if result.is_ok() {
        let_go(held, reporter);
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            // What a user namespace gave: the mount was all it was for. (Root's
            // own let it end a program that has become another user.) Giving up
            // fails for nobody.
            let _ = capability::capset(&capability::Sets::default());
        }
        // Nobody writes before we are let go; its end without that is the end
        // of our maker, and the program is to end with it, even if it could
        // not ask for that in time (PR_SET_PDEATHSIG).
        if read(0, &mut [0]) != 1 {
            // SAFETY: takes two numbers.
            unsafe { libc::kill(program, libc::SIGKILL) };
        }
        if others_are_here() {
            // We stay for what was left behind; nobody should wait for us.
            // SAFETY: writes one byte of our own; a closed pipe is no matter,
            // and its signal does not reach an init that has no handler.
            unsafe { libc::write(1, [0u8].as_ptr().cast(), 1) };
        }
        let mut pause_ms = 5;
        while others_are_here() {
            // With SIGCHLD ignored this waits for the last child of ours.
            while birth::reap(-1).is_ok() {}
            // What is nobody's child here: a program whose launcher was killed
            // ends within moments, is never reaped by its new parent (as in some
            // containers), or, as outside, lives on.
            pause(pause_ms);
            pause_ms = (pause_ms * 2).min(1000);
        }
    }
    // SAFETY: ends this process, and so the namespace.
    unsafe { libc::_exit(0) }
}

/// Whether there is any process but the init. Async-signal-safe.
fn others_are_here() -> bool {
    // SAFETY: signal 0 only asks; -1 is all of the namespace but its init.
    unsafe {
        libc::kill(-1, 0) == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
    }
}

fn pause(ms: i64) {
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: reads one timespec; how much is left is not asked for.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

fn prepare_inside(last_pid: Option<i32>) -> Result<(), Failed> {
    let (proc, flags) = (c"proc".as_ptr(), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC);
    // SAFETY: three C strings; there is no data.
    let result = unsafe { libc::mount(proc, c"/proc".as_ptr(), proc, flags, std::ptr::null()) };
    check(result, Step::Proc)?;
    let Some(last_pid) = last_pid else { return Ok(()) };
    let mut buffer = [0; 16];
    let mut rest = &mut buffer[..];
    let _ = write!(rest, "{last_pid}");
    let left = rest.len();
    let text = &buffer[..buffer.len() - left];
    write_file(c"/proc/sys/kernel/ns_last_pid", text, Step::LastPid)
}

/// Keeps the two descriptors, as 0 and 1, and lets go of everything else: a
/// reader of the program's output must not wait for us, nor anybody who wants
/// to unmount our directory.
fn let_go(held: RawFd, reporter: RawFd) {
    // SAFETY: plain system calls on numbers that no value owns in this child,
    // which never returns to code that does.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"warmstart-init".as_ptr());
        // What stops the caller's process group is not meant for us.
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        // Either may be 0 or 1 already.
        let held = libc::fcntl(held, libc::F_DUPFD, 3);
        let reporter = libc::fcntl(reporter, libc::F_DUPFD, 3);
        libc::dup2(held, 0);
        libc::dup2(reporter, 1);
        if libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) != 0 {
            (2..1024).for_each(|fd| {
                libc::close(fd);
            });
        }
    }
}

impl Enclosure {
    pub(super) fn new(init: i32, lifeline: OwnedFd, report: OwnedFd) -> Self {
        Self { init, lifeline, report }
    }

    /// Returns the pid of the init as we see it.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Ends the init, and with it all that is in the namespace, and waits for
    /// that.
    pub fn end(self) {
        // SAFETY: takes two numbers; the init is a child that we have not waited
        // for.
        unsafe { libc::kill(self.init, libc::SIGKILL) };
        let _ = birth::reap(self.init);
    }

    /// Lets the init end, and waits for that unless it has others to reap.
    pub fn leave(self) {
        let Self { init, lifeline, report } = self;
        // SAFETY: writes one byte of our own; the pipe's reader is the init,
        // and SIGPIPE is ignored by us.
        unsafe { libc::write(lifeline.as_raw_fd(), [0u8].as_ptr().cast(), 1) };
        drop(lifeline);
        // Whoever stops every process of ours must not keep the launcher.
        if !has_something(&report) {
            // SAFETY: takes two numbers; the init is a child that we have not
            // waited for.
            unsafe { libc::kill(init, libc::SIGCONT) };
        }
        if has_something(&report) && read(report.as_raw_fd(), &mut [0]) == 0 {
            let _ = birth::reap(init);
        }
    }
}

/// Waits for a moment for something to read, or the end of it.
fn has_something(pipe: &OwnedFd) -> bool {
    let mut fd = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as said.
    unsafe { libc::poll(&mut fd, 1, PATIENCE_MS) == 1 }
}

/// How long an init may take to say whether it stays, in ms: it takes less
/// than one.
const PATIENCE_MS: i32 = 500;

/// Tries namespaces out in a child: makes them and, if one is given, a process
/// with this pid in them, and leaves.
pub fn try_out(owner: Owner, time: Time, pid: Option<i32>) -> Result<(), Failed> {
    let (report, reporter) = pipe().map_err(|_| failed(Step::Start))?;
    // SAFETY: `visit` neither allocates nor locks.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(failed(Step::Start)),
        0 => {
            write_report(reporter.as_raw_fd(), visit(owner, time, pid));
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    drop(reporter);
    let result = read_report(report.as_raw_fd());
    let _ = birth::reap(child);
    result.unwrap_or(Err(Failed { step: Step::Start, errno: libc::ECHILD }))
}

fn visit(owner: Owner, time: Time, pid: Option<i32>) -> Result<(), Failed> {
    let enclosure = enter(owner, time, pid.map_or(1, |pid| pid - 1))?;
    let result = match pid {
        None => Ok(()),
        Some(pid) => match birth::try_out(Birth::Next(pid)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failed { step: Step::Child, errno: libc::EEXIST }),
            Err(_) => Err(failed(Step::Child)),
        },
    };
    enclosure.leave();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_through() {
        let (reader, writer) = pipe().unwrap();
        let failure = Failed { step: Step::Proc, errno: libc::EPERM };
        write_report(writer.as_raw_fd(), Err(failure));
        write_report(writer.as_raw_fd(), Ok(()));
        assert_eq!(read_report(reader.as_raw_fd()), Some(Err(failure)));
        assert_eq!(read_report(reader.as_raw_fd()), Some(Ok(())));
        drop(writer);
        assert_eq!(read_report(reader.as_raw_fd()), None);
        assert_eq!(failure.to_string(), "mounting /proc: Operation not permitted");
    }
}
