//! Who gets a signal when something comes in (`fcntl(2)`: F_SETOWN, F_SETSIG,
//! O_ASYNC). Carried for Unix sockets, refused by name elsewhere.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::{Descriptor, Reader, Refusal};
use crate::image::proto::FownEntry;
use crate::sys::descriptors::{self, OWNER_PROCESS};

/// What stands in the way.
pub(super) const REFUSED: &str = "to send signals (O_ASYNC, F_SETOWN, F_SETSIG)";

impl Reader<'_> {
    /// Returns the owner of a socket, which must be one of the processes that
    /// are captured; `None` if nobody gets a signal.
    pub(super) fn owner(&self, descriptor: &Descriptor) -> Result<Option<FownEntry>, Refusal> {
        let is_async = descriptor.info.flags & libc::O_ASYNC as u32 != 0;
        // What cannot be duplicated is refused by its kind.
        let duplicate = self.duplicate(descriptor).ok();
        let owner = duplicate.and_then(|it| descriptors::owner(it.as_fd()));
        if owner.is_none() && !is_async {
            return Ok(None);
        }
        if !descriptor.target.as_os_str().as_bytes().starts_with(b"socket:[") {
            return Err(self.refuse(descriptor, REFUSED));
        }
        let Some(owner) = owner else { return Ok(Some(FownEntry::default())) };
        let is_ours = self.family.pids().any(|pid| pid == owner.number);
        if owner.number != 0 && !(owner.kind == OWNER_PROCESS && is_ours) {
            let what = format!("to send signals to {} (F_SETOWN)", owner.number);
            return Err(self.refuse(descriptor, what));
        }
        Ok(Some(FownEntry {
            uid: nix::unistd::getuid().as_raw(),
            euid: nix::unistd::geteuid().as_raw(),
            signum: owner.signal as u32,
            pid_type: OWNER_PROCESS as u32,
            pid: owner.number as u32,
        }))
    }
}
