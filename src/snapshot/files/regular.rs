//! Files with a path: regular ones, directories, the memory devices.

use std::fs::{self, Metadata};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{self, FsType};

use super::{Descriptor, Reader, Refusal};
use crate::image::proto::{FdTypes, FileEntry, FileLockEntry, FownEntry, RegFileEntry};
use crate::restore::planner::{Policy, Written};
use crate::snapshot::process::Stat;

/// How much of a log that the program truncated when it opened it an image
/// carries along.
const MAX_STREAM: u64 = 16 << 20;

/// Encodes a file by its path.
pub fn entry(descriptor: &Descriptor, id: u32) -> FileEntry {
    let info = &descriptor.info;
    FileEntry {
        r#type: FdTypes::Reg as i32,
        id,
        reg: Some(RegFileEntry {
            id,
            flags: info.flags & !(libc::O_CLOEXEC as u32),
            pos: info.pos,
            fown: FownEntry::default(),
            name: descriptor.target.as_os_str().as_bytes().to_vec(),
            mnt_id: None,
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Reader<'_> {
    /// Encodes a file that the image opens again, and says what a restore does
    /// about one that the program writes.
    pub(super) fn by_path(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
    ) -> Result<FileEntry, Refusal> {
        let path = &descriptor.target;
        let shown = path.display();
        let open = fs::metadata(format!("/proc/{}/fd/{}", self.pid, descriptor.fd))
            .map_err(|error| self.refuse(descriptor, format!("{shown}: {error}")))?;
        if super::deleted::is_it(descriptor, &open) {
            return self.deleted(descriptor, id, &open);
        }
        if open.file_type().is_fifo() {
            return self.fifo(descriptor, &open);
        }
        let named = fs::symlink_metadata(path);
        if !named.is_ok_and(|named| named.dev() == open.dev() && named.ino() == open.ino()) {
            return Err(self.refuse(descriptor, format!("a deleted or replaced file ({shown})")));
        }
        if !(open.is_file() || open.is_dir() || super::is_memory_device(&open)) {
            return Err(self.refuse(descriptor, format!("{shown}, which an image cannot hold")));
        }
        let mut entry = entry(descriptor, id);
        if let Some(reg) = &mut entry.reg {
            reg.size = open.is_file().then_some(open.len());
            reg.mode = Some(open.mode());
        }
        self.locks(descriptor)?;
        if open.is_file() {
            self.content(descriptor, id, &open)?;
        }
        Ok(entry)
    }

    /// Returns whether a file was certainly created after the program's start.
    /// One that was there before may have been truncated, or opened to go on
    /// behind what others wrote; afterwards nothing tells a log from a journal.
    ///
    /// Files are dated by the coarse clock, which lags behind the fine one
    /// (`ktime_get_coarse_real_ts64`): what is dated after a reading of the
    /// fine one was made after it, whereas a file made in the program's first
    /// tick (1 to 10 ms) counts as older.
    pub(super) fn is_made_by_program(&self, open: &Metadata, fd: RawFd) -> Result<bool, Refusal> {
        let Ok(created) = open.created() else { return Ok(false) };
        let started = match self.capture.started {
            Some(started) => started,
            None => started_at_latest(self.pid)?,
        };
        let path = format!("/proc/{}/fd/{fd}", self.pid);
        Ok(created > started && is_dated_here(Path::new(&path)))
    }

    /// Decides where the content of a regular file comes from at a restore.
    fn content(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        open: &Metadata,
    ) -> Result<(), Refusal> {
        let path = &descriptor.target;
        let flags = descriptor.info.flags as i32;
        let mode = open.mode() & 0o7777;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        // What can be read back as well is data, however it is written.
        let only_writes = flags & libc::O_ACCMODE == libc::O_WRONLY;
        let is_locked = descriptor.info.values("lock").next().is_some();
        if is_perf_data(path, self.pid) {
            // The mapping brings the content; the descriptor follows it.
            let policy = recreated(path)?;
            self.files.written.push(Written { id, policy });
        } else if !writes {
            // The kernel's own files are made when they are read.
            if !path.starts_with("/proc") && !path.starts_with("/sys") {
                self.files.dependencies.push(path.clone());
            }
        } else if only_writes && flags & libc::O_APPEND != 0 {
            self.files.written.push(Written { id, policy: Policy::Append { mode } });
        } else if only_writes && is_locked && open.len() == 0 {
            // Made anew, it would be another file than the one that another
            // run holds locked.
            self.files.written.push(Written { id, policy: Policy::LockFile { mode } });
        } else if only_writes
            && !is_locked
            && descriptor.info.pos == open.len()
            && open.nlink() == 1
            && self.is_made_by_program(open, descriptor.fd)?
            && !self.is_open_elsewhere(descriptor)?
        {
            if open.len() > MAX_STREAM {
                let what = format!(
                    "open for writing and {} MiB long ({})",
                    open.len() >> 20,
                    path.display()
                );
                return Err(self.refuse(descriptor, what));
            }
            let content = fs::read(path)
                .map_err(|error| self.refuse(descriptor, format!("{}: {error}", path.display())))?;
            if content.len() as u64 != open.len() {
                let what = format!("{} is being written", path.display());
                return Err(Refusal::passing(what));
            }
            self.files.written.push(Written { id, policy: Policy::Stream { mode, content } });
        } else {
            self.files.dependencies.push(path.clone());
            self.files.written_in_place = true;
        }
        Ok(())
    }

    /// Returns whether the program has opened the same file a second time: a
    /// new file in its place would part the two.
    fn is_open_elsewhere(&self, descriptor: &Descriptor) -> Result<bool, Refusal> {
        for (pid, other) in self.family.everywhere() {
            if other.id == descriptor.id
                && (pid, other.fd) != (self.pid, descriptor.fd)
                && !super::same(pid, other.fd, self.pid, descriptor.fd)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the locks that this descriptor holds:
    /// `lock: 1: FLOCK  ADVISORY  WRITE 1234 fe:00:4711 0 EOF`.
    pub(super) fn locks(&mut self, descriptor: &Descriptor) -> Result<(), Refusal> {
        self.locks_but(descriptor, &[])
    }

    /// The same of a description that was read already, as another process's:
    /// what is locked through it is known, but not what this process has locked
    /// for itself.
    pub(super) fn own_locks(&mut self, descriptor: &Descriptor) -> Result<(), Refusal> {
        self.locks_but(descriptor, &["FLOCK", "OFDLCK"])
    }

    fn locks_but(&mut self, descriptor: &Descriptor, known: &[&str]) -> Result<(), Refusal> {
        const FLOCK: u32 = 2;
        const POSIX: u32 = 1;
        for line in descriptor.info.values("lock") {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if words.get(1).is_some_and(|kind| known.contains(kind)) {
                continue;
            }
            let [_, flag, _, kind, _, _, start, end] = words[..] else {
                return Err(self.refuse(descriptor, format!("locked ({line})")));
            };
            let flag = match flag {
                "FLOCK" => FLOCK,
                "POSIX" => POSIX,
                other => return Err(self.refuse(descriptor, format!("locked ({other})"))),
            };
            let r#type = match kind {
                "READ" => libc::F_RDLCK,
                "WRITE" => libc::F_WRLCK,
                other => return Err(self.refuse(descriptor, format!("locked ({other})"))),
            };
            let start: i64 = start.parse().unwrap_or(0);
            let end: i64 = if end == "EOF" { -1 } else { end.parse().unwrap_or(-1) };
            self.files.locks.push(FileLockEntry {
                flag,
                r#type: r#type as u32,
                // Whose descriptor that is: a lock of a description (flock) may
                // have been taken by a process that has ended.
                pid: self.pid,
                fd: descriptor.fd,
                start,
                len: if end < 0 { 0 } else { end - start + 1 },
            });
        }
        Ok(())
    }
}

/// File systems that date a new file by this machine's clock: not those that
/// are served by another machine or by another program (`statfs(2)`).
const DATED_HERE: [FsType; 6] = [
    statfs::EXT4_SUPER_MAGIC,
    statfs::XFS_SUPER_MAGIC,
    statfs::BTRFS_SUPER_MAGIC,
    statfs::TMPFS_MAGIC,
    statfs::F2FS_SUPER_MAGIC,
    statfs::OVERLAYFS_SUPER_MAGIC,
];

/// Returns whether a file's times are those of this machine.
pub(super) fn is_dated_here(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|found| DATED_HERE.contains(&found.filesystem_type()))
}

/// Returns when a process had been started at the latest: field 22 of `stat`
/// counts whole ticks since the boot (`proc(5)`).
fn started_at_latest(pid: i32) -> Result<SystemTime, Refusal> {
    use nix::time::{ClockId, clock_gettime};
    use nix::unistd::{SysconfVar, sysconf};
    let ticks = Stat::read(&format!("/proc/{pid}/stat"))?.field(22).saturating_add(1);
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    let now = SystemTime::now();
    let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_err(|error| Refusal::lasting(format!("reading the clock: {error}")))?;
    let age = Duration::from(boottime).saturating_sub(since_boot);
    // The two clocks were read one after the other.
    Ok(now - age + Duration::from_millis(1))
}

/// Returns whether a path is HotSpot's shared performance data of this
/// process: `/tmp/hsperfdata_USER/PID`.
pub fn is_perf_data(path: &Path, pid: i32) -> bool {
    let dir = path.parent().and_then(Path::file_name).map_or(&b""[..], OsStrExt::as_bytes);
    dir.starts_with(b"hsperfdata_")
        && path.file_name().is_some_and(|name| name.as_bytes() == pid.to_string().as_bytes())
}

/// Reads a file that a restore makes anew under its old name.
pub fn recreated(path: &Path) -> Result<Policy, Refusal> {
    let fail = |error| Refusal::lasting(format!("{}: {error}", path.display()));
    let mode = fs::metadata(path).map_err(fail)?.mode() & 0o7777;
    Ok(Policy::Recreate { mode, content: fs::read(path).map_err(fail)? })
}
