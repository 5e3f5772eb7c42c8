//! The engine `criu`: an image that CRIU dumped, or that was made ready for it,
//! is restored by `criu restore`.
//!
//! CRIU makes the program as a sibling of its own, so a child of ours, and
//! leaves it stopped. It is looked at (what it may do, that all of it is there)
//! and only then let go: that is the point of no return. Until then whatever
//! goes wrong, and a deadline that CRIU itself does not keep, ends CRIU and all
//! that it has made, and nothing of the program has run.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::foreign;
use super::host::{self, Clock};
use super::offspring::{self, Watch};
use super::planner::Policy;
use super::{CannotRestore, Engine, Request, Restored, beside_others};
use crate::criu::edit;
use crate::criu::record::{MadeFile, Record, VERSION};
use crate::criu::tool;
use crate::criu::{Criu, Standing};
use crate::image::proto::Timespec;
use crate::image::{Set, pages_file};
use crate::pids::{self, Strategy, range};
use crate::privilege;
use crate::sys::ambient;
use crate::sys::birth::Birth;
use crate::sys::capability::CAP_CHECKPOINT_RESTORE;
use crate::sys::inside;
use crate::sys::namespaces::{Enclosure, Owner, Time};
use crate::sys::process::{self, Change, Exec, Inherited};

/// What is read in a second at the least, in bytes.
const SLOW_READ: u64 = 100_000_000;
/// How often it is tried while other JVMs, as they start, remove what a JVM
/// keeps about itself: to them it is one that has ended.
const TRIES: u32 = 4;
/// How often CRIU is looked at.
const PAUSE: Duration = Duration::from_micros(300);
/// Where the caller's descriptors are in CRIU's process, and ours meanwhile.
const LENT_FROM: RawFd = 20;
/// How far behind the program's pid those of CRIU itself come, inside.
const AHEAD: i32 = 300;
/// Where that would leave no room (`PID_MAX_LIMIT` is what a new pid namespace
/// has), they come first.
const LAST_PID_MAX: i32 = (1 << 22) - 1000;

fn unusable(what: impl Into<String>) -> CannotRestore {
    CannotRestore::Unusable(what.into())
}

/// Restores with CRIU: in the first of the ways to its pids that works for it.
/// It takes pids by `clone3` itself, so these are `set-tid` and `namespace`.
///
/// Must be called from the main thread of a process without other threads.
pub fn criu(request: &Request<'_>, criu: &Criu) -> Result<Restored, CannotRestore> {
    let started = Instant::now();
    let record = match Record::read(request.dir) {
        Ok(Some(record)) => record,
        Ok(None) => plain(request.dir, criu)?,
        Err(error) => return Err(unusable(format!("reading its record: {error}"))),
    };
    let mut first = None;
    for strategy in request.pids {
        let once = || match strategy {
            Strategy::SetTid => outside(request, criu, &record, started),
            _ => in_namespace(request, criu, &record, started),
        };
        match strategy {
            Strategy::SetTid if request.clock == Clock::Machines => {}
            Strategy::Namespace => {}
            _ => continue,
        }
        match beside_others(TRIES, once) {
            // What could be tried says more than what could not.
            Err(reason) if reason.is_about_pids() => {
                first = match (first, reason) {
                    (None | Some(CannotRestore::NotPermitted), reason) => Some(reason),
                    (first, _) => first,
                };
            }
            result => return result,
        }
    }
    Err(first.unwrap_or_else(|| {
        CannotRestore::PidNotReached("criu takes pids by set-tid or in a namespace".into())
    }))
}

/// Describes an image that was not made ready for CRIU (`image restore`): it
/// brings everything back by itself, 0, 1 and 2 too.
fn plain(dir: &Path, criu: &Criu) -> Result<Record, CannotRestore> {
    let set = Set::read(dir).map_err(|error| unusable(error.to_string()))?;
    if let Some(what) = set.native_only() {
        return Err(unusable(format!(
            "CRIU would lose {what}: only the native engine restores it"
        )));
    }
    let first = set.pstree.first().ok_or_else(|| unusable("the image is empty"))?;
    let ns = |time: &Timespec| time.tv_sec.saturating_mul(1_000_000_000) + time.tv_nsec;
    let clocks = set.timens.as_ref();
    let clocks = clocks.map_or((0, 0), |then| (ns(&then.monotonic), ns(&then.boottime)));
    let len_pages = set.pagemaps().filter_map(|pagemap| {
        fs::metadata(dir.join(pages_file(pagemap.pages_id))).ok().map(|meta| meta.len())
    });
    Ok(Record {
        version: VERSION,
        criu: criu.identity.clone(),
        reason: None,
        pid: first.pid as i32,
        pids: set.pstree.iter().flat_map(|it| &it.threads).map(|tid| *tid as i32).collect(),
        callers: Vec::new(),
        files: files_of(&set),
        // Of which boot it is, it does not say.
        boot_id: crate::fingerprint::boot_id(),
        clocks,
        len_pages: len_pages.sum(),
        coredump_filters: Vec::new(),
    })
}

/// Returns the files of JVMs about themselves in an image: they end with the
/// JVM, and CRIU insists on them.
fn files_of(set: &Set) -> Vec<MadeFile> {
    let pids: Vec<u32> = set.pstree.iter().map(|process| process.pid).collect();
    let perf_data = set.files.iter().filter_map(|file| {
        let reg = file.reg.as_ref()?;
        let path = Path::new(OsStr::from_bytes(&reg.name));
        let is_its = pids.iter().any(|pid| foreign::is_perf_data(path, *pid));
        match is_its.then(|| foreign::perf_data(path, reg))? {
            Policy::Recreate { mode, content } => {
                Some(MadeFile { path: path.into(), mode, content: Some(content) })
            }
            _ => None,
        }
    });
    let mut files: Vec<MadeFile> = perf_data.collect();
    files.dedup_by(|one, other| one.path == other.path);
    files
}

/// Restores in our own pid namespace.
fn outside(
    request: &Request<'_>,
    criu: &Criu,
    record: &Record,
    started: Instant,
) -> Result<Restored, CannotRestore> {
    if !privilege::may_choose_pids() {
        return Err(CannotRestore::NotPermitted);
    }
    let standing = criu.standing().map_err(CannotRestore::PidNotReached)?;
    range::check(record.pids.iter().copied())?;
    if let Some(taken) = record.pids.iter().find(|pid| pids::is_taken(**pid)) {
        return Err(CannotRestore::PidTaken(*taken));
    }
    // Root's CRIU makes a time namespace by itself.
    if standing != Standing::Root && has_other_clocks(record) {
        return Err(CannotRestore::OtherBoot);
    }
    attempt(request, criu, record, started, Strategy::SetTid, &|exec, inherited, stdio| {
        let lent = (standing == Standing::Lent).then(|| ambient::lend(CAP_CHECKPOINT_RESTORE));
        let _lent = lent.transpose().map_err(|error| {
            CannotRestore::PidNotReached(format!("criu cannot be given the capability: {error}"))
        })?;
        process::spawn_as(exec, inherited, stdio, Birth::Anywhere)
            .map(|pid| (pid, None))
            .map_err(|error| unusable(format!("criu cannot be started: {error}")))
    })
}

/// Restores in namespaces of its own: needs no privilege.
fn in_namespace(
    request: &Request<'_>,
    criu: &Criu,
    record: &Record,
    started: Instant,
) -> Result<Restored, CannotRestore> {
    if !privilege::current().root && privilege::of_a_cold_start().permitted != 0 {
        return Err(CannotRestore::NotInNamespace(
            "the caller's capabilities mean nothing in a user namespace of its own",
        ));
    }
    if record.pids.contains(&1) {
        return Err(CannotRestore::NotInNamespace("its pid is 1, which is the init's there"));
    }
    let owner = pids::namespace_owner();
    let offsets = pids::namespace::offsets(record.clocks.0, record.clocks.1);
    let time = match (owner, offsets) {
        (Owner::AsWeAre, _) => Time::Ours,
        (Owner::OwnUser, Some(offsets)) => Time::Shifted(offsets),
        (Owner::OwnUser, None) if request.clock == Clock::Machines && !has_other_clocks(record) => {
            Time::Ours
        }
        (Owner::OwnUser, None) => return Err(CannotRestore::OtherBoot),
    };
    // CRIU and what it starts must not sit on a pid of the program's.
    let highest = record.pids.iter().copied().max().unwrap_or(record.pid);
    let ahead = highest.saturating_add(AHEAD);
    let last_pid = if ahead < LAST_PID_MAX { ahead } else { 1 };
    attempt(request, criu, record, started, Strategy::Namespace, &|exec, inherited, stdio| {
        let program = inside::Program { exec, inherited, stdio, ward: record.pid, last_pid };
        inside::execute(owner, time, program)
            .map(|(pid, enclosure)| (pid, Some(enclosure)))
            .map_err(CannotRestore::NoNamespaces)
    })
}

fn has_other_clocks(record: &Record) -> bool {
    host::are_other_clocks(&record.boot_id, Some(record.clocks))
}

type Start<'a> = dyn Fn(&mut Exec, &Inherited, [Option<RawFd>; 3]) -> Result<(i32, Option<Enclosure>), CannotRestore>
    + 'a;

fn attempt(
    request: &Request<'_>,
    criu: &Criu,
    record: &Record,
    started: Instant,
    strategy: Strategy,
    start: &Start<'_>,
) -> Result<Restored, CannotRestore> {
    let lent = lend(request, record)?;
    let mut log = tool::log().map_err(|error| unusable(format!("no file in memory: {error}")))?;
    let mut exec = command(request, criu, &lent)?;
    let made = make_files(record)?;
    let said = Some(log.as_raw_fd());
    let mut watch = Watch::begin();
    let before_clone = started.elapsed();
    let (pid, enclosure) = start(&mut exec, &Inherited::nothing(), [None, said, said])
        .inspect_err(|_| remove(&made))?;
    drop(lent);
    if let Some(enclosure) = &enclosure {
        watch.except(enclosure.init());
    }
    let deadline = request.deadline + Duration::from_millis(record.len_pages / (SLOW_READ / 1000));
    let result = wait(pid, deadline).and_then(|status| match status.success() {
        true => release(record, &watch, pid, enclosure.is_some(), deadline),
        false => Err(reason(&tool::said(&mut log), status)),
    });
    match result {
        Ok(program) => Ok(Restored {
            pid: program,
            app_pid: record.pid,
            pids: strategy,
            engine: Engine::Criu,
            enclosure,
            before_clone,
            total: started.elapsed(),
        }),
        Err(reason) => {
            let is_raced = record.files.iter().any(|it| it.content.is_some() && !it.path.exists());
            let all = watch.end_all();
            if let Some(enclosure) = enclosure {
                enclosure.end();
            }
            remove(&made);
            if !all {
                return Err(unusable(format!("{reason}, and some of it cannot be ended")));
            }
            match reason {
                CannotRestore::Step { step, errno } if is_raced => {
                    Err(CannotRestore::Raced { step, errno })
                }
                reason => Err(reason),
            }
        }
    }
}

/// Duplicates the caller's descriptors to where CRIU inherits them.
fn lend(request: &Request<'_>, record: &Record) -> Result<Vec<(RawFd, OwnedFd)>, CannotRestore> {
    let duplicate = |number: &RawFd| {
        if *number > 2 && !request.keep.contains(number) {
            return Err(unusable(format!("descriptor {number} is not kept (--keep-fd)")));
        }
        crate::sys::pidfd::duplicate_to_pass_on(*number, LENT_FROM)
            .map(|lent| (*number, lent))
            .map_err(|error| unusable(format!("descriptor {number}: {error}")))
    };
    record.callers.iter().map(duplicate).collect()
}

/// Builds CRIU's command line.
fn command(
    request: &Request<'_>,
    criu: &Criu,
    lent: &[(RawFd, OwnedFd)],
) -> Result<Exec, CannotRestore> {
    let mut words: Vec<Vec<u8>> = vec![criu.path().as_os_str().as_bytes().to_vec()];
    let mut add = |word: &str| words.push(word.into());
    // Detached, as a sibling, left stopped; nothing is written anywhere.
    for word in
        ["restore", "--no-default-config", "-d", "-S", "-s", "-v1", "-o", "-", "-W", "/proc"]
    {
        add(word);
    }
    for word in ["--shell-job", "--file-locks", "--manage-cgroups=ignore"] {
        add(word);
    }
    if !privilege::current().root {
        add("--unprivileged");
    }
    for (number, fd) in lent {
        add("--inherit-fd");
        add(&format!("fd[{}]:{}", fd.as_raw_fd(), edit::name_of(*number)));
    }
    add("-D");
    words.push(request.dir.as_os_str().as_bytes().to_vec());
    let mut env = vec![format!("PATH={}", tool::SAFE_PATH).into_bytes()];
    if let Some(dir) = &criu.runtime_dir {
        env.push([b"XDG_RUNTIME_DIR=", dir.as_os_str().as_bytes()].concat());
    }
    let strings = |list: Vec<Vec<u8>>| -> Result<Vec<CString>, CannotRestore> {
        let strings = list.into_iter().map(CString::new).collect::<Result<_, _>>();
        strings.map_err(|_| unusable("a path holds a NUL byte"))
    };
    let argv = strings(words)?;
    Ok(Exec::new(argv[..1].to_vec(), argv, strings(env)?))
}

/// Makes the files that CRIU insists on; returns those that were not there.
fn make_files(record: &Record) -> Result<Vec<&Path>, CannotRestore> {
    let mut made = Vec::new();
    for file in &record.files {
        match file.make() {
            Ok(true) => made.push(file.path.as_path()),
            Ok(false) => {}
            Err(error) => {
                remove(&made);
                return Err(unusable(format!("{}: {error}", file.path.display())));
            }
        }
    }
    Ok(made)
}

fn remove(made: &[&Path]) {
    for path in made {
        // Nothing depends on them without the program.
        let _ = fs::remove_file(path);
    }
}

/// Waits for CRIU itself.
fn wait(pid: i32, deadline: Duration) -> Result<ExitStatus, CannotRestore> {
    let end = Instant::now() + deadline;
    loop {
        match process::changed(pid) {
            Ok(Some(Change::Exited(status))) => return Ok(ExitStatus::from_raw(status << 8)),
            Ok(Some(Change::Killed(signal))) => return Ok(ExitStatus::from_raw(signal)),
            Ok(_) if Instant::now() > end => return Err(CannotRestore::Deadline(deadline)),
            Ok(_) => std::thread::sleep(PAUSE),
            Err(error) => return Err(unusable(format!("waiting for criu: {error}"))),
        }
    }
}

/// Finds the program, looks at it, and lets it go; returns its pid as we see it.
fn release(
    record: &Record,
    watch: &Watch,
    criu: i32,
    is_inside: bool,
    deadline: Duration,
) -> Result<i32, CannotRestore> {
    let newcomers: Vec<i32> = watch.newcomers().into_iter().filter(|pid| *pid != criu).collect();
    let program = match newcomers[..] {
        [program] if is_inside || program == record.pid => program,
        _ => return Err(unusable("criu has not made the program as our child")),
    };
    let end = Instant::now() + deadline;
    loop {
        match process::changed(program) {
            Ok(Some(Change::Stopped(_))) => break,
            Ok(Some(Change::Exited(_) | Change::Killed(_))) | Err(_) => {
                return Err(unusable("the program did not live through its restore"));
            }
            Ok(_) if Instant::now() > end => return Err(CannotRestore::Deadline(deadline)),
            Ok(_) => std::thread::sleep(PAUSE),
        }
    }
    let all = offspring::tree(program);
    for pid in &all {
        check_rights(*pid, is_inside)?;
        set_coredump_filter(*pid, record)?;
    }
    // Children first: what their parent finds is awake.
    for pid in all.iter().rev() {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
    }
    Ok(program)
}

/// Sets which memory a core dump of a process holds, which is in no image.
fn set_coredump_filter(pid: i32, record: &Record) -> Result<(), CannotRestore> {
    if record.coredump_filters.is_empty() {
        return Ok(());
    }
    // What it is called in its own namespace.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = ids.and_then(|ids| ids.split_ascii_whitespace().last()?.parse().ok()).unwrap_or(pid);
    let Some((_, filter)) = record.coredump_filters.iter().find(|(known, _)| *known == own) else {
        return Ok(());
    };
    let path = format!("/proc/{pid}/coredump_filter");
    fs::write(&path, format!("{filter:#x}")).map_err(|error| unusable(format!("{path}: {error}")))
}

/// Refuses a process that may do what a cold start would not have allowed it:
/// no line of it has run yet.
fn check_rights(pid: i32, is_inside: bool) -> Result<(), CannotRestore> {
    if privilege::current().root {
        return Ok(());
    }
    let allowed = if is_inside { 0 } else { privilege::of_a_cold_start().permitted };
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.map_err(|error| unusable(format!("process {pid}: {error}")))?.flatten() {
        let text = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        for key in ["CapPrm:", "CapEff:", "CapAmb:", "CapInh:"] {
            let set = text.lines().find_map(|line| line.strip_prefix(key));
            let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
            if set.is_none_or(|set| set & !allowed != 0) {
                return Err(unusable(format!("process {pid} came back with capabilities")));
            }
        }
    }
    Ok(())
}

/// Says why CRIU did not restore, by what it says.
fn reason(said: &[u8], status: ExitStatus) -> CannotRestore {
    let text = String::from_utf8_lossy(said).into_owned();
    let taken = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("Can't fork for ")?;
        let (pid, why) = rest.split_once(':')?;
        pid.trim().parse().ok().filter(|_| why.contains("File exists"))
    });
    if let Some(pid) = taken {
        return CannotRestore::PidTaken(pid);
    }
    let complaint = tool::complaint(said, status);
    if complaint.contains("Address already in use") {
        return CannotRestore::AddressInUse(complaint);
    }
    let (step, errno) = complaint.split_once(": ").unwrap_or(("criu", &complaint));
    CannotRestore::Step { step: step.into(), errno: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_criu_says_becomes_a_reason() {
        let status = ExitStatus::from_raw(1 << 8);
        let said = |text: &str| reason(text.as_bytes(), status);
        let taken = "(00.01) 4711: Error (criu/cr-restore.c:1): Can't fork for 4711: File exists\n";
        assert_eq!(said(taken), CannotRestore::PidTaken(4711));
        let bound =
            "Error (criu/sk-inet.c:1): Can't bind inet socket (id 3): Address already in use\n";
        assert!(matches!(said(bound), CannotRestore::AddressInUse(_)));
        let other = said("Error (criu/files-reg.c:1): File x has bad size 3 (expect 4)\n");
        assert_eq!(other.to_string(), "criu: File x has bad size 3 (expect 4)");
        assert_eq!(said("").to_string(), "criu: it ended with status 1");
    }
}
