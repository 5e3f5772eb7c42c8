//! What came out: for people, as JSON, as a picture.

use serde::Serialize;

use super::run::Outcome;
use super::{Mark, Summary, svg};
use crate::command::Command;
use crate::ui::{Align, Table, millis};

/// The runs of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Each run that counts, in milliseconds, in order.
    pub samples_ms: Vec<f64>,
    /// Summed up; `None` if no run counts.
    pub summary_ms: Option<Summary>,
    /// Runs that do not count.
    pub failed: Vec<Failed>,
}

/// A run that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its round, from 1.
    pub round: usize,
    /// Why it does not.
    pub reason: String,
}

/// What `bench` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of the JSON form.
    pub schema_version: u32,
    /// Of warmstart.
    pub version: &'static str,
    /// The command; bytes that are no UTF-8 are replaced.
    pub command: Vec<String>,
    /// What was timed.
    pub until: String,
    /// The command itself.
    pub cold: Side,
    /// The command restored.
    pub restored: Side,
    /// Cold over restored, of the two runs of each round.
    pub ratio: Option<Summary>,
    /// The launcher's own figure of the restored runs, in milliseconds: from
    /// its start to the release of the program.
    pub launcher_ms: Option<Summary>,
}

impl Report {
    /// Sums up the rounds, each a cold and a restored run.
    pub(super) fn of(command: &Command, mark: &Mark, rounds: Vec<(Outcome, Outcome)>) -> Self {
        let ratios: Vec<f64> = rounds
            .iter()
            .filter_map(|(cold, restored)| {
                Some(cold.as_ref().ok()?.ms / restored.as_ref().ok()?.ms)
            })
            .collect();
        let launcher: Vec<f64> =
            rounds.iter().filter_map(|(_, restored)| restored.as_ref().ok()?.launcher_ms).collect();
        let (cold, restored): (Vec<Outcome>, Vec<Outcome>) = rounds.into_iter().unzip();
        Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            command: command.argv.iter().map(|w| w.to_string_lossy().into_owned()).collect(),
            until: mark.to_string(),
            cold: Side::of(cold),
            restored: Side::of(restored),
            ratio: Summary::of(&ratios),
            launcher_ms: Summary::of(&launcher),
        }
    }

    /// Tells whether every run counts.
    pub fn complete(&self) -> bool {
        self.cold.failed.is_empty() && self.restored.failed.is_empty()
    }

    /// Renders the report for people.
    pub fn to_text(&self) -> String {
        let mut table = Table::new(&[
            ("ms to ready", Align::Left),
            ("median", Align::Right),
            ("± MAD", Align::Right),
            ("q1", Align::Right),
            ("q3", Align::Right),
            ("min", Align::Right),
            ("max", Align::Right),
            ("runs", Align::Right),
        ]);
        for (name, summary) in
            [("cold", &self.cold.summary_ms), ("restored", &self.restored.summary_ms)]
        {
            match summary {
                Some(s) => {
                    let figures = [s.median, s.mad, s.q1, s.q3, s.min, s.max].map(millis);
                    table.row(std::iter::once(name.into()).chain(figures).chain([s.n.to_string()]));
                }
                None => table.row([name.to_owned(), "none".to_owned()]),
            }
        }
        let mut text = format!("{}\ntimed: {}\n\n", self.command.join(" "), self.until);
        text.push_str(&table.render());
        if let Some(ratio) = &self.ratio {
            text.push_str(&format!(
                "\nrestored is {:.1} times faster (median; a quarter of the rounds below {:.1}, a quarter above {:.1})\n",
                ratio.median, ratio.q1, ratio.q3
            ));
        }
        if let Some(launcher) = &self.launcher_ms {
            let (median, mad) = (millis(launcher.median), millis(launcher.mad));
            text.push_str(&format!("of which in the launcher: {median} ms ± {mad}\n"));
        }
        for (name, side) in [("cold", &self.cold), ("restored", &self.restored)] {
            for failed in &side.failed {
                text.push_str(&format!(
                    "does not count: {name} run {}: {}\n",
                    failed.round, failed.reason
                ));
            }
        }
        text
    }

    /// Draws the report.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

impl Side {
    fn of(outcomes: Vec<Outcome>) -> Self {
        let mut samples_ms = Vec::new();
        let mut failed = Vec::new();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(sample) => samples_ms.push(sample.ms),
                Err(reason) => failed.push(Failed { round: index + 1, reason }),
            }
        }
        Self { summary_ms: Summary::of(&samples_ms), samples_ms, failed }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::run::Sample;

    pub(in crate::bench) fn example() -> Report {
        let command = Command {
            argv: vec!["java".into(), "-jar".into(), "a<b>&.jar".into()],
            env: Vec::new(),
            cwd: "/".into(),
        };
        let cold = |ms| Ok(Sample { ms, launcher_ms: None });
        let restored = |ms| Ok(Sample { ms, launcher_ms: Some(2.5) });
        let rounds = vec![
            (cold(1900.0), restored(44.0)),
            (cold(2000.0), restored(40.0)),
            (cold(1850.5), Err("started cold: pid 77 is taken".into())),
            (cold(2100.0), restored(50.0)),
        ];
        Report::of(&command, &"http:8080/".parse().unwrap(), rounds)
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(example().to_text(), @r"
        java -jar a<b>&.jar
        timed: first HTTP answer of http://localhost:8080/

        ms to ready  median  ± MAD    q1    q3   min   max  runs
        cold           1950   74.8  1888  2025  1850  2100     4
        restored       44.0   4.00  42.0  47.0  40.0  50.0     3

        restored is 43.2 times faster (median; a quarter of the rounds below 42.6, a quarter above 46.6)
        of which in the launcher: 2.50 ms ± 0.00
        does not count: restored run 3: started cold: pid 77 is taken
        ");
    }

    #[test]
    fn a_round_without_both_runs_has_no_ratio() {
        let report = example();
        assert_eq!(report.ratio.unwrap().n, 3);
        assert!(!report.complete());
    }

    #[test]
    fn nothing_but_failures_is_still_a_report() {
        let command = Command { argv: vec!["x".into()], env: Vec::new(), cwd: "/".into() };
        let rounds = vec![(Err("a".into()), Err("b".into()))];
        let report = Report::of(&command, &Mark::Exit, rounds);
        assert_eq!(report.ratio, None);
        assert!(report.to_text().contains("does not count: cold run 1: a"));
        assert!(report.to_svg().ends_with("</svg>\n"));
    }
}
