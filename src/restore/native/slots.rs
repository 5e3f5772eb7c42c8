//! The descriptors that a restore brings along, all above the program's own.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

use super::unusable;
use crate::image::pages_file;
use crate::privilege;
use crate::restore::plan::{PLAN_FILE, Plan};
use crate::restore::{CannotRestore, Request};
use crate::sys::limits;

/// Above this a descriptor of the restore's own never meets one of the
/// program's.
pub(super) const LOWEST_SLOT: u32 = 64;

/// Descriptors of the restore, all above the program's.
pub(super) struct Slots {
    pub(super) pages: OwnedFd,
    /// The other pages files, by id.
    more_pages: Vec<(u32, OwnedFd)>,
    pub(super) exe: OwnedFd,
    pub(super) signal: OwnedFd,
    reader: OwnedFd,
    callers: Vec<(RawFd, OwnedFd)>,
    pub(super) nofile: Option<RaisedLimit>,
}

/// A limit of descriptors that had to be raised; put back on drop.
#[derive(Debug)]
pub(super) struct RaisedLimit {
    pub(super) before: (u64, u64),
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        // Lowering a soft limit to what it was cannot fail.
        let _ = limits::set(libc::RLIMIT_NOFILE, soft, hard);
    }
}

impl Slots {
    /// Opens them, with room for `spare` more descriptors above.
    pub(super) fn open(
        request: &Request<'_>,
        plan: &Plan,
        spare: usize,
    ) -> Result<Self, CannotRestore> {
        let file = plan.file();
        // Two more: the ends of a pipe may both be made above the last one.
        let lowest = (file.fd_ceiling + 2).max(LOWEST_SLOT);
        let more = spare + request.keep.len() + request.lent.len() + file.more_pages.len();
        let nofile = raise_limit(u64::from(lowest) + 16 + more as u64)?;
        let above = |fd: &dyn AsFd| {
            fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(lowest as RawFd))
                .map(crate::sys::pidfd::adopt)
                .map_err(|error| unusable(format!("descriptors above {lowest}: {error}")))
        };
        let name = pages_file(file.pages_id.unwrap_or(1));
        let pages = open_pages(request.dir, &name, file.len_pages)?;
        let mut more_pages = Vec::with_capacity(file.more_pages.len());
        for wanted in &file.more_pages {
            let pages = open_pages(request.dir, &pages_file(wanted.id), wanted.len)?;
            more_pages.push((wanted.id, above(&pages)?));
        }
        let exe = open_program(Path::new(std::ffi::OsStr::from_bytes(&file.exe)), request)?;
        let (reader, writer) = io::pipe().map_err(|error| unusable(error.to_string()))?;
        let mut callers = Vec::new();
        for given in &file.given {
            let number = given.source;
            let known = callers.iter().any(|(known, _)| *known == number);
            if known || number <= 2 && given.fd == number {
                continue;
            }
            let lent = request.lent.iter().find(|(known, _)| *known == number);
            if number > 2 && lent.is_none() && !request.keep.contains(&number) {
                return Err(unusable(format!(
                    "the program keeps the caller's descriptor {number}"
                )));
            }
            let ours = lent.map_or(number, |(_, lent)| lent.as_raw_fd());
            let duplicate = crate::sys::pidfd::duplicate_above(ours, lowest as RawFd)
                .map_err(|error| unusable(format!("the caller's descriptor {number}: {error}")))?;
            callers.push((number, duplicate));
        }
        Ok(Self {
            pages: above(&pages)?,
            more_pages,
            exe: above(&exe)?,
            signal: above(&writer)?,
            reader: reader.into(),
            callers,
            nofile,
        })
    }

    pub(super) fn numbers(&self) -> Vec<(RawFd, RawFd)> {
        self.callers.iter().map(|(number, duplicate)| (*number, duplicate.as_raw_fd())).collect()
    }

    pub(super) fn more_pages(&self) -> Vec<(u32, RawFd)> {
        self.more_pages.iter().map(|(id, pages)| (*id, pages.as_raw_fd())).collect()
    }

    pub(super) fn into_reader(self) -> OwnedFd {
        self.reader
    }
}

/// Opens a pages file, which must have this length in bytes.
fn open_pages(dir: &Path, name: &str, expected: u64) -> Result<File, CannotRestore> {
    let (pages, metadata) = open(&dir.join(name))?;
    let len = metadata.len();
    if len != expected {
        let what = format!("{name} has {len} bytes, {PLAN_FILE} asks for {expected}");
        return Err(unusable(what));
    }
    Ok(pages)
}

/// Opens the program's file, which `/proc/PID/exe` will name: nothing else of
/// the plan is used with the capability but pids and this descriptor.
fn open_program(path: &Path, request: &Request<'_>) -> Result<File, CannotRestore> {
    const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
    let (file, metadata) = open(path)?;
    if request.program.is_some_and(|witness| !witness.knows(path, &metadata)) {
        return Err(unusable(format!("{} is not the program that was checked", path.display())));
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(unusable(format!("{} is not a program", path.display())));
    }
    // A start of it would have made another process than one of the caller's.
    if privilege::choice_is_lent() && metadata.mode() & SET_ID != 0 {
        return Err(unusable(format!("{} is a set-id program", path.display())));
    }
    Ok(file)
}

/// Opens a regular file; anything else is not waited for.
fn open(path: &Path) -> Result<(File, Metadata), CannotRestore> {
    let fail = |error: io::Error| unusable(format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(unusable(format!("{} is not a regular file", path.display())));
    }
    Ok((file, metadata))
}

/// Makes room for `count` descriptors.
fn raise_limit(count: u64) -> Result<Option<RaisedLimit>, CannotRestore> {
    let fail = |error: io::Error| unusable(format!("limit of descriptors: {error}"));
    let before = limits::get(0, libc::RLIMIT_NOFILE).map_err(fail)?;
    if before.0 >= count {
        return Ok(None);
    }
    limits::set(libc::RLIMIT_NOFILE, count.min(before.1), before.1).map_err(fail)?;
    Ok(Some(RaisedLimit { before }))
}
