//! What a program that was captured at `main` gets from today's caller.
//!
//! The JVM in the image waits in a `read(2)` on a descriptor of which only the
//! number is in the image. At a restore a file in memory is under that number:
//! it holds the arguments, the environment and the working directory of this
//! run, which the agent reads, puts in place, and closes.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::cache::Tier;
use crate::command::Command;
use crate::fingerprint::JvmLine;
use crate::jvm::agent::{self, Delivery, Order};

/// The file of an image that holds [`AtMain`].
pub const FILE: &str = "main.json";

/// The number of the agent's descriptor: above those of a JVM that starts,
/// which are to be what they are in a plain start.
pub const AGENT_FD: RawFd = 100;

/// What an entry at main is restored with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AtMain {
    /// The number of the agent's descriptor.
    pub fd: RawFd,
    /// What the JVM had printed by then, on stdout and stderr.
    pub printed: [String; 2],
    /// How warm it is.
    pub tier: Tier,
}

impl AtMain {
    /// Reads it from an image's directory.
    ///
    /// # Errors
    /// If it is not there, or not well formed.
    pub fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(dir.join(FILE))?)?)
    }

    /// Writes down what a run is to get: the descriptor that the program finds
    /// under its number.
    ///
    /// # Errors
    /// If there is no memory, or the working directory cannot be entered.
    pub fn deliver(&self, whole: &Command, line: &JvmLine) -> io::Result<OwnedFd> {
        // The agent could not say it otherwise than by ending.
        access(&whole.cwd, AccessFlags::X_OK)?;
        let command = Delivery {
            argv: line.argv.clone(),
            args: line.arguments.clone(),
            env: whole.env.clone(),
            cwd: whole.cwd.clone(),
        };
        let order = Order::Deliver { command, printed: self.printed.clone() };
        let mut file = File::from(memfd_create(c"warmstart-delivery", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&agent::encode(&order))?;
        file.rewind()?;
        Ok(file.into())
    }
}
