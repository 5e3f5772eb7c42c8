//! Descriptors: in ascending order, with numbers that are known beforehand.
//!
//! A restore starts with nothing but 0, 1 and 2 open (and its own, far above
//! the program's), so the number of every descriptor that a call makes is the
//! lowest free one: the plan moves it to where it belongs and checks it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Planner, PlannerError, Policy, value};
use crate::image::Task;
use crate::image::proto::{
    EventpollFileEntry, FdTypes, FdinfoEntry, FileEntry, FileLockEntry, RegFileEntry,
};
use crate::restore::plan::{AT_FDCWD, Arg, Operation, Shared};

mod fifos;
mod ghosts;
mod inotify;
mod owners;
mod sockets;
mod unix;

const CLOEXEC: i32 = libc::O_CLOEXEC;
/// `EFD_SEMAPHORE`.
const SEMAPHORE: u32 = 1;
/// The capacity of a new pipe (`pipe(7)`).
const LEN_PIPE: u32 = 65536;
/// Kinds of `FileLockEntry`.
const POSIX_LOCK: u32 = 1;
const FLOCK: u32 = 2;

/// Which descriptor numbers are in use.
pub(super) struct Numbers(BTreeSet<i32>);

impl Numbers {
    /// Only the caller's 0, 1 and 2 are.
    pub(super) fn new() -> Self {
        Self((0..3).collect())
    }

    pub(super) fn take(&mut self, number: i32) {
        self.0.insert(number);
    }

    pub(super) fn give_back(&mut self, number: i32) {
        self.0.remove(&number);
    }

    fn lowest_free_but(&self, taken: i32) -> i32 {
        let free = |number: &i32| *number != taken && !self.0.contains(number);
        (0..).find(free).unwrap_or(i32::MAX)
    }

    pub(super) fn lowest_free(&self) -> i32 {
        (0..).find(|number| !self.0.contains(number)).unwrap_or(i32::MAX)
    }
}

/// A descriptor of the image on its way to its number.
pub(super) struct Target {
    pub(super) fd: i32,
    pub(super) cloexec: bool,
}

impl Target {
    pub(super) fn of(entry: &FdinfoEntry) -> Self {
        Self { fd: entry.fd as i32, cloexec: entry.flags & libc::FD_CLOEXEC as u32 != 0 }
    }

    fn flag(&self) -> i32 {
        if self.cloexec { CLOEXEC } else { 0 }
    }
}

impl Planner<'_> {
    /// Plans all descriptors; returns one more than the highest. Some of them
    /// are there already: `made` says where each open file description has its
    /// first one.
    pub(super) fn descriptors(
        &mut self,
        task: &Task,
        mut numbers: Numbers,
        mut made: BTreeMap<u32, i32>,
    ) -> Result<u32, PlannerError> {
        self.given(&mut numbers);
        let mut entries: Vec<&FdinfoEntry> = task.fdinfo.iter().collect();
        entries.sort_by_key(|entry| entry.fd);
        let given = |fd: u32| self.facts.given.iter().any(|given| given.fd == fd as i32);
        let own: Vec<&FdinfoEntry> = entries.iter().copied().filter(|e| !given(e.fd)).collect();
        let highest = entries.last().map_or(3, |entry| entry.fd as i32);
        self.ghosts(&own, highest, &mut made, &mut numbers)?;
        for entry in &own {
            let target = Target::of(entry);
            if target.fd < 0 {
                return Err(PlannerError::Inconsistent(format!("descriptor {}", entry.fd)));
            }
            match made.get(&entry.id) {
                // The second end of a pipe came with the first.
                Some(first) if *first == target.fd => {}
                Some(first) => self.duplicate(*first, &target, &mut numbers),
                None => self.make(entry.id, &target, &own, &mut made, &mut numbers)?,
            }
            made.entry(entry.id).or_insert(target.fd);
        }
        self.unix_peers(&made);
        let handed_over = |id: &u32| self.family.is_some_and(|it| it.slots().contains_key(id));
        let own_made = made.iter().filter(|(id, _)| !handed_over(id)).map(|(id, fd)| (*id, *fd));
        let own_made: BTreeMap<u32, i32> = own_made.collect();
        self.owners(task, &own_made)?;
        let mut watched = BTreeSet::new();
        for entry in &own {
            let elsewhere =
                self.family.is_some_and(|family| family.watches_elsewhere(entry.id, task));
            if elsewhere || !watched.insert(entry.id) {
                continue;
            }
            let file = self.file(entry.id)?;
            if let Some(epoll) = file.epfd.clone() {
                self.watches(entry.fd as i32, &epoll);
            } else if let Some(inotify) = file.ify.clone() {
                self.inotify(entry.fd as i32, &inotify)?;
            }
        }
        self.locks(task)?;
        self.blocking();
        let passing = self.own_files(&numbers);
        for fd in self.facts.closed.clone() {
            self.must(libc::SYS_close, &[value(fd)]);
        }
        let highest = entries
            .iter()
            .map(|entry| entry.fd)
            .chain(passing)
            .max()
            .map_or(0, |highest| highest + 1);
        Ok(highest.max(3))
    }

    /// Plans the making of what other processes share, at its place for them;
    /// says where that is. Only the root makes it.
    pub(super) fn shared_descriptions(
        &mut self,
        task: &Task,
    ) -> Result<Option<Shared>, PlannerError> {
        let Some(family) = self.family else { return Ok(None) };
        let Some(mut shared) = family.shared() else { return Ok(None) };
        if !family.is_root(task) {
            return Ok(Some(shared));
        }
        let entry = |(id, fd): (&u32, &i32)| FdinfoEntry {
            id: *id,
            fd: *fd as u32,
            flags: libc::FD_CLOEXEC as u32,
            ..FdinfoEntry::default()
        };
        let entries: Vec<FdinfoEntry> = family.slots().iter().map(entry).collect();
        let all: Vec<&FdinfoEntry> = entries.iter().collect();
        let mut numbers = Numbers((0..3).collect());
        let mut made = BTreeMap::new();
        let highest = entries.iter().map(|entry| entry.fd as i32).max().unwrap_or(3);
        self.ghosts(&all, highest, &mut made, &mut numbers)?;
        self.common_memory(&all, &mut numbers, &mut made)?;
        for entry in &all {
            if !made.contains_key(&entry.id) {
                self.make(entry.id, &Target::of(entry), &all, &mut made, &mut numbers)?;
                made.entry(entry.id).or_insert(entry.fd as i32);
            }
        }
        self.owners(task, &made)?;
        shared.operations = self.operations.len() as u64;
        Ok(Some(shared))
    }

    /// Puts the caller's descriptors where the program has them.
    fn given(&mut self, numbers: &mut Numbers) {
        for given in &self.facts.given.clone() {
            let source = given.source.number();
            let flag = if given.cloexec { CLOEXEC } else { 0 };
            if given.fd != source || source > 2 {
                let args = [Arg::Caller(source as u64), value(given.fd), value(flag)];
                self.must(libc::SYS_dup3, &args);
            } else if given.cloexec {
                let set = [value(given.fd), value(libc::F_SETFD), value(libc::FD_CLOEXEC)];
                self.may(libc::SYS_fcntl, &set);
            }
            numbers.0.insert(given.fd);
        }
    }

    fn duplicate(&mut self, from: i32, target: &Target, numbers: &mut Numbers) {
        self.must(libc::SYS_dup3, &[value(from), value(target.fd), value(target.flag())]);
        numbers.0.insert(target.fd);
    }

    /// Moves a descriptor that was just made as `from` to its number.
    pub(super) fn settle(&mut self, from: i32, target: &Target, numbers: &mut Numbers) {
        if from != target.fd {
            self.duplicate(from, target, numbers);
            self.must(libc::SYS_close, &[value(from)]);
        }
        numbers.0.insert(target.fd);
    }

    /// Adds a call that returns a descriptor, and moves that to its number.
    fn create(&mut self, number: i64, args: &[Arg], target: &Target, numbers: &mut Numbers) {
        let made = numbers.lowest_free();
        self.push(number, args, Check::Equals(i64::from(made)));
        self.settle(made, target, numbers);
    }

    fn make(
        &mut self,
        id: u32,
        target: &Target,
        all: &[&FdinfoEntry],
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let file = self.file(id)?.clone();
        let fd = target.fd;
        let unsupported = |what: &str| PlannerError::Unsupported(format!("fd {fd} is {what}"));
        let kind = FdTypes::try_from(file.r#type).unwrap_or(FdTypes::Und);
        match kind {
            FdTypes::Reg => {
                let reg = file.reg.as_ref().ok_or_else(|| unsupported("a file without a path"))?;
                self.regular(id, reg, target, numbers)
            }
            FdTypes::Eventfd => {
                let event = file.efd.as_ref().ok_or_else(|| unsupported("an empty eventfd"))?;
                // What one call cannot make is added by a second one.
                let fits = event.counter < 1 << 31;
                let counter = if fits { event.counter } else { 0 };
                let semaphore = event.flags & libc::O_ACCMODE as u32 == 3;
                let flags = nonblock(event.flags)
                    | target.flag() as u32
                    | if semaphore { SEMAPHORE } else { 0 };
                self.create(libc::SYS_eventfd2, &[value(counter), value(flags)], target, numbers);
                if !fits {
                    let count = self.data.words(&[event.counter]);
                    self.push(libc::SYS_write, &[value(fd), count, value(8)], Check::Equals(8));
                }
                Ok(())
            }
            FdTypes::Eventpoll => {
                self.create(libc::SYS_epoll_create1, &[value(target.flag())], target, numbers);
                Ok(())
            }
            FdTypes::Signalfd => {
                let signal = file.sgfd.as_ref().ok_or_else(|| unsupported("an empty signalfd"))?;
                let mask = self.data.words(&[signal.sigmask]);
                let flags = value(nonblock(signal.flags) | target.flag() as u32);
                let args = [Arg::Value(u64::MAX), mask, value(8), flags];
                self.create(libc::SYS_signalfd4, &args, target, numbers);
                Ok(())
            }
            FdTypes::Timerfd => {
                let timer = file.tfd.ok_or_else(|| unsupported("an empty timerfd"))?;
                let flags = value(nonblock(timer.flags) | target.flag() as u32);
                self.create(
                    libc::SYS_timerfd_create,
                    &[value(timer.clockid), flags],
                    target,
                    numbers,
                );
                // An expiration that was not read yet comes at once.
                let pending = timer.ticks > 0 && timer.vsec == 0 && timer.vnsec == 0;
                let nsec = if pending { 1 } else { timer.vnsec };
                let words = [timer.isec, timer.insec, timer.vsec, nsec];
                if timer.vsec != 0 || nsec != 0 {
                    let spec = self.data.words(&words);
                    let args = [value(fd), value(0), spec, value(0)];
                    self.must(libc::SYS_timerfd_settime, &args);
                }
                Ok(())
            }
            FdTypes::Pipe => self.pipe(&file, target, all, made, numbers),
            FdTypes::Inotify => {
                let inotify = file.ify.as_ref().ok_or_else(|| unsupported("an empty inotify"))?;
                let flags = value(nonblock(inotify.flags) | target.flag() as u32);
                self.create(libc::SYS_inotify_init1, &[flags], target, numbers);
                Ok(())
            }
            FdTypes::Fifo => self.fifo(&file, target, numbers),
            FdTypes::Inetsk => self.inet_socket(&file, target, numbers),
            FdTypes::Unixsk => self.unix_socket(&file, target, all, made, numbers),
            other => Err(unsupported(&format!("of kind {}", other.as_str_name()))),
        }
    }

    fn regular(
        &mut self,
        id: u32,
        reg: &RegFileEntry,
        target: &Target,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let lowest = numbers.lowest_free();
        let once = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) as u32;
        let flags = reg.flags & !once | target.flag() as u32 | libc::O_NOCTTY as u32;
        let path = self.path_of(id)?.to_vec();
        let name = self.data.path(&path);
        let at = Arg::Value(AT_FDCWD);
        let expect = Check::Equals(i64::from(lowest));
        match self.written.get(&id).copied() {
            Some(Policy::Append { mode }) => {
                self.directories(&path);
                let flags = value(flags | libc::O_CREAT as u32);
                self.push(libc::SYS_openat, &[at, name, flags, value(*mode)], expect);
                self.settle(lowest, target, numbers);
                self.must(libc::SYS_lseek, &[value(target.fd), value(0), value(libc::SEEK_END)]);
            }
            Some(Policy::LockFile { mode }) => {
                self.directories(&path);
                let flags = value(flags | libc::O_CREAT as u32);
                self.push(libc::SYS_openat, &[at, name, flags, value(*mode)], expect);
                self.settle(lowest, target, numbers);
                let end = [value(target.fd), value(0), value(libc::SEEK_END)];
                self.push(libc::SYS_lseek, &end, Check::Equals(0));
            }
            Some(Policy::Stream { mode, content }) => {
                self.directories(&path);
                self.recreate(&path, *mode, content, flags, lowest);
                self.settle(lowest, target, numbers);
            }
            policy @ (Some(Policy::Recreate { .. }) | None) => {
                self.open_path(id, flags, lowest)?;
                self.settle(lowest, target, numbers);
                // What was written anew is at its end.
                if reg.pos != 0 || policy.is_some() {
                    let args = [value(target.fd), value(reg.pos), value(libc::SEEK_SET)];
                    self.push(libc::SYS_lseek, &args, Check::Equals(reg.pos as i64));
                }
            }
        }
        Ok(())
    }

    /// Adds the making of every directory above a path that may be gone.
    fn directories(&mut self, path: &[u8]) {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends: Vec<usize> = slashes.map(|(index, _)| index).filter(|index| *index > 0).collect();
        for end in ends {
            let name = self.data.path(&path[..end]);
            self.may(libc::SYS_mkdirat, &[Arg::Value(AT_FDCWD), name, value(0o755)]);
        }
    }

    /// Adds the making of a new file under an old name: whoever still has the
    /// old file open keeps it.
    pub(super) fn recreate(&mut self, path: &[u8], mode: u32, content: &[u8], flags: u32, fd: i32) {
        let at = Arg::Value(AT_FDCWD);
        self.directories(path);
        let name = self.data.path(path);
        self.may(libc::SYS_unlinkat, &[at, name, value(0)]);
        let new = (libc::O_CREAT | libc::O_EXCL) as u32;
        let args = [at, name, value(flags | new), value(mode)];
        self.push(libc::SYS_openat, &args, Check::Equals(i64::from(fd)));
        // A JVM's `hsperfdata` is two thirds of nothing.
        let len = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if len > 0 {
            let bytes = Arg::Data(self.data.put(&content[..len]));
            let args = [value(fd), bytes, value(len)];
            self.push(libc::SYS_write, &args, Check::Equals(len as i64));
        }
        if content.len() > len {
            self.must(libc::SYS_ftruncate, &[value(fd), value(content.len())]);
            // Where the writing of all of it would have ended.
            let end = [value(fd), value(0), value(libc::SEEK_END)];
            self.push(libc::SYS_lseek, &end, Check::Equals(content.len() as i64));
        }
    }

    /// Both ends of a pipe, wherever they belong.
    fn pipe(
        &mut self,
        file: &FileEntry,
        target: &Target,
        all: &[&FdinfoEntry],
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let lonely = || PlannerError::Unsupported(format!("fd {} is half a pipe", target.fd));
        let pipe = file.pipe.as_ref().ok_or_else(lonely)?;
        if self.made_pipes.contains(&pipe.pipe_id) {
            let what = format!("fd {} is a pipe's end that was opened again", target.fd);
            return Err(PlannerError::Unsupported(what));
        }
        self.made_pipes.push(pipe.pipe_id);
        let writes = |flags: u32| flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32;
        let mut other = None;
        for entry in all {
            let candidate = self.file(entry.id)?.pipe.as_ref();
            let candidate = candidate.filter(|other| other.pipe_id == pipe.pipe_id);
            if let Some(end) = candidate.filter(|end| writes(end.flags) != writes(pipe.flags)) {
                other = Some((entry.id, Target::of(entry), end.flags));
                break;
            }
        }
        let (other_id, other, other_flags) = other.ok_or_else(lonely)?;
        let place = self.data.words(&[0]);
        let read = numbers.lowest_free();
        numbers.0.insert(read);
        let write = numbers.lowest_free();
        numbers.0.insert(write);
        self.must(libc::SYS_pipe2, &[place, value(CLOEXEC)]);
        let (own_end, other_end) = if writes(pipe.flags) { (write, read) } else { (read, write) };
        // Both go out of the way of both targets first.
        let ends = [(own_end, target, pipe.flags), (other_end, &other, other_flags)];
        self.place_pair(ends, numbers);
        made.insert(other_id, other.fd);
        let writer = if writes(pipe.flags) { target.fd } else { other.fd };
        self.pipe_content(pipe.pipe_id, writer)
    }

    /// Gives a pipe its capacity, and puts in what waited there.
    fn pipe_content(&mut self, pipe_id: u32, writer: i32) -> Result<(), PlannerError> {
        let Some(queued) = self.pipes.get(&pipe_id).copied() else { return Ok(()) };
        let size = queued.entry.size.unwrap_or(LEN_PIPE);
        if queued.data.len() > size as usize {
            let what = format!("pipe {pipe_id} holds more than it can");
            return Err(PlannerError::Inconsistent(what));
        }
        if size != LEN_PIPE {
            let args = [value(writer), value(libc::F_SETPIPE_SZ), value(size)];
            self.must(libc::SYS_fcntl, &args);
        }
        if !queued.data.is_empty() {
            let len = queued.data.len();
            let bytes = Arg::Data(self.data.put(&queued.data));
            let args = [value(writer), bytes, value(len)];
            self.push(libc::SYS_write, &args, Check::Equals(len as i64));
        }
        Ok(())
    }

    /// Moves two descriptors to their numbers, which may be each other's.
    fn place_pair(&mut self, ends: [(i32, &Target, u32); 2], numbers: &mut Numbers) {
        let [(mut first, one, one_flags), (second, two, two_flags)] = ends;
        if second == one.fd && first != one.fd {
            // The first one's place is taken by the second: step aside, but not
            // to where the second goes.
            let aside = numbers.lowest_free_but(two.fd);
            self.push(libc::SYS_dup3, &[value(first), value(aside), value(0)], Check::Ok);
            self.must(libc::SYS_close, &[value(first)]);
            numbers.0.remove(&first);
            first = aside;
            numbers.0.insert(aside);
            self.place(second, two, two_flags, numbers);
            self.place(first, one, one_flags, numbers);
        } else {
            self.place(first, one, one_flags, numbers);
            self.place(second, two, two_flags, numbers);
        }
    }

    fn place(&mut self, from: i32, target: &Target, flags: u32, numbers: &mut Numbers) {
        if from == target.fd {
            let flag = if target.cloexec { libc::FD_CLOEXEC } else { 0 };
            self.must(libc::SYS_fcntl, &[value(from), value(libc::F_SETFD), value(flag)]);
        } else {
            numbers.0.remove(&from);
            self.settle(from, target, numbers);
        }
        if nonblock(flags) != 0 {
            let args = [value(target.fd), value(libc::F_SETFL), value(nonblock(flags))];
            self.must(libc::SYS_fcntl, &args);
        }
    }

    fn watches(&mut self, fd: i32, epoll: &EventpollFileEntry) {
        const EPOLL_CTL_ADD: u64 = 1;
        for watch in &epoll.tfd {
            // struct epoll_event is packed on x86-64: 32 and 64 bits.
            let mut event = watch.events.to_le_bytes().to_vec();
            event.extend(watch.data.to_le_bytes());
            let event = Arg::Data(self.data.put(&event));
            let args = [value(fd), Arg::Value(EPOLL_CTL_ADD), value(watch.tfd), event];
            self.must(libc::SYS_epoll_ctl, &args);
        }
    }

    /// The locks that are taken by way of a process's descriptors.
    fn own_locks(&self, task: &Task) -> Vec<FileLockEntry> {
        let is_own = |lock: &&FileLockEntry| self.family.is_none() || lock.pid as u32 == task.pid;
        self.set.file_locks.iter().filter(is_own).cloned().collect()
    }

    /// Plans the locks of open file descriptions (`flock(2)`).
    fn locks(&mut self, task: &Task) -> Result<(), PlannerError> {
        for lock in self.own_locks(task) {
            match lock.flag {
                FLOCK => {
                    let shared = lock.r#type as i32 == libc::F_RDLCK;
                    let how = if shared { libc::LOCK_SH } else { libc::LOCK_EX } | libc::LOCK_NB;
                    self.must(libc::SYS_flock, &[value(lock.fd), value(how)]);
                }
                POSIX_LOCK => {}
                other => {
                    let what = format!("fd {} has a lock of kind {other}", lock.fd);
                    return Err(PlannerError::Unsupported(what));
                }
            }
        }
        Ok(())
    }

    /// Plans the locks of the process itself (`fcntl(2)`, F_SETLK). It loses
    /// them as soon as it closes any descriptor of the file, so this comes when
    /// nothing is left to be closed.
    pub(super) fn process_locks(&mut self, task: &Task) -> Vec<Operation> {
        let mut operations = Vec::new();
        for lock in self.own_locks(task).iter().filter(|lock| lock.flag == POSIX_LOCK) {
            // struct flock: type, whence, (padding,) start, len, pid.
            let head = u64::from(lock.r#type as u16);
            let words = [head, lock.start as u64, lock.len as u64, 0];
            let args = [value(lock.fd), value(libc::F_SETLK), self.data.words(&words)];
            operations.push(Operation::new(libc::SYS_fcntl, &args, Check::Ok));
        }
        operations
    }
}

fn nonblock(flags: u32) -> u32 {
    flags & libc::O_NONBLOCK as u32
}
