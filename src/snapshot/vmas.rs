//! The memory areas of a process, from `/proc/PID/smaps` (`proc(5)`).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Refusal, shared};
use crate::sys::memory::LEN_PAGE;

/// What an area is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// The heap that `brk(2)` moves the end of.
    Heap,
    /// The main thread's stack.
    Stack,
    /// `[vdso]`, `[vvar]`, `[vvar_vclock]`: the kernel's.
    Kernel(KernelArea),
    /// A memfd, or shared anonymous memory.
    Memory {
        /// Its name.
        name: Vec<u8>,
        /// Its inode on the kernel's own mount.
        inode: u64,
    },
    /// A file that is deleted, and shared.
    Deleted {
        /// The path that it had.
        path: PathBuf,
        /// (major, minor) of its device.
        dev: (u32, u32),
        /// Its inode.
        inode: u64,
        /// Its id in the image, once that is known.
        id: u32,
    },
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// (major, minor) of its device.
        dev: (u32, u32),
        /// Its inode.
        inode: u64,
    },
}

/// An area that the kernel maps into every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelArea {
    /// The code.
    Vdso,
    /// Its data.
    Vvar,
    /// Its clock pages (Linux 6.13).
    VvarVclock,
}

/// A memory area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// The first address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// `PROT_*`.
    pub prot: i32,
    /// `MAP_SHARED` instead of `MAP_PRIVATE`.
    pub shared: bool,
    /// The offset in the file in bytes.
    pub offset: u64,
    /// What is behind it.
    pub backing: Backing,
    /// The two-letter `VmFlags`.
    pub flags: Vec<[u8; 2]>,
    /// Resident and swapped memory in KiB.
    pub resident_kib: u64,
    /// Swapped memory in KiB.
    pub swapped_kib: u64,
    /// The protection key (`pkeys(7)`).
    pub protection_key: u64,
    /// Whether its content must be dumped whole: nothing outside the image
    /// could bring it back.
    pub whole: bool,
}

impl Vma {
    /// Returns whether the kernel shows this flag.
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Returns whether the memory is private and not backed by a file.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous | Backing::Heap | Backing::Stack)
    }

    /// Returns how its file was opened, as far as it shows: what can never be
    /// made writable (`mw`) is of a descriptor that only reads.
    pub fn access(&self) -> u32 {
        let writes = self.prot & libc::PROT_WRITE != 0 || self.has(b"mw");
        if writes { libc::O_RDWR as u32 } else { libc::O_RDONLY as u32 }
    }

    /// Returns whether the kernel clears it in every copy: `MADV_WIPEONFORK`
    /// (Linux 4.14), `MAP_DROPPABLE` (6.11).
    pub fn is_wiped(&self) -> bool {
        self.has(b"wf") || self.has(b"dp")
    }
}

/// Parses `smaps`; refuses by name what an image cannot hold.
pub fn parse(smaps: &[u8], pages_file: &str) -> Result<Vec<Vma>, Refusal> {
    let mut vmas = areas(smaps)?;
    for vma in &mut vmas {
        check(vma)?;
        adapt(vma, pages_file);
    }
    Ok(vmas)
}

/// Parses `smaps`, whatever the areas are.
fn areas(smaps: &[u8]) -> Result<Vec<Vma>, Refusal> {
    let mut vmas: Vec<Vma> = Vec::new();
    for line in smaps.split(|byte| *byte == b'\n') {
        if let Some(vma) = parse_header(line)? {
            vmas.push(vma);
            continue;
        }
        let Some(vma) = vmas.last_mut() else { continue };
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let flags = flags.split(u8::is_ascii_whitespace);
            vma.flags = flags.filter_map(|flag| <[u8; 2]>::try_from(flag).ok()).collect();
        } else if line.starts_with(b"Rss:") || line.starts_with(b"Swap:") {
            vma.resident_kib += number(line);
            vma.swapped_kib += if line.starts_with(b"Swap:") { number(line) } else { 0 };
        } else if line.starts_with(b"ProtectionKey:") {
            vma.protection_key = number(line);
        }
    }
    // The vsyscall page belongs to the kernel half and is in every process. It
    // goes only now: the lines behind its header are its own.
    vmas.retain(|vma| vma.start <= i64::MAX as u64);
    Ok(vmas)
}

fn number(line: &[u8]) -> u64 {
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'))
}

/// Parses `start-end perms offset major:minor inode    name`; `None` if the
/// line is another one.
fn parse_header(line: &[u8]) -> Result<Option<Vma>, Refusal> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let len = rest[start..].iter().position(|byte| *byte == b' ').unwrap_or(rest.len() - start);
        let (field, tail) = rest[start..].split_at(len);
        rest = tail;
        std::str::from_utf8(field).ok()
    };
    let Some((start, end)) = field().and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (Some(start), Some(end)) = (hex(start), hex(end)) else { return Ok(None) };
    let (Some(perms), Some(offset), Some(dev), Some(inode)) =
        (field(), field().and_then(hex), field(), field().and_then(|inode| inode.parse().ok()))
    else {
        return Ok(None);
    };
    let name = {
        let at = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
        &rest[at..]
    };
    let perms = perms.as_bytes();
    let bit = |index: usize, letter: u8, prot: i32| {
        if perms.get(index) == Some(&letter) { prot } else { 0 }
    };
    let prot = bit(0, b'r', libc::PROT_READ)
        | bit(1, b'w', libc::PROT_WRITE)
        | bit(2, b'x', libc::PROT_EXEC);
    let shared = perms.get(3) == Some(&b's');
    let dev = dev.split_once(':').and_then(|(major, minor)| {
        Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
    });
    let backing = match name {
        b"[vdso]" => Backing::Kernel(KernelArea::Vdso),
        b"[vvar]" => Backing::Kernel(KernelArea::Vvar),
        b"[vvar_vclock]" => Backing::Kernel(KernelArea::VvarVclock),
        b"[heap]" => Backing::Heap,
        b"[stack]" => Backing::Stack,
        b"[vsyscall]" => Backing::Anonymous,
        _ if inode == 0 && (name.is_empty() || name.starts_with(b"[anon:")) => Backing::Anonymous,
        _ if inode == 0 && name.starts_with(b"[") && !shared => {
            let name = String::from_utf8_lossy(name);
            return Err(Refusal::lasting(format!("memory at {start:#x} is the kernel's {name}")));
        }
        _ if is_memory(dev, name) => {
            Backing::Memory { name: shared::name_of(name).unwrap_or(name).to_vec(), inode }
        }
        _ => {
            Backing::File { path: PathBuf::from(unescape(name)), dev: dev.unwrap_or((0, 0)), inode }
        }
    };
    Ok(Some(Vma {
        start,
        end,
        prot,
        shared,
        offset,
        backing,
        flags: Vec::new(),
        resident_kib: 0,
        swapped_kib: 0,
        protection_key: 0,
        whole: false,
    }))
}

/// Returns whether a mapping is of a memfd or of shared anonymous memory; a
/// file of that name is on another device.
fn is_memory(dev: Option<(u32, u32)>, name: &[u8]) -> bool {
    let dev = dev.map(|(major, minor)| libc::makedev(major, minor));
    shared::name_of(name).is_some() && dev.is_some_and(shared::is_kernels_mount)
}

/// Undoes the octal escape of a newline in a name (`seq_file_path`).
fn unescape(name: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(*byte);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

/// Names what of an area `criu dump` does not see, either.
fn unseen(vma: &Vma) -> Option<&'static str> {
    const FLAGS: [(&[u8; 2], &str); 2] = [
        (b"sl", "sealed (mseal)"),
        // Locked as a whole it would all be made present.
        (b"lf", "locked page by page (MLOCK_ONFAULT)"),
    ];
    let flag = FLAGS.iter().find(|(flag, _)| vma.has(flag)).map(|(_, what)| *what);
    flag.or((vma.protection_key != 0).then_some("behind a protection key (pkey_mprotect)"))
}

/// Refuses a process with memory of which `criu dump` would lose something.
pub fn check_unseen(pid: i32) -> Result<(), Refusal> {
    for vma in areas(&read(pid)?)? {
        if let Some(what) = unseen(&vma) {
            return Err(Refusal::lasting(format!("memory at {:#x} is {what}", vma.start)));
        }
    }
    super::numa::check_memory(pid)
}

/// Reads the `smaps` of a process.
pub fn read(pid: i32) -> Result<Vec<u8>, Refusal> {
    let path = format!("/proc/{pid}/smaps");
    std::fs::read(&path).map_err(|error| Refusal::passing(format!("{path}: {error}")))
}

/// Refuses what an image cannot hold.
fn check(vma: &Vma) -> Result<(), Refusal> {
    let at = vma.start;
    let no = |what: &str| Err(Refusal::lasting(format!("memory at {at:#x} is {what}")));
    if !at.is_multiple_of(LEN_PAGE) || !vma.end.is_multiple_of(LEN_PAGE) || vma.end <= vma.start {
        return no("not made of whole pages");
    }
    let kernels = matches!(vma.backing, Backing::Kernel(_));
    for (flag, what) in [
        (b"ht", "huge pages of hugetlbfs"),
        (b"um", "watched by userfaultfd"),
        (b"uw", "watched by userfaultfd"),
        (b"ui", "watched by userfaultfd"),
        (b"ss", "a shadow stack"),
        (b"mt", "tagged memory"),
    ] {
        if vma.has(flag) {
            return no(what);
        }
    }
    if let Some(what) = unseen(vma) {
        return no(what);
    }
    if !kernels && (vma.has(b"io") || vma.has(b"pf")) {
        return no("the memory of a device");
    }
    if let Backing::File { path, .. } = &vma.backing {
        let name = path.as_os_str().as_bytes();
        let shown = path.display();
        if name.starts_with(b"/SYSV") {
            return no("System V shared memory");
        }
        // Of the kernel's own (`/[aio]`), or of huge pages.
        if vma.shared && (name.starts_with(b"/[") || name.starts_with(b"/memfd:")) {
            return no(&format!("shared memory that no path leads to ({shown})"));
        }
        if name.starts_with(b"anon_inode:") || name.starts_with(b"/anon_hugepage") {
            return no(&format!("a mapping of {shown}"));
        }
        if vma.shared && name.starts_with(b"/dev/") && !name.starts_with(b"/dev/shm/") {
            return no(&format!("a mapping of the device {shown}"));
        }
    } else if vma.shared && !matches!(vma.backing, Backing::Memory { .. }) {
        return no("shared anonymous memory");
    }
    Ok(())
}

/// Returns whether the kernel marks a path as deleted.
pub fn is_deleted(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// Whether a file has the name of a page file: `pages-2.img` is that of the
/// second process of a tree.
fn is_pages_file(name: &[u8]) -> bool {
    let number = name.strip_prefix(b"pages-").and_then(|rest| rest.strip_suffix(b".img"));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Turns private mappings of files that cannot be mapped again into memory
/// that the image carries whole: deleted files (libraries that were unpacked,
/// loaded and removed) and the page files of an earlier restore.
fn adapt(vma: &mut Vma, pages_file: &str) {
    let Backing::File { path, .. } = &vma.backing else { return };
    let restored = path.file_name().is_some_and(|name| {
        let name = name.as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        name == pages_file.as_bytes() || is_pages_file(name)
    });
    let zero = path.as_os_str().as_bytes().starts_with(b"/dev/zero");
    if !vma.shared && (restored || is_deleted(path) || zero) {
        vma.backing = Backing::Anonymous;
        vma.offset = 0;
        vma.whole = !zero;
        return;
    }
    let Backing::File { path, dev, inode } = &vma.backing else { return };
    if let Some(name) = path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        let path = PathBuf::from(OsString::from_vec(name.to_vec()));
        vma.backing = Backing::Deleted { path, dev: *dev, inode: *inode, id: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
560000000000-560000001000 r-xp 00002000 fe:00 42                         /usr/bin/a b
Rss:                   4 kB
Swap:                  8 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000002000 rw-p 00000000 00:00 0
Rss:                   0 kB
VmFlags: rd wr mr mw me ac wf
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   4 kB
VmFlags: ex
";

    #[test]
    fn areas_flags_and_sizes_are_read() {
        let vmas = parse(SMAPS, "pages-1.img").unwrap();
        assert_eq!(vmas.len(), 3);
        let Backing::File { path, dev, inode } = &vmas[0].backing else { panic!() };
        assert_eq!((path.to_str(), *dev, *inode), (Some("/usr/bin/a b"), (0xfe, 0), 42));
        assert_eq!((vmas[0].resident_kib, vmas[0].offset), (12, 0x2000));
        assert!(vmas[1].is_wiped() && vmas[1].is_anonymous() && !vmas[0].is_wiped());
        // What is said of the vsyscall page was once taken for the stack's: it
        // lost its flag, came back as memory of the pages file, and the kernel
        // shows no arguments that lie in a file (`/proc/PID/cmdline`).
        assert!(vmas[2].has(b"gd") && vmas[2].backing == Backing::Stack);
        assert_eq!(vmas[2].resident_kib, 0);
    }

    #[test]
    fn a_deleted_library_is_carried_whole_and_shared_memory_refused() {
        let line = |perms: &str, name: &str| {
            format!("7f0000000000-7f0000002000 {perms} 00001000 fe:00 7 {name}\nVmFlags: rd\n")
        };
        let vmas = parse(line("r-xp", "/tmp/libx.so (deleted)").as_bytes(), "pages-1.img").unwrap();
        assert!(vmas[0].whole && vmas[0].is_anonymous());
        let vmas = parse(line("rw-p", "/c/e/pages-12.img").as_bytes(), "pages-1.img").unwrap();
        assert!(vmas[0].whole && vmas[0].is_anonymous());
        let vmas = parse(line("rw-p", "/c/e/pages-1.img").as_bytes(), "pages-1.img").unwrap();
        assert!(vmas[0].whole && vmas[0].is_anonymous());
        let keyed = line("rw-p", "").replace("VmFlags", "ProtectionKey:         2\nVmFlags");
        assert!(parse(keyed.as_bytes(), "pages-1.img").is_err());
        for name in ["/memfd:heap (deleted)", "/dev/zero (deleted)", "/SYSV0000 (deleted)"] {
            let refusal = parse(line("rw-s", name).as_bytes(), "pages-1.img").unwrap_err();
            assert!(refusal.reason.contains("0x7f0000000000"), "{refusal}");
        }
    }
}
