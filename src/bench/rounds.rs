//! The rounds: one run of each kind in each, in turn.

use std::process::ExitStatus;

use super::against::{Archive, Contender};
use super::process::{Scratch, describe};
use super::run::{self, Outcome};
use super::{BenchError, Mark, Options, Stage};
use crate::command::Command;

/// Every run of each kind, in the order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// The command itself.
    pub(super) cold: Vec<Outcome>,
    /// The command restored.
    pub(super) restored: Vec<Outcome>,
    /// The command with each contender; none of one that is not available.
    pub(super) against: Vec<Vec<Outcome>>,
}

/// Runs all rounds. Each begins one kind further than the one before: what
/// runs first after a pause, or after a run that left much behind, is not
/// always of the same kind.
pub(super) fn run(
    command: &Command,
    options: &Options,
    mark: &Mark,
    contenders: &[Contender],
    scratch: &Scratch,
    mut progress: impl FnMut(Stage),
) -> Result<Outcomes, BenchError> {
    let kinds = kinds(contenders);
    let mut outcomes = Outcomes {
        against: contenders.iter().map(|_| Vec::new()).collect(),
        ..Outcomes::default()
    };
    for round in 1..=options.runs {
        for turn in 0..kinds.len() {
            match kinds[(round as usize - 1 + turn) % kinds.len()] {
                Kind::Cold => {
                    progress(Stage::Cold(round));
                    outcomes.cold.push(run::plain(command, mark, options.timeout)?);
                }
                Kind::Restored => {
                    progress(Stage::Restored(round));
                    outcomes.restored.push(run::restored(command, options, mark, scratch)?);
                }
                Kind::Against(index, archive) => {
                    progress(Stage::Against(contenders[index].alternative, round));
                    let outcome = match &archive.through {
                        Some(words) => {
                            let launcher_options = words.clone();
                            let options = Options { launcher_options, ..options.clone() };
                            run::restored(command, &options, mark, scratch)?
                        }
                        None => run::plain(&archive.command, mark, options.timeout)?,
                    };
                    outcomes.against[index].push(outcome);
                }
            }
        }
    }
    Ok(outcomes)
}

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Cold,
    Restored,
    /// The contender of this index.
    Against(usize, &'a Archive),
}

fn kinds(contenders: &[Contender]) -> Vec<Kind<'_>> {
    let usable = contenders.iter().enumerate().filter_map(|(index, contender)| {
        Some(Kind::Against(index, contender.archive.as_ref().ok()?))
    });
    [Kind::Cold, Kind::Restored].into_iter().chain(usable).collect()
}

impl Outcomes {
    /// Takes out the runs that ended with another status than the first cold
    /// run that counts: whatever they did, it was not the same. Returns that
    /// status; `None` if the mark was not the end.
    pub(super) fn agree(&mut self) -> Option<ExitStatus> {
        let first = self.cold.iter().find_map(|outcome| outcome.as_ref().ok()?.end)?;
        let all = [&mut self.cold, &mut self.restored].into_iter().chain(&mut self.against);
        for outcome in all.flatten() {
            let end = outcome.as_ref().ok().and_then(|sample| sample.end);
            if let Some(end) = end.filter(|end| *end != first) {
                *outcome =
                    Err(format!("{}, the first cold run {}", describe(end), describe(first)));
            }
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::run::Sample;
    use std::os::unix::process::ExitStatusExt;

    fn ended(code: i32) -> Outcome {
        let end = Some(ExitStatus::from_raw(code << 8));
        Ok(Sample { ms: 1.0, launcher_ms: None, end })
    }

    #[test]
    fn a_run_that_ends_otherwise_does_not_count() {
        let mut outcomes = Outcomes {
            cold: vec![Err("killed".into()), ended(1), ended(1)],
            restored: vec![ended(1), ended(0), Err("started cold".into())],
            against: vec![vec![ended(2)], vec![]],
        };
        assert_eq!(outcomes.agree().and_then(|end| end.code()), Some(1));
        assert_eq!(outcomes.cold, [Err("killed".into()), ended(1), ended(1)]);
        assert_eq!(outcomes.restored[0], ended(1));
        let reason = outcomes.restored[1].as_ref().unwrap_err();
        assert_eq!(reason, "ended with status 0, the first cold run ended with status 1");
        assert_eq!(outcomes.restored[2], Err("started cold".into()));
        assert!(outcomes.against[0][0].is_err());
    }

    #[test]
    fn without_an_end_nothing_is_compared() {
        let sample = Ok(Sample { ms: 1.0, launcher_ms: None, end: None });
        let mut outcomes = Outcomes {
            cold: vec![sample.clone()],
            restored: vec![sample.clone()],
            against: Vec::new(),
        };
        assert_eq!(outcomes.agree(), None);
        assert_eq!(outcomes.restored, [sample]);
    }
}
