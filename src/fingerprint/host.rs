//! What a program finds of its machine and of its caller when it starts.

use std::fs;
use std::io::IsTerminal;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, fstat, umask};
use nix::sys::utsname::uname;
use nix::unistd::{Pid, getresgid, getresuid};

use super::cgroup::{Limits, read_small};
use super::digest::Digest;
use crate::sys::{auxv, cpu, descriptors, process};

/// What one of the descriptors 0, 1 and 2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// A terminal.
    Terminal,
    /// A pipe or FIFO.
    Pipe,
    /// A regular file or a block device.
    File,
    /// A socket.
    Socket,
    /// A character device that is no terminal, `/dev/null` for one.
    Device,
    /// Not open: the program's first file gets this number.
    Closed,
}

impl Stream {
    /// Finds out what a descriptor is.
    pub fn of(fd: BorrowedFd<'_>) -> Self {
        let Ok(stat) = fstat(fd) else { return Self::Closed };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFCHR if fd.is_terminal() => Self::Terminal,
            libc::S_IFCHR => Self::Device,
            libc::S_IFIFO => Self::Pipe,
            libc::S_IFSOCK => Self::Socket,
            _ => Self::File,
        }
    }

    /// Returns its name, as messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminal => "a terminal",
            Self::Pipe => "a pipe",
            Self::File => "a file",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Closed => "closed",
        }
    }
}

/// Soft and hard limits that runtimes size themselves by (`getrlimit(2)`).
const LIMITS: [(Resource, &str); 6] = [
    (Resource::RLIMIT_AS, "address space"),
    (Resource::RLIMIT_DATA, "data"),
    (Resource::RLIMIT_STACK, "stack"),
    (Resource::RLIMIT_NOFILE, "open files"),
    (Resource::RLIMIT_NPROC, "processes"),
    (Resource::RLIMIT_MEMLOCK, "locked memory"),
];

/// Switches of the kernel that decide what memory looks like: path and name.
const SWITCHES: [(&str, &str); 3] = [
    ("/sys/kernel/mm/transparent_hugepage/enabled", "transparent huge pages"),
    ("/proc/sys/vm/nr_hugepages", "reserved huge pages"),
    ("/proc/sys/vm/overcommit_memory", "memory overcommit"),
];

/// The machine's memory counts in steps of this many bytes: the kernel keeps
/// a slightly different amount for itself at each boot.
const LEN_MEMORY_STEP: u64 = 256 << 20;

/// Machine and caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Real, effective and saved user ids.
    pub uids: [u32; 3],
    /// Real, effective and saved group ids.
    pub gids: [u32; 3],
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// The caller's line of `/etc/passwd` (user name and home), if it has one.
    pub account: Option<String>,
    /// What 0, 1 and 2 are. Rust's runtime opens closed ones: whoever knows
    /// better replaces what [`Host::current`] has found.
    pub streams: [Stream; 3],
    /// Signals that the caller ignores (`nohup(1)`, a shell's background job):
    /// runtimes look which ones are before they install handlers. Ours are
    /// not the caller's, so [`Host::current`] leaves it to who knows them.
    pub ignored_signals: Vec<i32>,
    /// Signals that the caller blocks; left empty in the same way.
    pub blocked_signals: Vec<i32>,
    /// Limits by name: soft and hard.
    pub limits: Vec<(&'static str, u64, u64)>,
    /// The file mode creation mask, which an image brings back.
    pub umask: u32,
    /// The personality (`personality(2)`): address space randomisation.
    pub personality: u32,
    /// The CPUs that the caller may run on.
    pub affinity: Vec<usize>,
    /// Limits of the control group.
    pub cgroup: Limits,
    /// The machine's memory, in steps of 256 MiB.
    pub memory_steps: u64,
    /// Kernel switches by name, as the kernel writes them.
    pub switches: Vec<(&'static str, String)>,
    /// `uname -s -r -v -m`.
    pub kernel: String,
    /// `uname -n`.
    pub hostname: String,
    /// The digest of the vDSO's bytes; of none if there is none.
    pub vdso: Digest,
    /// Model and features of the CPU.
    pub cpu: cpu::Cpu,
    /// Which boot this is: not part of the fingerprint, because an image may
    /// outlive a boot inside a time namespace.
    pub boot_id: String,
}

impl Host {
    /// Looks at the machine and at our own process, which stands for the
    /// caller. Takes about 0.1 ms; changes the umask for a moment, so no other
    /// thread should be creating files.
    pub fn current() -> Self {
        let mut buffer = [0; 256];
        // A process cannot ask for its mask, only change it; 077 for the case
        // that another thread creates something just now.
        let mask = umask(Mode::from_bits_truncate(0o077));
        umask(mask);
        let names = uname().ok();
        let text = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            names.as_ref().map_or_else(String::new, |names| of(names).to_string_lossy().into())
        };
        let kernel = [
            text(|names| names.sysname()),
            text(|names| names.release()),
            text(|names| names.version()),
            text(|names| names.machine()),
        ];
        let (uids, gids) = (getresuid().ok(), getresgid().ok());
        let uids =
            uids.map_or([0; 3], |id| [id.real, id.effective, id.saved].map(|id| id.as_raw()));
        let gids =
            gids.map_or([0; 3], |id| [id.real, id.effective, id.saved].map(|id| id.as_raw()));
        let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
        Self {
            uids,
            gids,
            groups: groups(),
            account: account(Path::new("/etc/passwd"), uids[0]),
            streams: descriptors::standard().map(Stream::of),
            ignored_signals: Vec::new(),
            blocked_signals: Vec::new(),
            limits: LIMITS
                .iter()
                .filter_map(|(resource, name)| {
                    getrlimit(*resource).ok().map(|(soft, hard)| (*name, soft, hard))
                })
                .collect(),
            umask: mask.bits(),
            personality: nix::sys::personality::get().map_or(0, |flags| flags.bits() as u32),
            affinity: affinity(),
            cgroup: Limits::current(),
            memory_steps: memory / LEN_MEMORY_STEP,
            switches: SWITCHES
                .iter()
                .filter_map(|(path, name)| {
                    let text = read_small(Path::new(path), &mut buffer)?;
                    Some((*name, text.trim_end().to_owned()))
                })
                .collect(),
            kernel: kernel.join(" "),
            hostname: text(|names| names.nodename()),
            vdso: vdso_digest(),
            cpu: cpu::identify(),
            boot_id: boot_id(),
        }
    }
}

fn groups() -> Vec<u32> {
    let mut groups = process::groups();
    groups.sort_unstable();
    groups
}

fn affinity() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Returns the line of a user id in a file of `passwd(5)` format. Accounts
/// from elsewhere (LDAP) are not asked for: that may take seconds.
fn account(passwd: &Path, uid: u32) -> Option<String> {
    let text = fs::read(passwd).ok()?;
    let uid = uid.to_string();
    let line = text
        .split(|byte| *byte == b'\n')
        .find(|line| line.split(|byte| *byte == b':').nth(2) == Some(uid.as_bytes()))?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// Returns the random id of this boot (`random(4)`), empty if there is none.
pub fn boot_id() -> String {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let read = || {
        let mut buffer = [0; 64];
        let text = read_small(Path::new("/proc/sys/kernel/random/boot_id"), &mut buffer);
        text.unwrap_or_default().trim_end().to_owned()
    };
    BOOT_ID.get_or_init(read).clone()
}

/// Returns the digest of the vDSO: the fingerprint has it, and a plan too.
pub fn vdso_digest() -> Digest {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    *DIGEST.get_or_init(|| Digest::of(auxv::vdso().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_same_host_twice_is_equal() {
        let host = Host::current();
        assert_eq!(host, Host::current());
        assert!(!host.affinity.is_empty());
        assert!(host.kernel.starts_with("Linux "));
        assert_eq!(host.limits.len(), LIMITS.len());
        assert_eq!(host.boot_id.len(), 36);
        assert_ne!(host.vdso, Digest::of(b""));
    }

    #[test]
    fn streams_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("file")).unwrap();
        assert_eq!(Stream::of(file.as_fd()), Stream::File);
        let null = fs::File::open("/dev/null").unwrap();
        assert_eq!(Stream::of(null.as_fd()), Stream::Device);
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(Stream::of(reader.as_fd()), Stream::Pipe);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Stream::of(socket.as_fd()), Stream::Socket);
        let pty = nix::pty::openpty(None, None).unwrap();
        assert_eq!(Stream::of(pty.slave.as_fd()), Stream::Terminal);
    }

    #[test]
    fn accounts_are_found_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd");
        fs::write(&passwd, "root:x:0:0:r:/root:/bin/sh\nann:x:10:1:1000:/home/ann:\nodd\n")
            .unwrap();
        assert_eq!(account(&passwd, 10).as_deref(), Some("ann:x:10:1:1000:/home/ann:"));
        assert_eq!(account(&passwd, 1000), None);
        assert_eq!(account(Path::new("/nonexistent"), 0), None);
    }
}
