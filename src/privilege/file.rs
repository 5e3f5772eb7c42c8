//! The file capability of the binary: the attribute `security.capability`.
//!
//! The format is that of `linux/capability.h` (`struct vfs_ns_cap_data`), all
//! little-endian: a word with the revision in its top byte and the effective
//! flag in bit 0; permitted and inheritable, twice (low and high 32 bits); in
//! revision 3 the uid of the root user of the namespace it counts in.

use std::io;
use std::path::Path;

use crate::sys::capability::CAP_CHECKPOINT_RESTORE;
use crate::sys::xattr;

const ATTRIBUTE: &std::ffi::CStr = c"security.capability";
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

/// What a file gives to whoever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCaps {
    /// One bit a capability.
    pub permitted: u64,
    /// One bit a capability.
    pub inheritable: u64,
    /// Permitted ones are effective from the start; an exec fails where not
    /// all of them can be had.
    pub effective: bool,
    /// The root user of the user namespace that it counts in, if not the
    /// first one.
    pub rootid: Option<u32>,
}

impl FileCaps {
    /// What `setup` gives: `cap_checkpoint_restore`, permitted only.
    pub const OURS: Self = Self {
        permitted: 1 << CAP_CHECKPOINT_RESTORE,
        inheritable: 0,
        effective: false,
        rootid: None,
    };

    /// Tells whether the file gives `CAP_CHECKPOINT_RESTORE`.
    pub fn gives_checkpoint_restore(&self) -> bool {
        self.permitted & Self::OURS.permitted != 0
    }

    /// Tells whether the file gives more than `CAP_CHECKPOINT_RESTORE`.
    pub fn gives_more(&self) -> bool {
        self.permitted & !Self::OURS.permitted != 0
    }

    /// Decodes the attribute; `None` if it is not one that we know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let rootid = match (words.first()? & REVISION_MASK, bytes.len()) {
            (REVISION_2, 20) => None,
            (REVISION_3, 24) => Some(words[5]),
            _ => return None,
        };
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Some(Self {
            permitted: join(words[1], words[3]),
            inheritable: join(words[2], words[4]),
            effective: words[0] & EFFECTIVE != 0,
            rootid: rootid.filter(|&uid| uid != 0),
        })
    }

    /// Encodes the attribute.
    pub fn encode(&self) -> Vec<u8> {
        let revision = if self.rootid.is_some() { REVISION_3 } else { REVISION_2 };
        let mut words = vec![
            revision | if self.effective { EFFECTIVE } else { 0 },
            self.permitted as u32,
            self.inheritable as u32,
            (self.permitted >> 32) as u32,
            (self.inheritable >> 32) as u32,
        ];
        words.extend(self.rootid);
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

/// Returns the capabilities of a file; `None` if it has none, or some of an
/// unknown format, which the kernel does not honour either.
pub fn of(path: &Path) -> io::Result<Option<FileCaps>> {
    Ok(xattr::get(path, ATTRIBUTE)?.and_then(|bytes| FileCaps::decode(&bytes)))
}

/// Gives capabilities to a file (needs `CAP_SETFCAP`).
pub fn set(path: &Path, caps: &FileCaps) -> io::Result<()> {
    xattr::set(path, ATTRIBUTE, &caps.encode())
}

/// Takes every capability from a file.
pub fn remove(path: &Path) -> io::Result<()> {
    xattr::remove(path, ATTRIBUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_what_setcap_writes() {
        // As `setcap cap_checkpoint_restore=p` wrote it.
        let bytes = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(FileCaps::OURS.encode(), bytes);
        assert_eq!(FileCaps::decode(&bytes), Some(FileCaps::OURS));
    }

    #[test]
    fn a_namespaced_one_keeps_its_root() {
        let caps = FileCaps { rootid: Some(100_000), effective: true, ..FileCaps::OURS };
        assert_eq!(caps.encode().len(), 24);
        assert_eq!(FileCaps::decode(&caps.encode()), Some(caps));
    }

    #[test]
    fn other_sizes_and_revisions_are_unknown() {
        let whole = FileCaps::OURS.encode();
        for len in 0..whole.len() {
            assert_eq!(FileCaps::decode(&whole[..len]), None);
        }
        let mut odd = whole;
        odd[3] = 9;
        assert_eq!(FileCaps::decode(&odd), None);
    }
}
