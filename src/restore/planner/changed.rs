//! What a program has changed of what every program gets from its caller:
//! set again at a restore, where the rest is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use super::descriptors::Numbers;
use super::{Check, Planner, value};
use crate::restore::plan::{AT_FDCWD, Arg, Operation};
use crate::sys::scheduling;

/// The length of a CPU mask: 1024 processors, as in `cpu_set_t`.
pub const LEN_CPUS: usize = 128;

/// What the program has changed of its caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What it has made itself the leader of.
    pub leads: Leads,
    /// Given descriptors whose O_NONBLOCK is not as it was, and what it is.
    pub nonblocking: Vec<(RawFd, bool)>,
    /// Which memory a core dump holds (`core(5)`): a JVM adds to it.
    pub coredump_filter: Option<u32>,
    /// How readily it is killed when memory is short (`proc_pid_oom_score_adj(5)`).
    pub oom_score: Option<i32>,
    /// Threads that are scheduled otherwise than the caller, by id.
    pub scheduling: BTreeMap<u32, Scheduling>,
    /// What threads have set for themselves, by id; the leader also for the
    /// process.
    pub settings: BTreeMap<u32, Vec<Setting>>,
    /// Options of sockets that the image has no place for, by the file's id.
    pub socket_options: BTreeMap<u32, Vec<SocketOption>>,
    /// TCP connections that come back as closed by their peers, by the file's
    /// id.
    pub closed_tcp: BTreeSet<u32>,
    /// The names that Unix sockets of datagrams are connected to, by the file's
    /// id (`unix(7)`).
    pub unix_peers: BTreeMap<u32, Vec<u8>>,
    /// Whether all memory that is yet to be mapped is locked
    /// (`mlockall(2)`, MCL_FUTURE).
    pub locks_future: bool,
}

impl Changed {
    /// Names all that CRIU's format has no place for, so that no other engine
    /// would bring it back.
    ///
    /// Not what a core dump holds, which every JVM changes: engine criu brings it
    /// back by itself ([`crate::criu::record`]), and to nobody else it matters.
    pub fn without_place(&self) -> Vec<&'static str> {
        let options = self.settings.values().flatten().map(|setting| setting.option);
        let mut all: Vec<&'static str> = options.filter_map(name_of).collect();
        all.sort_unstable();
        all.dedup();
        let scheduling = || self.scheduling.values();
        for (is_there, name) in [
            (self.locks_future, "mlockall(MCL_FUTURE)"),
            (scheduling().any(|it| it.cpus.is_some()), "threads with processors of their own"),
            (scheduling().any(|it| it.timer_slack.is_some()), "a timer slack of its own"),
            (scheduling().any(|it| it.io_priority.is_some()), "an I/O priority of its own"),
            (scheduling().any(|it| it.resets_on_fork), "SCHED_RESET_ON_FORK"),
            (!self.socket_options.is_empty(), "options of its sockets"),
            (!self.unix_peers.is_empty(), "Unix sockets of datagrams that are connected"),
        ] {
            all.extend(is_there.then_some(name));
        }
        all
    }
}

/// Returns the name of an option of `prctl(2)` that CRIU does not keep.
fn name_of(option: i32) -> Option<&'static str> {
    match option {
        // In every image: the launcher's.
        libc::PR_SET_PDEATHSIG => None,
        libc::PR_SET_TSC => Some("PR_SET_TSC"),
        libc::PR_MCE_KILL => Some("PR_MCE_KILL"),
        // Not in every C library.
        65 => Some("PR_SET_MDWE"),
        67 => Some("PR_SET_MEMORY_MERGE"),
        _ => Some("what it has set by prctl(2)"),
    }
}

/// An option of a socket (`setsockopt(2)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// `SOL_SOCKET`, or a protocol.
    pub level: i32,
    /// Which of that level.
    pub name: i32,
    /// The value, as `getsockopt(2)` returns it.
    pub value: Vec<u8>,
}

/// A call of `prctl(2)` that a thread makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `PR_SET_*`.
    pub option: i32,
    /// Its arguments; the others are 0.
    pub args: [u64; 2],
}

/// What a program leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leads {
    /// Nothing: it is in the caller's process group and session.
    #[default]
    Nothing,
    /// A process group of its own in the caller's session (`setpgid(0, 0)`).
    Group,
    /// A session of its own, without a terminal (`setsid(2)`).
    Session,
}

/// How a thread is scheduled, where that is not the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Its nice value.
    pub nice: Option<i32>,
    /// The processors it may run on, [`LEN_CPUS`] bytes.
    pub cpus: Option<Vec<u8>>,
    /// How late its timers may be, in nanoseconds.
    pub timer_slack: Option<u64>,
    /// The priority of its input and output (`ioprio_set(2)`).
    pub io_priority: Option<i32>,
    /// Whether its children are scheduled as others are (`sched(7)`).
    pub resets_on_fork: bool,
}

impl Planner<'_> {
    /// Plans what a thread has set for itself, and the leader for the process:
    /// last of all, when all memory is there.
    pub(super) fn settings(&self, tid: u32, leader: u32) -> Vec<Operation> {
        let settings = self.facts.changed.settings.get(&tid).map_or(&[][..], |all| all);
        let call = |setting: &Setting| {
            let [first, second] = setting.args.map(Arg::Value);
            let args = [value(setting.option), first, second, value(0), value(0)];
            Operation::new(libc::SYS_prctl, &args, Check::Ok)
        };
        let mut operations: Vec<Operation> = settings.iter().map(call).collect();
        if self.facts.changed.locks_future && tid == leader {
            let args = [value(libc::MCL_FUTURE)];
            operations.push(Operation::new(libc::SYS_mlockall, &args, Check::Ok));
        }
        operations
    }

    /// Plans the group or session that the program leads.
    pub(super) fn leads(&mut self) {
        // In a tree that is settled while its processes are made.
        if self.family.is_some() {
            return;
        }
        match self.facts.changed.leads {
            Leads::Nothing => {}
            Leads::Group => self.must(libc::SYS_setpgid, &[value(0), value(0)]),
            Leads::Session => self.must(libc::SYS_setsid, &[]),
        }
    }

    /// Plans O_NONBLOCK of given descriptors. The other flags of the caller's
    /// descriptor, O_APPEND above all, are not known now and stay: F_SETFL
    /// would set them all.
    pub(super) fn blocking(&mut self) {
        for (fd, nonblocking) in &self.facts.changed.nonblocking {
            let on = Arg::Data(self.data.put(&i32::from(*nonblocking).to_le_bytes()));
            self.must(libc::SYS_ioctl, &[value(*fd), value(libc::FIONBIO), on]);
        }
    }

    /// Plans what a process has written to files of its own in `/proc`; returns
    /// the number that such a file has meanwhile. Where there is no `/proc`,
    /// what a core dump holds is not worth a cold start.
    pub(super) fn own_files(&mut self, numbers: &Numbers) -> Option<u32> {
        let fd = numbers.lowest_free();
        let flags = value(libc::O_WRONLY | libc::O_CLOEXEC);
        let filter = self.facts.changed.coredump_filter.map(|filter| format!("{filter:#x}"));
        let score = self.facts.changed.oom_score.map(|score| score.to_string());
        let files = [
            (&b"/proc/self/coredump_filter"[..], filter, Check::Any),
            (b"/proc/self/oom_score_adj", score, Check::Ok),
        ];
        let mut passing = None;
        for (path, text, check) in files {
            let Some(text) = text else { continue };
            let path = self.data.path(path);
            self.push(libc::SYS_openat, &[Arg::Value(AT_FDCWD), path, flags, value(0)], check);
            let bytes = Arg::Data(self.data.put(text.as_bytes()));
            self.push(libc::SYS_write, &[value(fd), bytes, value(text.len())], check);
            self.push(libc::SYS_close, &[value(fd)], check);
            passing = u32::try_from(fd).ok();
        }
        passing
    }

    /// Returns what thread `tid` does to be scheduled as it was.
    pub(super) fn scheduling(&mut self, tid: u32) -> Vec<Operation> {
        let mut operations = Vec::new();
        let Some(scheduling) = self.facts.changed.scheduling.get(&tid) else { return operations };
        if let Some(cpus) = &scheduling.cpus {
            let mask = Arg::Data(self.data.put(cpus));
            let args = [value(0), value(cpus.len()), mask];
            operations.push(Operation::new(libc::SYS_sched_setaffinity, &args, Check::Ok));
        }
        if let Some(slack) = scheduling.timer_slack {
            let slack = value(slack.min(i32::MAX as u64));
            let args = [value(libc::PR_SET_TIMERSLACK), slack, value(0), value(0), value(0)];
            operations.push(Operation::new(libc::SYS_prctl, &args, Check::Ok));
        }
        if let Some(nice) = scheduling.nice {
            let nice = Arg::Value(i64::from(nice) as u64);
            let args = [value(libc::PRIO_PROCESS), value(0), nice];
            operations.push(Operation::new(libc::SYS_setpriority, &args, Check::Ok));
        }
        if let Some(priority) = scheduling.io_priority {
            let args = [value(scheduling::IOPRIO_WHO_PROCESS), value(0), value(priority)];
            operations.push(Operation::new(libc::SYS_ioprio_set, &args, Check::Ok));
        }
        if scheduling.resets_on_fork {
            // The policies that have a priority of their own are refused.
            let parameter = Arg::Data(self.data.put(&0i32.to_le_bytes()));
            let policy = value(libc::SCHED_OTHER | scheduling::RESET_ON_FORK);
            let args = [value(0), policy, parameter];
            operations.push(Operation::new(libc::SYS_sched_setscheduler, &args, Check::Ok));
        }
        operations
    }
}
