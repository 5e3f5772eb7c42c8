//! What the program has changed of what the launcher gave it: group, session,
//! scheduling, what a core dump holds.

use std::collections::BTreeMap;
use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::process::Stat;
use super::{Capture, Refusal, StdioOrigin, attributes};
use crate::restore::planner::{Changed, LEN_CPUS, Leads, Scheduling, Setting};
use crate::sys::capability;
use crate::sys::scheduling::{io_priority, resets_on_fork};
use crate::trace::{Group, Remote};

/// What only calls of the program itself tell.
#[derive(Debug)]
pub struct Asked {
    securebits: u64,
    /// The slack of each thread's timers, in nanoseconds.
    pub timer_slack: BTreeMap<i32, u64>,
    /// What each thread has set for itself; the leader also for the process.
    pub settings: BTreeMap<i32, Vec<Setting>>,
    /// Whether all memory that is yet to be mapped is locked.
    pub locks_future: bool,
}

impl Asked {
    /// Asks what is the leader's.
    pub fn read(remote: &mut Remote<'_>) -> Result<Self, Refusal> {
        let args = [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0];
        let securebits = remote.call_ok("reading the securebits", libc::SYS_prctl, args)?;
        let settings = attributes::of_memory(remote)?;
        let settings = [(remote.tid(), settings)].into();
        Ok(Self { securebits, timer_slack: BTreeMap::new(), settings, locks_future: false })
    }
}

/// Compares the program with this process, which started it. Of a process
/// that somebody else started (`image dump`) nothing is known: a shell gives
/// every job a group, and the restored one gets its caller's.
pub fn read(
    capture: &Capture<'_>,
    group: &Group,
    asked: &Asked,
    root: i32,
) -> Result<Changed, Refusal> {
    let settings = asked.settings.iter().map(|(tid, settings)| (*tid as u32, settings.clone()));
    let changed = Changed {
        settings: settings.filter(|(_, settings)| !settings.is_empty()).collect(),
        locks_future: asked.locks_future,
        ..Changed::default()
    };
    if !is_started_by_us(capture) {
        return Ok(changed);
    }
    let pid = group.pid();
    let own = Stat::read("/proc/self/stat")?;
    if capability::securebits().is_some_and(|own| own != asked.securebits) {
        // PR_SET_KEEPCAPS is one of them.
        let what = format!("process {pid} has set securebits ({:#x})", asked.securebits);
        return Err(Refusal::lasting(what));
    }
    Ok(Changed {
        leads: match pid == root {
            true => leads(pid, &Stat::read(&format!("/proc/{pid}/stat"))?, &own)?,
            // Told by its place in the tree.
            false => Leads::Nothing,
        },
        nonblocking: Vec::new(),
        coredump_filter: changed_filter(pid),
        oom_score: oom_score(&pid.to_string())
            .filter(|score| oom_score("self").is_some_and(|own| own != *score)),
        scheduling: {
            check_policies(pid, &asked.timer_slack, &own)?;
            scheduling(pid, &asked.timer_slack, &own)?
        },
        ..changed
    })
}

/// Tells what CRIU would have to set again, as far as it is known here.
pub fn unseen(capture: &Capture<'_>, asked: &Asked) -> Result<Changed, Refusal> {
    let settings = asked.settings.iter().map(|(tid, settings)| (*tid as u32, settings.clone()));
    let mut changed = Changed {
        settings: settings.filter(|(_, settings)| !settings.is_empty()).collect(),
        locks_future: asked.locks_future,
        ..Changed::default()
    };
    if is_started_by_us(capture) {
        let own = Stat::read("/proc/self/stat")?;
        changed.scheduling = scheduling(capture.pid, &asked.timer_slack, &own)?;
    }
    Ok(changed)
}

fn is_started_by_us(capture: &Capture<'_>) -> bool {
    capture.stdio != [StdioOrigin::Programs; 3]
}

/// Refuses a program that has gone out of its caller's session or groups in a way
/// that a restore by whatever engine would not bring back.
pub fn check_place(pid: i32) -> Result<(), Refusal> {
    let [stat, own] = [format!("/proc/{pid}/stat"), "/proc/self/stat".into()];
    leads(pid, &Stat::read(&stat)?, &Stat::read(&own)?).map(drop)
}

/// Tells what the program leads, by fields 5 to 8 of `stat` (`proc(5)`):
/// group, session, terminal, and the group whose turn it is there.
///
/// A shell with job control has taken its turn (`tcsetpgrp(3)`) and would have
/// to take it again: without, its reads fail, or stop it.
fn leads(pid: i32, stat: &Stat, own: &Stat) -> Result<Leads, Refusal> {
    let itself = pid as u64;
    let (pgid, sid, terminal) = (stat.field(5), stat.field(6), stat.field(7));
    let refuse = |what: String| Err(Refusal::lasting(format!("process {pid} {what}")));
    if (pgid, sid) == (own.field(5), own.field(6)) {
        Ok(Leads::Nothing)
    } else if sid == itself && terminal != 0 {
        refuse("leads a session with a terminal of its own".into())
    } else if sid == itself {
        Ok(Leads::Session)
    } else if sid != own.field(6) {
        refuse(format!("has joined session {sid}"))
    } else if pgid == itself && terminal != 0 && stat.field(8) == itself {
        refuse("has taken the terminal for a group of its own, as shells do".into())
    } else if pgid == itself {
        Ok(Leads::Group)
    } else {
        refuse(format!("has joined process group {pgid}"))
    }
}

fn coredump_filter(pid: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).ok()?;
    u32::from_str_radix(text.trim(), 16).ok()
}

/// Returns which memory a core dump holds, where that is not as it was.
pub fn changed_filter(pid: i32) -> Option<u32> {
    coredump_filter(&pid.to_string())
        .filter(|filter| coredump_filter("self").is_some_and(|own| own != *filter))
}

/// Returns how readily a process is killed when memory is short.
pub fn oom_score(pid: &str) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
}

/// Refuses threads with another policy than ours, field 41 of `stat`.
fn check_policies(pid: i32, threads: &BTreeMap<i32, u64>, own: &Stat) -> Result<(), Refusal> {
    for tid in threads.keys() {
        let stat = Stat::read(&format!("/proc/{pid}/task/{tid}/stat"))?;
        if stat.field(41) != own.field(41) {
            let what = format!("thread {tid} has {}", policy(stat.field(41)));
            return Err(Refusal::lasting(what));
        }
    }
    Ok(())
}

/// Compares how each thread is scheduled: nice value, which is field 19 of
/// `stat`, the processors it may run on, timer slack.
fn scheduling(
    pid: i32,
    timer_slack: &BTreeMap<i32, u64>,
    own: &Stat,
) -> Result<BTreeMap<u32, Scheduling>, Refusal> {
    let own_cpus = cpus(0);
    let own_io = io_priority(0);
    let mut changed = BTreeMap::new();
    let own_slack = nix::sys::prctl::get_timerslack().ok().map(|slack| slack as u64);
    for (&tid, slack) in timer_slack {
        let stat = Stat::read(&format!("/proc/{pid}/task/{tid}/stat"))?;
        let nice = Some(stat.field(19)).filter(|nice| *nice != own.field(19));
        let thread = Scheduling {
            nice: nice.map(|nice| nice as i32),
            cpus: cpus(tid).filter(|cpus| own_cpus.as_ref().is_some_and(|own| own != cpus)),
            timer_slack: Some(*slack).filter(|slack| own_slack.is_some_and(|own| own != *slack)),
            io_priority: own_io.and_then(|own| io_priority(tid).filter(|its| *its != own)),
            resets_on_fork: resets_on_fork(tid),
        };
        if thread != Scheduling::default() {
            changed.insert(tid as u32, thread);
        }
    }
    Ok(changed)
}

fn policy(number: u64) -> String {
    let name = match number {
        0 => "SCHED_OTHER",
        1 => "SCHED_FIFO",
        2 => "SCHED_RR",
        3 => "SCHED_BATCH",
        5 => "SCHED_IDLE",
        6 => "SCHED_DEADLINE",
        other => return format!("scheduling policy {other}"),
    };
    format!("scheduling policy {name}")
}

/// Returns the mask of a thread's processors; none on a machine with more
/// than fit.
fn cpus(tid: i32) -> Option<Vec<u8>> {
    let set = sched_getaffinity(Pid::from_raw(tid)).ok()?;
    let mut mask = vec![0; LEN_CPUS];
    for cpu in (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)) {
        *mask.get_mut(cpu / 8)? |= 1 << (cpu % 8);
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stat(group: i32, session: i32, terminal: i32) -> Stat {
        Stat::parse(&format!("9 (a) b) S 1 {group} {session} {terminal} 5"))
    }

    #[test]
    fn a_leader_is_told_from_one_that_joined() {
        let own = stat(5, 4, 34816);
        let of = |stat: Stat| leads(9, &stat, &own).map_err(|refusal| refusal.reason);
        assert_eq!(of(stat(5, 4, 34816)), Ok(Leads::Nothing));
        assert_eq!(of(stat(9, 4, 34816)), Ok(Leads::Group));
        let shell = Stat::parse("9 (a) b) S 1 9 4 34816 9");
        assert!(of(shell).unwrap_err().contains("taken the terminal"));
        assert_eq!(of(stat(9, 9, 0)), Ok(Leads::Session));
        assert_eq!(of(stat(4, 4, 0)), Err("process 9 has joined process group 4".into()));
        assert!(of(stat(9, 9, 34817)).unwrap_err().contains("terminal of its own"));
    }

    #[test]
    fn this_thread_runs_on_some_processor() {
        let mask = cpus(0).unwrap();
        assert_eq!(mask.len(), LEN_CPUS);
        assert!(mask.iter().any(|byte| *byte != 0));
    }
}
