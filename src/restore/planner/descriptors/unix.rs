//! Unix sockets.

use std::collections::BTreeMap;

use super::{CLOEXEC, Check, Numbers, Planner, PlannerError, Target, nonblock, value};
use crate::image::proto::{FdinfoEntry, FileEntry, SkShutdown, UnixSkEntry};
use crate::image::sockets::{TCP_CLOSE, TCP_LISTEN};
use crate::restore::plan::{AT_FDCWD, Arg};
use crate::sys::socket::unix_address;

/// A restore must not wait, nor be ended by a signal.
const SEND: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

impl Planner<'_> {
    pub(super) fn unix_socket(
        &mut self,
        file: &FileEntry,
        target: &Target,
        all: &[&FdinfoEntry],
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let fd = target.fd;
        let wrong = || PlannerError::Inconsistent(format!("fd {fd}: no Unix socket"));
        let socket = file.usk.as_ref().ok_or_else(wrong)?;
        if socket.name_dir.as_ref().is_some_and(|dir| !dir.is_empty())
            || socket.deleted == Some(true)
        {
            let what = format!("fd {fd} is a Unix socket with a name that leads nowhere");
            return Err(PlannerError::Unsupported(what));
        }
        let stream = socket.r#type == libc::SOCK_STREAM as u32;
        let gone = socket.shutdown == Some(SkShutdown::Both as i32);
        if socket.peer != 0 && !self.sends_by_name(socket) {
            return self.pair(socket, target, all, made, numbers);
        }
        if stream && gone && socket.name.is_empty() {
            return self.half(socket, target, numbers);
        }
        // One of datagrams is marked as connected by who connects to it.
        let datagrams = socket.r#type == libc::SOCK_DGRAM as u32;
        if !datagrams && !matches!(socket.state, TCP_CLOSE | TCP_LISTEN) {
            let what = format!("fd {fd} is a Unix socket connected to somebody outside");
            return Err(PlannerError::Unsupported(what));
        }
        let kind = socket.r#type | nonblock(socket.flags) | target.flag() as u32;
        let args = [value(libc::AF_UNIX), value(kind), value(0)];
        self.create(libc::SYS_socket, &args, target, numbers);
        self.unix_options(fd, socket);
        if !socket.name.is_empty() {
            self.bind_unix(fd, socket);
        }
        if socket.state == TCP_LISTEN {
            self.must(libc::SYS_listen, &[value(fd), value(socket.backlog.min(1 << 30))]);
        }
        Ok(())
    }

    /// Returns whether a socket of datagrams has one as its peer that is not
    /// connected back: it finds that by its name.
    fn sends_by_name(&self, socket: &UnixSkEntry) -> bool {
        let is_peer = |other: &&UnixSkEntry| other.ino == socket.peer;
        let peer = self.set.files.iter().filter_map(|file| file.usk.as_ref()).find(is_peer);
        let one_way = peer.is_some_and(|peer| peer.peer != socket.ino && !peer.name.is_empty());
        one_way && socket.r#type == libc::SOCK_DGRAM as u32
    }

    fn unix_options(&mut self, fd: i32, socket: &UnixSkEntry) {
        self.changed_options(socket.id, fd);
        self.options(fd, &socket.opts);
    }

    /// Binds a socket to its name. A file that the last run has left there
    /// makes place, as it has to at a cold start.
    fn bind_unix(&mut self, fd: i32, socket: &UnixSkEntry) {
        let is_path = socket.name[0] != 0;
        let mode = socket.file_perms.as_ref().map_or(0o777, |perms| perms.mode & 0o777);
        if is_path {
            let name = self.data.path(&socket.name);
            self.may(libc::SYS_unlinkat, &[Arg::Value(AT_FDCWD), name, value(0)]);
            self.may(libc::SYS_umask, &[value(0o777 & !mode)]);
        }
        let address = unix_address(&socket.name);
        let bytes = Arg::Data(self.data.put(&address));
        self.must(libc::SYS_bind, &[value(fd), bytes, value(address.len())]);
        if is_path {
            self.may(libc::SYS_umask, &[value(0)]);
        }
    }

    /// A stream socket whose peer is gone: one half of a pair.
    fn half(
        &mut self,
        socket: &UnixSkEntry,
        target: &Target,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let kind = socket.r#type | nonblock(socket.flags) | target.flag() as u32;
        let place = self.data.words(&[0]);
        let first = numbers.lowest_free();
        numbers.take(first);
        let second = numbers.lowest_free();
        let args = [value(libc::AF_UNIX), value(kind), value(0), place];
        self.must(libc::SYS_socketpair, &args);
        self.must(libc::SYS_close, &[value(second)]);
        numbers.give_back(first);
        self.settle(first, target, numbers);
        Ok(())
    }

    /// Both ends of a pair, with what waits in them.
    fn pair(
        &mut self,
        socket: &UnixSkEntry,
        target: &Target,
        all: &[&FdinfoEntry],
        made: &mut BTreeMap<u32, i32>,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let mut found = None;
        for entry in all {
            let candidate = self.file(entry.id)?.usk.as_ref();
            if let Some(other) = candidate.filter(|other| other.ino == socket.peer) {
                found = Some((entry.id, Target::of(entry), other.clone()));
                break;
            }
        }
        let Some((other_id, other_target, other)) = found else {
            let what = format!("fd {} is a Unix socket connected to somebody outside", target.fd);
            return Err(PlannerError::Unsupported(what));
        };
        if other.peer != socket.ino || other.r#type != socket.r#type || other.id == socket.id {
            let what = format!("fd {}: its peer is not connected to it", target.fd);
            return Err(PlannerError::Inconsistent(what));
        }
        let place = self.data.words(&[0]);
        let first = numbers.lowest_free();
        numbers.take(first);
        let second = numbers.lowest_free();
        numbers.take(second);
        let kind = value(socket.r#type | CLOEXEC as u32);
        self.must(libc::SYS_socketpair, &[value(libc::AF_UNIX), kind, value(0), place]);
        let ends = [(first, target, socket.flags), (second, &other_target, other.flags)];
        self.place_pair(ends, numbers);
        made.insert(other_id, other_target.fd);
        for (end, fd) in [(socket, target.fd), (&other, other_target.fd)] {
            self.unix_options(fd, end);
            if !end.name.is_empty() {
                self.bind_unix(fd, end);
            }
        }
        self.queue(socket.id, other_target.fd);
        self.queue(other.id, target.fd);
        for (end, fd) in [(socket, target.fd), (&other, other_target.fd)] {
            let how = match SkShutdown::try_from(end.shutdown.unwrap_or(0)) {
                Ok(SkShutdown::Read) => libc::SHUT_RD,
                Ok(SkShutdown::Write) => libc::SHUT_WR,
                Ok(SkShutdown::Both) => libc::SHUT_RDWR,
                _ => continue,
            };
            self.must(libc::SYS_shutdown, &[value(fd), value(how)]);
        }
        Ok(())
    }

    /// Sends through one end what waits in the other one.
    fn queue(&mut self, receiver: u32, sender: i32) {
        let set = self.set;
        for queued in set.sk_queues.iter().filter(|queued| queued.entry.id_for == receiver) {
            let len = queued.data.len();
            let bytes = Arg::Data(self.data.put(&queued.data));
            let args = [value(sender), bytes, value(len), value(SEND), value(0), value(0)];
            self.push(libc::SYS_sendto, &args, Check::Equals(len as i64));
        }
    }

    /// Connects the sockets of datagrams to the names that they had as peers:
    /// when all sockets are there, since one of them may have that name.
    pub(super) fn unix_peers(&mut self, made: &BTreeMap<u32, i32>) {
        for (id, name) in &self.facts.changed.unix_peers {
            if let Some(fd) = made.get(id) {
                self.connect(*fd, &unix_address(name));
            }
        }
    }
}
