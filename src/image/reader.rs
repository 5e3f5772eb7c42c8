//! Files become a [`Set`].
//!
//! Everything is capped before it is read or allocated (see `kind`), and a
//! file that is not a plain one is refused rather than opened and waited on.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use prost::Message;

use super::kind::{self, Kind};
use super::proto::{
    GhostChunkEntry, GhostFileEntry, InventoryEntry, PagemapHead, PipeDataEntry, PstreeEntry,
    SkPacketEntry, TaskKobjIdsEntry,
};
use super::{
    GhostContent, GhostFile, ImageError, Pagemap, Queued, Set, Shmem, Task, Thread, pages_file,
};

/// Reads every file of the set but the pages.
pub(super) fn read(dir: &Path) -> Result<Set, ImageError> {
    let mut dir = Dir::open(dir)?;
    let inventory = dir.one(&kind::INVENTORY, kind::INVENTORY.file())?;
    check_version(&inventory)?;
    let mut set = Set { inventory, pstree: dir.all(&kind::PSTREE)?, ..Set::default() };
    for process in &set.pstree {
        set.tasks.push(dir.task(process)?);
    }
    set.files = dir.all(&kind::FILES)?;
    set.tty_info = dir.all_if_there(&kind::TTY_INFO)?;
    set.file_locks = dir.all_if_there(&kind::FILE_LOCKS)?;
    set.memfds = dir.all_if_there(&kind::MEMFD)?;
    set.remaps = dir.all_if_there(&kind::REMAP_FPATH)?;
    set.timens = dir.one_if_there(&kind::TIMENS, kind::TIMENS.numbered(set.timens_id()))?;
    set.seccomp = dir.one_if_there(&kind::SECCOMP, kind::SECCOMP.file())?;
    set.pipe_data = dir.queued(&kind::PIPES_DATA, |entry: &PipeDataEntry| entry.bytes)?;
    set.fifo_data = dir.queued(&kind::FIFO_DATA, |entry: &PipeDataEntry| entry.bytes)?;
    set.sk_queues = dir.queued(&kind::SK_QUEUES, |entry: &SkPacketEntry| entry.length)?;
    for shmid in dir.numbers(&kind::SHMEM, 10) {
        let pagemap = dir.pagemap(&kind::SHMEM, kind::SHMEM.numbered(shmid))?;
        set.shmem.push(Shmem { shmid, pagemap });
    }
    for id in dir.numbers(&kind::GHOST_FILE, 16) {
        set.ghosts.push(dir.ghost(id)?);
    }
    set.unread = dir.unread(&set);
    Ok(set)
}

fn check_version(inventory: &InventoryEntry) -> Result<(), ImageError> {
    let name = kind::INVENTORY.file();
    if !kind::is_known(inventory.img_version) {
        let what = format!("version {} is not supported", inventory.img_version);
        return Err(ImageError::new(&name, what));
    }
    if inventory.fdinfo_per_id != Some(true) {
        return Err(ImageError::new(&name, "descriptor tables are not numbered by id"));
    }
    Ok(())
}

/// The directory of a set: what is in it, and what has been read of it.
struct Dir<'a> {
    path: &'a Path,
    names: BTreeSet<String>,
    read: BTreeSet<String>,
}

impl<'a> Dir<'a> {
    fn open(path: &'a Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Io { path: path.to_owned(), source };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            // A name that is not UTF-8 is none of ours or CRIU's.
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
                && name.ends_with(".img")
            {
                names.insert(name);
            }
        }
        Ok(Self { path, names, read: BTreeSet::new() })
    }

    /// Reads a file as a whole and checks what it begins with.
    fn sheet(&mut self, kind: &Kind, name: String) -> Result<Sheet, ImageError> {
        let content = self.content(kind, &name)?;
        let head = kind.head();
        if !content.starts_with(&head) {
            return Err(ImageError::new(&name, "is not an image file of that name"));
        }
        self.read.insert(name.clone());
        Ok(Sheet { name, content, at: head.len(), entries_left: kind.max_entries })
    }

    fn content(&self, kind: &Kind, name: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path.join(name);
        let failed = |source| ImageError::Io { path: path.clone(), source };
        let file = open_plain(&path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let too_large = || {
            let what = format!("is larger than the {} bytes that are read", kind.max_bytes);
            ImageError::new(name, what)
        };
        if len > kind.max_bytes {
            return Err(too_large());
        }
        let mut content = Vec::with_capacity(usize::try_from(len).map_err(|_| too_large())?);
        // It may grow while it is read.
        file.take(kind.max_bytes + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > kind.max_bytes { Err(too_large()) } else { Ok(content) }
    }

    fn one<M: Message + Default>(&mut self, kind: &Kind, name: String) -> Result<M, ImageError> {
        let mut sheet = self.sheet(kind, name)?;
        let message = sheet.message()?.ok_or_else(|| sheet.wrong("is empty"))?;
        sheet.end()?;
        Ok(message)
    }

    fn one_if_there<M: Message + Default>(
        &mut self,
        kind: &Kind,
        name: String,
    ) -> Result<Option<M>, ImageError> {
        if self.names.contains(&name) { self.one(kind, name).map(Some) } else { Ok(None) }
    }

    fn all<M: Message + Default>(&mut self, kind: &Kind) -> Result<Vec<M>, ImageError> {
        self.sheet(kind, kind.file())?.messages()
    }

    fn all_if_there<M: Message + Default>(&mut self, kind: &Kind) -> Result<Vec<M>, ImageError> {
        if self.names.contains(&kind.file()) { self.all(kind) } else { Ok(Vec::new()) }
    }

    fn queued<M: Message + Default>(
        &mut self,
        kind: &Kind,
        len: fn(&M) -> u32,
    ) -> Result<Vec<Queued<M>>, ImageError> {
        let mut queue = Vec::new();
        if !self.names.contains(&kind.file()) {
            return Ok(queue);
        }
        let mut sheet = self.sheet(kind, kind.file())?;
        while let Some(entry) = sheet.message()? {
            let data = sheet.bytes(len(&entry).into())?.to_vec();
            queue.push(Queued { entry, data });
        }
        Ok(queue)
    }

    fn task(&mut self, process: &PstreeEntry) -> Result<Task, ImageError> {
        let pid = process.pid;
        let mut threads = Vec::new();
        for &tid in &process.threads {
            threads.push(Thread { tid, core: self.one(&kind::CORE, kind::CORE.numbered(tid))? });
        }
        let ended = Task { pid, threads, ..Task::default() };
        if ended.has_ended() {
            // Nothing else is left of it.
            return Ok(ended);
        }
        let threads = ended.threads;
        let ids: TaskKobjIdsEntry = self.one(&kind::IDS, kind::IDS.numbered(pid))?;
        let fdinfo = kind::FDINFO.numbered(ids.files_id);
        Ok(Task {
            pid,
            ids,
            mm: self.one(&kind::MM, kind::MM.numbered(pid))?,
            pagemap: self.pagemap(&kind::PAGEMAP, kind::PAGEMAP.numbered(pid))?,
            fdinfo: self.sheet(&kind::FDINFO, fdinfo)?.messages()?,
            fs: self.one(&kind::FS, kind::FS.numbered(pid))?,
            threads,
        })
    }

    fn pagemap(&mut self, kind: &Kind, name: String) -> Result<Pagemap, ImageError> {
        let mut sheet = self.sheet(kind, name)?;
        let head: PagemapHead = sheet.message()?.ok_or_else(|| sheet.wrong("is empty"))?;
        Ok(Pagemap { pages_id: head.pages_id, entries: sheet.messages()? })
    }

    fn ghost(&mut self, id: u64) -> Result<GhostFile, ImageError> {
        let name = kind::GHOST_FILE.numbered(format_args!("{id:x}"));
        let mut sheet = self.sheet(&kind::GHOST_FILE, name)?;
        let id = u32::try_from(id).map_err(|_| sheet.wrong("has too large a number"))?;
        let entry: GhostFileEntry = sheet.message()?.ok_or_else(|| sheet.wrong("is empty"))?;
        let content = if entry.chunks == Some(true) {
            let mut chunks = Vec::new();
            while let Some(chunk) = sheet.message::<GhostChunkEntry>()? {
                let data = sheet.bytes(chunk.len)?.to_vec();
                chunks.push(Queued { entry: chunk, data });
            }
            GhostContent::Chunks(chunks)
        } else {
            GhostContent::Whole(sheet.rest().to_vec())
        };
        Ok(GhostFile { id, entry, content })
    }

    /// Returns N of all files of a kind, ascending; spelled as we would.
    fn numbers(&self, kind: &Kind, radix: u32) -> Vec<u64> {
        let number = |name: &String| {
            let digits = name.strip_prefix(kind.stem)?.strip_suffix(".img")?;
            let number = u64::from_str_radix(digits, radix).ok()?;
            let again = if radix == 16 { format!("{number:x}") } else { number.to_string() };
            (again == digits).then_some(number)
        };
        let mut numbers: Vec<u64> = self.names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Returns the files that nothing of the set has called for.
    fn unread(&self, set: &Set) -> Vec<String> {
        let pages: BTreeSet<String> = set.pagemaps().map(|map| pages_file(map.pages_id)).collect();
        let known = |name: &&String| !self.read.contains(*name) && !pages.contains(*name);
        self.names.iter().filter(known).cloned().collect()
    }
}

/// Opens a regular file: a link would lead out of the set, and a FIFO would
/// be waited on.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// A file's content and how far it is decoded.
struct Sheet {
    name: String,
    content: Vec<u8>,
    at: usize,
    entries_left: usize,
}

impl Sheet {
    fn wrong(&self, what: &str) -> ImageError {
        ImageError::new(&self.name, what)
    }

    fn rest(&self) -> &[u8] {
        self.content.get(self.at..).unwrap_or_default()
    }

    fn bytes(&mut self, len: u64) -> Result<&[u8], ImageError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end {
            Some(end) if end <= self.content.len() => {
                let start = std::mem::replace(&mut self.at, end);
                Ok(&self.content[start..end])
            }
            _ => Err(self.wrong("is truncated")),
        }
    }

    /// Decodes the next message; `None` at the end of the file.
    fn message<M: Message + Default>(&mut self) -> Result<Option<M>, ImageError> {
        if self.rest().is_empty() {
            return Ok(None);
        }
        let left = self.entries_left.checked_sub(1);
        self.entries_left = left.ok_or_else(|| self.wrong("holds too many entries"))?;
        let offset = self.at;
        let mut len = [0; 4];
        len.copy_from_slice(self.bytes(4)?);
        let decoded = M::decode(self.bytes(u32::from_le_bytes(len).into())?);
        decoded
            .map(Some)
            .map_err(|error| self.wrong(&format!("the entry at byte {offset}: {error}")))
    }

    fn messages<M: Message + Default>(&mut self) -> Result<Vec<M>, ImageError> {
        let mut messages = Vec::new();
        while let Some(message) = self.message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn end(&self) -> Result<(), ImageError> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.wrong("holds more than one entry")) }
    }
}
