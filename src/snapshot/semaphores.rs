//! What a program would undo to System V semaphores at its end (SEM_UNDO): the
//! kernel tells nobody what that is, and the end of the captured process undoes
//! it. Refused by name.

use std::fs;
use std::time::SystemTime;

use super::process::Stat;
use super::{Refusal, tree};
use crate::sys::semaphores;
use crate::trace::Group;

/// Refuses a process that has something to undo.
///
/// That there is a list is known of a process of one thread. One of several has
/// a list anyway (`copy_semundo` in the kernel's `ipc/sem.c`): of it is taken
/// what its processes were the last to act upon. Where nobody has acted upon a
/// set since the process began there is nothing to undo.
pub fn check(group: &Group, pids: &[i32]) -> Result<(), Refusal> {
    let pid = group.pid();
    let mut sets = sets(&fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default());
    if sets.is_empty() {
        return Ok(());
    }
    let age = tree::age(&Stat::read(&format!("/proc/{pid}/stat"))?);
    let began = age.and_then(|age| SystemTime::now().checked_sub(age));
    let began = began.and_then(|began| began.duration_since(SystemTime::UNIX_EPOCH).ok());
    // Whole seconds, of a clock that may be behind by a tick.
    let began = began.map_or(0, |began| began.as_secs().saturating_sub(1));
    sets.retain(|set| set.acted_at >= began);
    if sets.is_empty() {
        return Ok(());
    }
    let is_alone = group.threads().len() == 1;
    match semaphores::has_undo_list(pid) {
        Ok(true) if is_alone => {}
        Ok(false) => return Ok(()),
        // Not to be known, or nothing said by it.
        Err(_) | Ok(true) => {
            let acted = |set: &Set| {
                let last = |number| semaphores::last_to_act(set.id, number);
                (0..set.len).map_while(|number| last(number).ok()).any(|last| pids.contains(&last))
            };
            if !sets.iter().any(acted) {
                return Ok(());
            }
        }
    }
    let what = format!("process {pid} may have System V semaphores to undo at its end (SEM_UNDO)");
    Err(Refusal::lasting(what))
}

/// A set of semaphores.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    id: i32,
    len: i32,
    /// When somebody acted upon it last, in seconds since 1970; 0: nobody yet.
    acted_at: u64,
}

/// Parses `/proc/sysvipc/sem` (`proc(5)`): key, id, permissions, number, four
/// ids, the time of the last `semop(2)`, that of the last change.
fn sets(text: &str) -> Vec<Set> {
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let id = words.next()?.parse().ok()?;
        let len = words.nth(1)?.parse().ok()?;
        Some(Set { id, len, acted_at: words.nth(4)?.parse().ok()? })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_the_kernel_lists_them() {
        let text = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
                    \u{20}        0          7   600          3     1     2     3     4 1795327980 1795327979\n";
        assert_eq!(sets(text), [Set { id: 7, len: 3, acted_at: 1_795_327_980 }]);
        assert_eq!(sets(""), []);
    }
}
