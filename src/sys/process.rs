//! Processes: starting one, waiting for its changes, ending like one.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::birth::{self, Birth};
use super::signals::{self, Mask};
use super::{descriptors, start};

/// The shell that runs a file which the kernel knows no format of, as
/// `execvp(3)` does.
const SHELL: &CStr = c"/bin/sh";

/// The state of signals and standard descriptors that the caller gave us and
/// that a program started by us must find.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    /// The signal mask.
    pub mask: Mask,
    /// Whether SIGPIPE was ignored.
    pub sigpipe_ignored: bool,
    /// Whether SIGCHLD was ignored.
    pub sigchld_ignored: bool,
    /// Which of 0, 1 and 2 were closed.
    pub closed_stdio: [bool; 3],
}

/// Returns the supplementary groups of this process, as the kernel has them
/// (`getgroups(2)`); none if they cannot be told.
///
/// Not by way of `sysconf(3)`, which reads a file to learn how many there can
/// be.
pub fn groups() -> Vec<libc::gid_t> {
    // SAFETY: a size of 0 asks for the number; nothing is written.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    if groups.is_empty() {
        return groups;
    }
    // SAFETY: the buffer has room for as many as we say.
    let count = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

impl Inherited {
    /// What a tool of ours finds: no signal blocked or ignored, nothing closed.
    pub fn nothing() -> Self {
        let mask = Mask::of(&[]);
        Self { mask, sigpipe_ignored: false, sigchld_ignored: false, closed_stdio: [false; 3] }
    }

    /// Takes stock; to be called before this process changes its mask or what
    /// it does about SIGCHLD.
    pub fn now() -> Self {
        Self {
            mask: Mask::of(&[]).block(),
            sigpipe_ignored: start::sigpipe_ignored(),
            sigchld_ignored: signals::is_ignored(libc::SIGCHLD),
            closed_stdio: start::closed_stdio(),
        }
    }

    /// Puts everything back in this process. Async-signal-safe.
    fn put_back(&self) {
        for (signal, ignored) in
            [(libc::SIGPIPE, self.sigpipe_ignored), (libc::SIGCHLD, self.sigchld_ignored)]
        {
            if ignored {
                signals::set_ignored(signal);
            } else {
                signals::set_default(signal);
            }
        }
        for (fd, closed) in self.closed_stdio.into_iter().enumerate() {
            if closed {
                descriptors::close(fd as RawFd);
            }
        }
        self.mask.set();
    }
}

/// A NULL-terminated array of C strings.
struct Strings {
    pointers: Vec<*const libc::c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }
}

/// A prepared `execvp`: everything is allocated, so that it can be carried
/// out between fork and exec.
pub struct Exec {
    candidates: Vec<CString>,
    argv: Strings,
    env: Strings,
    /// `/bin/sh`, the candidate, the arguments, NULL.
    shell: Vec<*const libc::c_char>,
}

impl Exec {
    /// Prepares to execute the first of the candidates (paths) that works.
    pub fn new(candidates: Vec<CString>, argv: Vec<CString>, env: Vec<CString>) -> Self {
        let argv = Strings::new(argv);
        let rest = argv.pointers.iter().skip(1).copied();
        let shell = [SHELL.as_ptr(), std::ptr::null()].into_iter().chain(rest).collect();
        Self { candidates, argv, env: Strings::new(env), shell }
    }

    /// Executes; returns only on failure, with the error that `execvp(3)`
    /// would report. Async-signal-safe.
    fn run(&mut self) -> i32 {
        let mut denied = false;
        for candidate in &self.candidates {
            let path = candidate.as_ptr();
            let (argv, env) = (self.argv.pointers.as_ptr(), self.env.pointers.as_ptr());
            // SAFETY: the path is a C string, both arrays hold pointers to C
            // strings that `self` owns and end with NULL.
            unsafe { libc::execve(path, argv, env) };
            match errno() {
                libc::ENOEXEC => {
                    self.shell[1] = path;
                    // SAFETY: as above; a `shell` of two elements only is
                    // impossible because `argv` ends with NULL.
                    unsafe { libc::execve(SHELL.as_ptr(), self.shell.as_ptr(), env) };
                    return errno();
                }
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                other => return other,
            }
        }
        if denied { libc::EACCES } else { libc::ENOENT }
    }

    /// Becomes the program, with the caller's signals and descriptors; returns
    /// only on failure.
    pub fn become_program(mut self, inherited: &Inherited) -> io::Error {
        inherited.put_back();
        io::Error::from_raw_os_error(self.run())
    }
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program's file cannot be executed.
    #[error("{0}")]
    Exec(#[source] io::Error),
    /// It came to have another pid than the one that was to be next, and was
    /// not started.
    #[error("the next pid was taken by another process")]
    OtherPid,
    /// A step before that failed.
    #[error("{step}: {error}")]
    Step {
        /// The system call.
        step: &'static str,
        /// Its error.
        error: io::Error,
    },
}

/// The steps a child reports, by index.
const STEPS: [&str; 4] = ["execve", "prctl(PR_SET_PDEATHSIG)", "dup2", "getpid"];
/// The child has another pid than it should have.
const STEP_OTHER_PID: u32 = 3;

/// Makes a pipe, both ends close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors to the array.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just made and are owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Starts a program as a child in our session and process group, and waits
/// until it has been executed.
///
/// `stdio` replaces 0, 1 or 2. The child is killed when the calling thread,
/// which must be the main one, ends.
pub fn spawn(
    mut exec: Exec,
    inherited: &Inherited,
    stdio: [Option<RawFd>; 3],
) -> Result<i32, SpawnError> {
    spawn_as(&mut exec, inherited, stdio, Birth::Anywhere)
}

/// Starts a program like [`spawn`], with the pid that `birth` says. The pid
/// returned is the one in our own pid namespace.
pub fn spawn_as(
    exec: &mut Exec,
    inherited: &Inherited,
    stdio: [Option<RawFd>; 3],
    birth: Birth,
) -> Result<i32, SpawnError> {
    let (reader, writer) = pipe().map_err(|error| SpawnError::Step { step: "pipe2", error })?;
    let parent = std::process::id() as i32;
    let report_to = writer.as_raw_fd();
    let mut body = || {
        let (step, error) = child(exec, inherited, stdio, parent, birth);
        let mut report = [0; 8];
        report[..4].copy_from_slice(&step.to_ne_bytes());
        report[4..].copy_from_slice(&error.to_ne_bytes());
        // SAFETY: writes our own buffer (a pipe takes 8 bytes at once).
        unsafe { libc::write(report_to, report.as_ptr().cast(), report.len()) };
    };
    // SAFETY: the child calls only async-signal-safe functions until it
    // executes or ends; nothing is allocated or unlocked in it. What it
    // changes in `exec` is set anew by every use.
    let pid = unsafe { birth::make(birth, &mut body) }
        .map_err(|error| SpawnError::Step { step: birth.call(), error })?;
    drop(writer);
    let Some((step, error)) = read_report(&reader) else { return Ok(pid) };
    // Whatever the wait answers, there is nothing left of it.
    let _ = wait(pid, libc::WEXITED);
    let error = io::Error::from_raw_os_error(error);
    Err(match step {
        0 => SpawnError::Exec(error),
        STEP_OTHER_PID => SpawnError::OtherPid,
        step => {
            let step = STEPS.get(step as usize).unwrap_or(&"fork");
            SpawnError::Step { step, error }
        }
    })
}

/// What the child does; returns the step that failed and its error.
pub(super) fn child(
    exec: &mut Exec,
    inherited: &Inherited,
    stdio: [Option<RawFd>; 3],
    parent: i32,
    birth: Birth,
) -> (u32, i32) {
    if !birth::is_as_wished(birth) {
        return (STEP_OTHER_PID, 0);
    }
    // SAFETY: PR_SET_PDEATHSIG takes a number.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return (1, errno());
    }
    // The parent may have died before the call above. (One that is outside of
    // our pid namespace shows as 0, alive or not.)
    // SAFETY: takes nothing, cannot fail; _exit does not return.
    unsafe {
        if ![0, parent].contains(&libc::getppid()) {
            libc::_exit(127);
        }
    }
    for (to, from) in stdio.into_iter().enumerate() {
        if let Some(from) = from
            && descriptors::duplicate_onto(from, to as RawFd).is_err()
        {
            return (2, errno());
        }
    }
    inherited.put_back();
    (0, exec.run())
}

fn read_report(reader: &OwnedFd) -> Option<(u32, i32)> {
    let mut report = [0u8; 8];
    loop {
        // SAFETY: the buffer is ours and has the length given.
        let read =
            unsafe { libc::read(reader.as_raw_fd(), report.as_mut_ptr().cast(), report.len()) };
        match read {
            8 => break,
            -1 if errno() == libc::EINTR => {}
            _ => return None,
        }
    }
    let (step, error) = report.split_at(4);
    Some((u32::from_ne_bytes(step.try_into().ok()?), i32::from_ne_bytes(error.try_into().ok()?)))
}

/// A change of a child's state (`waitid(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended with this status.
    Exited(i32),
    /// It was killed by this signal.
    Killed(i32),
    /// It was stopped by this signal.
    Stopped(i32),
    /// It goes on.
    Continued,
}

/// Takes the next change of a child, if there is one.
pub fn changed(pid: i32) -> io::Result<Option<Change>> {
    wait(pid, libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG)
}

/// Whether a child has ended; its status stays to be taken.
pub fn has_ended(pid: i32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    !matches!(wait(pid, options), Ok(None))
}

fn wait(pid: i32, options: i32) -> io::Result<Option<Change>> {
    // SAFETY: siginfo is plain data, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: waitid writes one siginfo to the address given.
        let done = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, options) };
        if done == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves all zero.
    let (child, status) = unsafe { (info.si_pid(), info.si_status()) };
    if child == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
        libc::CLD_CONTINUED => Change::Continued,
        _ => Change::Stopped(status),
    }))
}

/// Stops this process by a signal whose default action that is; returns when
/// it has been continued, or at once where the kernel stops nobody (a process
/// group that no shell looks after: `setpgid(2)`, orphaned).
pub fn stop_by(signal: i32) {
    if signal == libc::SIGSTOP {
        // SAFETY: sends a signal to this process.
        unsafe { libc::kill(libc::getpid(), signal) };
        return;
    }
    let ignored = signals::is_ignored(signal);
    let only = Mask::of(&[signal]);
    let before = only.block();
    signals::set_default(signal);
    // SAFETY: sends a signal to this thread, which blocks it until below.
    unsafe { libc::raise(signal) };
    only.unblock();
    before.set();
    if ignored {
        signals::set_ignored(signal);
    }
}

/// Ends this process as one killed by the signal, without a core file of
/// ours; where it cannot (the first process of a pid namespace), by the exit
/// status that a shell would show.
pub fn die_by(signal: i32) -> ! {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: takes a number; reads one rlimit.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    signals::set_default(signal);
    Mask::of(&[signal]).unblock();
    // SAFETY: sends a signal to this process.
    unsafe { libc::kill(libc::getpid(), signal) };
    std::process::exit(128 + signal)
}

/// Whether this process leads its session.
pub fn leads_session() -> bool {
    // SAFETY: both take a number or nothing and cannot fail for ourselves.
    unsafe { libc::getsid(0) == libc::getpid() }
}

/// Carries on as a process of its own with `work`, so that this one can end;
/// for work that neither allocates nor locks, since threads may be lost.
pub fn leave_behind(work: impl FnOnce()) {
    // SAFETY: the child runs `work`, which by contract calls only
    // async-signal-safe functions, and ends.
    if unsafe { libc::fork() } == 0 {
        work();
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    }
}

/// The stack of our own threads, in bytes: Rust's default, which a variable of
/// the caller's (`RUST_MIN_STACK`) may change to less than we need.
const LEN_STACK: usize = 2 << 20;

/// Prepares a thread of ours.
pub fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned()).stack_size(LEN_STACK)
}

/// Makes the calling thread, and it alone, give way to everything else
/// (`setpriority(2)`: on Linux the nice value belongs to the thread).
pub fn be_nice() {
    // SAFETY: setpriority takes numbers. Raising one's own nice value is
    // always allowed, and nothing depends on it.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Sees that whatever our children leave behind becomes a child of ours
/// (`PR_SET_CHILD_SUBREAPER`, Linux 3.4); returns whether it did not before.
pub fn adopt_orphans() -> bool {
    let mut before: libc::c_int = 0;
    // SAFETY: one writes an int to the address given, one takes a number;
    // neither can fail.
    unsafe {
        libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut before);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    before == 0
}

/// Ends that ([`adopt_orphans`]).
pub fn disown_orphans() {
    // SAFETY: takes a number, and cannot fail.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0) };
}

/// A process in a session of its own.
#[derive(Debug)]
pub struct Detached(i32);

impl Detached {
    /// Waits for its end.
    pub fn wait(self) {
        // Whatever the wait answers, there is nothing left of it.
        let _ = wait(self.0, libc::WEXITED);
    }
}

/// Starts a program in a session of its own, with the caller's signals, and
/// waits until it has been executed. Its 0, 1 and 2 are `/dev/null`, but for
/// `stdout`; it has no other descriptor, and nothing waits for it.
///
/// # Errors
/// If it cannot be started.
pub fn detach(
    mut exec: Exec,
    inherited: &Inherited,
    stdout: Option<RawFd>,
) -> io::Result<Detached> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let null = null.as_raw_fd();
    let (reader, writer) = pipe()?;
    let report_to = writer.as_raw_fd();
    let inherited = Inherited { closed_stdio: [false; 3], ..*inherited };
    let mut body = || {
        // SAFETY: setsid takes nothing; a child of fork leads no group.
        unsafe { libc::setsid() };
        let mut error = 0;
        for (to, from) in [null, stdout.unwrap_or(null), null].into_iter().enumerate() {
            if descriptors::duplicate_onto(from, to as RawFd).is_err() {
                error = errno();
            }
        }
        // SAFETY: marks descriptors to be closed at the exec; on a kernel
        // before 5.11 they stay open.
        unsafe {
            let last = libc::c_uint::MAX;
            libc::syscall(libc::SYS_close_range, 3, last, libc::CLOSE_RANGE_CLOEXEC);
        }
        inherited.put_back();
        if error == 0 {
            error = exec.run();
        }
        let report = error.to_ne_bytes();
        // SAFETY: writes our own buffer (a pipe takes so little at once).
        unsafe { libc::write(report_to, report.as_ptr().cast(), report.len()) };
    };
    // SAFETY: the child calls only async-signal-safe functions until it
    // executes or ends.
    let pid = unsafe { birth::make(Birth::Anywhere, &mut body) }?;
    drop(writer);
    let mut report = [0; 4];
    match io::Read::read(&mut std::fs::File::from(reader), &mut report)? {
        4 => {
            Detached(pid).wait();
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(report)))
        }
        _ => Ok(Detached(pid)),
    }
}
/// Returns how a misfeature of speculation is set for this thread, or a
/// negative number (`prctl(2)`, PR_GET_SPECULATION_CTRL).
pub fn speculation_control(which: u64) -> i64 {
    // SAFETY: takes numbers only.
    i64::from(unsafe { libc::prctl(libc::PR_GET_SPECULATION_CTRL, which, 0, 0, 0) })
}
