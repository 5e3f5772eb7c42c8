//! The inputs of a program on a JVM.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use super::collector::{Collector, Found};
use super::directory::Extent;
use super::memory::Note;
use super::{FingerprintError, Point};
use crate::command::Command;
use crate::jvm::options::{self, Options};
use crate::jvm::{Home, manifest};

/// Jars and directories of one program, at most: a manifest may name others
/// without end.
const PLACES_MAX: usize = 20_000;

/// Adds the JVM, its options' files and all that classes are loaded from.
pub(super) fn collect(
    collector: &mut Collector<'_>,
    home: &Home,
    argv: &[OsString],
    command: &Command,
    point: Point,
) -> Result<(), FingerprintError> {
    for file in home.files() {
        collector.file("JVM file", &file)?;
    }
    for file in ["/etc/localtime", "/etc/timezone"] {
        collector.file("time zone", Path::new(file))?;
    }
    let options = options::read(home.tool(), argv, command);
    if point == Point::Main && options.is_relative() {
        collector.working_directory();
    }
    let Options { class_path, module_path, agents, source, files, in_cwd, .. } = options;
    for file in files {
        collector.file("JVM option file", &file)?;
    }
    // Nothing of the program has run before `main`.
    if point == Point::Ready {
        for file in in_cwd {
            collector.file("JVM option file", &file)?;
        }
    }
    let mut places = Places { collector, seen: FxHashSet::default(), real_cwd: None };
    for place in module_path {
        places.add(&place, Manifest::Ignored)?;
    }
    for place in agents.iter().chain(&class_path) {
        places.wildcard(place)?;
    }
    if let Some(source) = source {
        // Since 22 the launcher compiles the sources around it as well.
        collector.file("source", &source)?;
        let dir = source.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        collector.directory("source directory", dir, Extent::Workplace)?;
    }
    Ok(())
}

/// Whether a jar's manifest may lead to further jars.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manifest {
    Read,
    Ignored,
}

struct Places<'a, 'b> {
    collector: &'a mut Collector<'b>,
    seen: FxHashSet<PathBuf>,
    real_cwd: Option<PathBuf>,
}

impl Places<'_, '_> {
    /// Adds a place of the class path; `dir/*` is all jars of a directory.
    fn wildcard(&mut self, place: &Path) -> Result<(), FingerprintError> {
        if place.file_name() != Some(OsStr::new("*")) {
            return self.add(place, Manifest::Read);
        }
        let dir = self.collector.cwd().join(place.parent().unwrap_or(Path::new("")));
        let entries = fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
        let mut jars: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("jar")))
            .collect();
        jars.sort_unstable();
        jars.iter().try_for_each(|jar| self.add(jar, Manifest::Read))
    }

    /// Adds a jar, with what its manifest names, or a directory.
    fn add(&mut self, place: &Path, manifest: Manifest) -> Result<(), FingerprintError> {
        let mut waiting = vec![self.collector.cwd().join(place)];
        while let Some(place) = waiting.pop() {
            if !self.seen.insert(place.clone()) {
                continue;
            }
            if self.seen.len() > PLACES_MAX {
                return Err(FingerprintError::TooLarge { path: place, max: PLACES_MAX });
            }
            match self.collector.file("jar", &place)? {
                Found::Directory => self.directory(&place)?,
                // Most jars refer to no others, and that is remembered: a
                // manifest costs five system calls.
                Found::File(known) if manifest == Manifest::Read && known.note != Note::LoneJar => {
                    let references = manifest::references(&place);
                    if references.is_empty() {
                        self.collector.digests.annotate(&place, Note::LoneJar);
                    }
                    waiting.extend(references.into_iter().rev());
                }
                Found::File(_) | Found::Special | Found::Missing => {}
            }
        }
        Ok(())
    }

    /// Adds a directory of classes; one that the program also works in is
    /// looked at with care.
    fn directory(&mut self, dir: &Path) -> Result<(), FingerprintError> {
        let cwd = self.collector.cwd();
        let real_cwd = self.real_cwd.get_or_insert_with(|| canonical(cwd));
        let extent =
            if real_cwd.starts_with(canonical(dir)) { Extent::Workplace } else { Extent::Classes };
        // The directory's own name without a trailing `/.`.
        let tidy: PathBuf = dir.components().collect();
        self.collector.directory("class directory", &tidy, extent)
    }
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
