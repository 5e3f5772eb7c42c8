//! Named pipes.

use super::{Check, Numbers, Planner, PlannerError, Target, value};
use crate::image::proto::FileEntry;
use crate::restore::plan::{AT_FDCWD, Arg};

impl Planner<'_> {
    /// Opens a named pipe. To open one end waits for the other, or fails: so
    /// both are open for the moment.
    pub(super) fn fifo(
        &mut self,
        file: &FileEntry,
        target: &Target,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let wrong = || PlannerError::Inconsistent(format!("fd {}: no named pipe", target.fd));
        let fifo = file.fifo.ok_or_else(wrong)?;
        let path_id = fifo.regf_id.ok_or_else(wrong)?;
        let name = self.path_of(path_id)?.to_vec();
        let name = self.data.path(&name);
        let own_flags = self.file(path_id)?.reg.as_ref().map_or(0, |reg| reg.flags);
        let both = numbers.lowest_free();
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let args = [Arg::Value(AT_FDCWD), name, value(flags), value(0)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(both)));
        numbers.take(both);
        let set = self.set;
        let queued = set.fifo_data.iter().find(|queued| queued.entry.pipe_id == fifo.pipe_id);
        let size = queued.and_then(|queued| queued.entry.size);
        if let Some(size) = size {
            // Nothing but a pipe has a size: the path leads to one still.
            let args = [value(both), value(libc::F_SETPIPE_SZ), value(size)];
            self.must(libc::SYS_fcntl, &args);
        }
        let once = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) as u32;
        let flags = own_flags & !once | target.flag() as u32;
        let fd = numbers.lowest_free();
        let args = [Arg::Value(AT_FDCWD), name, value(flags), value(0)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(fd)));
        if let Some(queued) = queued.filter(|queued| !queued.data.is_empty())
            && !self.made_pipes.contains(&fifo.pipe_id)
        {
            let len = queued.data.len();
            let bytes = Arg::Data(self.data.put(&queued.data));
            let args = [value(both), bytes, value(len)];
            self.push(libc::SYS_write, &args, Check::Equals(len as i64));
        }
        self.made_pipes.push(fifo.pipe_id);
        if target.fd == both {
            // Its place is taken by the helper: that goes first.
            self.must(libc::SYS_close, &[value(both)]);
            numbers.give_back(both);
            self.settle(fd, target, numbers);
        } else {
            self.settle(fd, target, numbers);
            self.must(libc::SYS_close, &[value(both)]);
            numbers.give_back(both);
        }
        Ok(())
    }
}
