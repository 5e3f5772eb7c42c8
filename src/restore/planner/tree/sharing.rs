//! What several processes have open or mapped together: the root makes it, and
//! hands it over before anything else of the image is made.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, PlannerError};
use crate::image::proto::{FdTypes, FileEntry, RemapType};
use crate::image::{Set, Task, vma_status};
use crate::restore::plan::MAX_SHARED;

/// What the root can make for all.
const HANDED_OVER: [FdTypes; 11] = [
    FdTypes::Reg,
    FdTypes::Fifo,
    FdTypes::Pipe,
    FdTypes::Eventfd,
    FdTypes::Eventpoll,
    FdTypes::Inotify,
    FdTypes::Signalfd,
    FdTypes::Timerfd,
    FdTypes::Inetsk,
    FdTypes::Unixsk,
    FdTypes::Memfd,
];
/// `F_SEAL_FUTURE_WRITE` (Linux 5.1): who has it mapped goes on writing.
const SEAL_FUTURE_WRITE: u32 = libc::F_SEAL_FUTURE_WRITE as u32;

/// Where shared open file descriptions are handed over.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Their descriptors, by id.
    pub(super) slots: BTreeMap<u32, i32>,
    /// Those that nobody has open: they are mapped.
    pub(super) only_mapped: BTreeSet<u32>,
    /// Who registers what a shared instance of epoll or inotify watches, by its
    /// id.
    pub(super) watchers: BTreeMap<u32, u32>,
}

/// What can stand behind several open file descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    /// Both ends of a pipe.
    Pipe(u32),
    /// All that have opened one named pipe: what waits there waits once.
    Fifo(u32),
    /// A memfd, or shared anonymous memory.
    Memory(u32),
    /// A file that is deleted.
    Deleted(u32),
    /// Both ends of a pair of sockets: the lower of their inodes.
    Pair(u32),
}

/// The processes that use something.
type Users<K> = BTreeMap<K, BTreeSet<u32>>;

impl Sharing {
    /// Finds what processes share; `living` are those that live, with their
    /// facts.
    pub(super) fn find(set: &Set, living: &[&Task], facts: &[Facts]) -> Result<Self, PlannerError> {
        let deleted = deleted_files(set);
        let files: BTreeMap<u32, &FileEntry> = set.files.iter().map(|it| (it.id, it)).collect();
        let object = |id: u32| object(id, files.get(&id)?, &deleted);
        let mut users: Users<u32> = BTreeMap::new();
        let mut open = BTreeSet::new();
        let mut highest = 2;
        for (task, facts) in living.iter().zip(facts) {
            for entry in &task.fdinfo {
                highest = highest.max(entry.fd);
                if facts.given.iter().all(|given| given.fd != entry.fd as i32) {
                    users.entry(entry.id).or_default().insert(task.pid);
                    open.insert(entry.id);
                }
            }
            for id in mapped(task, &deleted) {
                users.entry(id).or_default().insert(task.pid);
            }
        }
        let mut behind: Users<Object> = BTreeMap::new();
        for (id, pids) in &users {
            if let Some(object) = object(*id) {
                behind.entry(object).or_default().extend(pids);
            }
        }
        // Whoever connects to a name finds it bound.
        let peers = facts.first().map(|facts| &facts.changed.unix_peers);
        let is_peer = |id: &u32| {
            let name = files.get(id).and_then(|file| file.usk.as_ref()).map(|socket| &socket.name);
            peers.is_some_and(|peers| peers.values().any(|peer| Some(peer) == name))
        };
        let is_shared = |id: &u32, pids: &BTreeSet<u32>| {
            let behind = object(*id).and_then(|object| behind.get(&object));
            // Only the root can name another process as an owner.
            let owner =
                files.get(id).and_then(|file| file.usk.as_ref()).map_or(0, |it| it.fown.pid);
            pids.len() > 1
                || behind.is_some_and(|pids| pids.len() > 1)
                || is_peer(id)
                || owner != 0 && !pids.contains(&owner)
        };
        users.retain(|id, pids| is_shared(id, pids));
        check(set, &users, &files, living.len(), facts)?;
        // Above all numbers of the program's, with room for those in passing,
        // and above those under which they arrive.
        let first = (highest + 4).max(3 + users.len() as u32);
        let mut sharing = Self::default();
        for (id, fd) in users.into_keys().zip(first..) {
            sharing.slots.insert(id, fd as i32);
            if !open.contains(&id) {
                sharing.only_mapped.insert(id);
            }
            if files.get(&id).is_some_and(|file| file.epfd.is_some() || file.ify.is_some()) {
                // The first in the order of the image has read it.
                let holds = |task: &&&Task| task.fdinfo.iter().any(|entry| entry.id == id);
                let first = living.iter().find(holds).map_or(0, |task| task.pid);
                sharing.watchers.insert(id, first);
            }
        }
        Ok(sharing)
    }
}

/// Refuses what the root cannot make, or not hand over.
fn check(
    set: &Set,
    shared: &Users<u32>,
    files: &BTreeMap<u32, &FileEntry>,
    living: usize,
    facts: &[Facts],
) -> Result<(), PlannerError> {
    let unsupported = |what: String| Err(PlannerError::Unsupported(what));
    for (id, pids) in shared {
        let file = files.get(id);
        let kind = file.and_then(|file| FdTypes::try_from(file.r#type).ok());
        let kind = kind.unwrap_or(FdTypes::Und);
        let pid = pids.first().copied().unwrap_or_default();
        if !HANDED_OVER.contains(&kind) {
            let kind = kind.as_str_name();
            let what = format!("process {pid} and others share an open file of kind {kind}");
            return unsupported(what);
        }
        let memory = file.and_then(|file| file.memfd.as_ref()).and_then(|memfd| {
            set.memfds.iter().find(|inode| inode.inode_id == u64::from(memfd.inode_id))
        });
        if let Some(memory) = memory.filter(|memory| memory.seals & SEAL_FUTURE_WRITE != 0) {
            let name = memory.name.escape_ascii();
            let what = "and others share is sealed for who maps it from now on";
            return unsupported(format!("memory {name} that process {pid} {what}"));
        }
    }
    let count = shared.len();
    if count > MAX_SHARED as usize {
        return unsupported(format!("{count} open files that processes share"));
    }
    // Sockets may have so many descriptors on their way together (`unix(7)`,
    // ETOOMANYREFS).
    let limit =
        facts.first().and_then(|facts| facts.caller_limits.get(libc::RLIMIT_NOFILE as usize));
    let on_their_way = count as u64 * living.saturating_sub(1) as u64;
    if limit.is_some_and(|(soft, _)| on_their_way > *soft) {
        let what = format!("{count} open files that {living} processes share");
        return unsupported(format!(
            "{what}: more than the limit of open files lets be handed over"
        ));
    }
    Ok(())
}

/// Returns which files of the image are deleted ones, and the number of each.
fn deleted_files(set: &Set) -> BTreeMap<u32, u32> {
    let ghost = Some(RemapType::Ghost as i32);
    let remaps = set.remaps.iter().filter(|remap| remap.remap_type == ghost);
    remaps.map(|remap| (remap.orig_id, remap.remap_id)).collect()
}

/// Returns what a process has mapped that no path leads to.
fn mapped<'a>(task: &'a Task, deleted: &'a BTreeMap<u32, u32>) -> impl Iterator<Item = u32> + 'a {
    task.mm.vmas.iter().filter_map(|vma| {
        let id = u32::try_from(vma.shmid).ok()?;
        let is_file = vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0;
        let is_memory = vma.status & vma_status::MEMFD != 0;
        (is_memory || is_file && deleted.contains_key(&id)).then_some(id)
    })
}

/// Returns what stands behind a file, if others may stand before it, too.
fn object(id: u32, file: &FileEntry, deleted: &BTreeMap<u32, u32>) -> Option<Object> {
    if let Some(pipe) = &file.pipe {
        Some(Object::Pipe(pipe.pipe_id))
    } else if let Some(fifo) = &file.fifo {
        Some(Object::Fifo(fifo.pipe_id))
    } else if let Some(memfd) = &file.memfd {
        Some(Object::Memory(memfd.inode_id))
    } else if let Some(socket) = &file.usk {
        (socket.peer != 0).then(|| Object::Pair(socket.ino.min(socket.peer)))
    } else {
        deleted.get(&id).map(|number| Object::Deleted(*number))
    }
}
