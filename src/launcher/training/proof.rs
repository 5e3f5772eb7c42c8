//! Restored runs, held against cold ones.

use std::ffi::OsString;
use std::path::Path;

use super::fidelity::{self, Reference};
use super::maker::{Maker, Setback};
use super::scratch::Scratch;
use super::session;
use super::{Failed, STATEFUL};
use crate::cache::Tier;

impl Maker<'_> {
    /// Restores what was made and compares it with a cold run: the entry is
    /// removed if it does not behave like one.
    pub(super) fn prove(
        &mut self,
        references: &[Reference],
        tier: &mut Tier,
    ) -> Result<(), Setback> {
        let stateful = self.training.is_some_and(|training| training.allow_stateful);
        for reference in references {
            self.renew_scratch()?;
            self.log.line(&format!("a restored run: {}", fidelity::shown(&reference.arguments)));
            match self.restored(&reference.arguments) {
                Ok(ran) => {
                    let files = self.scratch.as_ref().map(Scratch::digest);
                    let Some(difference) = reference.difference(&ran, files.as_ref()) else {
                        continue;
                    };
                    let reason = format!("a restored run {difference}");
                    if stateful {
                        tier.reason.get_or_insert(format!("{reason}; {STATEFUL}"));
                        continue;
                    }
                    self.lookup.remove();
                    return Err(Setback::Lower(reason));
                }
                // Nothing was found out about the entry.
                Err(reason) => {
                    self.log.line(&format!("not compared: {reason}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Says what a restored run of the command does otherwise than a cold one.
    pub(super) fn compare(&mut self) -> Result<Option<String>, Failed> {
        self.lines.truncate(1);
        let references = match self.references() {
            Ok(references) => references,
            Err(Setback::Lower(reason)) => return Err(Failed::passing(reason)),
            Err(Setback::Failed(failed)) => return Err(failed),
        };
        for reference in &references {
            if let Err(Setback::Lower(reason)) = self.renew_scratch() {
                return Err(Failed::passing(reason));
            }
            let ran = self.restored(&reference.arguments).map_err(Failed::passing)?;
            let files = self.scratch.as_ref().map(Scratch::digest);
            if let Some(difference) = reference.difference(&ran, files.as_ref()) {
                return Ok(Some(format!("a restored run {difference}")));
            }
        }
        Ok(None)
    }

    /// Runs a line of arguments from the entry.
    fn restored(&self, arguments: &[OsString]) -> Result<session::Ran, String> {
        let status_file = self.workspace.image_dir().join("status");
        let mut command = self.cold(arguments);
        let mut argv: Vec<OsString> =
            ["warmstart", "run", "-q", "--at", "main"].map(Into::into).into();
        argv.extend(self.options.words.iter().cloned());
        argv.extend(["--require-warm".into(), "--status-file".into(), status_file.clone().into()]);
        argv.push("--".into());
        argv.extend(self.line.typed(&self.whole, arguments));
        command.argv = argv;
        let setting = self.setting(self.options.capture_timeout);
        let ran = session::run(&command, Some(Path::new("/proc/self/exe")), &setting);
        let status = std::fs::read_to_string(&status_file);
        let _ = std::fs::remove_file(&status_file);
        match status {
            Ok(status) if status.contains(r#""outcome":"restored""#) => ran,
            _ => Err("it could not be restored here".into()),
        }
    }
}
