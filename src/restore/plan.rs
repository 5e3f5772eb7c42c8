//! The plan of a native restore: a flat list of system calls.
//!
//! Compiled once, at capture ([`super::planner`]); loaded, checked and lowered
//! to the interpreter's instructions at every restore ([`super::program`]).
//! The file is hostile input: [`Plan::decode`] checks every operand, so that a
//! plan that loads can do nothing but what the planner could have written.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

mod check;
mod kin;
mod operation;
mod show;
mod stored;

/// The messages of `images/plan.proto`.
#[allow(missing_docs, clippy::all)]
pub mod format {
    include!(concat!(env!("OUT_DIR"), "/warmstart.plan.rs"));
}

pub use check::{AT_FDCWD, PARENT_DEATH, SETNEXTWD};
pub use format::kernel_area::Kind as KernelAreaKind;
pub use format::{Clocks, GivenDescriptor, KernelArea, Kin, MemoryMap, PagesFile, Shared};
pub use kin::MAX_SHARED;
pub use operation::{Arg, Check, Operation};
pub use stored::{Frame, PlanFile, ThreadPlan};

/// The name of the plan in an entry's image directory: that of the root, if it
/// is a tree of processes.
pub const PLAN_FILE: &str = "plan";

/// Returns the name of the plan of another process of a tree.
pub fn part_file(pid: i32) -> String {
    format!("{PLAN_FILE}-{pid}")
}

/// The version of the format; a plan of another one is not used.
pub const VERSION: u32 = 6;
const MAGIC: [u8; 8] = *b"WSPLAN\r\n";
const LEN_HEADER: usize = 8 + 4 + 4 + 8 + 32;
/// A plan is some 100 KB; logs that it carries can make it larger.
const MAX_LEN: u64 = 256 << 20;

/// What is known of the bytes of a stored plan. Either way every operand is
/// checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bytes {
    /// Nothing: their checksum is computed.
    Unknown,
    /// They are those that were written: the cache has just looked.
    Verified,
}

/// A plan that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan(PlanFile);

/// Why a plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It cannot be read.
    #[error("{}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It was made by another version.
    #[error("the plan has format {0}, this version uses {VERSION}")]
    Version(u32),
    /// It is not what was written.
    #[error("the plan is damaged: {0}")]
    Damaged(String),
}

impl Plan {
    /// Checks a plan.
    pub fn new(file: PlanFile) -> Result<Self, PlanError> {
        check::check(&file).map_err(PlanError::Damaged)?;
        Ok(Self(file))
    }

    /// Returns the content.
    pub fn file(&self) -> &PlanFile {
        &self.0
    }

    /// Returns the pid that a restore brings back.
    pub fn pid(&self) -> i32 {
        self.0.threads[0].tid
    }

    /// Returns the plan as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        self.0.seal()
    }

    /// Verifies, decodes and checks stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        let (header, payload) =
            bytes.split_first_chunk().ok_or_else(|| damaged("it is too short"))?;
        let checksum = read_header(header, payload.len() as u64)?;
        if Sha256::digest(payload)[..] != *checksum {
            return Err(damaged("its checksum is wrong"));
        }
        Self::decode_payload(payload, payload.len() as u64)
    }

    fn decode_payload(from: impl Read, len: u64) -> Result<Self, PlanError> {
        let file = PlanFile::decode(from, len).map_err(|error| damaged(&error.to_string()))?;
        Self::new(file)
    }

    /// Writes the plan into an image directory, and syncs it.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        self.write_as(&dir.join(PLAN_FILE))
    }

    /// The same for a process of a tree that is not its root.
    pub fn write_part(&self, dir: &Path) -> io::Result<()> {
        self.write_as(&dir.join(part_file(self.pid())))
    }

    fn write_as(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&self.encode())?;
        file.sync_all()
    }

    /// Reads the plan of an image directory.
    pub fn read(dir: &Path) -> Result<Self, PlanError> {
        Self::read_with(dir, Bytes::Unknown)
    }

    /// The same with what is known of its bytes.
    pub fn read_with(dir: &Path, trust: Bytes) -> Result<Self, PlanError> {
        Self::read_as(dir.join(PLAN_FILE), trust)
    }

    /// Reads the plans of the other processes of a tree whose root has this
    /// plan, in the order of the tree; those that have ended have none.
    ///
    /// # Errors
    /// As [`Self::read`]; if they are not plans of this tree.
    pub fn read_parts(&self, dir: &Path, trust: Bytes) -> Result<Vec<Self>, PlanError> {
        let living = self.0.tree.iter().skip(1).filter(|kin| kin.ended.is_none());
        let parts = living.map(|kin| Self::read_as(dir.join(part_file(kin.pid)), trust));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        kin::check_parts(self, &parts).map_err(PlanError::Damaged)?;
        Ok(parts)
    }

    fn read_as(path: PathBuf, trust: Bytes) -> Result<Self, PlanError> {
        let unreadable = |source| PlanError::Unreadable { path: path.clone(), source };
        // A FIFO in its place is not waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = file.map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(damaged("it is not a regular file"));
        }
        let len = meta.len();
        if len > MAX_LEN {
            return Err(damaged(&format!("it is {len} bytes long")));
        }
        let mut file = file.take(MAX_LEN);
        if trust == Bytes::Unknown {
            let mut bytes = Vec::with_capacity(len as usize + 1);
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            return Self::decode(&bytes);
        }
        let mut header = [0; LEN_HEADER];
        file.read_exact(&mut header).map_err(|_| damaged("it is too short"))?;
        let len_payload = len.saturating_sub(LEN_HEADER as u64);
        read_header(&header, len_payload)?;
        Self::decode_payload(file, len_payload)
    }
}

impl PlanFile {
    /// Returns it as a file: header, checksum, payload. Whoever reads it
    /// checks it.
    pub fn seal(&self) -> Vec<u8> {
        let payload = self.encode();
        let mut bytes = Vec::with_capacity(LEN_HEADER + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(Sha256::digest(&payload));
        bytes.extend(payload);
        bytes
    }
}

/// Checks a header before a payload of this length; returns the checksum.
fn read_header(header: &[u8; LEN_HEADER], len_payload: u64) -> Result<&[u8], PlanError> {
    if header[..8] != MAGIC {
        return Err(damaged("it does not begin as a plan does"));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version != VERSION {
        return Err(PlanError::Version(version));
    }
    if header[12..16] != [0; 4] || header[16..24] != len_payload.to_le_bytes() {
        return Err(damaged("its length is wrong"));
    }
    Ok(&header[24..])
}

fn damaged(what: &str) -> PlanError {
    PlanError::Damaged(what.into())
}
