//! Remembered digests: a file that was hashed once costs one `stat` ever after.
//!
//! The memory maps a file's identity (device, inode, size, mtime, ctime) to
//! the SHA-256 of its content. It is one file of the cache, read in one go and
//! searched in place. Its format (all numbers little-endian):
//!
//! | bytes | header | | bytes | record, sorted by device and inode |
//! |---|---|---|---|---|
//! | 0-7 | `WSDIGEST` | | 0-39 | device, inode, size, mtime ns, ctime ns |
//! | 8-11 | version | | 40-71 | SHA-256 of the content |
//! | 12-15 | length of a record | | 72-75 | day of last use, days since 1970 |
//! | 16-23 | number of records | | 76-79 | [`Note`] |
//! | 24-31 | check of bytes 0-23 | | 80-87 | check of bytes 0-79 |
//!
//! A check is the beginning of a SHA-256. Each record has its own, so that a
//! lookup pays for one record and not for all of them; a damaged record is a
//! file that has to be hashed again, nothing worse.
//!
//! A file that was changed less than a moment ([`RACY_NS`], less where the
//! file system's clock is finer) before it was hashed is not
//! remembered: another change within the same tick of the file system's clock
//! would leave its identity as it was. (git's index has the same problem.)

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::digest::{Digest, FileIdentity, hash_file, now_ns};

/// How old a change must be, in ns, before the identity can be trusted: the
/// coarsest file system clock that is in use (FAT) ticks every two seconds.
pub const RACY_NS: i64 = 2_000_000_000;

/// The same where times are seen to be finer than a millisecond: the kernel's
/// coarse clock ticks every 1 to 10 ms (`current_time`, CONFIG_HZ).
const RACY_FINE_NS: i64 = 50_000_000;

/// Returns how old a file's last change must be for its identity to be
/// trusted. Coarse file systems are known by their round times; what is just
/// written (an entry, on its first hit) need not be read again elsewhere.
fn racy_ns(identity: &FileIdentity) -> i64 {
    if identity.ctime_ns % 1_000_000 == 0 { RACY_NS } else { RACY_FINE_NS }
}

const MAGIC: &[u8; 8] = b"WSDIGEST";
const VERSION: u32 = 1;
const LEN_HEADER: usize = 32;
const LEN_RECORD: usize = 88;
/// More records than this are not kept (352 KiB): reading them would cost
/// more than they save.
const RECORDS_MAX: usize = 4096;
/// Records that nothing asked for in so many days are dropped.
const UNUSED_DAYS_MAX: u32 = 30;
/// How stale the day of last use may become: it is not worth a write a day.
const USED_DAYS_SLACK: u32 = 7;
const NS_PER_DAY: i64 = 86_400_000_000_000;

/// Something about a file's content that was worth remembering with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Nothing is known.
    None,
    /// It is a jar whose manifest names no further files.
    LoneJar,
}

impl Note {
    fn from_number(number: u32) -> Self {
        if number == 1 { Self::LoneJar } else { Self::None }
    }
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The SHA-256 of its content.
    pub digest: Digest,
    /// The identity under which that holds.
    pub identity: FileIdentity,
    /// Whether the identity alone vouches for the content from now on.
    pub settled: bool,
    /// What else was found.
    pub note: Note,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    identity: FileIdentity,
    digest: Digest,
    used_day: u32,
    note: Note,
}

/// A record's place: at most one record a file.
type Key = (u64, u64);

impl Record {
    fn key(&self) -> Key {
        (self.identity.device, self.identity.inode)
    }

    fn to_bytes(self) -> [u8; LEN_RECORD] {
        let mut bytes = [0; LEN_RECORD];
        let id = self.identity;
        bytes[0..8].copy_from_slice(&id.device.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.inode.to_le_bytes());
        bytes[16..24].copy_from_slice(&id.size.to_le_bytes());
        bytes[24..32].copy_from_slice(&id.mtime_ns.to_le_bytes());
        bytes[32..40].copy_from_slice(&id.ctime_ns.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.digest.0);
        bytes[72..76].copy_from_slice(&self.used_day.to_le_bytes());
        bytes[76..80].copy_from_slice(&u32::from(self.note == Note::LoneJar).to_le_bytes());
        let check = check(&bytes[..80]);
        bytes[80..].copy_from_slice(&check);
        bytes
    }

    /// Reads a record; `None` if it is damaged.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN_RECORD || bytes[80..] != check(&bytes[..80]) {
            return None;
        }
        Some(Self {
            identity: FileIdentity {
                device: u64_at(bytes, 0),
                inode: u64_at(bytes, 8),
                size: u64_at(bytes, 16),
                mtime_ns: u64_at(bytes, 24) as i64,
                ctime_ns: u64_at(bytes, 32) as i64,
            },
            digest: Digest(bytes[40..72].try_into().ok()?),
            used_day: u32::from_le_bytes(bytes[72..76].try_into().ok()?),
            note: Note::from_number(u32::from_le_bytes(bytes[76..80].try_into().ok()?)),
        })
    }
}

/// How much may be read of files that are not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// All of them.
    #[default]
    All,
    /// So many bytes; then the answer is [`Unread`].
    UpTo(u64),
    /// None: a file's identity stands for its content. The digests mean
    /// something only compared with others of this kind.
    Nothing,
}

/// A file that is not remembered was not read.
#[derive(Debug, thiserror::Error)]
#[error("not read yet")]
pub struct Unread;

/// Digests of files by what identifies them.
#[derive(Debug, Default)]
pub struct DigestMemory {
    /// The records as they were read, sorted.
    stored: Vec<u8>,
    /// Records that are new or changed.
    fresh: FxHashMap<Key, Record>,
    /// What was answered since the last [`Self::refresh`], by path: the
    /// fingerprint and the check of an entry ask for the same files.
    answered: FxHashMap<OsString, Known>,
    /// The file of those that was changed last, with its ctime in ns.
    newest: Option<(PathBuf, i64)>,
    today: u32,
    reading: Reading,
}

impl DigestMemory {
    /// Makes a memory that knows nothing.
    pub fn empty() -> Self {
        Self { today: today(), ..Self::default() }
    }

    /// Reads a memory; one that is missing or damaged knows nothing.
    pub fn load(path: &Path) -> Self {
        let mut memory = Self::empty();
        // What a JVM asks for: growing step by step takes twice the memory.
        memory.answered.reserve(56);
        memory.stored = read(path).and_then(valid_records).unwrap_or_default();
        memory
    }

    /// Says how much may be read from now on.
    pub fn set_reading(&mut self, reading: Reading) {
        self.reading = reading;
    }

    /// Forgets which files have been looked at, not what is in them: the next
    /// question looks again whether they changed.
    pub fn refresh(&mut self) {
        self.answered.clear();
        self.newest = None;
    }

    /// Returns what was answered for a path since the last [`Self::refresh`].
    pub fn answered(&self, path: &Path) -> Option<Known> {
        self.answered.get(path.as_os_str()).copied()
    }

    /// Returns which of the files looked at since the last
    /// [`Self::refresh`] was changed last, and its ctime in ns since 1970.
    pub fn newest(&self) -> Option<(&Path, i64)> {
        self.newest.as_ref().map(|(path, ctime_ns)| (path.as_path(), *ctime_ns))
    }

    /// Takes note of a file that counts by its identity.
    pub fn saw(&mut self, path: &Path, identity: FileIdentity) {
        if self.newest.as_ref().is_none_or(|(_, ctime_ns)| *ctime_ns < identity.ctime_ns) {
            self.newest = Some((path.to_owned(), identity.ctime_ns));
        }
    }

    /// Returns the digest of a regular file, which is read only if it is not
    /// remembered.
    ///
    /// # Errors
    /// Those of [`hash_file`].
    pub fn file(&mut self, path: &Path) -> io::Result<Known> {
        if let Some(known) = self.answered.get(path.as_os_str()) {
            return Ok(*known);
        }
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        self.identified(path, FileIdentity::new(&metadata))
    }

    /// The same for a file whose identity the caller has just asked for.
    ///
    /// # Errors
    /// Those of [`hash_file`].
    pub fn identified(&mut self, path: &Path, identity: FileIdentity) -> io::Result<Known> {
        let known = match self.find(&identity) {
            Some(record) => {
                if record.used_day.saturating_add(USED_DAYS_SLACK) < self.today {
                    self.fresh.insert(record.key(), Record { used_day: self.today, ..record });
                }
                let Record { digest, note, .. } = record;
                Known { digest, identity, settled: true, note }
            }
            None => match &mut self.reading {
                Reading::Nothing => Known {
                    digest: Digest::of(format!("{identity:?}").as_bytes()),
                    identity,
                    settled: false,
                    note: Note::None,
                },
                Reading::UpTo(left) => {
                    *left = left.checked_sub(identity.size).ok_or(io::Error::other(Unread))?;
                    self.hash(path)?
                }
                Reading::All => self.hash(path)?,
            },
        };
        self.answered.insert(path.as_os_str().to_owned(), known);
        self.saw(path, known.identity);
        Ok(known)
    }

    /// Remembers something else about a file that [`Self::file`] has answered
    /// for.
    pub fn annotate(&mut self, path: &Path, note: Note) {
        let Some(known) = self.answered.get_mut(path.as_os_str()) else { return };
        known.note = note;
        let known = *known;
        if known.settled {
            let Known { digest, identity, .. } = known;
            let record = Record { identity, digest, used_day: self.today, note };
            self.fresh.insert(record.key(), record);
        }
    }

    fn hash(&mut self, path: &Path) -> io::Result<Known> {
        let hashed = hash_file(path)?;
        let settled =
            hashed.began_ns.saturating_sub(hashed.identity.ctime_ns) > racy_ns(&hashed.identity);
        if settled {
            let record = Record {
                identity: hashed.identity,
                digest: hashed.digest,
                used_day: self.today,
                note: Note::None,
            };
            self.fresh.insert(record.key(), record);
        }
        Ok(Known { digest: hashed.digest, identity: hashed.identity, settled, note: Note::None })
    }

    fn find(&self, identity: &FileIdentity) -> Option<Record> {
        let key = (identity.device, identity.inode);
        let record = match self.fresh.get(&key) {
            Some(record) => *record,
            None => Record::from_bytes(search(&self.stored, key)?)?,
        };
        (record.identity == *identity).then_some(record)
    }

    /// Tells whether there is anything that [`Self::save`] would write.
    pub fn is_changed(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Writes what is new, replacing the file at once.
    ///
    /// What other processes have written meanwhile is kept, except for what
    /// one writes in the very same moment: then its new records are lost,
    /// which costs a hash. `temporary` is a path on the same file system that
    /// nobody else uses.
    ///
    /// # Errors
    /// Any error of writing and renaming; the old file then stays.
    pub fn save(&mut self, path: &Path, temporary: &Path) -> io::Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let theirs = read(path).and_then(valid_records).unwrap_or_default();
        let mut merged: FxHashMap<Key, Record> = FxHashMap::default();
        let old = self.stored.chunks_exact(LEN_RECORD).chain(theirs.chunks_exact(LEN_RECORD));
        let newest_last = old.filter_map(Record::from_bytes).chain(self.fresh.values().copied());
        for record in newest_last {
            merged.insert(record.key(), record);
        }
        let records = self.worth_keeping(merged.into_values().collect());

        let written = write_new(temporary, &encode(&records));
        if let Err(error) = written.and_then(|()| fs::rename(temporary, path)) {
            let _ = fs::remove_file(temporary);
            return Err(error);
        }
        self.stored = records.iter().flat_map(|record| record.to_bytes()).collect();
        self.fresh.clear();
        Ok(())
    }

    /// Drops what is unused and, beyond the bound, what is used least; sorts.
    fn worth_keeping(&self, mut records: Vec<Record>) -> Vec<Record> {
        records.retain(|record| {
            self.today.saturating_sub(record.used_day) <= UNUSED_DAYS_MAX
                && record.used_day <= self.today.saturating_add(1)
        });
        records.sort_unstable_by_key(|record| std::cmp::Reverse(record.used_day));
        records.truncate(RECORDS_MAX);
        records.sort_unstable_by_key(Record::key);
        records
    }
}

fn today() -> u32 {
    u32::try_from(now_ns() / NS_PER_DAY).unwrap_or(0)
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&Digest::of(bytes).0[..8]);
    check
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn encode(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN_HEADER + records.len() * LEN_RECORD);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(LEN_RECORD as u32).to_le_bytes());
    bytes.extend_from_slice(&(records.len() as u64).to_le_bytes());
    let header_check = check(&bytes);
    bytes.extend_from_slice(&header_check);
    for record in records {
        bytes.extend_from_slice(&record.to_bytes());
    }
    bytes
}

/// Reads a memory's file; what cannot be one (a FIFO, too long) is not read.
fn read(path: &Path) -> Option<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let max = LEN_HEADER + RECORDS_MAX * LEN_RECORD;
    let len = usize::try_from(metadata.len()).ok().filter(|len| *len <= max)?;
    if !metadata.is_file() {
        return None;
    }
    let mut bytes = Vec::with_capacity(len + 1);
    file.take(max as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Takes the header off; `None` if it is not one of ours or the length is not
/// what it says.
fn valid_records(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let header = bytes.get(..LEN_HEADER)?;
    let count = usize::try_from(u64_at(header, 16)).ok()?;
    let whole = &header[..8] == MAGIC
        && header[8..12] == VERSION.to_le_bytes()
        && header[12..16] == (LEN_RECORD as u32).to_le_bytes()
        && header[24..] == check(&header[..24])
        && count <= RECORDS_MAX
        && bytes.len() == LEN_HEADER + count * LEN_RECORD;
    if !whole {
        return None;
    }
    bytes.drain(..LEN_HEADER);
    Some(bytes)
}

/// Finds the record of a file among sorted ones, unchecked.
fn search(records: &[u8], key: Key) -> Option<&[u8]> {
    let at = |index: usize| &records[index * LEN_RECORD..(index + 1) * LEN_RECORD];
    let (mut low, mut high) = (0, records.len() / LEN_RECORD);
    while low < high {
        let middle = low.midpoint(high);
        let record = at(middle);
        match (u64_at(record, 0), u64_at(record, 8)).cmp(&key) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(record),
        }
    }
    None
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests;
