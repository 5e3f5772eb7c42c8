//! Memory that is shared: memfds, and shared anonymous memory, which the
//! kernel keeps in a file of the same kind (`mmap(2)`, MAP_SHARED).
//!
//! Each such file becomes a pages file of its own. Where the program, or the
//! kernel (`/proc/PID/map_files`, which takes a capability), lets us have a
//! descriptor, its holes tell what it holds; elsewhere its pages are looked
//! for through the mappings, and nothing is known of what no mapping shows.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Whence, lseek64};

use super::files::Files;
use super::memory::{is_zero, run};
use super::vmas::{Backing, Vma};
use super::{Capture, Refusal, unwritable};
use crate::image::proto::{MemfdInodeEntry, PagemapEntry};
use crate::image::{Pagemap, Shmem, pages_file};
use crate::sys::memory::{self, LEN_PAGE};
use crate::trace::{Group, Remote, Scratch};

/// What CRIU calls shared anonymous memory, which has no name.
pub const ANONYMOUS: &[u8] = b"/dev/zero";
/// Pages of zeros that are written along rather than end a run.
const MAX_GAP: u64 = 4;
/// How much is read at once, in pages.
const CHUNK: u64 = 128;
/// More than a restore can have open.
const MAX_FILES: usize = 512;
const PROT_READ: i32 = libc::PROT_READ;

/// A memfd, or shared anonymous memory.
#[derive(Debug)]
pub struct MemoryFile {
    /// Its inode on the kernel's own mount: the same for all who share it.
    pub inode: u64,
    /// What the image says of it, but for its place there.
    pub entry: MemfdInodeEntry,
    /// A descriptor of it, if it can be had.
    pub file: Option<File>,
    /// What was read of it through mappings: parts of it, ascending.
    shown: Vec<Range<u64>>,
}

impl MemoryFile {
    /// Describes one that there is a descriptor of.
    pub fn open(name: &[u8], fd: OwnedFd) -> Result<Self, Refusal> {
        let shown = name.escape_ascii();
        let fail = |error: &dyn std::fmt::Display| {
            Refusal::lasting(format!("shared memory {shown}: {error}"))
        };
        let seals = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).map_err(|error| fail(&error))?;
        let file = File::from(fd);
        let meta = file.metadata().map_err(|error| fail(&error))?;
        let entry = MemfdInodeEntry {
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.len(),
            seals: seals as u32,
            mode: Some(meta.mode() & 0o7777),
            ..described(name, meta.ino())?
        };
        Ok(Self { inode: meta.ino(), entry, file: Some(file), shown: Vec::new() })
    }

    /// Describes one that is only mapped.
    fn mapped(
        pid: i32,
        name: &[u8],
        inode: u64,
        vma: &Vma,
        files: &Files,
    ) -> Result<Self, Refusal> {
        if let Some(descriptor) = files.open_memory(inode) {
            return Self::open(name, descriptor);
        }
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.start, vma.end);
        // Reading is enough: what is sealed can be opened, too.
        if let Ok(file) = File::open(path) {
            return Self::open(name, file.into());
        }
        let entry = MemfdInodeEntry {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            seals: libc::F_SEAL_SEAL as u32,
            ..described(name, inode)?
        };
        Ok(Self { inode, entry, file: None, shown: Vec::new() })
    }
}

fn described(name: &[u8], inode: u64) -> Result<MemfdInodeEntry, Refusal> {
    let shmid = u32::try_from(inode).map_err(|_| {
        let name = name.escape_ascii();
        Refusal::lasting(format!("shared memory {name} has the large inode number {inode}"))
    })?;
    Ok(MemfdInodeEntry { name: name.to_vec(), shmid, ..Default::default() })
}

/// The pages files of shared memory, beside what goes into the set.
#[derive(Debug, Default)]
pub struct Shared {
    /// What the pages files hold.
    pub contents: Vec<Shmem>,
    /// The pages files.
    pub files: Vec<File>,
    /// Their length together in bytes.
    pub len: u64,
}

/// Finds all shared memory of a process and writes what is in it; the pages
/// files are numbered from `first_id` on.
pub fn dump(
    capture: &Capture<'_>,
    group: &Group,
    gate: u64,
    vmas: &mut [Vma],
    files: &mut Files,
    first_id: u32,
) -> Result<Shared, Refusal> {
    let mut shared = Shared::default();
    let before = files.memory_read;
    collect(capture.pid, vmas, files)?;
    files.memory_read = files.memory.len();
    if files.memory.len() > MAX_FILES {
        let what = format!("{} pieces of shared memory", files.memory.len());
        return Err(Refusal::lasting(format!("process {} has {what}", capture.pid)));
    }
    for (index, known) in files.memory.iter_mut().enumerate().skip(before) {
        known.entry.inode_id = index as u64 + 1;
        let pages_id = first_id + (index - before) as u32;
        let out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(capture.dir.join(pages_file(pages_id)))
            .map_err(|error| unwritable(capture.dir, &error))?;
        let mut pages = Writer { out, entries: Vec::new(), open: None, len: 0 };
        let written = match &known.file {
            Some(file) => by_descriptor(file, known.entry.size, &mut pages),
            None => by_mappings(capture.pid, group, gate, vmas, known.inode, &mut pages)
                .map(|shown| known.shown = shown),
        };
        written.map_err(|error| {
            let name = known.entry.name.escape_ascii();
            Refusal::lasting(format!("reading shared memory {name}: {error}"))
        })?;
        if known.file.is_none() {
            known.entry.size = known.shown.last().map_or(0, |last| last.end);
        }
        pages.finish_run();
        shared.len += pages.len;
        shared.contents.push(Shmem {
            shmid: u64::from(known.entry.shmid),
            pagemap: Pagemap { pages_id, entries: pages.entries },
        });
        shared.files.push(pages.out);
    }
    Ok(shared)
}

/// Adds what is only mapped to what is open. A private mapping of what cannot
/// be looked at becomes memory of the process's own.
fn collect(pid: i32, vmas: &mut [Vma], files: &mut Files) -> Result<(), Refusal> {
    // First those that can be read through a shared mapping.
    for shared in [true, false] {
        for vma in vmas.iter_mut().filter(|vma| vma.shared == shared) {
            let Backing::Memory { name, inode } = &vma.backing else { continue };
            match files.memory.iter().position(|known| known.inode == *inode) {
                Some(index) if index < files.memory_read => {
                    check_shown(&files.memory[index], vma, pid)?;
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            let found = MemoryFile::mapped(pid, name, *inode, vma, files)?;
            if shared || found.file.is_some() {
                files.memory.push(found);
            } else {
                vma.backing = Backing::Anonymous;
                vma.offset = 0;
                vma.whole = true;
            }
        }
    }
    Ok(())
}

/// Refuses an area that shows more of some memory than the process did that it
/// was read through.
fn check_shown(known: &MemoryFile, vma: &Vma, pid: i32) -> Result<(), Refusal> {
    let (start, end) = (vma.offset, vma.offset + (vma.end - vma.start));
    let is_known = known.shown.iter().any(|shown| shown.start <= start && end <= shown.end);
    if known.file.is_some() || is_known {
        return Ok(());
    }
    let what = format!("memory at {:#x} of process {pid} is shared", vma.start);
    Err(Refusal::lasting(format!("{what} with another one, which has mapped less of it")))
}

/// Writes what is between the holes of a file.
fn by_descriptor(file: &File, size: u64, pages: &mut Writer) -> std::io::Result<()> {
    // The description may be the program's: its offset is put back.
    let before = lseek64(file, 0, Whence::SeekCur)?;
    let result = between_holes(file, size, pages);
    lseek64(file, before, Whence::SeekSet)?;
    result
}

fn between_holes(file: &File, size: u64, pages: &mut Writer) -> std::io::Result<()> {
    let mut at = 0;
    let mut buffer = vec![0; (CHUNK * LEN_PAGE) as usize];
    while at < size {
        let start = match lseek64(file, at as i64, Whence::SeekData) {
            Ok(start) => start as u64 / LEN_PAGE * LEN_PAGE,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = lseek64(file, start as i64, Whence::SeekHole)? as u64;
        at = start;
        while at < end {
            let len = (end - at).next_multiple_of(LEN_PAGE).min(CHUNK * LEN_PAGE);
            let buffer = &mut buffer[..len as usize];
            buffer.fill(0);
            // The file may end within its last page.
            file.read_exact_at(&mut buffer[..len.min(size - at) as usize], at)?;
            pages.pages(at, buffer)?;
            at += len;
        }
    }
    Ok(())
}

/// Writes the pages that are there, as the mappings show them (`mincore(2)`);
/// returns which parts they show.
fn by_mappings(
    pid: i32,
    group: &Group,
    gate: u64,
    vmas: &[Vma],
    inode: u64,
    pages: &mut Writer,
) -> std::io::Result<Vec<Range<u64>>> {
    let is_it = |vma: &&Vma| {
        matches!(&vma.backing, Backing::Memory { inode: its, .. } if *its == inode) && vma.shared
    };
    let mut mappings: Vec<&Vma> = vmas.iter().filter(is_it).collect();
    mappings.sort_by_key(|vma| vma.offset);
    let mem = File::open(format!("/proc/{pid}/mem"))?;
    let mut at = 0;
    let mut shown: Vec<Range<u64>> = Vec::new();
    for vma in &mappings {
        let end = vma.offset + (vma.end - vma.start);
        let first = at.max(vma.offset);
        match shown.last_mut().filter(|last| vma.offset <= last.end) {
            Some(last) => last.end = last.end.max(end),
            None => shown.push(vma.offset..end),
        }
        for offset in (first..end).step_by((LEN_PAGE * LEN_PAGE) as usize) {
            let len = (end - offset).min(LEN_PAGE * LEN_PAGE);
            let addr = vma.start + (offset - vma.offset);
            // Of a page that is swapped out mincore(2) says that it is not
            // there: then all are read.
            let there = if vma.swapped_kib > 0 {
                vec![1; (len / LEN_PAGE) as usize]
            } else {
                residents(pid, group, gate, addr, len)?
            };
            for (index, _) in there.iter().enumerate().filter(|(_, there)| *there & 1 != 0) {
                let page = index as u64 * LEN_PAGE;
                let mut buffer = [0; LEN_PAGE as usize];
                read_page(pid, &mem, vma, addr + page, &mut buffer)?;
                pages.pages(offset + page, &buffer)?;
            }
        }
        at = at.max(end);
    }
    Ok(shown)
}

/// Reads a page of a process; what lies behind the end of a file is zeros.
fn read_page(pid: i32, mem: &File, vma: &Vma, at: u64, page: &mut [u8]) -> std::io::Result<()> {
    let read = if vma.prot & PROT_READ != 0 {
        memory::read_remote(pid, at, page)
    } else {
        memory::read_forced(mem, at, page)
    };
    match read {
        // Behind the end of the file: the program cannot have put anything there.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT)) => {
            page.fill(0);
            Ok(())
        }
        other => other,
    }
}

/// Asks the process which of its pages are in memory: a byte for each.
fn residents(pid: i32, group: &Group, gate: u64, addr: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let other = std::io::Error::other;
    let mut remote = Remote::borrow(group.leader(), gate).map_err(other)?;
    let scratch = Scratch::map(&mut remote, pid).map_err(other)?;
    let args = [addr, len, scratch.addr(), 0, 0, 0];
    let asked = remote.call_ok("looking for pages", libc::SYS_mincore, args).map_err(other);
    let there = scratch.read::<{ LEN_PAGE as usize }>().map_err(other);
    scratch.unmap(&mut remote).map_err(other)?;
    asked?;
    there.map(|there| there[..(len / LEN_PAGE) as usize].to_vec())
}

/// A pages file in the making.
struct Writer {
    out: File,
    entries: Vec<PagemapEntry>,
    /// The run that is being written: its beginning and its end.
    open: Option<(u64, u64)>,
    len: u64,
}

impl Writer {
    /// Adds pages, ascending; those of zeros are holes.
    fn pages(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        for (index, page) in bytes.chunks(LEN_PAGE as usize).enumerate() {
            if !is_zero(page) {
                self.page(at + index as u64 * LEN_PAGE, page)?;
            }
        }
        Ok(())
    }

    fn page(&mut self, at: u64, page: &[u8]) -> std::io::Result<()> {
        const ZEROS: [u8; (MAX_GAP * LEN_PAGE) as usize] = [0; (MAX_GAP * LEN_PAGE) as usize];
        match &mut self.open {
            Some((_, end)) if at - *end <= MAX_GAP * LEN_PAGE => {
                let gap = at - *end;
                self.out.write_all(&ZEROS[..gap as usize])?;
                self.len += gap;
                *end = at + LEN_PAGE;
            }
            _ => {
                self.finish_run();
                self.open = Some((at, at + LEN_PAGE));
            }
        }
        self.out.write_all(page)?;
        self.len += LEN_PAGE;
        Ok(())
    }

    fn finish_run(&mut self) {
        if let Some((start, end)) = self.open.take() {
            self.entries.push(run(start, end));
        }
    }
}

/// Returns the name of a memfd, or of shared anonymous memory, from that of its
/// mapping or of its descriptor.
pub fn name_of(shown: &[u8]) -> Option<&[u8]> {
    let plain = shown.strip_suffix(b" (deleted)")?;
    if plain == ANONYMOUS { Some(plain) } else { plain.strip_prefix(b"/memfd:") }
}

/// Returns whether this is the device of the kernel's own mount, which holds
/// such memory and nothing else.
pub fn is_kernels_mount(dev: u64) -> bool {
    use std::sync::OnceLock;
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let probe = nix::sys::memfd::memfd_create(c"probe", flags).ok()?;
        fs::File::from(probe).metadata().ok().map(|meta| meta.dev())
    });
    *device == Some(dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(name_of(b"/memfd:a b (deleted)"), Some(&b"a b"[..]));
        assert_eq!(name_of(b"/memfd: (deleted)"), Some(&b""[..]));
        assert_eq!(name_of(b"/dev/zero (deleted)"), Some(ANONYMOUS));
        for other in [&b"/memfd:heap"[..], b"/dev/zero", b"/tmp/x (deleted)"] {
            assert_eq!(name_of(other), None);
        }
    }

    #[test]
    fn a_memfd_is_on_the_kernels_mount_and_a_file_is_not() {
        let flags = nix::sys::memfd::MFdFlags::empty();
        let memfd = nix::sys::memfd::memfd_create(c"x", flags).unwrap();
        assert!(is_kernels_mount(File::from(memfd).metadata().unwrap().dev()));
        assert!(!is_kernels_mount(fs::metadata("/").unwrap().dev()));
    }

    #[test]
    fn what_is_between_holes_is_written_and_offsets_stay() {
        let flags = nix::sys::memfd::MFdFlags::empty();
        let file = File::from(nix::sys::memfd::memfd_create(c"x", flags).unwrap());
        file.write_all_at(&[1; 10], 0).unwrap();
        file.write_all_at(&[2; 10], 3 * LEN_PAGE).unwrap();
        file.write_all_at(&[3; 7], 100 * LEN_PAGE).unwrap();
        let size = 100 * LEN_PAGE + 7;
        lseek64(&file, 5, Whence::SeekSet).unwrap();
        let out = tempfile::tempfile().unwrap();
        let mut pages =
            Writer { out: out.try_clone().unwrap(), entries: Vec::new(), open: None, len: 0 };
        by_descriptor(&file, size, &mut pages).unwrap();
        pages.finish_run();
        let runs: Vec<_> = pages.entries.iter().map(|run| (run.vaddr, run.nr_pages)).collect();
        assert_eq!(runs, [(0, Some(4)), (100 * LEN_PAGE, Some(1))]);
        assert_eq!((pages.len, out.metadata().unwrap().len()), (5 * LEN_PAGE, 5 * LEN_PAGE));
        let mut page = [0; 10];
        out.read_exact_at(&mut page, 4 * LEN_PAGE).unwrap();
        assert_eq!(page, [3, 3, 3, 3, 3, 3, 3, 0, 0, 0]);
        assert_eq!(lseek64(&file, 0, Whence::SeekCur).unwrap(), 5);
    }
}
