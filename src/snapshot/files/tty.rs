//! Terminals: always the caller's at a restore; described for CRIU.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Descriptor, Reader, Refusal};
use crate::image::proto::{
    FdTypes, FileEntry, FownEntry, TermiosEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
    WinsizeEntry,
};
use crate::snapshot::process::Stat;
use crate::sys::tty;

/// Returns whether the target of a descriptor is a pseudo-terminal.
pub fn is_terminal(target: &Path) -> bool {
    number(target).is_some()
}

fn number(target: &Path) -> Option<u32> {
    let digits = target.as_os_str().as_bytes().strip_prefix(b"/dev/pts/")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Reader<'_> {
    /// Encodes a terminal and, once for each, what is known of it.
    pub(super) fn terminal(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
    ) -> Result<FileEntry, Refusal> {
        let index = number(&descriptor.target).unwrap_or(0);
        // CRIU numbers them by index and kind; the index is enough here.
        let info_id = index + 1;
        // The path that CRIU opens to have the terminal again.
        let path_id = self.files.add_path(&descriptor.target, libc::O_RDWR as u32)?;
        let id = id.max(self.files.next_id());
        if self.files.tty_info.iter().all(|info| info.id != info_id) {
            let info = self.terminal_info(descriptor, info_id, index)?;
            self.files.tty_info.push(info);
        }
        Ok(FileEntry {
            r#type: FdTypes::Tty as i32,
            id,
            tty: Some(TtyFileEntry {
                id,
                tty_info_id: info_id,
                flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
                fown: FownEntry::default(),
                regf_id: Some(path_id),
            }),
            ..Default::default()
        })
    }

    fn terminal_info(
        &self,
        descriptor: &Descriptor,
        id: u32,
        index: u32,
    ) -> Result<TtyInfoEntry, Refusal> {
        let duplicate = self.duplicate(descriptor)?;
        let meta = fs::metadata(&descriptor.target)
            .map_err(|error| self.refuse(descriptor, format!("a terminal: {error}")))?;
        let stat = Stat::read(&format!("/proc/{}/stat", self.pid))?;
        let settings = tty::settings(duplicate.as_fd());
        let size = tty::size(duplicate.as_fd());
        Ok(TtyInfoEntry {
            id,
            r#type: TtyType::Pty as i32,
            locked: false,
            exclusive: false,
            packet_mode: false,
            sid: stat.field(6) as u32,
            pgrp: stat.field(8) as u32,
            rdev: meta.rdev() as u32,
            termios: settings.ok().map(|termios| TermiosEntry {
                c_iflag: termios.c_iflag,
                c_oflag: termios.c_oflag,
                c_cflag: termios.c_cflag,
                c_lflag: termios.c_lflag,
                c_line: u32::from(termios.c_line),
                c_ispeed: termios.c_ispeed,
                c_ospeed: termios.c_ospeed,
                c_cc: termios.c_cc.iter().take(19).map(|byte| u32::from(*byte)).collect(),
            }),
            winsize: size.ok().map(|size| WinsizeEntry {
                ws_row: u32::from(size.ws_row),
                ws_col: u32::from(size.ws_col),
                ws_xpixel: u32::from(size.ws_xpixel),
                ws_ypixel: u32::from(size.ws_ypixel),
            }),
            pty: Some(TtyPtyEntry { index }),
            dev: Some(meta.dev() as u32),
            uid: Some(meta.uid()),
            gid: Some(meta.gid()),
            ..Default::default()
        })
    }
}
