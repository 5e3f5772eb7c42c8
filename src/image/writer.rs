//! A [`Set`] becomes files.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use prost::Message;

use super::kind::{self, Kind};
use super::proto::PagemapHead;
use super::{GhostContent, GhostFile, ImageError, Pagemap, Queued, Set};

/// A file in the making: its name and its content so far.
struct Sheet<'a> {
    kind: &'a Kind,
    name: String,
    content: Vec<u8>,
    entries: usize,
}

impl<'a> Sheet<'a> {
    fn new(kind: &'a Kind, name: String) -> Self {
        Self { kind, name, content: kind.head(), entries: 0 }
    }

    /// Adds a message behind its length.
    fn message(&mut self, message: &impl Message) -> Result<(), ImageError> {
        let len = u32::try_from(message.encoded_len())
            .map_err(|_| ImageError::new(&self.name, "a message is larger than 4 GiB"))?;
        self.entries += 1;
        self.content.extend_from_slice(&len.to_le_bytes());
        message
            .encode(&mut self.content)
            .map_err(|error| ImageError::new(&self.name, error.to_string()))
    }

    fn messages<M: Message>(&mut self, messages: &[M]) -> Result<(), ImageError> {
        messages.iter().try_for_each(|message| self.message(message))
    }

    /// Creates the file: owner-only, and never over another one. What would
    /// be too large to read again is not written.
    fn write(self, dir: &Path) -> Result<(), ImageError> {
        let Kind { max_bytes, max_entries, .. } = *self.kind;
        if self.content.len() as u64 > max_bytes || self.entries > max_entries {
            let what = format!("has more than {max_entries} entries or {max_bytes} bytes");
            return Err(ImageError::new(&self.name, what));
        }
        let path = dir.join(&self.name);
        let failed = |source| ImageError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        file.write_all(&self.content).map_err(failed)
    }
}

/// Writes every file of the set but the pages.
pub(super) fn write(set: &Set, dir: &Path) -> Result<(), ImageError> {
    one(dir, &kind::INVENTORY, kind::INVENTORY.file(), &set.inventory)?;
    all(dir, &kind::PSTREE, &set.pstree)?;
    tasks(set, dir)?;
    all(dir, &kind::FILES, &set.files)?;
    all_if_any(dir, &kind::TTY_INFO, &set.tty_info)?;
    all_if_any(dir, &kind::FILE_LOCKS, &set.file_locks)?;
    all_if_any(dir, &kind::MEMFD, &set.memfds)?;
    all_if_any(dir, &kind::REMAP_FPATH, &set.remaps)?;
    if let Some(timens) = &set.timens {
        one(dir, &kind::TIMENS, kind::TIMENS.numbered(set.timens_id()), timens)?;
    }
    if let Some(seccomp) = &set.seccomp {
        one(dir, &kind::SECCOMP, kind::SECCOMP.file(), seccomp)?;
    }
    queued(dir, &kind::PIPES_DATA, &set.pipe_data)?;
    queued(dir, &kind::FIFO_DATA, &set.fifo_data)?;
    queued(dir, &kind::SK_QUEUES, &set.sk_queues)?;
    for shmem in &set.shmem {
        pagemap(dir, &kind::SHMEM, shmem.shmid, &shmem.pagemap)?;
    }
    set.ghosts.iter().try_for_each(|file| ghost(dir, file))
}

fn tasks(set: &Set, dir: &Path) -> Result<(), ImageError> {
    let mut tables = BTreeMap::new();
    for task in &set.tasks {
        if task.has_ended() {
            for thread in &task.threads {
                one(dir, &kind::CORE, kind::CORE.numbered(thread.tid), &thread.core)?;
            }
            continue;
        }
        one(dir, &kind::IDS, kind::IDS.numbered(task.pid), &task.ids)?;
        one(dir, &kind::MM, kind::MM.numbered(task.pid), &task.mm)?;
        one(dir, &kind::FS, kind::FS.numbered(task.pid), &task.fs)?;
        pagemap(dir, &kind::PAGEMAP, task.pid.into(), &task.pagemap)?;
        for thread in &task.threads {
            one(dir, &kind::CORE, kind::CORE.numbered(thread.tid), &thread.core)?;
        }
        // Tasks with one files_id share the table: one file.
        let name = kind::FDINFO.numbered(task.ids.files_id);
        match tables.insert(task.ids.files_id, &task.fdinfo) {
            None => {
                let mut sheet = Sheet::new(&kind::FDINFO, name);
                sheet.messages(&task.fdinfo)?;
                sheet.write(dir)?;
            }
            Some(same) if *same == task.fdinfo => {}
            Some(_) => {
                return Err(ImageError::new(&name, "two tasks share it, with other contents"));
            }
        }
    }
    Ok(())
}

fn one(dir: &Path, kind: &Kind, name: String, message: &impl Message) -> Result<(), ImageError> {
    let mut sheet = Sheet::new(kind, name);
    sheet.message(message)?;
    sheet.write(dir)
}

fn all<M: Message>(dir: &Path, kind: &Kind, messages: &[M]) -> Result<(), ImageError> {
    let mut sheet = Sheet::new(kind, kind.file());
    sheet.messages(messages)?;
    sheet.write(dir)
}

fn all_if_any<M: Message>(dir: &Path, kind: &Kind, messages: &[M]) -> Result<(), ImageError> {
    if messages.is_empty() { Ok(()) } else { all(dir, kind, messages) }
}

fn queued<M: Message>(dir: &Path, kind: &Kind, queue: &[Queued<M>]) -> Result<(), ImageError> {
    if queue.is_empty() {
        return Ok(());
    }
    let mut sheet = Sheet::new(kind, kind.file());
    for item in queue {
        sheet.message(&item.entry)?;
        sheet.content.extend_from_slice(&item.data);
    }
    sheet.write(dir)
}

fn pagemap(dir: &Path, kind: &Kind, number: u64, pagemap: &Pagemap) -> Result<(), ImageError> {
    let mut sheet = Sheet::new(kind, kind.numbered(number));
    sheet.message(&PagemapHead { pages_id: pagemap.pages_id })?;
    sheet.messages(&pagemap.entries)?;
    sheet.write(dir)
}

fn ghost(dir: &Path, file: &GhostFile) -> Result<(), ImageError> {
    let name = kind::GHOST_FILE.numbered(format_args!("{:x}", file.id));
    let mut sheet = Sheet::new(&kind::GHOST_FILE, name);
    sheet.message(&file.entry)?;
    match &file.content {
        GhostContent::Whole(data) => sheet.content.extend_from_slice(data),
        GhostContent::Chunks(chunks) => {
            for chunk in chunks {
                sheet.message(&chunk.entry)?;
                sheet.content.extend_from_slice(&chunk.data);
            }
        }
    }
    sheet.write(dir)
}
