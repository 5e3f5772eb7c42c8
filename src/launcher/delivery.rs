//! What a program that was captured at `main` gets from today's caller.
//!
//! The JVM in the image waits in a `read(2)` on a descriptor of which only the
//! number is in the image. At a restore a file in memory is under that number:
//! it holds the arguments, the environment and the working directory of this
//! run, which the agent reads, puts in place, and closes.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};

use crate::cache::AtMain;
use crate::command::Command;
use crate::fingerprint::JvmLine;
use crate::jvm::agent::{self, Delivery, Order};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};

/// The number of the agent's descriptor: above those of a JVM that starts,
/// which are to be what they are in a plain start.
pub const AGENT_FD: RawFd = 100;

/// Writes down what a run is to get: the descriptor that the program finds under
/// the number in its entry.
///
/// # Errors
/// If there is no memory, or the working directory cannot be entered.
pub fn deliver(at_main: &AtMain, whole: &Command, line: &JvmLine) -> io::Result<OwnedFd> {
    // The agent could not say it otherwise than by ending.
    access(&whole.cwd, AccessFlags::X_OK)?;
    let command = Delivery {
        argv: line.argv.clone(),
        args: line.arguments.clone(),
        env: whole.env.clone(),
        cwd: whole.cwd.clone(),
    };
    let order = Order::Deliver { command, printed: at_main.printed.clone() };
    let mut file = File::from(memfd_create(c"warmstart-delivery", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&agent::encode(&order))?;
    file.rewind()?;
    Ok(file.into())
}
