//! Sockets that listen or are not connected.

use std::net::{IpAddr, Ipv4Addr};

use super::{Check, Numbers, Planner, PlannerError, Target, nonblock, value};
use crate::image::proto::{FileEntry, InetSkEntry, SkOptsEntry};
use crate::image::sockets::{TCP_LISTEN, address_of};
use crate::restore::plan::Arg;
use crate::sys::socket::socket_address;

/// The kernel's defaults (`tcp(7)`): probes, seconds idle, seconds between.
const KEEPALIVE: [(i32, u32); 3] =
    [(libc::TCP_KEEPCNT, 9), (libc::TCP_KEEPIDLE, 7200), (libc::TCP_KEEPINTVL, 75)];
/// The length of a `sockaddr_in6` in bytes.
const LEN_ADDRESS: usize = 28;
/// `SOCK_SNDBUF_LOCK`, `SOCK_RCVBUF_LOCK`: the size was set by the program.
const SNDBUF_LOCK: u32 = 1;
const RCVBUF_LOCK: u32 = 2;

impl Planner<'_> {
    pub(super) fn inet_socket(
        &mut self,
        file: &FileEntry,
        target: &Target,
        numbers: &mut Numbers,
    ) -> Result<(), PlannerError> {
        let fd = target.fd;
        let wrong = |what: &str| PlannerError::Inconsistent(format!("fd {fd}: {what}"));
        let socket = file.isk.as_ref().ok_or_else(|| wrong("no socket"))?;
        if self.facts.changed.closed_tcp.contains(&file.id) {
            self.closed_connection(socket, target, numbers);
            return Ok(());
        }
        let kind = socket.r#type | nonblock(socket.flags) | target.flag() as u32;
        let args = [value(socket.family), value(kind), value(socket.proto)];
        self.create(libc::SYS_socket, &args, target, numbers);
        self.changed_options(socket.id, fd);
        self.options(fd, &socket.opts);
        self.inet_options(fd, socket);
        let listens = socket.state == TCP_LISTEN;
        if socket.src_port != 0 || listens {
            let ip = address_of(&socket.src_addr, socket.family as i32);
            let ip = ip.ok_or_else(|| wrong("no address"))?;
            let port = u16::try_from(socket.src_port).map_err(|_| wrong("no possible port"))?;
            let address = socket_address(ip, port);
            let bytes = Arg::Data(self.data.put(&address));
            self.must(libc::SYS_bind, &[value(fd), bytes, value(address.len())]);
        }
        if socket.r#type == libc::SOCK_DGRAM as u32 && socket.dst_port != 0 {
            let ip = address_of(&socket.dst_addr, socket.family as i32);
            let ip = ip.ok_or_else(|| wrong("no address"))?;
            let port = u16::try_from(socket.dst_port).map_err(|_| wrong("no possible port"))?;
            self.connect(fd, &socket_address(ip, port));
        }
        if listens {
            self.must(libc::SYS_listen, &[value(fd), value(socket.backlog.min(1 << 30))]);
        }
        Ok(())
    }

    /// Makes a connection that its peer has closed: reads say that it is at its
    /// end, and so do event loops, which an unconnected socket would not let.
    /// The peer is ourselves, on a port that the kernel chooses.
    fn closed_connection(&mut self, socket: &InetSkEntry, target: &Target, numbers: &mut Numbers) {
        let local = Ipv4Addr::LOCALHOST;
        let is_v6 = socket.family == libc::AF_INET6 as u32;
        let ip = if is_v6 { IpAddr::V6(local.to_ipv6_mapped()) } else { IpAddr::V4(local) };
        let kind = value(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
        let args = [value(socket.family), kind, value(0)];
        let listener = numbers.lowest_free();
        self.push(libc::SYS_socket, &args, Check::Equals(i64::from(listener)));
        numbers.take(listener);
        let address = socket_address(ip, 0);
        let len = value(address.len());
        let bytes = Arg::Data(self.data.put(&address));
        self.must(libc::SYS_bind, &[value(listener), bytes, len]);
        self.must(libc::SYS_listen, &[value(listener), value(1)]);
        // Where it listens is written to where the connect reads it.
        let place = Arg::Data(self.data.put(&[0; LEN_ADDRESS]));
        let len_place = Arg::Data(self.data.put(&(address.len() as u32).to_le_bytes()));
        self.must(libc::SYS_getsockname, &[value(listener), place, len_place]);
        let own = numbers.lowest_free();
        self.push(libc::SYS_socket, &args, Check::Equals(i64::from(own)));
        numbers.take(own);
        self.must(libc::SYS_connect, &[value(own), place, len]);
        let other = numbers.lowest_free();
        let flags = value(libc::SOCK_CLOEXEC);
        let args = [value(listener), value(0), value(0), flags];
        self.push(libc::SYS_accept4, &args, Check::Equals(i64::from(other)));
        for fd in [other, listener] {
            self.must(libc::SYS_close, &[value(fd)]);
        }
        numbers.give_back(listener);
        if own == target.fd {
            let flag = if target.cloexec { libc::FD_CLOEXEC } else { 0 };
            self.must(libc::SYS_fcntl, &[value(own), value(libc::F_SETFD), value(flag)]);
        } else {
            numbers.give_back(own);
            self.settle(own, target, numbers);
        }
        if nonblock(socket.flags) != 0 {
            let args = [value(target.fd), value(libc::F_SETFL), value(nonblock(socket.flags))];
            self.must(libc::SYS_fcntl, &args);
        }
    }

    fn int_option(&mut self, fd: i32, level: i32, name: i32, number: u32) {
        let bytes = Arg::Data(self.data.put(&number.to_le_bytes()));
        self.must(libc::SYS_setsockopt, &[value(fd), value(level), value(name), bytes, value(4)]);
    }

    fn words_option(&mut self, fd: i32, name: i32, words: &[u64]) {
        let bytes = self.data.words(words);
        let len = value(words.len() * 8);
        self.must(
            libc::SYS_setsockopt,
            &[value(fd), value(libc::SOL_SOCKET), value(name), bytes, len],
        );
    }

    /// Connects a socket of datagrams, which sends nothing.
    pub(super) fn connect(&mut self, fd: i32, address: &[u8]) {
        let bytes = Arg::Data(self.data.put(address));
        self.must(libc::SYS_connect, &[value(fd), bytes, value(address.len())]);
    }

    /// Sets what the image has no place for; first, since one option may change
    /// another (IP_TOS the priority).
    pub(super) fn changed_options(&mut self, id: u32, fd: i32) {
        for option in self.facts.changed.socket_options.get(&id).map_or(&[][..], |all| all) {
            let bytes = Arg::Data(self.data.put(&option.value));
            let (level, name) = (value(option.level), value(option.name));
            let args = [value(fd), level, name, bytes, value(option.value.len())];
            self.must(libc::SYS_setsockopt, &args);
        }
    }

    pub(super) fn options(&mut self, fd: i32, opts: &SkOptsEntry) {
        let flags = [
            (libc::SO_REUSEADDR, opts.reuseaddr),
            (libc::SO_REUSEPORT, opts.so_reuseport),
            (libc::SO_KEEPALIVE, opts.so_keepalive),
            (libc::SO_BROADCAST, opts.so_broadcast),
            (libc::SO_DONTROUTE, opts.so_dontroute),
            (libc::SO_OOBINLINE, opts.so_oobinline.map(|on| on != 0)),
        ];
        for (name, _) in flags.into_iter().filter(|(_, on)| *on == Some(true)) {
            self.int_option(fd, libc::SOL_SOCKET, name, 1);
        }
        // The kernel doubles what is set.
        let locks = opts.so_buf_lock.unwrap_or(0);
        if locks & SNDBUF_LOCK != 0 {
            self.int_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, opts.so_sndbuf / 2);
        }
        if locks & RCVBUF_LOCK != 0 {
            self.int_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, opts.so_rcvbuf / 2);
        }
        if opts.so_rcvlowat.is_some_and(|len| len != 1) {
            self.int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, opts.so_rcvlowat.unwrap_or(1));
        }
        if let Some(priority) = opts.so_priority.filter(|priority| *priority != 0) {
            self.int_option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, priority);
        }
        for (name, sec, usec) in [
            (libc::SO_SNDTIMEO, opts.so_snd_tmo_sec, opts.so_snd_tmo_usec),
            (libc::SO_RCVTIMEO, opts.so_rcv_tmo_sec, opts.so_rcv_tmo_usec),
        ] {
            if sec != 0 || usec != 0 {
                self.words_option(fd, name, &[sec, usec]);
            }
        }
        if let Some(linger) = opts.so_linger {
            self.words_option(fd, libc::SO_LINGER, &[1 | u64::from(linger) << 32]);
        }
    }

    fn inet_options(&mut self, fd: i32, socket: &InetSkEntry) {
        if let Some(only) = socket.v6only {
            self.int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, u32::from(only));
        }
        let Some(tcp) = &socket.tcp_opts else { return };
        for (name, on) in [(libc::TCP_NODELAY, tcp.nodelay), (libc::TCP_CORK, tcp.cork)] {
            if on == Some(true) {
                self.int_option(fd, libc::IPPROTO_TCP, name, 1);
            }
        }
        let set = [tcp.keepcnt, tcp.keepidle, tcp.keepintvl];
        for ((name, default), number) in KEEPALIVE.into_iter().zip(set) {
            if let Some(number) = number.filter(|number| *number != default) {
                self.int_option(fd, libc::IPPROTO_TCP, name, number);
            }
        }
    }
}
