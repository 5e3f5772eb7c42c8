//! `warmstart doctor`.

use clap::Args;

use super::environment;
use crate::doctor::{Facts, Report};
use crate::failure::{Failure, status};
use crate::ui;

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what this machine allows; status 0 if restoring works for this user.
pub(super) fn main(arguments: &Arguments) -> Result<u8, Failure> {
    // The capability would make /proc/self root's own (see `set_dumpable`).
    let _ = crate::sys::capability::set_dumpable();
    let report = Report::of(&Facts::gather(
        environment::binary()?,
        environment::cache_dir(),
        &environment::criu(),
    ));
    if arguments.json {
        ui::print_json(&report).map_err(Failure::failed)?;
    } else {
        ui::print(&report.to_text());
    }
    Ok(if report.restoring.works { status::OK } else { status::FAILED })
}
