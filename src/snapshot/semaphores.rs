//! What a program would undo to System V semaphores at its end (SEM_UNDO): the
//! kernel tells nobody what that is, and the end of the captured process undoes
//! it. Refused by name.

use std::fs;

use super::Refusal;
use crate::sys::semaphores;
use crate::trace::Group;

/// Refuses a process that has something to undo.
///
/// That there is a list is known of a process of one thread. One of several has
/// a list anyway (`copy_semundo` in the kernel's `ipc/sem.c`): of it is taken
/// what its processes were the last to act upon. Where there is no set at all
/// there is nothing to undo.
pub fn check(group: &Group, pids: &[i32]) -> Result<(), Refusal> {
    let sets = sets(&fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default());
    if sets.is_empty() {
        return Ok(());
    }
    let pid = group.pid();
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
}

/// Parses `/proc/sysvipc/sem` (`proc(5)`): key, id, permissions, number.
fn sets(text: &str) -> Vec<Set> {
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let id = words.next()?.parse().ok()?;
        Some(Set { id, len: words.nth(1)?.parse().ok()? })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_the_kernel_lists_them() {
        let text = "       key      semid perms      nsems   uid   gid  cuid  cgid\n\
                    \u{20}        0          7   600          3     0     0     0     0\n";
        assert_eq!(sets(text), [Set { id: 7, len: 3 }]);
        assert_eq!(sets(""), []);
    }
}
