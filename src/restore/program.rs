//! A plan becomes the interpreter's instructions, for this process, now.
//!
//! The order is the safest and the fastest that was measured: everything that
//! needs the capability first, built here from numbers; then every thread
//! drops it, is checked to have dropped it, and parks; only then comes what
//! the plan says. The last steps: every thread returns to where it was when
//! the leader says so, once the launcher has not given up.

use std::os::fd::RawFd;

use super::host::Move;
use super::plan::{Arg, Check, Frame, Operation, Plan, ThreadPlan};
use crate::sys::arch::{self, Instruction, Op, Start, TASK_SIZE};
use crate::sys::capability::Sets;
use crate::sys::clone3::CloneArgs;
use crate::sys::memory::LEN_PAGE;

mod tree;

pub use tree::{Child, Role};

/// Where the parts of a restore lie in the new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The interpreter's code: one page, which stays.
    pub code: u64,
    /// Futexes and frames: stays, too.
    pub state: u64,
    /// The length of the state in bytes.
    pub len_state: u64,
    /// Data, then instructions: gone when the program runs.
    pub program: u64,
    /// The length of both in bytes.
    pub len_program: u64,
    /// The first instruction.
    pub entry: u64,
    /// The page that the launcher sees as well; gone with the program.
    pub report: u64,
    /// A free range for the kernel's areas on their way.
    pub parking: u64,
}

/// Offsets in the state: each in a cache line of its own.
const PARKED: u64 = 0;
const GO: u64 = 64;
const DONE: u64 = 128;
const RELEASE: u64 = 192;
/// Where frames begin in the state.
const FRAMES: u64 = 256;

const FUTEX_WAKE_PRIVATE: u64 = 129;
const FUTEX_WAIT_PRIVATE: u64 = 128;
const RSEQ_FLAG_UNREGISTER: u64 = 1;
/// The signature that glibc registers with (`RSEQ_SIG` on x86).
const RSEQ_SIGNATURE: u64 = 0x5305_3053;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
const LEN_CAPABILITIES: u64 = 24;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const LEN_MM_MAP: usize = 104;
/// Threads of one process, with a System V undo list of their own none.
const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// How threads are made with their exact tids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Births {
    /// By `clone3` with `set_tid`.
    SetTid,
    /// By `clone`, each once somebody outside has made its tid the next one.
    Next {
        /// A byte is written here for each thread that is wanted.
        ask: RawFd,
        /// A byte comes from here once its tid is the next.
        answer: RawFd,
    },
}

impl Births {
    fn descriptors(self) -> Vec<RawFd> {
        match self {
            Self::SetTid => Vec::new(),
            Self::Next { ask, answer } => vec![ask, answer],
        }
    }
}

/// What the launcher knows that a plan does not.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The launcher's pid as the program sees it: 0 from inside a pid
    /// namespace.
    pub parent: i32,
    /// The kernel's areas of the launcher, which the child starts with, and
    /// where the image has them.
    pub kernel_areas: &'a [Move],
    /// The pages file.
    pub pages: RawFd,
    /// The other pages files, by id.
    pub more_pages: &'a [(u32, RawFd)],
    /// The program's own file.
    pub exe: RawFd,
    /// Whether the new process may have that for its `/proc/PID/exe`: not
    /// without CAP_CHECKPOINT_RESTORE (`prctl(2)`, PR_SET_MM_MAP).
    pub may_set_exe: bool,
    /// Written to once the program is released.
    pub signal: RawFd,
    /// How the other threads come by their tids.
    pub births: Births,
    /// The caller's descriptors, by number, each as a duplicate far above the
    /// program's.
    pub callers: &'a [(RawFd, RawFd)],
    /// Which of the caller's 0, 1 and 2 are closed.
    pub closed: &'a [RawFd],
    /// Signals that the caller ignores.
    pub ignored: &'a [i32],
    /// The capabilities that every thread ends with.
    pub capabilities: Sets,
    /// The caller's soft and hard limit of descriptors, if it had to be raised.
    pub nofile: Option<(u64, u64)>,
    /// What the process is in its tree, if it is one of several.
    pub role: Option<&'a Role<'a>>,
}

/// Where an instruction comes from, for the message when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The launcher's own.
    Own(&'static str),
    /// The making of a thread.
    Spawn(i32),
    /// The plan's, by index.
    Plan(u32),
    /// A thread's, by index of both.
    Thread(u32, u32),
}

impl Step {
    /// Returns the step `count` instructions further on.
    fn later(self, count: u32) -> Self {
        match self {
            Self::Plan(index) => Self::Plan(index + count),
            Self::Thread(thread, index) => Self::Thread(thread, index + count),
            other => other,
        }
    }
}

/// Which instructions belong to which steps.
#[derive(Debug, Default)]
pub struct Steps {
    /// The index of the first instruction of each stretch.
    marks: Vec<(u32, Step)>,
}

impl Steps {
    fn mark(&mut self, index: u32, step: Step) {
        let expected = self.marks.last().map(|(first, last)| last.later(index - first));
        if expected != Some(step) {
            self.marks.push((index, step));
        }
    }

    /// Returns the step of the instruction at this address.
    pub fn at(&self, layout: &Layout, addr: u64) -> Option<Step> {
        let index = u32::try_from(addr.checked_sub(layout.entry)? / 64).ok()?;
        let mark = self.marks.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        let (first, step) = self.marks[mark];
        Some(step.later(index - first))
    }
}

/// Fixes where everything lies. How many instructions there are depends on the
/// plan and the surroundings only, so bounds are enough.
pub fn layout(plan: &Plan, around: &Surroundings<'_>, place: u64) -> Layout {
    let file = plan.file();
    let threads = &file.threads;
    let frames: u64 = threads.iter().map(|thread| thread.frame.len.next_multiple_of(64)).sum();
    let len_state = (FRAMES + frames).next_multiple_of(LEN_PAGE);
    let own: usize = threads.iter().map(|thread| thread.operations.len() + 16).sum();
    let others = file.given.len() + around.kernel_areas.len() + around.more_pages.len();
    let fixed = 64 + 4 * (around.callers.len() + others);
    let (more, more_data) = around.role.map_or((0, 0), |role| role.room(plan));
    let instructions = (file.operations.len() + own + fixed + more) as u64 * 64;
    let own_data = threads.len() as u64 * 160 + 1024 + more_data;
    let program = place + LEN_PAGE + len_state;
    let entry = (program + file.data.len() as u64 + own_data).next_multiple_of(64);
    let len_program = (entry + instructions - program).next_multiple_of(LEN_PAGE);
    let report = program + len_program;
    Layout {
        code: place,
        state: place + LEN_PAGE,
        len_state,
        program,
        len_program,
        entry,
        report,
        parking: report + 16 * LEN_PAGE,
    }
}

/// Instructions in the making, in the memory where they will run.
struct Builder<'a> {
    plan: &'a Plan,
    around: &'a Surroundings<'a>,
    layout: Layout,
    memory: &'a mut [u8],
    /// How far data and instructions have grown.
    len_data: usize,
    count: u32,
    steps: Steps,
    /// The instructions that make threads, whose programs come last.
    spawns: Vec<u32>,
    /// The same of children that have ended, with their place among the
    /// children.
    stillborn: Vec<(u32, usize)>,
    /// The structures of `capset`, which all threads use: header, sets.
    capabilities: [u64; 2],
    /// Where the next frame lies.
    next_frame: u64,
}

/// Lowers a plan into `memory`, which is or will be mapped at
/// [`Layout::program`].
pub fn lower(plan: &Plan, around: &Surroundings<'_>, layout: Layout, memory: &mut [u8]) -> Steps {
    assert!(memory.len() as u64 >= layout.len_program, "the memory is as long as laid out");
    let data = &plan.file().data;
    memory[..data.len()].copy_from_slice(data);
    let len_data = data.len();
    let mut builder = Builder {
        plan,
        around,
        layout,
        memory,
        len_data,
        count: 0,
        // Most stretches are of threads: some for their making, their own, some
        // for what comes after.
        steps: Steps { marks: Vec::with_capacity(64 + 16 * plan.file().threads.len()) },
        spawns: Vec::new(),
        stillborn: Vec::new(),
        capabilities: [0; 2],
        next_frame: layout.state + FRAMES,
    };
    builder.privileged();
    builder.image();
    builder.release();
    builder.other_threads();
    builder.ended_children();
    builder.steps
}

impl Builder<'_> {
    fn push(&mut self, step: Step, instruction: Instruction) {
        let at = (self.layout.entry - self.layout.program) as usize + self.count as usize * 64;
        self.memory[at..at + 64].copy_from_slice(&instruction.to_bytes());
        self.steps.mark(self.count, step);
        self.count += 1;
    }

    fn ok(&mut self, what: &'static str, nr: i64, args: [u64; 6]) {
        self.push(Step::Own(what), Instruction::call_ok(nr, args));
    }

    fn any(&mut self, what: &'static str, nr: i64, args: [u64; 6]) {
        self.push(Step::Own(what), Instruction::call(nr, args));
    }

    /// Adds bytes behind the plan's data and returns their address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.len_data.next_multiple_of(8);
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len_data = at + bytes.len();
        self.layout.program + at as u64
    }

    fn futex(&self, offset: u64) -> u64 {
        self.layout.state + offset
    }

    fn wake(&mut self, futex: u64) {
        let args = [futex, FUTEX_WAKE_PRIVATE, i32::MAX as u64, 0, 0, 0];
        self.any("waking the threads", libc::SYS_futex, args);
    }

    /// What may need the capability: nothing here comes from a file.
    fn privileged(&mut self) {
        // The launcher blocks what glibc lets it block: not the two signals by
        // which its threads cancel one another and change ids (`nptl(7)`). One
        // that is released first may send them to one that is still parked, which
        // has no stack for a handler.
        let all = self.put(&[0xff; 8]);
        let args = [libc::SIG_SETMASK as u64, all, 0, 8, 0, 0];
        self.ok("blocking signals", libc::SYS_rt_sigprocmask, args);
        if self.around.births != Births::SetTid {
            let pid = i64::from(self.plan.pid());
            let own = Instruction::call_expect(libc::SYS_getpid, [0; 6], pid);
            self.push(Step::Own("another pid"), own);
        }
        let pdeathsig = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        self.ok("parent-death signal", libc::SYS_prctl, pdeathsig);
        let parent = i64::from(self.around.parent);
        let alive = Instruction::call_expect(libc::SYS_getppid, [0; 6], parent);
        self.push(Step::Own("the launcher ended"), alive);
        if let Some(rseq) = arch::own_rseq() {
            // Newer C libraries register a longer area than the first one.
            for len in [32, 64, 128] {
                let args = [rseq, len, RSEQ_FLAG_UNREGISTER, RSEQ_SIGNATURE, 0, 0];
                self.any("rseq", libc::SYS_rseq, args);
            }
        }
        if let Some(role) = self.around.role {
            self.family(role);
        }
        self.unmap(&[]);
        self.close();
        let map = self.neutral_map();
        let args = [PR_SET_MM, PR_SET_MM_MAP, map, LEN_MM_MAP as u64, 0, 0];
        self.ok("setting the program's file", libc::SYS_prctl, args);
        self.spawn();
        self.prepare_capabilities();
        self.drop_capabilities();
        let others = self.plan.file().threads.len() as u64 - 1;
        let parked = self.futex(PARKED);
        self.wait("threads", parked, others);
        if let Some(role) = self.around.role {
            self.all_dropped(role);
        }
    }

    /// Waits until a futex of this process is at least so much.
    fn wait(&mut self, what: &'static str, futex: u64, least: u64) {
        let args = [futex, least, FUTEX_WAIT_PRIVATE];
        self.push(Step::Own(what), Instruction::new(Op::WaitAtLeast, args));
    }

    /// Unmaps everything but this program, the kernel's areas and what else
    /// is to stay.
    fn unmap(&mut self, others: &[(u64, u64)]) {
        let end = self.layout.report + LEN_PAGE;
        let mut keep = vec![(self.layout.code, end)];
        keep.extend(others);
        keep.extend(self.around.kernel_areas.iter().map(|area| (area.addr, area.addr + area.len)));
        keep.sort_unstable();
        let mut free = 0;
        for (start, end) in keep {
            if start > free {
                self.ok("unmapping", libc::SYS_munmap, [free, start - free, 0, 0, 0, 0]);
            }
            free = free.max(end);
        }
        if TASK_SIZE > free {
            self.ok("unmapping", libc::SYS_munmap, [free, TASK_SIZE - free, 0, 0, 0, 0]);
        }
    }

    /// Closes every descriptor but 0, 1, 2 and the restore's own.
    fn close(&mut self) {
        let mut keep = vec![self.around.pages, self.around.exe, self.around.signal];
        keep.extend(self.around.callers.iter().map(|(_, duplicate)| *duplicate));
        keep.extend(self.around.more_pages.iter().map(|(_, pages)| *pages));
        keep.extend(self.around.births.descriptors());
        keep.extend(self.around.role.and_then(|role| role.line));
        keep.sort_unstable();
        let mut first = 3;
        for fd in keep {
            let fd = fd as u64;
            if fd > first {
                self.ok("closing", libc::SYS_close_range, [first, fd - 1, 0, 0, 0, 0]);
            }
            first = first.max(fd + 1);
        }
        self.ok("closing", libc::SYS_close_range, [first, u64::from(u32::MAX), 0, 0, 0, 0]);
    }

    /// `struct prctl_mm_map` with the program's file and addresses that mean
    /// nothing: the real ones need no capability and come later.
    fn neutral_map(&mut self) -> u64 {
        let at = self.layout.code;
        let [code, data, brk, stack] = [at, at + 0x1000, at + 0x2000, at + 0x3000];
        let words = [code, data, data, data, brk, brk, stack, stack, stack, stack, stack, 0];
        let mut map: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        map.extend(0u32.to_le_bytes());
        let exe = if self.around.may_set_exe { self.around.exe as u32 } else { u32::MAX };
        map.extend(exe.to_le_bytes());
        self.put(&map)
    }

    /// Makes every other thread with its own tid; each goes on at a program
    /// whose place is known when all instructions are there.
    fn spawn(&mut self) {
        if let Births::Next { ask, answer } = self.around.births {
            return self.spawn_next(ask, answer);
        }
        for index in 1..self.plan.file().threads.len() {
            let tid = self.plan.file().threads[index].tid;
            let set_tid = self.put(&i64::from(tid).to_le_bytes());
            let args = CloneArgs {
                flags: THREAD_FLAGS as u64,
                set_tid,
                set_tid_size: 1,
                ..Default::default()
            };
            let at = self.put(&args.to_bytes());
            self.spawns.push(self.count);
            self.push(Step::Spawn(tid), Instruction::spawn(at, 88, self.start(), tid));
        }
    }

    /// Where a thread begins; its program is put in later.
    fn start(&self) -> Start {
        Start { program: 0, report: self.layout.report, code: self.layout.code }
    }

    /// The same without `clone3`: the launcher is asked to bring each tid about.
    fn spawn_next(&mut self, ask: RawFd, answer: RawFd) {
        // Of our own handlers, which lie in unmapped memory by now.
        let action = self.put(&[0; 32]);
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            let args = [signal as u64, action, 0, 8, 0, 0];
            self.ok("signal handlers", libc::SYS_rt_sigaction, args);
        }
        let byte = self.put(&[0; 8]);
        for index in 1..self.plan.file().threads.len() {
            let tid = self.plan.file().threads[index].tid;
            for (nr, fd) in [(libc::SYS_write, ask), (libc::SYS_read, answer)] {
                let call = Instruction::call_expect(nr, [fd as u64, byte, 1, 0, 0, 0], 1);
                self.push(Step::Own("asking for a tid"), call);
            }
            self.spawns.push(self.count);
            let spawn = Instruction::spawn_next(THREAD_FLAGS as u64, self.start(), tid);
            self.push(Step::Spawn(tid), spawn);
        }
        for fd in [ask, answer] {
            self.ok("closing", libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
        }
    }

    /// Lays out the structures of `capset`, the same for all threads.
    fn prepare_capabilities(&mut self) {
        let sets = self.around.capabilities;
        let mut header = CAPABILITY_VERSION.to_le_bytes().to_vec();
        header.extend(0u32.to_le_bytes());
        let mut wanted = Vec::with_capacity(LEN_CAPABILITIES as usize);
        for half in [0, 32] {
            for set in [sets.effective, sets.permitted, sets.inheritable] {
                wanted.extend(((set >> half) as u32).to_le_bytes());
            }
        }
        self.capabilities = [self.put(&header), self.put(&wanted)];
    }

    /// Sets this thread's capabilities and checks that they are set.
    fn drop_capabilities(&mut self) {
        let [header, wanted] = self.capabilities;
        let found = self.put(&[0xff; LEN_CAPABILITIES as usize]);
        self.ok("dropping capabilities", libc::SYS_capset, [header, wanted, 0, 0, 0, 0]);
        self.ok("reading capabilities", libc::SYS_capget, [header, found, 0, 0, 0, 0]);
        let compare = Instruction::new(Op::Compare, [found, wanted, LEN_CAPABILITIES]);
        self.push(Step::Own("capabilities are left"), compare);
    }

    /// What the plan says, without any capability that the program must not
    /// have.
    fn image(&mut self) {
        let dumpable = [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0];
        self.ok("dumpable", libc::SYS_prctl, dumpable);
        if !self.around.ignored.contains(&libc::SIGPIPE) {
            // Our own runtime ignores it.
            let action = self.put(&[0; 32]);
            let args = [libc::SIGPIPE as u64, action, 0, 8, 0, 0];
            self.ok("SIGPIPE", libc::SYS_rt_sigaction, args);
        }
        self.move_kernel_areas();
        let map = self.memory_map();
        let args = [PR_SET_MM, PR_SET_MM_MAP, map, LEN_MM_MAP as u64, 0, 0];
        self.ok("setting the memory map", libc::SYS_prctl, args);
        let plan = self.plan;
        let operations = &plan.file().operations;
        // What makes descriptions that others share comes first.
        let shared = plan.file().shared;
        let first = shared.map_or(0, |shared| shared.operations as usize).min(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            if index == first {
                self.hand_over();
            }
            self.operation(Step::Plan(index as u32), operation);
        }
        if first == operations.len() {
            self.hand_over();
        }
        self.close_shared();
        let more = self.around.more_pages.iter().map(|(_, pages)| *pages);
        for fd in [self.around.pages, self.around.exe].into_iter().chain(more) {
            self.ok("closing", libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
        }
        for (number, duplicate) in self.around.callers {
            self.ok("closing", libc::SYS_close, [*duplicate as u64, 0, 0, 0, 0, 0]);
            if self.around.closed.contains(number) {
                self.close_given(*number);
            }
        }
        for fd in self.around.closed {
            // Closed at the caller: what is there is our place-holder, unless
            // the program has put something of its own there.
            if self.plan.file().given.iter().any(|given| given.fd == *fd && given.source == *fd) {
                self.any("closing", libc::SYS_close, [*fd as u64, 0, 0, 0, 0, 0]);
            }
        }
        if let (Some((soft, hard)), None) = (self.around.nofile, self.plan.file().nofile) {
            let mut limit = soft.to_le_bytes().to_vec();
            limit.extend(hard.to_le_bytes());
            let limit = self.put(&limit);
            let args = [0, u64::from(libc::RLIMIT_NOFILE), limit, 0, 0, 0];
            self.ok("limit of descriptors", libc::SYS_prlimit64, args);
        }
    }

    /// Closes the program's duplicates of a descriptor that the caller has
    /// closed.
    fn close_given(&mut self, source: RawFd) {
        let plan = self.plan;
        let given = plan.file().given.iter().filter(|g| g.source == source && g.fd != source);
        for fd in given.map(|given| given.fd) {
            self.any("closing", libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
        }
    }

    /// Moves `[vdso]` and its data to the image's addresses, by way of the
    /// parking place: old and new ranges can overlap.
    fn move_kernel_areas(&mut self) {
        const FLAGS: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let mut parking = self.layout.parking;
        let mut moves = Vec::new();
        for area in self.around.kernel_areas.iter().filter(|area| area.addr != area.target) {
            moves.push((area.addr, area.len, parking, area.target));
            parking += area.len;
        }
        for (from, len, to, _) in &moves {
            self.ok("moving the vDSO", libc::SYS_mremap, [*from, *len, *len, FLAGS, *to, 0]);
        }
        for (_, len, from, to) in moves {
            self.ok("moving the vDSO", libc::SYS_mremap, [from, len, len, FLAGS, to, 0]);
        }
    }

    fn memory_map(&mut self) -> u64 {
        let map = &self.plan.file().memory_map;
        let words = [
            map.start_code,
            map.end_code,
            map.start_data,
            map.end_data,
            map.start_brk,
            map.brk,
            map.start_stack,
            map.arg_start,
            map.arg_end,
            map.env_start,
            map.env_end,
            self.layout.program + map.auxv_offset,
        ];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend((map.auxv_len as u32).to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
        self.put(&bytes)
    }

    fn operation(&mut self, step: Step, operation: &Operation) {
        let mut args = [0; 6];
        for (index, place) in args.iter_mut().enumerate() {
            *place = match operation.arg(index) {
                Arg::Value(value) => value,
                Arg::Data(offset) => self.layout.program + offset,
                Arg::Pages => self.around.pages as u64,
                Arg::Caller(number) => self.caller(number),
                Arg::MorePages(id) => self.more_pages(id),
            };
        }
        let nr = i64::from(operation.number);
        let instruction = match operation.result() {
            Check::Any => Instruction::call(nr, args),
            Check::Ok => Instruction::call_ok(nr, args),
            Check::Equals(value) => Instruction::call_expect(nr, args, value),
        };
        self.push(step, instruction);
    }

    fn more_pages(&self, id: u64) -> u64 {
        let found = self.around.more_pages.iter().find(|(known, _)| u64::from(*known) == id);
        found.map_or(u64::from(u32::MAX), |(_, pages)| *pages as u64)
    }

    fn caller(&self, number: u64) -> u64 {
        let found = self.around.callers.iter().find(|(fd, _)| *fd as u64 == number);
        found.map_or(u64::from(u32::MAX), |(_, duplicate)| *duplicate as u64)
    }

    /// What each thread does for itself once the memory is there, up to the
    /// frame that it will return through; returns where that is.
    fn own(&mut self, index: usize) -> u64 {
        let plan = self.plan;
        let thread = &plan.file().threads[index];
        for (number, operation) in thread.operations.iter().enumerate() {
            self.operation(Step::Thread(index as u32, number as u32), operation);
        }
        let frame = self.place_frame(thread);
        let Frame { offset, len, head, tail } = thread.frame;
        // What lies between is zero, as the state is.
        let from = self.layout.program + offset;
        for (to, from, len) in [(frame, from, head), (frame + len - tail, from + head, tail)] {
            if len > 0 {
                let copy = Instruction::new(Op::Copy, [to, from, len]);
                self.push(Step::Own("placing a frame"), copy);
            }
        }
        frame
    }

    /// Finds a place for a frame and sets the pointer in it for that.
    ///
    /// Frames lie in the state, never on a stack: a coroutine's may be smaller
    /// than a frame, which is 3 KB with AVX-512, and nothing tells such a stack
    /// from other memory.
    fn place_frame(&mut self, thread: &ThreadPlan) -> u64 {
        let addr = self.next_frame;
        self.next_frame += thread.frame.len.next_multiple_of(64);
        let Frame { offset, head, .. } = thread.frame;
        let frame = &mut self.memory[offset as usize..(offset + head) as usize];
        arch::place_frame(frame, addr);
        addr
    }

    /// The leader's last steps.
    fn release(&mut self) {
        let (go, done, release) = (self.futex(GO), self.futex(DONE), self.futex(RELEASE));
        let others = self.plan.file().threads.len() as u64 - 1;
        let own = Step::Own("releasing the threads");
        self.push(own, Instruction::new(Op::Add, [go, 1, 0]));
        self.wake(go);
        let frame = self.own(0);
        self.wait("releasing the threads", done, others);
        match self.around.role {
            Some(role) if !role.is_root() => self.wait_for_release(role),
            role => {
                if let Some(role) = role {
                    self.all_done(role);
                }
                self.commit();
                if let Some(role) = role {
                    self.release_others(role);
                }
                // Last: from now on signals are passed on to the root.
                self.report();
            }
        }
        self.push(own, Instruction::new(Op::Add, [release, 1, 0]));
        self.wake(release);
        let len = self.layout.len_program + LEN_PAGE;
        self.push(own, Instruction::new(Op::Leave, [frame, self.layout.program, len]));
    }

    /// The point of no return.
    fn commit(&mut self) {
        let commit = Instruction::new(Op::Commit, [self.layout.report, 0, 0]);
        self.push(Step::Own("the launcher gave up"), commit);
    }

    /// Tells the launcher that the program is released.
    fn report(&mut self) {
        let signal = self.around.signal as u64;
        let byte = self.put(&[1]);
        self.any("reporting", libc::SYS_write, [signal, byte, 1, 0, 0, 0]);
        self.any("closing", libc::SYS_close, [signal, 0, 0, 0, 0, 0]);
    }

    fn other_threads(&mut self) {
        let (parked, go, done, release) =
            (self.futex(PARKED), self.futex(GO), self.futex(DONE), self.futex(RELEASE));
        let own = Step::Own("parking");
        for index in 1..self.plan.file().threads.len() {
            self.begin_thread(index);
            self.drop_capabilities();
            self.push(own, Instruction::new(Op::Add, [parked, 1, 0]));
            self.wake(parked);
            self.wait("parking", go, 1);
            let frame = self.own(index);
            self.push(own, Instruction::new(Op::Park, [frame, release, done]));
        }
    }

    /// Says that what comes now is the program of thread `index`.
    fn begin_thread(&mut self, index: usize) {
        self.begins_here(self.spawns[index - 1]);
    }

    /// Lets what instruction `spawn` makes begin with the next instruction.
    fn begins_here(&mut self, spawn: u32) {
        const OFFSET_PROGRAM: usize = 8 + 2 * 8;
        let start = self.layout.entry + u64::from(self.count) * 64;
        let instructions = (self.layout.entry - self.layout.program) as usize;
        let at = instructions + spawn as usize * 64 + OFFSET_PROGRAM;
        self.memory[at..at + 8].copy_from_slice(&start.to_le_bytes());
    }
}
