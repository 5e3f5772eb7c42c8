//! Memfds: files that are in memory and have no path.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::{Descriptor, Files, Reader, Refusal};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, MemfdFileEntry};
use crate::snapshot::shared::{self, MemoryFile};
use crate::sys::pidfd;

/// Returns whether a descriptor is of a memfd.
pub(super) fn is_it(descriptor: &Descriptor) -> bool {
    let named = shared::name_of(descriptor.target.as_os_str().as_bytes()).is_some();
    named && descriptor.id.is_some_and(|id| shared::is_kernels_mount(id.dev))
}

impl Reader<'_> {
    /// Encodes one description of a memfd; what is in it is read later, once.
    pub(super) fn memory(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
    ) -> Result<FileEntry, Refusal> {
        let name = shared::name_of(descriptor.target.as_os_str().as_bytes()).unwrap_or_default();
        let inode = descriptor.id.map_or(0, |id| id.ino);
        self.locks(descriptor)?;
        if self.files.memory.iter().all(|known| known.inode != inode) {
            let duplicate = self.duplicate(descriptor)?;
            self.files.memory.push(MemoryFile::open(name, duplicate)?);
        }
        let flags = descriptor.info.flags & !(libc::O_CLOEXEC as u32);
        self.files.description(id, inode, flags, descriptor.info.pos)
    }
}

impl Files {
    /// Duplicates a descriptor of a piece of memory, whichever process has one.
    pub fn open_memory(&self, inode: u64) -> Option<OwnedFd> {
        let is_this = |open: &Descriptor| open.id.is_some_and(|id| id.ino == inode) && is_it(open);
        let mut all = self.family.everywhere();
        let (pid, open) = all.find(|(_, open)| is_this(open))?;
        pidfd::open(pid).and_then(|process| pidfd::get_fd(process.as_fd(), open.fd)).ok()
    }

    /// Returns the id of the file that a mapping of shared memory is of.
    pub fn memory_mapping(&mut self, inode: u64) -> Result<u32, Refusal> {
        let id = self.next_id();
        // CRIU has no flags for what is only mapped.
        let entry = self.description(id, inode, 0, 0)?;
        let same = |known: &&FileEntry| {
            let (Some(known), Some(new)) = (&known.memfd, &entry.memfd) else { return false };
            (known.inode_id, known.flags, known.pos) == (new.inode_id, new.flags, new.pos)
        };
        if let Some(known) = self.entries.iter().find(same) {
            return Ok(known.id);
        }
        self.entries.push(entry);
        Ok(id)
    }

    fn description(&self, id: u32, inode: u64, flags: u32, pos: u64) -> Result<FileEntry, Refusal> {
        let found = self.memory.iter().position(|known| known.inode == inode);
        let index = found.ok_or_else(|| {
            Refusal::passing(format!("shared memory {inode} is not to be found any more"))
        })?;
        Ok(FileEntry {
            r#type: FdTypes::Memfd as i32,
            id,
            memfd: Some(MemfdFileEntry {
                id,
                flags,
                pos,
                fown: FownEntry::default(),
                inode_id: index as u32 + 1,
            }),
            ..Default::default()
        })
    }
}
