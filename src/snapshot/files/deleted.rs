//! Open files that are deleted: carried with their content, as CRIU's ghost
//! files, and deleted again at a restore.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Descriptor, Reader, Refusal, regular};
use crate::image::proto::FileEntry;
use crate::image::proto::{GhostFileEntry, RemapFilePathEntry, RemapType};
use crate::image::{GhostContent, GhostFile};

/// How much of a deleted file an image carries: a hit reads it with the plan.
const MAX_GHOST: u64 = 16 << 20;
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
        let mut name = name.strip_suffix(MARK).unwrap_or(name).to_vec();
        if Path::new(OsStr::from_bytes(&name)).symlink_metadata().is_ok() {
            // Another file has the name by now: a restore needs a free one.
            name.extend(format!(".{:x}", open.ino()).bytes());
        }
        // The kernel's own files (huge pages, secret memory) have no directory.
        let path = Path::new(OsStr::from_bytes(&name));
        let parent = path.parent().and_then(|parent| parent.metadata().ok());
        if parent.is_none_or(|parent| parent.dev() != open.dev()) {
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
        let known = self.files.ghosts.iter().find(|ghost| {
            (ghost.entry.dev, ghost.entry.ino) == (Some(open.dev() as u32), Some(open.ino()))
        });
        let ghost_id = match known {
            Some(ghost) => ghost.id,
            None => {
                let content = self.content_of(descriptor, open)?;
                let id = self.files.ghosts.len() as u32 + 1;
                self.files.ghosts.push(GhostFile {
                    id,
                    entry: GhostFileEntry {
                        uid: open.uid(),
                        gid: open.gid(),
                        mode: open.mode(),
                        dev: Some(open.dev() as u32),
                        ino: Some(open.ino()),
                        size: Some(open.len()),
                        ..Default::default()
                    },
                    content: GhostContent::Whole(content),
                });
                id
            }
        };
        self.files.remaps.push(RemapFilePathEntry {
            orig_id: id,
            remap_id: ghost_id,
            remap_type: Some(RemapType::Ghost as i32),
        });
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
        let shown = descriptor.target.display();
        // Anew, since this description may only write: by its own owner's right.
        let path = format!("/proc/{}/fd/{}", self.pid, descriptor.fd);
        let mut content = Vec::with_capacity(open.len() as usize);
        let read = File::open(Path::new(&path))
            .and_then(|file| file.take(MAX_GHOST + 1).read_to_end(&mut content));
        read.map_err(|error| self.refuse(descriptor, format!("{shown}: {error}")))?;
        if content.len() as u64 != open.len() {
            return Err(Refusal::passing(format!("{shown} is being written")));
        }
        Ok(content)
    }
}
