//! `warmstart completions SHELL` and `warmstart man`: made from the same
//! definitions that parse the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::Cli;
use crate::failure::{Failure, status};
use crate::ui;

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell to complete in
    shell: clap_complete::Shell,
}

/// The arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write a page for every command to DIR instead of warmstart(1) to stdout
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints a completion script.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "warmstart", &mut script);
    ui::print(&String::from_utf8_lossy(&script));
    Ok(status::OK)
}

/// Prints `warmstart(1)`, or writes all pages to a directory.
pub(super) fn man(arguments: &ManArguments) -> Result<u8, Failure> {
    let Some(dir) = &arguments.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::failed)?;
        ui::print(&String::from_utf8_lossy(&page));
        return Ok(status::OK);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| Failure::failed(format!("cannot write to {}: {error}", dir.display())))?;
    Ok(status::OK)
}
