//! What the `cache` subcommands tell: data that serialises to JSON, and text
//! for people.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::entry::{Usage, read_meta};
use super::meta::{EntryMeta, SCHEMA_VERSION, Tier, Warmth, command_line};
use super::removal::{Removal, len_on_disk};
use super::{Cache, CacheError, Refused};
use crate::fingerprint::{EntryId, Input, boot_id};

/// Digits of an id that are enough for people (and for `cache show`).
const LEN_ID_SHOWN: usize = 12;

/// `cache ls`.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The entries, the latest used first.
    pub entries: Vec<Row>,
    /// Commands that could not be captured.
    pub refused: Vec<Refused>,
    /// The disk space of all entries, in bytes.
    pub len_disk: u64,
}

/// One entry of a [`Listing`].
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its id.
    pub id: EntryId,
    /// The command, as one line.
    pub command: String,
    /// Its disk space, in bytes.
    pub len_disk: u64,
    /// When it was made, in seconds since 1970; `None` if that is damaged.
    pub created: Option<u64>,
    /// Where it was captured: `ready` or `main`.
    pub capture_point: Option<String>,
    /// How warm it is, if it was captured at `main`.
    pub tier: Option<Tier>,
    /// How often it was restored.
    #[serde(flatten)]
    pub usage: Usage,
    /// Why it cannot be used, if its metadata says so already.
    pub unusable: Option<String>,
}

impl Row {
    /// Says where it was captured, and how warm: `ready`, `main`, `linked`,
    /// `main x3`.
    fn at(&self) -> String {
        match (&self.tier, &self.capture_point) {
            (Some(Tier { warmth: Warmth::Trained, runs, .. }), _) => format!("main x{runs}"),
            (Some(Tier { warmth: Warmth::Linked, .. }), _) => "linked".to_owned(),
            (_, Some(point)) => point.clone(),
            (_, None) => "?".to_owned(),
        }
    }
}

/// Lists all entries.
///
/// # Errors
/// If the cache cannot be read.
pub fn list(cache: &Cache) -> Result<Listing, CacheError> {
    let mut entries: Vec<Row> = cache
        .ids()?
        .into_iter()
        .map(|id| {
            let dir = cache.entry_dir(&id);
            let (meta, unusable) = match read_meta(&dir, &id) {
                Ok(decoded) => (Some(decoded.meta), None),
                Err(error) => (None, Some(error.to_string())),
            };
            Row {
                id,
                command: meta.as_ref().map(EntryMeta::command_line).unwrap_or_default(),
                len_disk: len_on_disk(&dir),
                created: meta.as_ref().map(|meta| meta.created),
                capture_point: meta.as_ref().map(|meta| meta.capture_point.clone()),
                tier: meta.and_then(|meta| meta.at_main).map(|at_main| at_main.tier),
                usage: cache.usage(&id),
                unusable,
            }
        })
        .collect();
    entries.sort_by_key(|row| std::cmp::Reverse(row.usage.last_used.max(row.created)));
    let mut refused = cache.refused();
    refused.retain(|refused| !refused.only_counts());
    refused.sort_by_key(|refused| std::cmp::Reverse(refused.time));
    let len_disk = entries.iter().map(|row| row.len_disk).sum();
    Ok(Listing { schema_version: SCHEMA_VERSION, entries, refused, len_disk })
}

impl Listing {
    /// Writes the listing as text, empty for an empty cache.
    pub fn render(&self) -> String {
        let now = now();
        let mut text = String::new();
        if !self.entries.is_empty() {
            text.push_str(
                "ID            SIZE      AT       CAPTURED  RESTORES  LAST USED  COMMAND\n",
            );
        }
        for row in &self.entries {
            let id = short(&row.id);
            let created = row.created.map_or_else(|| "?".to_owned(), |then| age(now, then));
            let used =
                row.usage.last_used.map_or_else(|| "never".to_owned(), |then| age(now, then));
            let command = match &row.unusable {
                Some(reason) => format!("({reason})"),
                None => row.command.clone(),
            };
            let (len, restores) = (size(row.len_disk), row.usage.restores);
            let at = row.at();
            line(
                &mut text,
                &format!(
                    "{id}  {len:<8}  {at:<7}  {created:<8}  {restores:<8}  {used:<9}  {command}"
                ),
            );
        }
        if !self.refused.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str("NOT CAPTURED\n");
        }
        for refused in &self.refused {
            let (id, when) = (short(&refused.id), age(now, refused.time));
            let (command, reason) = (command_line(&refused.argv), &refused.reason);
            line(&mut text, &format!("{id}  {when:<8}  {command}: {reason}"));
        }
        text
    }
}

/// `cache show`.
#[derive(Debug, Serialize)]
pub struct Details {
    /// [`SCHEMA_VERSION`] and all that an entry says of itself.
    #[serde(flatten)]
    pub meta: EntryMeta,
    /// The command, as one line.
    pub command: String,
    /// Where it is.
    pub path: String,
    /// The number of its processes that live.
    pub processes: usize,
    /// Its disk space, in bytes.
    pub len_disk: u64,
    /// How often it was restored.
    #[serde(flatten)]
    pub usage: Usage,
    /// What its fingerprint was made of.
    pub inputs: Vec<Input>,
}

/// What `cache show` found under an id.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// An entry.
    Entry(Box<Details>),
    /// A command that could not be captured.
    Refused(Refused),
}

/// Shows one entry; the beginning of its id is enough.
///
/// # Errors
/// If there is no such entry, more than one, or one that is damaged.
pub fn show(cache: &Cache, prefix: &str) -> Result<Shown, CacheError> {
    let id = match cache.resolve(prefix) {
        Ok(id) => id,
        Err(error) => {
            let mut refused = cache
                .refused()
                .into_iter()
                .filter(|refused| refused.id.to_string().starts_with(prefix));
            return match (refused.next(), refused.next()) {
                (Some(refused), None) => Ok(Shown::Refused(refused)),
                _ => Err(error),
            };
        }
    };
    let dir = cache.entry_dir(&id);
    let read = || {
        let decoded = read_meta(&dir, &id)?;
        let inputs = decoded.inputs()?;
        Ok::<_, super::Unusable>((decoded.meta, inputs))
    };
    let (meta, inputs) =
        read().map_err(|unusable| CacheError::io("read", &dir)(std::io::Error::other(unusable)))?;
    let memories = |file: &&super::ImageFile| file.name.starts_with("mm-");
    Ok(Shown::Entry(Box::new(Details {
        command: meta.command_line(),
        processes: meta.files.iter().filter(memories).count(),
        meta,
        path: dir.display().to_string(),
        len_disk: len_on_disk(&dir),
        usage: cache.usage(&id),
        inputs,
    })))
}

impl Shown {
    /// Writes it as text.
    pub fn render(&self) -> String {
        match self {
            Self::Entry(details) => details.render(),
            Self::Refused(refused) => {
                let mut text = String::new();
                field(&mut text, "id", &refused.id.to_string());
                field(&mut text, "command", &command_line(&refused.argv));
                field(&mut text, "directory", &refused.cwd.display().to_string());
                field(&mut text, "not captured", &refused.reason);
                text
            }
        }
    }
}

/// Says what the boot that an entry was captured in means for a restore: the
/// program's clocks must not go back.
fn boot(id: &str) -> &'static str {
    if id == boot_id() {
        "this one"
    } else {
        "an earlier boot: restored with clocks of its own only (a namespace), else anew"
    }
}

impl Details {
    fn render(&self) -> String {
        let (meta, now) = (&self.meta, now());
        let mut text = String::new();
        let last = self
            .usage
            .last_used
            .map_or_else(String::new, |then| format!(", last {} ago", age(now, then)));
        let (threads, pages) = (meta.threads, size(meta.len_pages));
        let processes = match self.processes {
            0 | 1 => String::new(),
            more => format!("{more} processes, "),
        };
        let at_main = meta.at_main.as_ref();
        let warmth = at_main.map_or_else(|| "as it was".to_owned(), |it| it.tier.line());
        for (name, value) in [
            ("id", self.meta.id.to_string()),
            ("command", self.command.clone()),
            ("directory", meta.cwd.display().to_string()),
            ("path", self.path.clone()),
            ("captured", format!("{} ago, at {}", age(now, meta.created), meta.capture_point)),
            ("warmth", warmth),
            ("boot", boot(&meta.boot_id).to_owned()),
            ("restored", format!("{} times{last}", self.usage.restores)),
            ("process", format!("pid {}, {processes}{threads} threads", meta.pid)),
            ("memory", format!("{pages}, {}", meta.page_mode)),
            ("frozen for", format!("{:.1} ms", meta.freeze_ms)),
            ("engine", format!("{} (warmstart {})", meta.engine, meta.warmstart)),
            ("on disk", size(self.len_disk)),
        ] {
            field(&mut text, name, &value);
        }
        section(&mut text, "image files");
        for file in &meta.files {
            line(
                &mut text,
                &format!("  {}: {} bytes, sha256 {}", file.name, file.size, file.sha256.short()),
            );
        }
        section(&mut text, "depends on");
        for dependency in &meta.dependencies {
            line(&mut text, &format!("  {}", dependency.path.display()));
        }
        section(&mut text, "fingerprint");
        for input in &self.inputs {
            line(&mut text, &format!("  {}: {}", input.label, input.shown));
        }
        text
    }
}

/// `cache verify`.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// All entries and what is wrong with them.
    pub entries: Vec<Verified>,
}

/// One entry of a [`Verification`].
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its id.
    pub id: EntryId,
    /// The command, as one line.
    pub command: String,
    /// What is wrong; `None` if it could be restored.
    pub problem: Option<String>,
}

/// Reads every file of every entry and compares it with what was captured.
///
/// # Errors
/// If the cache cannot be read.
pub fn verify(cache: &Cache) -> Result<Verification, CacheError> {
    let mut entries = Vec::new();
    for id in cache.ids()? {
        let (command, problem) = match cache.lookup(&id) {
            Ok(None) => continue,
            Ok(Some(entry)) => {
                let problem = cache.verify_contents(&entry).err().map(|stale| stale.to_string());
                (entry.meta().command_line(), problem)
            }
            Err(unusable) => (String::new(), Some(unusable.to_string())),
        };
        entries.push(Verified { id, command, problem });
    }
    Ok(Verification { schema_version: SCHEMA_VERSION, entries })
}

impl Verification {
    /// Tells whether every entry could be restored.
    pub fn is_good(&self) -> bool {
        self.entries.iter().all(|entry| entry.problem.is_none())
    }

    /// Writes it as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let problem = entry.problem.as_deref().unwrap_or("good");
            line(&mut text, &format!("{}  {problem}  {}", short(&entry.id), entry.command));
        }
        text
    }
}

/// `cache rm` and `cache prune`, for JSON.
#[derive(Debug, Serialize)]
pub struct Removed {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was removed.
    #[serde(flatten)]
    pub removal: Removal,
}

/// Removes entries by the beginnings of their ids; commands that were not
/// captured are forgotten the same way.
///
/// # Errors
/// If one of them is not there, or there are several that begin so; then
/// nothing is removed.
pub fn remove(cache: &Cache, prefixes: &[String]) -> Result<Removed, CacheError> {
    let ids = prefixes
        .iter()
        .map(|prefix| {
            cache.resolve(prefix).or_else(|error| match show(cache, prefix) {
                Ok(Shown::Refused(refused)) => Ok(refused.id),
                _ => Err(error),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Removed::new(cache.remove_all(&ids)?))
}

/// Removes all entries and all notes.
///
/// # Errors
/// If the cache cannot be changed.
pub fn remove_everything(cache: &Cache) -> Result<Removed, CacheError> {
    let removal = cache.remove_all(&cache.ids()?)?;
    for refused in cache.refused() {
        let _ = cache.remove(&refused.id);
    }
    cache.sweep();
    Ok(Removed::new(removal))
}

impl Removed {
    /// Makes the report of a removal.
    pub fn new(removal: Removal) -> Self {
        Self { schema_version: SCHEMA_VERSION, removal }
    }

    /// Writes it as text.
    pub fn render(&self) -> String {
        let Removal { removed, busy, len_freed } = &self.removal;
        let mut text = String::new();
        let noun = if removed.len() == 1 { "entry" } else { "entries" };
        line(&mut text, &format!("removed {} {noun}, {}", removed.len(), size(*len_freed)));
        for id in busy {
            line(&mut text, &format!("{} is in use and stays", short(id)));
        }
        text
    }
}

/// Adds a line; what came from elsewhere cannot move the cursor.
fn line(text: &mut String, content: &str) {
    text.extend(content.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }));
    text.push('\n');
}

fn field(text: &mut String, name: &str, value: &str) {
    line(text, &format!("{name:<13} {value}"));
}

fn section(text: &mut String, name: &str) {
    let _ = writeln!(text, "\n{name}:");
}

fn short(id: &EntryId) -> String {
    let mut text = id.to_string();
    text.truncate(LEN_ID_SHOWN);
    text
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Writes a number of bytes with a fitting unit.
fn size(len: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = len as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Writes how long ago something was, in its largest unit.
fn age(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_have_fitting_units() {
        let sizes = [0, 1024, 1536 << 10, 5 << 30, 3 << 50].map(size);
        assert_eq!(sizes, ["0.0 KiB", "1.0 KiB", "1.5 MiB", "5.0 GiB", "3072.0 TiB"]);
        let ages = [0, 119, 120, 7200, 172_800].map(|seconds| age(1_000_000, 1_000_000 - seconds));
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
        assert_eq!(age(0, 5), "0 s");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut text = String::new();
        line(&mut text, "a\x1b[31mb\nc ");
        assert_eq!(text, "a?[31mb?c\n");
    }
}
