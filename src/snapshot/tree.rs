//! A program of several processes: finding them, stopping them all, and what
//! makes them a tree that can come back.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::Refusal;
use super::process::{self, Stat};
use crate::image::proto::{CoreEntry, March, PstreeEntry, TaskCoreEntry};
use crate::image::{Set, Task, Thread, task_state};
use crate::sys::kcmp::{self, Shared};
use crate::trace::{Group, Remote, Scratch, TraceError};

/// The most processes that are captured together.
const MAX_PROCESSES: usize = 128;
/// How old a child must be to belong to the program: what a program starts to
/// ask it something has ended by then, or is asked again a little later.
const STEADY: Duration = Duration::from_millis(200);
/// How often the list of children is read again while they are stopped.
const MAX_PASSES: usize = 16;
const PR_GET_PDEATHSIG: u64 = libc::PR_GET_PDEATHSIG as u64;
/// In a status of `wait(2)`: memory was dumped.
const CORE_DUMPED: u64 = 0x80;

/// A process that stands still, or that has ended and is not reaped.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    parent: i32,
    group: Option<Group>,
}

impl Process {
    /// Makes one of a process without children.
    pub fn alone(group: Group) -> Self {
        Self { pid: group.pid(), parent: 0, group: Some(group) }
    }

    /// Returns its threads; none if it has ended.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Returns the pid of its parent, 0 for the root.
    pub fn parent(&self) -> i32 {
        self.parent
    }
}

/// Refuses, before anything is stopped, processes that cannot be brought back
/// by this user from here, or that may be about to end.
pub fn check(root: i32) -> Result<(), Refusal> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        next += 1;
        for child in children(parent) {
            if pids.len() >= MAX_PROCESSES {
                let what = format!("it has more than {MAX_PROCESSES} processes");
                return Err(Refusal::lasting(what));
            }
            let Some(stat) = stat(child) else { continue };
            check_child(child, parent, &stat)?;
            if !is_ended(&stat) {
                process::check(child)?;
                pids.push(child);
            }
        }
    }
    Ok(())
}

/// Refuses a child that has not come to rest, or that is no plain child.
fn check_child(child: i32, parent: i32, stat: &Stat) -> Result<(), Refusal> {
    let shown = || format!("process {parent} has a child process, {child} ({})", name(child));
    // In vfork(2) until its exec, while the parent cannot be stopped.
    if !is_ended(stat) && kcmp::share(parent, child, Shared::Memory).unwrap_or(false) {
        return Err(Refusal::passing(format!("{}, in its parent's memory", shown())));
    }
    if age(stat).is_some_and(|age| age < STEADY) {
        return Err(Refusal::passing(format!("{}, which has just been started", shown())));
    }
    let signal = stat.field(38);
    if signal != libc::SIGCHLD as u64 {
        let what = format!("{}, whose end gives signal {signal}", shown());
        return Err(Refusal::lasting(what));
    }
    Ok(())
}

/// Stops a process and all that descend from it; parents come before their
/// children.
///
/// To be called, as [`Group::stop`], on a thread that ends with the trace.
pub fn stop(root: i32) -> Result<Vec<Process>, Refusal> {
    let mut stopped = vec![Process::alone(Group::stop(root)?)];
    for _ in 0..MAX_PASSES {
        let before = stopped.len();
        let mut next = 0;
        while let Some(parent) = stopped.get(next) {
            next += 1;
            let pid = parent.pid;
            if parent.group.is_none() {
                continue;
            }
            // Its threads stand: no child is added any more but what another
            // one's end leaves to it (PR_SET_CHILD_SUBREAPER).
            for child in children(pid) {
                if stopped.iter().all(|known| known.pid != child) {
                    stopped.extend(stop_child(child, pid)?);
                }
                if stopped.len() > MAX_PROCESSES {
                    let what = format!("it has more than {MAX_PROCESSES} processes");
                    return Err(Refusal::lasting(what));
                }
            }
        }
        if stopped.len() == before {
            return Ok(stopped);
        }
    }
    Err(Refusal::passing(format!("process {root} makes processes faster than they stop")))
}

fn stop_child(child: i32, parent: i32) -> Result<Option<Process>, Refusal> {
    let Some(before) = stat(child) else { return Ok(None) };
    check_child(child, parent, &before)?;
    let ended = Process { pid: child, parent, group: None };
    if is_ended(&before) {
        return Ok(Some(ended));
    }
    match Group::stop(child) {
        Ok(group) => Ok(Some(Process { group: Some(group), ..ended })),
        Err(error) => match stat(child) {
            None => Ok(None),
            Some(now) if is_ended(&now) => Ok(Some(ended)),
            // It is ending, thread by thread.
            Some(_) if matches!(error, TraceError::Gone(_)) => {
                Err(Refusal::passing(format!("process {child} is ending")))
            }
            Some(_) => Err(error.into()),
        },
    }
}

/// Refuses processes that share what a restore would give each its own of, and
/// a child that has taken a terminal.
pub fn check_apart(stopped: &[Process]) -> Result<(), Refusal> {
    let living = stopped.iter().filter(|process| process.group.is_some());
    let living: Vec<i32> = living.map(|process| process.pid).collect();
    for (index, one) in living.iter().enumerate() {
        for other in &living[index + 1..] {
            for (what, name) in [
                (Shared::Memory, "their memory"),
                (Shared::Descriptors, "a table of descriptors"),
                (Shared::Directories, "their directories"),
                (Shared::Actions, "signal actions"),
            ] {
                let share = kcmp::share(*one, *other, what).map_err(|error| {
                    Refusal::lasting(format!("comparing processes (kcmp): {error}"))
                })?;
                if share {
                    let what = format!("processes {one} and {other} share {name}");
                    return Err(Refusal::lasting(what));
                }
            }
        }
    }
    for child in living.iter().skip(1) {
        check_terminal(*child, &Stat::read(&format!("/proc/{child}/stat"))?)?;
    }
    Ok(())
}

/// By fields 5 to 8 of `stat` (`proc(5)`): group, session, terminal, and the
/// group whose turn it is there.
fn check_terminal(pid: i32, stat: &Stat) -> Result<(), Refusal> {
    let itself = pid as u64;
    let refuse = |what: &str| Err(Refusal::lasting(format!("process {pid} {what}")));
    if stat.field(7) == 0 {
        Ok(())
    } else if stat.field(6) == itself {
        refuse("leads a session with a terminal of its own")
    } else if stat.field(5) == itself && stat.field(8) == itself {
        refuse("has taken the terminal for a group of its own, as shells do")
    } else {
        Ok(())
    }
}

/// Reads the signal that the process gets at its parent's death.
pub fn death_signal(remote: &mut Remote<'_>, scratch: &Scratch) -> Result<u32, TraceError> {
    let args = [PR_GET_PDEATHSIG, scratch.addr(), 0, 0, 0, 0];
    remote.call_ok("reading the parent-death signal", libc::SYS_prctl, args)?;
    Ok(u32::from_le_bytes(scratch.read()?))
}

/// Adds one process's part to an image of several.
pub fn merge(part: Set, set: &mut Set) {
    if set.pstree.is_empty() {
        *set = part;
    } else {
        set.pstree.extend(part.pstree);
        set.tasks.extend(part.tasks);
        set.shmem.extend(part.shmem);
    }
}

/// Adds a process that has ended: ids, group, session, how it ended.
pub fn add_ended(process: &Process, set: &mut Set) -> Result<(), Refusal> {
    let pid = process.pid;
    let stat = Stat::read(&format!("/proc/{pid}/stat"))?;
    if !is_ended(&stat) {
        return Err(Refusal::passing(format!("process {pid} was ending")));
    }
    let status = stat.field(52);
    if status & CORE_DUMPED != 0 {
        let what = format!("process {pid} has ended with a core dump and is not reaped");
        return Err(Refusal::passing(what));
    }
    let core = CoreEntry {
        mtype: March::X8664 as i32,
        tc: Some(TaskCoreEntry {
            task_state: task_state::DEAD,
            exit_code: status as u32,
            comm: comm(pid),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tid = pid as u32;
    set.pstree.push(PstreeEntry {
        pid: tid,
        ppid: process.parent as u32,
        pgid: stat.field(5) as u32,
        sid: stat.field(6) as u32,
        threads: vec![tid],
    });
    set.tasks.push(Task { pid: tid, threads: vec![Thread { tid, core }], ..Default::default() });
    Ok(())
}

fn stat(pid: i32) -> Option<Stat> {
    Stat::read(&format!("/proc/{pid}/stat")).ok()
}

/// Whether a process is a zombie, by field 3 of `stat`. One whose first thread
/// has ended before the others is none yet.
fn is_ended(stat: &Stat) -> bool {
    matches!(stat.letter(), "Z" | "X") && stat.field(20) <= 1
}

fn name(pid: i32) -> String {
    String::from_utf8_lossy(&comm(pid)).into_owned()
}

fn comm(pid: i32) -> Vec<u8> {
    let mut name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    name
}

/// Returns how old a process is, to 10 ms: field 22 of `stat` counts ticks
/// since the boot.
pub(super) fn age(stat: &Stat) -> Option<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten()?.max(1) as u64;
    let started = Duration::from_millis(stat.field(22).saturating_mul(1000) / per_second);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    Some(now.saturating_sub(started))
}

/// Returns all that descend from a process.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut all = children(root);
    let mut next = 0;
    while let Some(&parent) = all.get(next).filter(|_| all.len() <= MAX_PROCESSES) {
        next += 1;
        all.extend(children(parent));
    }
    all
}

/// Returns the children of every thread of a process.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let mut children: Vec<i32> = threads
        .flatten()
        .filter_map(of_thread)
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    children.sort_unstable();
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_as_old_as_it_is() {
        let own = stat(std::process::id() as i32).unwrap();
        assert!(!is_ended(&own) && age(&own).unwrap() < Duration::from_secs(24 * 3600));
        assert_eq!(own.field(38), libc::SIGCHLD as u64);
    }
}
