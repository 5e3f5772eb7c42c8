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

use prost::Message;
use sha2::{Digest, Sha256};

mod check;
mod show;

/// The messages of `images/plan.proto`.
#[allow(missing_docs, clippy::all)]
pub mod format {
    include!(concat!(env!("OUT_DIR"), "/warmstart.plan.rs"));
}

pub use check::AT_FDCWD;
pub use format::kernel_area::Kind as KernelAreaKind;
pub use format::{Clocks, GivenDescriptor, KernelArea, MemoryMap, Operation, PlanFile, ThreadPlan};

/// The name of the plan in an entry's image directory.
pub const PLAN_FILE: &str = "plan";
/// The version of the format; a plan of another one is not used.
pub const VERSION: u32 = 3;
const MAGIC: [u8; 8] = *b"WSPLAN\r\n";
const LEN_HEADER: usize = 8 + 4 + 4 + 8 + 32;
/// A plan is some 100 KB; logs that it carries can make it larger.
const MAX_LEN: u64 = 256 << 20;

/// How an operation's argument is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// The value itself.
    Value(u64),
    /// The address of the plan's data at this offset.
    Data(u64),
    /// The descriptor of the pages file.
    Pages,
    /// The descriptor that the caller gave under this number.
    Caller(u64),
}

/// What the result of an operation must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It does not matter.
    Any,
    /// No error.
    Ok,
    /// This value.
    Equals(i64),
}

impl Operation {
    /// Makes an operation.
    pub fn new(number: i64, args: &[Arg], check: Check) -> Self {
        let mut kinds = 0;
        let mut arguments = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            let (kind, value) = match arg {
                Arg::Value(value) => (0, *value),
                Arg::Data(offset) => (1, *offset),
                Arg::Pages => (2, 0),
                Arg::Caller(number) => (3, *number),
            };
            kinds |= kind << (4 * index);
            arguments.push(value);
        }
        let (check, expected) = match check {
            Check::Any => (0, None),
            Check::Ok => (1, None),
            Check::Equals(value) => (2, Some(value)),
        };
        let some = |value: u32| (value != 0).then_some(value);
        Self { number: number as u32, arguments, kinds: some(kinds), check: some(check), expected }
    }

    /// Returns argument `index`; missing ones are the value 0.
    pub fn arg(&self, index: usize) -> Arg {
        let value = self.arguments.get(index).copied().unwrap_or(0);
        match self.kinds() >> (4 * index) & 15 {
            1 => Arg::Data(value),
            2 => Arg::Pages,
            3 => Arg::Caller(value),
            _ => Arg::Value(value),
        }
    }

    /// Returns what the result must be.
    pub fn result(&self) -> Check {
        match self.check() {
            0 => Check::Any,
            1 => Check::Ok,
            _ => Check::Equals(self.expected()),
        }
    }
}

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

    /// Returns the plan as it is stored: header, checksum, payload.
    pub fn encode(&self) -> Vec<u8> {
        let payload = self.0.encode_to_vec();
        let mut bytes = Vec::with_capacity(LEN_HEADER + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(Sha256::digest(&payload));
        bytes.extend(payload);
        bytes
    }

    /// Verifies, decodes and checks stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        Self::decode_with(bytes, Bytes::Unknown)
    }

    fn decode_with(bytes: &[u8], trust: Bytes) -> Result<Self, PlanError> {
        let damaged = |what: &str| PlanError::Damaged(what.into());
        let (header, payload) =
            bytes.split_at_checked(LEN_HEADER).ok_or_else(|| damaged("it is too short"))?;
        if header[..8] != MAGIC {
            return Err(damaged("it does not begin as a plan does"));
        }
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if version != VERSION {
            return Err(PlanError::Version(version));
        }
        let mut len = [0; 8];
        len.copy_from_slice(&header[16..24]);
        if header[12..16] != [0; 4] || u64::from_le_bytes(len) != payload.len() as u64 {
            return Err(damaged("its length is wrong"));
        }
        if trust == Bytes::Unknown && Sha256::digest(payload)[..] != header[24..] {
            return Err(damaged("its checksum is wrong"));
        }
        let file = PlanFile::decode(payload).map_err(|error| damaged(&error.to_string()))?;
        Self::new(file)
    }

    /// Writes the plan into an image directory, and syncs it.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(PLAN_FILE))?;
        file.write_all(&self.encode())?;
        file.sync_all()
    }

    /// Reads the plan of an image directory.
    pub fn read(dir: &Path) -> Result<Self, PlanError> {
        Self::read_with(dir, Bytes::Unknown)
    }

    /// The same with what is known of its bytes.
    pub fn read_with(dir: &Path, trust: Bytes) -> Result<Self, PlanError> {
        let path = dir.join(PLAN_FILE);
        let unreadable = |source| PlanError::Unreadable { path: path.clone(), source };
        // A FIFO in its place is not waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = file.map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(PlanError::Damaged("it is not a regular file".into()));
        }
        let len = meta.len();
        if len > MAX_LEN {
            return Err(PlanError::Damaged(format!("it is {len} bytes long")));
        }
        let mut bytes = Vec::with_capacity(len as usize + 1);
        file.take(MAX_LEN).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::decode_with(&bytes, trust)
    }
}
