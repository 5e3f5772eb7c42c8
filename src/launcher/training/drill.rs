//! The training itself: `main` runs, and each run is held against a cold one.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::fidelity::{self, Reference};
use super::maker::{Maker, ORDER, Setback};
use super::scratch::Scratch;
use super::session::{self, Session};
use super::{Failed, STATEFUL};
use crate::cache::Tier;
use crate::command::Command;
use crate::jvm::agent::{self, Delivery, Order};

/// How long threads that training left behind may take to end.
const LEFT_THREADS: Duration = Duration::from_secs(2);
/// How many classes are linked, at most.
const CLASSES_MAX: usize = 100_000;

impl Maker<'_> {
    /// Trains, and compares each run with a cold one.
    pub(super) fn train(
        &mut self,
        session: &mut Session,
        references: &[Reference],
        tier: &mut Tier,
    ) -> Result<(), Setback> {
        let Some(training) = self.training else { return Ok(()) };
        let open: Vec<RawFd> = session.writes().into_iter().map(|(fd, _)| fd).collect();
        for round in 1..=training.runs {
            for reference in references {
                self.renew_scratch()?;
                self.log.line(&format!(
                    "training, run {round} of {}: {}",
                    training.runs,
                    fidelity::shown(&reference.arguments)
                ));
                let command = self.cold(&reference.arguments);
                let ran = self.train_once(session, &command, &reference.arguments, &round)?;
                tier.runs += 1;
                let left: Vec<_> =
                    session.writes().into_iter().filter(|(fd, _)| !open.contains(fd)).collect();
                if let [(fd, path), ..] = left.as_slice() {
                    self.record_classes(session);
                    return Err(Setback::Lower(format!(
                        "training run {round} left descriptor {fd} open, which writes to {}",
                        path.display()
                    )));
                }
                let files = self.scratch.as_ref().map(Scratch::digest);
                let Some(difference) = reference.difference(&ran, files.as_ref()) else { continue };
                let reason = format!("training run {round} {difference}");
                if training.allow_stateful {
                    tier.reason.get_or_insert(format!("{reason}; {STATEFUL}"));
                    continue;
                }
                self.record_classes(session);
                return Err(Setback::Lower(reason));
            }
        }
        Ok(())
    }

    /// Runs `main` once as training.
    fn train_once(
        &mut self,
        session: &mut Session,
        command: &Command,
        arguments: &[OsString],
        round: &dyn std::fmt::Display,
    ) -> Result<session::Ran, Setback> {
        let wait_ms = u32::try_from(LEFT_THREADS.as_millis()).unwrap_or(u32::MAX);
        let command = command.clone();
        let order = Order::Train {
            wait_ms,
            command: Delivery {
                args: arguments.to_vec(),
                argv: command.argv,
                env: command.env,
                cwd: command.cwd,
            },
        };
        let left = self.end.saturating_duration_since(Instant::now());
        session
            .train(&order, self.options.capture_timeout.min(left))
            .map_err(|reason| Setback::Lower(format!("training run {round}: {reason}")))
    }

    /// Runs the lines of arguments in an empty directory as well, and compares:
    /// what a program keeps of the directory that it was trained in shows there.
    /// Not where the JVM itself depends on the directory, which is in the key.
    pub(super) fn train_elsewhere(
        &mut self,
        session: &mut Session,
        references: &[Reference],
    ) -> Result<(), Setback> {
        if self.line.is_relative || self.training.is_some_and(|training| training.allow_stateful) {
            return Ok(());
        }
        let passing =
            |error: std::io::Error| Failed::passing(format!("an empty directory: {error}"));
        let place = self.workspace.image_dir();
        let (nothing, path) = (place.join("nothing"), place.join("elsewhere"));
        std::fs::create_dir_all(&nothing).map_err(passing)?;
        let mut elsewhere = Scratch::new(&nothing, &path).map_err(passing)?;
        for reference in references {
            let arguments = &reference.arguments;
            self.log.line(&format!("in an empty directory: {}", fidelity::shown(arguments)));
            elsewhere.renew().map_err(passing)?;
            let command = Command { cwd: path.clone(), ..self.cold(arguments) };
            let setting = self.setting(self.options.capture_timeout);
            let program = Some(self.line.program.as_path());
            let ran = match session::run(&command, program, &setting) {
                Ok(ran) => ran,
                // A program that waits for something there says nothing.
                Err(reason) => {
                    self.log.line(&format!("not compared: {reason}"));
                    continue;
                }
            };
            let files = Some(elsewhere.digest());
            let cold = Reference { arguments: arguments.clone(), ran, files };
            elsewhere.renew().map_err(passing)?;
            let ran = self.train_once(session, &command, arguments, &"elsewhere")?;
            if let Some(difference) = cold.difference(&ran, Some(&elsewhere.digest())) {
                self.record_classes(session);
                let reason = format!("a training run in an empty directory {difference}");
                return Err(Setback::Lower(reason));
            }
        }
        Ok(())
    }

    /// Asks for the classes of a JVM that will not be captured.
    fn record_classes(&mut self, session: &mut Session) {
        if let Ok(agent::Report::Classes(classes)) = session.order(&Order::Classes, ORDER) {
            self.log.line(&format!("{} classes were recorded", classes.len()));
            self.classes = classes;
            self.classes.truncate(CLASSES_MAX);
        }
    }

    pub(super) fn link(&mut self, session: &mut Session) -> Result<(), Setback> {
        let order = Order::Link(std::mem::take(&mut self.classes));
        match session.order(&order, ORDER) {
            Ok(agent::Report::End(end)) if end.how != agent::How::Refused => {
                self.log.line(&format!("{} classes were linked", end.code));
                Ok(())
            }
            Ok(other) => Err(Setback::Lower(format!("linking: {other:?}"))),
            Err(reason) => Err(Setback::Lower(format!("linking: {reason}"))),
        }
    }
}
