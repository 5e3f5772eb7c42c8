//! The processes that a restore makes, as descendants of ours.
//!
//! Until they are released they are nobody's but ours to end, and to reap: a
//! CRIU that is killed leaves them where they are, waiting for it, and pid 1 of
//! a container may be a program that reaps nothing; their pids would be taken
//! for ever.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::sys::process;

/// How long killed processes may take to end: what they are waiting for in the
/// kernel ends first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the children of a process (`/proc/PID/task/TID/children`).
pub fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().flatten().filter_map(|thread| {
        let list = fs::read_to_string(thread.path().join("children")).ok()?;
        Some(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
    });
    lists.flatten().collect()
}

/// Returns a process and all that descends from it, parents first.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(next) = all.get(at) {
        let found: Vec<i32> =
            children(*next).into_iter().filter(|child| !all.contains(child)).collect();
        all.extend(found);
        at += 1;
    }
    all
}

/// Sees to it that all that is started while it lives can be ended: orphans
/// become children of ours.
#[derive(Debug)]
pub struct Watch {
    /// Orphans have not been children of ours before.
    adopts: bool,
    /// Children that are none of its business.
    others: Vec<i32>,
}

impl Watch {
    /// Begins; whatever is a child of ours by now is left alone.
    pub fn begin() -> Self {
        let adopts = process::adopt_orphans();
        Self { adopts, others: children(std::process::id() as i32) }
    }

    /// Leaves another child alone.
    pub fn except(&mut self, pid: i32) {
        self.others.push(pid);
    }

    /// Returns the children of ours that have come since.
    pub fn newcomers(&self) -> Vec<i32> {
        let own = children(std::process::id() as i32);
        own.into_iter().filter(|pid| !self.others.contains(pid)).collect()
    }

    /// Kills all that have come since, and reaps them; tells whether nothing is
    /// left.
    pub fn end_all(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let newcomers = self.newcomers();
            if newcomers.is_empty() {
                return true;
            }
            for child in newcomers {
                for pid in tree(child) {
                    // It may have ended by itself.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = waitpid(Pid::from_raw(child), Some(WaitPidFlag::WNOHANG));
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.adopts {
            process::disown_orphans();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::prctl::get_child_subreaper;

    #[test]
    fn whoever_adopted_orphans_before_goes_on() {
        assert_eq!(get_child_subreaper(), Ok(false));
        let watch = Watch::begin();
        assert_eq!(get_child_subreaper(), Ok(true));
        drop(Watch::begin());
        assert_eq!(get_child_subreaper(), Ok(true));
        drop(watch);
        assert_eq!(get_child_subreaper(), Ok(false));
    }
}
