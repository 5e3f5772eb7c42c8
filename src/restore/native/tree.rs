//! The processes of a tree but its root: what each needs to be made.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::slots::{LOWEST_SLOT, Slots};
use super::stage::Stage;
use super::{CannotRestore, Family, Request, kernel_moves, unusable};
use crate::restore::plan::Plan;
use crate::restore::program::{Child, Role, Surroundings};
use crate::sys::arch::Start;

/// Descriptors that a process of a restore has at the most, those that come
/// from the caller apart: pages, program, both ends of a pipe, of a line.
const EACH: usize = 6;

/// Returns how many descriptors the processes need but the root.
pub(super) fn spare(family: &Family) -> usize {
    let of = |plan: &Plan| EACH + plan.file().given.len();
    if family.parts.is_empty() { 0 } else { EACH + family.parts.iter().map(of).sum::<usize>() }
}

/// A process, ready to be made.
struct Member {
    /// Its index in the tree.
    index: usize,
    slots: Slots,
    stage: Stage,
}

/// The processes but the root, the last one first.
pub(super) struct Others {
    members: Vec<Member>,
    /// The ends of the line by which descriptors are handed over: the root's,
    /// the others'.
    line: Option<(OwnedFd, OwnedFd)>,
    /// Where their stages lie.
    ranges: Vec<(u64, u64)>,
}

impl Others {
    /// Lays out every process but the root: those without children first, so
    /// that a parent's program can say where theirs begin.
    pub(super) fn set_up(
        request: &Request<'_>,
        family: &Family,
        root: &Surroundings<'_>,
    ) -> Result<Self, CannotRestore> {
        let file = family.plan.file();
        let line = file.shared.map(|_| line(file.fd_ceiling)).transpose()?;
        let mut others = Self { members: Vec::new(), line, ranges: Vec::new() };
        let living = file.tree.iter().enumerate().skip(1).filter(|(_, kin)| kin.ended.is_none());
        let living: Vec<usize> = living.map(|(index, _)| index).collect();
        for (index, plan) in living.into_iter().zip(&family.parts).rev() {
            let member = others.member(request, family, root, index, plan)?;
            others.ranges.push(member.stage.start_and_range().1);
            others.members.push(member);
        }
        Ok(others)
    }

    fn member(
        &self,
        request: &Request<'_>,
        family: &Family,
        root: &Surroundings<'_>,
        index: usize,
        plan: &Plan,
    ) -> Result<Member, CannotRestore> {
        let tree = &family.plan.file().tree;
        let slots = Slots::open(request, plan, 0)?;
        let moves = kernel_moves(plan)?;
        let role = Role {
            tree,
            index,
            children: self.children(family, index),
            below: &self.ranges,
            line: self.line.as_ref().map(|(_, end)| end.as_raw_fd()),
        };
        let surroundings = Surroundings {
            parent: tree[tree[index].parent as usize].pid,
            kernel_areas: &moves,
            pages: slots.pages.as_raw_fd(),
            exe: slots.exe.as_raw_fd(),
            signal: slots.signal.as_raw_fd(),
            callers: &slots.numbers(),
            more_pages: &slots.more_pages(),
            role: Some(&role),
            ..*root
        };
        let stage = Stage::set_up(plan, &surroundings)?;
        Ok(Member { index, slots, stage })
    }

    /// Returns the children of a process, in the order of the tree.
    fn children(&self, family: &Family, parent: usize) -> Vec<Child> {
        let tree = family.plan.file().tree.iter().enumerate().skip(1);
        let children = tree.filter(|(_, kin)| kin.parent as usize == parent);
        children.map(|(index, _)| Child { index, start: self.start_of(index) }).collect()
    }

    fn start_of(&self, index: usize) -> Option<Start> {
        let member = self.members.iter().find(|member| member.index == index);
        member.map(|member| member.stage.start_and_range().0)
    }

    /// Returns what the root is; `None` if it is the only process.
    pub(super) fn role_of_root<'a>(&'a self, family: &'a Family) -> Option<Role<'a>> {
        let tree = &family.plan.file().tree;
        (!tree.is_empty()).then(|| Role {
            tree,
            index: 0,
            children: self.children(family, 0),
            below: &self.ranges,
            line: self.line.as_ref().map(|(end, _)| end.as_raw_fd()),
        })
    }

    /// Lets all see the same report.
    pub(super) fn share_report(&mut self, root: &Stage) -> Result<(), CannotRestore> {
        for member in &mut self.members {
            let shared = member.stage.share_report(root);
            shared.map_err(|error| unusable(format!("the report page: {error}")))?;
        }
        Ok(())
    }

    /// Closes what is the processes' alone; returns where each one's end shows.
    pub(super) fn into_readers(self) -> (Stages, Vec<OwnedFd>) {
        let mut stages = Vec::with_capacity(self.members.len());
        let mut readers = Vec::with_capacity(self.members.len());
        for member in self.members {
            stages.push((member.index, member.stage));
            readers.push(member.slots.into_reader());
        }
        (Stages(stages), readers)
    }
}

/// The stages of the processes but the root, by index in the tree.
pub(super) struct Stages(Vec<(usize, Stage)>);

impl Stages {
    /// Says what failed, in whichever process.
    pub(super) fn failure(&self, root: &Stage, family: &Family) -> CannotRestore {
        let failed = self.0.iter().find(|(_, stage)| stage.has_failed());
        let Some((index, stage)) = failed else { return root.failure(&family.plan) };
        let pid = family.plan.file().tree[*index].pid;
        let Some(plan) = family.parts.iter().find(|plan| plan.pid() == pid) else {
            return root.failure(&family.plan);
        };
        let inside = |step| format!("process {pid}: {step}");
        match stage.failure(plan) {
            CannotRestore::Step { step, errno } => {
                CannotRestore::Step { step: inside(step), errno }
            }
            CannotRestore::Raced { step, errno } => {
                CannotRestore::Raced { step: inside(step), errno }
            }
            other => other,
        }
    }
}

/// Makes the line, above the program's descriptors.
fn line(fd_ceiling: u32) -> Result<(OwnedFd, OwnedFd), CannotRestore> {
    let lowest = (fd_ceiling + 2).max(LOWEST_SLOT) as i32;
    let fail = |error: nix::errno::Errno| unusable(format!("a pair of sockets: {error}"));
    let flags = SockFlag::SOCK_CLOEXEC;
    let (one, two) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(fail)?;
    let above = |fd: OwnedFd| {
        fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(lowest)).map(crate::sys::pidfd::adopt).map_err(fail)
    };
    Ok((above(one)?, above(two)?))
}
