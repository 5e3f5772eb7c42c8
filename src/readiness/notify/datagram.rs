//! One message of a service, with what travels beside it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, sendmsg,
};
use nix::unistd::close;

/// The longest message; systemd takes 4096 bytes.
const MAX_LEN: usize = 8192;
/// The descriptors that one message may carry (`SCM_MAX_FD`, `unix(7)`).
const MAX_FDS: usize = 253;

/// A message.
#[derive(Debug)]
pub(super) struct Datagram {
    text: Vec<u8>,
    /// Descriptors for the service manager (FDSTORE=1, BARRIER=1); ours to
    /// close.
    fds: Vec<RawFd>,
    /// The pid and uid of the sender, as the kernel says.
    pub(super) sender: Option<(i32, u32)>,
}

impl Datagram {
    /// Makes a message of our own.
    pub(super) fn of(message: &str) -> Self {
        Self { text: message.as_bytes().to_vec(), fds: Vec::new(), sender: None }
    }

    /// Takes the next message; nothing if it is one that systemd would not
    /// take either, because it is too long.
    pub(super) fn receive(socket: &OwnedFd) -> Result<Option<Self>, Errno> {
        let mut text = vec![0; MAX_LEN];
        let mut beside = nix::cmsg_space!([RawFd; MAX_FDS], UnixCredentials);
        let mut iov = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut beside), flags)?;
        let mut datagram = Self { text: Vec::new(), fds: Vec::new(), sender: None };
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::ScmRights(fds) => datagram.fds.extend(fds),
                ControlMessageOwned::ScmCredentials(sender) => {
                    datagram.sender = Some((sender.pid(), sender.uid()));
                }
                _ => {}
            }
        }
        let (len, cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
        text.truncate(len);
        datagram.text = text;
        Ok((!cut).then_some(datagram))
    }

    /// Sends it on, descriptors included; never waits.
    pub(super) fn send(&self, socket: &OwnedFd, to: &UnixAddr) -> Result<(), Errno> {
        let rights = [ControlMessage::ScmRights(&self.fds)];
        let beside = if self.fds.is_empty() { &[] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(&self.text)], beside, flags, Some(to))?;
        Ok(())
    }

    /// Tells whether one of its lines is this one.
    pub(super) fn says(&self, wanted: &str) -> bool {
        self.text.split(|&b| b == b'\n').any(|line| line == wanted.as_bytes())
    }

    /// Changes a MAINPID= that names the program into one that names us: to
    /// the service manager the launcher is the main process, whose exit status
    /// is the program's. Any other MAINPID= is passed on.
    pub(super) fn with_main_pid(mut self, program: i32, launcher: u32) -> Self {
        let wanted = format!("MAINPID={program}");
        if self.says(&wanted) {
            let lines = self.text.split(|&b| b == b'\n').map(|line| {
                if line == wanted.as_bytes() {
                    format!("MAINPID={launcher}").into_bytes()
                } else {
                    line.to_vec()
                }
            });
            self.text = lines.collect::<Vec<_>>().join(&b'\n');
        }
        self
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        for &fd in &self.fds {
            // It was a copy made for us; that it closes matters to BARRIER=1.
            let _ = close(fd);
        }
    }
}
