//! SHA-256 digests and what identifies a file without reading it.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The hexadecimal digits.
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The bytes that are read at a time while a file is hashed.
const LEN_BLOCK: usize = 256 << 10;
/// How often a file is hashed again because it changed meanwhile.
const TRIES_MAX: u32 = 3;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        read_hex(text, &mut bytes)?;
        Some(Self(bytes))
    }

    /// Returns the first twelve digits, which are enough for people.
    pub fn short(&self) -> String {
        let mut text = String::with_capacity(12);
        // Writing to a String cannot fail.
        let _ = write_hex(&mut text, &self.0[..6]);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        struct Hex;
        impl serde::de::Visitor<'_> for Hex {
            type Value = Digest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                Digest::from_hex(text)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

/// Writes bytes as lower case hexadecimal digits. A hit writes hundreds of them,
/// so each is not formatted by itself.
pub(crate) fn write_hex(to: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).try_for_each(|c| to.write_char(c))
}

/// Reads exactly `into.len()` bytes from lower case hexadecimal digits.
pub(crate) fn read_hex(text: &str, into: &mut [u8]) -> Option<()> {
    let text = text.as_bytes();
    if text.len() != into.len() * 2 {
        return None;
    }
    for (pair, byte) in text.chunks_exact(2).zip(into) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What a file is known by without being read: as long as all of it is the
/// same, so is the content.
///
/// ctime is the part that a program cannot set (`inode(7)`): every write
/// moves it to the kernel's present time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The device that the file is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its content was last changed, in ns since 1970, as far as it
    /// admits.
    pub mtime_ns: i64,
    /// When anything about it was last changed, in ns since 1970.
    pub ctime_ns: i64,
}

impl FileIdentity {
    /// Takes the identity out of the kernel's own structure.
    pub fn of_stat(stat: &libc::stat) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Takes the identity out of what `stat(2)` says.
    pub fn new(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Returns the present time in ns since 1970, as ctimes are counted.
pub(crate) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A file that was read from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub struct Hashed {
    /// What was read.
    pub digest: Digest,
    /// The file's identity before and after.
    pub identity: FileIdentity,
    /// When the reading began, in ns since 1970.
    pub began_ns: i64,
}

/// Hashes a regular file; one that changes while it is read is read again.
///
/// # Errors
/// Any error of `open(2)` and `read(2)`; [`io::ErrorKind::InvalidInput`] for
/// what is no regular file, [`io::ErrorKind::ResourceBusy`] for a file that
/// changes all the time.
pub fn hash_file(path: &Path) -> io::Result<Hashed> {
    // O_NONBLOCK: should a FIFO stand here meanwhile, open does not wait.
    let mut file =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut buffer = Vec::new();
    for _ in 0..TRIES_MAX {
        let began_ns = now_ns();
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let identity = FileIdentity::new(&metadata);
        if buffer.is_empty() {
            buffer.resize(LEN_BLOCK.min(identity.size as usize + 1), 0);
        }
        let mut sha = Sha256::new();
        let mut len = 0u64;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    sha.update(&buffer[..read]);
                    len += read as u64;
                    // A file that grows under us is caught below; one without
                    // an end (a mistaken size in /proc) is not waited for.
                    if len > identity.size {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if len == identity.size && FileIdentity::new(&file.metadata()?) == identity {
            return Ok(Hashed { digest: Digest(sha.finalize().into()), identity, began_ns });
        }
        io::Seek::rewind(&mut file)?;
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changes while it is read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_and_read_as_hex() {
        let digest = Digest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), hex);
        assert_eq!(Digest::from_hex(hex), Some(digest));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(Digest::from_hex(&hex[1..]), None);
        assert_eq!(Digest::from_hex(&hex.to_uppercase()), None);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"abc\"").is_err());
    }

    #[test]
    fn files_are_hashed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for len in [0, 1, LEN_BLOCK - 1, LEN_BLOCK, LEN_BLOCK + 1] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let hashed = hash_file(&path).unwrap();
            assert_eq!(hashed.digest, Digest::of(&content));
            assert_eq!(hashed.identity.size, len as u64);
        }
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert!(hash_file(dir.path()).is_err());
        assert!(hash_file(&dir.path().join("none")).is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(hash_file(&fifo).is_err());
        assert!(hash_file(Path::new("/dev/zero")).is_err());
    }
}
