//! Files that were deleted while the program had them open: made anew, opened
//! as often as they were, and deleted again.

use std::collections::BTreeMap;

use super::{Check, Numbers, Planner, PlannerError, Target, value};
use crate::image::proto::{FdinfoEntry, RegFileEntry, RemapType};
use crate::image::{GhostContent, GhostFile};
use crate::restore::plan::{AT_FDCWD, Arg};

/// What opening a file again must not repeat.
const ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_TMPFILE;

impl Planner<'_> {
    /// Returns the deleted file that a file of the image is.
    fn ghost(&self, id: u32) -> Option<&GhostFile> {
        let is_ghost = |kind: Option<i32>| kind == Some(RemapType::Ghost as i32);
        let mut remaps = self.set.remaps.iter();
        let remap = remaps.find(|remap| remap.orig_id == id && is_ghost(remap.remap_type))?;
        self.set.ghosts.iter().find(|ghost| ghost.id == remap.remap_id)
    }

    /// Makes every deleted file, with all its descriptors: before the others,
    /// since all of one file are opened while one of its own is open.
    pub(super) fn ghosts(
        &mut self,
        own: &[&FdinfoEntry],
        highest: i32,
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let mut files: BTreeMap<u32, Vec<&FdinfoEntry>> = BTreeMap::new();
        for entry in own {
            if let Some(ghost) = self.ghost(entry.id) {
                let entries = files.entry(ghost.id).or_default();
                if entries.iter().all(|known| known.id != entry.id) {
                    entries.push(entry);
                }
            }
        }
        for (id, entries) in files {
            let set = self.set;
            let Some(ghost) = set.ghosts.iter().find(|ghost| ghost.id == id) else { continue };
            let aside = self.make_ghost(ghost, entries[0].id, highest, numbers)?;
            for entry in entries {
                let file = self.file(entry.id)?;
                let wrong = || PlannerError::Inconsistent(format!("file {id} has no path"));
                let reg = file.reg.clone().ok_or_else(wrong)?;
                self.open_ghost(&reg, aside, &Target::of(entry), numbers);
                made.insert(entry.id, entry.fd as i32);
            }
            let mode = ghost.entry.mode & 0o7777;
            self.must(libc::SYS_fchmod, &[value(aside), value(mode)]);
            self.must(libc::SYS_close, &[value(aside)]);
        }
        Ok(())
    }

    /// Makes the file under the name that it had, which must be free, and
    /// deletes it; returns its descriptor, above all of the program's.
    fn make_ghost(
        &mut self,
        ghost: &GhostFile,
        id: u32,
        highest: i32,
        numbers: &Numbers,
    ) -> Result<i32, PlannerError> {
        let GhostContent::Whole(content) = &ghost.content else {
            let what = format!("deleted file {} has holes", ghost.id);
            return Err(PlannerError::Unsupported(what));
        };
        if ghost.entry.mode & libc::S_IFMT != libc::S_IFREG {
            let what = format!("deleted file {} is no regular one", ghost.id);
            return Err(PlannerError::Unsupported(what));
        }
        let path = self.path_of(id)?.to_vec();
        let name = self.data.path(&path);
        let (at, fd, aside) = (Arg::Value(AT_FDCWD), numbers.lowest_free(), highest + 1);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let args = [at, name, value(flags), value(0o600)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(fd)));
        self.must(libc::SYS_unlinkat, &[at, name, value(0)]);
        if !content.is_empty() {
            let bytes = Arg::Data(self.data.put(content));
            let args = [value(fd), bytes, value(content.len())];
            self.push(libc::SYS_write, &args, Check::Equals(content.len() as i64));
        }
        if fd != aside {
            self.must(libc::SYS_dup3, &[value(fd), value(aside), value(0)]);
            self.must(libc::SYS_close, &[value(fd)]);
        }
        Ok(aside)
    }

    fn open_ghost(
        &mut self,
        reg: &RegFileEntry,
        aside: i32,
        target: &Target,
        numbers: &mut Numbers,
    ) {
        let path = self.data.path(format!("/proc/self/fd/{aside}").as_bytes());
        let flags = reg.flags & !(ONCE | libc::O_NOFOLLOW) as u32 | target.flag() as u32;
        let fd = numbers.lowest_free();
        let args = [Arg::Value(AT_FDCWD), path, value(flags), value(0)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(fd)));
        self.settle(fd, target, numbers);
        if reg.pos != 0 {
            let args = [value(target.fd), value(reg.pos), value(libc::SEEK_SET)];
            self.push(libc::SYS_lseek, &args, Check::Equals(reg.pos as i64));
        }
    }
}
