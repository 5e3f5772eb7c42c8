//! Files that were deleted while the program had them open or mapped: made
//! anew, opened and mapped as often as they were, and deleted again.

use std::collections::BTreeMap;

use super::super::memory;
use super::{Check, Numbers, Planner, PlannerError, Target, value};
use crate::image::proto::{FdinfoEntry, RegFileEntry, RemapType, VmaEntry};
use crate::image::{GhostContent, GhostFile, Task};
use crate::restore::plan::{AT_FDCWD, Arg};

/// What opening a file again must not repeat.
const ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_TMPFILE;

/// Content is written in pieces of this size, less those of zeros.
const PIECE: usize = 1 << 16;

/// A deleted file and what refers to it.
#[derive(Default)]
struct Uses<'a> {
    /// Its open file descriptions, each with its first descriptor.
    open: Vec<&'a FdinfoEntry>,
    /// Its areas.
    vmas: Vec<&'a VmaEntry>,
}

impl<'a> Uses<'a> {
    fn opened(&mut self, entry: &'a FdinfoEntry) {
        if self.open.iter().all(|known| known.id != entry.id) {
            self.open.push(entry);
        }
    }

    /// Returns the id of a file that has its name.
    fn any(&self) -> Option<u32> {
        let mapped = self.vmas.first().and_then(|vma| u32::try_from(vma.shmid).ok());
        self.open.first().map(|entry| entry.id).or(mapped)
    }
}

/// Finds what is not zeros: where it begins, and its bytes.
fn runs(content: &[u8]) -> Vec<(usize, &[u8])> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, piece) in content.chunks(PIECE).enumerate() {
        let start = index * PIECE;
        if piece.iter().all(|byte| *byte == 0) {
            continue;
        }
        match runs.last_mut().filter(|(_, end)| *end == start) {
            Some((_, end)) => *end += piece.len(),
            None => runs.push((start, start + piece.len())),
        }
    }
    runs.into_iter().map(|(start, end)| (start, &content[start..end])).collect()
}

impl Planner<'_> {
    /// Returns the deleted file that a file of the image is.
    fn ghost(&self, id: u32) -> Option<&GhostFile> {
        let is_ghost = |kind: Option<i32>| kind == Some(RemapType::Ghost as i32);
        let mut remaps = self.set.remaps.iter();
        let remap = remaps.find(|remap| remap.orig_id == id && is_ghost(remap.remap_type))?;
        self.set.ghosts.iter().find(|ghost| ghost.id == remap.remap_id)
    }

    /// Makes every deleted file that is open and not there yet, with all its
    /// descriptors: before the others, since all of one file are opened while
    /// one of its own is open.
    pub(super) fn ghosts(
        &mut self,
        own: &[&FdinfoEntry],
        highest: i32,
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let mut all: BTreeMap<u32, Uses<'_>> = BTreeMap::new();
        for entry in own.iter().filter(|entry| !made.contains_key(&entry.id)) {
            if let Some(ghost) = self.ghost(entry.id) {
                all.entry(ghost.id).or_default().opened(entry);
            }
        }
        self.make_ghosts(all, highest, made, numbers)
    }

    /// Makes every deleted file that is mapped, maps it, and leaves it open
    /// where it was open; those that are handed over are there already.
    pub(in crate::restore::planner) fn mapped_ghosts(
        &mut self,
        task: &Task,
        vmas: &[&VmaEntry],
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let mut all: BTreeMap<u32, Uses<'_>> = BTreeMap::new();
        for &vma in vmas {
            let id = u32::try_from(vma.shmid).unwrap_or(0);
            if let Some(slot) = self.family.and_then(|family| family.slots().get(&id)) {
                self.map_ghost(vma, *slot);
            } else if let Some(ghost) = self.ghost(id) {
                all.entry(ghost.id).or_default().vmas.push(vma);
            }
        }
        let given = |fd: u32| self.facts.given.iter().any(|given| given.fd == fd as i32);
        for entry in task.fdinfo.iter().filter(|entry| !given(entry.fd)) {
            if let Some(uses) = self.ghost(entry.id).and_then(|ghost| all.get_mut(&ghost.id)) {
                uses.opened(entry);
            }
        }
        let highest = task.fdinfo.iter().map(|entry| entry.fd as i32).max();
        self.make_ghosts(all, highest.unwrap_or(3).max(3), made, numbers)
    }

    /// Returns whether a file of the image is a deleted one.
    pub(in crate::restore::planner) fn is_ghost(&self, id: u64) -> bool {
        u32::try_from(id).is_ok_and(|id| self.ghost(id).is_some())
    }

    fn make_ghosts(
        &mut self,
        all: BTreeMap<u32, Uses<'_>>,
        highest: i32,
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        for (id, uses) in all {
            let set = self.set;
            let Some(ghost) = set.ghosts.iter().find(|ghost| ghost.id == id) else { continue };
            let Some(named) = uses.any() else { continue };
            let aside = self.make_ghost(ghost, named, highest, numbers)?;
            for entry in uses.open {
                let file = self.file(entry.id)?;
                let wrong = || PlannerError::Inconsistent(format!("file {id} has no path"));
                let reg = file.reg.clone().ok_or_else(wrong)?;
                self.open_ghost(&reg, aside, &Target::of(entry), numbers);
                made.insert(entry.id, entry.fd as i32);
            }
            for vma in uses.vmas {
                self.map_own_ghost(vma, aside, numbers);
            }
            let mode = ghost.entry.mode & 0o7777;
            self.must(libc::SYS_fchmod, &[value(aside), value(mode)]);
            self.must(libc::SYS_close, &[value(aside)]);
        }
        Ok(())
    }

    fn map_ghost(&mut self, vma: &VmaEntry, fd: i32) {
        let flags = memory::map_flags(vma);
        self.map(vma.start, vma.end - vma.start, vma.prot, flags, value(fd), vma.pgoff);
    }

    /// Maps an area; one that could never be made writable by way of a
    /// descriptor that cannot write.
    fn map_own_ghost(&mut self, vma: &VmaEntry, aside: i32, numbers: &Numbers) {
        if vma.fdflags.is_none_or(|flags| flags as i32 & libc::O_ACCMODE == libc::O_RDWR) {
            return self.map_ghost(vma, aside);
        }
        let path = self.data.path(format!("/proc/self/fd/{aside}").as_bytes());
        let fd = numbers.lowest_free();
        let flags = value(libc::O_RDONLY | libc::O_CLOEXEC);
        let args = [Arg::Value(AT_FDCWD), path, flags, value(0)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(fd)));
        self.map_ghost(vma, fd);
        self.must(libc::SYS_close, &[value(fd)]);
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
        self.ghost_content(content, fd);
        if fd != aside {
            self.must(libc::SYS_dup3, &[value(fd), value(aside), value(0)]);
            self.must(libc::SYS_close, &[value(fd)]);
        }
        Ok(aside)
    }

    /// Writes what is in a new file; pages of zeros at its end, or many of
    /// them between others, are left to be holes.
    fn ghost_content(&mut self, content: &[u8], fd: i32) {
        let mut at = 0;
        for (start, run) in runs(content) {
            if start != at {
                let seek = [value(fd), value(start), value(libc::SEEK_SET)];
                self.push(libc::SYS_lseek, &seek, Check::Equals(start as i64));
            }
            let bytes = Arg::Data(self.data.put(run));
            let args = [value(fd), bytes, value(run.len())];
            self.push(libc::SYS_write, &args, Check::Equals(run.len() as i64));
            at = start + run.len();
        }
        if at != content.len() {
            self.must(libc::SYS_ftruncate, &[value(fd), value(content.len())]);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zeros_is_left_out() {
        assert!(runs(&[]).is_empty() && runs(&[0; 3 * PIECE]).is_empty());
        let mut content = vec![0; 5 * PIECE + 7];
        content[3] = 1;
        content[PIECE] = 2;
        content[5 * PIECE + 6] = 3;
        let found: Vec<_> = runs(&content).iter().map(|(at, run)| (*at, run.len())).collect();
        assert_eq!(found, [(0, 2 * PIECE), (5 * PIECE, 7)]);
    }
}
