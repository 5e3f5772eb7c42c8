//! Which engine captures, and which restores.
//!
//! `native` if it carries all that the program has; what it refuses for good,
//! CRIU may carry, if there is one that may act here. What is captured by one is
//! restored by it: the entry says which.

use std::fs;
use std::path::Path;

use super::{EngineChoice, Options};
use crate::criu::{self, Criu};
use crate::restore::{self, CannotRestore, Request, Restored};
use crate::snapshot::{self, Capture, Outlook, Refusal, Snapshot};

/// Writes an image of what has been read.
pub type Write = Box<dyn FnOnce() -> Result<Snapshot, Refusal> + Send>;

/// A program that was read.
pub struct Taken {
    /// Writes the image, while the program runs on.
    pub write: Write,
    /// The engine that will restore it.
    pub engine: &'static str,
    /// Why it is not the native one, if nobody asked for another.
    pub reason: Option<String>,
}

/// The engines of a run.
#[derive(Debug, Clone)]
pub struct Engines {
    choice: EngineChoice,
    sought: criu::Sought,
}

impl Engines {
    /// Takes them from the options of the run.
    pub fn of(options: &Options) -> Self {
        Self { choice: options.engine, sought: options.criu.clone() }
    }

    /// Freezes the program, reads it and lets it go on.
    pub fn freeze(&self, capture: &Capture<'_>) -> Result<Taken, Refusal> {
        match self.choice {
            EngineChoice::Native => by_native(capture),
            EngineChoice::Auto => match by_native(capture) {
                Err(refusal) if refusal.outlook == Outlook::Lasting => {
                    self.instead(capture, refusal)
                }
                result => result,
            },
            EngineChoice::Criu => {
                let criu = criu::find(&self.sought, None)
                    .map_err(|error| Refusal::lasting(format!("engine criu: {error}")))?;
                match criu.standing() {
                    Ok(_) => by_criu(capture, &criu, None),
                    Err(_) => for_criu(capture, criu),
                }
            }
        }
    }

    /// Has CRIU dump what the native engine has refused.
    fn instead(&self, capture: &Capture<'_>, native: Refusal) -> Result<Taken, Refusal> {
        // It may stand in the way of any engine, and nobody has asked for CRIU.
        let Ok(criu) = criu::find(&self.sought, None) else { return Err(native) };
        let result = criu.standing().map_err(Refusal::lasting).and_then(|_| {
            clean(capture.dir);
            by_criu(capture, &criu, Some(native.reason.clone()))
        });
        result.map_err(|refusal| match refusal.reason == native.reason {
            true => native,
            false => {
                let reason = format!("{}; {}", native.reason, refusal.reason);
                Refusal { reason, outlook: refusal.outlook }
            }
        })
    }

    /// Tells whether this run may use an entry of an engine.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, engine: &str) -> Result<(), String> {
        match (self.choice, engine) {
            (EngineChoice::Native, "criu") => {
                Err("it was captured for engine criu (--engine native)".into())
            }
            _ => Ok(()),
        }
    }

    /// Restores an entry of an engine.
    pub fn restore(&self, engine: &str, request: &Request<'_>) -> Result<Restored, CannotRestore> {
        if engine != "criu" {
            return restore::native(request);
        }
        let record = criu::record::Record::read(request.dir).ok().flatten();
        let known = record.map(|record| record.criu);
        let criu = criu::find(&self.sought, known.as_ref())
            .map_err(|error| CannotRestore::NoEngine(error.to_string()))?;
        restore::criu(request, &criu)
    }
}

fn by_native(capture: &Capture<'_>) -> Result<Taken, Refusal> {
    let frozen = snapshot::freeze(capture)?;
    Ok(Taken { write: Box::new(|| frozen.write()), engine: "native", reason: None })
}

fn by_criu(capture: &Capture<'_>, criu: &Criu, reason: Option<String>) -> Result<Taken, Refusal> {
    let snapshot = snapshot::criu::dump(capture, criu, reason.clone())?;
    Ok(Taken { write: Box::new(|| Ok(snapshot)), engine: "criu", reason })
}

/// Dumps by ourselves what CRIU may not dump here: that needs no privilege.
fn for_criu(capture: &Capture<'_>, criu: Criu) -> Result<Taken, Refusal> {
    let ready = snapshot::criu::before(capture)?;
    let frozen = snapshot::freeze(capture)?;
    let dir = capture.dir.to_path_buf();
    let write = move || snapshot::criu::make_ready(frozen, ready, &dir, &criu);
    Ok(Taken { write: Box::new(write), engine: "criu", reason: None })
}

/// Removes what a refused dump has begun to write.
fn clean(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What stays is in the next one's way, and named by it.
        let _ = fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_crius_is_not_for_who_asks_for_native() {
        let engines = |choice| Engines { choice, sought: criu::Sought::default() };
        assert!(engines(EngineChoice::Native).check("criu").is_err());
        assert_eq!(engines(EngineChoice::Native).check("native"), Ok(()));
        assert_eq!(engines(EngineChoice::Auto).check("criu"), Ok(()));
        assert_eq!(engines(EngineChoice::Criu).check("criu"), Ok(()));
    }
}
