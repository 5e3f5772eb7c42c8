//! `warmstart cache ls|show|rm|prune|verify|path`.

use clap::{Args, Subcommand};

use super::environment;
use crate::cache::{Cache, CacheError, PruneOptions, SCHEMA_VERSION, report};
use crate::failure::{Failure, status};
use crate::ui;

/// The arguments of `cache`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List entries, and commands that could not be captured
    #[command(alias = "list")]
    Ls,
    /// Show one entry: what it was made from, what it holds
    Show {
        /// Its id; the beginning is enough
        id: String,
    },
    /// Remove entries
    Rm {
        /// Their ids; the beginnings are enough
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Vec<String>,
        /// Remove all
        #[arg(long)]
        all: bool,
    },
    /// Remove what has not been used for long, or does not fit
    ///
    /// Without options only what cannot be read any more and what unfinished
    /// captures left is removed.
    Prune {
        /// Keep the latest used ones that fit into SIZE (500M, 2G, bytes)
        #[arg(long, value_name = "SIZE", value_parser = size)]
        max_size: Option<u64>,
        /// Remove what has not been used for DAYS days
        #[arg(long, value_name = "DAYS")]
        older_than: Option<u64>,
    },
    /// Read every file and compare it with what was captured
    Verify,
    /// Print the cache's directory
    Path,
}

/// Carries out `cache …`.
pub(super) fn main(arguments: Arguments) -> Result<u8, Failure> {
    let dir = environment::cache_dir();
    if matches!(arguments.command, Command::Path) {
        return path(&dir, arguments.json);
    }
    if dir.as_os_str().is_empty() {
        return Err(Failure::failed("there is no home directory for the cache")
            .hint("WARMSTART_CACHE_DIR=/a/directory warmstart cache ls"));
    }
    let Some(cache) = Cache::open_existing(&dir).map_err(Failure::failed)? else {
        return without_cache(&arguments);
    };
    carry_out(&cache, arguments)
}

/// `cache path` looks at nothing.
fn path(dir: &std::path::Path, json: bool) -> Result<u8, Failure> {
    #[derive(serde::Serialize)]
    struct Answer<'a> {
        schema_version: u32,
        path: &'a std::path::Path,
    }
    if json {
        ui::print_json(&Answer { schema_version: 1, path: dir }).map_err(Failure::failed)?;
    } else {
        ui::print(&format!("{}\n", dir.display()));
    }
    Ok(status::OK)
}

/// A cache that was never made is an empty one.
fn without_cache(arguments: &Arguments) -> Result<u8, Failure> {
    let no_such = |id: &String| Err(no_entry(CacheError::NoSuchEntry(id.clone())));
    match &arguments.command {
        Command::Show { id } => no_such(id),
        Command::Rm { id, .. } if !id.is_empty() => no_such(&id[0]),
        Command::Ls => answer(
            arguments.json,
            &report::Listing {
                schema_version: SCHEMA_VERSION,
                entries: Vec::new(),
                refused: Vec::new(),
                len_disk: 0,
            },
            || "the cache is empty\n".to_owned(),
        ),
        Command::Verify => answer(
            arguments.json,
            &report::Verification { schema_version: SCHEMA_VERSION, entries: Vec::new() },
            || "the cache is empty\n".to_owned(),
        ),
        Command::Rm { .. } | Command::Prune { .. } | Command::Path => {
            let removed = report::Removed::new(Default::default());
            answer(arguments.json, &removed, || removed.render() + hint(&arguments.command))
        }
    }
}

/// Says of a `prune` without limits that it removed no entry for its age or
/// size.
fn hint(command: &Command) -> &'static str {
    match command {
        Command::Prune { max_size: None, older_than: None } => {
            "only what was damaged or left over, as neither --max-size nor --older-than was given\n"
        }
        _ => "",
    }
}

fn carry_out(cache: &Cache, arguments: Arguments) -> Result<u8, Failure> {
    let json = arguments.json;
    match arguments.command {
        Command::Ls => {
            let listing = report::list(cache).map_err(Failure::failed)?;
            answer(json, &listing, || match listing.render() {
                text if text.is_empty() => "the cache is empty\n".to_owned(),
                text => text,
            })
        }
        Command::Show { id } => {
            let shown = report::show(cache, &id).map_err(no_entry)?;
            answer(json, &shown, || shown.render())
        }
        Command::Rm { id, all } => {
            let removed =
                if all { report::remove_everything(cache) } else { report::remove(cache, &id) }
                    .map_err(no_entry)?;
            let status = answer(json, &removed, || removed.render())?;
            Ok(if removed.removal.busy.is_empty() { status } else { status::FAILED })
        }
        Command::Prune { max_size, older_than } => {
            let hint = hint(&arguments.command);
            let options = PruneOptions { max_size, older_than_days: older_than };
            let removed = report::Removed::new(cache.prune(&options).map_err(Failure::failed)?);
            answer(json, &removed, || removed.render() + hint)
        }
        Command::Verify => {
            let verification = report::verify(cache).map_err(Failure::failed)?;
            let status = answer(json, &verification, || match verification.render() {
                text if text.is_empty() => "the cache is empty\n".to_owned(),
                text => text,
            })?;
            Ok(if verification.is_good() { status } else { status::FAILED })
        }
        Command::Path => path(cache.dir(), json),
    }
}

/// Prints data as JSON, or its text.
fn answer(
    json: bool,
    data: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<u8, Failure> {
    if json {
        ui::print_json(data).map_err(Failure::failed)?;
    } else {
        ui::print(&text());
    }
    Ok(status::OK)
}

fn no_entry(error: CacheError) -> Failure {
    let unknown = matches!(error, CacheError::NoSuchEntry(_) | CacheError::Ambiguous(_));
    let failure = Failure::failed(error);
    if unknown { failure.hint("warmstart cache ls") } else { failure }
}

/// Parses an amount of bytes: a number, with k, M, G or T (powers of 1000) if
/// need be.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not an amount: write 1000000, 500M or 2G");
    let trimmed = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let (digits, unit) = match trimmed.char_indices().last() {
        Some((at, c)) if c.is_ascii_alphabetic() => (&trimmed[..at], c.to_ascii_lowercase()),
        _ => (trimmed, ' '),
    };
    let factor: u64 = match unit {
        ' ' => 1,
        'k' => 1_000,
        'm' => 1_000_000,
        'g' => 1_000_000_000,
        't' => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read() {
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("500M"), Ok(500_000_000));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("1k"), Ok(1000));
        for bad in ["", "M", "-1", "1.5G", "5x", "99999999T", "G2"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
