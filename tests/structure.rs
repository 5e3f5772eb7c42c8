//! The direction of dependencies, held by reading `use crate::…` and
//! `crate::…` paths in the sources (docs/architecture.md).
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules from the top to the ground. A module may use those of its own row
/// and of the rows below it, nothing above.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["failure", "ui"],
    &["launcher", "bench", "doctor"],
    &["snapshot", "restore", "readiness", "cache"],
    &["fingerprint", "jvm", "pids", "namespaces", "image", "trace", "privilege", "criu"],
    &["command"],
    &["sys"],
];

/// Exceptions, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    // Reports are rendered by those who know them, with the tables of `ui`.
    ("bench", "ui"),
    ("doctor", "ui"),
    // Whoever waits for a capture sees how it gets on.
    ("launcher", "ui"),
];

/// What must not be used in spite of the rows.
const FORBIDDEN: &[(&str, &str)] = &[
    ("cache", "restore"),
    ("cache", "snapshot"),
    ("cache", "criu"),
    ("image", "trace"),
    ("image", "pids"),
    ("fingerprint", "trace"),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let is_tests = path.file_name().is_some_and(|name| name == "tests.rs");
            if is_tests || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap();
            let first = relative.iter().next().unwrap().to_str().unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            files.push((module, relative.to_path_buf(), text));
        }
    }
    assert!(files.len() > 20, "the sources were not found");
    files
}

/// Returns the modules that a source names: `crate::x` and `crate::{x, y}`.
fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    for part in code.split("crate::").skip(1) {
        let names: Vec<&str> = match part.strip_prefix('{') {
            Some(list) => {
                // Only the heads of the outermost list: `{a::{b, c}, d}`.
                let mut depth = 0;
                let mut heads = vec![];
                let mut start = 0;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            heads.push(&list[start..at]);
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            heads.push(&list[start..at]);
                            start = at + 1;
                        }
                        _ => {}
                    }
                }
                heads
            }
            None => vec![part],
        };
        for name in names {
            let name: String = name
                .trim_start()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            found.insert(name);
        }
    }
    found
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for (module, path, text) in sources() {
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = row(&module) else {
            panic!("{}: module `{module}` has no row in this test", path.display())
        };
        for used in uses(&text).into_iter().filter(|used| *used != module) {
            let Some(theirs) = row(&used) else { continue };
            let pair = (module.as_str(), used.as_str());
            if (theirs < own && !ALLOWED.contains(&pair)) || FORBIDDEN.contains(&pair) {
                wrong.push(format!("{}: uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_two_modules_use_each_other() {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, _, text) in sources() {
        graph.entry(module).or_default().extend(uses(&text));
    }
    for (module, used) in &graph {
        for other in used.iter().filter(|other| *other != module) {
            let back = graph.get(other).is_some_and(|theirs| theirs.contains(module));
            assert!(!back, "{module} and {other} use each other");
        }
    }
}

#[test]
fn unsafe_code_is_in_sys_only() {
    for (module, path, text) in sources() {
        let has = text.contains("allow(unsafe_code)");
        assert!(module == "sys" || !has, "{}: unsafe code outside sys", path.display());
    }
}

/// What a run depends on comes in as values.
#[test]
fn only_cli_reads_argv_the_environment_and_the_directory() {
    for (module, path, text) in sources() {
        if ["cli", "main", "sys"].contains(&module.as_str()) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        // `temp_dir` reads TMPDIR.
        for call in [
            "env::var",
            "env::vars",
            "env::args",
            "env::current_dir",
            "env::home_dir",
            "env::temp_dir",
        ] {
            assert!(!code.contains(call), "{}: {call}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (_, path, text) in sources() {
        assert!(text.starts_with("//!"), "{}: no module documentation", path.display());
    }
}

#[test]
fn paths_are_found_in_all_spellings() {
    let text = "use crate::a::B;\nuse crate::{c::{self, D}, e, f::G};\nlet x = crate::h();\n// crate::no\n";
    let found: Vec<String> = uses(text).into_iter().collect();
    assert_eq!(found, ["a", "c", "e", "f", "h"]);
}
