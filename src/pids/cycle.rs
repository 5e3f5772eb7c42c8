//! Any pid without any privilege: passing over pids until it is next.
//!
//! Each step takes a pid and gives it back ([`birth::use_up_pid`], 10 µs).
//! Others make processes meanwhile, which only helps as long as they do not
//! pass the goal: the cursor is read before each step, and steps are taken one
//! by one. Whoever passes it makes us go all around; `budget` says how far we
//! may go. Taken pids on the way cost nothing, the kernel skips them.

use super::cursor::{self, Cursor};
use super::{PositionError, Unavailable, check_range};
use crate::sys::birth;

/// Steps without any effect after which the cursor counts as not ours: a
/// sandbox or a container may show another one in `/proc/loadavg`.
const STEPS_IN_VAIN: u32 = 8;

/// Passes over pids, as long as the budget lasts.
#[derive(Debug)]
pub struct Cycle {
    cursor: Cursor,
    /// Steps that are left.
    left: u32,
}

impl Cycle {
    /// Makes one with a budget: the number of pids that it may use up in all.
    pub fn new(budget: u32) -> Result<Self, Unavailable> {
        Ok(Self { cursor: Cursor::open()?, left: budget })
    }

    /// Returns what is left of the budget.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Makes `next` the pid of the next task.
    pub fn position(&mut self, next: i32) -> Result<(), PositionError> {
        let pid_max = self.cursor.pid_max();
        check_range(next, &(1..=pid_max - 1))?;
        let mut before = None;
        let mut in_vain = 0;
        loop {
            let last = self.cursor.last().map_err(|_| Unavailable::NoCursor)?;
            let needed =
                cursor::distance(last, next, pid_max).ok_or(PositionError::Reserved(next))?;
            if needed == 0 {
                return Ok(());
            }
            if needed > self.left {
                return Err(PositionError::Budget { pid: next, needed, left: self.left });
            }
            in_vain = if before == Some(last) { in_vain + 1 } else { 0 };
            if in_vain == STEPS_IN_VAIN {
                return Err(Unavailable::NoCursor.into());
            }
            before = Some(last);
            birth::use_up_pid().map_err(|source| PositionError::Step { step: "clone", source })?;
            self.left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_is_refused_before_a_step() {
        let mut cycle = Cycle::new(10).unwrap();
        let pid_max = cycle.cursor.pid_max();
        for pid in [0, -1, pid_max, i32::MAX] {
            assert!(matches!(cycle.position(pid), Err(PositionError::OutOfRange { .. })), "{pid}");
        }
        // Pid 1 was the first of all.
        assert!(matches!(cycle.position(1), Err(PositionError::Reserved(1))));
        let far = cursor::next_after(cycle.cursor.last().unwrap() + 2000, pid_max);
        let refused = cycle.position(far);
        assert!(matches!(refused, Err(PositionError::Budget { left: 10, .. })), "{refused:?}");
        assert_eq!(cycle.left(), 10);
    }
}
