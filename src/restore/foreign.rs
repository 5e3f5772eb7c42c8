//! Images of others: what `criu dump` made is restored natively, too.
//!
//! An image of ours has its plan beside it. One of CRIU's gets a plan when it is
//! first used, and keeps it. What our own dump knows beside the image (what the
//! caller gave, which files may have grown) is worked out from it here, and all
//! that the planner would not look at, because our dump refuses it, is refused
//! by name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::host::{self, Host};
use super::plan::PLAN_FILE;
use super::planner::{
    self, Changed, Facts, Given, Leads, PageMode, PlannerError, Policy, Scheduling, Source, Written,
};
use crate::image::proto::{FdTypes, PagemapEntry, RegFileEntry};
use crate::image::{ImageError, MAP_DROPPABLE, PAGE_SIZE, PAGES_FILE, Set, Task, vma_status};
use crate::sys::{auxv, limits};

mod refusals;

/// The name of the file that says what a plan was compiled from.
const ORIGIN: &str = "plan.origin";

/// Why an image of somebody else's has no plan.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// It cannot be read, or contradicts itself.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The native engine cannot carry something in it.
    #[error("{0} (the native engine cannot carry it; --engine criu may)")]
    Refused(String),
    /// What only the plan holds that it was made with.
    #[error("its plan is gone, and nothing else holds {0}")]
    NoPlan(String),
    /// The planner could not.
    #[error("compiling the plan: {0}")]
    Planner(#[from] PlannerError),
    /// The plan cannot be kept beside it.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn refused(what: impl Into<String>) -> ForeignError {
    ForeignError::Refused(what.into())
}

/// Sees that an image has a plan: one that others made gets one, and a new one
/// when the image is another than the plan was compiled from. Images of ours,
/// which came with a plan, are left alone.
///
/// # Errors
/// If the image cannot be restored natively.
pub fn ensure_plan(dir: &Path) -> Result<(), ForeignError> {
    let failed = |name: &str| {
        let path = dir.join(name);
        move |source| ForeignError::Io { path, source }
    };
    let origin = match fs::read_to_string(dir.join(ORIGIN)) {
        Ok(origin) => Some(origin),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(ORIGIN)(error)),
    };
    let has_plan = dir.join(PLAN_FILE).exists();
    if has_plan && origin.is_none() {
        return Ok(());
    }
    let now = digest(dir).map_err(failed("inventory.img"))?;
    if has_plan && origin.as_ref() == Some(&now) {
        return Ok(());
    }
    let (set, facts) = read(dir)?;
    let plan = planner::compile(&set, &facts)?;
    // In this order: a plan without its origin is taken for one of ours.
    for name in [PLAN_FILE, ORIGIN] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(name)(error));
            }
            _ => {}
        }
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(dir.join(ORIGIN));
    file.and_then(|mut file| file.write_all(now.as_bytes())).map_err(failed(ORIGIN))?;
    plan.write(dir).map_err(failed(PLAN_FILE))
}

/// Computes what an image is: its files, the pages by length and time only.
fn digest(dir: &Path) -> io::Result<String> {
    let mut names: Vec<_> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".img"))
        .collect();
    names.sort();
    let mut sha = Sha256::new();
    for name in names {
        let path = dir.join(&name);
        let meta = fs::symlink_metadata(&path)?;
        let about = format!("{name} {} {} {}\n", meta.len(), meta.mtime(), meta.mtime_nsec());
        sha.update(about);
        if !name.starts_with("pages-") && meta.is_file() && meta.len() < 64 << 20 {
            sha.update(fs::read(&path)?);
        }
    }
    let digest: Vec<String> = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digest.concat())
}

/// Reads an image of somebody else's, as the planner wants it.
fn read(dir: &Path) -> Result<(Set, Facts), ForeignError> {
    let mut set = Set::read(dir)?;
    set.check()?;
    if let Some(what) = set.native_only() {
        return Err(ForeignError::NoPlan(what.into()));
    }
    refusals::check(&set).map_err(refused)?;
    set.tasks.iter_mut().for_each(split_runs);
    check_vdso(dir, &set)?;
    let no_new_privs = refusals::check_rights(&set).map_err(refused)?;
    let given = given(&set);
    let written = written(&set, dir)?;
    let [task] = &mut set.tasks[..] else {
        return Err(refused(format!("an image of {} processes", set.tasks.len())));
    };
    for vma in &mut task.mm.vmas {
        // Otherwise an area of a type that has no content to bring back: what it
        // means for copies is kept.
        if vma.flags & MAP_DROPPABLE != 0 {
            vma.flags = vma.flags & !MAP_DROPPABLE | libc::MAP_PRIVATE as u32;
            let advice = 1 << libc::MADV_WIPEONFORK | 1 << libc::MADV_DONTDUMP;
            vma.madv = Some(vma.madv.unwrap_or(0) | advice);
        }
    }
    // Listed as areas, which they are not.
    let mut guards = Vec::new();
    task.mm.vmas.retain(|vma| {
        let is_guard = vma.status & vma_status::GUARD != 0;
        guards.extend(is_guard.then(|| (vma.start, vma.end - vma.start)));
        !is_guard
    });
    let mut changed = Changed { leads: leads(&set.pstree[0]), ..Changed::default() };
    let tc = task.threads.first_mut().and_then(|leader| leader.core.tc.as_mut());
    if let Some(tc) = tc {
        changed.oom_score = tc.oom_score_adj.filter(|score| *score != own_oom_score());
        // One whose signal waited when CRIU looked has no time left: the kernel
        // arms a repeated one again when that is delivered.
        if let Some(timers) = &mut tc.timers
            && (timers.real.vsec, timers.real.vusec) == (0, 0)
        {
            (timers.real.vsec, timers.real.vusec) = (timers.real.isec, timers.real.iusec);
        }
    }
    for thread in &mut task.threads {
        let nice = thread.core.thread_core.as_ref().and_then(|core| core.sched_nice);
        if let Some(nice) = nice.filter(|nice| *nice != 0) {
            let scheduling = Scheduling { nice: Some(nice), ..Scheduling::default() };
            changed.scheduling.insert(thread.tid, scheduling);
        }
        // What CRIU keeps of the leader with the process.
        if let (Some(tc), Some(core)) = (&thread.core.tc, &mut thread.core.thread_core) {
            core.blk_sigset.get_or_insert(tc.blk_sigset);
            core.comm.get_or_insert_with(|| tc.comm.clone());
        }
    }
    let open = |fd: RawFd| task.fdinfo.iter().any(|entry| entry.fd as RawFd == fd);
    let facts = Facts {
        given,
        closed: (0..3).filter(|fd| !open(*fd)).collect(),
        written,
        // Whether its allocator relies on zeros is not known.
        page_mode: PageMode::Copied,
        guards,
        no_new_privs,
        caller_limits: own_limits(),
        caller_personality: own_personality(),
        changed,
        host: Host::read(),
        len_vclock: host::len_vclock(),
    };
    Ok((set, facts))
}

/// Parts runs of pages at the ends of areas: CRIU joins those of areas that
/// touch.
fn split_runs(task: &mut Task) {
    let mut ends = task.mm.vmas.iter().map(|vma| vma.end).peekable();
    let mut entries = Vec::with_capacity(task.pagemap.entries.len());
    for entry in &task.pagemap.entries {
        let mut rest = *entry;
        while let Some(end) = ends.peek().copied() {
            let pages = end.saturating_sub(rest.vaddr) / PAGE_SIZE;
            let nr_pages = rest.nr_pages.unwrap_or(u64::from(rest.compat_nr_pages));
            if pages >= nr_pages {
                break;
            }
            if pages > 0 {
                entries.push(with_pages(&rest, rest.vaddr, pages));
                rest = with_pages(&rest, end, nr_pages - pages);
            }
            ends.next();
        }
        entries.push(rest);
    }
    task.pagemap.entries = entries;
}

fn with_pages(entry: &PagemapEntry, vaddr: u64, pages: u64) -> PagemapEntry {
    let compat_nr_pages = u32::try_from(pages).unwrap_or(0);
    PagemapEntry { vaddr, nr_pages: Some(pages), compat_nr_pages, ..*entry }
}

fn own_limits() -> Vec<(u64, u64)> {
    (0..limits::COUNT).map(|resource| limits::get(0, resource).unwrap_or_default()).collect()
}

fn own_oom_score() -> i32 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn own_personality() -> u32 {
    let text = fs::read_to_string("/proc/self/personality").unwrap_or_default();
    u32::from_str_radix(text.trim(), 16).unwrap_or(0)
}

fn leads(process: &crate::image::proto::PstreeEntry) -> Leads {
    match process.pid {
        pid if pid == process.sid => Leads::Session,
        pid if pid == process.pgid => Leads::Group,
        _ => Leads::Nothing,
    }
}

/// 0, 1 and 2, and their duplicates, are the caller's.
fn given(set: &Set) -> Vec<Given> {
    let mut first: BTreeMap<u32, RawFd> = BTreeMap::new();
    let Some(task) = set.tasks.first() else { return Vec::new() };
    for entry in task.fdinfo.iter().filter(|entry| entry.fd < 3) {
        first.entry(entry.id).or_insert(entry.fd as RawFd);
    }
    let source =
        |fd: u32, id: u32| if fd < 3 { Some(fd as RawFd) } else { first.get(&id).copied() };
    let given = task.fdinfo.iter().filter_map(|entry| {
        let source = Source::Stdio(source(entry.fd, entry.id)? as u8);
        let cloexec = entry.flags & libc::FD_CLOEXEC as u32 != 0;
        Some(Given { fd: entry.fd as RawFd, source, cloexec })
    });
    given.collect()
}

/// What a restore does about files that the program writes; refuses one that is
/// another than it was.
fn written(set: &Set, dir: &Path) -> Result<Vec<Written>, ForeignError> {
    let mut written = Vec::new();
    let given: Vec<u32> = {
        let task = set.tasks.first();
        let entries = task.into_iter().flat_map(|task| &task.fdinfo);
        entries.filter(|entry| entry.fd < 3).map(|entry| entry.id).collect()
    };
    let regs = set.files.iter().filter(|file| file.r#type == FdTypes::Reg as i32);
    for reg in regs.filter(|file| !given.contains(&file.id)).filter_map(|file| file.reg.as_ref()) {
        let path = Path::new(std::ffi::OsStr::from_bytes(&reg.name));
        let pid = set.pstree.first().map_or(0, |process| process.pid);
        if is_perf_data(path, pid) {
            written.push(Written { id: reg.id, policy: perf_data(path, reg) });
            continue;
        }
        let flags = reg.flags as i32;
        let appends = flags & libc::O_ACCMODE == libc::O_WRONLY && flags & libc::O_APPEND != 0;
        if appends {
            let mode = reg.mode.unwrap_or(0o644) & 0o7777;
            written.push(Written { id: reg.id, policy: Policy::Append { mode } });
            continue;
        }
        let changed = match (fs::metadata(path), reg.size) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(meta), Some(size)) if meta.is_file() && meta.len() != size => {
                Some(format!("it had {size} bytes, and has {}", meta.len()))
            }
            _ => None,
        };
        if let Some(why) = changed {
            return Err(refused(format!("{}: {why} ({})", path.display(), dir.display())));
        }
    }
    Ok(written)
}

/// HotSpot's data about itself, `/tmp/hsperfdata_USER/PID`, whose content is in
/// no image of CRIU's: what is left of it, else as many zeros.
pub(super) fn perf_data(path: &Path, reg: &RegFileEntry) -> Policy {
    let len = usize::try_from(reg.size.unwrap_or(0).min(1 << 20)).unwrap_or(0);
    let mut content = fs::read(path).unwrap_or_default();
    content.resize(len, 0);
    Policy::Recreate { mode: reg.mode.unwrap_or(0o600) & 0o7777, content }
}

pub(super) fn is_perf_data(path: &Path, pid: u32) -> bool {
    let dir = path.parent().and_then(Path::file_name).map_or(&b""[..], OsStrExt::as_bytes);
    let is_its = path.file_name().is_some_and(|name| name.as_bytes() == pid.to_string().as_bytes());
    dir.starts_with(b"hsperfdata_") && is_its
}

/// Refuses an image of another kernel: the C library remembers addresses in the
/// vDSO, whose pages CRIU keeps.
fn check_vdso(dir: &Path, set: &Set) -> Result<(), ForeignError> {
    let other = || refused("it was made under another kernel (the vDSO differs)");
    let task = set.tasks.first().ok_or_else(other)?;
    let vdso = task.mm.vmas.iter().find(|vma| vma.status & vma_status::VDSO != 0);
    let vdso = vdso.ok_or_else(|| refused("it has no vDSO"))?;
    let runs = task.page_runs()?;
    let run = runs.iter().find(|run| run.vaddr == vdso.start && run.end() == vdso.end);
    let run = run.ok_or_else(|| refused("the pages of its vDSO are missing"))?;
    let path = dir.join(PAGES_FILE);
    let failed = |source| ForeignError::Io { path: path.clone(), source };
    let pages = File::open(&path).map_err(failed)?;
    runs.check_len(PAGES_FILE, pages.metadata().map_err(failed)?.len())?;
    let len = usize::try_from(run.len_bytes()).map_err(|_| other())?;
    if len > 1 << 20 {
        return Err(other());
    }
    let mut bytes = vec![0; len];
    pages.read_exact_at(&mut bytes, run.offset).map_err(failed)?;
    // The rest of its last page is of no account.
    match auxv::vdso() {
        Some(vdso) if bytes.starts_with(vdso) => Ok(()),
        _ => Err(other()),
    }
}
