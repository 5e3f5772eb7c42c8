//! The files of an image set: their names, magics and largest sizes.
//!
//! A file is one or two magics, then messages, each behind its length as a
//! little-endian `u32`. Some messages announce raw bytes that follow them.
//! `inventory.img` has only a magic of its own, every other file has
//! [`COMMON_MAGIC`] in front of it: CRIU's image version 2
//! (`criu/include/magic.h`, `criu/image-desc.c`).

/// The first word of every file but `inventory.img`.
pub(super) const COMMON_MAGIC: u32 = 0x5456_4319;

/// The `img_version` of an inventory that says so.
pub(super) const IMAGE_VERSION: u32 = 2;

/// The `img_version` of an image of ours with state that CRIU's format has no
/// place for: CRIU takes no such version, and so does not lose it.
pub(super) const NATIVE_VERSION: u32 = 3;

/// Tells whether an inventory's version is one that is read here.
pub(super) fn is_known(version: u32) -> bool {
    [IMAGE_VERSION, NATIVE_VERSION].contains(&version)
}

/// What distinguishes one kind of file from another.
#[derive(Debug)]
pub(super) struct Kind {
    /// The word that names the kind.
    pub(super) magic: u32,
    /// The file's name up to the number or the `.img`.
    pub(super) stem: &'static str,
    /// The largest file that is read, in bytes: an image is hostile input,
    /// and one byte of it may take hundreds in memory.
    pub(super) max_bytes: u64,
    /// The largest number of messages that is read.
    pub(super) max_entries: usize,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

macro_rules! kinds {
    ($($name:ident $magic:literal $stem:literal $bytes:expr, $entries:expr;)*) => {
        $(pub(super) const $name: Kind = Kind {
            magic: $magic,
            stem: $stem,
            max_bytes: $bytes,
            max_entries: $entries,
        };)*
    };
}

// Mappings: the kernel's default limit is 65530 (vm.max_map_count), some
// programs ask for a quarter of a million. Descriptors: RLIMIT_NOFILE is
// rarely above half a million, and one message of files.img is 2 KiB in
// memory. Page runs: every second page of 8 GiB.
kinds! {
    INVENTORY    0x5831_3116 "inventory"      64 * KIB, 1;
    PSTREE       0x5027_3030 "pstree"         MIB, 4096;
    CORE         0x5505_3847 "core-"          MIB, 1;
    IDS          0x5443_2030 "ids-"           KIB, 1;
    MM           0x5749_2820 "mm-"            24 * MIB, 1;
    PAGEMAP      0x5608_4025 "pagemap-"       32 * MIB, 1 << 20;
    SHMEM        0x5608_4025 "pagemap-shmem-" 32 * MIB, 1 << 20;
    FDINFO       0x5621_3732 "fdinfo-"        16 * MIB, 1 << 19;
    FILES        0x5630_3138 "files"          64 * MIB, 1 << 18;
    FS           0x5140_3912 "fs-"            KIB, 1;
    TTY_INFO     0x5945_3036 "tty-info"       MIB, 4096;
    TIMENS       0x4311_4433 "timens-"        KIB, 1;
    FILE_LOCKS   0x5432_3616 "filelocks"      MIB, 1 << 16;
    MEMFD        0x4845_3499 "memfd"          MIB, 1 << 13;
    PIPES_DATA   0x5645_3709 "pipes-data"     64 * MIB, 1 << 16;
    FIFO_DATA    0x5933_3054 "fifo-data"      64 * MIB, 1 << 16;
    SK_QUEUES    0x5626_4026 "sk-queues"      64 * MIB, 1 << 16;
    SECCOMP      0x6441_3049 "seccomp"        16 * MIB, 1;
    REMAP_FPATH  0x5913_3954 "remap-fpath"    MIB, 1 << 13;
    GHOST_FILE   0x5258_3605 "ghost-file-"    64 * MIB, 1 << 16;
}

impl Kind {
    /// Returns the name of the one file of this kind.
    pub(super) fn file(&self) -> String {
        format!("{}.img", self.stem)
    }

    /// Returns the name of the file with a number.
    pub(super) fn numbered(&self, number: impl std::fmt::Display) -> String {
        format!("{}{number}.img", self.stem)
    }

    /// Returns the bytes that a file of this kind begins with.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(8);
        if self.magic != INVENTORY.magic {
            head.extend_from_slice(&COMMON_MAGIC.to_le_bytes());
        }
        head.extend_from_slice(&self.magic.to_le_bytes());
        head
    }
}
