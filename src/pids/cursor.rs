//! The kernel's pid cursor: which pid the next task of our pid namespace gets.
//!
//! The kernel hands pids out in ascending order (`kernel/pid.c`, `alloc_pid`):
//! from the one after the last on, whatever is free, up to `pid_max` - 1; then
//! again from [`RESERVED_PIDS`] on. It tells the last one as the last field of
//! `/proc/loadavg` (`proc_loadavg(5)`), to everybody, and for the reader's own
//! pid namespace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Unavailable;

/// The lowest pid that is handed out after the first round.
pub const RESERVED_PIDS: i32 = 300;

/// Reads the cursor: 0.6 µs a time here.
#[derive(Debug)]
pub struct Cursor {
    loadavg: File,
    pid_max: i32,
}

impl Cursor {
    /// Opens what tells it; fails where `/proc` has neither.
    pub fn open() -> Result<Self, Unavailable> {
        let pid_max = pid_max().ok_or(Unavailable::NoCursor)?;
        let loadavg = File::open("/proc/loadavg").map_err(|_| Unavailable::NoCursor)?;
        let cursor = Self { loadavg, pid_max };
        cursor.last().map_err(|_| Unavailable::NoCursor)?;
        Ok(cursor)
    }

    /// Returns the pid that was handed out last.
    pub fn last(&self) -> io::Result<i32> {
        let mut buffer = [0; 128];
        let read = self.loadavg.read_at(&mut buffer, 0)?;
        last_field(&buffer[..read]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns one more than the highest pid.
    pub fn pid_max(&self) -> i32 {
        self.pid_max
    }
}

/// Reads `kernel.pid_max`, of our pid namespace since Linux 6.14.
pub fn pid_max() -> Option<i32> {
    std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

fn last_field(line: &[u8]) -> Option<i32> {
    let line = line.trim_ascii_end();
    let field = &line[line.iter().rposition(|&byte| byte == b' ')? + 1..];
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Returns the pid that follows `last`, if it is free.
pub fn next_after(last: i32, pid_max: i32) -> i32 {
    if last < pid_max - 1 { last + 1 } else { RESERVED_PIDS }
}

/// Returns how many numbers must be passed over until `pid` is next, all of
/// them free; `None` if it never will be.
pub fn distance(last: i32, pid: i32, pid_max: i32) -> Option<u32> {
    let steps = if pid < 1 || pid >= pid_max {
        return None;
    } else if pid > last {
        pid - 1 - last
    } else if pid >= RESERVED_PIDS {
        (pid_max - 1 - last).max(0) + (pid - RESERVED_PIDS)
    } else {
        return None;
    };
    u32::try_from(steps).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_field_is_the_cursor() {
        assert_eq!(last_field(b"0.20 0.18 0.12 1/80 11206\n"), Some(11206));
        for line in [&b""[..], b"\n", b"11206", b"1 x", b"1 \xff"] {
            assert_eq!(last_field(line), None, "{line:?}");
        }
    }

    #[test]
    fn this_machine_tells_its_cursor() {
        let cursor = Cursor::open().unwrap();
        let last = cursor.last().unwrap();
        assert!((1..cursor.pid_max()).contains(&last), "{last}");
    }

    #[test]
    fn after_the_highest_come_the_unreserved() {
        assert_eq!(next_after(7, 32768), 8);
        assert_eq!(next_after(32766, 32768), 32767);
        assert_eq!(next_after(32767, 32768), 300);
        // The maximum was lowered.
        assert_eq!(next_after(40000, 32768), 300);
    }

    #[test]
    fn distances() {
        assert_eq!(distance(999, 1000, 32768), Some(0));
        assert_eq!(distance(1000, 1000, 32768), Some(31767 + 700));
        assert_eq!(distance(32767, 300, 32768), Some(0));
        assert_eq!(distance(40000, 301, 32768), Some(1));
        // Reserved ones only come up before the first round is over.
        assert_eq!(distance(100, 299, 32768), Some(198));
        assert_eq!(distance(299, 299, 32768), None);
        for out in [i32::MIN, -1, 0, 32768, i32::MAX] {
            assert_eq!(distance(100, out, 32768), None, "{out}");
        }
        assert_eq!(distance(4_194_303, 4_194_302, 4_194_304), Some(4_194_002));
    }

    proptest! {
        #[test]
        fn a_distance_is_the_number_of_steps(last in 0..1200i32, pid in 1..1000i32) {
            let pid_max = 1000;
            let mut at = last;
            let mut steps = 0;
            // Two rounds meet every pid that is ever met.
            while next_after(at, pid_max) != pid && steps < 2200 {
                at = next_after(at, pid_max);
                steps += 1;
            }
            let expected = (next_after(at, pid_max) == pid).then_some(steps);
            prop_assert_eq!(distance(last, pid, pid_max), expected);
        }
    }
}
