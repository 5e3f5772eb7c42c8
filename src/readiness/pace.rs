//! How often to look, so that looking costs next to nothing.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Between two polls while a program is young.
const EAGER: Duration = Duration::from_millis(10);
/// Between two polls afterwards.
const PATIENT: Duration = Duration::from_millis(20);
/// How long a program is young.
const YOUNG: Duration = Duration::from_secs(2);
/// Between two polls at most.
const SLOWEST: Duration = Duration::from_millis(250);
/// A poll is followed by a pause of at least this many times its cost: less
/// than 1% of a CPU.
const PAUSE_PER_COST: u32 = 100;

/// The cost of polling, and the pause that it asks for.
#[derive(Debug)]
pub(super) struct Pace {
    begun: Instant,
    cost: Duration,
}

impl Pace {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, cost: Duration::ZERO }
    }

    /// Takes note of what a poll cost in CPU time.
    pub(super) fn spent(&mut self, cost: Duration) {
        // A mean over about four polls: the odd expensive one (a new listener,
        // a look for children) need not make the next ones late.
        self.cost = (self.cost * 3 + cost) / 4;
    }

    /// Returns the pause before the next poll.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let usual = if now.saturating_duration_since(self.begun) < YOUNG { EAGER } else { PATIENT };
        (self.cost * PAUSE_PER_COST).clamp(usual, SLOWEST)
    }
}

/// Returns the CPU time of the calling thread: a wall clock would charge us
/// for the time that a busy program takes from us.
pub(super) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_cost_and_age() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(pace.pause(begun), EAGER);
        assert_eq!(pace.pause(begun + YOUNG), PATIENT);
        for _ in 0..50 {
            pace.spent(Duration::from_millis(1));
        }
        let pause = pace.pause(begun);
        assert!(pause > Duration::from_millis(95) && pause <= Duration::from_millis(100));
        pace.spent(Duration::from_secs(9));
        assert_eq!(pace.pause(begun), SLOWEST);
    }
}
