//! Who gets a signal when something comes in at a socket (`F_SETOWN`,
//! `O_ASYNC`): nginx's first process, for one.

use std::collections::BTreeMap;

use super::{Planner, PlannerError, nonblock, value};
use crate::image::Task;
use crate::image::proto::FownEntry;

/// `F_SETSIG` (`fcntl(2)`): which signal, if not SIGIO.
const F_SETSIG: i32 = 10;
const ASYNC: u32 = libc::O_ASYNC as u32;

impl Planner<'_> {
    /// Names the owners of sockets that were just made, once nothing more is
    /// put into them: the processes are all there by then.
    pub(super) fn owners(
        &mut self,
        task: &Task,
        made: &BTreeMap<u32, i32>,
    ) -> Result<(), PlannerError> {
        for (id, fd) in made {
            let Some(socket) = self.file(*id)?.usk.as_ref() else { continue };
            let (flags, FownEntry { signum, pid, .. }) = (socket.flags, socket.fown);
            if signum != 0 {
                self.must(libc::SYS_fcntl, &[value(*fd), value(F_SETSIG), value(signum)]);
            }
            if pid != 0 {
                let family = self.family.filter(|family| family.is_root(task));
                if pid != task.pid && !family.is_some_and(|family| family.has(pid)) {
                    let what = format!("fd {fd} is a socket that gives signals to process {pid}");
                    return Err(PlannerError::Unsupported(what));
                }
                self.must(libc::SYS_fcntl, &[value(*fd), value(libc::F_SETOWN), value(pid)]);
            }
            if flags & ASYNC != 0 {
                let flags = ASYNC | nonblock(flags);
                self.must(libc::SYS_fcntl, &[value(*fd), value(libc::F_SETFL), value(flags)]);
            }
        }
        Ok(())
    }
}
