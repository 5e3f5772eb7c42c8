//! One run of a command: hit, restore; miss, cold start and capture.
//!
//! There are three ways to start the program. *Restored*, it is our child and
//! we relay signals and its exit status. *Cold with a capture*, it is our
//! child as well, started as a plain exec would start it. *Plain*, it takes
//! our place by `execve`, and nothing of us is left: that is what every run
//! comes to for which there is nothing to capture.
//!
//! Everything up to the restore happens on one thread and in as few system
//! calls as can be; what can wait is done after the program runs.

mod aside;
mod capture;
mod delivery;
mod descriptors;
mod engine;
pub mod exact;
mod hit;
mod inner;
mod named;
mod outcome;
mod parts;
mod probing;
mod relay;
mod run;
mod spawn;
mod stdio;
mod terminal;
mod training;

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::Command;
use crate::fingerprint::Stream;
use crate::pids::Strategy;
use crate::readiness::Probe;
use crate::restore::Restored;
pub use crate::restore::host::Clock;
use crate::snapshot::OpenTcp;
use crate::sys::signals;
pub use aside::{streams_of_word, streams_word};

/// Where a program is captured (`--at`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapturePoint {
    /// When it is ready.
    Ready,
    /// Before `main`.
    Main,
    /// Whatever fits the program.
    Auto,
}

/// What may be done about the cache in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Restore if there is an entry, else start cold and capture.
    Auto,
    /// Start cold and capture, replacing the entry (`--refresh`).
    Refresh,
    /// Restore if there is an entry, never capture (`--no-capture`).
    NoCapture,
    /// Restore or fail with 125 (`--require-warm`).
    RequireWarm,
}

/// The engine asked for (`--engine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works here.
    Auto,
    /// Only the embedded engine.
    Native,
    /// Only CRIU.
    Criu,
}

/// The ways to its pids of a restored program (`--pids auto`), in the order in
/// which they are tried.
pub const PIDS_AUTO: &[Strategy] =
    &[Strategy::SetTid, Strategy::Namespace, Strategy::LastPid, Strategy::Cycle];

/// How many pids `cycle` uses up at most: 40 ms' worth.
pub const PID_BUDGET: u32 = 4096;

/// How a JVM is trained before it is captured at main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Training {
    /// How often each line of arguments is run (`--train`).
    pub runs: u32,
    /// More lines of arguments (`--train-with`), words as in a shell's line.
    pub with: Vec<OsString>,
    /// The directory of which a scratch copy is the working directory
    /// (`--train-dir`).
    pub dir: Option<PathBuf>,
    /// Whether an image is kept that does not behave as a first run does.
    pub allow_stateful: bool,
}

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--at`.
    pub at: CapturePoint,
    /// `--ready`, all of which must hold; empty: the default rule.
    pub ready: Vec<Probe>,
    /// `--warmup`, shell commands.
    pub warmup: Vec<OsString>,
    /// `--capture-timeout`.
    pub capture_timeout: Duration,
    /// `--engine`.
    pub engine: EngineChoice,
    /// Where CRIU may be.
    pub criu: crate::criu::Sought,
    /// `--pids`: the ways that may be tried, in this order.
    pub pids: Vec<Strategy>,
    /// `--pid-budget`: how many pids `cycle` may use up.
    pub pid_budget: u32,
    /// `--clock`: whether the program must have clocks of its own.
    pub clock: Clock,
    /// `--tcp`: what is done about open TCP connections.
    pub tcp: OpenTcp,
    /// `--keep-fd`.
    pub keep: Vec<RawFd>,
    /// `--input`.
    pub inputs: Vec<PathBuf>,
    /// `--ignore-env`.
    pub ignore_env: Vec<String>,
    /// `--train` and its like.
    pub training: Option<Training>,
    /// `--wait`: a capture at main is waited for.
    pub wait: bool,
    /// `--verify-every`.
    pub verify_every: Option<u32>,
    /// This is the second process of a run: it captures at main, for a caller
    /// with these 0, 1 and 2.
    pub aside: Option<[Stream; 3]>,
    /// The options that decide what is captured as words, for that process.
    pub words: Vec<OsString>,
    /// `--refresh`, `--no-capture`, `--require-warm`.
    pub policy: Policy,
    /// `--status-file`.
    pub status_file: Option<PathBuf>,
    /// 1 for each `-v`, -1 for `-q`.
    pub verbosity: i8,
    /// The cache's directory.
    pub cache_dir: PathBuf,
}

/// Runs the command and returns its exit status; does not return if the
/// program was killed by a signal (we die by the same one) or is started by a
/// plain `execve`.
pub fn run(command: Command, options: Options) -> u8 {
    if let Some(streams) = options.aside {
        return training::main(&command, &options, streams);
    }
    run::Run::new(command, options).go()
}

/// Relays signals to a restored child until it ends, then ends like it: for
/// callers that restore by themselves (`image restore`).
///
/// `blocked` is what [`block_signals`] returned before the restore.
pub fn relay(restored: Restored, blocked: &BlockedSignals) -> u8 {
    let _ = blocked;
    match relay::Relay::new(restored.pid, stdio::Tap::default(), None) {
        Ok(relay) => {
            let ending = relay.run(None);
            restored.leave();
            run::end_like(ending)
        }
        Err(_) => OWN_FAILURE,
    }
}

/// Proof that the signals which the relay handles are blocked.
#[derive(Debug)]
pub struct BlockedSignals(());

/// Blocks the signals that the relay handles; to be called before
/// [`crate::restore::native()`].
pub fn block_signals() -> BlockedSignals {
    relay::handled().block();
    // Ignored, it would make the kernel forget how our child ended.
    signals::set_default(libc::SIGCHLD);
    BlockedSignals(())
}

/// The exit status of a failure of warmstart itself.
const OWN_FAILURE: u8 = 125;
