//! Several processes: how each makes its children, and how they wait for one
//! another.
//!
//! A child is made by its parent, with a copy of the parent's memory in which
//! the launcher has laid out its program, too: before anything of the image is
//! there, while the parent may still choose pids. From then on each goes its
//! own way up to three meetings on the report page, which all of them see:
//! every capability is gone in every process before the first operation of any
//! plan; all is built in every process before the release; and the root runs on
//! only when the others no longer depend on its life.
//!
//! What several processes have open together the root makes and hands over in
//! a message (`SCM_RIGHTS`): then no process needs a right for it.

use std::os::fd::RawFd;

use super::{Builder, FUTEX_WAKE_PRIVATE, Plan, Step};
use crate::restore::plan::Kin;
use crate::sys::arch::{Instruction, Op, Start};
use crate::sys::clone3::CloneArgs;

/// Offsets in the report page: how many processes are so far.
const DROPPED: u64 = 64;
const GROUPS: u64 = 128;
const DONE: u64 = 192;
const RELEASE: u64 = 256;
const CLEARED: u64 = 320;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;
const _: () = assert!(FUTEX_WAKE_PRIVATE != FUTEX_WAKE);

/// What a process is in its tree.
#[derive(Debug)]
pub struct Role<'a> {
    /// All processes, the root first.
    pub tree: &'a [Kin],
    /// Which one it is.
    pub index: usize,
    /// Those that it makes, in the order of the tree.
    pub children: Vec<Child>,
    /// Where the programs of all below it lie: start and end.
    pub below: &'a [(u64, u64)],
    /// Where shared descriptions are handed over: the root's end of the line,
    /// or that of the others.
    pub line: Option<RawFd>,
}

/// A child to be made.
#[derive(Debug, Clone, Copy)]
pub struct Child {
    /// Its index in the tree.
    pub index: usize,
    /// Where it begins; `None` for one that has ended.
    pub start: Option<Start>,
}

impl Role<'_> {
    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.index == 0
    }

    fn kin(&self) -> &Kin {
        &self.tree[self.index]
    }

    /// Returns how many processes live.
    fn living(&self) -> u64 {
        self.tree.iter().filter(|kin| kin.ended.is_none()).count() as u64
    }

    /// Returns how many processes make a group that others may join.
    fn groups(&self) -> u64 {
        self.tree.iter().filter(|kin| kin.group == Some(kin.pid)).count() as u64
    }

    /// Returns bounds of the instructions and the bytes of data that it takes.
    pub(super) fn room(&self, plan: &Plan) -> (usize, u64) {
        let shared = plan.file().shared.map_or(0, |shared| shared.count as usize);
        let instructions =
            64 + 4 * self.below.len() + 32 * self.children.len() + 2 * shared + self.tree.len();
        let data = 512 + 320 * self.children.len() + 8 * shared;
        (instructions, data as u64)
    }
}

impl Builder<'_> {
    fn meeting(&self, offset: u64) -> u64 {
        self.layout.report + offset
    }

    /// Says that this process has come so far.
    fn arrive(&mut self, offset: u64) {
        let place = self.meeting(offset);
        self.push(Step::Own("meeting"), Instruction::new(Op::Add, [place, 1, 0]));
        let args = [place, FUTEX_WAKE, i32::MAX as u64, 0, 0, 0];
        self.any("meeting", libc::SYS_futex, args);
    }

    /// Waits until so many processes have come so far.
    fn await_others(&mut self, what: &'static str, offset: u64, count: u64) {
        let args = [self.meeting(offset), count, FUTEX_WAIT];
        self.push(Step::Own(what), Instruction::new(Op::WaitAtLeast, args));
    }

    fn session(&mut self, kin: &Kin) {
        if kin.leads_session() {
            self.ok("making the session", libc::SYS_setsid, [0; 6]);
        }
    }

    /// Makes session and group, and the children: each while the process is in
    /// the session that the child is to be born into.
    pub(super) fn family(&mut self, role: &Role<'_>) {
        if role.children.is_empty() {
            self.session(role.kin());
            return self.group(role.kin(), role.groups());
        }
        // Little is left to be copied for each child then.
        self.unmap(role.below);
        let has_ended = |child: &&Child| child.start.is_none();
        if role.children.iter().any(|child| has_ended(&child)) {
            // Ignored, they would be reaped at once.
            self.reset_sigchld();
        }
        for child in role.children.iter().filter(|it| role.tree[it.index].before_session()) {
            self.bear(role, child);
        }
        self.session(role.kin());
        for child in role.children.iter().filter(|it| !role.tree[it.index].before_session()) {
            self.bear(role, child);
        }
        self.group(role.kin(), role.groups());
        for child in role.children.iter().filter(has_ended) {
            let pid = role.tree[child.index].pid as u64;
            let options = (libc::WEXITED | libc::WNOWAIT) as u64;
            let args = [u64::from(libc::P_PID), pid, 0, options, 0, 0];
            self.ok("waiting for an ended child", libc::SYS_waitid, args);
        }
        if role.children.iter().any(|child| has_ended(&child)) {
            // The program has had the signal of their ends: this takes back the
            // one that waits now (`sigaction(2)`: as of all that is ignored).
            self.reset_sigchld();
            if self.around.ignored.contains(&libc::SIGCHLD) {
                self.sigchld(libc::SIG_IGN as u64);
            }
        }
    }

    fn reset_sigchld(&mut self) {
        self.sigchld(libc::SIG_DFL as u64);
    }

    fn sigchld(&mut self, handler: u64) {
        let mut action = [0; 32];
        action[..8].copy_from_slice(&handler.to_le_bytes());
        let action = self.put(&action);
        self.ok("SIGCHLD", libc::SYS_rt_sigaction, [libc::SIGCHLD as u64, action, 0, 8, 0, 0]);
    }

    /// Makes a child with its pid.
    fn bear(&mut self, role: &Role<'_>, child: &Child) {
        let pid = role.tree[child.index].pid;
        let set_tid = self.put(&i64::from(pid).to_le_bytes());
        let args = CloneArgs {
            exit_signal: libc::SIGCHLD as u64,
            set_tid,
            set_tid_size: 1,
            ..Default::default()
        };
        let at = self.put(&args.to_bytes());
        let start = child.start.unwrap_or_else(|| {
            self.stillborn.push((self.count, child.index));
            self.start()
        });
        self.push(Step::Spawn(pid), Instruction::spawn(at, 88, start, pid));
    }

    /// Makes the process's group, or joins it once it is there.
    fn group(&mut self, kin: &Kin, groups: u64) {
        match kin.group {
            Some(group) if group == kin.pid => {
                self.ok("making the process group", libc::SYS_setpgid, [0; 6]);
                self.arrive(GROUPS);
            }
            Some(group) => {
                self.await_others("the process groups", GROUPS, groups);
                let args = [0, group as u64, 0, 0, 0, 0];
                self.ok("joining the process group", libc::SYS_setpgid, args);
            }
            None => {}
        }
    }

    /// Waits until no process has a capability that its program must not have.
    pub(super) fn all_dropped(&mut self, role: &Role<'_>) {
        self.arrive(DROPPED);
        self.await_others("the other processes", DROPPED, role.living());
    }

    /// Gives the others what they share with the root, or takes it.
    pub(super) fn hand_over(&mut self) {
        let (Some(role), Some(shared)) = (self.around.role, self.plan.file().shared) else {
            return;
        };
        let Some(line) = role.line else { return };
        let (first, count) = (u64::from(shared.first_fd), u64::from(shared.count));
        let message = self.message(shared.first_fd, shared.count);
        let number = if role.is_root() { libc::SYS_sendmsg } else { libc::SYS_recvmsg };
        let flags = if role.is_root() { 0 } else { libc::MSG_CMSG_CLOEXEC as u64 };
        let times = if role.is_root() { role.living() - 1 } else { 1 };
        for _ in 0..times {
            let args = [line as u64, message, flags, 0, 0, 0];
            let call = Instruction::call_expect(number, args, 1);
            self.push(Step::Own("handing over descriptors"), call);
        }
        if role.is_root() {
            return;
        }
        // They have come as the lowest numbers: nothing else is open there.
        for index in 0..count {
            let args = [3 + index, first + index, libc::O_CLOEXEC as u64, 0, 0, 0];
            self.ok("taking over descriptors", libc::SYS_dup3, args);
        }
        self.ok("closing", libc::SYS_close_range, [3, 2 + count, 0, 0, 0, 0]);
    }

    /// Lays out `struct msghdr` with one byte and these descriptors
    /// (`cmsg(3)`).
    fn message(&mut self, first: u32, count: u32) -> u64 {
        const LEN_HEAD: u64 = 16;
        let len_control = LEN_HEAD + 4 * u64::from(count);
        let mut control = len_control.to_le_bytes().to_vec();
        control.extend(libc::SOL_SOCKET.to_le_bytes());
        control.extend(libc::SCM_RIGHTS.to_le_bytes());
        control.extend((first..first + count).flat_map(u32::to_le_bytes));
        let control = self.put(&control);
        let byte = self.put(&[1]);
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let bytes: Vec<u8> = words(&[byte, 1]);
        let vector = self.put(&bytes);
        let bytes: Vec<u8> = words(&[0, 0, vector, 1, control, len_control, 0]);
        self.put(&bytes)
    }

    /// Closes the descriptors by which shared descriptions came.
    pub(super) fn close_shared(&mut self) {
        if let Some(line) = self.around.role.and_then(|role| role.line) {
            self.ok("closing", libc::SYS_close, [line as u64, 0, 0, 0, 0, 0]);
        }
        if let Some(shared) = self.plan.file().shared {
            let (first, count) = (u64::from(shared.first_fd), u64::from(shared.count));
            let args = [first, first + count - 1, 0, 0, 0, 0];
            self.ok("closing", libc::SYS_close_range, args);
        }
    }

    /// The root waits until the others are built.
    pub(super) fn all_done(&mut self, role: &Role<'_>) {
        self.await_others("the other processes", DONE, role.living() - 1);
    }

    /// The root lets the others go, and waits until its own end no longer ends
    /// them.
    pub(super) fn release_others(&mut self, role: &Role<'_>) {
        self.arrive(RELEASE);
        self.await_others("the other processes", CLEARED, role.living() - 1);
    }

    /// Another process waits until the root says that there is no way back.
    pub(super) fn wait_for_release(&mut self, role: &Role<'_>) {
        self.arrive(DONE);
        self.await_others("the release", RELEASE, 1);
        let signal = u64::from(role.kin().death_signal());
        let args = [libc::PR_SET_PDEATHSIG as u64, signal, 0, 0, 0, 0];
        self.any("parent-death signal", libc::SYS_prctl, args);
        self.any("closing", libc::SYS_close, [self.around.signal as u64, 0, 0, 0, 0, 0]);
        self.arrive(CLEARED);
    }

    /// What children do that have ended: take their places, and end again.
    /// They run this program in a copy of their parent's memory.
    pub(super) fn ended_children(&mut self) {
        let Some(role) = self.around.role else { return };
        for (spawn, index) in std::mem::take(&mut self.stillborn) {
            self.begins_here(spawn);
            self.end_again(role, &role.tree[index]);
        }
    }

    fn end_again(&mut self, role: &Role<'_>, kin: &Kin) {
        let pdeathsig = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        self.ok("parent-death signal", libc::SYS_prctl, pdeathsig);
        let parent = i64::from(role.tree[kin.parent as usize].pid);
        let alive = Instruction::call_expect(libc::SYS_getppid, [0; 6], parent);
        self.push(Step::Own("the parent ended"), alive);
        self.drop_capabilities();
        self.session(kin);
        self.group(kin, role.groups());
        let mut name = kin.name().to_vec();
        name.resize(16, 0);
        let name = self.put(&name);
        self.any("naming", libc::SYS_prctl, [libc::PR_SET_NAME as u64, name, 0, 0, 0, 0]);
        let status = kin.ended();
        let signal = u64::from(status & 0x7f);
        if signal != 0 {
            let (nothing, limit) = (self.put(&[0; 32]), self.put(&[0; 16]));
            let core = u64::from(libc::RLIMIT_CORE);
            self.any("core dumps", libc::SYS_prlimit64, [0, core, limit, 0, 0, 0]);
            // Of SIGKILL nobody sets the action.
            self.any("the action", libc::SYS_rt_sigaction, [signal, nothing, 0, 8, 0, 0]);
            self.ok("unblocking", libc::SYS_rt_sigprocmask, [2, nothing, 0, 8, 0, 0]);
            self.ok("ending by a signal", libc::SYS_kill, [kin.pid as u64, signal, 0, 0, 0, 0]);
        }
        let code = if signal != 0 { 125 } else { u64::from(status >> 8) };
        self.ok("ending", libc::SYS_exit_group, [code, 0, 0, 0, 0, 0]);
    }
}
