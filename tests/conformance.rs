//! Which features of the kernel survive a restore, and in which way.
//!
//! `tests/conformance/*.c` has a case for each feature: a small program that
//! checks itself. Each is run without a restore first, and then carried in every
//! way: mapped, copied, into a namespace, from our dump through `criu restore`
//! and from a dump of CRIU through us. A cell of the table is "works" or
//! "refused", by name and before anything is lost; all else fails the test. The
//! table is `docs/coverage.md`: results that differ from it fail the test, too,
//! and `WARMSTART_BLESS=1` writes it anew.
//!
//! `WARMSTART_CASES=a,b` runs these cases only, and shows what they say;
//! `WARMSTART_REPEAT=N` runs each N times.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Bench, Case};
use coverage::{Cell, Coverage};
use ways::Way;

#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/coverage.rs"]
mod coverage;
mod support;
#[path = "conformance/ways.rs"]
mod ways;

/// The groups of cases: a file and a chapter each.
const GROUPS: &[(&str, &str)] = &[
    ("memory", "Memory"),
    ("cpu", "The processor"),
    ("signals", "Signals and timers"),
    ("process", "The process"),
    ("descriptors", "Descriptors"),
    ("waits", "Threads and waiting"),
    ("sockets", "Sockets"),
    ("trees", "Process trees"),
];

/// How many features must work in every native way at least.
const LEAST_NATIVE: usize = 110;

#[test]
fn native_restores() {
    run(&[Way::Mapped, Way::Copied, Way::Namespace]);
}

#[test]
fn exchange_with_criu() {
    run(&[Way::ToCriu, Way::FromCriu]);
}

/// Two tests that write the table.
static WRITING: Mutex<()> = Mutex::new(());

fn run(ways: &[Way]) {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root may choose pids with this build of the binary");
    }
    if ways.contains(&Way::ToCriu) && case::criu().is_none() {
        skip!("CRIU 4.2 is missing; scripts/get-criu brings it");
    }
    support::session::settle();
    let dir = support::cache();
    let (cases, chapters) = match compile(dir.path()) {
        Ok(compiled) => compiled,
        Err(missing) => skip!("{missing}"),
    };
    let only = std::env::var("WARMSTART_CASES").ok();
    let chosen: Vec<&Case> = cases
        .iter()
        .filter(|case| only.as_ref().is_none_or(|only| only.split(',').any(|it| it == case.name)))
        .collect();
    assert!(!chosen.is_empty(), "there is no such case");
    let results = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    // Most of a case is waiting.
    let workers = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let cells = carry(case, ways, dir.path());
                    results.lock().unwrap().insert(case.name.clone(), cells);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    if only.is_some() {
        eprintln!("{results:#?}");
    }
    // The other test may have failed with it.
    let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/coverage.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let mut coverage = Coverage::parse(&before);
    let mut complaints = coverage.merge(&results);
    let after = coverage.render(&chapters);
    let bless = std::env::var_os("WARMSTART_BLESS").is_some_and(|value| value == "1");
    if bless {
        std::fs::write(&path, &after).unwrap();
    }
    complaints.retain(|complaint| !bless || complaint.is_failure());
    let complaints: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(
        complaints.is_empty(),
        "{}\n\nWARMSTART_BLESS=1 writes docs/coverage.md anew",
        complaints.join("\n")
    );
    if ways.contains(&Way::Copied) && only.is_none() {
        let works = coverage.count(|row| row.works_natively());
        assert!(works >= LEAST_NATIVE, "only {works} features work");
    }
}

/// Runs one case in each way.
fn carry(case: &Case, ways: &[Way], dir: &Path) -> BTreeMap<Way, Cell> {
    let mut cells = BTreeMap::new();
    let bench = |name: &str| Bench::new(case, &dir.join(&case.name).join(name));
    // The check itself must be right before it says anything of a restore.
    let alone = bench(&format!("alone-{}", ways[0].name())).without_restore();
    if alone != Cell::Works {
        if let Cell::NotHere(why) = &alone {
            eprintln!("SKIP: {}: {why}", case.name);
        }
        return ways.iter().map(|way| (*way, alone.clone())).collect();
    }
    for way in ways {
        for round in 0..support::repetitions(1) {
            let cell = way.carry(bench(&format!("{}-{round}", way.name())));
            let worse = cells.get(way).is_none_or(|before| *before == Cell::Works);
            if worse {
                cells.insert(*way, cell);
            }
        }
    }
    cells
}

/// A chapter's title, and the names and titles of its cases.
type Chapters = Vec<(&'static str, Vec<(String, String)>)>;

/// Compiles all groups and lists their cases; an error says what is missing.
fn compile(dir: &Path) -> Result<(Vec<Case>, Chapters), String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let compilers: Vec<_> = GROUPS
        .iter()
        .map(|(group, _)| {
            let mut command = Command::new("cc");
            command.args(["-O1", "-Wall", "-Werror", "-pthread", "-o"]).arg(dir.join(group));
            command.arg(sources.join(format!("{group}.c"))).args(["-ldl", "-lm", "-lrt"]);
            command.spawn().map_err(|error| format!("there is no C compiler: {error}"))
        })
        .collect::<Result<_, _>>()?;
    for mut compiler in compilers {
        assert!(compiler.wait().unwrap().success(), "the cases do not compile");
    }
    let mut cases = Vec::new();
    let mut chapters = Vec::new();
    for (group, title) in GROUPS {
        let program = dir.join(group);
        let output = Command::new(&program).arg("list").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed: Vec<Case> =
            support::stdout(&output).lines().map(|line| Case::parse(&program, line)).collect();
        chapters.push((
            *title,
            listed.iter().map(|case| (case.name.clone(), case.title.clone())).collect(),
        ));
        cases.extend(listed);
    }
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(all, names.len(), "two cases have the same name");
    Ok((cases, chapters))
}
