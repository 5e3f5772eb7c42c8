//! Damaged entries: whatever happens to a file of the cache, every run gives
//! the right answer, restored or cold.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trial::{Dice, Trial, repeat};

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Truncate(u64),
    Flip(u64, u32),
    Append,
    Remove,
    Empty,
    OtherEntrys,
    Directory,
    Symlink,
    Fifo,
    Unreadable,
    WrongOwner,
    Garbage,
}

impl Damage {
    fn any(dice: &mut Dice, len: u64) -> Self {
        match dice.below(16) {
            0..=3 => Self::Flip(dice.below(len), dice.below(8) as u32),
            4..=5 => Self::Truncate(dice.below(len)),
            6 => Self::Append,
            7 => Self::Remove,
            8 => Self::Empty,
            9 => Self::OtherEntrys,
            10 => Self::Directory,
            11 => Self::Symlink,
            12 => Self::Fifo,
            13 => Self::Unreadable,
            14 => Self::WrongOwner,
            _ => Self::Garbage,
        }
    }
}

/// A file that was damaged; whole again when dropped.
struct Damaged {
    path: PathBuf,
    aside: PathBuf,
}

impl Damaged {
    fn new(path: &Path, aside: &Path, other: &Path, damage: Damage) -> Self {
        let place = Self { path: path.to_owned(), aside: aside.to_owned() };
        // The original steps aside; its inode comes back, so that what the
        // cache knows of it stays true but for its ctime.
        fs::rename(path, aside).unwrap();
        let copy = || {
            fs::copy(aside, path).unwrap();
            OpenOptions::new().write(true).read(true).open(path).unwrap()
        };
        match damage {
            Damage::Truncate(len) => copy().set_len(len).unwrap(),
            Damage::Flip(at, bit) => {
                let file = copy();
                let mut byte = [0];
                if file.read_at(&mut byte, at).unwrap() == 1 {
                    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
                }
            }
            Damage::Append => {
                let file = copy();
                let len = file.metadata().unwrap().len();
                file.write_all_at(&[0; 4096], len).unwrap();
            }
            Damage::Garbage => {
                let len = fs::metadata(aside).unwrap().len();
                let file = copy();
                file.write_all_at(&b"garbage!".repeat(512)[..len.min(4096) as usize], 0).unwrap();
            }
            Damage::Remove => {}
            Damage::Empty => drop(File::create(path).unwrap()),
            Damage::OtherEntrys => match fs::metadata(other) {
                Ok(_) => drop(fs::copy(other, path).unwrap()),
                Err(_) => drop(File::create(path).unwrap()),
            },
            Damage::Directory => fs::create_dir(path).unwrap(),
            Damage::Symlink => symlink(aside, path).unwrap(),
            Damage::Fifo => {
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            Damage::Unreadable => {
                drop(copy());
                fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
            }
            Damage::WrongOwner => {
                drop(copy());
                // An ordinary user cannot give files away.
                let _ = chown(path, Some(65534), Some(65534));
            }
        }
        place
    }
}

impl Damaged {
    /// Whether what is in the place now is all that was written: two entries
    /// have some files alike, and a mode or an owner is no content.
    fn is_harmless(&self) -> bool {
        let is_file = fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.is_file());
        // Root reads whatever the mode is; others are refused.
        is_file && fs::read(&self.path).ok() == fs::read(&self.aside).ok()
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        match fs::symlink_metadata(&self.path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&self.path).unwrap(),
            Ok(_) => fs::remove_file(&self.path).unwrap(),
            Err(_) => {}
        }
        fs::rename(&self.aside, &self.path).unwrap();
    }
}

/// Every file of a cache, relative to it.
fn files(cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![cache.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => found.push(entry.path().strip_prefix(cache).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// Damages one file after the other and runs.
fn damage(trial: &Trial, other: &Trial, count: u32, limit: Duration) {
    trial.run_restored("before any damage");
    let entry = trial.entry();
    let other_entry = other.entry();
    // As a miss leaves it: a note that nothing needs.
    let id = entry.file_name().unwrap().to_owned();
    fs::write(trial.cache.join("v1/notes").join(&id), "{}").unwrap();
    fs::write(trial.cache.join("v1/locks").join(&id), "").unwrap();
    let files = files(&trial.cache);
    let of_entry = |path: &Path| path.starts_with("v1/entries");
    let mut dice = Dice::new();
    let (began, mut cold, mut restored) = (Instant::now(), 0, 0);
    for round in 0..count {
        if began.elapsed() > limit {
            eprintln!("{round} damages done in {limit:?}");
            break;
        }
        // Each file once, in order, then any.
        let name = files.get(round as usize).unwrap_or_else(|| dice.one(&files));
        let path = trial.cache.join(name);
        if !path.exists() {
            // Locks and notes come and go.
            fs::write(&path, "").unwrap();
        }
        let damage = Damage::any(&mut dice, fs::metadata(&path).unwrap().len());
        let within = name.strip_prefix("v1/entries").ok();
        let others = within.map(|within| within.components().skip(1).collect::<PathBuf>());
        let others = others.map_or_else(|| trial.path("none"), |rest| other_entry.join(rest));
        let what = format!("round {round}: {damage:?} on {}", name.display());
        let damaged = Damaged::new(&path, &trial.path("aside"), &others, damage);
        let harmless = damaged.is_harmless();
        let ended = trial.run();
        ended.check(&what);
        match ended.restored() {
            true => restored += 1,
            false => cold += 1,
        }
        let image = of_entry(name) && name.components().any(|part| part.as_os_str() == "image");
        if image && !harmless {
            ended.check_cold(&what, "");
        } else if !of_entry(name) && !ended.met_a_taken_pid() {
            assert!(ended.restored(), "{what}: {ended:?}");
        }
        drop(damaged);
    }
    eprintln!("{cold} cold, {restored} restored, {:?}", began.elapsed());
    trial.run_restored("after all damage is undone");
    trial.check_nothing_left();
}

/// The time that the damages of one program may take, unless their number is
/// asked for.
fn limit() -> Duration {
    match std::env::var_os("WARMSTART_REPEAT") {
        Some(_) => Duration::from_secs(24 * 3600),
        None => Duration::from_secs(20),
    }
}

#[test]
fn a_damaged_entry_of_a_python_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let (trial, other) = (Trial::python("pass", "pass"), Trial::python("x = 1", "pass"));
    trial.capture().unwrap();
    other.capture().unwrap();
    damage(&trial, &other, repeat(150), limit());
}

#[test]
fn a_damaged_entry_of_a_java_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let trial = Trial::java(&jdk, "", "", "");
    let (Some(trial), Some(other)) = (trial, Trial::java(&jdk, "", "Thread.sleep(1);", "")) else {
        skip!("there is no javac");
    };
    trial.capture().unwrap();
    other.capture().unwrap();
    damage(&trial, &other, repeat(60), limit());
}

/// Opening a FIFO waits for its other end: nothing of the cache is opened
/// that way.
#[test]
fn fifos_in_the_places_of_files() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("pass", "pass");
    trial.capture().unwrap();
    trial.run_restored("before");
    let id = trial.entry().file_name().unwrap().to_owned();
    fs::write(trial.cache.join("v1/notes").join(&id), "{}").unwrap();
    fs::write(trial.cache.join("v1/locks").join(&id), "").unwrap();
    for name in files(&trial.cache) {
        let path = trial.cache.join(&name);
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        let damaged = Damaged::new(&path, &trial.path("aside"), &path, Damage::Fifo);
        let ended = trial.run();
        ended.check(&name.display().to_string());
        assert_eq!(ended.restored(), !name.starts_with("v1/entries"), "{name:?} {ended:?}");
        drop(damaged);
        // Notes are read when there is one to write.
        let mut command = Command::new(support::binary());
        command.args(["cache", "ls", "--json"]).env("WARMSTART_CACHE_DIR", &trial.cache);
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }
    trial.run_restored("after");
}

/// The directories of an entry are as easy to damage as its files.
#[test]
fn damaged_directories() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("pass", "pass");
    trial.capture().unwrap();
    let entry = trial.entry();
    for name in ["", "image"] {
        let path = entry.join(name);
        let path = if name.is_empty() { entry.clone() } else { path };
        for damage in ["gone", "file", "link", "more"] {
            let aside = trial.path("aside");
            let what = format!("{damage} instead of {}", path.display());
            if damage == "more" {
                fs::write(path.join("more"), "").unwrap();
                trial.run().check_cold(&what, "does not belong");
                fs::remove_file(path.join("more")).unwrap();
                continue;
            }
            fs::rename(&path, &aside).unwrap();
            match damage {
                "file" => fs::write(&path, "x").unwrap(),
                "link" => symlink(&aside, &path).unwrap(),
                _ => {}
            }
            let ended = trial.run();
            ended.check(&what);
            // No entry at all is a miss; a link to the image is the image.
            assert!(!ended.restored() || (name, damage) == ("image", "link"), "{what}: {ended:?}");
            let _ = fs::remove_file(&path);
            fs::rename(&aside, &path).unwrap();
        }
    }
    trial.run_restored("undone");
}
