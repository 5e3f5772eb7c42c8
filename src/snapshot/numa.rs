//! Policies for memory on machines of several nodes (`numa(7)`): no image has a
//! place for them, and they are refused by name.

use std::fs;

use super::Refusal;
use crate::trace::{Remote, Scratch};

/// `MPOL_DEFAULT`.
const MPOL_DEFAULT: i32 = 0;

/// Refuses a thread with a policy of its own (`set_mempolicy(2)`).
pub fn check(remote: &mut Remote<'_>, scratch: &Scratch) -> Result<(), Refusal> {
    // Without NUMA the kernel has no such call, and no such policies.
    if remote.call(libc::SYS_get_mempolicy, [scratch.addr(), 0, 0, 0, 0, 0])? != 0 {
        return Ok(());
    }
    match i32::from_le_bytes(scratch.read()?) {
        MPOL_DEFAULT => Ok(()),
        policy => Err(Refusal::lasting(format!(
            "thread {} has a NUMA policy of its own ({policy}, set_mempolicy)",
            remote.tid()
        ))),
    }
}

/// Refuses memory with a policy of its own (`mbind(2)`), by
/// `/proc/PID/numa_maps` (`proc_pid_numa_maps(5)`).
pub fn check_memory(pid: i32) -> Result<(), Refusal> {
    match of_maps(&fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap_or_default()) {
        None => Ok(()),
        Some((start, policy)) => Err(Refusal::lasting(format!(
            "memory at 0x{start} has the NUMA policy {policy} (mbind)"
        ))),
    }
}

/// Returns address and policy of the first area that has another one than the
/// default.
fn of_maps(text: &str) -> Option<(&str, &str)> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.next()?))
    });
    // `prefer (many)` and its like have blanks; the first word tells enough.
    lines.into_iter().find(|(_, policy)| *policy != "default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_policy_than_the_default_is_found() {
        let maps = "55d0 default file=/bin/a mapped=1 N0=1 kernelpagesize_kB=4\n7f00 default\n";
        assert_eq!(of_maps(maps), None);
        let bound = format!("{maps}7f01 bind:0 anon=1 dirty=1 N0=1\n");
        assert_eq!(of_maps(&bound), Some(("7f01", "bind:0")));
        assert_eq!(of_maps(""), None);
    }
}
