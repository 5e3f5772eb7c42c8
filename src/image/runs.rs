//! Which bytes of a pages file belong where in memory.
//!
//! A pages file has no structure of its own: the runs of its pagemap lie in
//! it one behind the other. [`PageRuns`] is that layout, checked once.

use super::proto::PagemapEntry;
use super::{ImageError, Pagemap, Shmem, Task, kind, pagemap_flags};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// The first address that no program can have mapped: 47 bits less the
/// guard page (`Documentation/arch/x86/x86_64/mm.rst`).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// Consecutive pages with their content in the pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// The first page's address; in shared memory, its offset.
    pub vaddr: u64,
    /// The number of pages, never 0.
    pub nr_pages: u64,
    /// Where its content begins in the pages file, in bytes.
    pub offset: u64,
}

impl PageRun {
    /// Returns its size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.nr_pages * PAGE_SIZE
    }

    /// Returns the first address behind it.
    pub fn end(&self) -> u64 {
        self.vaddr + self.len_bytes()
    }
}

/// The runs of a pagemap: page-aligned, ascending, apart from one another,
/// none reaching beyond the range of addresses or of file offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRuns {
    runs: Vec<PageRun>,
    len_bytes: u64,
}

impl PageRuns {
    /// Returns how large the pages file has to be.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns an iterator over the runs.
    pub fn iter(&self) -> std::slice::Iter<'_, PageRun> {
        self.runs.iter()
    }

    /// Checks that the pages file holds the runs and nothing else.
    pub fn check_len(&self, pages_file: &str, len_bytes: u64) -> Result<(), ImageError> {
        if len_bytes == self.len_bytes {
            return Ok(());
        }
        let what = format!("has {len_bytes} bytes, its pagemap asks for {}", self.len_bytes);
        Err(ImageError::new(pages_file, what))
    }
}

impl<'a> IntoIterator for &'a PageRuns {
    type Item = &'a PageRun;
    type IntoIter = std::slice::Iter<'a, PageRun>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Task {
    /// Returns the task's memory runs; an error names the pagemap file.
    pub fn page_runs(&self) -> Result<PageRuns, ImageError> {
        page_runs(&self.pagemap, &kind::PAGEMAP.numbered(self.pid), USER_END)
    }
}

impl Shmem {
    /// Returns the runs of the shared memory; an error names the file.
    pub fn page_runs(&self) -> Result<PageRuns, ImageError> {
        page_runs(&self.pagemap, &kind::SHMEM.numbered(self.shmid), i64::MAX as u64)
    }
}

/// Where the content of an entry is.
enum Content {
    PagesFile,
    Nowhere,
}

fn page_runs(pagemap: &Pagemap, file: &str, end: u64) -> Result<PageRuns, ImageError> {
    let mut runs = Vec::with_capacity(pagemap.entries.len());
    let mut free = 0_u64;
    let mut offset = 0_u64;
    for entry in &pagemap.entries {
        let wrong =
            |what: &str| ImageError::new(file, format!("the run at {:#x} {what}", entry.vaddr));
        let nr_pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
        let len = nr_pages.checked_mul(PAGE_SIZE).ok_or_else(|| wrong("is too long"))?;
        let behind = entry.vaddr.checked_add(len).ok_or_else(|| wrong("is too long"))?;
        if !entry.vaddr.is_multiple_of(PAGE_SIZE) {
            return Err(wrong("is not page-aligned"));
        } else if nr_pages == 0 {
            return Err(wrong("is empty"));
        } else if entry.vaddr < free {
            return Err(wrong("overlaps or precedes the one before it"));
        } else if behind > end {
            return Err(wrong("ends outside the range of addresses"));
        }
        free = behind;
        match content(entry).map_err(wrong)? {
            Content::Nowhere => {}
            Content::PagesFile => {
                runs.push(PageRun { vaddr: entry.vaddr, nr_pages, offset });
                // Bounded by `end`, since runs do not overlap.
                offset += len;
            }
        }
    }
    Ok(PageRuns { runs, len_bytes: offset })
}

/// Reads the flags; images older than the flags have all their pages, except
/// those that are marked to be in the parent.
fn content(entry: &PagemapEntry) -> Result<Content, &'static str> {
    let flags = entry.flags.unwrap_or(pagemap_flags::PRESENT);
    if flags & pagemap_flags::PARENT != 0 || entry.in_parent == Some(true) {
        Err("is in a parent image, which is not supported")
    } else if flags & pagemap_flags::PRESENT != 0 {
        Ok(Content::PagesFile)
    } else if flags & pagemap_flags::LAZY != 0 {
        Err("was left to a page server, which is not supported")
    } else {
        Ok(Content::Nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(vaddr: u64, nr_pages: u64, flags: u32) -> PagemapEntry {
        PagemapEntry { nr_pages: Some(nr_pages), flags: Some(flags), vaddr, ..Default::default() }
    }

    fn runs(entries: Vec<PagemapEntry>) -> Result<PageRuns, String> {
        let task = Task { pid: 7, pagemap: Pagemap { pages_id: 1, entries }, ..Default::default() };
        task.page_runs().map_err(|error| error.to_string())
    }

    #[test]
    fn runs_lie_one_behind_the_other() {
        let runs = runs(vec![entry(0x1000, 2, 4), entry(0x9000, 5, 0), entry(0x1_0000, 1, 6)])
            .expect("valid");
        let all: Vec<_> = runs.iter().map(|run| (run.vaddr, run.nr_pages, run.offset)).collect();
        assert_eq!(all, [(0x1000, 2, 0), (0x1_0000, 1, 0x2000)]);
        assert_eq!(runs.len_bytes(), 0x3000);
        assert!(runs.check_len("pages-1.img", 0x3000).is_ok());
        assert_eq!(
            runs.check_len("pages-1.img", 0x2fff).expect_err("short").to_string(),
            "pages-1.img: has 12287 bytes, its pagemap asks for 12288"
        );
    }

    #[test]
    fn the_old_count_is_used_where_the_new_one_is_missing() {
        let old = PagemapEntry { vaddr: 0x1000, compat_nr_pages: 3, ..Default::default() };
        assert_eq!(runs(vec![old]).expect("valid").len_bytes(), 0x3000);
    }

    #[test]
    fn bad_runs_are_named() {
        for (entries, what) in [
            (vec![entry(0x1001, 1, 4)], "the run at 0x1001 is not page-aligned"),
            (vec![entry(0x1000, 0, 4)], "the run at 0x1000 is empty"),
            (vec![entry(0x1000, u64::MAX, 4)], "the run at 0x1000 is too long"),
            (vec![entry(0x1000, u64::MAX >> 12, 4)], "the run at 0x1000 is too long"),
            (
                vec![entry(0x2000, 2, 4), entry(0x3000, 1, 4)],
                "the run at 0x3000 overlaps or precedes the one before it",
            ),
            (
                vec![entry(USER_END - 0x1000, 2, 4)],
                "the run at 0x7fffffffe000 ends outside the range of addresses",
            ),
            (
                vec![entry(0x1000, 1, 1)],
                "the run at 0x1000 is in a parent image, which is not supported",
            ),
            (
                vec![entry(0x1000, 1, 2)],
                "the run at 0x1000 was left to a page server, which is not supported",
            ),
        ] {
            assert_eq!(runs(entries), Err(format!("pagemap-7.img: {what}")));
        }
    }
}
