//! What was read becomes an image set, and the facts beside it that CRIU's
//! format has no place for.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::{self, Files};
use super::memory::Pages;
use super::process::{Stat, Status};
use super::vmas::{Backing, KernelArea, Vma};
use super::{Refusal, TraceError};
use crate::image::proto::{
    CredsEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry, SeccompMode, TaskCoreEntry,
    TaskKobjIdsEntry, TimensEntry, Timespec, VmaEntry,
};
use crate::image::{Pagemap, Set, Shmem, Task, Thread, vma_status};
use crate::restore::host::{self, Host};
use crate::restore::planner::{Changed, Facts, PageMode, Written};
use crate::trace::{Group, Remote};

/// A process's place among those that are captured together.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The pid of the root.
    pub root: i32,
    /// The pid of its parent; 0 for the root.
    pub parent: i32,
    /// Its index in the image.
    pub index: usize,
    /// The number of the first pages file for its shared memory.
    pub first_shared: u32,
}

impl Place {
    /// Returns N of the process's `pages-N.img`: 1 for the root. Numbers in
    /// between are left to what is no process's own.
    pub fn pages_id(&self) -> u32 {
        const FIRST_OF_OTHERS: u32 = 1000;
        if self.index == 0 { 1 } else { FIRST_OF_OTHERS + self.index as u32 }
    }
}

/// What was read of a process.
pub struct Parts<'a> {
    /// The stopped process.
    pub group: &'a Group,
    /// Its shared state.
    pub task: TaskCoreEntry,
    /// What its own calls told of its memory.
    pub mm: MmCalls,
    /// Its threads, the leader first.
    pub threads: Vec<Thread>,
    /// Its memory areas.
    pub vmas: Vec<Vma>,
    /// Its descriptors, and what is known of those of others.
    pub files: &'a mut Files,
    /// Its pages, written already.
    pub pages: Pages,
    /// What shared memory holds, written already.
    pub shared: Vec<Shmem>,
    /// Whether code can be mapped from the pages file (no `noexec` mount).
    pub may_map_code: bool,
    /// What it has changed of its caller's.
    pub changed: Changed,
    /// Its place.
    pub place: Place,
}

/// What only calls of the process itself tell about its memory.
#[derive(Debug, Clone, Copy)]
pub struct MmCalls {
    brk: u64,
    dumpable: i32,
    thp_disabled: bool,
}

impl MmCalls {
    /// Asks.
    pub fn read(remote: &mut Remote<'_>) -> Result<Self, TraceError> {
        let brk = remote.call_ok("reading the break", libc::SYS_brk, [0; 6])?;
        let mut prctl = |option: i32| {
            let args = [option as u64, 0, 0, 0, 0, 0];
            remote.call_ok("reading a process attribute", libc::SYS_prctl, args)
        };
        let dumpable = prctl(libc::PR_GET_DUMPABLE)? as i32;
        let thp_disabled = prctl(libc::PR_GET_THP_DISABLE)? != 0;
        Ok(Self { brk, dumpable, thp_disabled })
    }
}

/// Encodes the parts; what processes share stays in [`Parts::files`].
pub fn encode(parts: Parts<'_>) -> Result<(Set, Facts), Refusal> {
    let Parts {
        group,
        mut task,
        mm,
        mut threads,
        vmas,
        files,
        pages,
        shared,
        may_map_code,
        changed,
        place,
    } = parts;
    let in_place_since = SystemTime::now();
    let pid = group.pid();
    let status = Status::read(pid)?;
    let own = Status::read(std::process::id() as i32)?;
    let stat = Stat::read(&format!("/proc/{pid}/stat"))?;
    let mut dependencies = std::mem::take(&mut files.dependencies);
    let exe = link(pid, "exe")?;
    if super::vmas::is_deleted(&exe) {
        let what = format!("the program's file is deleted or replaced ({})", exe.display());
        return Err(Refusal::lasting(what));
    }
    dependencies.push(exe.clone());
    let exe_file_id = files.add_path(&exe, 0)?;
    let mut entries: Vec<VmaEntry> = Vec::with_capacity(vmas.len());
    for vma in &vmas {
        let entry = vma_entry(vma, files, &mut dependencies, pid)?;
        match entries.last_mut() {
            // `[vvar]` and what lies behind it are one area in the format.
            Some(last) if entry.status & last.status & vma_status::VVAR != 0 => {
                last.end = entry.end
            }
            _ => entries.push(entry),
        }
    }
    // As CRIU lists them: behind the areas that they lie in.
    entries.extend(pages.guards.iter().map(|(start, len)| VmaEntry {
        start: *start,
        end: start + len,
        status: vma_status::GUARD,
        fd: -1,
        ..Default::default()
    }));
    let mode = if may_map_code { page_mode(&vmas) } else { PageMode::Copied };
    let fs_entry = FsEntry {
        cwd_id: files.add_path(&directory(pid, "cwd")?, directory_flags())?,
        root_id: files.add_path(&root(pid)?, directory_flags())?,
        umask: u32::from_str_radix(status.value("Umask"), 8).ok(),
    };
    let mm = MmEntry {
        mm_start_code: stat.field(26),
        mm_end_code: stat.field(27),
        mm_start_data: stat.field(45),
        mm_end_data: stat.field(46),
        mm_start_stack: stat.field(28),
        mm_start_brk: stat.field(47),
        mm_brk: mm.brk,
        mm_arg_start: stat.field(48),
        mm_arg_end: stat.field(49),
        mm_env_start: stat.field(50),
        mm_env_end: stat.field(51),
        exe_file_id,
        mm_saved_auxv: auxv(pid)?,
        vmas: entries,
        dumpable: Some(mm.dumpable),
        aios: Vec::new(),
        thp_disabled: mm.thp_disabled.then_some(true),
    };
    // The leader's own view of what all threads share.
    let creds = credentials(&status);
    for thread in &mut threads {
        if let Some(core) = &mut thread.core.thread_core {
            core.creds = Some(creds.clone());
            core.seccomp_mode = Some(SeccompMode::Disabled as i32);
        }
    }
    let ids = own_ids(place.index);
    task.oom_score_adj = task.oom_score_adj.or(Some(0));
    if let Some(leader) = threads.first_mut() {
        // Read by a call of its own, during which every signal is blocked.
        if let Some(mask) = leader.core.thread_core.as_ref().and_then(|core| core.blk_sigset) {
            task.blk_sigset = mask;
        }
        leader.core.tc = Some(task);
        leader.core.ids = Some(ids);
    }
    let set = Set {
        inventory: InventoryEntry {
            img_version: 2,
            fdinfo_per_id: Some(true),
            root_ids: Some(root_ids()),
            ns_per_id: Some(true),
            lsmtype: Some(0),
            dump_uptime: uptime_us(),
            ..Default::default()
        },
        pstree: vec![PstreeEntry {
            pid: pid as u32,
            ppid: place.parent as u32,
            pgid: stat.field(5) as u32,
            sid: stat.field(6) as u32,
            threads: threads.iter().map(|thread| thread.tid).collect(),
        }],
        tasks: vec![Task {
            pid: pid as u32,
            ids,
            mm,
            pagemap: Pagemap { pages_id: place.pages_id(), entries: pages.entries },
            fdinfo: std::mem::take(&mut files.fdinfo),
            fs: fs_entry,
            threads,
        }],
        timens: Some(clocks()),
        shmem: shared,
        ..Default::default()
    };
    files.dependencies = dependencies;
    if std::mem::take(&mut files.written_in_place) {
        wait_for_tick(in_place_since);
    }
    let nonblocking = std::mem::take(&mut files.nonblocking);
    let facts = Facts {
        given: std::mem::take(&mut files.given),
        closed: std::mem::take(&mut files.closed),
        // Known when all processes are read ([`Files::finish`]).
        written: Vec::new(),
        page_mode: mode,
        guards: pages.guards,
        no_new_privs: status.number("NoNewPrivs") == 1 && own.number("NoNewPrivs") != 1,
        caller_limits: own_limits(),
        caller_personality: own_personality(),
        // What belongs to files is known when all processes are read
        // ([`Files::finish`]).
        changed: Changed { nonblocking, ..changed },
        host: Host::read(),
        len_vclock: host::len_vclock(),
    };
    Ok((set, facts))
}

fn link(pid: i32, name: &str) -> Result<PathBuf, Refusal> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_link(&path).map_err(|error| Refusal::lasting(format!("{path}: {error}")))
}

fn directory_flags() -> u32 {
    (libc::O_RDONLY | libc::O_DIRECTORY) as u32
}

fn directory(pid: i32, name: &str) -> Result<PathBuf, Refusal> {
    let path = link(pid, name)?;
    if super::vmas::is_deleted(&path) {
        let what = format!("the program's working directory is deleted ({})", path.display());
        return Err(Refusal::lasting(what));
    }
    Ok(path)
}

/// The limits that the program was started with: ours.
fn own_limits() -> Vec<(u64, u64)> {
    let limits = 0..crate::sys::limits::COUNT;
    limits.map(|resource| crate::sys::limits::get(0, resource).unwrap_or_default()).collect()
}

fn own_personality() -> u32 {
    let text = fs::read_to_string("/proc/self/personality").unwrap_or_default();
    u32::from_str_radix(text.trim(), 16).unwrap_or(0)
}

/// The root directory must be ours: a restore does not change it.
fn root(pid: i32) -> Result<PathBuf, Refusal> {
    let path = link(pid, "root")?;
    let same = |a: &str, b: &str| {
        let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) else { return false };
        a.dev() == b.dev() && a.ino() == b.ino()
    };
    if !same(&format!("/proc/{pid}/root"), "/") {
        return Err(Refusal::lasting(format!(
            "the program's root directory is {}",
            path.display()
        )));
    }
    Ok(path)
}

/// Reads the auxiliary vector without the AT_NULL at its end, which the kernel
/// adds by itself: CRIU takes no more than 44 words, which is what Linux 6.18
/// has without.
fn auxv(pid: i32) -> Result<Vec<u64>, Refusal> {
    let path = format!("/proc/{pid}/auxv");
    let bytes = fs::read(&path).map_err(|error| Refusal::lasting(format!("{path}: {error}")))?;
    let (words, _) = bytes.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let pairs = pairs.iter().map(|pair| pair.map(u64::from_ne_bytes));
    Ok(pairs.take_while(|[kind, _]| *kind != libc::AT_NULL).flatten().collect())
}

/// Monotonic and boot time now, for a restore behind another clock.
fn clocks() -> TimensEntry {
    use nix::time::{ClockId, clock_gettime};
    let now = |clock| {
        clock_gettime(clock).map_or_else(
            |_| Timespec::default(),
            |time| Timespec { tv_sec: time.tv_sec() as u64, tv_nsec: time.tv_nsec() as u64 },
        )
    };
    TimensEntry { monotonic: now(ClockId::CLOCK_MONOTONIC), boottime: now(ClockId::CLOCK_BOOTTIME) }
}

fn uptime_us() -> Option<u64> {
    let clocks = clocks();
    clocks.boottime.tv_sec.checked_mul(1_000_000)?.checked_add(clocks.boottime.tv_nsec / 1000)
}

/// The kernel objects of a process: it shares them with no other, and its
/// namespaces are the ones it is restored from.
fn own_ids(index: usize) -> TaskKobjIdsEntry {
    let id = index as u32 + 2;
    TaskKobjIdsEntry { vm_id: id, files_id: id, fs_id: id, sighand_id: id, ..root_ids() }
}

fn root_ids() -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: 1,
        files_id: 1,
        fs_id: 1,
        sighand_id: 1,
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        mnt_ns_id: Some(5),
        user_ns_id: Some(6),
        cgroup_ns_id: Some(7),
        time_ns_id: Some(8),
    }
}

fn credentials(status: &Status) -> CredsEntry {
    let ids = |key: &str| {
        let mut ids = status.value(key).split_ascii_whitespace().map(|id| id.parse().unwrap_or(0));
        let mut next = move || ids.next().unwrap_or(0u32);
        (next(), next(), next(), next())
    };
    let caps = |key: &str| {
        let set = status.hex(key);
        vec![set as u32, (set >> 32) as u32]
    };
    let (uid, euid, suid, fsuid) = ids("Uid");
    let (gid, egid, sgid, fsgid) = ids("Gid");
    CredsEntry {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: caps("CapInh"),
        cap_prm: caps("CapPrm"),
        cap_eff: caps("CapEff"),
        cap_bnd: caps("CapBnd"),
        cap_amb: caps("CapAmb"),
        secbits: 0,
        groups: status.value("Groups").split_ascii_whitespace().flat_map(str::parse).collect(),
        no_new_privs: Some(status.number("NoNewPrivs") as u32),
        ..Default::default()
    }
}

/// Encodes an area; a file behind it becomes an entry and a dependency.
fn vma_entry(
    vma: &Vma,
    files: &mut Files,
    dependencies: &mut Vec<PathBuf>,
    pid: i32,
) -> Result<VmaEntry, Refusal> {
    let mut flags = if vma.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let mut status = vma_status::REGULAR;
    let mut shmid = 0;
    let mut fdflags = None;
    match &vma.backing {
        Backing::Anonymous => {
            flags |= libc::MAP_ANONYMOUS;
            status |= vma_status::ANON_PRIVATE;
        }
        Backing::Heap => {
            flags |= libc::MAP_ANONYMOUS;
            status |= vma_status::ANON_PRIVATE | vma_status::HEAP;
        }
        Backing::Stack => {
            flags |= libc::MAP_ANONYMOUS;
            status |= vma_status::ANON_PRIVATE;
        }
        Backing::Kernel(area) => {
            flags |= libc::MAP_ANONYMOUS;
            status |= vma_status::ANON_PRIVATE
                | if *area == KernelArea::Vdso { vma_status::VDSO } else { vma_status::VVAR };
        }
        Backing::Memory { inode, .. } => {
            // What can never be made writable is of a descriptor that only reads.
            let writes = !vma.shared || vma.prot & libc::PROT_WRITE != 0 || vma.has(b"mw");
            let access = if writes { libc::O_RDWR } else { libc::O_RDONLY } as u32;
            shmid = u64::from(files.memory_mapping(*inode)?);
            fdflags = Some(access);
            status |= vma_status::MEMFD
                | if vma.shared { vma_status::FILE_SHARED } else { vma_status::FILE_PRIVATE };
        }
        Backing::Deleted { id, .. } => {
            shmid = u64::from(*id);
            fdflags = Some(vma.access());
            status |= vma_status::FILE_SHARED;
        }
        Backing::File { path, dev, inode } => {
            check_file(vma, path, *dev, *inode)?;
            let writes = vma.shared && (vma.prot & libc::PROT_WRITE != 0 || vma.has(b"mw"));
            let writes = writes && opened_for_writing(vma, path, pid);
            let access = if writes { libc::O_RDWR } else { libc::O_RDONLY } as u32;
            let id = files.add_path(path, access)?;
            shmid = u64::from(id);
            fdflags = Some(access);
            status |= if vma.shared { vma_status::FILE_SHARED } else { vma_status::FILE_PRIVATE };
            if files::is_perf_data(path, pid) {
                let known = files.written.iter().any(|written| written.id == id);
                if !known {
                    let policy = files::recreated(path)?;
                    files.written.push(Written { id, policy });
                }
            } else if !path.starts_with("/dev") {
                dependencies.push(path.clone());
                files.keep_in_place(path);
                if writes {
                    settle_stores(vma, path)?;
                    files.written_in_place = true;
                }
            }
        }
    }
    for (flag, value) in [
        (b"gd", libc::MAP_GROWSDOWN),
        (b"nr", libc::MAP_NORESERVE),
        (b"lo", libc::MAP_LOCKED),
        (b"ht", libc::MAP_HUGETLB),
    ] {
        if vma.has(flag) {
            flags |= value;
        }
    }
    let madv = ADVICE
        .iter()
        .filter(|(flag, _)| vma.has(flag))
        .fold(0u64, |bits, (_, advice)| bits | 1 << advice);
    Ok(VmaEntry {
        start: vma.start,
        end: vma.end,
        pgoff: vma.offset,
        shmid,
        prot: vma.prot as u32,
        flags: flags as u32,
        status,
        fd: -1,
        madv: (madv != 0).then_some(madv),
        fdflags,
    })
}

/// Waits until the clock that file times are taken from has passed a moment
/// (it ticks every 1 to 10 ms): a change that the program makes as soon as it
/// runs on is then known to be later than the image.
fn wait_for_tick(moment: SystemTime) {
    use nix::time::{ClockId, clock_gettime};
    let moment = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    // A clock that was set back meanwhile must not hold the program up.
    for _ in 0..20 {
        let tick = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map(Duration::from);
        if tick.map_or(true, |tick| tick > moment) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sees that what the program stores into a shared mapping from now on shows
/// in the file's times: the kernel sets them when a clean page is written to,
/// so all pages are made clean. On a file system in memory there is no such
/// moment, and nobody could tell whether the file is still the same.
fn settle_stores(vma: &Vma, path: &Path) -> Result<(), Refusal> {
    use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
    let shown = path.display();
    let fail = |error: std::io::Error| Refusal::lasting(format!("{shown}: {error}"));
    let kind = statfs(path).map_err(|error| fail(error.into()))?.filesystem_type();
    if kind == TMPFS_MAGIC || kind == HUGETLBFS_MAGIC {
        let what = format!("memory at {:#x} is shared with {shown} and writable", vma.start);
        return Err(Refusal::lasting(what));
    }
    fs::File::open(path).and_then(|file| file.sync_data()).map_err(fail)
}

/// The flags of an area that `madvise(2)` sets, with the advice.
pub const ADVICE: &[(&[u8; 2], i32)] = &[
    (b"sr", libc::MADV_SEQUENTIAL),
    (b"rr", libc::MADV_RANDOM),
    (b"dc", libc::MADV_DONTFORK),
    (b"mg", libc::MADV_MERGEABLE),
    (b"hg", libc::MADV_HUGEPAGE),
    (b"nh", libc::MADV_NOHUGEPAGE),
    (b"dd", libc::MADV_DONTDUMP),
    (b"wf", libc::MADV_WIPEONFORK),
];

/// A shared mapping keeps the right to become writable (`mw`) only if its file
/// was opened for writing; whether we may do so again decides as well.
fn opened_for_writing(vma: &Vma, path: &Path, pid: i32) -> bool {
    vma.prot & libc::PROT_WRITE != 0
        || files::is_perf_data(path, pid)
        || fs::metadata(path).is_ok_and(|meta| !meta.permissions().readonly())
}

/// Refuses a mapping whose path leads to another file by now.
fn check_file(vma: &Vma, path: &Path, dev: (u32, u32), inode: u64) -> Result<(), Refusal> {
    let shown = path.display();
    let refuse = |what: &str| {
        Err(Refusal::lasting(format!("memory at {:#x} maps {shown}, which {what}", vma.start)))
    };
    let Ok(meta) = fs::metadata(path) else { return refuse("cannot be opened") };
    // Some file systems show another device here (btrfs, overlayfs): then the
    // inode alone says nothing.
    let same_device = libc::major(meta.dev()) == dev.0 && libc::minor(meta.dev()) == dev.1;
    if same_device && meta.ino() != inode {
        return refuse("is another file by now");
    }
    if !meta.is_file() {
        return refuse("is not a regular file");
    }
    Ok(())
}

/// Chooses how memory comes back: mapped where it is known that the program
/// never relies on `MADV_DONTNEED` giving zeros, copied elsewhere.
fn page_mode(vmas: &[Vma]) -> PageMode {
    let mut paths: Vec<&Path> = vmas
        .iter()
        .filter(|vma| vma.prot & libc::PROT_EXEC != 0)
        .filter_map(|vma| match &vma.backing {
            Backing::File { path, .. } => Some(path.as_path()),
            _ => None,
        })
        .collect();
    paths.dedup();
    let hotspot = paths.iter().find(|path| path.ends_with("libjvm.so"));
    // lib/server/libjvm.so.
    let Some(home) = hotspot.and_then(|path| path.ancestors().nth(3)) else {
        return PageMode::Copied;
    };
    let safe = paths.into_iter().all(|path| path.starts_with(home) || keeps_its_pages(path));
    if safe { PageMode::Mapped } else { PageMode::Copied }
}

/// Returns whether a library outside of the JDK can be trusted not to rely on
/// `MADV_DONTNEED` giving zeros: one of the system's that is no allocator, or
/// one that never asks for advice (an allocator linked into it would).
fn keeps_its_pages(path: &Path) -> bool {
    const ALLOCATORS: [&[u8]; 3] = [b"jemalloc", b"tcmalloc", b"mimalloc"];
    const MAX_LEN: u64 = 64 << 20;
    let contains = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|at| at == part);
    let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    if ALLOCATORS.iter().any(|allocator| contains(name, allocator)) {
        return false;
    }
    if path.starts_with("/usr/lib") || path.starts_with("/lib") || path.starts_with("/lib64") {
        return true;
    }
    let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_LEN);
    small && fs::read(path).is_ok_and(|library| !contains(&library, b"madvise"))
}
