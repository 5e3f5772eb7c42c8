//! Named pipes, by their path, with what waits in them.

use std::fs::{self, Metadata};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::{Descriptor, Reader, Refusal, pipe};
use crate::image::Queued;
use crate::image::proto::{FdTypes, FifoEntry, FileEntry, FownEntry, PipeDataEntry, RegFileEntry};
use crate::sys::socket::readable;

impl Reader<'_> {
    /// Encodes one description of a named pipe.
    ///
    /// What waits in it lives as long as somebody has it open: it is the
    /// program's to bring back only if nobody else can have.
    pub(super) fn fifo(
        &mut self,
        descriptor: &Descriptor,
        open: &Metadata,
    ) -> Result<FileEntry, Refusal> {
        let path = &descriptor.target;
        let shown = path.display();
        let named = fs::symlink_metadata(path);
        if !named.is_ok_and(|named| named.dev() == open.dev() && named.ino() == open.ino()) {
            let what = format!("a deleted or replaced named pipe ({shown})");
            return Err(self.refuse(descriptor, what));
        }
        let pipe_id = open.ino() as u32;
        let flags = descriptor.info.flags & !(libc::O_CLOEXEC as u32);
        let duplicate = self.duplicate(descriptor)?;
        let known = self.files.fifo_data.iter().any(|known| known.entry.pipe_id == pipe_id);
        if !known {
            let fail = |error: &dyn std::fmt::Display| {
                Refusal::lasting(format!("fd {} is a named pipe: {error}", descriptor.fd))
            };
            let waits = readable(duplicate.as_fd()).map_err(|error| fail(&error))? > 0;
            let mode = |open: &Descriptor| open.info.flags & libc::O_ACCMODE as u32;
            let ours = |mode_of_one: i32| {
                let same = |other: &&Descriptor| other.id == descriptor.id;
                let both = libc::O_RDWR as u32;
                let all = self.family.everywhere().map(|(_, open)| open);
                all.filter(same).any(|o| [both, mode_of_one as u32].contains(&mode(o)))
            };
            if waits && !(ours(libc::O_RDONLY) && ours(libc::O_WRONLY)) {
                let what = "is a named pipe with unread data of somebody else's";
                return Err(Refusal::passing(format!("fd {} {what}", descriptor.fd)));
            }
            if !waits || mode(descriptor) != libc::O_WRONLY as u32 {
                let (size, data) = pipe::content(&duplicate)
                    .map_err(|error| fail(&error))?
                    .ok_or_else(|| fail(&"it is being read"))?;
                let bytes = data.len() as u32;
                let entry = PipeDataEntry { pipe_id, bytes, size: Some(size) };
                self.files.fifo_data.push(Queued { entry, data });
            }
        }
        let path_id = self.files.next_id();
        self.files.entries.push(FileEntry {
            r#type: FdTypes::Reg as i32,
            id: path_id,
            reg: Some(RegFileEntry {
                id: path_id,
                flags,
                pos: 0,
                fown: FownEntry::default(),
                name: path.as_os_str().as_bytes().to_vec(),
                mode: Some(open.mode()),
                ..Default::default()
            }),
            ..Default::default()
        });
        let id = self.files.next_id();
        Ok(FileEntry {
            r#type: FdTypes::Fifo as i32,
            id,
            fifo: Some(FifoEntry { id, pipe_id, regf_id: Some(path_id) }),
            ..Default::default()
        })
    }
}
