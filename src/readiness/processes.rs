//! The program's process and its descendants, seen through `/proc`.
//!
//! Nothing walks all of `/proc` unless the kernel was built without
//! `/proc/PID/task/TID/children`. Whatever cannot be read counts as not
//! there: a process may end between two reads, and a program that may not be
//! looked at cannot be captured anyway.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::pace::thread_cpu;

/// How long a list of descendants is taken to be true, at least.
const FRESH: Duration = Duration::from_millis(100);
/// A list that was expensive to make is kept for so many times its cost.
const FRESH_PER_COST: u32 = 400;
/// A guard against a fork bomb.
const MAX_MEMBERS: usize = 4096;

/// What the program's process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It runs or sleeps.
    Alive,
    /// It stands still: job control, or a tracer.
    Stopped,
    /// It has ended.
    Gone,
}

/// A process that holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pid: i32,
    fd: i32,
}

impl Holder {
    /// Tells whether it still does.
    pub(super) fn holds(self, inode: u64) -> bool {
        fs::read_link(format!("/proc/{}/fd/{}", self.pid, self.fd))
            .is_ok_and(|link| socket_inode(&link) == Some(inode))
    }
}

/// The program: a process and its descendants.
#[derive(Debug)]
pub(super) struct Program {
    pid: i32,
    /// `/proc/PID/stat`, kept open: one system call for each look.
    stat: Option<File>,
    /// The process itself first.
    members: Vec<Member>,
    stale_at: Option<Instant>,
    used: Duration,
    used_by_ended: Duration,
    tick: Duration,
}

#[derive(Debug)]
struct Member {
    pid: i32,
    clock: Option<ClockId>,
    used: Duration,
}

impl Member {
    fn new(pid: i32) -> Self {
        Self { pid, clock: clock_getcpuclockid(Pid::from_raw(pid)).ok(), used: Duration::ZERO }
    }
}

impl Program {
    pub(super) fn new(pid: i32) -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|n| u32::try_from(n).ok());
        Self {
            pid,
            stat: File::open(format!("/proc/{pid}/stat")).ok(),
            members: vec![Member::new(pid)],
            stale_at: None,
            used: Duration::ZERO,
            used_by_ended: Duration::ZERO,
            tick: Duration::from_secs(1) / ticks.unwrap_or(100).max(1),
        }
    }

    /// Looks at the program's own process.
    pub(super) fn state(&mut self) -> State {
        // pid, comm (16 bytes, escaped) and 50 numbers: 1 KiB is plenty.
        let mut buffer = [0u8; 1024];
        let Some(file) = &self.stat else { return State::Gone };
        let Ok(len) = file.read_at(&mut buffer, 0) else { return State::Gone };
        let Some(stat) = Stat::parse(&buffer[..len]) else { return State::Gone };
        self.used_by_ended = self.tick * u32::try_from(stat.ended_ticks).unwrap_or(u32::MAX);
        match stat.state {
            // A main thread that has ended while others run on is a zombie too.
            b'Z' | b'X' if stat.threads <= 1 => State::Gone,
            b'T' | b't' => State::Stopped,
            _ => State::Alive,
        }
    }

    /// Returns the CPU time that the program has used so far; only
    /// differences mean anything.
    ///
    /// The times in `/proc/PID/stat` are too coarse for this (ticks of 10 ms);
    /// the CPU clock of another process (`clock_getcpuclockid(3)`) counts
    /// nanoseconds. Children that came and went between two looks show only in
    /// the parent's time for ended children, which `state` reads.
    pub(super) fn cpu(&mut self, now: Instant) -> Duration {
        self.refresh(now);
        for member in &mut self.members {
            let Some(Ok(used)) = member.clock.map(clock_gettime) else { continue };
            let used = Duration::from(used);
            self.used += used.saturating_sub(member.used);
            member.used = used;
        }
        self.used + self.used_by_ended
    }

    /// Tells whether a thread of the program would run if it could: it waits
    /// for a processor, or for a disk (states R and D of `proc(5)`).
    pub(super) fn is_held_up(&self) -> bool {
        self.members.iter().any(|member| {
            let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", member.pid)) else {
                return false;
            };
            threads.flatten().any(|thread| {
                let mut start = [0; 128];
                let read = File::open(thread.path().join("stat"))
                    .and_then(|file| file.read_at(&mut start, 0))
                    .unwrap_or(0);
                // The name is in parentheses and may hold some itself.
                let name_end = start[..read].iter().rposition(|byte| *byte == b')');
                let state = name_end.and_then(|end| start.get(end + 2));
                matches!(state, Some(b'R' | b'D'))
            })
        })
    }

    /// Finds the sockets that the program holds, by inode.
    pub(super) fn sockets(&mut self, now: Instant) -> HashMap<u64, Holder> {
        self.refresh(now);
        let mut sockets = HashMap::new();
        for member in &self.members {
            for (fd, inode) in held_sockets(&format!("/proc/{}/fd", member.pid)) {
                sockets.entry(inode).or_insert(Holder { pid: member.pid, fd });
            }
        }
        sockets
    }

    /// Makes the next look at the descendants a fresh one.
    pub(super) fn doubt(&mut self) {
        self.stale_at = None;
    }

    fn refresh(&mut self, now: Instant) {
        if self.stale_at.is_some_and(|at| now < at) {
            return;
        }
        let begun = thread_cpu();
        let pids = descendants(self.pid);
        self.members.retain(|member| pids.contains(&member.pid));
        for pid in pids {
            if !self.members.iter().any(|member| member.pid == pid) {
                self.members.push(Member::new(pid));
            }
        }
        let cost = thread_cpu().saturating_sub(begun);
        self.stale_at = Some(now + FRESH.max(cost * FRESH_PER_COST));
    }
}

/// Tells whether a process is the program's or descends from it.
pub(super) fn descends(pid: i32, from: i32) -> bool {
    let mut pid = pid;
    for _ in 0..MAX_MEMBERS {
        if pid == from {
            return true;
        }
        match Stat::of(pid) {
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

/// Tells whether a process exists, be it as a zombie.
pub(super) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Returns the sockets that we ourselves hold.
pub(super) fn own_sockets() -> Vec<u64> {
    held_sockets("/proc/self/fd").into_iter().map(|(_, inode)| inode).collect()
}

/// Returns a process and its descendants.
fn descendants(pid: i32) -> Vec<i32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        match children(pid) {
            Some(children) => pids.extend(children),
            None if next == 0 => return descendants_by_parent(pid),
            None => {}
        }
        if pids.len() > MAX_MEMBERS {
            break;
        }
        next += 1;
    }
    pids
}

/// Returns the children of every thread of a process; nothing if the kernel
/// does not list children (`CONFIG_PROC_CHILDREN`).
fn children(pid: i32) -> Option<Vec<i32>> {
    let tasks = format!("/proc/{pid}/task");
    // The file of the first thread tells whether the kernel has such files.
    let mut children = numbers(&fs::read_to_string(format!("{tasks}/{pid}/children")).ok()?);
    for tid in listed(&tasks) {
        if tid != pid
            && let Ok(text) = fs::read_to_string(format!("{tasks}/{tid}/children"))
        {
            children.extend(numbers(&text));
        }
    }
    Some(children)
}

/// Returns a process and its descendants by asking every process for its
/// parent.
fn descendants_by_parent(pid: i32) -> Vec<i32> {
    let mut others: Vec<(i32, i32)> = listed("/proc")
        .into_iter()
        .filter_map(|other| Some((other, Stat::of(other)?.parent)))
        .collect();
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        others.retain(|&(other, parent)| {
            if parent == pid {
                pids.push(other);
            }
            parent != pid
        });
        next += 1;
    }
    pids
}

/// Returns the descriptors of a process that are sockets, with their inodes.
fn held_sockets(dir: &str) -> Vec<(i32, u64)> {
    listed(dir)
        .into_iter()
        .filter_map(|fd| {
            let link = fs::read_link(format!("{dir}/{fd}")).ok()?;
            Some((fd, socket_inode(&link)?))
        })
        .collect()
}

/// Reads `socket:[INODE]`.
fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns the names in a directory that are numbers.
fn listed(dir: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Reads numbers between spaces.
fn numbers(text: &str) -> Vec<i32> {
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// What we use of `/proc/PID/stat` (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: i32,
    /// Of children that ended and were waited for (`cutime` + `cstime`).
    ended_ticks: u64,
    threads: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // A process may name itself `a) R 1 (b`: only the last parenthesis ends
        // the name. The first field after it is the third.
        let name_end = text.iter().rposition(|&b| b == b')')?;
        let mut fields = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = field(fields.next())?;
        // Fields 16, 17 and 20.
        let cutime: u64 = field(fields.nth(11))?;
        let cstime: u64 = field(fields.next())?;
        let threads = field(fields.nth(2))?;
        Some(Self { state, parent, ended_ticks: cutime.saturating_add(cstime), threads })
    }
}

fn field<T: FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_name() {
        let text = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 31 0 99";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { state: b'S', parent: 7, ended_ticks: 78, threads: 31 });
        assert_eq!(Stat::parse(b"42 (a"), None);
        assert_eq!(Stat::parse(b"42 (a) S 7"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn links_of_sockets() {
        assert_eq!(socket_inode(Path::new("socket:[1608]")), Some(1608));
        assert_eq!(socket_inode(Path::new("pipe:[1608]")), None);
        assert_eq!(socket_inode(Path::new("socket:[]")), None);
    }

    #[test]
    fn children_are_found_either_way() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "sleep 9 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let family = descendants_by_parent(pid);
        assert_eq!(family.len(), 2, "{family:?}");
        assert!(descends(family[1], pid) && descends(pid, pid));
        assert!(!descends(pid, family[1]));
        if let Some(children) = children(pid) {
            assert_eq!(children, family[1..]);
            assert_eq!(descendants(pid), family);
        }
        nix::sys::signal::kill(Pid::from_raw(family[1]), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        shell.wait().unwrap();
        assert!(!exists(pid));
        assert_eq!(Program::new(pid).state(), State::Gone);
    }
}
