//! What came out: for people, as JSON, as a picture.

use serde::Serialize;

use super::against::{Contender, Facts};
use super::rounds::Outcomes;
use super::run::Outcome;
use super::{Mark, Summary, svg};
use crate::command::Command;
use crate::ui::{Align, Table, bytes, millis};

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
    /// The exit status of every run that counts; `None` if the mark was
    /// another than the end.
    pub exit_status: Option<i32>,
    /// The command itself.
    pub cold: Side,
    /// The command restored.
    pub restored: Side,
    /// Cold over restored, of the two runs of each round.
    pub ratio: Option<Summary>,
    /// The launcher's own figure of the restored runs, in milliseconds: from
    /// its start to the release of the program.
    pub launcher_ms: Option<Summary>,
    /// What else was measured.
    pub against: Vec<Against>,
}

/// The runs with an alternative.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// Its name on the command line.
    pub name: &'static str,
    /// Why there are no runs.
    pub unavailable: Option<String>,
    /// Its archive, of a JDK's.
    pub archive: Option<Facts>,
    /// Its runs.
    #[serde(flatten)]
    pub side: Side,
    /// Cold over this, of the two runs of each round.
    pub ratio: Option<Summary>,
    /// This over restored, of the two runs of each round.
    pub restored_ratio: Option<Summary>,
}

/// One kind of run.
pub(super) struct Row<'a> {
    pub(super) name: &'static str,
    pub(super) side: &'a Side,
    /// How many times faster than cold.
    ratio: Option<&'a Summary>,
}

impl Report {
    /// Sums up the outcomes of all rounds.
    pub(super) fn of(
        command: &Command,
        mark: &Mark,
        contenders: Vec<Contender>,
        mut outcomes: Outcomes,
    ) -> Self {
        let exit_status = outcomes.agree().and_then(|end| end.code());
        let Outcomes { cold, restored, against } = outcomes;
        let launcher: Vec<f64> =
            restored.iter().filter_map(|outcome| outcome.as_ref().ok()?.launcher_ms).collect();
        let against = contenders.into_iter().zip(against).map(|(contender, own)| {
            let (archive, unavailable) = match contender.archive {
                Ok(archive) => (archive.facts, None),
                Err(why) => (None, Some(why)),
            };
            Against {
                name: contender.alternative.name(),
                unavailable,
                archive,
                ratio: ratio(&cold, &own),
                restored_ratio: ratio(&own, &restored),
                side: Side::of(own),
            }
        });
        Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            command: command.argv.iter().map(|w| w.to_string_lossy().into_owned()).collect(),
            until: mark.to_string(),
            exit_status,
            against: against.collect(),
            ratio: ratio(&cold, &restored),
            cold: Side::of(cold),
            restored: Side::of(restored),
            launcher_ms: Summary::of(&launcher),
        }
    }

    /// Returns all kinds of run, in the order in which they are shown.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let row = |name, side, ratio| Row { name, side, ratio };
        let own =
            [row("cold", &self.cold, None), row("restored", &self.restored, self.ratio.as_ref())];
        let against = self.against.iter().map(|it| row(it.name, &it.side, it.ratio.as_ref()));
        own.into_iter().chain(against).collect()
    }

    /// Tells whether every run counts.
    pub fn complete(&self) -> bool {
        self.rows().iter().all(|row| row.side.failed.is_empty())
    }

    /// Renders the report for people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\ntimed: {}", self.command.join(" "), self.until);
        if let Some(status) = self.exit_status.filter(|status| *status != 0) {
            text.push_str(&format!(", with status {status}"));
        }
        text.push_str("\n\n");
        text.push_str(&self.table().render());
        let restored = |ratio, other| faster("restored", ratio, other);
        let ratios = [self.ratio.as_ref().map(|ratio| restored(ratio, "cold"))].into_iter().chain(
            self.against
                .iter()
                .map(|it| it.restored_ratio.as_ref().map(|ratio| restored(ratio, it.name))),
        );
        for (index, line) in ratios.flatten().enumerate() {
            text.push_str(if index == 0 { "\n" } else { "" });
            text.push_str(&line);
        }
        if let Some(launcher) = &self.launcher_ms {
            let (median, mad) = (millis(launcher.median), millis(launcher.mad));
            text.push_str(&format!("restored, of which in the launcher: {median} ms ± {mad}\n"));
        }
        for it in &self.against {
            text.push_str(&it.to_text());
        }
        for row in self.rows() {
            for failed in &row.side.failed {
                let (name, round) = (row.name, failed.round);
                let line = format!("does not count: {name} run {round}: {}\n", failed.reason);
                text.push_str(&line);
            }
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            (if self.exit_status.is_some() { "ms to the end" } else { "ms to ready" }, Align::Left),
            ("median", Align::Right),
            ("± MAD", Align::Right),
            ("q1", Align::Right),
            ("q3", Align::Right),
            ("min", Align::Right),
            ("max", Align::Right),
            ("runs", Align::Right),
            ("× faster", Align::Right),
        ]);
        for row in self.rows() {
            match &row.side.summary_ms {
                Some(s) => {
                    let figures = [s.median, s.mad, s.q1, s.q3, s.min, s.max].map(millis);
                    let ratio = row.ratio.map(|ratio| format!("{:.1}", ratio.median));
                    let ends = [s.n.to_string(), ratio.unwrap_or_default()];
                    table.row(std::iter::once(row.name.into()).chain(figures).chain(ends));
                }
                None => table.row([row.name.to_owned(), "none".to_owned()]),
            }
        }
        table
    }

    /// Draws the report.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

impl Against {
    fn to_text(&self) -> String {
        let name = self.name;
        let archive = self.archive.as_ref().map(|facts| {
            format!(
                "{name}: an archive of {}, made in {:.1} s; {} of {} classes come from it\n",
                bytes(facts.len_bytes),
                facts.made_ms / 1000.0,
                facts.classes_archived,
                facts.classes,
            )
        });
        let unavailable =
            self.unavailable.as_ref().map(|why| format!("{name}: not measured: {why}\n"));
        archive.or(unavailable).unwrap_or_default()
    }
}

/// Divides the runs of one kind by those of another, round by round.
fn ratio(above: &[Outcome], below: &[Outcome]) -> Option<Summary> {
    let both = above.iter().zip(below);
    let ratios = both.filter_map(|(a, b)| Some(a.as_ref().ok()?.ms / b.as_ref().ok()?.ms));
    Summary::of(&ratios.collect::<Vec<_>>())
}

/// Says how much faster or slower one kind is than another.
fn faster(name: &str, ratio: &Summary, other: &str) -> String {
    let (word, median, q1, q3) = match ratio.median {
        median if median >= 1.0 => ("faster", median, ratio.q1, ratio.q3),
        median => ("slower", 1.0 / median, 1.0 / ratio.q3, 1.0 / ratio.q1),
    };
    format!(
        "{name} is {median:.1} times {word} than {other} (median; a quarter of the rounds below \
         {q1:.1}, a quarter above {q3:.1})\n"
    )
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
    use crate::bench::Alternative;
    use crate::bench::against::Archive;
    use crate::bench::run::Sample;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    pub(in crate::bench) fn example() -> Report {
        let cold = |ms| Ok(Sample { ms, launcher_ms: None, end: None });
        let restored = |ms| Ok(Sample { ms, launcher_ms: Some(2.5), end: None });
        let outcomes = Outcomes {
            cold: vec![cold(1900.0), cold(2000.0), cold(1850.5), cold(2100.0)],
            restored: vec![
                restored(44.0),
                restored(40.0),
                Err("started cold: pid 77 is taken".into()),
                restored(50.0),
            ],
            against: Vec::new(),
        };
        let mark = "http:8080/".parse().unwrap();
        Report::of(&command(&["java", "-jar", "a<b>&.jar"]), &mark, Vec::new(), outcomes)
    }

    fn command(words: &[&str]) -> Command {
        Command {
            argv: words.iter().map(|word| word.into()).collect(),
            env: Vec::new(),
            cwd: "/".into(),
        }
    }

    pub(in crate::bench) fn example_against() -> Report {
        let ended = |ms, code: i32| {
            let end = Some(ExitStatus::from_raw(code << 8));
            Ok(Sample { ms, launcher_ms: None, end })
        };
        let command = command(&["javac", "A.java"]);
        let facts =
            Facts { len_bytes: 24_686_592, made_ms: 2477.0, classes: 2335, classes_archived: 2300 };
        let facts = Some(facts);
        let archive = Ok(Archive { command: command.clone(), facts, through: None });
        let contenders = vec![
            Contender { alternative: Alternative::AotCache, archive },
            Contender {
                alternative: Alternative::AppCds,
                archive: Err("the program ended with status 4".into()),
            },
        ];
        let outcomes = Outcomes {
            cold: vec![ended(800.0, 1), ended(820.0, 1)],
            restored: vec![ended(100.0, 1), ended(103.0, 1)],
            against: vec![vec![ended(400.0, 1), ended(410.0, 1), ended(5.0, 0)], vec![]],
        };
        Report::of(&command, &Mark::Exit, contenders, outcomes)
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(example().to_text(), @r"
        java -jar a<b>&.jar
        timed: first HTTP answer of http://localhost:8080/

        ms to ready  median  ± MAD    q1    q3   min   max  runs  × faster
        cold           1950   74.8  1888  2025  1850  2100     4
        restored       44.0   4.00  42.0  47.0  40.0  50.0     3      43.2

        restored is 43.2 times faster than cold (median; a quarter of the rounds below 42.6, a quarter above 46.6)
        restored, of which in the launcher: 2.50 ms ± 0.00
        does not count: restored run 3: started cold: pid 77 is taken
        ");
    }

    #[test]
    fn text_against() {
        insta::assert_snapshot!(example_against().to_text(), @r"
        javac A.java
        timed: end of the program, with status 1

        ms to the end  median  ± MAD   q1   q3  min  max  runs  × faster
        cold              810   10.0  805  815  800  820     2
        restored          102   1.50  101  102  100  103     2       8.0
        aot-cache         405   5.00  402  408  400  410     2       2.0
        appcds           none

        restored is 8.0 times faster than cold (median; a quarter of the rounds below 8.0, a quarter above 8.0)
        restored is 4.0 times faster than aot-cache (median; a quarter of the rounds below 4.0, a quarter above 4.0)
        aot-cache: an archive of 24.7 MB, made in 2.5 s; 2300 of 2335 classes come from it
        appcds: not measured: the program ended with status 4
        does not count: aot-cache run 3: ended with status 0, the first cold run ended with status 1
        ");
    }

    #[test]
    fn json_against() {
        let json = serde_json::to_value(example_against()).unwrap();
        assert_eq!(json["exit_status"], 1);
        let [cache, cds] = &json["against"].as_array().unwrap()[..] else { panic!("{json}") };
        assert_eq!(cache["name"], "aot-cache");
        assert_eq!(cache["samples_ms"], serde_json::json!([400.0, 410.0]));
        assert_eq!(cache["failed"][0]["round"], 3);
        assert_eq!(cache["ratio"]["median"], 2.0);
        assert!(cache["restored_ratio"]["median"].as_f64() > Some(3.9));
        assert_eq!(cache["archive"]["classes_archived"], 2300);
        assert_eq!(cds["unavailable"], "the program ended with status 4");
        assert_eq!(cds["summary_ms"], serde_json::Value::Null);
    }

    #[test]
    fn slower_is_said_so() {
        let ratio = Summary::of(&[0.5, 0.4, 0.8]).unwrap();
        assert_eq!(
            faster("restored", &ratio, "cold"),
            "restored is 2.0 times slower than cold (median; a quarter of the rounds below 1.5, \
             a quarter above 2.2)\n"
        );
    }

    #[test]
    fn a_round_without_both_runs_has_no_ratio() {
        let report = example();
        assert_eq!(report.ratio.unwrap().n, 3);
        assert!(!report.complete());
    }

    #[test]
    fn nothing_but_failures_is_still_a_report() {
        let outcomes = Outcomes {
            cold: vec![Err("a".into())],
            restored: vec![Err("b".into())],
            against: Vec::new(),
        };
        let report = Report::of(&command(&["x"]), &Mark::Exit, Vec::new(), outcomes);
        assert_eq!(report.ratio, None);
        assert!(report.to_text().contains("does not count: cold run 1: a"));
        assert!(report.to_svg().ends_with("</svg>\n"));
    }
}
