//! Whether a set makes sense: pure, before anything of it is used.
//!
//! What passes here may still be more than an engine can restore; it is no
//! longer something that contradicts itself. Errors name the file.

use std::collections::{BTreeMap, BTreeSet};

use super::kind;
use super::proto::{CoreEntry, FdTypes, FileEntry, RemapType};
use super::{GhostContent, ImageError, Set, Task};

mod memory;
mod registers;

/// The kernel's largest pid_max, exclusive (`PID_MAX_LIMIT`).
const PID_END: u32 = 1 << 22;

/// The largest descriptor that fits any `fs.nr_open`, exclusive.
const FD_END: u32 = 1 << 30;

/// `TASK_COMM_LEN` less the NUL.
const MAX_COMM: usize = 15;

/// The longest path of the kernel (`PATH_MAX`).
const MAX_PATH: usize = 4096;

type Checked = Result<(), ImageError>;

/// What files.img holds, by id.
pub(super) struct Files<'a>(BTreeMap<u32, &'a FileEntry>);

impl Files<'_> {
    pub(super) fn kind(&self, id: u32) -> Option<FdTypes> {
        self.0.get(&id).map(|file| file.r#type())
    }
}

pub(super) fn check(set: &Set) -> Checked {
    inventory(set)?;
    tree(set)?;
    let files = files(set)?;
    let mut pages = BTreeSet::new();
    for task in &set.tasks {
        if task.has_ended() {
            ended(set, task)?;
            continue;
        }
        threads(set, task)?;
        memory::check(&files, task)?;
        descriptors(&files, task)?;
    }
    for pagemap in set.pagemaps() {
        // Each pagemap counts its pages from the beginning of the file.
        require(pages.insert(pagemap.pages_id), &super::pages_file(pagemap.pages_id), || {
            "belongs to two pagemaps".into()
        })?;
    }
    set.shmem.iter().try_for_each(|shmem| shmem.page_runs().map(drop))?;
    locks(set)?;
    waiting(set)?;
    unlinked(set, &files)
}

/// Turns a condition into an error.
pub(super) fn require(holds: bool, file: &str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(ImageError::new(file, what())) }
}

fn inventory(set: &Set) -> Checked {
    let name = kind::INVENTORY.file();
    require(kind::is_known(set.inventory.img_version), &name, || {
        format!("version {} is not supported", set.inventory.img_version)
    })?;
    require(set.inventory.fdinfo_per_id == Some(true), &name, || {
        "descriptor tables are not numbered by id".into()
    })?;
    require(set.inventory.root_ids.is_some(), &name, || "root_ids are missing".into())
}

/// The processes, their parents and the ids of their threads.
fn tree(set: &Set) -> Checked {
    let name = kind::PSTREE.file();
    require(!set.pstree.is_empty(), &name, || "holds no process".into())?;
    require(set.pstree.len() == set.tasks.len(), &name, || {
        format!("lists {} processes, the set has {}", set.pstree.len(), set.tasks.len())
    })?;
    let mut pids = BTreeSet::new();
    let mut tids = BTreeSet::new();
    for (process, task) in set.pstree.iter().zip(&set.tasks) {
        let pid = process.pid;
        require(task.pid == pid, &name, || format!("process {pid} is out of order"))?;
        let root = pids.is_empty();
        require(
            if root { process.ppid == 0 } else { pids.contains(&process.ppid) },
            &name,
            || format!("process {pid} comes before its parent {}", process.ppid),
        )?;
        require(process.pgid < PID_END && process.sid < PID_END, &name, || {
            format!("process {pid} has an impossible group or session")
        })?;
        require(process.threads.first() == Some(&pid), &name, || {
            format!("process {pid} does not begin with its leader")
        })?;
        require(
            process.threads.iter().eq(task.threads.iter().map(|thread| &thread.tid)),
            &name,
            || format!("process {pid} and its core files differ in their threads"),
        )?;
        pids.insert(pid);
        for &tid in &process.threads {
            require((1..PID_END).contains(&tid), &name, || format!("{tid} is no pid"))?;
            require(tids.insert(tid), &name, || format!("{tid} is there twice"))?;
        }
    }
    Ok(())
}

/// The files and their ids.
fn files(set: &Set) -> Result<Files<'_>, ImageError> {
    let name = kind::FILES.file();
    let mut files = BTreeMap::new();
    for file in &set.files {
        let id = file.id;
        require(files.insert(id, file).is_none(), &name, || format!("id {id} is there twice"))?;
        require(FdTypes::try_from(file.r#type).is_ok(), &name, || {
            format!("id {id} is of the unknown type {}", file.r#type)
        })?;
        // Of the types without a schema the member is always missing.
        if let Some(inner) = member_id(file) {
            require(inner == Some(id), &name, || {
                format!("id {id}: {} does not come with it", file.r#type().as_str_name())
            })?;
        }
        if let (FdTypes::Reg, Some(reg)) = (file.r#type(), &file.reg) {
            path(&name, id, &reg.name, reg.ext == Some(true))?;
        }
    }
    let files = Files(files);
    for file in &set.files {
        references(set, &files, file)?;
    }
    Ok(files)
}

/// Returns the id in the member that the type calls for: none for types we
/// have no schema of, `Some(None)` when the member is missing.
fn member_id(file: &FileEntry) -> Option<Option<u32>> {
    Some(match file.r#type() {
        FdTypes::Reg => file.reg.as_ref().map(|member| member.id),
        FdTypes::Pipe => file.pipe.as_ref().map(|member| member.id),
        FdTypes::Fifo => file.fifo.as_ref().map(|member| member.id),
        FdTypes::Inetsk => file.isk.as_ref().map(|member| member.id),
        FdTypes::Unixsk => file.usk.as_ref().map(|member| member.id),
        FdTypes::Eventfd => file.efd.as_ref().map(|member| member.id),
        FdTypes::Eventpoll => file.epfd.as_ref().map(|member| member.id),
        FdTypes::Signalfd => file.sgfd.as_ref().map(|member| member.id),
        FdTypes::Timerfd => file.tfd.as_ref().map(|member| member.id),
        FdTypes::Inotify => file.ify.as_ref().map(|member| member.id),
        FdTypes::Tty => file.tty.as_ref().map(|member| member.id),
        FdTypes::Ext => file.ext.as_ref().map(|member| member.id),
        FdTypes::Memfd => file.memfd.as_ref().map(|member| member.id),
        _ => return None,
    })
}

fn path(name: &str, id: u32, path: &[u8], external: bool) -> Checked {
    require(!path.is_empty() && path.len() < MAX_PATH && !path.contains(&0), name, || {
        format!("id {id} has an impossible path")
    })?;
    require(external || path.starts_with(b"/"), name, || {
        format!("id {id} has a path that does not begin at the root: {}", path.escape_ascii())
    })
}

/// What the members of a file refer to.
fn references(set: &Set, files: &Files<'_>, file: &FileEntry) -> Checked {
    let name = kind::FILES.file();
    let id = file.id;
    if let (FdTypes::Memfd, Some(memfd)) = (file.r#type(), &file.memfd) {
        let inode = u64::from(memfd.inode_id);
        require(set.memfds.iter().any(|memfd| memfd.inode_id == inode), &name, || {
            format!("id {id}: memfd {inode} is missing")
        })?;
    }
    if let (FdTypes::Tty, Some(tty)) = (file.r#type(), &file.tty) {
        require(set.tty_info.iter().any(|info| info.id == tty.tty_info_id), &name, || {
            format!("id {id}: terminal {} is missing", tty.tty_info_id)
        })?;
    }
    if let (FdTypes::Fifo, Some(fifo)) = (file.r#type(), &file.fifo) {
        // Without a number the path is in an entry of files of old, which
        // has the same id and so cannot be in files.img.
        let path = fifo.regf_id.and_then(|id| files.kind(id));
        require(path == Some(FdTypes::Reg), &name, || format!("id {id}: its path is missing"))?;
    }
    Ok(())
}

/// The core files of a task.
fn threads(set: &Set, task: &Task) -> Checked {
    for (at, thread) in task.threads.iter().enumerate() {
        let name = kind::CORE.numbered(thread.tid);
        registers::check(&name, &thread.core)?;
        let Some(core) = &thread.core.thread_core else {
            return Err(ImageError::new(&name, "thread_core is missing"));
        };
        comm(&name, core.comm.as_deref().unwrap_or_default())?;
        let filters = set.seccomp.as_ref().map_or(0, |seccomp| seccomp.seccomp_filters.len());
        let filter = core.seccomp_filter.map_or(Ok(0), usize::try_from);
        let known = core.seccomp_filter.is_none() || filter.is_ok_and(|at| at < filters);
        require(known, &name, || "its seccomp filter is missing".into())?;
        if let Some(creds) = &core.creds {
            let sets = [&creds.cap_inh, &creds.cap_prm, &creds.cap_eff, &creds.cap_bnd];
            let whole = sets.iter().all(|set| set.len() == 2) && creds.cap_amb.len() <= 2;
            require(whole, &name, || "a capability set is not two words long".into())?;
        }
        if at == 0 {
            leader(&name, &thread.core)?;
        }
    }
    Ok(())
}

/// A process that waits to be reaped.
fn ended(set: &Set, task: &Task) -> Checked {
    let name = kind::CORE.numbered(task.pid);
    require(task.threads.len() == 1, &name, || "has ended, but not its threads".into())?;
    require(set.pstree.iter().all(|process| process.ppid != task.pid), &name, || {
        "has ended and has children".into()
    })?;
    let Some(core) = &task.threads[0].core.tc else {
        return Err(ImageError::new(&name, "tc is missing"));
    };
    require(core.exit_code <= 0xffff, &name, || format!("{:#x} is no status", core.exit_code))?;
    comm(&name, &core.comm)
}

/// What only the leader's core file has.
fn leader(name: &str, core: &CoreEntry) -> Checked {
    use super::task_state::{ALIVE, STOPPED};
    let Some(core) = &core.tc else {
        return Err(ImageError::new(name, "tc is missing"));
    };
    require(matches!(core.task_state, ALIVE | STOPPED), name, || {
        format!("the task state {} is not supported", core.task_state)
    })?;
    comm(name, &core.comm)?;
    // Of 64 signals, two have no action.
    require(matches!(core.sigactions.len(), 0 | 62), name, || {
        format!("has actions for {} signals, not for 62", core.sigactions.len())
    })?;
    let limits = core.rlimits.as_ref().map_or(0, |limits| limits.rlimits.len());
    require(limits <= 16, name, || format!("has {limits} resource limits, there are 16"))
}

fn comm(name: &str, comm: &[u8]) -> Checked {
    require(comm.len() <= MAX_COMM && !comm.contains(&0), name, || {
        format!("has an impossible comm: {}", comm.escape_ascii())
    })
}

/// The descriptor table, the current directory and the root.
fn descriptors(files: &Files<'_>, task: &Task) -> Checked {
    let name = kind::FDINFO.numbered(task.ids.files_id);
    let mut fds = BTreeSet::new();
    for entry in &task.fdinfo {
        let fd = entry.fd;
        require(fd < FD_END, &name, || format!("{fd} is no descriptor"))?;
        require(fds.insert(fd), &name, || format!("descriptor {fd} is there twice"))?;
        let kind = files.kind(entry.id);
        require(kind.is_some_and(|kind| kind as i32 == entry.r#type), &name, || {
            format!("descriptor {fd}: there is no such file with the id {}", entry.id)
        })?;
        require(entry.flags <= 1, &name, || format!("descriptor {fd} has unknown flags"))?;
    }
    let name = kind::FS.numbered(task.pid);
    for (id, what) in [(task.fs.cwd_id, "current directory"), (task.fs.root_id, "root")] {
        require(files.kind(id) == Some(FdTypes::Reg), &name, || {
            format!("the {what} has the id {id}, which is no file of the set")
        })?;
    }
    require(task.fs.umask.unwrap_or(0) <= 0o777, &name, || "has an impossible umask".into())
}

fn locks(set: &Set) -> Checked {
    let name = kind::FILE_LOCKS.file();
    set.file_locks.iter().try_for_each(|lock| {
        let known = set.tasks.iter().any(|task| i64::from(task.pid) == i64::from(lock.pid));
        require(known, &name, || format!("process {} is missing", lock.pid))?;
        require(lock.start >= 0, &name, || "a lock begins before the file".into())
    })
}

/// What waits in pipes and sockets, and filters that name others.
fn waiting(set: &Set) -> Checked {
    for (kind, queue) in [(&kind::PIPES_DATA, &set.pipe_data), (&kind::FIFO_DATA, &set.fifo_data)] {
        queue.iter().try_for_each(|item| {
            require(item.data.len() as u64 == u64::from(item.entry.bytes), &kind.file(), || {
                format!("pipe {}: the announced length is wrong", item.entry.pipe_id)
            })
        })?;
    }
    set.sk_queues.iter().try_for_each(|item| {
        require(
            item.data.len() as u64 == u64::from(item.entry.length),
            &kind::SK_QUEUES.file(),
            || format!("socket {}: the announced length is wrong", item.entry.id_for),
        )
    })?;
    let filters = set.seccomp.iter().flat_map(|seccomp| &seccomp.seccomp_filters);
    filters.enumerate().try_for_each(|(at, filter)| {
        let before = filter.prev.is_none_or(|prev| (prev as usize) < at);
        require(before, &kind::SECCOMP.file(), || format!("filter {at} follows a later one"))
    })
}

/// Files that had been unlinked.
fn unlinked(set: &Set, files: &Files<'_>) -> Checked {
    let name = kind::REMAP_FPATH.file();
    for remap in &set.remaps {
        let (orig, other) = (remap.orig_id, remap.remap_id);
        require(files.kind(orig).is_some(), &name, || format!("file {orig} is missing"))?;
        let there = match RemapType::try_from(remap.remap_type.unwrap_or(-1)) {
            Ok(RemapType::Ghost) => set.ghosts.iter().any(|ghost| ghost.id == other),
            Ok(RemapType::Linked) => files.kind(other).is_some(),
            Ok(RemapType::Procfs) => true,
            Err(_) => false,
        };
        require(there, &name, || format!("file {orig}: its substitute {other} is missing"))?;
    }
    for ghost in &set.ghosts {
        let name = kind::GHOST_FILE.numbered(format_args!("{:x}", ghost.id));
        let GhostContent::Chunks(chunks) = &ghost.content else { continue };
        require(ghost.entry.chunks == Some(true), &name, || "chunks are not announced".into())?;
        let size = ghost.entry.size.unwrap_or(u64::MAX);
        for chunk in chunks {
            let end = chunk.entry.off.checked_add(chunk.entry.len);
            let fits = end.is_some_and(|end| end <= size.min(i64::MAX as u64));
            require(fits && chunk.data.len() as u64 == chunk.entry.len, &name, || {
                format!("the chunk at {} does not fit", chunk.entry.off)
            })?;
        }
    }
    Ok(())
}
