//! What CRIU would lose without a word: looked for before it dumps, and refused
//! by name.
//!
//! Our own dump refuses what it cannot carry. Most of that CRIU carries (signal-
//! driven descriptors, seccomp filters, other users' ids) or refuses itself
//! (io_uring, userfaultfd), so `auto` may go on to it. The rest it does not look
//! at, or has no place for in its images; that is refused here, in every engine.
//! This is the one place that says which is which, found by the conformance
//! suite (docs/coverage.md) and in CRIU 4.2.1's messages:
//!
//! | what | where it is found |
//! |---|---|
//! | `MLOCK_ONFAULT`, `mseal`, protection keys | `smaps` (`vmas`) |
//! | NUMA policies, of memory and of threads | `numa` |
//! | `mlockall(MCL_FUTURE)`, `PR_SET_MDWE`, `_MEMORY_MERGE`, `_TSC`, `PR_MCE_KILL` | `attributes` |
//! | speculation, user dispatch, I/O flusher, a signal at the parent's death | `attributes` |
//! | AMX, keyrings, Landlock | `unheld` |
//! | undo of System V semaphores | `semaphores` |
//! | threads with descriptors of their own, unshared namespaces | `process` |
//! | processors, timer slack, I/O priority, what a core dump holds | `changed` |
//! | timerfds at a time of day, semaphores of eventfd, options of sockets, inotify | `files` |

use super::{
    After, Capture, Refusal, attributes, changed, files, finish, numa, process, semaphores,
};
use super::{on_a_tracing_thread, tree, unheld, vmas};
use crate::image::Set;
use crate::restore::planner::Facts;
use crate::sys::arch;
use crate::trace::{Group, Remote, Scratch, find_gate};

/// Stops a program, looks at all of its processes, and lets them go on.
///
/// # Errors
/// What `criu dump` would lose; or why it cannot be known.
pub fn check(capture: &Capture<'_>) -> Result<(), Refusal> {
    process::check_workers(capture.pid)?;
    on_a_tracing_thread(|| {
        let stopped = tree::stop(capture.pid)?;
        let groups = || stopped.iter().filter_map(tree::Process::group);
        let pids: Vec<i32> = groups().map(Group::pid).collect();
        let looked = groups().try_for_each(|group| of_process(capture, group, &pids));
        for group in groups() {
            finish(After::Run, group)?;
        }
        looked
    })
}

fn of_process(capture: &Capture<'_>, group: &Group, pids: &[i32]) -> Result<(), Refusal> {
    let pid = group.pid();
    process::check_workers(pid)?;
    process::check_unshared(pid)?;
    process::check_tables(group)?;
    vmas::check_unseen(pid)?;
    files::check_unseen(capture, pid)?;
    for thread in group.threads() {
        if let Err(feature) = arch::decompose(&thread.xstate()?) {
            let what = format!("thread {} uses processor state component {feature}", thread.tid());
            return Err(Refusal::lasting(what));
        }
    }
    let gate = find_gate(group)?;
    let mut remote = Remote::borrow(group.leader(), gate)?;
    let locked = attributes::locked_kib(pid)?;
    let scratch = Scratch::map(&mut remote, pid)?;
    let locks_future = attributes::locked_kib(pid)? > locked;
    drop(remote);
    let asked = by_calls(group, gate, &scratch, pids);
    let mut remote = Remote::borrow(group.leader(), gate)?;
    scratch.unmap(&mut remote)?;
    drop(remote);
    let mut asked = asked?;
    asked.locks_future = locks_future;
    let own = Capture { pid, ..*capture };
    match changed::unseen(&own, &asked)?.without_place()[..] {
        [] => Ok(()),
        ref all => Err(Refusal::lasting(format!("process {pid} has {}", all.join(", ")))),
    }
}

/// Asks what only the process's own calls tell.
fn by_calls(
    group: &Group,
    gate: u64,
    scratch: &Scratch,
    pids: &[i32],
) -> Result<changed::Asked, Refusal> {
    let mut asked = changed::Asked::read(&mut Remote::borrow(group.leader(), gate)?)?;
    for thread in group.threads() {
        let mut remote = Remote::borrow(thread, gate)?;
        let slack = attributes::timer_slack(&mut remote)?;
        let settings = attributes::of_thread(thread, &mut remote, scratch)?;
        numa::check(&mut remote, scratch)?;
        asked.timer_slack.insert(thread.tid(), slack);
        asked.settings.entry(thread.tid()).or_default().extend(settings);
    }
    unheld::check(group, gate, scratch)?;
    semaphores::check(group, pids)?;
    Ok(asked)
}

/// Names what of a program the images of CRIU have no place for; `None` if all
/// of it has one.
pub fn without_place(set: &Set, facts: &[Facts]) -> Option<String> {
    const EFD_SEMAPHORE: u32 = 1;
    let mut all: Vec<&str> = facts.iter().flat_map(|it| it.changed.without_place()).collect();
    let eventfds = set.files.iter().filter_map(|file| file.efd.as_ref());
    if eventfds.into_iter().any(|eventfd| eventfd.flags & EFD_SEMAPHORE != 0) {
        all.push("an eventfd that is a semaphore (EFD_SEMAPHORE)");
    }
    let inotify = set.files.iter().filter_map(|file| file.ify.as_ref());
    if inotify.flat_map(|it| &it.wd).any(|watch| watch.mask & libc::IN_ONESHOT != 0) {
        all.push("inotify that watches for one event (IN_ONESHOT)");
    }
    all.sort_unstable();
    all.dedup();
    (!all.is_empty()).then(|| all.join(", "))
}
