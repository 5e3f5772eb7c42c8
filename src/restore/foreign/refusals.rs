//! What an image of somebody else's may hold that the native engine does not
//! carry and the planner does not look at. Each reason names the thing.

use std::fs;

use nix::unistd::{getgid, getgroups, getuid};

use crate::image::proto::{CredsEntry, FileEntry, SeccompMode, SignalQueueEntry};
use crate::image::{Set, task_state, vma_status};
use crate::privilege;

type Checked = Result<(), String>;

/// Files of an image that say nothing about the program, by the beginning of
/// their names.
const IDLE: [&str; 4] = ["cgroup", "stats-", "irmap-cache", "autofs-"];

/// Refuses what would be lost.
pub(super) fn check(set: &Set) -> Checked {
    let [task] = &set.tasks[..] else {
        return Err(format!("an image of {} processes", set.tasks.len()));
    };
    namespaces(set)?;
    if let Some(name) = set.unread.iter().find(|name| !IDLE.iter().any(|it| name.starts_with(it))) {
        return Err(format!("{name} is not understood"));
    }
    for (what, is_there) in [
        ("a deleted file", !set.remaps.is_empty() || !set.ghosts.is_empty()),
        ("data in a FIFO", !set.fifo_data.is_empty()),
        ("data in a socket", !set.sk_queues.is_empty()),
    ] {
        if is_there {
            return Err(format!("{what} in the image"));
        }
    }
    if task.pagemap.pages_id != 1 {
        return Err(format!("its pages are in pages-{}.img", task.pagemap.pages_id));
    }
    if let Some(lock) = set.file_locks.iter().find(|lock| lock.pid != task.pid as i32) {
        return Err(format!("fd {} is locked by process {}", lock.fd, lock.pid));
    }
    root(set)?;
    memory(set)?;
    shared(set)?;
    threads(set)?;
    set.files.iter().try_for_each(file)
}

/// Its namespaces must be those of whoever restores.
fn namespaces(set: &Set) -> Checked {
    let root = set.inventory.root_ids.unwrap_or_default();
    let own = set.tasks[0].ids;
    for (name, root, own) in [
        ("pid", root.pid_ns_id, own.pid_ns_id),
        ("net", root.net_ns_id, own.net_ns_id),
        ("ipc", root.ipc_ns_id, own.ipc_ns_id),
        ("uts", root.uts_ns_id, own.uts_ns_id),
        ("mnt", root.mnt_ns_id, own.mnt_ns_id),
        ("user", root.user_ns_id, own.user_ns_id),
        ("cgroup", root.cgroup_ns_id, own.cgroup_ns_id),
        ("time", root.time_ns_id, own.time_ns_id),
    ] {
        if root != own {
            return Err(format!("a {name} namespace of its own"));
        }
    }
    Ok(())
}

fn root(set: &Set) -> Checked {
    let id = set.tasks[0].fs.root_id;
    let root = set.files.iter().find(|file| file.id == id).and_then(|file| file.reg.as_ref());
    match root {
        Some(reg) if reg.name == b"/" => Ok(()),
        Some(reg) => Err(format!("the root directory {}", String::from_utf8_lossy(&reg.name))),
        None => Err("a root directory without a name".into()),
    }
}

fn memory(set: &Set) -> Checked {
    let mm = &set.tasks[0].mm;
    if !mm.aios.is_empty() {
        return Err("asynchronous I/O (aio)".into());
    }
    for vma in &mm.vmas {
        for (bit, what) in [
            (vma_status::SHSTK, "a shadow stack"),
            (vma_status::UPROBES, "uprobes"),
            (vma_status::AIORING, "a ring of asynchronous I/O"),
            (vma_status::SOCKET, "the ring of a packet socket"),
            (vma_status::SYSVIPC, "System V shared memory"),
        ] {
            if vma.status & bit != 0 {
                return Err(format!("{what} at {:#x}", vma.start));
            }
        }
        if vma.flags & libc::MAP_HUGETLB as u32 != 0 {
            return Err(format!("huge pages at {:#x}", vma.start));
        }
    }
    Ok(())
}

/// What the threads share.
fn shared(set: &Set) -> Checked {
    let core = set.tasks[0].threads.first().and_then(|thread| thread.core.tc.as_ref());
    let core = core.ok_or("a leader without a core")?;
    if core.task_state != task_state::ALIVE {
        return Err("a process that does not run".into());
    }
    ending("it", core.signals_s.as_ref())
}

/// Refuses a program that was told to end: it would come back only to go on
/// ending. `si_signo` is the first word of a siginfo.
fn ending(whose: &str, queue: Option<&SignalQueueEntry>) -> Checked {
    const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    for entry in queue.iter().flat_map(|queue| &queue.signals) {
        let number = entry.siginfo.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number));
        if ENDING.contains(&number) {
            return Err(format!("{whose} has signal {number} pending, which tells it to end"));
        }
    }
    Ok(())
}

fn threads(set: &Set) -> Checked {
    for thread in &set.tasks[0].threads {
        let Some(core) = &thread.core.thread_core else { continue };
        let tid = thread.tid;
        ending(&format!("thread {tid}"), core.signals_p.as_ref())?;
        if core.seccomp_mode.is_some_and(|mode| mode != SeccompMode::Disabled as i32) {
            return Err(format!("thread {tid} is under a seccomp filter"));
        }
        if core.sched_policy.is_some_and(|policy| policy != libc::SCHED_OTHER as u32) {
            return Err(format!("thread {tid} has a scheduling policy of its own"));
        }
    }
    Ok(())
}

fn file(file: &FileEntry) -> Checked {
    let owner = [
        file.reg.as_ref().map(|it| &it.fown),
        file.isk.as_ref().map(|it| &it.fown),
        file.usk.as_ref().map(|it| &it.fown),
        file.pipe.as_ref().map(|it| &it.fown),
    ];
    if owner.into_iter().flatten().any(|owner| owner.pid != 0) {
        return Err(format!("file {} signals its owner (F_SETOWN)", file.id));
    }
    let Some(socket) = &file.isk else { return Ok(()) };
    // TCP_CLOSE and TCP_LISTEN; UDP counts as closed unless it is connected.
    if ![7, 10].contains(&socket.state) {
        return Err(format!("file {} is a connected socket", file.id));
    }
    if socket.opts.so_mark.is_some_and(|mark| mark != 0) || socket.opts.so_bound_dev.is_some() {
        return Err(format!("file {} is a socket with a mark or bound to a device", file.id));
    }
    Ok(())
}

/// Refuses rights that are not those of whoever restores; tells whether the
/// program has set no_new_privs on itself.
pub(super) fn check_rights(set: &Set) -> Result<bool, String> {
    let leader = set.tasks[0].threads.first().and_then(|it| it.core.thread_core.as_ref());
    let creds = leader.and_then(|core| core.creds.as_ref()).ok_or("a leader without rights")?;
    for thread in &set.tasks[0].threads {
        let own = thread.core.thread_core.as_ref().and_then(|core| core.creds.as_ref());
        if own != Some(creds) {
            return Err(format!("thread {} has rights of its own", thread.tid));
        }
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    if [creds.uid, creds.euid, creds.suid, creds.fsuid] != [uid; 4]
        || [creds.gid, creds.egid, creds.sgid, creds.fsgid] != [gid; 4]
    {
        return Err(format!("it ran with other ids than ours ({}:{})", creds.uid, creds.gid));
    }
    let mut groups = creds.groups.clone();
    groups.sort_unstable();
    let mut own: Vec<u32> =
        getgroups().unwrap_or_default().into_iter().map(|group| group.as_raw()).collect();
    own.sort_unstable();
    if groups != own {
        return Err("it had other groups than we have".into());
    }
    if creds.secbits != 0 {
        return Err("securebits of its own".into());
    }
    capabilities(creds)?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ours = status.lines().any(|line| line.starts_with("NoNewPrivs:") && line.ends_with('1'));
    Ok(creds.no_new_privs == Some(1) && !ours)
}

fn capabilities(creds: &CredsEntry) -> Checked {
    let set = |words: &[u32]| match words {
        [low, high] => u64::from(*low) | u64::from(*high) << 32,
        _ => 0,
    };
    let cold = privilege::of_a_cold_start();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // What this kernel does not know is in nobody's set.
    let had = set(&creds.cap_bnd);
    if bounding.is_some_and(|have| had & have != have) {
        return Err("it had dropped capabilities (its bounding set)".into());
    }
    for (name, had, have) in [
        ("permitted", set(&creds.cap_prm), cold.permitted),
        ("effective", set(&creds.cap_eff), cold.effective),
        ("inheritable", set(&creds.cap_inh), cold.inheritable),
    ] {
        if had != have {
            return Err(format!("it had other {name} capabilities than a program of ours has"));
        }
    }
    Ok(())
}
