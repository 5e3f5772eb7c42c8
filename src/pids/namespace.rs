//! A pid namespace of one's own, in which every pid is free, with a mount
//! namespace for its `/proc` and a time namespace for clocks that go on from
//! where they were (`pid_namespaces(7)`, `time_namespaces(7)`).

use nix::time::{ClockId, clock_gettime};

use super::ChildCode;
use crate::sys::inside::{self, Child};
use crate::sys::namespaces::{Enclosure, Failed, Offsets, Time};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Makes a child with this pid in namespaces of its own that runs `code`, and
/// returns its pid as we see it.
///
/// Needs no privilege: where we have none there is a user namespace as well,
/// and `code` has to drop the capabilities that it gives. A child with every
/// capability in a user namespace of its own has none over anything outside.
pub fn start(pid: i32, code: ChildCode, time: Time) -> Result<(i32, Enclosure), Failed> {
    let ChildCode { interpreter, entry, report } = code;
    let child = Child { pid, code: interpreter, program: entry, report };
    inside::start(super::namespace_owner(), time, child)
}

/// Returns what must be added to the machine's clocks so that they show these
/// values now, in ns; `None` where there are no time namespaces (Linux 5.6,
/// CONFIG_TIME_NS).
pub fn offsets(monotonic: u64, boottime: u64) -> Option<Offsets> {
    let own = own_offsets(&std::fs::read_to_string("/proc/self/timens_offsets").ok()?)?;
    let now = |clock| {
        let time = clock_gettime(clock).ok()?;
        time.tv_sec().checked_mul(NS_PER_SECOND)?.checked_add(time.tv_nsec())
    };
    let offset = |then: u64, clock, own: i64| {
        i64::try_from(then).ok()?.checked_sub(now(clock)?)?.checked_add(own)
    };
    Some(Offsets {
        monotonic: offset(monotonic, ClockId::CLOCK_MONOTONIC, own.monotonic)?,
        boottime: offset(boottime, ClockId::CLOCK_BOOTTIME, own.boottime)?,
    })
}

/// Reads the offsets of the namespace that we are in: lines of a clock's name
/// (a number before Linux 5.11), seconds and nanoseconds.
fn own_offsets(text: &str) -> Option<Offsets> {
    let mut own = Offsets::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (clock, seconds, ns) = (words.next()?, words.next()?, words.next()?);
        let seconds: i64 = seconds.parse().ok()?;
        let offset = seconds.checked_mul(NS_PER_SECOND)?.checked_add(ns.parse().ok()?)?;
        match clock {
            "monotonic" | "1" => own.monotonic = offset,
            "boottime" | "7" => own.boottime = offset,
            _ => {}
        }
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_the_own_namespace_are_read() {
        let text = "monotonic           0         0\nboottime          -2 500000000\n";
        let own = own_offsets(text).unwrap();
        assert_eq!(own, Offsets { monotonic: 0, boottime: -1_500_000_000 });
        assert_eq!(own_offsets("monotonic 1"), None);
        assert_eq!(own_offsets("monotonic 1 x"), None);
    }

    #[test]
    fn clocks_go_on_from_what_is_asked_for() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let now = now.tv_sec() * NS_PER_SECOND + now.tv_nsec();
        let hour = 3600 * NS_PER_SECOND;
        let offsets = offsets((now + hour) as u64, 0).unwrap();
        assert!((hour - NS_PER_SECOND..=hour).contains(&offsets.monotonic), "{offsets:?}");
        assert!(offsets.boottime < 0);
    }
}
