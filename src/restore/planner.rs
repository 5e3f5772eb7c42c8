//! Image and facts become a plan: pure, no system call.
//!
//! Everything that costs time at a restore is done here, once: which pages
//! are mapped and which copied, the numbers that descriptors will get, the
//! frames that threads return through.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use super::host::Host;
use super::plan::{
    Arg, Check, Clocks, GivenDescriptor, KernelArea, KernelAreaKind, MemoryMap, Operation,
    PagesFile, Plan, PlanError, PlanFile,
};
use crate::image::proto::{FdTypes, FileEntry, PipeDataEntry, TimensEntry, Timespec};
use crate::image::{Queued, Set, Task, vma_status};
use crate::sys::arch::TASK_SIZE;
use crate::sys::memory::LEN_PAGE;

mod changed;
mod descriptors;
mod memory;
mod process;
mod shared;
mod signals;
mod threads;
mod tree;

use descriptors::Numbers;

pub use changed::{Changed, LEN_CPUS, Leads, Scheduling, Setting, SocketOption};

/// A descriptor that a restore gets from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Its number in the program.
    pub fd: RawFd,
    /// Which of the caller's it is.
    pub source: Source,
    /// Whether it is closed at an exec of the program's.
    pub cloexec: bool,
}

/// A descriptor of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// 0, 1 or 2.
    Stdio(u8),
    /// One that was asked to be kept (`--keep-fd`).
    Kept(RawFd),
}

impl Source {
    /// Returns the number of the descriptor at the caller.
    pub fn number(self) -> RawFd {
        match self {
            Self::Stdio(number) => RawFd::from(number),
            Self::Kept(number) => number,
        }
    }
}

/// A file that the program writes, by its id in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The id.
    pub id: u32,
    /// What a restore does.
    pub policy: Policy,
}

/// What a restore does about a file that the program writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Opened for appending: it goes on at its end, or is created again.
    Append {
        /// Its permissions.
        mode: u32,
    },
    /// Truncated and written from the start by the program: a new file of that
    /// name goes on behind what it had written.
    Stream {
        /// Its permissions.
        mode: u32,
        /// What it had written.
        content: Vec<u8>,
    },
    /// An empty file that is held for its lock: made if it is gone, never
    /// replaced, and still empty.
    LockFile {
        /// Its permissions.
        mode: u32,
    },
    /// A file of this process alone: made anew with its content, which may
    /// also be mapped.
    Recreate {
        /// Its permissions.
        mode: u32,
        /// Its content.
        content: Vec<u8>,
    },
}

/// How memory comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageMode {
    /// Pages are mapped from the pages file, copy-on-write.
    Mapped,
    /// Pages are read into fresh memory: for programs that rely on
    /// `MADV_DONTNEED` giving zeros (facts of jemalloc, Go, V8).
    Copied,
}

impl PageMode {
    /// Returns the mode's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Copied => "copied",
        }
    }
}

/// What a plan depends on beside the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Descriptors that come from the caller.
    pub given: Vec<Given>,
    /// Which of 0, 1 and 2 the program has closed.
    pub closed: Vec<RawFd>,
    /// Files that the program writes.
    pub written: Vec<Written>,
    /// How memory comes back.
    pub page_mode: PageMode,
    /// Guard pages: (address, length in bytes).
    pub guards: Vec<(u64, u64)>,
    /// Whether the program has set no_new_privs on itself.
    pub no_new_privs: bool,
    /// The limits that the caller gave: (soft, hard), by number.
    pub caller_limits: Vec<(u64, u64)>,
    /// The personality that the caller gave.
    pub caller_personality: u32,
    /// What the program has changed of what its caller gave.
    pub changed: Changed,
    /// The machine.
    pub host: Host,
    /// The length of its `[vvar_vclock]` ([`super::host::len_vclock`]).
    pub len_vclock: Option<u64>,
}

/// Why an image cannot be restored natively.
#[derive(Debug, thiserror::Error)]
pub enum PlannerError {
    /// Something that this engine cannot carry, by name.
    #[error("{0}")]
    Unsupported(String),
    /// The image contradicts itself.
    #[error("the image is inconsistent: {0}")]
    Inconsistent(String),
    /// The plan came out wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Bytes that operations point to.
#[derive(Debug, Default)]
struct Data(Vec<u8>);

impl Data {
    /// Adds bytes, aligned to eight, and returns where they are.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let offset = self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        offset
    }

    fn words(&mut self, words: &[u64]) -> Arg {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Arg::Data(self.put(&bytes))
    }

    fn path(&mut self, path: &[u8]) -> Arg {
        let mut bytes = path.to_vec();
        bytes.push(0);
        Arg::Data(self.put(&bytes))
    }
}

/// A plan in the making.
struct Planner<'a> {
    set: &'a Set,
    files: BTreeMap<u32, &'a FileEntry>,
    written: BTreeMap<u32, &'a Policy>,
    /// Capacity and content of pipes.
    pipes: BTreeMap<u32, &'a Queued<PipeDataEntry>>,
    facts: &'a Facts,
    data: Data,
    operations: Vec<Operation>,
    /// Paths of files that the plan has created anew already.
    recreated: Vec<Vec<u8>>,
    /// Pipes that the plan has made already.
    made_pipes: Vec<u32>,
    /// What the process has to do with others.
    family: Option<&'a tree::Family>,
    /// Pages files beside the first one.
    more_pages: Vec<PagesFile>,
}

impl Planner<'_> {
    fn push(&mut self, number: i64, args: &[Arg], check: Check) {
        self.operations.push(Operation::new(number, args, check));
    }

    /// Adds a call that must not fail.
    fn must(&mut self, number: i64, args: &[Arg]) {
        self.push(number, args, Check::Ok);
    }

    /// Adds a call whose result does not matter.
    fn may(&mut self, number: i64, args: &[Arg]) {
        self.push(number, args, Check::Any);
    }
}

fn value(value: impl TryInto<u64>) -> Arg {
    Arg::Value(value.try_into().unwrap_or(0))
}

/// Compiles the plan of an image of one process.
pub fn compile(set: &Set, facts: &Facts) -> Result<Plan, PlannerError> {
    let [task] = &set.tasks[..] else {
        let what = format!("an image of {} processes", set.tasks.len());
        return Err(PlannerError::Unsupported(what));
    };
    compile_task(set, task, facts, None)
}

/// Compiles the plans of an image, the root's first; `facts` are of the
/// processes that live, in the order of the image.
pub fn compile_all(set: &Set, facts: &[Facts]) -> Result<Vec<Plan>, PlannerError> {
    match (&set.tasks[..], facts) {
        ([_], [facts]) => compile(set, facts).map(|plan| vec![plan]),
        _ => tree::compile(set, facts),
    }
}

/// Refuses processes that cannot be made as they are to one another: what
/// [`compile_all`] finds out first, while the program still stands.
pub fn check_tree(set: &Set, facts: &[Facts]) -> Result<(), PlannerError> {
    if facts.len() > 1 || set.tasks.len() > 1 {
        tree::Family::new(set, facts).map(drop)
    } else {
        Ok(())
    }
}

fn compile_task(
    set: &Set,
    task: &Task,
    facts: &Facts,
    family: Option<&tree::Family>,
) -> Result<Plan, PlannerError> {
    let mut planner = Planner {
        set,
        files: set.files.iter().map(|file| (file.id, file)).collect(),
        written: facts.written.iter().map(|written| (written.id, &written.policy)).collect(),
        pipes: set.pipe_data.iter().map(|queued| (queued.entry.pipe_id, queued)).collect(),
        facts,
        data: Data::default(),
        operations: Vec::new(),
        recreated: Vec::new(),
        made_pipes: Vec::new(),
        family,
        more_pages: Vec::new(),
    };
    // Files get the permissions that they had, whatever the caller's mask is;
    // the program's own mask comes last.
    planner.may(libc::SYS_umask, &[value(0)]);
    let shared = planner.shared_descriptions(task)?;
    let mut numbers = Numbers::new();
    // Where each open file description has its first descriptor.
    let mut made = family.map_or_else(BTreeMap::new, |family| family.slots().clone());
    let (kernel_areas, len_pages) = planner.memory(task, &mut numbers, &mut made)?;
    planner.signals(task)?;
    let fd_ceiling = planner.descriptors(task, numbers, made)?;
    let fd_ceiling = shared.map_or(fd_ceiling, |shared| shared.first_fd + shared.count);
    let nofile = planner.process(task)?;
    let mut threads = planner.threads(task)?;
    if let Some(leader) = threads.first_mut() {
        leader.operations.extend(planner.process_locks(task));
    }
    let mm = &task.mm;
    let auxv: Vec<u8> = mm.mm_saved_auxv.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory_map = MemoryMap {
        start_code: mm.mm_start_code,
        end_code: mm.mm_end_code,
        start_data: mm.mm_start_data,
        end_data: mm.mm_end_data,
        start_brk: mm.mm_start_brk,
        brk: mm.mm_brk,
        start_stack: mm.mm_start_stack,
        arg_start: mm.mm_arg_start,
        arg_end: mm.mm_arg_end,
        env_start: mm.mm_env_start,
        env_end: mm.mm_env_end,
        auxv_offset: planner.data.put(&auxv),
        auxv_len: auxv.len() as u64,
    };
    let count = planner.operations.len()
        + threads.iter().map(|thread| thread.operations.len() + 8).sum::<usize>();
    let frames: u64 = threads.iter().map(|thread| thread.frame.len.next_multiple_of(64)).sum();
    let len_place = (planner.data.0.len() as u64 + frames + count as u64 * 64 + (1 << 20))
        .next_multiple_of(1 << 20);
    let file = PlanFile {
        boot_id: facts.host.boot_id.clone(),
        vdso_digest: facts.host.vdso_digest.to_vec(),
        xfeatures: facts.host.xfeatures,
        exe: planner.path_of(mm.exe_file_id)?.to_vec(),
        len_pages,
        mapped: facts.page_mode == PageMode::Mapped,
        len_vclock: facts.len_vclock.filter(|len| {
            let is_vvar = |area: &&KernelArea| area.kind() == KernelAreaKind::Vvar;
            kernel_areas.iter().find(is_vvar).is_some_and(|vvar| *len < vvar.len)
        }),
        kernel_areas,
        places: places(task, len_place, family.map_or(0, |family| family.turn(task)))?,
        len_place,
        fd_ceiling,
        given: facts
            .given
            .iter()
            .map(|given| GivenDescriptor {
                fd: given.fd,
                source: given.source.number(),
                cloexec: given.cloexec,
            })
            .collect(),
        closed: facts.closed.clone(),
        memory_map,
        operations: planner.operations,
        threads,
        data: planner.data.0,
        nofile,
        clocks: set.timens.as_ref().map(clocks),
        tree: family.map_or_else(Vec::new, |family| family.kin_in_plan(task)),
        shared,
        pages_id: Some(task.pagemap.pages_id).filter(|id| *id != 1),
        more_pages: planner.more_pages,
    };
    Ok(Plan::new(file)?)
}

fn clocks(timens: &TimensEntry) -> Clocks {
    let ns =
        |time: &Timespec| time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
    Clocks { monotonic: ns(&timens.monotonic), boottime: ns(&timens.boottime) }
}

impl Planner<'_> {
    fn file(&self, id: u32) -> Result<&FileEntry, PlannerError> {
        let missing = || PlannerError::Inconsistent(format!("file {id} is not there"));
        self.files.get(&id).copied().ok_or_else(missing)
    }

    fn path_of(&self, id: u32) -> Result<&[u8], PlannerError> {
        let file = self.file(id)?;
        let path = file.reg.as_ref().filter(|_| file.r#type == FdTypes::Reg as i32);
        let path = path.map(|reg| &reg.name[..]).filter(|path| path.first() == Some(&b'/'));
        path.filter(|path| !path.contains(&0))
            .ok_or_else(|| PlannerError::Inconsistent(format!("file {id} has no path")))
    }
}

/// Tells the kernel's areas from the program's.
fn kernel_area(status: u32) -> Option<KernelAreaKind> {
    if status & vma_status::VDSO != 0 {
        Some(KernelAreaKind::Vdso)
    } else if status & vma_status::VVAR != 0 {
        Some(KernelAreaKind::Vvar)
    } else {
        None
    }
}

/// Finds addresses where the pages of the restore itself can lie: in the
/// middle of the largest holes of the image, far from where anything grows.
/// Those of several processes lie beside one another in the launcher: each has
/// its turn.
fn places(task: &Task, len: u64, turn: u64) -> Result<Vec<u64>, PlannerError> {
    const MAX_PLACES: usize = 8;
    /// More than a place is long, as a rule: where not, there are others.
    const STEP: u64 = 1 << 28;
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let mut end = 1 << 32;
    // CRIU lists the page of `vsyscall`, which is the kernel's half.
    for vma in task.mm.vmas.iter().filter(|vma| vma.end <= TASK_SIZE) {
        if vma.start > end {
            holes.push((vma.start - end, end));
        }
        end = end.max(vma.end);
    }
    if TASK_SIZE > end {
        holes.push((TASK_SIZE - end, end));
    }
    holes.sort_unstable();
    let mut places = Vec::new();
    for (size, start) in holes.into_iter().rev().take(MAX_PLACES) {
        // A quarter on each side stays free.
        let shift = turn * STEP;
        if size / 4 < len + shift {
            continue;
        }
        for part in [2, 1] {
            places.push((start + size / 4 * part + shift) / LEN_PAGE * LEN_PAGE);
        }
    }
    places.truncate(MAX_PLACES);
    if places.is_empty() {
        return Err(PlannerError::Unsupported("an address space without a hole".into()));
    }
    Ok(places)
}

fn area(kind: KernelAreaKind, addr: u64, len: u64) -> KernelArea {
    KernelArea { kind: kind as i32, addr, len }
}
