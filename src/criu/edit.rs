//! An image is given to its next caller: 0, 1 and 2, and what is kept, are
//! whatever that caller has.
//!
//! CRIU brings back a pipe as a pipe, and a terminal as a terminal; a caller
//! with anything else in its place would not get its output. It takes
//! descriptors from outside (`--inherit-fd`) as they are, whatever they are,
//! for files that are known by a path. So every descriptor of the caller's
//! becomes one of a file that is nowhere, with a name of ours. Each file is
//! changed field by field: what our schemas do not know stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use prost::Message;

use super::wire;
use crate::image::proto::{
    FdTypes, FdinfoEntry, FileEntry, FileLockEntry, FownEntry, RegFileEntry, TaskKobjIdsEntry,
};

/// Field numbers of `images/*.proto`.
mod field {
    pub(super) const FILE_REG: u64 = 3;
    pub(super) const REG_SIZE: u64 = 8;
    pub(super) const CORE_THREAD: u64 = 5;
    pub(super) const THREAD_PDEATH_SIG: u64 = 8;
    pub(super) const THREAD_CREDS: u64 = 10;
    pub(super) const CREDS_CAP_BND: u64 = 12;
}

/// No image file that is changed here is longer, in bytes.
const LEN_MAX: u64 = 64 << 20;

/// Why an image could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A file of it cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{} is not an image file of that name", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Returns the name of the file that stands for a descriptor of the caller's;
/// relative to the root directory, as `--inherit-fd` wants it.
pub fn name_of(callers: RawFd) -> String {
    format!("warmstart-fd-{callers}")
}

/// What belongs to whom of the descriptors of an image's first process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    /// Its descriptors that are its caller's, and which of the caller's.
    pub given: BTreeMap<RawFd, RawFd>,
    /// Descriptors that it has inherited and that are left out.
    pub dropped: BTreeSet<RawFd>,
}

/// An image file: a head, and messages behind it.
struct Sheet {
    path: PathBuf,
    head: [u8; 8],
    messages: Vec<Vec<u8>>,
}

impl Sheet {
    fn read(path: PathBuf) -> Result<Self, EditError> {
        let failed = |source| EditError::Io { path: path.clone(), source };
        if fs::metadata(&path).map_err(failed)?.len() > LEN_MAX {
            return Err(EditError::Malformed { path });
        }
        let bytes = fs::read(&path).map_err(failed)?;
        let parse = || {
            let (head, mut rest) = bytes.split_first_chunk::<8>()?;
            let mut messages = Vec::new();
            while let Some((len, behind)) = rest.split_first_chunk::<4>() {
                let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
                messages.push(behind.get(..len)?.to_vec());
                rest = &behind[len..];
            }
            rest.is_empty().then_some((*head, messages))
        };
        match parse() {
            Some((head, messages)) => Ok(Self { path, head, messages }),
            None => Err(EditError::Malformed { path }),
        }
    }

    /// Decodes its messages, each beside its bytes.
    fn decoded<M: Message + Default>(&self) -> Result<Vec<M>, EditError> {
        let decoded = self.messages.iter().map(|message| M::decode(&message[..]));
        decoded.collect::<Result<_, _>>().map_err(|_| self.malformed())
    }

    fn malformed(&self) -> EditError {
        EditError::Malformed { path: self.path.clone() }
    }

    fn write(&self) -> Result<(), EditError> {
        let mut bytes = self.head.to_vec();
        for message in &self.messages {
            bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
            bytes.extend_from_slice(message);
        }
        fs::write(&self.path, bytes)
            .map_err(|source| EditError::Io { path: self.path.clone(), source })
    }
}

/// Lists the image files whose names begin like this.
fn named(dir: &Path, stem: &str) -> Result<Vec<PathBuf>, EditError> {
    let failed = |source| EditError::Io { path: dir.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(stem) && name.ends_with(".img")) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn writes(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
}

/// Which open files of an image are the caller's.
struct Outside<'a> {
    given: &'a BTreeMap<RawFd, RawFd>,
    /// By the file's id: the numbers at the caller.
    by_id: BTreeMap<u32, BTreeSet<RawFd>>,
    /// By the pipe's id, and whether it is the end for writing.
    by_pipe: BTreeMap<(u32, bool), BTreeSet<RawFd>>,
    files: BTreeMap<u32, FileEntry>,
}

impl<'a> Outside<'a> {
    fn new(callers: &'a Callers, first: &[FdinfoEntry], files: &[FileEntry]) -> Self {
        let files: BTreeMap<u32, FileEntry> =
            files.iter().map(|file| (file.id, file.clone())).collect();
        let given = &callers.given;
        let mut outside = Self { given, by_id: BTreeMap::new(), by_pipe: BTreeMap::new(), files };
        for entry in first {
            let Some(number) = given.get(&(entry.fd as RawFd)) else { continue };
            outside.by_id.entry(entry.id).or_default().insert(*number);
            if let Some(end) = outside.pipe_of(entry.id) {
                outside.by_pipe.entry(end).or_default().insert(*number);
            }
        }
        outside
    }

    fn pipe_of(&self, id: u32) -> Option<(u32, bool)> {
        let pipe = self.files.get(&id)?.pipe.as_ref()?;
        Some((pipe.pipe_id, writes(pipe.flags)))
    }

    /// Returns which of the caller's a descriptor is, in the first process or in
    /// another one: by its number, or as a duplicate of one.
    fn number_of(&self, entry: &FdinfoEntry, is_first: bool) -> Option<RawFd> {
        if is_first && let Some(number) = self.given.get(&(entry.fd as RawFd)) {
            return Some(*number);
        }
        let by_pipe = || self.by_pipe.get(&self.pipe_of(entry.id)?);
        let numbers = self.by_id.get(&entry.id).or_else(by_pipe)?;
        let order = if self.writes(entry.id) { [1, 2, 0] } else { [0, 1, 2] };
        let own = numbers.contains(&(entry.fd as RawFd)).then_some(entry.fd as RawFd);
        let one = || order.into_iter().find(|number| numbers.contains(number));
        own.or_else(one).or_else(|| numbers.first().copied())
    }

    fn writes(&self, id: u32) -> bool {
        let file = self.files.get(&id);
        let flags = file.and_then(|file| {
            let pipe = file.pipe.as_ref().map(|pipe| pipe.flags);
            pipe.or(file.reg.as_ref().map(|reg| reg.flags))
                .or(file.tty.as_ref().map(|tty| tty.flags))
        });
        flags.is_none_or(writes)
    }
}

/// What became of an image's descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The caller's numbers of those that it hands over.
    pub callers: BTreeSet<RawFd>,
    /// The ids of open files that no descriptor is of any more.
    pub orphans: BTreeSet<u32>,
}

/// Makes the caller's descriptors of an image ones that are handed over at a
/// restore.
///
/// # Errors
/// If the image cannot be read or written, or contradicts itself.
pub fn hand_over(dir: &Path, pid: u32, callers: &Callers) -> Result<HandedOver, EditError> {
    let ids = Sheet::read(dir.join(format!("ids-{pid}.img")))?;
    let of_first = ids.decoded::<TaskKobjIdsEntry>()?.pop().ok_or_else(|| ids.malformed())?;
    let first = dir.join(format!("fdinfo-{}.img", of_first.files_id));
    let mut files = Sheet::read(dir.join("files.img"))?;
    let entries: Vec<FileEntry> = files.decoded()?;
    let first_table: Vec<FdinfoEntry> = Sheet::read(first.clone())?.decoded()?;
    let outside = Outside::new(callers, &first_table, &entries);
    let left_out: BTreeSet<u32> = first_table
        .iter()
        .filter(|entry| callers.dropped.contains(&(entry.fd as RawFd)))
        .map(|entry| entry.id)
        .collect();
    let base = entries.iter().map(|file| file.id).max().unwrap_or(0).saturating_add(1);
    let id_of = |number: RawFd| base.saturating_add(number as u32);

    let (mut used, mut replaced, mut referenced) =
        (BTreeSet::new(), left_out.clone(), BTreeSet::new());
    let owners = owners(dir)?;
    let mut gone = BTreeSet::new();
    for path in named(dir, "fdinfo-")? {
        let is_first = path == first;
        let owners = owners.get(&path).cloned().unwrap_or_default();
        let mut is_gone = |fd: u32| gone.extend(owners.iter().map(|pid| (*pid, fd as RawFd)));
        let mut table = Sheet::read(path)?;
        let mut messages = Vec::with_capacity(table.messages.len());
        for (entry, message) in table.decoded::<FdinfoEntry>()?.iter().zip(&table.messages) {
            if let Some(number) = outside.number_of(entry, is_first) {
                is_gone(entry.fd);
                used.insert(number);
                replaced.insert(entry.id);
                let r#type = FdTypes::Reg as i32;
                let entry = FdinfoEntry { id: id_of(number), r#type, ..entry.clone() };
                messages.push(entry.encode_to_vec());
            } else if !left_out.contains(&entry.id) {
                referenced.insert(entry.id);
                messages.push(message.clone());
            } else {
                is_gone(entry.fd);
            }
        }
        table.messages = messages;
        table.write()?;
    }

    let mut messages = Vec::with_capacity(files.messages.len() + used.len());
    for (entry, message) in entries.iter().zip(&files.messages) {
        let is_path = entry.reg.is_some();
        // A pipe or socket that no descriptor is of is an error to CRIU; a file
        // may be mapped, too.
        if is_path || referenced.contains(&entry.id) || !replaced.contains(&entry.id) {
            let grows = entry.reg.as_ref().is_some_and(|reg| writes(reg.flags));
            let message = match grows {
                true => wire::within(message, field::FILE_REG, &|reg| {
                    wire::replace(reg, field::REG_SIZE, &[])
                }),
                false => Some(message.clone()),
            };
            messages.push(message.ok_or_else(|| files.malformed())?);
        }
    }
    for number in &used {
        messages.push(stand_in(*number, id_of(*number)).encode_to_vec());
    }
    files.messages = messages;
    files.write()?;
    let_go_of_locks(dir, &gone)?;
    Ok(HandedOver { callers: used, orphans: replaced.difference(&referenced).copied().collect() })
}

/// Returns the processes of each descriptor table, by its file.
fn owners(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<i32>>, EditError> {
    let mut owners: BTreeMap<PathBuf, Vec<i32>> = BTreeMap::new();
    for path in named(dir, "ids-")? {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(pid) = name.strip_prefix("ids-").and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        for ids in Sheet::read(path)?.decoded::<TaskKobjIdsEntry>()? {
            owners.entry(dir.join(format!("fdinfo-{}.img", ids.files_id))).or_default().push(pid);
        }
    }
    Ok(owners)
}

/// Leaves out the locks that are held through descriptors which the image has no
/// more: they are the caller's.
fn let_go_of_locks(dir: &Path, gone: &BTreeSet<(i32, RawFd)>) -> Result<(), EditError> {
    let path = dir.join("filelocks.img");
    if !path.exists() {
        return Ok(());
    }
    let mut locks = Sheet::read(path)?;
    let decoded: Vec<FileLockEntry> = locks.decoded()?;
    let kept = decoded.iter().zip(&locks.messages);
    let kept = kept.filter(|(lock, _)| !gone.contains(&(lock.pid, lock.fd)));
    locks.messages = kept.map(|(_, message)| message.clone()).collect();
    locks.write()
}

/// A file that stands for a descriptor of the caller's.
fn stand_in(number: RawFd, id: u32) -> FileEntry {
    let flags = if number == 0 { libc::O_RDONLY } else { libc::O_WRONLY } as u32;
    let name = format!("/{}", name_of(number)).into_bytes();
    let reg = RegFileEntry { id, flags, name, fown: FownEntry::default(), ..Default::default() };
    FileEntry { r#type: FdTypes::Reg as i32, id, reg: Some(reg), ..Default::default() }
}

/// Sees that no thread gives up capabilities of the bounding set: without
/// CAP_SETPCAP, CRIU cannot and waits for ever (`capabilities(7)`). What an
/// ordinary user's CRIU has there is what the user has.
///
/// # Errors
/// If the image cannot be read or written.
pub fn keep_bounding_set(dir: &Path) -> Result<(), EditError> {
    const ALL: [u64; 2] = [u32::MAX as u64; 2];
    for path in named(dir, "core-")? {
        change_thread(path, &|thread| {
            wire::within(thread, field::THREAD_CREDS, &|creds| {
                wire::replace(creds, field::CREDS_CAP_BND, &ALL)
            })
        })?;
    }
    Ok(())
}

/// Sees that the program ends with us, as one that we started does
/// (`PR_SET_PDEATHSIG`).
///
/// # Errors
/// If the image cannot be read or written.
pub fn end_with_parent(dir: &Path, pid: u32) -> Result<(), EditError> {
    change_thread(dir.join(format!("core-{pid}.img")), &|thread| {
        wire::replace(thread, field::THREAD_PDEATH_SIG, &[libc::SIGKILL as u64])
    })
}

fn change_thread(
    path: PathBuf,
    change: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), EditError> {
    let mut core = Sheet::read(path)?;
    for message in &mut core.messages {
        let changed = wire::within(message, field::CORE_THREAD, change);
        *message = changed.ok_or_else(|| EditError::Malformed { path: core.path.clone() })?;
    }
    core.write()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::proto::PipeEntry;

    fn write(dir: &Path, name: &str, messages: Vec<Vec<u8>>) {
        Sheet { path: dir.join(name), head: *b"headhead", messages }.write().unwrap();
    }

    fn fd(fd: u32, id: u32, kind: FdTypes) -> Vec<u8> {
        FdinfoEntry { id, flags: 1, r#type: kind as i32, fd, ..Default::default() }.encode_to_vec()
    }

    fn pipe(id: u32, pipe_id: u32, flags: i32) -> Vec<u8> {
        let pipe = PipeEntry { id, pipe_id, flags: flags as u32, ..Default::default() };
        let r#type = FdTypes::Pipe as i32;
        FileEntry { r#type, id, pipe: Some(pipe), ..Default::default() }.encode_to_vec()
    }

    fn file(id: u32, flags: i32) -> Vec<u8> {
        let reg = RegFileEntry { id, flags: flags as u32, size: Some(9), ..Default::default() };
        let r#type = FdTypes::Reg as i32;
        FileEntry { r#type, id, reg: Some(reg), ..Default::default() }.encode_to_vec()
    }

    fn table(dir: &Path, number: u32) -> Vec<(u32, u32, bool)> {
        let sheet = Sheet::read(dir.join(format!("fdinfo-{number}.img"))).unwrap();
        let entries: Vec<FdinfoEntry> = sheet.decoded().unwrap();
        let is_reg = |entry: &FdinfoEntry| entry.r#type == FdTypes::Reg as i32;
        entries.iter().map(|entry| (entry.fd, entry.id, is_reg(entry))).collect()
    }

    /// One description behind 0, 1 and 2 (a terminal's, here a pipe's), a
    /// duplicate, a child process that has it too, a pipe of the program's own,
    /// and an inherited one.
    #[test]
    fn descriptors_of_the_caller_are_parted_and_the_rest_stays() {
        let work = tempfile::tempdir().unwrap();
        let dir = work.path();
        let ids = TaskKobjIdsEntry { files_id: 4, ..Default::default() };
        write(dir, "ids-50.img", vec![ids.encode_to_vec()]);
        let p = FdTypes::Pipe;
        write(
            dir,
            "fdinfo-4.img",
            vec![
                fd(0, 1, p),
                fd(1, 1, p),
                fd(2, 1, p),
                fd(5, 1, p),
                fd(6, 2, p),
                fd(7, 3, p),
                fd(8, 5, FdTypes::Reg),
            ],
        );
        write(dir, "fdinfo-5.img", vec![fd(2, 1, p), fd(3, 2, p), fd(9, 4, p)]);
        write(
            dir,
            "files.img",
            vec![
                pipe(1, 77, libc::O_RDWR),
                pipe(2, 78, libc::O_WRONLY),
                pipe(3, 79, libc::O_RDONLY),
                pipe(4, 77, libc::O_RDWR),
                file(5, libc::O_WRONLY | libc::O_APPEND),
                file(6, libc::O_RDONLY),
            ],
        );
        let lock = |fd| FileLockEntry { pid: 50, fd, flag: 2, ..Default::default() };
        let locks = [7, 8, 1].map(|fd| lock(fd).encode_to_vec());
        write(dir, "filelocks.img", locks.to_vec());
        let callers =
            Callers { given: (0..3).map(|number| (number, number)).collect(), dropped: [7].into() };
        let used = hand_over(dir, 50, &callers).unwrap();
        let expected = HandedOver { callers: [0, 1, 2].into(), orphans: [1, 3, 4].into() };
        assert_eq!(used, expected);
        // Ids go on from 7; the duplicate is written to: it is 1.
        let first =
            [(0, 7, true), (1, 8, true), (2, 9, true), (5, 8, true), (6, 2, false), (8, 5, true)];
        assert_eq!(table(dir, 4), first);
        assert_eq!(table(dir, 5), [(2, 9, true), (3, 2, false), (9, 8, true)]);
        let locks: Vec<FileLockEntry> =
            Sheet::read(dir.join("filelocks.img")).unwrap().decoded().unwrap();
        assert_eq!(locks, [lock(8)], "a lock of the caller's is none of the program's");
        let files: Vec<FileEntry> = Sheet::read(dir.join("files.img")).unwrap().decoded().unwrap();
        let ids: Vec<u32> = files.iter().map(|file| file.id).collect();
        assert_eq!(ids, [2, 5, 6, 7, 8, 9]);
        // What is written may have grown by then.
        let sizes: Vec<_> = files.iter().filter_map(|file| Some(file.reg.as_ref()?.size)).collect();
        assert_eq!(sizes[..2], [None, Some(9)]);
        let name = &files[3].reg.as_ref().unwrap().name;
        assert_eq!(name, format!("/{}", name_of(0)).as_bytes());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let work = tempfile::tempdir().unwrap();
        let dir = work.path();
        assert!(matches!(hand_over(dir, 5, &Callers::default()), Err(EditError::Io { .. })));
        fs::write(dir.join("ids-5.img"), "head").unwrap();
        let error = hand_over(dir, 5, &Callers::default()).unwrap_err();
        assert!(error.to_string().ends_with("ids-5.img is not an image file of that name"));
        fs::write(dir.join("core-5.img"), b"headhead\x05\0\0\0abc").unwrap();
        assert!(matches!(keep_bounding_set(dir), Err(EditError::Malformed { .. })));
        assert!(matches!(end_with_parent(dir, 5), Err(EditError::Malformed { .. })));
    }
}
