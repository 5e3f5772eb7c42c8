//! What an entry says of itself: the file `meta`.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 0-7 | `WSENTRY` and a zero |
//! | 8-11 | version of this layout |
//! | 12-15 | zero |
//! | 16-23 | length of the first document |
//! | 24-31 | length of the second document |
//! | 32-63 | SHA-256 of bytes 0-31 and of the first document |
//! | 64-95 | SHA-256 of the second document |
//! | 96- | the documents: [`EntryMeta`] in postcard's encoding; the inputs of the fingerprint in JSON |
//!
//! A restore needs the first document only, and as JSON it cost 0.1 ms a hit;
//! the second is for people who ask what changed.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::raw;
use crate::fingerprint::{Digest, EntryId, FileIdentity, Input};

/// The version of the documents; JSON output of `cache` commands has the same.
pub const SCHEMA_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"WSENTRY\0";
const LAYOUT: u32 = 4;
const LEN_HEADER: usize = 96;
/// No entry's metadata comes near this size, in bytes.
pub(super) const LEN_META_MAX: u64 = 64 << 20;

/// A file of an image, as it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name in the image's directory.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its content.
    pub sha256: Digest,
    /// The identity under which the content is known to be that, if its file
    /// system's clock is fine enough to tell.
    pub identity: Option<FileIdentity>,
}

/// Something outside of the entry that the image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its path, absolute.
    #[serde(with = "raw::path")]
    pub path: PathBuf,
    /// What must be there.
    pub content: Content,
}

/// What must be at a dependency's path.
//
// Tagged from outside: serde buffers what is tagged from inside or flattened,
// which doubled the time of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A file with this content.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its content.
        sha256: Digest,
        /// The identity under which the content is known to be that.
        identity: Option<FileIdentity>,
    },
    /// A device or FIFO of this kind and number.
    Special {
        /// The file type bits of its mode.
        kind_bits: u32,
        /// Its device number.
        device: u64,
    },
    /// Anything: a directory, a file of `/proc` or `/sys`.
    Anything,
}

/// Why an entry that is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its metadata is not as it was written.
    #[error("the entry's metadata is damaged")]
    Damaged,
    /// It was written by another version of warmstart.
    #[error("the entry was made by another version of warmstart")]
    OtherVersion,
    /// It is another entry under a wrong name.
    #[error("the entry is not the one that its name says")]
    Misplaced,
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
}

/// What an entry at `main` is restored with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtMain {
    /// The number of the agent's descriptor.
    pub fd: i32,
    /// What the JVM had printed by then, on stdout and stderr.
    pub printed: [String; 2],
    /// How warm it is.
    pub tier: Tier,
}

/// How warm a program is that was captured at `main`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// What was done before the capture.
    pub warmth: Warmth,
    /// How many times `main` has run in it.
    pub runs: u32,
    /// Why it is not what was asked for, or that it keeps state.
    pub reason: Option<String>,
}

/// What was done to a JVM before it was captured at `main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Warmth {
    /// Nothing.
    Untrained,
    /// Classes were loaded and linked, none was initialised.
    Linked,
    /// `main` has run.
    Trained,
}

impl Tier {
    /// Says it in one line.
    pub fn line(&self) -> String {
        let mut line = match self.warmth {
            Warmth::Untrained => "untrained".to_owned(),
            Warmth::Linked => "classes linked, main has not run".to_owned(),
            Warmth::Trained => format!("trained, main has run {} times", self.runs),
        };
        if let Some(reason) = &self.reason {
            line = format!("{line} ({reason})");
        }
        line
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryMeta {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The entry's id.
    pub id: EntryId,
    /// The command's arguments.
    #[serde(with = "raw::list")]
    pub argv: Vec<OsString>,
    /// Its working directory.
    #[serde(with = "raw::path")]
    pub cwd: PathBuf,
    /// When it was captured, in seconds since 1970.
    pub created: u64,
    /// The boot that it was captured in (`random(4)`).
    pub boot_id: String,
    /// The kernel it was captured on.
    pub kernel: String,
    /// The engine that captured it.
    pub engine: String,
    /// Where it was captured: `ready` or `main`.
    pub capture_point: String,
    /// What it is restored with, if it was captured at `main`.
    pub at_main: Option<AtMain>,
    /// The program's pid.
    pub pid: i32,
    /// The number of its threads.
    pub threads: usize,
    /// The length of its page file, in bytes.
    pub len_pages: u64,
    /// How a restore brings memory back: `mapped` or `copied`.
    pub page_mode: String,
    /// How long the program stood still at the capture, in ms.
    pub freeze_ms: f64,
    /// The version of warmstart that captured it.
    pub warmstart: String,
    /// The identity of the image's directory under which it is known to hold
    /// these files alone, as with [`ImageFile::identity`].
    pub directory: Option<FileIdentity>,
    /// The image's files, by name.
    pub files: Vec<ImageFile>,
    /// What else must be unchanged.
    pub dependencies: Vec<Dependency>,
}

impl EntryMeta {
    /// Returns the command as one line for people.
    pub fn command_line(&self) -> String {
        command_line(&self.argv)
    }
}

/// Writes arguments as one line, quoted where a shell would need it.
pub(super) fn command_line(argv: &[OsString]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=+,./:@%".contains(c);
    let words = argv.iter().map(|word| {
        let word = word.to_string_lossy();
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            // Line breaks and escape sequences must not reach a terminal.
            let shown: String = word.chars().flat_map(shown_char).collect();
            format!("'{}'", shown.replace('\'', "'\\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn shown_char(c: char) -> impl Iterator<Item = char> {
    let escaped: Vec<char> = if c.is_control() { c.escape_default().collect() } else { vec![c] };
    escaped.into_iter()
}

/// Writes an entry's `meta`.
pub(super) fn encode(meta: &EntryMeta, inputs: &[Input]) -> Vec<u8> {
    // Strings, numbers and lists of them: nothing that either cannot hold.
    let first = postcard::to_stdvec(meta).expect("an EntryMeta can always be encoded");
    let second = serde_json::to_vec(inputs).expect("inputs are always valid JSON");
    let mut bytes = Vec::with_capacity(LEN_HEADER + first.len() + second.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&LAYOUT.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(first.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(second.len() as u64).to_le_bytes());
    let check = first_check(&bytes, &first);
    bytes.extend_from_slice(&check.0);
    bytes.extend_from_slice(&Digest::of(&second).0);
    bytes.extend_from_slice(&first);
    bytes.extend_from_slice(&second);
    bytes
}

fn first_check(head: &[u8], first: &[u8]) -> Digest {
    use sha2::Digest as _;
    let mut sha = sha2::Sha256::new_with_prefix(head);
    sha.update(first);
    Digest(sha.finalize().into())
}

/// An entry's `meta`, verified.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) meta: EntryMeta,
    bytes: Vec<u8>,
    inputs_at: usize,
}

impl Decoded {
    /// Reads the inputs, which are decoded only when asked for.
    pub(super) fn inputs(&self) -> Result<Vec<Input>, Unusable> {
        serde_json::from_slice(&self.bytes[self.inputs_at..]).map_err(|_| Unusable::Damaged)
    }
}

/// Reads an entry's `meta`: checks first, then decodes.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Decoded, Unusable> {
    let header = bytes.get(..LEN_HEADER).ok_or(Unusable::Damaged)?;
    if &header[..8] != MAGIC {
        return Err(Unusable::Damaged);
    }
    let u64_at = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&header[at..at + 8]);
        usize::try_from(u64::from_le_bytes(word)).map_err(|_| Unusable::Damaged)
    };
    let (len_first, len_second) = (u64_at(16)?, u64_at(24)?);
    let inputs_at = LEN_HEADER.checked_add(len_first).ok_or(Unusable::Damaged)?;
    if inputs_at.checked_add(len_second) != Some(bytes.len()) {
        return Err(Unusable::Damaged);
    }
    let (first, second) = bytes[LEN_HEADER..].split_at(len_first);
    if first_check(&header[..32], first).0 != header[32..64]
        || Digest::of(second).0 != header[64..96]
    {
        return Err(Unusable::Damaged);
    }
    // Only now: a damaged header is not another version.
    if header[8..12] != LAYOUT.to_le_bytes() {
        return Err(Unusable::OtherVersion);
    }
    let meta: EntryMeta = postcard::from_bytes(first).map_err(|_| Unusable::Damaged)?;
    if meta.schema_version != SCHEMA_VERSION {
        return Err(Unusable::OtherVersion);
    }
    Ok(Decoded { meta, bytes, inputs_at })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    pub(in super::super) fn meta() -> EntryMeta {
        EntryMeta {
            schema_version: SCHEMA_VERSION,
            id: "00112233445566778899aabbccddeeff".parse().unwrap(),
            argv: vec!["java".into(), OsString::from_vec(b"a\xff%b".to_vec())],
            cwd: "/srv".into(),
            created: 1_700_000_000,
            boot_id: "b".into(),
            kernel: "Linux".into(),
            engine: "native".into(),
            capture_point: "ready".into(),
            at_main: None,
            pid: 4242,
            threads: 25,
            len_pages: 1 << 20,
            page_mode: "mapped".into(),
            freeze_ms: 1.25,
            warmstart: "0.1.0".into(),
            directory: None,
            files: vec![ImageFile {
                name: "pages-1.img".into(),
                size: 3,
                sha256: Digest::of(b"abc"),
                identity: None,
            }],
            dependencies: vec![
                Dependency { path: "/proc/stat".into(), content: Content::Anything },
                Dependency {
                    path: "/x.jar".into(),
                    content: Content::File { size: 1, sha256: Digest::of(b"x"), identity: None },
                },
            ],
        }
    }

    fn inputs() -> Vec<Input> {
        vec![Input { label: "kernel".into(), digest: Digest::of(b"k"), shown: "k".into() }]
    }

    #[test]
    fn what_is_written_is_read() {
        let decoded = decode(encode(&meta(), &inputs())).unwrap();
        assert_eq!(decoded.meta, meta());
        assert_eq!(decoded.inputs().unwrap(), inputs());
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let other = EntryMeta { schema_version: SCHEMA_VERSION + 1, ..meta() };
        assert!(matches!(decode(encode(&other, &[])), Err(Unusable::OtherVersion)));
        assert!(matches!(decode(Vec::new()), Err(Unusable::Damaged)));
    }

    #[test]
    fn commands_are_shown_on_one_harmless_line() {
        let argv = ["java", "-Dx=a b", "", "it's", "\x1b[31m\n"].map(OsString::from);
        assert_eq!(command_line(&argv), r"java '-Dx=a b' '' 'it'\''s' '\u{1b}[31m\n'");
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(at in 0usize..2000, bit in 0u32..8) {
            let mut bytes = encode(&meta(), &inputs());
            let len = bytes.len();
            bytes[at % len] ^= 1 << bit;
            prop_assert!(decode(bytes).is_err());
        }

        #[test]
        fn every_other_length_is_found(len in 0usize..4000) {
            let mut bytes = encode(&meta(), &inputs());
            prop_assume!(len != bytes.len());
            bytes.resize(len, 0);
            prop_assert!(decode(bytes).is_err());
        }

        #[test]
        fn any_bytes_are_no_entry(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(bytes).is_err());
        }
    }
}
