//! Epoll instances: what they watch, from fdinfo.

use std::os::fd::RawFd;

use super::{Descriptor, Refusal};
use crate::image::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry, FownEntry};

/// Encodes an epoll instance; refuses one that watches a descriptor that is
/// closed or now another file (the kernel watches the file, not the number).
pub fn entry(
    pid: i32,
    descriptor: &Descriptor,
    id: u32,
    all: &[Descriptor],
) -> Result<FileEntry, Refusal> {
    let mut tfd = Vec::new();
    for line in descriptor.info.values("tfd") {
        let target = parse(id, line).ok_or_else(|| {
            Refusal::lasting(format!("fd {} is an epoll instance with `{line}`", descriptor.fd))
        })?;
        let watched = target.tfd as RawFd;
        let inode = super::fs::metadata(format!("/proc/{pid}/fd/{watched}"))
            .ok()
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
        let open = all.iter().any(|open| open.fd == watched);
        if !open || target.inode.is_some() && inode != target.inode {
            return Err(Refusal::passing(format!(
                "fd {} is an epoll instance that watches fd {watched}, which is closed",
                descriptor.fd
            )));
        }
        tfd.push(target);
    }
    Ok(FileEntry {
        r#type: FdTypes::Eventpoll as i32,
        id,
        epfd: Some(EventpollFileEntry {
            id,
            flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
            fown: FownEntry::default(),
            tfd,
        }),
        ..Default::default()
    })
}

/// Parses `5 events:       19 data:         ffffffff  pos:0 ino:61af sdev:7`.
fn parse(id: u32, line: &str) -> Option<EventpollTfdEntry> {
    let spaced = line.replace(':', " ");
    let mut words = spaced.split_ascii_whitespace();
    let tfd = words.next()?.parse().ok()?;
    let mut entry = EventpollTfdEntry { id, tfd, ..Default::default() };
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "events" => entry.events = u32::from_str_radix(value, 16).ok()?,
            "data" => entry.data = u64::from_str_radix(value, 16).ok()?,
            "pos" => entry.pos = value.parse().ok(),
            "ino" => entry.inode = u64::from_str_radix(value, 16).ok(),
            "sdev" => entry.dev = u32::from_str_radix(value, 16).ok(),
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let entry =
            parse(9, "5 events:       19 data: ffffffff00000005  pos:0 ino:61af sdev:7").unwrap();
        assert_eq!((entry.tfd, entry.events, entry.data), (5, 0x19, 0xffff_ffff_0000_0005));
        assert_eq!((entry.inode, entry.dev), (Some(0x61af), Some(7)));
    }
}
