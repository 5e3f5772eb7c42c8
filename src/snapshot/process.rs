//! The state that the threads of a process share, but for memory and
//! descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Refusal;
use crate::image::proto::{
    ItimerEntry, RlimitEntry, SaEntry, TaskCoreEntry, TaskRlimitsEntry, TaskTimersEntry,
};
use crate::image::{SIGNALS, task_state};
use crate::privilege;
use crate::sys::kcmp::{self, Shared};
use crate::trace::{Group, Remote, Scratch, TraceError};

/// The kernel's `SA_RESTORER`.
const LEN_SIGSET: u64 = 8;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS` (Linux 6.3).
const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;

/// `/proc/PID/stat`, by the field numbers of `proc(5)`.
#[derive(Debug)]
pub struct Stat {
    /// The fields behind the name: field 3 is the first.
    fields: Vec<String>,
}

impl Stat {
    /// Reads a `stat` file.
    pub fn read(path: &str) -> Result<Self, Refusal> {
        let text = fs::read(path).map_err(|error| Refusal::passing(format!("{path}: {error}")))?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Parses the text of one.
    pub fn parse(text: &str) -> Self {
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        Self { fields: rest.split_ascii_whitespace().map(str::to_owned).collect() }
    }

    /// Returns field 3, the state, as it is.
    pub fn letter(&self) -> &str {
        self.fields.first().map_or("", String::as_str)
    }

    /// Returns field `number` (from 3 on), negative numbers as their
    /// two's complement, 0 if the kernel does not have it.
    pub fn field(&self, number: usize) -> u64 {
        let text = self.fields.get(number.wrapping_sub(3)).map_or("0", String::as_str);
        text.parse::<i64>().map(|number| number as u64).or_else(|_| text.parse()).unwrap_or(0)
    }
}

/// `/proc/PID/status`.
#[derive(Debug)]
pub struct Status {
    text: String,
}

impl Status {
    /// Reads the status of a process.
    pub fn read(pid: i32) -> Result<Self, Refusal> {
        Self::at(&format!("/proc/{pid}/status"), pid)
    }

    /// Reads the status of a thread.
    pub fn of_thread(pid: i32, tid: i32) -> Result<Self, Refusal> {
        Self::at(&format!("/proc/{pid}/task/{tid}/status"), tid)
    }

    fn at(path: &str, id: i32) -> Result<Self, Refusal> {
        let text =
            fs::read(path).map_err(|_| Refusal::lasting(format!("there is no process {id}")))?;
        Ok(Self { text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Returns the value of a line.
    pub fn value(&self, key: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or("").trim()
    }

    /// Returns a value in hexadecimal.
    pub fn hex(&self, key: &str) -> u64 {
        u64::from_str_radix(self.value(key), 16).unwrap_or(0)
    }

    /// Returns a decimal value.
    pub fn number(&self, key: &str) -> u64 {
        self.value(key).parse().unwrap_or(0)
    }
}

/// Refuses, before anything is stopped, a process that cannot be brought back
/// by this user from here.
pub fn check(pid: i32) -> Result<(), Refusal> {
    let status = Status::read(pid)?;
    let own = Status::read(std::process::id() as i32)?;
    let refuse = |what: &str| Err(Refusal::lasting(format!("process {pid} {what}")));
    match status.value("TracerPid") {
        "" | "0" => {}
        // An earlier try that the kernel is still taking back.
        tracer if tracer == std::process::id().to_string() => {
            return Err(Refusal::passing(format!("process {pid} is being let go")));
        }
        tracer => return refuse(&format!("is already traced by process {tracer}")),
    }
    if status.value("State").starts_with('Z') {
        return refuse("has ended");
    }
    for key in ["Uid", "Gid"] {
        if status.value(key) != own.value(key) {
            return refuse(&format!(
                "runs with other ids than ours ({key}: {})",
                status.value(key).replace('\t', " ")
            ));
        }
    }
    if status.value("Seccomp") != own.value("Seccomp")
        || status.value("Seccomp_filters") != own.value("Seccomp_filters")
    {
        return refuse("has put itself under a seccomp filter");
    }
    if !matches!(status.value("x86_Thread_features"), "" | "0") {
        return refuse(&format!("uses {}", status.value("x86_Thread_features")));
    }
    check_workers(pid)?;
    check_namespaces(pid)
}

/// A restored program gets the caller's namespaces: it must be in ours.
fn check_namespaces(pid: i32) -> Result<(), Refusal> {
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let inode = |who: &str| fs::metadata(format!("/proc/{who}/ns/{name}")).map(|ns| ns.ino());
        match (inode(&pid.to_string()), inode("self")) {
            (Ok(its), Ok(ours)) if its != ours => {
                let what = format!("process {pid} is in a {name} namespace of its own");
                return Err(Refusal::lasting(what));
            }
            (Err(error), _) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Refusal::lasting(format!("process {pid} may not be traced: {error}")));
            }
            _ => {}
        }
    }
    check_unshared(pid)
}

/// Refuses a process whose children are to be in other namespaces than itself.
pub fn check_unshared(pid: i32) -> Result<(), Refusal> {
    // Where its children are to be: unknown until there is one (Linux shows
    // no such namespace without a first process).
    for name in ["pid_for_children", "time_for_children"] {
        let inode = |who: &str| fs::metadata(format!("/proc/{who}/ns/{name}")).map(|ns| ns.ino());
        let Ok(ours) = inode("self") else { continue };
        if inode(&pid.to_string()).map_or(true, |its| its != ours) {
            let what = format!("process {pid} has unshared a namespace ({name})");
            return Err(Refusal::lasting(what));
        }
    }
    Ok(())
}

/// Lines of `status` in which every thread must be like the leader.
const ALIKE: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

/// Refuses what a restore would give back or take away: rights that the program
/// has dropped or gained, as a whole or in one thread, and threads with
/// descriptors or directories of their own.
pub fn check_rights(group: &Group) -> Result<(), Refusal> {
    let pid = group.pid();
    let leader = Status::read(pid)?;
    let own = Status::read(std::process::id() as i32)?;
    let cold = privilege::of_a_cold_start();
    for (key, expected) in [
        ("CapPrm", cold.permitted),
        ("CapEff", cold.effective),
        ("CapInh", cold.inheritable),
        ("CapBnd", own.hex("CapBnd")),
    ] {
        if leader.hex(key) != expected {
            return Err(Refusal::lasting(format!(
                "process {pid} has other capabilities than it was started with ({key}: {})",
                leader.value(key)
            )));
        }
    }
    if leader.value("Groups") != own.value("Groups") {
        return Err(Refusal::lasting(format!("process {pid} has other groups than its caller")));
    }
    for thread in group.threads().iter().skip(1) {
        let tid = thread.tid();
        let status = Status::of_thread(pid, tid)?;
        if let Some(key) = ALIKE.iter().find(|key| status.value(key) != leader.value(key)) {
            return Err(Refusal::lasting(format!(
                "thread {tid} has rights of its own ({key}: {})",
                status.value(key).replace('\t', " ")
            )));
        }
    }
    check_tables(group)
}

/// Refuses threads with descriptors or directories of their own.
pub fn check_tables(group: &Group) -> Result<(), Refusal> {
    let pid = group.pid();
    for thread in group.threads().iter().skip(1) {
        let tid = thread.tid();
        for (what, name) in
            [(Shared::Descriptors, "descriptors"), (Shared::Directories, "directories")]
        {
            // Without kcmp nothing could have been captured anyway.
            if !kcmp::share(pid, tid, what).unwrap_or(true) {
                return Err(Refusal::lasting(format!("thread {tid} has {name} of its own")));
            }
        }
    }
    Ok(())
}

/// Refuses a JVM that is shutting down: HotSpot handles a signal that asks it to
/// end in a thread of this name, which runs the shutdown hooks.
pub fn check_shutdown(pid: i32) -> Result<(), Refusal> {
    const HANDLERS: [&str; 3] = ["SIGTERM handler", "SIGINT handler", "SIGHUP handler"];
    let path = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&path).map_err(|error| Refusal::passing(format!("{path}: {error}")))?;
    for thread in threads.flatten() {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if HANDLERS.contains(&name.trim_end()) {
            let what = format!("process {pid} is shutting down ({})", name.trim_end());
            return Err(Refusal::passing(what));
        }
    }
    Ok(())
}

/// Refuses a process with children where it is to have none. They may be about
/// to end.
pub fn check_children(pid: i32) -> Result<(), Refusal> {
    let path = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&path).map_err(|error| Refusal::passing(format!("{path}: {error}")))?;
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        if let Some(child) = children.split_ascii_whitespace().next() {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            return Err(Refusal::passing(format!(
                "process {pid} has a child process, {child} ({})",
                name.trim_end()
            )));
        }
    }
    Ok(())
}

/// Refuses a process with threads of the kernel's among its own, as io_uring
/// makes them (`iou-sqp-PID`, `iou-wrk-PID`): they never return to the program,
/// so a call that they are made to issue would be waited for without end.
pub fn check_workers(pid: i32) -> Result<(), Refusal> {
    // `PF_IO_WORKER`, `PF_USER_WORKER` (`include/linux/sched.h`).
    const WORKERS: u64 = 0x10 | 0x4000;
    let path = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&path).map_err(|error| Refusal::passing(format!("{path}: {error}")))?;
    for thread in threads.flatten() {
        let dir = thread.path();
        // One that has just ended is none.
        let Ok(text) = fs::read(dir.join("stat")) else { continue };
        if Stat::parse(&String::from_utf8_lossy(&text)).field(9) & WORKERS != 0 {
            let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            let what = format!("process {pid} has a thread of io_uring ({})", name.trim_end());
            return Err(Refusal::lasting(what));
        }
    }
    Ok(())
}

/// Reads what CRIU's format keeps in the leader's core entry.
pub fn read(
    group: &Group,
    remote: &mut Remote<'_>,
    scratch: &Scratch,
) -> Result<TaskCoreEntry, Refusal> {
    let pid = group.pid();
    let status = Status::read(pid)?;
    // Before the pending signals: a timer that expires now has its signal
    // pending then. The other way round it would be in the image neither armed
    // nor expired.
    let mut timers_now = timers_of(remote, scratch)?;
    timers_now.posix = super::signals::timers(pid, remote, scratch)?;
    let stat = Stat::read(&format!("/proc/{pid}/stat"))?;
    let personality = fs::read_to_string(format!("/proc/{pid}/personality"));
    let personality = personality.ok().and_then(|hex| u32::from_str_radix(hex.trim(), 16).ok());
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let subreaper = {
        let args = [libc::PR_GET_CHILD_SUBREAPER as u64, scratch.addr(), 0, 0, 0, 0];
        remote.call_ok("reading the subreaper flag", libc::SYS_prctl, args)?;
        u32::from_le_bytes(scratch.read()?)
    };
    let registered =
        remote.call(libc::SYS_membarrier, [MEMBARRIER_GET_REGISTRATIONS, 0, 0, 0, 0, 0])?;
    let oom = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    Ok(TaskCoreEntry {
        task_state: task_state::ALIVE,
        exit_code: 0,
        personality: personality.unwrap_or(0),
        flags: stat.field(9) as u32,
        blk_sigset: remote.signal_mask(),
        comm: comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec(),
        timers: Some(timers_now),
        rlimits: Some(limits(pid)?),
        loginuid: None,
        oom_score_adj: oom.ok().and_then(|score| score.trim().parse().ok()),
        sigactions: actions(remote, scratch, &status)?,
        child_subreaper: Some(subreaper != 0),
        // Before 6.3 the kernel does not tell; nothing is registered then,
        // which membarrier(2) answers with EPERM at worst.
        membarrier_registration_mask: u32::try_from(registered).ok().filter(|mask| *mask != 0),
        ..Default::default()
    })
}

/// Reads the action of every signal but KILL and STOP, in the order of their
/// numbers; the default ones are known without asking.
fn actions(
    remote: &mut Remote<'_>,
    scratch: &Scratch,
    status: &Status,
) -> Result<Vec<SaEntry>, TraceError> {
    let changed = status.hex("SigIgn") | status.hex("SigCgt");
    let mut actions = Vec::with_capacity(SIGNALS as usize - 2);
    for signal in 1..=SIGNALS {
        if signal == libc::SIGKILL as u32 || signal == libc::SIGSTOP as u32 {
            continue;
        }
        if changed & (1 << (signal - 1)) == 0 {
            actions.push(SaEntry::default());
            continue;
        }
        let args = [u64::from(signal), 0, scratch.addr(), LEN_SIGSET, 0, 0];
        remote.call_ok("reading a signal action", libc::SYS_rt_sigaction, args)?;
        let bytes: [u8; 32] = scratch.read()?;
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(word)
        };
        actions.push(SaEntry {
            sigaction: word(0),
            flags: word(1),
            restorer: word(2),
            mask: word(3),
            ..Default::default()
        });
    }
    Ok(actions)
}

fn timers_of(remote: &mut Remote<'_>, scratch: &Scratch) -> Result<TaskTimersEntry, TraceError> {
    let mut timer = |which: i32| {
        let args = [which as u64, scratch.addr(), 0, 0, 0, 0];
        remote.call_ok("reading an interval timer", libc::SYS_getitimer, args)?;
        let bytes: [u8; 32] = scratch.read()?;
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(word)
        };
        Ok(ItimerEntry { isec: word(0), iusec: word(1), vsec: word(2), vusec: word(3) })
    };
    Ok(TaskTimersEntry { real: timer(0)?, virt: timer(1)?, prof: timer(2)?, posix: Vec::new() })
}

/// Reads all resource limits, in the order of their numbers.
fn limits(pid: i32) -> Result<TaskRlimitsEntry, Refusal> {
    let mut rlimits = Vec::new();
    for resource in 0..crate::sys::limits::COUNT {
        let (cur, max) = crate::sys::limits::get(pid, resource)
            .map_err(|error| Refusal::lasting(format!("limits of process {pid}: {error}")))?;
        rlimits.push(RlimitEntry { cur, max });
    }
    Ok(TaskRlimitsEntry { rlimits })
}
