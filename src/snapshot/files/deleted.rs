//! Open files that are deleted: carried with their content, as CRIU's ghost
//! files, and deleted again at a restore. Those that are mapped: [`super::mapped`].

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Descriptor, Files, Reader, Refusal, regular};
use crate::image::proto::FileEntry;
use crate::image::proto::{GhostFileEntry, RemapFilePathEntry, RemapType};
use crate::image::{GhostContent, GhostFile};

/// How much of a deleted file an image carries: a hit reads it with the plan.
pub(super) const MAX_GHOST: u64 = 16 << 20;
const MARK: &[u8] = b" (deleted)";

/// Returns whether an open file is a regular one without any name.
pub(super) fn is_it(descriptor: &Descriptor, open: &Metadata) -> bool {
    let target = descriptor.target.as_os_str().as_bytes();
    open.is_file() && open.nlink() == 0 && target.ends_with(MARK)
}

impl Reader<'_> {
    /// Encodes a description of a deleted file; its content once for all that
    /// are of the same file.
    pub(super) fn deleted(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        open: &Metadata,
    ) -> Result<FileEntry, Refusal> {
        let shown = descriptor.target.display();
        let name = descriptor.target.as_os_str().as_bytes();
        let name = free_name(name.strip_suffix(MARK).unwrap_or(name), open.ino());
        if !has_directory(&name, open.dev()) {
            let what = format!("a deleted file whose directory is gone ({shown})");
            return Err(self.refuse(descriptor, what));
        }
        // What was there before the program is input of its, and in no key. A
        // dump by hand has none.
        if self.capture.started.is_some() && !self.is_made_by_program(open, descriptor.fd)? {
            let what = format!("a deleted file that it has not made itself ({shown})");
            return Err(self.refuse(descriptor, what));
        }
        if open.len() > MAX_GHOST {
            let what = format!("a deleted file of {} MiB ({shown})", open.len() >> 20);
            return Err(self.refuse(descriptor, what));
        }
        self.locks(descriptor)?;
        let ghost_id = match self.files.known_ghost(open.dev(), open.ino(), &name) {
            Some(known) => known,
            None => {
                let content = self.content_of(descriptor, open)?;
                self.files.add_ghost(&Found::of(open), content)
            }
        };
        self.files.remap(id, ghost_id);
        let mut entry = regular::entry(descriptor, id);
        if let Some(reg) = &mut entry.reg {
            reg.name = name;
            // Opened by that name it is an ordinary file.
            reg.flags &= !(libc::O_TMPFILE as u32);
            reg.mode = Some(open.mode());
        }
        Ok(entry)
    }

    fn content_of(&self, descriptor: &Descriptor, open: &Metadata) -> Result<Vec<u8>, Refusal> {
        // Anew, since this description may only write: by its own owner's right.
        let path = format!("/proc/{}/fd/{}", self.pid, descriptor.fd);
        content(&path, open.len(), &descriptor.target)
    }
}

/// What an image says of a deleted file.
pub(super) struct Found {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) dev: u64,
    pub(super) ino: u64,
}

impl Found {
    pub(super) fn of(open: &Metadata) -> Self {
        let (dev, ino) = (open.dev(), open.ino());
        Self { uid: open.uid(), gid: open.gid(), mode: open.mode(), dev, ino }
    }
}

impl Files {
    /// Returns the deleted file that was found already: some file systems show
    /// other devices for what is mapped than for what is open.
    pub(super) fn known_ghost(&self, dev: u64, ino: u64, name: &[u8]) -> Option<u32> {
        let has_name = |ghost: &GhostFile| {
            let mut ids = self.remaps.iter().filter(|remap| remap.remap_id == ghost.id);
            ids.any(|remap| {
                let mut entries = self.entries.iter().filter(|entry| entry.id == remap.orig_id);
                entries.any(|entry| entry.reg.as_ref().is_some_and(|reg| reg.name == name))
            })
        };
        let is_it = |ghost: &&GhostFile| {
            let on_device = ghost.entry.dev == Some(dev as u32);
            ghost.entry.ino == Some(ino) && (on_device || has_name(ghost))
        };
        self.ghosts.iter().find(is_it).map(|ghost| ghost.id)
    }

    /// Adds a deleted file with its content; returns its number.
    pub(super) fn add_ghost(&mut self, found: &Found, content: Vec<u8>) -> u32 {
        let id = self.ghosts.len() as u32 + 1;
        self.ghosts.push(GhostFile {
            id,
            entry: GhostFileEntry {
                uid: found.uid,
                gid: found.gid,
                mode: found.mode,
                dev: Some(found.dev as u32),
                ino: Some(found.ino),
                size: Some(content.len() as u64),
                ..Default::default()
            },
            content: GhostContent::Whole(content),
        });
        id
    }

    /// Says that a file of the image is a deleted one.
    pub(super) fn remap(&mut self, file: u32, ghost: u32) {
        self.remaps.push(RemapFilePathEntry {
            orig_id: file,
            remap_id: ghost,
            remap_type: Some(RemapType::Ghost as i32),
        });
    }
}

/// Returns a name that a restore can make the file under: another file may have
/// its own by now.
pub(super) fn free_name(name: &[u8], ino: u64) -> Vec<u8> {
    let mut name = name.to_vec();
    if Path::new(OsStr::from_bytes(&name)).symlink_metadata().is_ok() {
        name.extend(format!(".{ino:x}").bytes());
    }
    name
}

/// Returns whether the file's directory is there still. The kernel's own files
/// (huge pages, secret memory) have none.
pub(super) fn has_directory(name: &[u8], dev: u64) -> bool {
    let parent = Path::new(OsStr::from_bytes(name)).parent();
    let parent = parent.and_then(|parent| parent.metadata().ok());
    parent.is_some_and(|parent| parent.dev() == dev)
}

/// Reads a file of this length by a path of the kernel's.
pub(super) fn content(path: &str, len: u64, shown: &Path) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::with_capacity(len as usize);
    let read = File::open(path).and_then(|file| file.take(MAX_GHOST + 1).read_to_end(&mut content));
    read.map_err(|error| Refusal::lasting(format!("{}: {error}", shown.display())))?;
    if content.len() as u64 != len {
        return Err(Refusal::passing(format!("{} is being written", shown.display())));
    }
    Ok(content)
}
