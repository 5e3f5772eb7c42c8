//! `idle`: the program has little to do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Quiet means less than a CPU divided by this: 5%.
///
/// An idle HotSpot burns 0.03 to 0.5 ms in 200 ms, a big server 5 ms.
const CPU_SHARE: u32 = 20;
/// Samples that a window is divided into, so that a window of a minute does
/// not keep thousands of them.
const SAMPLES: u32 = 32;

/// How many looks in a row must find no thread held up: on a busy machine, or
/// while it reads from a slow disk, a program that starts uses little of a CPU,
/// too.
const LOOKS: u32 = 5;

/// The CPU time that a program used lately.
#[derive(Debug)]
pub(super) struct Idle {
    window: Duration,
    /// When, and the CPU time used up to then; the first is at least a window
    /// old, as soon as there is one so old.
    samples: VecDeque<(Instant, Duration)>,
    /// Looks since a thread was last seen held up.
    looks: u32,
}

impl Idle {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new(), looks: 0 }
    }

    /// Forgets the past: a program that stands still because it was stopped
    /// is not idle.
    pub(super) fn reset(&mut self) {
        self.samples.clear();
        self.looks = 0;
    }

    /// Takes one look at whether a thread of the quiet program is held up, and
    /// tells whether none was for some looks.
    pub(super) fn at_rest(&mut self, held_up: bool) -> bool {
        if held_up {
            self.reset();
        } else {
            self.looks += 1;
        }
        self.looks >= LOOKS
    }

    /// Tells whether the program was quiet over the window that ends now,
    /// given the CPU time that it has used in all.
    pub(super) fn quiet(&mut self, now: Instant, used: Duration) -> bool {
        let age = |at: Instant| now.saturating_duration_since(at);
        while self.samples.get(1).is_some_and(|&(at, _)| age(at) >= self.window) {
            self.samples.pop_front();
        }
        let spaced = self.samples.back().is_none_or(|&(at, _)| age(at) >= self.window / SAMPLES);
        if spaced {
            self.samples.push_back((now, used));
        }
        let quiet = self.samples.front().is_some_and(|&(at, before)| {
            age(at) >= self.window && used.saturating_sub(before) * CPU_SHARE < age(at)
        });
        if !quiet {
            self.looks = 0;
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn needs_a_whole_window() {
        let begun = Instant::now();
        let mut idle = Idle::new(200 * MS);
        for at in (0..200).step_by(10) {
            assert!(!idle.quiet(begun + at * MS, Duration::ZERO), "{at}");
        }
        assert!(idle.quiet(begun + 200 * MS, Duration::ZERO));
    }

    #[test]
    fn a_burst_is_remembered_for_a_window_and_no_longer() {
        let begun = Instant::now();
        let mut idle = Idle::new(200 * MS);
        for at in (0..1000).step_by(10) {
            let quiet = idle.quiet(begun + at * MS, Duration::ZERO);
            assert_eq!(quiet, at >= 200);
        }
        for at in (1000..1400).step_by(10) {
            let quiet = idle.quiet(begun + at * MS, 11 * MS);
            assert_eq!(quiet, at >= 1200, "{at}");
        }
    }

    /// Tomcat was captured in the middle of its start: it was reading jars from
    /// a busy disk.
    #[test]
    fn a_program_that_waits_for_a_disk_is_not_idle() {
        let mut idle = Idle::new(200 * MS);
        for look in [false, false, false, false, true, false, false, false, false] {
            assert!(!idle.at_rest(look));
        }
        assert!(idle.at_rest(false));
    }

    #[test]
    fn just_under_and_just_over_the_share() {
        for (permille, expected) in [(49, true), (50, false), (51, false)] {
            let begun = Instant::now();
            let mut idle = Idle::new(200 * MS);
            let mut last = false;
            for at in 0..=500u32 {
                last = idle.quiet(begun + at * MS, at * MS * permille / 1000);
            }
            assert_eq!(last, expected, "{permille}");
        }
    }

    #[test]
    fn a_long_window_keeps_few_samples() {
        let begun = Instant::now();
        let mut idle = Idle::new(60_000 * MS);
        for at in (0..200_000).step_by(10) {
            idle.quiet(begun + at * MS, Duration::ZERO);
        }
        assert!(idle.samples.len() <= SAMPLES as usize + 2);
    }
}
