//! The descriptors of a stopped process, and the files it has mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::shared::MemoryFile;
use super::{Capture, FileId, Refusal, StdinAtStart, StdioOrigin};
use crate::image::proto::{
    EventfdFileEntry, ExtFileEntry, FdTypes, FdinfoEntry, FileEntry, FileLockEntry, FownEntry,
    PipeDataEntry, RegFileEntry, RemapFilePathEntry, SignalfdEntry, SkPacketEntry, TimerfdEntry,
    TtyInfoEntry,
};
use crate::image::{GhostFile, Queued, Set};
use crate::restore::planner::{Given, SocketOption, Source, Written};
use crate::sys::{kcmp, pidfd};

mod deleted;
mod epoll;
mod fdinfo;
mod fifo;
mod inotify;
mod mapped;
mod memory;
mod owner;
mod pipe;
mod regular;
mod socket;
mod strangers;
mod tty;
mod unseen;

use fdinfo::Info;

pub use regular::{is_perf_data, recreated};
pub use unseen::check_unseen;

/// What the descriptors and mappings of a process come to.
#[derive(Debug, Default)]
pub struct Files {
    /// All descriptors of all processes.
    family: Family,
    /// Every open file description and every mapped file.
    pub entries: Vec<FileEntry>,
    /// The descriptors, ascending.
    pub fdinfo: Vec<FdinfoEntry>,
    /// The terminals among them.
    pub tty_info: Vec<TtyInfoEntry>,
    /// The pipes, with what waits in them.
    pub pipe_data: Vec<Queued<PipeDataEntry>>,
    /// The named pipes, with what waits in them.
    pub fifo_data: Vec<Queued<PipeDataEntry>>,
    /// File locks held through the descriptors.
    pub locks: Vec<FileLockEntry>,
    /// Descriptors that a restore gets from its caller.
    pub given: Vec<Given>,
    /// Those of them whose O_NONBLOCK the program has changed, and what it is.
    pub nonblocking: Vec<(RawFd, bool)>,
    /// Which of 0, 1 and 2 the program has closed.
    pub closed: Vec<RawFd>,
    /// Files that the program writes, and what a restore does about them.
    pub written: Vec<Written>,
    /// Files whose content the image depends on.
    pub dependencies: Vec<PathBuf>,
    /// Whether the program may change one of them as soon as it runs on.
    pub written_in_place: bool,
    /// Files that are deleted, and which descriptions are theirs.
    pub ghosts: Vec<GhostFile>,
    /// See `ghosts`.
    pub remaps: Vec<RemapFilePathEntry>,
    /// Those of them that were read through mappings, as far as these go.
    shown_ghosts: Vec<u32>,
    /// What waits in sockets.
    pub sk_queues: Vec<Queued<SkPacketEntry>>,
    /// Options of sockets that the set has no place for, by the file's id.
    pub socket_options: BTreeMap<u32, Vec<SocketOption>>,
    /// TCP connections that come back as closed by their peers, by the file's
    /// id.
    pub closed_tcp: BTreeSet<u32>,
    /// The names that Unix sockets of datagrams are connected to.
    pub unix_peers: BTreeMap<u32, Vec<u8>>,
    /// Memfds and shared anonymous memory, open or mapped, of all processes
    /// that were read.
    pub memory: Vec<MemoryFile>,
    /// How many of these are of processes whose memory was read already.
    pub memory_read: usize,
    /// What others can have open only if they have it from the program.
    nameless: strangers::Nameless,
    /// Descriptions already seen, by what they point to: the descriptor that
    /// stands for each, and its file id.
    seen: BTreeMap<PathBuf, Vec<Seen>>,
}

/// An open file description that has been read.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    fd: RawFd,
    id: u32,
    kind: FdTypes,
}

/// The descriptors of all processes that are captured together, the root's
/// first; shared, since it is read while other parts are filled.
#[derive(Debug, Default, Clone)]
struct Family(Rc<Vec<(i32, Vec<Descriptor>)>>);

/// What processes share of their files.
#[derive(Debug)]
pub struct SharedFiles {
    /// Files that are written, and what a restore does about them.
    pub written: Vec<Written>,
    /// Files whose content the image depends on, sorted.
    pub dependencies: Vec<PathBuf>,
    /// Options of sockets that the set has no place for, by the file's id.
    pub socket_options: BTreeMap<u32, Vec<SocketOption>>,
    /// The names that Unix sockets of datagrams are connected to.
    pub unix_peers: BTreeMap<u32, Vec<u8>>,
    /// TCP connections that come back as closed, by the file's id.
    pub closed_tcp: BTreeSet<u32>,
}

impl Family {
    /// Returns the descriptors of one process.
    fn of(&self, pid: i32) -> &[Descriptor] {
        let found = self.0.iter().find(|(other, _)| *other == pid);
        found.map_or(&[], |(_, descriptors)| descriptors)
    }

    /// Returns every process that lives.
    fn pids(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|(pid, _)| *pid)
    }

    fn root(&self) -> i32 {
        self.0.first().map_or(0, |(pid, _)| *pid)
    }

    /// Returns every descriptor of every process.
    fn everywhere(&self) -> impl Iterator<Item = (i32, &Descriptor)> {
        self.0.iter().flat_map(|(pid, all)| all.iter().map(move |open| (*pid, open)))
    }
}

/// One descriptor as the kernel shows it.
#[derive(Debug)]
struct Descriptor {
    fd: RawFd,
    /// What `/proc/PID/fd/N` points to.
    target: PathBuf,
    id: Option<FileId>,
    info: Info,
}

struct Reader<'a> {
    pid: i32,
    pidfd: OwnedFd,
    capture: &'a Capture<'a>,
    family: Family,
    files: &'a mut Files,
}

/// Reads every descriptor of one of the processes; adds to what was read of
/// others.
pub fn read(capture: &Capture<'_>, files: &mut Files) -> Result<(), Refusal> {
    let pid = capture.pid;
    let pidfd = pidfd::open(pid)
        .map_err(|error| Refusal::lasting(format!("pid descriptor of process {pid}: {error}")))?;
    let family = files.family.clone();
    let descriptors = family.of(pid);
    files.closed = (0..3).filter(|fd| descriptors.iter().all(|open| open.fd != *fd)).collect();
    let mut reader = Reader { pid, pidfd, capture, family: family.clone(), files };
    for descriptor in descriptors {
        let fd = descriptor.fd;
        let source = reader.source(descriptor, descriptors)?;
        if source.is_none() && reader.is_inherited(descriptor, descriptors)? {
            continue;
        }
        let mut known = None;
        for other in reader.files.seen.get(&descriptor.target).into_iter().flatten() {
            if same(pid, fd, other.pid, other.fd)? {
                known = Some(*other);
            }
        }
        if known.is_some_and(|known| known.pid != pid && source.is_none()) {
            reader.own_locks(descriptor)?;
        }
        let (id, kind) = match known {
            Some(known) => (known.id, known.kind),
            None => {
                let id = reader.files.next_id();
                let entry = match source {
                    Some(_) => reader.outside(descriptor, id)?,
                    None => {
                        reader.files.note_nameless(descriptor);
                        reader.inside(descriptor, id, descriptors)?
                    }
                };
                let kind = FdTypes::try_from(entry.r#type).unwrap_or(FdTypes::Und);
                // A terminal takes another number for the path it is opened by.
                let id = entry.id;
                reader.files.entries.push(entry);
                let seen = reader.files.seen.entry(descriptor.target.clone()).or_default();
                seen.push(Seen { pid, fd, id, kind });
                (id, kind)
            }
        };
        let cloexec = descriptor.info.flags & libc::O_CLOEXEC as u32 != 0;
        if source == Some(Source::Stdio(0)) {
            reader.check_stdin(descriptor)?;
        }
        if let Some(source) = source {
            reader.files.nonblocking.extend(reader.changed_blocking(descriptor, source));
            reader.files.given.push(Given { fd, source, cloexec });
        }
        let flags = if cloexec { libc::FD_CLOEXEC as u32 } else { 0 };
        reader.files.fdinfo.push(FdinfoEntry {
            id,
            flags,
            r#type: kind as i32,
            fd: fd as u32,
            xattr_security_selinux: None,
        });
    }
    Ok(())
}

impl Files {
    /// Lists the descriptors of all stopped processes, the root's first; once
    /// is enough.
    pub fn survey(&mut self, pids: impl Iterator<Item = i32>) -> Result<(), Refusal> {
        if self.family.0.is_empty() {
            let lists = pids.map(|pid| Ok((pid, list(pid)?)));
            self.family = Family(Rc::new(lists.collect::<Result<_, Refusal>>()?));
        }
        Ok(())
    }

    /// Puts what all processes share into the image.
    pub fn finish(self, set: &mut Set) -> SharedFiles {
        set.files = self.entries;
        set.tty_info = self.tty_info;
        set.pipe_data = self.pipe_data;
        set.fifo_data = self.fifo_data;
        set.inventory.tcp_close = Some(!self.closed_tcp.is_empty());
        set.sk_queues = self.sk_queues;
        set.ghosts = self.ghosts;
        set.remaps = self.remaps;
        set.file_locks = self.locks;
        set.memfds = self.memory.into_iter().map(|memory| memory.entry).collect();
        let mut dependencies = self.dependencies;
        dependencies.sort();
        dependencies.dedup();
        SharedFiles {
            written: self.written,
            dependencies,
            socket_options: self.socket_options,
            unix_peers: self.unix_peers,
            closed_tcp: self.closed_tcp,
        }
    }

    /// Leaves a file that is mapped where it is: a new one in its place would
    /// part descriptor and mapping. It must be unchanged then.
    pub fn keep_in_place(&mut self, path: &Path) {
        let name = path.as_os_str().as_bytes();
        let entries = &self.entries;
        let is_it = |id: u32| {
            let entry = entries.iter().find(|entry| entry.id == id);
            entry.and_then(|entry| entry.reg.as_ref()).is_some_and(|reg| reg.name == name)
        };
        let before = self.written.len();
        self.written.retain(|written| !is_it(written.id));
        self.written_in_place |= self.written.len() < before;
    }

    fn next_id(&self) -> u32 {
        self.entries.len() as u32 + 1
    }

    /// Adds a file that is known by path only (a mapping, the program itself,
    /// a directory) and returns its id; the same path and flags give the same.
    pub fn add_path(&mut self, path: &Path, flags: u32) -> Result<u32, Refusal> {
        let name = path.as_os_str().as_bytes();
        let same = |entry: &&FileEntry| {
            entry.reg.as_ref().is_some_and(|reg| {
                reg.name == name && reg.flags == flags && reg.pos == 0 && reg.ext != Some(true)
            })
        };
        if let Some(entry) = self.entries.iter().find(same) {
            return Ok(entry.id);
        }
        let meta = fs::metadata(path)
            .map_err(|error| Refusal::lasting(format!("{}: {error}", path.display())))?;
        let id = self.next_id();
        self.entries.push(FileEntry {
            r#type: FdTypes::Reg as i32,
            id,
            reg: Some(RegFileEntry {
                id,
                flags,
                pos: 0,
                fown: FownEntry::default(),
                name: name.to_vec(),
                mnt_id: None,
                size: meta.is_file().then_some(meta.len()),
                mode: Some(meta.mode()),
                ..Default::default()
            }),
            ..Default::default()
        });
        Ok(id)
    }
}

/// Lists the descriptors of a process, ascending.
fn list(pid: i32) -> Result<Vec<Descriptor>, Refusal> {
    let dir = format!("/proc/{pid}/fd");
    let fail = |error: io::Error| Refusal::lasting(format!("{dir}: {error}"));
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(&dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let target = fs::read_link(entry.path()).map_err(fail)?;
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).map_err(fail)?;
        let id = fs::metadata(entry.path()).ok();
        let id = id.map(|meta| FileId { dev: meta.dev(), ino: meta.ino() });
        descriptors.push(Descriptor { fd, target, id, info: Info::parse(&text) });
    }
    descriptors.sort_by_key(|descriptor| descriptor.fd);
    Ok(descriptors)
}

fn same(pid_a: i32, fd_a: RawFd, pid_b: i32, fd_b: RawFd) -> Result<bool, Refusal> {
    match kcmp::same_file(pid_a, fd_a, pid_b, fd_b) {
        Ok(same) => Ok(same),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(false),
        Err(error) => Err(Refusal::lasting(format!("comparing descriptors (kcmp): {error}"))),
    }
}

impl Reader<'_> {
    fn refuse(&self, descriptor: &Descriptor, what: impl std::fmt::Display) -> Refusal {
        Refusal::lasting(format!("fd {} is {what}", descriptor.fd))
    }

    /// Says which of the caller's descriptors this one is a duplicate of.
    fn source(
        &self,
        descriptor: &Descriptor,
        all: &[Descriptor],
    ) -> Result<Option<Source>, Refusal> {
        for (kept, id) in self.capture.inherited {
            let is_kept = self.capture.keep.contains(kept);
            if is_kept && self.comes_from(descriptor, *kept, *id, all)? {
                return Ok(Some(Source::Kept(*kept)));
            }
        }
        let mut matches = [false; 3];
        for (index, origin) in self.capture.stdio.iter().enumerate() {
            let number = index as RawFd;
            matches[index] = match origin {
                StdioOrigin::Closed => false,
                StdioOrigin::Given { id, .. } => self.comes_from(descriptor, number, *id, all)?,
                StdioOrigin::Programs => self.shares(descriptor, number, all)?,
            };
        }
        // One description can stand behind all three: the number decides, then
        // whether it is for writing.
        let fd = descriptor.fd;
        let number = usize::try_from(fd).ok().filter(|fd| *fd < 3 && matches[*fd]);
        let writes = descriptor.info.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        let order = if writes { [1, 2, 0] } else { [0, 1, 2] };
        let chosen = number.or_else(|| order.into_iter().find(|index| matches[*index]));
        Ok(chosen.map(|index| Source::Stdio(index as u8)))
    }

    /// Returns a given descriptor with its O_NONBLOCK if the program has changed
    /// that. A terminal is left as the caller has it: programs open it anew to
    /// have a flag of their own (libuv), which shows no difference here.
    fn changed_blocking(&self, descriptor: &Descriptor, source: Source) -> Option<(RawFd, bool)> {
        let Source::Stdio(number) = source else { return None };
        let now = descriptor.info.flags & libc::O_NONBLOCK as u32 != 0;
        match self.capture.stdio.get(usize::from(number))? {
            StdioOrigin::Given { nonblocking, .. }
                if *nonblocking != now && !tty::is_terminal(&descriptor.target) =>
            {
                Some((descriptor.fd, now))
            }
            _ => None,
        }
    }

    /// Returns whether a descriptor is what the program was given as `number`:
    /// that very one, or a duplicate. Once the program has put something else
    /// there, a duplicate is known only by its inode, which says enough for
    /// pipes, sockets and terminals. Another file the program may have opened
    /// itself, or have kept of its caller's (`exec 3<&0 </dev/null`), and a
    /// restore would go on with the file of the capture: where we do not have it
    /// ourselves to compare, it is refused.
    fn comes_from(
        &self,
        descriptor: &Descriptor,
        number: RawFd,
        given: FileId,
        all: &[Descriptor],
    ) -> Result<bool, Refusal> {
        if descriptor.fd == number {
            return Ok(descriptor.id == Some(given));
        }
        // A child has it from the root, which may have it yet.
        let root = self.family.root();
        let with_root = self.pid != root
            && self.family.of(root).iter().any(|it| it.fd == number && it.id == Some(given));
        if with_root && same(root, number, self.pid, descriptor.fd)? {
            return Ok(true);
        }
        let there = all.iter().find(|open| open.fd == number);
        if there.is_some_and(|there| there.id == Some(given)) {
            return same(self.pid, number, self.pid, descriptor.fd);
        }
        if descriptor.id == Some(given) && !with_root && self.is_regular(descriptor) {
            if FileId::numbered(number).ok() == Some(given) {
                // We have it, too: the launcher keeps what is a file.
                let own = std::process::id() as i32;
                return same(own, number, self.pid, descriptor.fd);
            }
            let what = format!("a file that was its caller's {number}, which it has replaced");
            return Err(self.refuse(descriptor, what));
        }
        let target = descriptor.target.as_os_str().as_bytes();
        let telling = target.starts_with(b"pipe:[")
            || target.starts_with(b"socket:[")
            || tty::is_terminal(&descriptor.target);
        Ok(telling && descriptor.id == Some(given))
    }

    fn is_regular(&self, descriptor: &Descriptor) -> bool {
        let path = format!("/proc/{}/fd/{}", self.pid, descriptor.fd);
        fs::metadata(path).is_ok_and(|meta| meta.is_file())
    }

    /// Returns whether a descriptor is the root's `number` or a duplicate.
    fn shares(
        &self,
        descriptor: &Descriptor,
        number: RawFd,
        all: &[Descriptor],
    ) -> Result<bool, Refusal> {
        let root = self.family.root();
        if self.pid != root {
            return same(root, number, self.pid, descriptor.fd);
        }
        if descriptor.fd == number {
            return Ok(true);
        }
        let open = all.iter().any(|open| open.fd == number);
        Ok(open && same(self.pid, number, self.pid, descriptor.fd)?)
    }

    /// Returns whether the program inherited the descriptor from the caller.
    fn is_inherited(&self, descriptor: &Descriptor, all: &[Descriptor]) -> Result<bool, Refusal> {
        for (number, id) in self.capture.inherited {
            if self.comes_from(descriptor, *number, *id, all)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a program that has read some of its standard input: a restored
    /// one would answer for that, whatever its own input is.
    fn check_stdin(&self, descriptor: &Descriptor) -> Result<(), Refusal> {
        let read = match self.capture.stdin {
            StdinAtStart::Offset(offset) => descriptor.info.pos != offset,
            StdinAtStart::Unread(before) => {
                let duplicate = self.duplicate(descriptor)?;
                let now = crate::sys::socket::readable(duplicate.as_fd()).unwrap_or(0);
                (now as u64) < before
            }
            StdinAtStart::Other => false,
        };
        if read {
            return Err(Refusal::lasting("it has read some of its standard input"));
        }
        Ok(())
    }

    /// Duplicates the descriptor into this process, to ask it things.
    fn duplicate(&self, descriptor: &Descriptor) -> Result<OwnedFd, Refusal> {
        pidfd::get_fd(self.pidfd.as_fd(), descriptor.fd)
            .map_err(|error| self.refuse(descriptor, format!("out of reach: {error}")))
    }

    /// Encodes a description that a restore gets from its caller: only CRIU
    /// ever looks at it.
    fn outside(&mut self, descriptor: &Descriptor, id: u32) -> Result<FileEntry, Refusal> {
        let target = descriptor.target.as_os_str().as_bytes();
        let meta = fs::metadata(format!("/proc/{}/fd/{}", self.pid, descriptor.fd));
        let file_like = meta.is_ok_and(|meta| meta.is_file() || is_memory_device(&meta));
        if tty::is_terminal(&descriptor.target) {
            return self.terminal(descriptor, id);
        }
        if let Some(inode) = bracketed(target, b"pipe:[") {
            return Ok(pipe::entry(descriptor, id, inode));
        }
        if file_like {
            return Ok(regular::entry(descriptor, id));
        }
        Ok(FileEntry {
            r#type: FdTypes::Ext as i32,
            id,
            ext: Some(ExtFileEntry { id, fown: FownEntry::default() }),
            ..Default::default()
        })
    }

    /// Encodes a description that the image brings back, or refuses it.
    fn inside(
        &mut self,
        descriptor: &Descriptor,
        id: u32,
        all: &[Descriptor],
    ) -> Result<FileEntry, Refusal> {
        let owner = self.owner(descriptor)?;
        let info = &descriptor.info;
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let target = descriptor.target.as_os_str().as_bytes();
        let base = FileEntry { id, ..Default::default() };
        match target {
            b"anon_inode:[eventfd]" => Ok(FileEntry {
                r#type: FdTypes::Eventfd as i32,
                efd: Some(EventfdFileEntry {
                    id,
                    flags: flags | if info.number("eventfd-semaphore") == 1 { 1 } else { 0 },
                    fown: FownEntry::default(),
                    counter: info.hex("eventfd-count"),
                }),
                ..base
            }),
            b"anon_inode:[eventpoll]" => epoll::entry(self.pid, descriptor, id, all),
            b"anon_inode:inotify" => self.inotify(descriptor, id),
            b"anon_inode:[signalfd]" => Ok(FileEntry {
                r#type: FdTypes::Signalfd as i32,
                sgfd: Some(SignalfdEntry {
                    id,
                    flags,
                    fown: FownEntry::default(),
                    sigmask: info.hex("sigmask"),
                }),
                ..base
            }),
            b"anon_inode:[timerfd]" => {
                if is_time_of_day(info) {
                    return Err(self.refuse(descriptor, "a timerfd set to a time of day"));
                }
                let (vsec, vnsec) = info.time("it_value");
                let (isec, insec) = info.time("it_interval");
                Ok(FileEntry {
                    r#type: FdTypes::Timerfd as i32,
                    tfd: Some(TimerfdEntry {
                        id,
                        flags,
                        fown: FownEntry::default(),
                        clockid: info.number("clockid") as u32,
                        ticks: info.number("ticks"),
                        settime_flags: info.octal("settime flags") as u32,
                        vsec,
                        vnsec,
                        isec,
                        insec,
                    }),
                    ..base
                })
            }
            _ if target.starts_with(b"anon_inode:") => {
                let shown = descriptor.target.display();
                Err(self.refuse(descriptor, format!("{shown}, which an image cannot hold")))
            }
            _ if target.starts_with(b"socket:[") => {
                let mut entry = self.socket(descriptor, id)?;
                match (&mut entry.usk, owner) {
                    (Some(socket), Some(owner)) => socket.fown = owner,
                    (None, Some(_)) => return Err(self.refuse(descriptor, owner::REFUSED)),
                    _ => {}
                }
                Ok(entry)
            }
            _ if target.starts_with(b"pipe:[") => self.pipe(descriptor, id),
            _ if memory::is_it(descriptor) => self.memory(descriptor, id),
            _ => self.by_path(descriptor, id),
        }
    }
}

/// Returns whether a timerfd that has been set expires at a time of day, or is
/// cancelled when that is set: the time that is left does not say so
/// (`timerfd_create(2)`).
pub fn expires_at_time_of_day(clockid: u32, settime_flags: u32) -> bool {
    const CLOCK_REALTIME_ALARM: u32 = 8;
    const ABSOLUTE: u32 = 1;
    settime_flags & ABSOLUTE != 0
        && [libc::CLOCK_REALTIME as u32, CLOCK_REALTIME_ALARM].contains(&clockid)
}

fn is_time_of_day(info: &Info) -> bool {
    let (clockid, flags) = (info.number("clockid") as u32, info.octal("settime flags") as u32);
    expires_at_time_of_day(clockid, flags) && info.time("it_value") != (0, 0)
}

/// Returns the number in a target such as `pipe:[1234]`.
fn bracketed(target: &[u8], prefix: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(prefix)?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns whether this is `/dev/null` or one of its kin: character devices
/// of major 1, and `/dev/tty`.
fn is_memory_device(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let device = meta.rdev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    // null, zero, full, random, urandom (Documentation/admin-guide/devices.txt).
    meta.file_type().is_char_device()
        && (major == 1 && [3, 5, 7, 8, 9].contains(&minor) || major == 5 && minor == 0)
}
