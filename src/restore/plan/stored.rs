//! What a plan holds, and how that lies in its file: the facts as one message,
//! then operations of one size, then the data.
//!
//! A hit reads it piece by piece to where it stays: each page that it touches
//! costs two microseconds here, and a copy of the file would be forty.

use std::io::{self, Read};
use std::ops::Range;

use prost::Message;

use super::format::{
    Clocks, Facts, GivenDescriptor, KernelArea, Kin, MemoryMap, PagesFile, Shared,
    Thread as ThreadFacts,
};
use super::operation::{LEN_RECORD, Operation};

/// So many records are read at a time.
const RECORDS_AT_ONCE: usize = 64;

/// What a restore has to do, unchecked: see `images/plan.proto` for what is
/// not said here.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct PlanFile {
    pub boot_id: String,
    pub vdso_digest: Vec<u8>,
    pub xfeatures: u64,
    pub exe: Vec<u8>,
    pub len_pages: u64,
    pub mapped: bool,
    pub kernel_areas: Vec<KernelArea>,
    pub places: Vec<u64>,
    pub len_place: u64,
    pub fd_ceiling: u32,
    pub given: Vec<GivenDescriptor>,
    pub closed: Vec<i32>,
    pub memory_map: MemoryMap,
    /// What the leader does, in order.
    pub operations: Vec<Operation>,
    /// The leader first.
    pub threads: Vec<ThreadPlan>,
    /// What operations point to.
    pub data: Vec<u8>,
    pub nofile: Option<u64>,
    pub clocks: Option<Clocks>,
    pub tree: Vec<Kin>,
    pub shared: Option<Shared>,
    pub pages_id: Option<u32>,
    pub more_pages: Vec<PagesFile>,
    pub len_vclock: Option<u64>,
}

/// One thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Its id.
    pub tid: i32,
    /// What it does for itself.
    pub operations: Vec<Operation>,
    /// Its frame of `rt_sigreturn`.
    pub frame: Frame,
}

/// A frame of `rt_sigreturn`, built for address 0. Most of one is the state of
/// vector registers that a thread has not used: zeros, which are not stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frame {
    /// Where in the data its beginning is, and behind that its end.
    pub offset: u64,
    /// The length of the whole in bytes.
    pub len: u64,
    /// How much of the beginning is stored.
    pub head: u64,
    /// How much of the end is stored.
    pub tail: u64,
}

impl PlanFile {
    /// Returns the payload of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let facts = self.facts().encode_to_vec();
        let mut bytes = Vec::with_capacity(8 + facts.len() + self.data.len());
        bytes.extend((facts.len() as u64).to_le_bytes());
        bytes.extend(facts);
        let threads = self.threads.iter().flat_map(|thread| &thread.operations);
        for operation in self.operations.iter().chain(threads) {
            bytes.extend(operation.to_record());
        }
        bytes.extend(&self.data);
        bytes
    }

    fn facts(&self) -> Facts {
        let threads = self.threads.iter().map(|thread| ThreadFacts {
            tid: thread.tid,
            operations: thread.operations.len() as u64,
            frame_offset: thread.frame.offset,
            frame_len: thread.frame.len,
            frame_head: thread.frame.head,
            frame_tail: thread.frame.tail,
        });
        Facts {
            boot_id: self.boot_id.clone(),
            vdso_digest: self.vdso_digest.clone(),
            xfeatures: self.xfeatures,
            exe: self.exe.clone(),
            len_pages: self.len_pages,
            mapped: self.mapped,
            kernel_areas: self.kernel_areas.clone(),
            places: self.places.clone(),
            len_place: self.len_place,
            fd_ceiling: self.fd_ceiling,
            given: self.given.clone(),
            closed: self.closed.clone(),
            memory_map: self.memory_map,
            operations: self.operations.len() as u64,
            threads: threads.collect(),
            nofile: self.nofile,
            clocks: self.clocks,
            tree: self.tree.clone(),
            shared: self.shared,
            pages_id: self.pages_id,
            more_pages: self.more_pages.clone(),
            len_vclock: self.len_vclock,
        }
    }

    /// Reads the payload of a file, which is `len` bytes long. Nothing is
    /// taken for granted but that the caller has bounded `len`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no payload; those of the
    /// reader.
    pub(super) fn decode(mut from: impl Read, len: u64) -> io::Result<Self> {
        let mut len_facts = [0; 8];
        from.read_exact(&mut len_facts)?;
        let len_facts = u64::from_le_bytes(len_facts);
        let left = len.checked_sub(8).and_then(|left| left.checked_sub(len_facts));
        let left = left.ok_or_else(|| wrong("its facts are cut off"))?;
        let facts = exact(&mut from, len_facts)?;
        let facts = Facts::decode(&facts[..]).map_err(|error| wrong(&error.to_string()))?;
        let mut counts = facts.threads.iter().map(|thread| thread.operations);
        let len_data = counts
            .try_fold(facts.operations, u64::checked_add)
            .and_then(|count| left.checked_sub(count.checked_mul(LEN_RECORD as u64)?));
        let len_data = len_data.ok_or_else(|| wrong("its operations are cut off"))?;
        let count = facts.threads.iter().map(|thread| thread.operations).sum::<u64>();
        let mut records = Records::new(&mut from, facts.operations + count);
        let operations = records.take(facts.operations)?;
        let mut threads = Vec::with_capacity(facts.threads.len());
        for thread in &facts.threads {
            let frame = Frame {
                offset: thread.frame_offset,
                len: thread.frame_len,
                head: thread.frame_head,
                tail: thread.frame_tail,
            };
            let operations = records.take(thread.operations)?;
            threads.push(ThreadPlan { tid: thread.tid, operations, frame });
        }
        Ok(Self {
            boot_id: facts.boot_id,
            vdso_digest: facts.vdso_digest,
            xfeatures: facts.xfeatures,
            exe: facts.exe,
            len_pages: facts.len_pages,
            mapped: facts.mapped,
            kernel_areas: facts.kernel_areas,
            places: facts.places,
            len_place: facts.len_place,
            fd_ceiling: facts.fd_ceiling,
            given: facts.given,
            closed: facts.closed,
            memory_map: facts.memory_map,
            operations,
            threads,
            data: exact(&mut from, len_data)?,
            nofile: facts.nofile,
            clocks: facts.clocks,
            tree: facts.tree,
            shared: facts.shared,
            pages_id: facts.pages_id,
            more_pages: facts.more_pages,
            len_vclock: facts.len_vclock,
        })
    }
}

/// Reads operations, whose number has been found to fit into the file.
struct Records<R> {
    from: R,
    /// How many are still to be read.
    left: usize,
    buffer: [[u8; LEN_RECORD]; RECORDS_AT_ONCE],
    /// Which of those in the buffer are still to be taken.
    ready: Range<usize>,
}

impl<R: Read> Records<R> {
    fn new(from: R, count: u64) -> Self {
        let buffer = [[0; LEN_RECORD]; RECORDS_AT_ONCE];
        Self { from, left: count as usize, buffer, ready: 0..0 }
    }

    /// Returns the next operations.
    fn take(&mut self, count: u64) -> io::Result<Vec<Operation>> {
        let mut wanted = count as usize;
        let mut operations = Vec::with_capacity(wanted);
        while wanted > 0 {
            if self.ready.is_empty() {
                let count = self.left.min(RECORDS_AT_ONCE);
                self.from.read_exact(self.buffer[..count].as_flattened_mut())?;
                self.left -= count;
                self.ready = 0..count;
            }
            let count = wanted.min(self.ready.len());
            let records = &self.buffer[self.ready.start..self.ready.start + count];
            operations.extend(records.iter().map(Operation::from_record));
            self.ready.start += count;
            wanted -= count;
        }
        Ok(operations)
    }
}

/// Reads so many bytes, which have been found to be there.
fn exact(from: &mut impl Read, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len as usize);
    match from.by_ref().take(len).read_to_end(&mut bytes)? as u64 {
        read if read == len => Ok(bytes),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(facts: &Facts) -> Vec<u8> {
        let facts = facts.encode_to_vec();
        [&(facts.len() as u64).to_le_bytes()[..], &facts].concat()
    }

    fn refusal(bytes: &[u8]) -> String {
        PlanFile::decode(bytes, bytes.len() as u64).unwrap_err().to_string()
    }

    #[test]
    fn counts_are_of_what_is_there() {
        let operation = Operation::new(3, &[], super::super::Check::Ok);
        let thread = ThreadPlan { tid: 7, operations: vec![operation; 2], ..Default::default() };
        let plan = PlanFile {
            operations: vec![operation; 200],
            threads: vec![thread.clone(), thread],
            data: vec![1, 2, 3],
            ..Default::default()
        };
        let bytes = plan.encode();
        assert_eq!(PlanFile::decode(&bytes[..], bytes.len() as u64).unwrap(), plan);
        for (leader, each) in [(201, 2), (200, 3), (u64::MAX, 1), (1 << 58, 2), (0, u64::MAX)] {
            let mut facts = plan.facts();
            facts.operations = leader;
            facts.threads.iter_mut().for_each(|thread| thread.operations = each);
            let mut bytes = payload(&facts);
            bytes.extend([0; 204 * LEN_RECORD + 3]);
            assert_eq!(refusal(&bytes), "its operations are cut off", "{leader} {each}");
        }
        for len in [1, 1 << 40, u64::MAX] {
            let mut bytes = payload(&plan.facts());
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            assert!(PlanFile::decode(&bytes[..], bytes.len() as u64).is_err(), "{len}");
        }
        // A file that ends before its length says so.
        assert!(PlanFile::decode(&bytes[..100], bytes.len() as u64).is_err());
    }
}
