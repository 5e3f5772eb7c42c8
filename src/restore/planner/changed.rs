//! What a program has changed of what every program gets from its caller:
//! set again at a restore, where the rest is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use super::descriptors::Numbers;
use super::{Check, Planner, value};
use crate::restore::plan::{AT_FDCWD, Arg, Operation};

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
    /// How likely it is to be ended for its memory (`oom_score_adj`, `proc(5)`):
    /// servers save their main process from that, or offer their workers.
    pub oom_score_adj: Option<i32>,
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
    /// Names what CRIU's format has no place for, so that no other engine would
    /// bring it back.
    pub fn without_place(&self) -> Option<&'static str> {
        // The signal at the parent's death is in every image: the launcher's.
        let settings = self.settings.values().flatten();
        if settings.into_iter().any(|setting| setting.option != libc::PR_SET_PDEATHSIG) {
            Some("what it has set by prctl(2)")
        } else if self.locks_future {
            Some("mlockall(MCL_FUTURE)")
        } else if !self.socket_options.is_empty() {
            Some("options of its sockets")
        } else {
            None
        }
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
        let score = self.facts.changed.oom_score_adj.map(|score| score.to_string());
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
        operations
    }
}
