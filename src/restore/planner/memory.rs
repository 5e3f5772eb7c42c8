//! Memory: which mappings bring it back.

use std::collections::BTreeMap;

use super::descriptors::Numbers;
use super::{Check, KernelArea, PageMode, Planner, PlannerError, Policy, area, kernel_area, value};
use crate::image::proto::VmaEntry;
use crate::image::{PageRun, Task, is_wiped, vma_status};
use crate::restore::plan::{AT_FDCWD, Arg};

/// `MADV_GUARD_INSTALL` (Linux 6.13).
const MADV_GUARD_INSTALL: i32 = 102;
/// The most that one call reads: the kernel stops a read at 0x7ffff000 bytes
/// (`read(2)`), whatever it was asked for.
const LEN_READ_MAX: u64 = 1 << 30;
/// The lowest descriptor that is free while memory is set up.
const FREE_FD: u64 = 3;
const READ: u32 = libc::PROT_READ as u32;
const WRITE: u32 = libc::PROT_WRITE as u32;
const FIXED: i32 = libc::MAP_FIXED;
/// Advice that changes what the program sees; the rest are hints.
const BINDING_ADVICE: [i32; 2] = [libc::MADV_DONTFORK, libc::MADV_WIPEONFORK];

impl Planner<'_> {
    /// Plans all memory; returns the kernel's areas and the length that the
    /// pages file must have.
    pub(super) fn memory(
        &mut self,
        task: &Task,
        numbers: &mut Numbers,
        made: &mut BTreeMap<u32, i32>,
    ) -> Result<(Vec<KernelArea>, u64), PlannerError> {
        let wrong = |what: String| PlannerError::Inconsistent(what);
        let runs = task.page_runs().map_err(|error| wrong(error.to_string()))?;
        let len_pages = runs.len_bytes();
        let mut runs = runs.iter().copied().peekable();
        let mut areas = Vec::new();
        // Areas of one file are mapped while it is open once.
        let mut by_file: BTreeMap<u64, Vec<&VmaEntry>> = BTreeMap::new();
        let mut deleted: Vec<&VmaEntry> = Vec::new();
        let mut contents = Vec::new();
        for vma in &task.mm.vmas {
            // Guard pages are among the facts, too.
            if vma.status & (vma_status::VSYSCALL | vma_status::GUARD) != 0 {
                continue;
            }
            let mut own = Vec::new();
            while let Some(run) = runs.next_if(|run| run.vaddr < vma.end) {
                if run.vaddr < vma.start || run.end() > vma.end {
                    return Err(wrong(format!("pages at {:#x} are in no area", run.vaddr)));
                }
                own.push(run);
            }
            // CRIU keeps what no two copies are to have alike.
            if is_wiped(vma) {
                own.clear();
            }
            if let Some(kind) = kernel_area(vma.status) {
                areas.push(area(kind, vma.start, vma.end - vma.start));
                continue;
            }
            if vma.status & vma_status::MEMFD != 0 {
                // Mapped with the others of its memory.
            } else if self.is_ghost(vma.shmid)
                && vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0
            {
                deleted.push(vma);
            } else if vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0 {
                by_file.entry(vma.shmid).or_default().push(vma);
            } else if vma.status & vma_status::ANON_PRIVATE == 0 {
                let what = format!("memory at {:#x} of kind {:#x}", vma.start, vma.status);
                return Err(PlannerError::Unsupported(what));
            }
            contents.push((vma, own));
        }
        if let Some(run) = runs.next() {
            return Err(wrong(format!("pages at {:#x} are in no area", run.vaddr)));
        }
        for (id, vmas) in by_file {
            self.file_mappings(id, &vmas, &contents)?;
        }
        self.mapped_ghosts(task, &deleted, made, numbers)?;
        self.shared_memory(task, &contents, numbers, made)?;
        for (vma, own) in &contents {
            self.content(vma, own);
        }
        for (vma, _) in &contents {
            self.advice(vma);
        }
        for (start, len) in &self.facts.guards {
            let advice = value(MADV_GUARD_INSTALL);
            self.must(libc::SYS_madvise, &[Arg::Value(*start), Arg::Value(*len), advice]);
        }
        Ok((areas, len_pages))
    }

    /// Opens a file, maps all its areas, closes it.
    fn file_mappings(
        &mut self,
        id: u64,
        vmas: &[&VmaEntry],
        contents: &[(&VmaEntry, Vec<PageRun>)],
    ) -> Result<(), PlannerError> {
        let id = u32::try_from(id)
            .map_err(|_| PlannerError::Inconsistent(format!("file {id} is not there")))?;
        let flags = vmas.iter().fold(0, |flags, vma| flags | vma.fdflags.unwrap_or(0));
        self.open_path(id, flags & libc::O_ACCMODE as u32, FREE_FD as i32)?;
        for vma in vmas {
            let copied = self.facts.page_mode == PageMode::Copied;
            let filled =
                contents.iter().any(|(other, own)| other.start == vma.start && !own.is_empty());
            // Copying needs to write; the protection is put right afterwards.
            let prot = if copied && filled { vma.prot | READ | WRITE } else { vma.prot };
            self.map(
                vma.start,
                vma.end - vma.start,
                prot,
                map_flags(vma),
                Arg::Value(FREE_FD),
                vma.pgoff,
            );
        }
        self.must(libc::SYS_close, &[Arg::Value(FREE_FD)]);
        Ok(())
    }

    /// Opens a file by its path, or makes it anew, as descriptor `fd`, the
    /// lowest that is free.
    pub(super) fn open_path(&mut self, id: u32, flags: u32, fd: i32) -> Result<(), PlannerError> {
        let path = self.path_of(id)?.to_vec();
        let expect = Check::Equals(i64::from(fd));
        if let Some(Policy::Recreate { mode, content }) = self.written.get(&id).copied()
            && !self.recreated.contains(&path)
        {
            self.recreated.push(path.clone());
            self.recreate(&path, *mode, content, flags, fd);
            return Ok(());
        }
        let name = self.data.path(&path);
        let at = Arg::Value(AT_FDCWD);
        self.push(libc::SYS_openat, &[at, name, value(flags), value(0)], expect);
        Ok(())
    }

    pub(super) fn map(&mut self, addr: u64, len: u64, prot: u32, flags: u32, fd: Arg, offset: u64) {
        let args = [
            Arg::Value(addr),
            Arg::Value(len),
            value(prot),
            value(flags | FIXED as u32),
            fd,
            Arg::Value(offset),
        ];
        self.must(libc::SYS_mmap, &args);
    }

    /// Brings the content of an area: anonymous memory is mapped here, file
    /// areas are there already.
    fn content(&mut self, vma: &VmaEntry, runs: &[PageRun]) {
        let anonymous = vma.status & vma_status::ANON_PRIVATE != 0;
        let len = vma.end - vma.start;
        // The kernel refuses to grow a mapping of a file downwards.
        let grows = vma.flags & libc::MAP_GROWSDOWN as u32 != 0;
        let mapped = self.facts.page_mode == PageMode::Mapped && !grows;
        let copies = !mapped && !runs.is_empty();
        let covered =
            mapped && matches!(runs, [run] if run.vaddr == vma.start && run.len_bytes() == len);
        if anonymous && !covered {
            let prot = if copies { vma.prot | READ | WRITE } else { vma.prot };
            self.map(vma.start, len, prot, map_flags(vma), Arg::Value(u64::MAX), 0);
        }
        for run in runs {
            if mapped {
                let flags = libc::MAP_PRIVATE as u32 | vma.flags & libc::MAP_NORESERVE as u32;
                self.map(run.vaddr, run.len_bytes(), vma.prot, flags, Arg::Pages, run.offset);
            } else {
                self.copy(run);
            }
        }
        if copies && vma.prot & (READ | WRITE) != READ | WRITE {
            let args = [Arg::Value(vma.start), Arg::Value(len), value(vma.prot)];
            self.must(libc::SYS_mprotect, &args);
        }
    }

    /// Reads a run from the pages file into memory that is there.
    fn copy(&mut self, run: &PageRun) {
        let mut done = 0;
        while done < run.len_bytes() {
            let len = (run.len_bytes() - done).min(LEN_READ_MAX);
            let (to, from) = (Arg::Value(run.vaddr + done), Arg::Value(run.offset + done));
            let args = [Arg::Pages, to, Arg::Value(len), from];
            self.push(libc::SYS_pread64, &args, Check::Equals(len as i64));
            done += len;
        }
    }

    fn advice(&mut self, vma: &VmaEntry) {
        let (start, len) = (Arg::Value(vma.start), Arg::Value(vma.end - vma.start));
        let advice = vma.madv.unwrap_or(0);
        for bit in 0..64 {
            if advice & 1 << bit == 0 {
                continue;
            }
            let check = if BINDING_ADVICE.contains(&bit) { Check::Ok } else { Check::Any };
            self.push(libc::SYS_madvise, &[start, len, value(bit)], check);
        }
        if vma.flags & libc::MAP_LOCKED as u32 != 0 {
            self.may(libc::SYS_mlock2, &[start, len, value(0)]);
        }
    }
}

/// The flags of `mmap` for an area; locking comes when its pages are there.
pub(super) fn map_flags(vma: &VmaEntry) -> u32 {
    let carried = libc::MAP_PRIVATE
        | libc::MAP_SHARED
        | libc::MAP_ANONYMOUS
        | libc::MAP_GROWSDOWN
        | libc::MAP_NORESERVE;
    vma.flags & carried as u32
}
