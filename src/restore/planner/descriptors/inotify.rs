//! What inotify instances watch.

use super::{Check, Planner, PlannerError, value};
use crate::image::proto::InotifyFileEntry;
use crate::restore::plan::SETNEXTWD;

impl Planner<'_> {
    /// Plans the watches, each with its number.
    pub(super) fn inotify(
        &mut self,
        fd: i32,
        inotify: &InotifyFileEntry,
    ) -> Result<(), PlannerError> {
        let mut watches: Vec<_> = inotify.wd.iter().collect();
        watches.sort_by_key(|watch| watch.wd);
        let mut next = 1;
        for watch in watches {
            let wd = watch.wd;
            let path = watch.f_handle.path.as_ref().filter(|path| path.first() == Some(&b'/'));
            let path = path.filter(|path| !path.contains(&0)).ok_or_else(|| {
                let what = format!("fd {fd} is inotify, whose watch {wd} is of a file");
                PlannerError::Unsupported(format!("{what} without a path"))
            })?;
            let path = self.data.path(path);
            if wd != next {
                self.must(libc::SYS_ioctl, &[value(fd), value(SETNEXTWD), value(wd)]);
            }
            let args = [value(fd), path, value(watch.mask)];
            self.push(libc::SYS_inotify_add_watch, &args, Check::Equals(i64::from(wd)));
            next = wd.saturating_add(1);
        }
        Ok(())
    }
}
