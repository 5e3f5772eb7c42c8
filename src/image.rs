//! An image set in the format of CRIU (version 2 of its images, CRIU 4.2).
//!
//! A [`Set`] is the state of one or more stopped processes as data. This
//! module turns it into the files of a directory and back, checks that it
//! makes sense ([`Set::check`]), and prints it ([`show()`], [`json`]). It knows
//! nothing of live processes: `snapshot` fills a set, `restore` reads one.
//! `docs/image-format.md` says what belongs into it.
//!
//! The content of memory is in [`PAGES_FILE`], which is written and mapped by
//! others; [`PageRuns`] says which bytes of it belong where.
//!
//! Whatever is read is hostile until it is checked: sizes are capped,
//! arithmetic is checked, nothing panics.

use std::io;
use std::path::{Path, PathBuf};

use self::proto::{
    CoreEntry, FdinfoEntry, FileEntry, FileLockEntry, FsEntry, GhostChunkEntry, GhostFileEntry,
    InventoryEntry, MemfdInodeEntry, MmEntry, PagemapEntry, PipeDataEntry, PstreeEntry,
    RemapFilePathEntry, SeccompEntry, SkPacketEntry, TaskKobjIdsEntry, TimensEntry, TtyInfoEntry,
};

mod check;
mod flags;
mod kind;
mod printing;
pub mod proto;
mod reader;
pub mod registers;
mod runs;
mod show;
pub mod sockets;
mod writer;

/// The number of signals (`signal(7)`); an image has the action of each but KILL
/// and STOP, in their order.
pub const SIGNALS: u32 = 64;

pub use flags::{pagemap_flags, task_state, vma_status};
pub use runs::{PAGE_SIZE, PageRun, PageRuns, USER_END};
pub use show::{json, show};

/// The file with the content of memory: page after page, nothing else. Sets
/// that CRIU made may have it under another number ([`pages_file`]).
pub const PAGES_FILE: &str = "pages-1.img";

/// Returns the name of the pages file that a pagemap with this id refers to.
pub fn pages_file(pages_id: u32) -> String {
    format!("pages-{pages_id}.img")
}

/// Everything in a set but the content of memory.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Set {
    /// `inventory.img`.
    pub inventory: InventoryEntry,
    /// `pstree.img`: one for each task, parents first.
    pub pstree: Vec<PstreeEntry>,
    /// In the order of `pstree`.
    pub tasks: Vec<Task>,
    /// `files.img`: what `fdinfo`, `mm` and `fs` refer to by id.
    pub files: Vec<FileEntry>,
    /// `tty-info.img`.
    pub tty_info: Vec<TtyInfoEntry>,
    /// `timens-N.img`.
    pub timens: Option<TimensEntry>,
    /// `filelocks.img`.
    pub file_locks: Vec<FileLockEntry>,
    /// `memfd.img`.
    pub memfds: Vec<MemfdInodeEntry>,
    /// `pagemap-shmem-N.img`: the content of memfds and shared memory.
    pub shmem: Vec<Shmem>,
    /// `pipes-data.img`.
    pub pipe_data: Vec<Queued<PipeDataEntry>>,
    /// `fifo-data.img`.
    pub fifo_data: Vec<Queued<PipeDataEntry>>,
    /// `sk-queues.img`.
    pub sk_queues: Vec<Queued<SkPacketEntry>>,
    /// `seccomp.img`.
    pub seccomp: Option<SeccompEntry>,
    /// `remap-fpath.img`.
    pub remaps: Vec<RemapFilePathEntry>,
    /// `ghost-file-N.img`.
    pub ghosts: Vec<GhostFile>,
    /// Names of `*.img` files in the directory that this module does not
    /// read, sorted; not written.
    pub unread: Vec<String>,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Task {
    /// Its pid.
    pub pid: u32,
    /// `ids-PID.img`.
    pub ids: TaskKobjIdsEntry,
    /// `mm-PID.img`.
    pub mm: MmEntry,
    /// `pagemap-PID.img`.
    pub pagemap: Pagemap,
    /// `fdinfo-N.img`, N being `ids.files_id`.
    pub fdinfo: Vec<FdinfoEntry>,
    /// `fs-PID.img`.
    pub fs: FsEntry,
    /// The leader first, in the order of the pstree entry.
    pub threads: Vec<Thread>,
}

impl Task {
    /// Whether it has ended and waits to be reaped: it has nothing but its ids
    /// and one core entry then.
    pub fn has_ended(&self) -> bool {
        let core = self.threads.first().and_then(|thread| thread.core.tc.as_ref());
        core.is_some_and(|core| matches!(core.task_state, task_state::DEAD | task_state::ZOMBIE))
    }
}

/// One thread.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    /// `core-TID.img`.
    pub core: CoreEntry,
}

/// Which pages a pages file holds.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Pagemap {
    /// N of `pages-N.img`.
    pub pages_id: u32,
    /// Runs in order of their addresses and of their content in the file.
    pub entries: Vec<PagemapEntry>,
}

/// The content of a memfd or of shared anonymous memory.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Shmem {
    /// The `shmid` of a mapping or a memfd.
    pub shmid: u64,
    /// Its pages; an address is an offset in the memory.
    pub pagemap: Pagemap,
}

/// A message and the raw bytes that follow it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Queued<M> {
    /// The message, which holds the number of bytes.
    pub entry: M,
    /// The bytes.
    #[serde(serialize_with = "printing::hex")]
    pub data: Vec<u8>,
}

/// A file that was unlinked while the program had it open or mapped.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct GhostFile {
    /// The number in the name of its file, which `remaps` refer to.
    pub id: u32,
    /// Its mode, owner and times.
    pub entry: GhostFileEntry,
    /// Its content.
    pub content: GhostContent,
}

/// How the content of an unlinked file is kept; `entry.chunks` says so too.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub enum GhostContent {
    /// From the first byte to the last.
    #[serde(serialize_with = "printing::hex")]
    Whole(Vec<u8>),
    /// Without its holes.
    Chunks(Vec<Queued<GhostChunkEntry>>),
}

/// `MAP_DROPPABLE` (Linux 6.11), a type of mapping beside MAP_PRIVATE.
pub const MAP_DROPPABLE: u32 = 8;

/// Tells whether the kernel clears an area in every child: no two copies are to
/// have its content alike (`madvise(2)`, MADV_WIPEONFORK).
pub fn is_wiped(vma: &proto::VmaEntry) -> bool {
    vma.flags & MAP_DROPPABLE != 0 || vma.madv.unwrap_or(0) & 1 << libc::MADV_WIPEONFORK != 0
}

impl Set {
    /// Writes the files of the set, owner-only, into an existing directory
    /// that holds none of them yet. The pages are not written, nothing is
    /// synced: the caller does both.
    pub fn write(&self, dir: &Path) -> Result<(), ImageError> {
        writer::write(self, dir)
    }

    /// Reads the files of a set. What is read is well-formed; whether it
    /// makes sense is for [`Set::check`] to say.
    pub fn read(dir: &Path) -> Result<Self, ImageError> {
        reader::read(dir)
    }

    /// Checks that nothing in the set contradicts the rest: ids resolve,
    /// pids are possible, addresses are page-aligned, ordered and within the
    /// 47 bits of a program, pages lie in mappings.
    pub fn check(&self) -> Result<(), ImageError> {
        check::check(self)
    }

    /// Marks an image that CRIU is not to restore, since it would lose something:
    /// it takes no image of that version.
    pub fn mark_native_only(&mut self, what: String) {
        self.inventory.img_version = kind::NATIVE_VERSION;
        self.inventory.native_only = Some(what);
    }

    /// Names what CRIU would lose of an image that is marked so.
    pub fn native_only(&self) -> Option<&str> {
        let what = || self.inventory.native_only.as_deref().unwrap_or("what only its plan holds");
        (self.inventory.img_version == kind::NATIVE_VERSION).then(what)
    }

    /// Returns the pagemaps of all tasks and of shared memory.
    pub fn pagemaps(&self) -> impl Iterator<Item = &Pagemap> {
        let living = self.tasks.iter().filter(|task| !task.has_ended());
        let tasks = living.map(|task| &task.pagemap);
        tasks.chain(self.shmem.iter().map(|shmem| &shmem.pagemap))
    }

    /// Returns the number of the timens file: 0 for a program that ran in
    /// the time namespace of whoever made the image.
    fn timens_id(&self) -> u32 {
        let root = self.inventory.root_ids.as_ref().and_then(|ids| ids.time_ns_id);
        let task = self.tasks.first().and_then(|task| task.ids.time_ns_id);
        if task == root { 0 } else { task.unwrap_or(0) }
    }
}

/// Why a set was not written, not read, or makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or the directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content of a file is wrong.
    #[error("{file}: {what}")]
    Invalid {
        /// The file's name in the set.
        file: String,
        /// What is wrong with it.
        what: String,
    },
}

impl ImageError {
    fn new(file: &str, what: impl Into<String>) -> Self {
        Self::Invalid { file: file.to_owned(), what: what.into() }
    }
}
