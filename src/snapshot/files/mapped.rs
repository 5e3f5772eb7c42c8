//! Deleted files that are mapped and shared: POSIX semaphores, and the memory of
//! those who ask `/dev/shm` for it. Carried as those that are open.
//!
//! Where nobody has the file open it is read through the mappings, as far as
//! they show it, unless the kernel lets us have it (`/proc/PID/map_files`, which
//! takes a capability).

use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::deleted::{self, Found, MAX_GHOST};
use super::{Files, Refusal, regular};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, RegFileEntry};
use crate::snapshot::Capture;
use crate::snapshot::vmas::{Backing, Vma};
use crate::sys::memory::{self, LEN_PAGE};

/// Where programs make memory that they share among themselves
/// (`shm_overview(7)`).
const SHARED_MEMORY: &str = "/dev/shm/";

/// A deleted file that is mapped.
struct Mapped<'a> {
    path: &'a Path,
    dev: u64,
    inode: u64,
    /// Its areas in this process.
    areas: Vec<&'a Vma>,
}

impl Files {
    /// Finds every deleted file that a process has mapped and shares, and says
    /// in its areas which file of the image that is.
    pub fn deleted_mappings(
        &mut self,
        capture: &Capture<'_>,
        vmas: &mut [Vma],
    ) -> Result<(), Refusal> {
        for index in 0..vmas.len() {
            let Backing::Deleted { path, dev, inode, .. } = &vmas[index].backing else { continue };
            let (path, inode) = (path.clone(), *inode);
            let dev = libc::makedev(dev.0, dev.1);
            let is_its = |vma: &&Vma| match &vma.backing {
                Backing::Deleted { path: other, inode: its, .. } => *other == path && *its == inode,
                _ => false,
            };
            let areas = vmas.iter().filter(is_its).collect();
            let mapped = Mapped { path: &path, dev, inode, areas };
            let found = self.deleted_mapping(capture, &mapped, &vmas[index])?;
            if let Backing::Deleted { id, .. } = &mut vmas[index].backing {
                *id = found;
            }
        }
        Ok(())
    }

    /// Returns the file of the image that an area is of.
    fn deleted_mapping(
        &mut self,
        capture: &Capture<'_>,
        mapped: &Mapped<'_>,
        vma: &Vma,
    ) -> Result<u32, Refusal> {
        let name = deleted::free_name(mapped.path.as_os_str().as_bytes(), mapped.inode);
        let ghost = match self.known_ghost(mapped.dev, mapped.inode, &name) {
            Some(known) => {
                self.check_shown(known, vma)?;
                known
            }
            None => self.read_mapped(capture, mapped, &name)?,
        };
        let flags = vma.access();
        let mine = |entry: &&FileEntry| {
            let of_ghost = |id| {
                let mut remaps = self.remaps.iter();
                remaps.any(|remap| (remap.orig_id, remap.remap_id) == (id, ghost))
            };
            let reg = entry.reg.as_ref();
            reg.is_some_and(|reg| reg.flags == flags && reg.pos == 0) && of_ghost(entry.id)
        };
        if let Some(known) = self.entries.iter().find(mine) {
            return Ok(known.id);
        }
        let id = self.next_id();
        let mode = self.ghosts.iter().find(|it| it.id == ghost).map(|ghost| ghost.entry.mode);
        self.remap(id, ghost);
        self.entries.push(FileEntry {
            r#type: FdTypes::Reg as i32,
            id,
            reg: Some(RegFileEntry {
                id,
                flags,
                pos: 0,
                fown: FownEntry::default(),
                name,
                mode,
                ..Default::default()
            }),
            ..Default::default()
        });
        Ok(id)
    }

    /// Reads a deleted file that no process so far has had open or mapped.
    fn read_mapped(
        &mut self,
        capture: &Capture<'_>,
        mapped: &Mapped<'_>,
        name: &[u8],
    ) -> Result<u32, Refusal> {
        let at = mapped.areas.first().map_or(0, |vma| vma.start);
        let shown = mapped.path.display();
        let refuse = |what: &str| {
            Err(Refusal::lasting(format!(
                "memory at {at:#x} is of a deleted file {what} ({shown})"
            )))
        };
        let open = self.kernels_path(capture.pid, mapped);
        if let Some((path, open)) = &open {
            if !open.is_file() || open.nlink() > 0 {
                return Err(has_name(at));
            }
            // What was there before the program is input of its, and in no key.
            // A dump by hand has none.
            if let Some(started) = capture.started
                && !(open.created().is_ok_and(|created| created > started)
                    && regular::is_dated_here(Path::new(path)))
            {
                return refuse("that it has not made itself");
            }
        } else if has_other_name(mapped) {
            return Err(has_name(at));
        } else if !mapped.path.starts_with(SHARED_MEMORY) {
            return refuse("that nobody has open");
        }
        let found = match &open {
            Some((_, open)) => Found::of(open),
            None => Found {
                uid: nix::unistd::geteuid().as_raw(),
                gid: nix::unistd::getegid().as_raw(),
                mode: libc::S_IFREG | 0o600,
                dev: mapped.dev,
                ino: mapped.inode,
            },
        };
        if !deleted::has_directory(name, found.dev) {
            return refuse("whose directory is gone");
        }
        let content = match &open {
            Some((_, open)) if open.len() > MAX_GHOST => return refuse("of more than 16 MiB"),
            Some((path, open)) => deleted::content(path, open.len(), mapped.path)?,
            None => through_mappings(capture.pid, mapped)?,
        };
        let shown_only = open.is_none();
        let ghost = self.add_ghost(&found, content);
        if shown_only {
            self.shown_ghosts.push(ghost);
        }
        Ok(ghost)
    }

    /// Returns a path of the kernel's that leads to the file, and what it is:
    /// by a descriptor of whichever process, or by the mapping.
    fn kernels_path(&self, pid: i32, mapped: &Mapped<'_>) -> Option<(String, Metadata)> {
        let shown = [mapped.path.as_os_str().as_bytes(), b" (deleted)"].concat();
        let mut all = self.family.everywhere();
        let open = all.find(|(_, open)| {
            let same_name = open.target.as_os_str().as_bytes() == shown;
            open.id.is_some_and(|id| id.ino == mapped.inode && (id.dev == mapped.dev || same_name))
        });
        let path = match (open, mapped.areas.first()) {
            (Some((pid, open)), _) => format!("/proc/{pid}/fd/{}", open.fd),
            (None, Some(vma)) => format!("/proc/{pid}/map_files/{:x}-{:x}", vma.start, vma.end),
            (None, None) => return None,
        };
        let meta = fs::metadata(&path).ok()?;
        Some((path, meta))
    }

    /// Refuses an area that shows more of a file than that process did through
    /// which it was read.
    fn check_shown(&self, ghost: u32, vma: &Vma) -> Result<(), Refusal> {
        let end = vma.offset + (vma.end - vma.start);
        let found = self.ghosts.iter().find(|it| it.id == ghost);
        let len = found.and_then(|ghost| ghost.entry.size).unwrap_or(0);
        if end <= len || !self.shown_ghosts.contains(&ghost) {
            return Ok(());
        }
        let what = format!("memory at {:#x} is of a deleted file of which", vma.start);
        Err(Refusal::lasting(format!("{what} another process has mapped less")))
    }
}

fn has_name(at: u64) -> Refusal {
    let what = "is of a file that has another name by now, as a semaphore has";
    Refusal::lasting(format!("memory at {at:#x} {what}"))
}

/// Returns whether the file has another name in its directory, as a semaphore
/// has that was not unlinked.
fn has_other_name(mapped: &Mapped<'_>) -> bool {
    let entries = mapped.path.parent().and_then(|dir| fs::read_dir(dir).ok());
    let mut names = entries.into_iter().flatten().flatten();
    names.any(|entry| {
        let meta = fs::symlink_metadata(entry.path());
        meta.is_ok_and(|meta| (meta.ino(), meta.dev()) == (mapped.inode, mapped.dev))
    })
}

/// Reads a file from its beginning as far as a process has it mapped.
fn through_mappings(pid: i32, mapped: &Mapped<'_>) -> Result<Vec<u8>, Refusal> {
    let shown = mapped.path.display();
    let fail = |what: &dyn std::fmt::Display| {
        Refusal::lasting(format!("deleted file {shown}, read through its mapping: {what}"))
    };
    let mem = File::open(format!("/proc/{pid}/mem")).map_err(|error| fail(&error))?;
    let mut areas = mapped.areas.clone();
    areas.sort_by_key(|vma| vma.offset);
    let mut content = Vec::new();
    for vma in areas {
        let end = vma.offset + (vma.end - vma.start);
        if vma.offset > content.len() as u64 {
            return Err(fail(&"a part of it is not mapped"));
        }
        if end > MAX_GHOST {
            return Err(fail(&"it has more than 16 MiB"));
        }
        while (content.len() as u64) < end {
            let at = vma.start + (content.len() as u64 - vma.offset);
            let mut page = [0; LEN_PAGE as usize];
            let read = if vma.prot & libc::PROT_READ != 0 {
                memory::read_remote(pid, at, &mut page)
            } else {
                memory::read_forced(&mem, at, &mut page)
            };
            match read {
                Ok(()) => content.extend(page),
                // Behind its end.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT)) => {
                    return Ok(content);
                }
                Err(error) => return Err(fail(&error)),
            }
        }
    }
    Ok(content)
}
