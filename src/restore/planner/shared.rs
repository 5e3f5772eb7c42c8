//! Memory that is shared: memfds and shared anonymous memory, which CRIU's
//! format holds as a memfd, too.
//!
//! What several processes have of it the root makes and hands over. All else
//! is made while memory is set up, before any descriptor of the
//! program's: filled through its descriptor, which costs no page faults,
//! mapped wherever it was, and kept open only where the program had it open.

use std::collections::BTreeMap;

use super::descriptors::{Numbers, Target};
use super::{Check, PageMode, Planner, PlannerError, value};
use crate::image::proto::{FdTypes, FdinfoEntry, MemfdFileEntry, MemfdInodeEntry, VmaEntry};
use crate::image::{PageRun, Task, vma_status};
use crate::restore::plan::{AT_FDCWD, Arg, PagesFile};

/// Seals after which no mapping may be made that can be written, and no
/// content put in (`fcntl(2)`, F_ADD_SEALS).
const SEALS_WRITE: u32 = libc::F_SEAL_WRITE as u32;
/// What a file of memory is made with.
const MODE: u32 = 0o777;
/// The most that one call copies (`sendfile(2)`: 0x7ffff000).
const LEN_COPY_MAX: u64 = 1 << 30;
const PROT_COPY: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;

/// A piece of shared memory and what refers to it.
#[derive(Default)]
struct Uses<'a> {
    /// Its areas, with the pages that are private to them.
    vmas: Vec<(&'a VmaEntry, bool)>,
    /// Its open file descriptions, each with its first descriptor.
    open: Vec<(u32, &'a FdinfoEntry, MemfdFileEntry)>,
}

impl Planner<'_> {
    /// Plans all shared memory; `contents` are all areas with their own pages.
    pub(super) fn shared_memory(
        &mut self,
        task: &Task,
        contents: &[(&VmaEntry, Vec<PageRun>)],
        numbers: &mut Numbers,
        made: &mut BTreeMap<u32, i32>,
    ) -> Result<(), PlannerError> {
        let mut all: BTreeMap<u32, Uses<'_>> = BTreeMap::new();
        for (vma, own) in contents {
            if vma.status & vma_status::MEMFD != 0 {
                let id = u32::try_from(vma.shmid).unwrap_or(0);
                let uses = all.entry(self.memfd(id)?.inode_id).or_default();
                uses.vmas.push((vma, !own.is_empty()));
            }
        }
        let mut entries: Vec<&FdinfoEntry> = task.fdinfo.iter().collect();
        entries.sort_by_key(|entry| entry.fd);
        let highest = entries.last().map_or(3, |entry| entry.fd as i32);
        let given = |fd: u32| self.facts.given.iter().any(|given| given.fd == fd as i32);
        for entry in entries.into_iter().filter(|entry| !given(entry.fd)) {
            if self.file(entry.id)?.r#type == FdTypes::Memfd as i32 {
                let memfd = *self.memfd(entry.id)?;
                let uses = all.entry(memfd.inode_id).or_default();
                if uses.open.iter().all(|(id, ..)| *id != entry.id) {
                    uses.open.push((entry.id, entry, memfd));
                }
            }
        }
        for (inode_id, uses) in all {
            let memfds = &self.set.memfds;
            let inode = memfds.iter().find(|memfd| memfd.inode_id == u64::from(inode_id));
            let missing = || PlannerError::Inconsistent(format!("memfd {inode_id} is not there"));
            let inode = inode.ok_or_else(missing)?;
            match self.handed_over(inode_id) {
                Some(slot) => self.map_handed_over(&uses, slot, numbers),
                None => self.memory_file(inode, &uses, highest, numbers, made)?,
            }
        }
        Ok(())
    }

    /// Makes all shared memory that processes have together, for all of them.
    pub(super) fn common_memory(
        &mut self,
        slots: &[&FdinfoEntry],
        numbers: &mut Numbers,
        made: &mut BTreeMap<u32, i32>,
    ) -> Result<(), PlannerError> {
        let mut all: BTreeMap<u32, Uses<'_>> = BTreeMap::new();
        for &entry in slots {
            let Some(mut memfd) = self.file(entry.id)?.memfd else { continue };
            if self.is_only_mapped(entry.id) {
                memfd.flags = libc::O_RDWR as u32;
            }
            all.entry(memfd.inode_id).or_default().open.push((entry.id, entry, memfd));
        }
        let highest = slots.iter().map(|entry| entry.fd as i32).max().unwrap_or(3);
        for (inode_id, uses) in all {
            let set = self.set;
            let inode = set.memfds.iter().find(|memfd| memfd.inode_id == u64::from(inode_id));
            let missing = || PlannerError::Inconsistent(format!("memfd {inode_id} is not there"));
            self.memory_file(inode.ok_or_else(missing)?, &uses, highest, numbers, made)?;
        }
        Ok(())
    }

    fn is_only_mapped(&self, id: u32) -> bool {
        self.family.is_some_and(|family| family.is_only_mapped(id))
    }

    /// Returns the descriptor of memory that the root hands over, and whether
    /// it can be mapped as any area may be: the best one that there is.
    fn handed_over(&self, inode_id: u32) -> Option<(i32, bool)> {
        let slots = self.family?.slots().iter();
        let its = slots.filter_map(|(id, fd)| {
            let memfd = self.file(*id).ok()?.memfd.filter(|memfd| memfd.inode_id == inode_id)?;
            let writes = memfd.flags as i32 & libc::O_ACCMODE == libc::O_RDWR;
            Some((*fd, writes || self.is_only_mapped(*id)))
        });
        its.max_by_key(|(_, writes)| *writes)
    }

    fn map_handed_over(&mut self, uses: &Uses<'_>, slot: (i32, bool), numbers: &mut Numbers) {
        let (mut fd, writes) = slot;
        let reopened = !writes && !uses.vmas.is_empty();
        if reopened {
            fd = self.reopen(fd, libc::O_RDWR as u32, numbers);
        }
        for (vma, has_pages) in &uses.vmas {
            self.map_memfd(vma, *has_pages, fd, numbers);
        }
        if reopened {
            self.must(libc::SYS_close, &[value(fd)]);
        }
    }

    fn memfd(&self, id: u32) -> Result<&MemfdFileEntry, PlannerError> {
        let missing = || PlannerError::Inconsistent(format!("file {id} is no memfd"));
        self.file(id)?.memfd.as_ref().ok_or_else(missing)
    }

    /// Makes one, maps it, and leaves it open where the program has it open.
    fn memory_file(
        &mut self,
        inode: &MemfdInodeEntry,
        uses: &Uses<'_>,
        highest: i32,
        numbers: &mut Numbers,
        made: &mut BTreeMap<u32, i32>,
    ) -> Result<(), PlannerError> {
        if inode.hugetlb_flag.is_some() {
            let name = inode.name.escape_ascii();
            return Err(PlannerError::Unsupported(format!("memfd {name} is of huge pages")));
        }
        let mut fd = numbers.lowest_free();
        let name = self.data.path(&inode.name);
        let flags = value(libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
        self.push(libc::SYS_memfd_create, &[name, flags], Check::Equals(i64::from(fd)));
        let mut at = self.fill(inode, fd)?;
        if let Some(mode) = inode.mode.map(|mode| mode & 0o7777).filter(|mode| *mode != MODE) {
            self.must(libc::SYS_fchmod, &[value(fd), value(mode)]);
        }
        let seal_first = inode.seals & SEALS_WRITE != 0;
        if seal_first {
            self.seal(fd, inode.seals);
        }
        for (vma, has_pages) in &uses.vmas {
            self.map_memfd(vma, *has_pages, fd, numbers);
        }
        if !seal_first {
            self.seal(fd, inode.seals);
        }
        let reads_and_writes =
            |memfd: &MemfdFileEntry| memfd.flags as i32 & libc::O_ACCMODE == libc::O_RDWR;
        let own = uses.open.iter().find(|(_, _, memfd)| reads_and_writes(memfd));
        if let Some((id, entry, memfd)) = own {
            let target = Target::of(entry);
            if target.fd == fd {
                numbers.take(fd);
                let flag = if target.cloexec { libc::FD_CLOEXEC } else { 0 };
                self.must(libc::SYS_fcntl, &[value(fd), value(libc::F_SETFD), value(flag)]);
            } else {
                self.settle(fd, &target, numbers);
            }
            fd = target.fd;
            self.description(fd, memfd, &mut at);
            made.insert(*id, fd);
        } else {
            // Out of the way of every number that is yet to come.
            let aside = highest + 1;
            if fd != aside {
                self.must(libc::SYS_dup3, &[value(fd), value(aside), value(0)]);
                self.must(libc::SYS_close, &[value(fd)]);
                fd = aside;
            }
        }
        for (id, entry, memfd) in &uses.open {
            if made.contains_key(id) {
                continue;
            }
            let target = Target::of(entry);
            let again = self.reopen(fd, memfd.flags, numbers);
            self.settle(again, &target, numbers);
            self.description(target.fd, memfd, &mut 0);
            made.insert(*id, target.fd);
        }
        if own.is_none() {
            self.must(libc::SYS_close, &[value(fd)]);
        }
        Ok(())
    }

    /// Puts the content into an empty memfd, and gives it its size; returns
    /// the offset that its descriptor is left with.
    fn fill(&mut self, inode: &MemfdInodeEntry, fd: i32) -> Result<u64, PlannerError> {
        let content = self.set.shmem.iter().find(|shmem| shmem.shmid == u64::from(inode.shmid));
        let mut at = 0;
        if let Some(content) = content {
            let wrong =
                |error: crate::image::ImageError| PlannerError::Inconsistent(error.to_string());
            let runs = content.page_runs().map_err(wrong)?;
            let id = content.pagemap.pages_id;
            // The runs lie one behind the other in the file, which is read on
            // from its beginning.
            for run in &runs {
                if run.vaddr != at {
                    let seek = [value(fd), value(run.vaddr), value(libc::SEEK_SET)];
                    self.push(libc::SYS_lseek, &seek, Check::Equals(run.vaddr as i64));
                }
                at = run.vaddr;
                while at < run.end() {
                    let len = (run.end() - at).min(LEN_COPY_MAX);
                    let pages = Arg::MorePages(u64::from(id));
                    let args = [value(fd), pages, value(0), value(len)];
                    self.push(libc::SYS_sendfile, &args, Check::Equals(len as i64));
                    at += len;
                }
            }
            if at != 0 {
                self.more_pages.push(PagesFile { id, len: runs.len_bytes() });
            }
        }
        // Last: the file may end within the last page.
        if inode.size != 0 || at != 0 {
            self.must(libc::SYS_ftruncate, &[value(fd), value(inode.size)]);
        }
        Ok(at)
    }

    fn seal(&mut self, fd: i32, seals: u32) {
        if seals != 0 {
            let args = [value(fd), value(libc::F_ADD_SEALS), value(seals)];
            self.must(libc::SYS_fcntl, &args);
        }
    }

    /// Maps an area; one that could never be made writable by way of a
    /// descriptor that cannot write.
    fn map_memfd(&mut self, vma: &VmaEntry, has_pages: bool, fd: i32, numbers: &mut Numbers) {
        let len = vma.end - vma.start;
        let private = vma.flags & libc::MAP_PRIVATE as u32 != 0;
        let copied = private && has_pages && self.facts.page_mode == PageMode::Copied;
        let prot = if copied { vma.prot | PROT_COPY } else { vma.prot };
        let flags = super::memory::map_flags(vma);
        if !private && vma.fdflags == Some(libc::O_RDONLY as u32) {
            numbers.take(fd);
            let reader = self.reopen(fd, libc::O_RDONLY as u32, numbers);
            numbers.give_back(fd);
            self.map(vma.start, len, prot, flags, value(reader), vma.pgoff);
            self.must(libc::SYS_close, &[value(reader)]);
        } else {
            self.map(vma.start, len, prot, flags, value(fd), vma.pgoff);
        }
    }

    /// Opens a memfd once more as another description; returns its number.
    fn reopen(&mut self, fd: i32, flags: u32, numbers: &Numbers) -> i32 {
        let path = self.data.path(format!("/proc/self/fd/{fd}").as_bytes());
        let again = numbers.lowest_free();
        let flags = value(flags | libc::O_CLOEXEC as u32);
        let args = [Arg::Value(AT_FDCWD), path, flags, value(0)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(again)));
        again
    }

    /// Gives a description its offset and its flags; `at` is its offset now.
    fn description(&mut self, fd: i32, memfd: &MemfdFileEntry, at: &mut u64) {
        if memfd.pos != *at {
            let seek = [value(fd), value(memfd.pos), value(libc::SEEK_SET)];
            self.push(libc::SYS_lseek, &seek, Check::Equals(memfd.pos as i64));
            *at = memfd.pos;
        }
        let flags = memfd.flags & (libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOATIME) as u32;
        if flags != 0 {
            self.must(libc::SYS_fcntl, &[value(fd), value(libc::F_SETFL), value(flags)]);
        }
    }
}
