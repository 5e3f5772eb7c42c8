//! When a cold-started program is ready to be captured, and how it is warmed
//! up first.
//!
//! The launcher starts the program, makes a [`Monitor`] from the probes that
//! the user asked for (`--ready`, [`Probe`]) and polls it from its event loop
//! until it answers [`Readiness::Ready`]; then it runs the [`Warmup`]s, and
//! then it captures.
//!
//! Invariants:
//! - The program is watched from outside, through `/proc`, `sock_diag(7)` and
//!   its CPU clock. Only `http:` ever talks to it, and that connection is gone
//!   on both sides before the program counts as ready: a connected socket
//!   would end in the image.
//! - A poll costs microseconds and [`Monitor::next_poll`] keeps all of them
//!   together under 1% of a CPU: a cold start must not get slower by being
//!   watched.
//! - Nothing here waits: the launcher relays signals meanwhile.

mod file;
mod http;
mod idle;
mod log;
mod monitor;
mod notify;
mod pace;
mod port;
mod probe;
mod processes;
mod sockets;
mod target;
mod warmup;

pub use http::Url;
pub use log::Source;
pub use monitor::{Monitor, Readiness};
pub use notify::{NotifyError, NotifySocket, socket_dir, tell, wants_socket};
pub use probe::{Probe, ProbeError};
pub use target::{Started, Target};
pub use warmup::{Warmup, WarmupError};

use std::time::Duration;

/// How long a program must have listened on a port before the port counts.
///
/// One real server listens for 31 ms, closes, and listens again half a second
/// later.
pub const PORT_HELD: Duration = Duration::from_millis(200);

/// The window of `idle`, and of the default rule.
pub const IDLE_WINDOW: Duration = Duration::from_millis(200);
