//! Where a program that will be captured gets its pids: where they are
//! unlikely to be taken when it is restored.
//!
//! Pids are handed out in ascending order, so two programs that are started
//! one after the other are neighbours, and the next process of all takes what
//! a restore will want. A captured program is therefore put into a slot of its
//! own, chosen by its entry, far ahead of the cursor: its leader by `set_tid`,
//! its threads because the cursor is moved there while it starts, and put back
//! once it is captured. All of it is best effort: no start fails or waits for
//! it.

use std::fs::File;
use std::ops::RangeInclusive;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::cursor;
use super::last_pid::LastPid;

/// Pids of a slot: more than most programs have threads.
const LEN_SLOT: i32 = 256;
/// How many of them must be free at the start.
const LEN_FREE: i32 = 48;
/// How many slots are looked at.
const TRIES: i32 = 16;
/// Slots this close ahead of the cursor are soon everybody's.
const LEN_AHEAD: u32 = 4096;
/// The lowest pid of a slot: below is what a machine starts with.
const LOWEST: i32 = 2000;

/// A cursor that stands in a slot, until this is dropped.
#[derive(Debug)]
pub struct Placed {
    before: i32,
    slot: RangeInclusive<i32>,
    /// One at a time: the second would take the first one's slot for the place
    /// where the cursor belongs.
    _alone: Flock<File>,
}

/// A file that everybody may lock, and nobody else does.
const LOCK: &str = "/proc/sys/kernel/pid_max";

/// Moves the cursor into a free slot for an entry whose name begins with these
/// bytes, calls `make` with the pid for the leader, and returns what that
/// returned and what puts the cursor back. `None` if there is no placing here,
/// or `make` returned `None`.
pub fn place<T>(entry: [u8; 8], make: impl FnOnce(i32) -> Option<T>) -> Option<(T, Placed)> {
    let alone = Flock::lock(File::open(LOCK).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let mut cursor = LastPid::lock_within(Duration::ZERO).ok()?;
    let before = cursor.before()?;
    let pid_max = cursor::pid_max()?;
    let slots = slots(cursor.range(), before, pid_max, u64::from_le_bytes(entry));
    let slot = slots.into_iter().find(is_free)?;
    cursor.position(*slot.start()).ok()?;
    // From here on the cursor is put back, whatever comes.
    let placed = Placed { before, slot: slot.clone(), _alone: alone };
    let made = make(*slot.start());
    drop(cursor);
    Some((made?, placed))
}

/// Returns the slots of an entry, the best first.
fn slots(
    range: &RangeInclusive<i32>,
    last: i32,
    pid_max: i32,
    entry: u64,
) -> Vec<RangeInclusive<i32>> {
    let (first, end) = ((*range.start()).max(LOWEST), (*range.end()).min(pid_max - 1));
    let count = (end + 1).saturating_sub(first) / LEN_SLOT;
    if count < 1 {
        return Vec::new();
    }
    let own = (entry % count.unsigned_abs() as u64) as i32;
    let slots = (0..TRIES.min(count)).map(|step| first + (own + step) % count * LEN_SLOT);
    slots
        .map(|start| start..=start + LEN_SLOT - 1)
        .filter(|slot| {
            let ahead = cursor::distance(last, *slot.end(), pid_max);
            ahead.is_some_and(|ahead| ahead > LEN_AHEAD.min(pid_max as u32 / 8))
        })
        .collect()
}

fn is_free(slot: &RangeInclusive<i32>) -> bool {
    let taken = |pid: i32| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    !(*slot.start()..slot.start() + LEN_FREE).any(taken)
}

impl Drop for Placed {
    fn drop(&mut self) {
        // Somebody else may have moved it meanwhile: then it is theirs.
        let Ok(mut cursor) = LastPid::lock_within(Duration::from_millis(20)) else { return };
        let stands_here = cursor
            .before()
            .is_some_and(|last| (*self.slot.start() - 1..=*self.slot.end()).contains(&last));
        if stands_here {
            // A cursor that stays costs a neighbourhood, nothing else.
            let _ = cursor.set(self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slots_are_in_range_and_not_just_ahead(
            last in 1i32..32768, entry: u64, low in 1i32..30000, len in 0i32..40000,
        ) {
            let range = low..=low + len;
            for slot in slots(&range, last, 32768, entry) {
                prop_assert!(range.contains(slot.start()) && range.contains(slot.end()));
                prop_assert!(*slot.start() >= LOWEST && *slot.end() < 32768);
                prop_assert!(!slot.contains(&(last + 1)));
            }
        }
    }

    #[test]
    fn entries_have_slots_of_their_own() {
        let starts: std::collections::HashSet<i32> = (0..100)
            .filter_map(|entry| slots(&(1..=32767), 1000, 32768, entry).first().cloned())
            .map(|slot| *slot.start())
            .collect();
        // Those just ahead of the cursor are not used.
        assert!(starts.len() > 70, "{}", starts.len());
        assert!(slots(&(1..=100), 1000, 32768, 7).is_empty());
    }

    #[test]
    fn our_own_pid_makes_a_slot_taken() {
        let own = std::process::id() as i32;
        assert!(!is_free(&(own - 10..=own + 245)));
    }
}
