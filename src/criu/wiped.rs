//! Memory that no two copies of a program are to have alike.
//!
//! What is marked by MADV_WIPEONFORK (`madvise(2)`, Linux 4.14) or mapped by
//! MAP_DROPPABLE (6.11) holds keys and the state of generators, and the kernel
//! clears it in every child. CRIU keeps its content, so that every restored copy
//! would draw the same numbers: it is overwritten with zeros in an image that
//! CRIU is to restore.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::image::proto::VmaEntry;
use crate::image::{Set, is_wiped, pages_file};

/// So much is written at once, in bytes.
const CHUNK: u64 = 1 << 16;

/// Overwrites such memory in the pages files of an image.
///
/// # Errors
/// If they cannot be written, or do not fit the image.
pub fn wipe(dir: &Path, set: &Set) -> io::Result<()> {
    for task in set.tasks.iter().filter(|task| !task.has_ended()) {
        let areas: Vec<&VmaEntry> = task.mm.vmas.iter().filter(|vma| is_wiped(vma)).collect();
        if areas.is_empty() {
            continue;
        }
        let runs = task.page_runs().map_err(io::Error::other)?;
        let path = dir.join(pages_file(task.pagemap.pages_id));
        let pages = OpenOptions::new().write(true).open(path)?;
        for (area, run) in areas.iter().flat_map(|area| runs.iter().map(move |run| (area, run))) {
            let (start, end) = (area.start.max(run.vaddr), area.end.min(run.end()));
            let mut at = start;
            while at < end {
                let len = (end - at).min(CHUNK);
                pages.write_all_at(&vec![0; len as usize], run.offset + (at - run.vaddr))?;
                at += len;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image::proto::{MmEntry, PagemapEntry};
    use crate::image::{MAP_DROPPABLE, PAGE_SIZE, Pagemap, Task, pagemap_flags};
    use std::fs;

    #[test]
    fn only_what_is_to_be_wiped_becomes_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let area = |page: u64, madv: u64, flags: u32| VmaEntry {
            start: page * PAGE_SIZE,
            end: (page + 1) * PAGE_SIZE,
            madv: Some(madv),
            flags,
            ..Default::default()
        };
        let run = |page: u64, count: u32| PagemapEntry {
            vaddr: page * PAGE_SIZE,
            compat_nr_pages: count,
            flags: Some(pagemap_flags::PRESENT),
            ..Default::default()
        };
        let task = Task {
            mm: MmEntry {
                vmas: vec![
                    area(4, 0, 2),
                    area(5, 1 << libc::MADV_WIPEONFORK, 2),
                    area(6, 0, 2),
                    area(9, 0, MAP_DROPPABLE),
                ],
                ..Default::default()
            },
            pagemap: Pagemap { pages_id: 1, entries: vec![run(4, 3), run(9, 1)] },
            ..Default::default()
        };
        let path = dir.path().join("pages-1.img");
        fs::write(&path, vec![7; 4 * PAGE_SIZE as usize]).unwrap();
        wipe(dir.path(), &Set { tasks: vec![task], ..Default::default() }).unwrap();
        let bytes = fs::read(&path).unwrap();
        let firsts: Vec<u8> = bytes.chunks(PAGE_SIZE as usize).map(|page| page[99]).collect();
        assert_eq!((firsts, bytes.len()), (vec![7, 0, 7, 0], 4 * PAGE_SIZE as usize));
    }
}
