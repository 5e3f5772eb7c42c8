//! On a miss: which entry nearly fitted, and what kept it from fitting.

use super::Cache;
use super::entry::read_meta;
use super::meta::EntryMeta;
use crate::command::Command;
use crate::fingerprint::{Change, EntryId, Fingerprint, Input, Point, explain};

/// Entries that are compared, at most.
const ENTRIES_MAX: usize = 256;

/// The entry of the same program with the fewest changes.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// The entry.
    pub meta: EntryMeta,
    /// What is different now.
    pub changes: Vec<Change>,
}

impl Cache {
    /// Finds the entry of the same program, captured at the same point (other
    /// things count at `main` than when ready), whose inputs differ the least.
    /// Reads all entries' metadata: for explanations, not for the hit path.
    pub fn nearest(&self, fingerprint: &Fingerprint, point: Point) -> Option<Nearest> {
        let program = program(&fingerprint.inputs)?;
        self.ids()
            .ok()?
            .into_iter()
            .filter(|id| *id != fingerprint.id)
            .take(ENTRIES_MAX)
            .filter_map(|id| {
                let decoded = read_meta(&self.entry_dir(&id), &id).ok()?;
                let is_at_main = decoded.meta.at_main.is_some();
                let inputs = decoded.inputs().ok()?;
                let is_same =
                    is_at_main == (point == Point::Main) && self::program(&inputs)? == program;
                let changes = is_same.then(|| explain(&inputs, &fingerprint.inputs))?;
                Some(Nearest { meta: decoded.meta, changes })
            })
            .min_by_key(|nearest| (nearest.changes.len(), std::cmp::Reverse(nearest.meta.created)))
    }
}

impl Cache {
    /// Tells whether there is an entry of this command line, whatever else it
    /// depends on. Reads entries' metadata: not for the hit path.
    pub fn has_entry_of(&self, command: &Command) -> bool {
        let Ok(ids) = self.ids() else { return false };
        let argv = |id: &EntryId| Some(read_meta(&self.entry_dir(id), id).ok()?.meta.argv);
        ids.iter().take(ENTRIES_MAX).any(|id| argv(id).is_some_and(|argv| argv == command.argv))
    }
}

/// Returns what the command was called as.
fn program(inputs: &[Input]) -> Option<&str> {
    let first = inputs.iter().find(|input| input.label == "argument 0")?;
    first.shown.rsplit('/').next()
}
