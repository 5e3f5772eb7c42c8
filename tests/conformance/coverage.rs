//! The table of what is covered: `docs/coverage.md`.

use std::collections::BTreeMap;
use std::fmt;

use super::Chapters;
use super::ways::{ALL, Way};

/// What is wrong with a result.
#[derive(Debug)]
pub enum Complaint {
    /// It neither works nor is it refused.
    Fails(String),
    /// The table says something else.
    Differs(String),
}

impl Complaint {
    /// Whether writing the table anew would not cure it.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fails(_))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails(what) => write!(f, "FAILS: {what}"),
            Self::Differs(what) => write!(f, "docs/coverage.md: {what}"),
        }
    }
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// The program found everything as it was.
    Works,
    /// Refused by name; the program ran on.
    Refused(String),
    /// Lost, crashed or hung.
    Fails(String),
    /// The feature cannot be had on this machine.
    NotHere(String),
    /// Programs of this kind are never carried so.
    NotSo,
}

/// What the table says of a feature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// A word for each way, and why, if it is refused.
    cells: BTreeMap<Way, (String, String)>,
}

impl Row {
    /// Whether it works in every native way.
    pub fn works_natively(&self) -> bool {
        [Way::Mapped, Way::Copied, Way::Namespace].iter().all(
            |way| matches!(self.cells.get(way), Some((word, _)) if word == "works" || word == "–"),
        )
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Coverage {
    rows: BTreeMap<String, Row>,
}

const HEAD: &str = "\
# What is carried, and what is refused

This page is written by `tests/conformance.rs` from its results
(`WARMSTART_BLESS=1`), and the test fails when they differ from it. Each row is a
small program (`tests/conformance/*.c`) that prepares one thing, is dumped and
restored, and then checks itself.

| way | |
|---|---|
| mapped | dumped by warmstart, restored natively with pages mapped from the image |
| copied | the same with pages copied |
| namespace | copied, restored in a pid namespace of its own (`--pids namespace`) |
| to CRIU | dumped by warmstart, restored by `criu restore` 4.2.1 |
| from CRIU | looked at as engine `criu` does before it has CRIU dump, dumped by `criu dump` 4.2.1, restored natively |

*works*: everything is as it was. *refused*: by name, when it is dumped (images of
CRIU: when they are to be restored; *Not supported images version 3* is CRIU's word
for an image of ours of which it would lose something, see
[image-format.md](image-format.md#images-that-criu-would-not-restore-whole)), and the
program runs on as if nothing had happened. Nothing else is accepted: the test fails
where something would be lost. –: programs of this kind are never carried so, and what
a program has changed of its caller's is known only of one that warmstart has started,
not of one that is dumped. *not tried*: the feature could not be had where this page
was written.

The clock of a process's processor time can be set by nobody: it begins anew in a
restored process, and its timers keep what was left of them.
";

impl Coverage {
    /// Reads the table.
    pub fn parse(text: &str) -> Self {
        let mut rows = BTreeMap::new();
        for line in text.lines() {
            let Some(line) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"))
            else {
                continue;
            };
            let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
            if fields.len() < ALL.len() + 2 {
                continue;
            }
            let Some(name) = fields[1].strip_prefix('`').and_then(|it| it.strip_suffix('`')) else {
                continue;
            };
            let reasons: Vec<&str> = fields.last().map_or(vec![], |it| it.split("<br>").collect());
            let mut row = Row::default();
            for (way, word) in ALL.into_iter().zip(&fields[2..]) {
                let label = format!("{}: ", label(way));
                let reason = reasons.iter().find_map(|reason| reason.strip_prefix(&label));
                let reason = reason.filter(|_| *word == "refused").unwrap_or_default();
                row.cells.insert(way, ((*word).to_owned(), reason.to_owned()));
            }
            rows.insert(name.to_owned(), row);
        }
        Self { rows }
    }

    /// Takes results in; returns what differs and what fails.
    pub fn merge(&mut self, results: &BTreeMap<String, BTreeMap<Way, Cell>>) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        for (name, cells) in results {
            let row = self.rows.entry(name.clone()).or_default();
            for (way, cell) in cells {
                let (word, reason) = match cell {
                    Cell::Works => ("works", ""),
                    Cell::Refused(reason) => ("refused", reason.as_str()),
                    Cell::NotSo => ("–", ""),
                    Cell::NotHere(_) => {
                        let cell = row.cells.entry(*way).or_default();
                        // What it was elsewhere is better than nothing.
                        if !["works", "refused", "–"].contains(&cell.0.as_str()) {
                            *cell = ("not tried".into(), String::new());
                        }
                        continue;
                    }
                    Cell::Fails(why) => {
                        let what = format!("{name}, {}: {why}", way.name());
                        complaints.push(Complaint::Fails(what));
                        ("FAILS", "")
                    }
                };
                let now = (word.to_owned(), reason.to_owned());
                let before = row.cells.insert(*way, now.clone());
                // Reasons name what differs from machine to machine.
                let known = before
                    .as_ref()
                    .is_some_and(|before| before.0 == now.0 || before.0 == "not tried");
                if word != "FAILS" && !known {
                    let what = format!("{name}, {}: {before:?}, not {now:?}", way.name());
                    complaints.push(Complaint::Differs(what));
                }
            }
        }
        complaints
    }

    /// Counts rows.
    pub fn count(&self, that: impl Fn(&Row) -> bool) -> usize {
        self.rows.values().filter(|row| that(row)).count()
    }

    /// Writes the table, in the order of the cases.
    pub fn render(&self, chapters: &Chapters) -> String {
        let total: usize = chapters.iter().map(|(_, cases)| cases.len()).sum();
        let word = |row: &Row, way: Way| {
            row.cells.get(&way).map_or("not tried", |(word, _)| word.as_str()).to_owned()
        };
        let known = |name: &str| self.rows.get(name).cloned().unwrap_or_default();
        let names = || chapters.iter().flat_map(|(_, cases)| cases).map(|(name, _)| known(name));
        let mut text = HEAD.to_owned();
        let natively = names().filter(Row::works_natively).count();
        text.push_str(&format!("\n{natively} of {total} features work in every native way"));
        for way in [Way::ToCriu, Way::FromCriu] {
            let works = names().filter(|row| word(row, way) == "works").count();
            text.push_str(&format!(", {works} {}", label(way)));
        }
        text.push_str(".\n");
        for (title, cases) in chapters {
            text.push_str(&format!(
                "\n## {title}\n\n| feature | case | mapped | copied | namespace | to CRIU | from \
                 CRIU | why |\n|---|---|---|---|---|---|---|---|\n"
            ));
            for (name, title) in cases {
                let row = known(name);
                let mut reasons: Vec<String> = Vec::new();
                for way in ALL {
                    let reason = row.cells.get(&way).map_or("", |(_, reason)| reason.as_str());
                    let line = format!("{}: {reason}", label(way));
                    if !reason.is_empty() && !reasons.contains(&line) {
                        reasons.push(line);
                    }
                }
                let words: Vec<String> = ALL.iter().map(|way| word(&row, *way)).collect();
                let (words, reasons) = (words.join(" | "), reasons.join("<br>"));
                text.push_str(&format!("| {title} | `{name}` | {words} | {reasons} |\n"));
            }
        }
        text
    }
}

/// Names the ways that refuse for the same reason.
fn label(way: Way) -> &'static str {
    match way {
        Way::Mapped | Way::Copied | Way::Namespace => "native",
        Way::ToCriu => "to CRIU",
        Way::FromCriu => "from CRIU",
    }
}
