//! The pages of a stopped process become `pages-1.img`.
//!
//! Pages are written as runs that a restore can map: pages of one area that
//! lie less than [`MAX_GAP`] apart are one run, with what is between them
//! (zeros, or the file's own bytes), because a mapping costs more than a few
//! pages. Pages of zeros are dropped only in anonymous memory, where a
//! restore's fresh memory is the same.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::Refusal;
use super::vmas::{Backing, KernelArea, Vma};
use crate::image::pagemap_flags;
use crate::image::proto::PagemapEntry;
use crate::sys::memory::{self, LEN_PAGE};

/// Pages between two runs that are written along rather than left out.
const MAX_GAP: u64 = 64;
/// How much is read at once, in pages: stays in a core's cache.
const CHUNK: u64 = 128;

/// Bits of a `/proc/PID/pagemap` entry (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;
/// A guard page (`MADV_GUARD_INSTALL`), reported since Linux 6.15.
const GUARD: u64 = 1 << 58;

/// The pages that were written.
#[derive(Debug, Default)]
pub struct Pages {
    /// The runs, ascending, in the order of the pages file.
    pub entries: Vec<PagemapEntry>,
    /// Ranges of guard pages: (first address, length in bytes).
    pub guards: Vec<(u64, u64)>,
    /// The length of the pages file in bytes.
    pub len: u64,
}

/// Writes every page that an image has to hold.
pub fn dump(pid: i32, vmas: &[Vma], out: File) -> Result<Pages, Refusal> {
    let open = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        File::open(&path).map_err(|error| Refusal::lasting(format!("{path}: {error}")))
    };
    let mut dump = Dump {
        pid,
        mem: open("mem")?,
        pagemap: open("pagemap")?,
        out,
        pages: Pages::default(),
        run: None,
        buffer: vec![0; (CHUNK * LEN_PAGE) as usize],
    };
    for vma in vmas {
        dump.area(vma).map_err(|error| {
            let at = vma.start;
            let full = error.kind() == io::ErrorKind::StorageFull;
            let outlook = if full { "no space left for the image" } else { "reading memory" };
            Refusal::lasting(format!("{outlook} (at {at:#x}: {error})"))
        })?;
    }
    dump.finish_run();
    Ok(dump.pages)
}

struct Dump {
    pid: i32,
    mem: File,
    pagemap: File,
    out: File,
    pages: Pages,
    run: Option<Run>,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
}

impl Dump {
    fn area(&mut self, vma: &Vma) -> io::Result<()> {
        if vma.backing == Backing::Kernel(KernelArea::Vdso) {
            // For CRIU, which looks up its functions' addresses there.
            return self.range(vma.start, vma.end, false).map(|()| self.finish_run());
        }
        if vma.shared && vma.has(b"gu") {
            // Its content is not the process's own; its guard pages are.
            self.ranges(vma)?;
        }
        if vma.shared || vma.is_wiped() || matches!(vma.backing, Backing::Kernel(_)) {
            return Ok(());
        }
        if vma.whole || vma.resident_kib > 0 || vma.has(b"gu") {
            for (start, end) in self.ranges(vma)? {
                if self.guard_between(start) {
                    self.finish_run();
                }
                self.range(start, end, vma.is_anonymous())?;
            }
        }
        // A run never spans two areas: their mappings differ.
        self.finish_run();
        Ok(())
    }

    /// Returns whether a guard page lies between the run and `next`. A run does
    /// not go over it: a guard belongs into anonymous memory, which every
    /// kernel with guards allows, not into the mapping of the run.
    fn guard_between(&self, next: u64) -> bool {
        let Some(run) = self.run else { return false };
        let guards = &self.pages.guards;
        let first = guards.partition_point(|(guard, _)| *guard < run.end);
        guards.get(first).is_some_and(|(guard, _)| *guard < next)
    }

    /// Finds the pages that only this process has, or all of an area that must
    /// be dumped whole; notes guard pages.
    fn ranges(&mut self, vma: &Vma) -> io::Result<Vec<(u64, u64)>> {
        const ENTRIES: u64 = 8192;
        let anonymous = vma.is_anonymous();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut entries = vec![0u8; (ENTRIES * 8) as usize];
        let mut guarded = false;
        let mut at = vma.start;
        while at < vma.end {
            let count = ((vma.end - at) / LEN_PAGE).min(ENTRIES);
            let bytes = &mut entries[..(count * 8) as usize];
            self.pagemap.read_exact_at(bytes, at / LEN_PAGE * 8)?;
            for entry in bytes.chunks_exact(8) {
                let mut word = [0; 8];
                word.copy_from_slice(entry);
                let entry = u64::from_le_bytes(word);
                let own = vma.whole
                    || entry & SWAPPED != 0
                    || entry & PRESENT != 0 && (anonymous || entry & FILE_OR_SHARED == 0);
                if entry & GUARD != 0 {
                    extend(&mut self.pages.guards, at, 0);
                    guarded = true;
                } else if own {
                    // File pages must not be dropped, so gaps are closed here;
                    // in anonymous memory they are closed when zeros are known.
                    let gap = if anonymous || guarded { 0 } else { MAX_GAP };
                    extend(&mut ranges, at, gap);
                    guarded = false;
                }
                at += LEN_PAGE;
            }
        }
        Ok(ranges.into_iter().map(|(start, len)| (start, start + len)).collect())
    }

    fn range(&mut self, start: u64, end: u64, drop_zeros: bool) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(CHUNK * LEN_PAGE);
            let mut buffer = std::mem::take(&mut self.buffer);
            self.read(at, &mut buffer[..len as usize])?;
            let result = self.chunk(at, &buffer[..len as usize], drop_zeros);
            self.buffer = buffer;
            result?;
            at += len;
        }
        Ok(())
    }

    /// Reads memory that may be protected or, behind the end of a file, not
    /// be there at all (zeros then: the program cannot have seen anything).
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        if memory::read_remote(self.pid, at, buffer).is_ok() {
            return Ok(());
        }
        for (index, page) in buffer.chunks_mut(LEN_PAGE as usize).enumerate() {
            let at = at + index as u64 * LEN_PAGE;
            match memory::read_forced(&self.mem, at, page) {
                Err(error) if error.raw_os_error() == Some(libc::EIO) => page.fill(0),
                other => other?,
            }
        }
        Ok(())
    }

    fn chunk(&mut self, at: u64, bytes: &[u8], drop_zeros: bool) -> io::Result<()> {
        if !drop_zeros {
            return self.append(at, bytes);
        }
        // Stretches of pages with content, in one write each.
        let page = LEN_PAGE as usize;
        let mut index = 0;
        while index < bytes.len() {
            let start = index;
            while index < bytes.len() && !is_zero(&bytes[index..index + page]) {
                index += page;
            }
            if index > start {
                self.append(at + start as u64, &bytes[start..index])?;
            }
            while index < bytes.len() && is_zero(&bytes[index..index + page]) {
                index += page;
            }
        }
        Ok(())
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        static ZEROS: [u8; (MAX_GAP * LEN_PAGE) as usize] = [0; (MAX_GAP * LEN_PAGE) as usize];
        let end = at + bytes.len() as u64;
        match &mut self.run {
            Some(run) if at - run.end <= MAX_GAP * LEN_PAGE => {
                let gap = at - run.end;
                run.end = end;
                if gap > 0 {
                    self.write(&ZEROS[..gap as usize])?;
                }
            }
            _ => {
                self.finish_run();
                self.run = Some(Run { start: at, end });
            }
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.pages.len += bytes.len() as u64;
        Ok(())
    }

    fn finish_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.pages.entries.push(self::run(run.start, run.end));
        }
    }
}

/// Adds a page to ascending (start, length) ranges; joins it to the last one
/// if at most `gap` pages lie between.
fn extend(ranges: &mut Vec<(u64, u64)>, at: u64, gap: u64) {
    match ranges.last_mut() {
        Some((start, len)) if at - (*start + *len) <= gap * LEN_PAGE => {
            *len = at + LEN_PAGE - *start;
        }
        _ => ranges.push((at, LEN_PAGE)),
    }
}

/// Encodes a run of pages that are in the pages file.
pub fn run(start: u64, end: u64) -> PagemapEntry {
    let pages = (end - start) / LEN_PAGE;
    PagemapEntry {
        vaddr: start,
        compat_nr_pages: pages as u32,
        nr_pages: Some(pages),
        flags: Some(pagemap_flags::PRESENT),
        ..Default::default()
    }
}

/// Returns whether a page holds nothing but zeros.
pub fn is_zero(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<8>();
    rest.iter().all(|byte| *byte == 0) && words.iter().all(|word| u64::from_ne_bytes(*word) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_over_small_gaps_only() {
        let mut ranges = Vec::new();
        for page in [0, 1, 3, 4, 100] {
            extend(&mut ranges, page * LEN_PAGE, 2);
        }
        assert_eq!(ranges, [(0, 5 * LEN_PAGE), (100 * LEN_PAGE, LEN_PAGE)]);
    }
}
