//! Pipes whose both ends the program holds: their capacity and what waits in
//! them, which is read without taking it out (`tee(2)`).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, tee};

use super::{Descriptor, Reader, Refusal, bracketed};
use crate::image::Queued;
use crate::image::proto::{FdTypes, FileEntry, FownEntry, PipeDataEntry, PipeEntry};
use crate::sys::socket::readable;

impl Reader<'_> {
    /// Encodes one end, and with the first one the content.
    pub(super) fn pipe(&mut self, descriptor: &Descriptor, id: u32) -> Result<FileEntry, Refusal> {
        let target = &descriptor.target;
        let mode = |open: &Descriptor| open.info.flags & libc::O_ACCMODE as u32;
        let has = |wanted: i32| {
            let mut all = self.family.everywhere();
            all.any(|(_, open)| open.target == *target && mode(open) == wanted as u32)
        };
        if !has(libc::O_RDONLY) || !has(libc::O_WRONLY) {
            return Err(self.refuse(descriptor, "a pipe whose other end is outside the program"));
        }
        if descriptor.info.flags & libc::O_DIRECT as u32 != 0 {
            return Err(self.refuse(descriptor, "a pipe of packets (O_DIRECT)"));
        }
        let inode = bracketed(target.as_os_str().as_bytes(), b"pipe:[").unwrap_or(0);
        let entry = entry(descriptor, id, inode);
        let known = self.files.pipe_data.iter().any(|known| known.entry.pipe_id == inode as u32);
        if !known && mode(descriptor) == libc::O_RDONLY as u32 {
            let duplicate = self.duplicate(descriptor)?;
            let (size, data) = content(&duplicate)
                .map_err(|error| self.refuse(descriptor, format!("a pipe: {error}")))?
                .ok_or_else(|| {
                    let what = format!("fd {} is a pipe that is being read", descriptor.fd);
                    Refusal::passing(what)
                })?;
            let bytes = data.len() as u32;
            let entry = PipeDataEntry { pipe_id: inode as u32, bytes, size: Some(size) };
            self.files.pipe_data.push(Queued { entry, data });
        }
        Ok(entry)
    }
}

/// Reads capacity and content of a pipe by its reading end; `None` if it
/// changed meanwhile.
pub(super) fn content(pipe: &OwnedFd) -> nix::Result<Option<(u32, Vec<u8>)>> {
    let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
    let io = |error: std::io::Error| {
        nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
    };
    let len = readable(pipe.as_fd()).map_err(io)?.max(0) as usize;
    let mut data = vec![0; len];
    if len > 0 {
        let (reader, writer) = std::io::pipe().map_err(io)?;
        // With as many buffers as the pipe has, the copy cannot be partial.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
        if tee(pipe, &writer, len, SpliceFFlags::SPLICE_F_NONBLOCK)? != len {
            return Ok(None);
        }
        File::from(OwnedFd::from(reader)).read_exact(&mut data).map_err(io)?;
    }
    Ok(Some((size as u32, data)))
}

/// Encodes one end of the pipe with this inode.
pub(super) fn entry(descriptor: &Descriptor, id: u32, inode: u64) -> FileEntry {
    FileEntry {
        r#type: FdTypes::Pipe as i32,
        id,
        pipe: Some(PipeEntry {
            id,
            pipe_id: inode as u32,
            flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
            fown: FownEntry::default(),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_waits_in_a_pipe_is_read_and_stays_there() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        writer.write_all(&[7; 100_000]).unwrap();
        let duplicate = OwnedFd::from(reader.try_clone().unwrap());
        for _ in 0..2 {
            let (size, data) = content(&duplicate).unwrap().unwrap();
            assert_eq!((size, data.len()), (1 << 20, 100_000));
        }
        let mut all = vec![0; 100_000];
        reader.read_exact(&mut all).unwrap();
        assert_eq!(content(&duplicate).unwrap().unwrap().1.len(), 0);
    }
}
