//! Checks what a plan says about a tree of processes.
//!
//! Pids, groups and ends of processes are what a restore acts upon before any
//! operation of a plan: each must be one that a snapshot could have written.

use std::collections::BTreeSet;

use super::check::{MAX_FD, MAX_PID};
use super::{Kin, Plan, PlanFile};

/// The most processes of a tree.
pub const MAX_PROCESSES: usize = 128;
/// The most open file descriptions that processes of a tree share: what one
/// message hands over (`SCM_MAX_FD`, `unix(7)`).
pub const MAX_SHARED: u32 = 253;
/// The longest name of a process (`TASK_COMM_LEN` less the zero).
const MAX_NAME: usize = 15;
const MAX_SIGNAL: u32 = 64;

/// Checks the tree in a root's plan, and what is shared in any plan of one.
pub(super) fn check(plan: &PlanFile) -> Result<(), String> {
    if plan.pages_id == Some(0) {
        return Err("its pages file cannot be".into());
    }
    if let Some(shared) = &plan.shared {
        let end = u64::from(shared.first_fd) + u64::from(shared.count);
        let low = 3 + u64::from(shared.count);
        if shared.count == 0
            || shared.count > MAX_SHARED
            || u64::from(shared.first_fd) < low
            || end > MAX_FD
            || end > u64::from(plan.fd_ceiling)
            || shared.operations > plan.operations.len() as u64
        {
            return Err("its shared descriptors cannot be".into());
        }
    }
    if plan.tree.is_empty() {
        return Ok(());
    }
    if plan.tree.len() < 2 || plan.tree.len() > MAX_PROCESSES {
        return Err(format!("it is a tree of {} processes", plan.tree.len()));
    }
    let leader = plan.threads.first().map(|thread| thread.tid);
    if plan.tree.first().map(|root| root.pid) != leader {
        return Err("its tree has another root".into());
    }
    let groups: BTreeSet<i32> = plan.tree.iter().filter(|kin| leads(kin)).map(|k| k.pid).collect();
    let mut pids = BTreeSet::new();
    for (index, kin) in plan.tree.iter().enumerate() {
        let pid = kin.pid;
        let wrong = |what: &str| Err(format!("process {pid} {what}"));
        if !(2..MAX_PID).contains(&pid) || !pids.insert(pid) {
            return wrong("cannot be");
        }
        let parent = plan.tree.get(kin.parent as usize).filter(|_| index > 0);
        if index > 0 && kin.parent as usize >= index || index == 0 && kin.parent != 0 {
            return wrong("comes before its parent");
        }
        if parent.is_some_and(|parent| parent.ended.is_some()) || index == 0 && kin.ended.is_some()
        {
            return wrong("has a parent that has ended, or none");
        }
        if kin.before_session() && !parent.is_some_and(Kin::leads_session) {
            return wrong("has a parent without a session");
        }
        if kin.group.is_some_and(|group| !groups.contains(&group)) {
            return wrong("is in a group that nobody leads");
        }
        if kin.death_signal() > MAX_SIGNAL || kin.ended.is_some_and(|status| !is_end(status)) {
            return wrong("ends in a way that cannot be");
        }
        let name = kin.name();
        if name.len() > MAX_NAME || name.contains(&0) {
            return wrong("has a name that cannot be");
        }
    }
    Ok(())
}

/// Whether a process makes a group by itself, which others may join.
fn leads(kin: &Kin) -> bool {
    kin.group == Some(kin.pid) || kin.leads_session()
}

/// Whether this is the status of a process that has exited, or that was killed
/// by a signal without a core dump.
fn is_end(status: u32) -> bool {
    let (code, signal) = (status >> 8, status & 0xff);
    signal == 0 && code <= 0xff || code == 0 && (1..=MAX_SIGNAL).contains(&signal)
}

/// Checks that the plans of the other living processes are those of the tree.
pub(super) fn check_parts(root: &Plan, parts: &[Plan]) -> Result<(), String> {
    let tree = &root.file().tree;
    let ended = tree.iter().filter(|kin| kin.ended.is_some()).map(|kin| kin.pid);
    let mut tids: BTreeSet<i32> = ended.collect();
    let threads = [root].into_iter().chain(parts).flat_map(|plan| &plan.file().threads);
    for thread in threads {
        if !tids.insert(thread.tid) {
            return Err(format!("thread {} is there twice", thread.tid));
        }
    }
    let living = tree.iter().skip(1).filter(|kin| kin.ended.is_none());
    let place = |plan: &Plan| plan.file().shared.map(|shared| (shared.first_fd, shared.count));
    for (kin, part) in living.zip(parts) {
        let file = part.file();
        let own = file.shared.is_none_or(|shared| shared.operations == 0);
        if part.pid() != kin.pid || !file.tree.is_empty() || place(part) != place(root) || !own {
            return Err(format!("the plan of process {} is of another tree", kin.pid));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::plan::{Shared, ThreadPlan};

    fn kin(pid: i32, parent: u32) -> Kin {
        Kin { pid, parent, ..Kin::default() }
    }

    fn tree(tree: Vec<Kin>) -> PlanFile {
        let threads = vec![ThreadPlan { tid: 100, ..ThreadPlan::default() }];
        PlanFile { tree, threads, ..PlanFile::default() }
    }

    #[test]
    fn a_tree_that_can_be_is_accepted() {
        let leader = Kin { leads_session: Some(true), ..kin(101, 0) };
        let early = Kin { before_session: Some(true), ..kin(102, 1) };
        let joins = Kin { group: Some(101), death_signal: Some(15), ..kin(103, 1) };
        let ended = Kin { ended: Some(3 << 8), name: Some(b"gone".to_vec()), ..kin(104, 3) };
        let killed = Kin { ended: Some(9), ..kin(105, 0) };
        assert_eq!(check(&tree(vec![kin(100, 0), leader, early, joins, ended, killed])), Ok(()));
        assert_eq!(check(&tree(Vec::new())), Ok(()));
    }

    #[test]
    fn what_no_snapshot_writes_is_refused() {
        let root = kin(100, 0);
        let bad = [
            vec![root.clone()],
            vec![kin(101, 0), kin(100, 0)],
            vec![root.clone(), kin(100, 0)],
            vec![root.clone(), kin(1, 0)],
            vec![root.clone(), kin(MAX_PID, 0)],
            vec![root.clone(), kin(101, 1)],
            vec![root.clone(), kin(101, 7)],
            vec![Kin { ended: Some(0), ..root.clone() }, kin(101, 0)],
            vec![root.clone(), Kin { ended: Some(0), ..kin(101, 0) }, kin(102, 1)],
            vec![root.clone(), Kin { ended: Some(0x8b), ..kin(101, 0) }],
            vec![root.clone(), Kin { ended: Some(65), ..kin(101, 0) }],
            vec![root.clone(), Kin { ended: Some(0x1_0000), ..kin(101, 0) }],
            vec![root.clone(), Kin { group: Some(5), ..kin(101, 0) }],
            vec![root.clone(), Kin { group: Some(100), ..kin(101, 0) }],
            vec![root.clone(), Kin { before_session: Some(true), ..kin(101, 0) }],
            vec![root.clone(), Kin { death_signal: Some(65), ..kin(101, 0) }],
            vec![root.clone(), Kin { name: Some(vec![b'x'; 16]), ..kin(101, 0) }],
            (0..200).map(|index| kin(100 + index, 0)).collect(),
        ];
        for kins in bad {
            assert!(check(&tree(kins.clone())).is_err(), "{kins:?}");
        }
        let good = Shared { first_fd: 70, count: 2, operations: 0 };
        let with =
            |shared| PlanFile { shared: Some(shared), fd_ceiling: 72, ..PlanFile::default() };
        assert_eq!(check(&with(good)), Ok(()));
        for bad in [
            Shared { count: 0, ..good },
            Shared { count: 3, ..good },
            Shared { first_fd: 4, ..good },
            Shared { first_fd: u32::MAX, ..good },
            Shared { operations: 1, ..good },
        ] {
            assert!(check(&with(bad)).is_err(), "{bad:?}");
        }
    }
}
