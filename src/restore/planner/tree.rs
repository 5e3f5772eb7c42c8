//! What the processes of a tree have to do with one another: who makes whom, in
//! which session and group, and what several of them have open.

use std::collections::BTreeMap;

use super::{Facts, Leads, Plan, PlannerError, compile_task};
use crate::image::proto::PstreeEntry;
use crate::image::{Set, Task};
use crate::restore::plan::{Kin, Shared};

mod sharing;

use sharing::Sharing;

/// The session and the group of the caller, whatever they are at a restore.
const OUTSIDE: u32 = 0;

/// A tree of processes.
pub(super) struct Family {
    kin: Vec<Kin>,
    sharing: Sharing,
}

/// Compiles the plans of a tree; of those that have ended there is none.
pub(super) fn compile(set: &Set, facts: &[Facts]) -> Result<Vec<Plan>, PlannerError> {
    let family = Family::new(set, facts)?;
    let living = set.tasks.iter().filter(|task| !task.has_ended()).zip(facts);
    living.map(|(task, facts)| compile_task(set, task, facts, Some(&family))).collect()
}

/// Adds what the image says of one process alone.
fn describe(kin: &mut Kin, task: &Task) {
    let Some(core) = task.threads.first().map(|thread| &thread.core) else { return };
    let signal = core.thread_core.as_ref().and_then(|core| core.pdeath_sig);
    kin.death_signal = signal.filter(|signal| *signal != 0);
    if let Some(tc) = core.tc.as_ref().filter(|_| task.has_ended()) {
        kin.ended = Some(tc.exit_code);
        kin.name = Some(tc.comm.clone());
    }
}

impl Family {
    /// Finds out what the processes of an image have to do with one another.
    pub(super) fn new(set: &Set, facts: &[Facts]) -> Result<Self, PlannerError> {
        let living: Vec<&Task> = set.tasks.iter().filter(|task| !task.has_ended()).collect();
        let [root, ..] = facts else {
            return Err(PlannerError::Inconsistent("no process lives".into()));
        };
        if living.len() != facts.len() || set.pstree.len() != set.tasks.len() {
            return Err(PlannerError::Inconsistent("facts of other processes".into()));
        }
        let mut kin = relatives(&set.pstree, root.changed.leads)?;
        for (kin, task) in kin.iter_mut().zip(&set.tasks) {
            describe(kin, task);
        }
        Ok(Self { kin, sharing: Sharing::find(set, &living, facts)? })
    }

    /// Returns the tree for a plan: only the root's has it.
    pub(super) fn kin_in_plan(&self, task: &Task) -> Vec<Kin> {
        if self.is_root(task) { self.kin.clone() } else { Vec::new() }
    }

    /// Whether a process is the root.
    pub(super) fn is_root(&self, task: &Task) -> bool {
        self.turn(task) == 0
    }

    /// Returns the process's place in the tree.
    pub(super) fn turn(&self, task: &Task) -> u64 {
        let place = self.kin.iter().position(|kin| kin.pid as u32 == task.pid);
        place.unwrap_or_default() as u64
    }

    /// Returns where shared descriptions are, by id.
    pub(super) fn slots(&self) -> &BTreeMap<u32, i32> {
        &self.sharing.slots
    }

    /// Whether a shared description is there to be mapped, and no process has
    /// it open.
    pub(super) fn is_only_mapped(&self, id: u32) -> bool {
        self.sharing.only_mapped.contains(&id)
    }

    /// Whether a process of this pid lives.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.kin.iter().any(|kin| kin.pid as u32 == pid && kin.ended.is_none())
    }

    /// Returns the range of them.
    pub(super) fn shared(&self) -> Option<Shared> {
        let first = self.sharing.slots.values().min()?;
        let count = self.sharing.slots.len() as u32;
        Some(Shared { first_fd: *first as u32, count, operations: 0 })
    }

    /// Whether another process registers what this epoll instance watches.
    pub(super) fn watches_elsewhere(&self, id: u32, task: &Task) -> bool {
        self.sharing.watchers.get(&id).is_some_and(|pid| *pid != task.pid)
    }
}

/// Finds out in which order sessions, groups and children were made; `leads` is
/// what the root makes for itself.
fn relatives(tree: &[PstreeEntry], leads: Leads) -> Result<Vec<Kin>, PlannerError> {
    let index = |pid: u32| tree.iter().position(|process| process.pid == pid);
    let leads_session = |at: usize| match at {
        0 => leads == Leads::Session,
        at => tree[at].sid == tree[at].pid,
    };
    let mut parents = Vec::with_capacity(tree.len());
    for (at, process) in tree.iter().enumerate() {
        let parent = if at == 0 { Some(0) } else { index(process.ppid).filter(|it| *it < at) };
        let missing =
            || PlannerError::Inconsistent(format!("process {} has no parent", process.pid));
        parents.push(parent.ok_or_else(missing)?);
    }
    let homeless = |at: usize| {
        let PstreeEntry { pid, sid, .. } = tree[at];
        let what = format!("process {pid} is in session {sid}, which no process above it leads");
        PlannerError::Unsupported(what)
    };
    // The session that each must be born into, if that matters.
    let mut needs: Vec<Option<u32>> = vec![None; tree.len()];
    for at in (1..tree.len()).rev() {
        if !leads_session(at) {
            needs[at] = Some(tree[at].sid);
        }
        let (parent, need) = (parents[at], needs[at]);
        // Whoever is to be in another session than its parent's comes before
        // the parent makes that: the parent was born into it.
        if let Some(need) = need.filter(|need| leads_session(parent) && *need != tree[parent].sid) {
            if needs[parent].is_some_and(|other| other != need) {
                return Err(homeless(at));
            }
            needs[parent] = Some(need);
        }
    }
    let root_label = |leads: bool, label: u32| if leads { OUTSIDE } else { label };
    let mut born_session = vec![root_label(leads == Leads::Session, tree[0].sid)];
    let mut born_group = vec![root_label(leads != Leads::Nothing, tree[0].pgid)];
    // A child of a root that leads a session of its own is never in the
    // caller's: the image has no number for that.
    let mut kin = Vec::with_capacity(tree.len());
    for (at, process) in tree.iter().enumerate() {
        let parent = parents[at];
        let mut before_session = false;
        if at > 0 {
            before_session =
                leads_session(parent) && needs[at].is_some_and(|need| need != tree[parent].sid);
            let after = leads_session(parent) && !before_session;
            let session = if after { tree[parent].sid } else { born_session[parent] };
            if needs[at].is_some_and(|need| need != session) {
                return Err(homeless(at));
            }
            born_session.push(session);
            born_group.push(if after { tree[parent].pid } else { born_group[parent] });
        }
        let group = if leads_session(at) { process.pid } else { born_group[at] };
        let group = group_of(tree, at, group)?;
        kin.push(Kin {
            pid: process.pid as i32,
            parent: parent as u32,
            leads_session: Some(leads_session(at)).filter(|leads| *leads),
            before_session: Some(before_session).filter(|before| *before),
            group: group.map(|group| group as i32),
            ..Kin::default()
        });
    }
    Ok(kin)
}

/// Says which group a process makes or joins; `now` is the one it is in.
fn group_of(tree: &[PstreeEntry], at: usize, now: u32) -> Result<Option<u32>, PlannerError> {
    let PstreeEntry { pid, pgid, sid, .. } = tree[at];
    if pgid == now {
        return Ok(None);
    }
    let leader = tree.iter().find(|process| process.pid == pgid && process.pgid == pgid);
    if pgid == pid || at > 0 && leader.is_some_and(|leader| leader.sid == sid) {
        return Ok(Some(pgid));
    }
    let what = format!("process {pid} is in process group {pgid}, whose leader has ended");
    Err(PlannerError::Unsupported(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(processes: &[[u32; 4]]) -> Vec<PstreeEntry> {
        let entry = |&[pid, ppid, pgid, sid]: &[u32; 4]| PstreeEntry {
            pid,
            ppid,
            pgid,
            sid,
            threads: vec![pid],
        };
        processes.iter().map(entry).collect()
    }

    /// Pid, makes a session, before its parent's, group.
    fn told(processes: &[[u32; 4]], leads: Leads) -> Result<Vec<(i32, bool, bool, i32)>, String> {
        let kin = relatives(&tree(processes), leads).map_err(|error| error.to_string())?;
        let tell = |kin: &Kin| (kin.pid, kin.leads_session(), kin.before_session(), kin.group());
        Ok(kin.iter().map(tell).collect())
    }

    #[test]
    fn children_stay_where_their_parent_is() {
        let family = [[10, 0, 5, 4], [11, 10, 5, 4], [12, 11, 5, 4]];
        let same = |pid| (pid, false, false, 0);
        assert_eq!(told(&family, Leads::Nothing).unwrap(), [same(10), same(11), same(12)]);
    }

    #[test]
    fn groups_are_made_and_joined() {
        let family = [[10, 0, 5, 4], [11, 10, 11, 4], [12, 10, 11, 4], [13, 10, 5, 4]];
        let told = told(&family, Leads::Nothing).unwrap();
        assert_eq!(
            told[1..],
            [(11, false, false, 11), (12, false, false, 11), (13, false, false, 0)]
        );
        let family = [[10, 0, 10, 4], [11, 10, 10, 4]];
        let kin = super::tests::told(&family, Leads::Group).unwrap();
        assert_eq!(kin, [(10, false, false, 10), (11, false, false, 10)]);
    }

    #[test]
    fn a_session_is_made_after_those_that_are_outside_of_it() {
        // 11 leads a session; 12 was made before, 13 afterwards.
        let family = [[10, 0, 5, 4], [11, 10, 11, 11], [12, 11, 5, 4], [13, 11, 11, 11]];
        let told = told(&family, Leads::Nothing).unwrap();
        assert_eq!(told[1..], [(11, true, false, 0), (12, false, true, 0), (13, false, false, 0)]);
    }

    #[test]
    fn a_root_may_lead_a_session() {
        let family = [[10, 0, 10, 10], [11, 10, 10, 10], [12, 10, 12, 10]];
        let told = told(&family, Leads::Session).unwrap();
        assert_eq!(told, [(10, true, false, 0), (11, false, false, 0), (12, false, false, 12)]);
    }

    #[test]
    fn what_nobody_leads_any_more_is_refused() {
        let session = [[10, 0, 5, 4], [11, 10, 9, 9]];
        assert!(told(&session, Leads::Nothing).unwrap_err().contains("session 9"));
        let group = [[10, 0, 5, 4], [11, 10, 9, 4]];
        assert!(told(&group, Leads::Nothing).unwrap_err().contains("process group 9"));
        let orphan = [[10, 0, 5, 4], [11, 7, 5, 4]];
        assert!(told(&orphan, Leads::Nothing).unwrap_err().contains("no parent"));
    }
}
