//! Images that CRIU is to restore: dumped by it, or by us and made ready for it.
//!
//! `criu dump` carries nearly everything, and needs a right that an ordinary
//! user has only by the capability; our own dump needs none. Both write the
//! same format, so either will do ([`dump`], [`make_ready`]). What is no matter
//! of carrying, but of a right answer, holds here as well: a program that has
//! read its input, that is ending, or that is another user's, is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::is_perf_data;
use super::{
    After, Capture, FileId, Frozen, Refusal, Snapshot, StdinAtStart, StdioOrigin, changed, process,
    tree,
};
use crate::criu::edit::{self, Callers};
use crate::criu::record::{MadeFile, Record, VERSION};
use crate::criu::tool::{self, ToolError};
use crate::criu::{Criu, Standing, wiped};
use crate::image::proto::RegFileEntry;
use crate::image::{Set, vma_status};
use crate::privilege;
use crate::sys::ambient;
use crate::sys::capability::CAP_CHECKPOINT_RESTORE;
use crate::sys::{kcmp, pidfd};

/// How long a dump may take; the program stands still meanwhile. A gigabyte
/// takes two seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// The largest deleted file whose content is kept.
const GHOST_LIMIT: &str = "67108864";

/// Names a refusal of this engine.
fn refuse(what: impl std::fmt::Display) -> Refusal {
    Refusal::lasting(format!("engine criu: {what}"))
}

/// Dumps a process and its children with `criu dump`, and lets them go on.
/// `reason` is why the native engine was not taken.
///
/// Not much of what a dump in vain leaves of the program can be promised when
/// CRIU is ended by the deadline; it has never been seen to be needed.
pub fn dump(
    capture: &Capture<'_>,
    criu: &Criu,
    reason: Option<String>,
) -> Result<Snapshot, Refusal> {
    let standing = criu.standing().map_err(refuse)?;
    check_session(capture.pid)?;
    let callers = look(capture)?;
    unseen(capture)?;
    let boot = boot();
    let began = Instant::now();
    run(capture, criu, standing)?;
    let freeze = began.elapsed();
    // Whose descriptors are which was said by the running program: it must not
    // have changed meanwhile. Nor must it have got what CRIU does not see.
    if capture.after == After::Run {
        if look(capture)? != callers {
            return Err(Refusal::passing("its descriptors changed while it was dumped"));
        }
        unseen(capture)?;
    }
    let set =
        Set::read(capture.dir).map_err(|error| refuse(format!("reading its image: {error}")))?;
    check_timers(&set)?;
    let made = Made { reason, boot, dependencies: None, freeze };
    finish(capture.dir, criu, &callers, &set, made)
}

/// Refuses a timerfd that expires at a time of day: CRIU brings back the time
/// that was left.
fn check_timers(set: &Set) -> Result<(), Refusal> {
    let mut timers = set.files.iter().filter_map(|file| file.tfd.as_ref());
    let is_of_day = timers.any(|timer| {
        let left = (timer.vsec, timer.vnsec) != (0, 0);
        left && super::files::expires_at_time_of_day(timer.clockid, timer.settime_flags)
    });
    if is_of_day { Err(refuse("a timerfd set to a time of day")) } else { Ok(()) }
}

/// A dump of ours that CRIU is to restore: whose descriptors are which.
#[derive(Debug)]
pub struct Ready {
    callers: Callers,
    boot: Boot,
}

/// Looks at a process that is about to be frozen ([`super::freeze`]) for an
/// image that CRIU is to restore.
pub fn before(capture: &Capture<'_>) -> Result<Ready, Refusal> {
    Ok(Ready { callers: look(capture)?, boot: boot() })
}

/// Writes a dump of ours as one that CRIU restores. `dir` is where it was made,
/// `ready` what [`before`] saw.
pub fn make_ready(
    frozen: Frozen,
    ready: Ready,
    dir: &Path,
    criu: &Criu,
) -> Result<Snapshot, Refusal> {
    let Ready { callers, boot } = ready;
    if let Some(what) = frozen.without_place() {
        return Err(refuse(format!("its images have no place for {what}")));
    }
    let set = frozen.set.clone();
    let snapshot = frozen.write()?;
    let Snapshot { dependencies, freeze, .. } = snapshot;
    let made = Made { reason: None, boot, dependencies: Some(dependencies), freeze };
    finish(dir, criu, &callers, &set, made)
}

/// The boot's id, and monotonic and boot time in ns.
type Boot = (String, (u64, u64));

fn boot() -> Boot {
    use nix::time::{ClockId, clock_gettime};
    let now = |clock| {
        clock_gettime(clock)
            .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    };
    let clocks = (now(ClockId::CLOCK_MONOTONIC), now(ClockId::CLOCK_BOOTTIME));
    (crate::fingerprint::boot_id(), clocks)
}

/// Runs `criu dump`.
fn run(capture: &Capture<'_>, criu: &Criu, standing: Standing) -> Result<(), Refusal> {
    let pid = capture.pid.to_string();
    let mut words: Vec<&OsStr> = Vec::with_capacity(24);
    let mut add = |list: &[&'static str]| words.extend(list.iter().map(|word| OsStr::new(*word)));
    add(&["dump", "--no-default-config", "-v1", "-o", "-", "-W", "/proc"]);
    add(&["--shell-job", "--file-locks", "--manage-cgroups=ignore"]);
    add(&["--ghost-limit", GHOST_LIMIT]);
    add(match capture.after {
        After::Run => &["--leave-running"],
        After::Stop => &["--leave-stopped"],
        After::Kill => &[],
    });
    if standing == Standing::Lent {
        add(&["--unprivileged"]);
    }
    words.extend(["-t".as_ref(), OsStr::new(&pid), "-D".as_ref(), capture.dir.as_os_str()]);
    let runtime_dir = criu.runtime_dir.as_ref();
    let env: Vec<(&str, &OsStr)> =
        runtime_dir.map(|dir| ("XDG_RUNTIME_DIR", dir.as_os_str())).into_iter().collect();
    let lent = (standing == Standing::Lent).then(|| ambient::lend(CAP_CHECKPOINT_RESTORE));
    let lent =
        lent.transpose().map_err(|error| refuse(format!("lending the capability: {error}")))?;
    let result = tool::run(criu.path(), words, &env, DEADLINE);
    drop(lent);
    match result {
        Ok(_) => Ok(()),
        Err(error @ ToolError::Failed(_)) => {
            let text = error.to_string();
            Err(refuse(text.strip_prefix("criu: ").unwrap_or(&text)))
        }
        Err(error) => Err(refuse(error)),
    }
}

/// Refuses what is no matter of carrying; says which descriptors are the
/// caller's.
fn look(capture: &Capture<'_>) -> Result<Callers, Refusal> {
    process::check(capture.pid)?;
    process::check_shutdown(capture.pid)?;
    if capture.stdio != [StdioOrigin::Programs; 3] {
        changed::check_place(capture.pid)?;
    }
    let callers = callers(capture)?;
    let stdin = callers.given.iter().find(|(_, number)| **number == 0);
    if let Some((fd, _)) = stdin
        && has_read(capture, *fd)?
    {
        return Err(Refusal::lasting("it has read some of its standard input"));
    }
    Ok(callers)
}

/// Refuses what CRIU would lose without a word ([`super::unseen`]).
fn unseen(capture: &Capture<'_>) -> Result<(), Refusal> {
    super::unseen::check(capture).map_err(|refusal| Refusal {
        reason: format!("engine criu: it would lose that {}", refusal.reason),
        ..refusal
    })
}

/// Refuses a program whose session was begun outside of its pid namespace, as
/// `unshare -pf` leaves it: field 6 of `stat` is 0 there, and CRIU dumps no
/// process without a session. What we dump ourselves is not concerned.
fn check_session(pid: i32) -> Result<(), Refusal> {
    let stat = process::Stat::read(&format!("/proc/{pid}/stat"))?;
    if stat.field(6) != 0 {
        return Ok(());
    }
    Err(refuse(
        "criu cannot dump a program whose session was begun outside of this pid namespace; \
         start it in one of its own: setsid --wait warmstart ...",
    ))
}

/// Finds the caller's descriptors among those of the program. The one that still
/// is what it was is the caller's; of pipes, sockets and terminals, which a
/// program cannot have opened itself, every one that is the same.
fn callers(capture: &Capture<'_>) -> Result<Callers, Refusal> {
    let origins: BTreeMap<RawFd, FileId> = (0..)
        .zip(capture.stdio)
        .filter_map(|(number, origin)| match origin {
            StdioOrigin::Given { id, .. } => Some((number, id)),
            StdioOrigin::Closed | StdioOrigin::Programs => None,
        })
        .collect();
    let mut callers = Callers::default();
    let entries = open_files(capture.pid)?;
    for (fd, (id, target)) in &entries {
        let is_telling = is_telling(target);
        let stdio = match origins.get(fd) {
            Some(origin) if origin == id => Some(*fd),
            _ if is_telling => {
                let writes = writes(capture.pid, *fd);
                let order = if writes { [1, 2, 0] } else { [0, 1, 2] };
                order.into_iter().find(|number| origins.get(number) == Some(id))
            }
            _ => {
                let is_it = |(number, origin): &(&RawFd, &FileId)| {
                    *origin == id && is_ours(capture.pid, *fd, **number, *id) == Some(true)
                };
                origins.iter().find(is_it).map(|(number, _)| *number)
            }
        };
        let inherited = capture
            .inherited
            .iter()
            .find(|(number, known)| known == id && (number == fd || is_telling));
        match (stdio, inherited) {
            (_, Some((number, _))) if capture.keep.contains(number) => {
                callers.given.insert(*fd, *number);
            }
            (Some(number), _) => {
                callers.given.insert(*fd, number);
            }
            (None, Some(_)) => {
                callers.dropped.insert(*fd);
            }
            (None, None) => {}
        }
    }
    check_kept(capture.pid, &origins, &callers, &entries)?;
    Ok(callers)
}

/// The descriptors of a process: what each is.
type OpenFiles = BTreeMap<RawFd, (FileId, PathBuf)>;

fn open_files(pid: i32) -> Result<OpenFiles, Refusal> {
    let dir = format!("/proc/{pid}/fd");
    let failed = |error: std::io::Error| Refusal::passing(format!("{dir}: {error}"));
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        let target = fs::read_link(entry.path()).map_err(failed)?;
        entries.insert(fd, (FileId { dev: meta.dev(), ino: meta.ino() }, target));
    }
    Ok(entries)
}

/// Whether an inode says enough: a program cannot have opened that itself.
fn is_telling(target: &Path) -> bool {
    let target = target.as_os_str().as_bytes();
    let telling = [&b"pipe:["[..], b"socket:[", b"/dev/pts/", b"/dev/tty"];
    telling.iter().any(|start| target.starts_with(start))
}

/// Says whether a descriptor is what we have as `number`; `None` if we have that
/// no more (the launcher keeps files only).
fn is_ours(pid: i32, fd: RawFd, number: RawFd, id: FileId) -> Option<bool> {
    let own = std::process::id() as i32;
    let is_there = FileId::numbered(number).ok() == Some(id);
    is_there.then(|| kcmp::same_file(own, number, pid, fd).unwrap_or(false))
}

/// Refuses what was the caller's 0, 1 or 2 where the first process has none of
/// it any more, or nothing that tells it from a file that it has opened itself:
/// the next caller's could not be put there.
fn check_kept(
    root: i32,
    origins: &BTreeMap<RawFd, FileId>,
    callers: &Callers,
    of_root: &OpenFiles,
) -> Result<(), Refusal> {
    let refuse = |pid: i32, fd: RawFd, number: RawFd| {
        let what = format!("process {pid} has kept its caller's {number} as fd {fd} alone");
        Err(Refusal::lasting(what))
    };
    let given = callers.given.keys().filter_map(|fd| of_root.get(fd));
    let in_place: BTreeSet<FileId> = given.map(|(id, _)| *id).collect();
    let lost = |id: &FileId| {
        let origin = origins.iter().find(|(_, origin)| *origin == id && !in_place.contains(id));
        origin.map(|(number, _)| *number)
    };
    let is_file = |pid: i32, fd: RawFd| {
        fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|meta| meta.is_file())
    };
    for (fd, (id, _)) in of_root {
        let in_doubt =
            |number: &RawFd| is_file(root, *fd) && is_ours(root, *fd, *number, *id).is_none();
        if let Some(number) = lost(id).filter(in_doubt) {
            return refuse(root, *fd, number);
        }
    }
    let with_root: BTreeSet<FileId> = of_root.values().map(|(id, _)| *id).collect();
    for child in tree::descendants(root) {
        // One that has just ended has none.
        for (fd, (id, target)) in open_files(child).unwrap_or_default() {
            let is_callers = is_telling(&target) && !with_root.contains(&id) || is_file(child, fd);
            if let Some(number) = lost(&id).filter(|_| is_callers) {
                return refuse(child, fd, number);
            }
        }
    }
    Ok(())
}

fn writes(pid: i32, fd: RawFd) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Tells whether the program has read some of what was its standard input, and
/// is `fd` now.
fn has_read(capture: &Capture<'_>, fd: RawFd) -> Result<bool, Refusal> {
    if capture.stdin == StdinAtStart::Other {
        return Ok(false);
    }
    let failed = |error: std::io::Error| refuse(format!("looking at its standard input: {error}"));
    let process = pidfd::open(capture.pid).map_err(failed)?;
    let now = StdinAtStart::of(pidfd::get_fd(process.as_fd(), fd).map_err(failed)?);
    Ok(match (capture.stdin, now) {
        (StdinAtStart::Offset(before), StdinAtStart::Offset(now)) => before != now,
        (StdinAtStart::Unread(before), StdinAtStart::Unread(now)) => now < before,
        _ => true,
    })
}

/// What is known about an image besides what is in it.
struct Made {
    reason: Option<String>,
    boot: Boot,
    /// What it depends on, if that is known already.
    dependencies: Option<Vec<PathBuf>>,
    freeze: Duration,
}

/// Gives an image to its next caller and writes the record.
fn finish(
    dir: &Path,
    criu: &Criu,
    callers: &Callers,
    set: &Set,
    made: Made,
) -> Result<Snapshot, Refusal> {
    let Made { reason, boot: (boot_id, clocks), dependencies, freeze } = made;
    let first = set.pstree.first().ok_or_else(|| refuse("its image is empty"))?.pid;
    let change = || {
        let handed_over = edit::hand_over(dir, first, callers)?;
        edit::end_with_parent(dir, first)?;
        if !privilege::current().root {
            edit::keep_bounding_set(dir)?;
        }
        Ok::<_, edit::EditError>(handed_over)
    };
    let handed_over = change().map_err(|error| refuse(format!("changing its image: {error}")))?;
    wiped::wipe(dir, set).map_err(|error| refuse(format!("wiping its image: {error}")))?;
    let paths = paths(set, &handed_over.orphans);
    let len_pages =
        len_pages(dir).map_err(|error| refuse(format!("{}: {error}", dir.display())))?;
    let tids = set.pstree.iter().flat_map(|process| &process.threads);
    let record = Record {
        version: VERSION,
        criu: criu.identity.clone(),
        reason,
        pid: first as i32,
        pids: tids.clone().map(|tid| *tid as i32).collect(),
        callers: handed_over.callers.into_iter().collect(),
        files: files_to_make(set, &paths)?,
        boot_id,
        clocks,
        len_pages,
        coredump_filters: set
            .pstree
            .iter()
            .filter_map(|process| {
                let pid = process.pid as i32;
                Some((pid, changed::changed_filter(pid)?))
            })
            .collect(),
    };
    record.write(dir).map_err(|error| refuse(format!("writing its record: {error}")))?;
    Ok(Snapshot {
        dependencies: dependencies.unwrap_or_else(|| depended_on(set, &paths)),
        freeze,
        pid: first as i32,
        processes: set.pstree.len(),
        threads: tids.count(),
        len_pages,
        page_mode: "copied",
        engine: "criu",
    })
}

fn len_pages(dir: &Path) -> std::io::Result<u64> {
    let mut len = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(b"pages-") {
            len += entry.metadata()?.len();
        }
    }
    Ok(len)
}

/// The files of an image that are there under their names, each with its uses.
type Paths<'a> = BTreeMap<PathBuf, Vec<&'a RegFileEntry>>;

/// Lists them; `orphans` are open files that were the caller's.
fn paths<'a>(set: &'a Set, orphans: &BTreeSet<u32>) -> Paths<'a> {
    let mapped: BTreeSet<u64> = set
        .tasks
        .iter()
        .flat_map(|task| &task.mm.vmas)
        .filter(|vma| vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0)
        .map(|vma| vma.shmid)
        .collect();
    let is_there = |id: u32| {
        let deleted = set.remaps.iter().any(|remap| remap.orig_id == id);
        !deleted && (!orphans.contains(&id) || mapped.contains(&u64::from(id)))
    };
    let mut paths = Paths::new();
    for reg in set.files.iter().filter(|file| is_there(file.id)).filter_map(|it| it.reg.as_ref()) {
        let path = Path::new(OsStr::from_bytes(&reg.name));
        // The kernel's own files are made when they are read.
        if path.is_absolute() && !["/dev", "/proc", "/sys"].iter().any(|dir| path.starts_with(dir))
        {
            paths.entry(path.into()).or_default().push(reg);
        }
    }
    paths
}

fn appends(reg: &RegFileEntry) -> bool {
    let flags = reg.flags as i32;
    flags & libc::O_ACCMODE == libc::O_WRONLY && flags & libc::O_APPEND != 0
}

fn is_pid_of(set: &Set) -> impl Fn(&Path) -> bool {
    let pids: Vec<i32> = set.pstree.iter().map(|process| process.pid as i32).collect();
    move |path| pids.iter().any(|pid| is_perf_data(path, *pid))
}

/// Returns the files on which an image depends: CRIU compares their sizes at
/// most. A file that is only appended to may have grown, and is none.
fn depended_on(set: &Set, paths: &Paths<'_>) -> Vec<PathBuf> {
    let is_perf_data = is_pid_of(set);
    let depends = |(path, uses): &(&PathBuf, &Vec<&RegFileEntry>)| {
        let only_grows = uses.iter().all(|reg| appends(reg));
        let is_file = path.metadata().is_ok_and(|meta| meta.is_file());
        is_file && !only_grows && !is_perf_data(path)
    };
    paths.iter().filter(depends).map(|(path, _)| path.clone()).collect()
}

/// Returns the files that must be there before CRIU starts: those of a JVM about
/// itself, which end with it, and logs that somebody may remove.
fn files_to_make(set: &Set, paths: &Paths<'_>) -> Result<Vec<MadeFile>, Refusal> {
    let is_perf_data = is_pid_of(set);
    let mut files = Vec::new();
    for (path, uses) in paths {
        let path = path.clone();
        if is_perf_data(&path) {
            let failed = |error| refuse(format!("{}: {error}", path.display()));
            let mode = path.metadata().map_err(failed)?.mode() & 0o7777;
            let content = Some(fs::read(&path).map_err(failed)?);
            files.push(MadeFile { path, mode, content });
        } else if uses.iter().all(|reg| appends(reg))
            && let Ok(meta) = path.metadata()
        {
            files.push(MadeFile { path, mode: meta.mode() & 0o7777, content: None });
        }
    }
    Ok(files)
}
