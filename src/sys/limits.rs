//! Resource limits: `prlimit(2)`.

use std::io;

/// How many resources there are (`RLIM_NLIMITS`).
pub const COUNT: u32 = 16;

/// Reads the soft and hard limit of a process, 0 for this one; `u64::MAX` is
/// no limit.
pub fn get(pid: i32, resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the old limit; no new one is given.
    let result = unsafe { libc::prlimit64(pid, resource, std::ptr::null(), &mut limit) };
    if result == 0 { Ok((limit.rlim_cur, limit.rlim_max)) } else { Err(io::Error::last_os_error()) }
}

/// Sets the soft and hard limit of this process.
pub fn set(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is only read; the old one is not asked for.
    let result = unsafe { libc::prlimit64(0, resource, &limit, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
