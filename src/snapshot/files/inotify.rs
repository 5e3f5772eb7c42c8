//! inotify instances: what they watch, from fdinfo, and where that is.
//!
//! The kernel tells which file is watched by its number only. Its path is looked
//! for near what the program works with; a watch whose file is not found there,
//! or has gone, is refused by name, as are events that were not read yet. What
//! changes there before a restore nobody tells the program: so the files that are
//! watched, and those directly in directories that are, are inputs of the image.
//! A name that is new there is not noticed.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Descriptor, Reader, Refusal};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, InotifyFileEntry, InotifyWdEntry};
use crate::sys::socket::readable;

/// How many directory entries are looked at: the program stands still.
const MAX_LOOKS: usize = 20_000;
/// Where programs that are told of changes keep what changes.
const USUAL: [&str; 2] = ["/etc", "/tmp"];
/// How many files of a watched directory are inputs: they are looked at before
/// every restore.
const MAX_SEEN: usize = 256;
/// What CRIU's format has at the least.
const MIN_WORDS: usize = 16;
/// The kernel's own form of a device number has 20 bits of minor number.
const MINOR_BITS: u32 = 20;

/// A file by its device, as `stat(2)` has it, and its inode.
type Key = (u64, u64);

impl Reader<'_> {
    /// Encodes an inotify instance.
    pub(super) fn inotify(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
    ) -> Result<FileEntry, Refusal> {
        let duplicate = self.duplicate(descriptor)?;
        if readable(duplicate.as_fd()).unwrap_or(1) > 0 {
            let what = format!("fd {} is inotify with events that were not read", descriptor.fd);
            return Err(Refusal::passing(what));
        }
        let mut watches = Vec::new();
        for line in descriptor.info.values("inotify wd") {
            let watch = parse(id, line);
            watches
                .push(watch.ok_or_else(|| self.refuse(descriptor, format!("inotify ({line})")))?);
        }
        let mut wanted: BTreeMap<Key, Option<PathBuf>> = BTreeMap::new();
        wanted.extend(watches.iter().map(|watch| (key(watch), None)));
        Search { left: wanted.len(), wanted: &mut wanted, looks: MAX_LOOKS }.run(&self.places());
        for watch in &mut watches {
            let path = wanted.get(&key(watch)).and_then(Option::as_ref).ok_or_else(|| {
                let what = format!("fd {} is inotify that watches", descriptor.fd);
                let (ino, wd) = (watch.i_ino, watch.wd);
                Refusal::lasting(format!("{what} a file that is not found (watch {wd}, {ino})"))
            })?;
            watch.f_handle.path = Some(path.as_os_str().as_bytes().to_vec());
            self.seen_by_watch(descriptor, path)?;
        }
        Ok(FileEntry {
            r#type: FdTypes::Inotify as i32,
            id,
            ify: Some(InotifyFileEntry {
                id,
                flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
                fown: FownEntry::default(),
                wd: watches,
            }),
            ..Default::default()
        })
    }

    /// Makes inputs of what a watch would tell changes of: the program knows the
    /// file, or those in the directory, as they are, and nobody tells it of
    /// what happens before a restore. What it writes itself is none.
    fn seen_by_watch(&mut self, descriptor: &Descriptor, path: &Path) -> Result<(), Refusal> {
        if path.is_file() {
            self.files.dependencies.push(path.to_owned());
            return Ok(());
        }
        let is_read_only =
            |open: &Descriptor| open.info.flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32;
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| {
            let is_written =
                |(_, open): (i32, &Descriptor)| open.target == *path && !is_read_only(open);
            path.is_file()
                && !self.family.everywhere().any(is_written)
                && access(path, AccessFlags::R_OK).is_ok()
        });
        let files: Vec<PathBuf> = files.take(MAX_SEEN + 1).collect();
        if files.len() > MAX_SEEN {
            let shown = path.display();
            let what = format!("inotify that watches {shown}, a directory of many files");
            return Err(self.refuse(descriptor, what));
        }
        self.files.dependencies.extend(files);
        Ok(())
    }

    /// Returns where to look: the nearest first.
    fn places(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", self.pid));
        let cwd = link("cwd").unwrap_or_default();
        places.push(cwd.clone());
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        places.extend(words.map(|word| cwd.join(OsStr::from_bytes(word))));
        places.extend(self.family.everywhere().map(|(_, open)| open.target.clone()));
        places.extend(link("exe").ok());
        // A configuration may have come by the environment; a list of directories
        // that programs are looked for in (PATH) is none.
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let values = environment.split(|byte| *byte == 0);
        let values = values.filter_map(|line| line.splitn(2, |byte| *byte == b'=').nth(1));
        let values = values.filter(|value| !value.contains(&b':'));
        places.extend(values.map(|value| PathBuf::from(OsStr::from_bytes(value))));
        places.extend(USUAL.map(PathBuf::from));
        places.retain(|place| place.is_absolute());
        places
    }
}

/// Looks for files by their numbers.
struct Search<'a> {
    wanted: &'a mut BTreeMap<Key, Option<PathBuf>>,
    /// How many are not found yet.
    left: usize,
    looks: usize,
}

impl Search<'_> {
    /// Looks at the places and all that is above them; then at what is below
    /// them, level by level.
    fn run(&mut self, places: &[PathBuf]) {
        let mut below = VecDeque::new();
        for place in places {
            for path in place.ancestors() {
                self.look(path);
            }
            // Not all of the machine.
            if place.is_dir() && place.parent().is_some() {
                below.push_back(place.clone());
            }
        }
        while let Some(dir) = below.pop_front() {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for entry in entries.flatten() {
                if self.left == 0 || self.looks == 0 {
                    return;
                }
                if self.look(&entry.path()) {
                    below.push_back(entry.path());
                }
            }
        }
    }

    /// Looks at a path; returns whether it is a directory.
    fn look(&mut self, path: &Path) -> bool {
        self.looks = self.looks.saturating_sub(1);
        let Ok(meta) = fs::symlink_metadata(path) else { return false };
        if let Some(found) = self.wanted.get_mut(&(meta.dev(), meta.ino()))
            && found.is_none()
            && !meta.is_symlink()
        {
            *found = Some(path.to_owned());
            self.left -= 1;
        }
        meta.is_dir()
    }
}

fn key(watch: &InotifyWdEntry) -> Key {
    let (major, minor) = (watch.s_dev >> MINOR_BITS, watch.s_dev & ((1 << MINOR_BITS) - 1));
    (libc::makedev(major, minor), watch.i_ino)
}

/// Parses `1 ino:994015 sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8
/// fhandle-type:1 f_handle:154099009190eaf6`, all in hexadecimal.
fn parse(id: u32, line: &str) -> Option<InotifyWdEntry> {
    let mut words = line.split_ascii_whitespace();
    let wd = u32::from_str_radix(words.next()?, 16).ok()?;
    let mut watch = InotifyWdEntry { id, wd, ..Default::default() };
    for word in words {
        let (key, text) = word.split_once(':')?;
        let number = || u32::from_str_radix(text, 16).ok();
        match key {
            "ino" => watch.i_ino = u64::from_str_radix(text, 16).ok()?,
            "sdev" => watch.s_dev = number()?,
            "mask" => watch.mask = number()?,
            "ignored_mask" => watch.ignored_mask = number()?,
            "fhandle-bytes" => watch.f_handle.bytes = number()?,
            "fhandle-type" => watch.f_handle.r#type = number()?,
            "f_handle" => watch.f_handle.handle = handle(text)?,
            _ => {}
        }
    }
    Some(watch)
}

/// Tells whether a line is of a watch that ends with its first event: CRIU makes
/// a lasting one of it.
pub(super) fn is_for_one_event(line: &str) -> bool {
    parse(0, line).is_some_and(|watch| watch.mask & libc::IN_ONESHOT != 0)
}

/// Turns bytes into words, the first byte lowest.
fn handle(text: &str) -> Option<Vec<u64>> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
    let mut words: Vec<u64> = bytes.chunks(8).map(word).collect();
    words.resize(words.len().max(MIN_WORDS), 0);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::proto::FhEntry;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = "1f ino:994015 sdev:fe00003 mask:84000002 ignored_mask:0 fhandle-bytes:a \
                    fhandle-type:1 f_handle:154099009190eaf60102";
        let watch = parse(9, line).unwrap();
        assert_eq!((watch.id, watch.wd, watch.mask), (9, 0x1f, 0x8400_0002));
        assert_eq!(key(&watch), (libc::makedev(0xfe, 3), 0x99_4015));
        let FhEntry { bytes, r#type, handle, .. } = watch.f_handle;
        assert_eq!((bytes, r#type, handle.len()), (10, 1, MIN_WORDS));
        assert_eq!(handle[..3], [0xf6ea_9091_0099_4015, 0x0201, 0]);
        assert!(is_for_one_event(line) && !is_for_one_event("1 mask:4000002"));
        assert!(parse(9, "x ino:1").is_none() && parse(9, "1 ino:xyz").is_none());
    }

    #[test]
    fn files_are_found_above_and_below_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        let file = deep.join("file");
        fs::write(&file, "").unwrap();
        let key = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.dev(), meta.ino())
        };
        let keys = [key(dir.path()), key(&file), (1, u64::MAX)];
        let mut wanted: BTreeMap<Key, Option<PathBuf>> = keys.map(|key| (key, None)).into();
        Search { left: 3, wanted: &mut wanted, looks: 100 }.run(&[dir.path().join("a/b")]);
        let found = keys.map(|key| wanted[&key].clone());
        assert_eq!(found, [Some(dir.path().into()), Some(file), None]);
        let mut wanted: BTreeMap<Key, Option<PathBuf>> = [(keys[1], None)].into();
        Search { left: 1, wanted: &mut wanted, looks: 4 }.run(&[dir.path().join("a/b")]);
        assert_eq!(wanted[&keys[1]], None);
    }
}
