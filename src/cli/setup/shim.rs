//! `warmstart setup --shim DIR`: a directory that stands in for a JDK.
//!
//! Scripts that end in `exec java` (mvn, gradle, scala) find `java` along PATH
//! or below JAVA_HOME. The directory holds a script for each of a JDK's
//! programs, which starts it through warmstart, and links to the rest of the
//! JDK; it is its own `bin`. So it serves as an entry of PATH and as JAVA_HOME.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::{environment, run};
use super::change::quoted;
use crate::command::Command;
use crate::failure::{Failure, status};
use crate::jvm::Home;
use crate::ui;

/// What tells our scripts from anybody else's.
const MARK: &str = "# Made by `warmstart setup --shim`; --undo removes it.";

/// Makes the directory, or what is ours in it go away again.
pub(super) fn main(
    dir: &Path,
    undo: bool,
    dry_run: bool,
    options: &[OsString],
) -> Result<u8, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    if undo {
        let count = remove(dir, dry_run).map_err(failed)?;
        ui::print(&format!("{} scripts and links removed from {}\n", count, dir.display()));
        return Ok(status::OK);
    }
    run::check_options(options)?;
    let binary = environment::binary()?;
    let command = environment::command(vec!["java".into()]);
    let home = jdk(&command, dir)?;
    let programs = programs(&home).map_err(failed)?;
    if dry_run {
        ui::print(&format!("{} scripts for {}\n", programs.len(), home.display()));
        return Ok(status::OK);
    }
    fs::create_dir_all(dir).map_err(failed)?;
    let ours = fs::canonicalize(dir).map_err(failed)?;
    for program in &programs {
        let name = program.file_name().unwrap_or_default();
        let script = script(&binary, options, program);
        write(&ours.join(name), &script).map_err(failed)?;
    }
    link(Path::new("."), &ours.join("bin")).map_err(failed)?;
    for entry in fs::read_dir(&home).map_err(failed)?.filter_map(Result::ok) {
        if entry.file_name() != "bin" {
            link(&entry.path(), &ours.join(entry.file_name())).map_err(failed)?;
        }
    }
    ui::print(&format!(
        "{} programs of {} now start through warmstart, for whoever says\n  \
         export PATH={}:\"$PATH\"\nor, for scripts that ask for a JDK,\n  export JAVA_HOME={}\n",
        programs.len(),
        home.display(),
        quoted(&ours),
        quoted(&ours),
    ));
    Ok(status::OK)
}

/// Finds the JDK to stand in for: JAVA_HOME's, else that of the `java` in
/// PATH; never another such directory.
fn jdk(command: &Command, dir: &Path) -> Result<PathBuf, Failure> {
    let named = command.var("JAVA_HOME").filter(|home| !home.is_empty());
    let named = named.map(|home| Path::new(home).join("bin"));
    let path = command.var("PATH").unwrap_or_default();
    let dirs = path
        .as_bytes()
        .split(|byte| *byte == b':')
        .map(|dir| PathBuf::from(OsStr::from_bytes(dir)));
    let own = fs::canonicalize(dir).ok();
    named
        .into_iter()
        .chain(dirs)
        .filter(|bin| own.is_none() || fs::canonicalize(bin).ok() != own)
        .find_map(|bin| {
            let java = fs::canonicalize(command.cwd.join(bin).join("java")).ok()?;
            Home::of(&java)?;
            Some(java.parent()?.parent()?.to_owned())
        })
        .ok_or_else(|| {
            Failure::failed(
                "there is no JDK to stand in for: neither JAVA_HOME nor PATH leads to one",
            )
        })
}

/// Returns the programs of a JDK.
fn programs(home: &Path) -> io::Result<Vec<PathBuf>> {
    let mut programs: Vec<PathBuf> = fs::read_dir(home.join("bin"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
        .collect();
    programs.sort_unstable();
    Ok(programs)
}

fn script(binary: &Path, options: &[OsString], program: &Path) -> Vec<u8> {
    let mut text = format!("#!/bin/sh\n{MARK}\nexec {}", quoted(binary)).into_bytes();
    // Whoever reads the tool's stderr is to find nothing else there.
    text.extend_from_slice(b" run -q");
    for option in options {
        text.push(b' ');
        text.extend_from_slice(quoted(Path::new(option)).as_bytes());
    }
    text.extend_from_slice(format!(" -- {} \"$@\"\n", quoted(program)).as_bytes());
    text
}

fn is_ours(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| {
        text.split(|byte| *byte == b'\n').nth(1).is_some_and(|line| line == MARK.as_bytes())
    })
}

/// Writes a script; anybody else's file is not touched.
fn write(path: &Path, script: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        if !is_ours(path) {
            return Err(io::Error::other(format!("{} is not ours to replace", path.display())));
        }
        fs::remove_file(path)?;
    }
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn link(to: &Path, path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::other(format!("{} is not ours to replace", path.display())));
        }
        Err(_) => {}
    }
    symlink(to, path)
}

/// Removes our scripts, and the links if any of the scripts was there.
fn remove(dir: &Path, dry_run: bool) -> io::Result<usize> {
    let entries: Vec<PathBuf> =
        fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let is_link = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|file| file.is_symlink());
    let scripts: Vec<&PathBuf> =
        entries.iter().filter(|path| !is_link(path) && is_ours(path)).collect();
    if scripts.is_empty() {
        return Ok(0);
    }
    let links = entries.iter().filter(|path| is_link(path));
    let all: Vec<&PathBuf> = scripts.into_iter().chain(links).collect();
    if !dry_run {
        all.iter().try_for_each(fs::remove_file)?;
        // With something else in it, it stays.
        let _ = fs::remove_dir(dir);
    }
    Ok(all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_starts_the_program_through_us() {
        let options = ["--train=2".into(), "--train-with".into(), "-v 'x'".into()];
        let text = script(Path::new("/opt/a b/warmstart"), &options, Path::new("/jdk/bin/javac"));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().nth(1), Some(MARK));
        let line = text.lines().nth(2).unwrap();
        assert!(line.starts_with("exec '/opt/a b/warmstart' run -q '--train=2' "), "{line}");
        assert!(line.ends_with("-- /jdk/bin/javac \"$@\""), "{line}");
    }

    #[test]
    fn only_what_is_ours_is_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("java"), dir.path().join("other"));
        write(&ours, &script(Path::new("/w"), &[], Path::new("/j"))).unwrap();
        write(&ours, &script(Path::new("/w"), &[], Path::new("/k"))).unwrap();
        assert!(fs::read_to_string(&ours).unwrap().contains("/k"));
        fs::write(&other, "#!/bin/sh\n").unwrap();
        assert!(write(&other, b"x").is_err());
        link(Path::new("."), &dir.path().join("bin")).unwrap();
        assert_eq!(remove(dir.path(), true).unwrap(), 2);
        assert_eq!(remove(dir.path(), false).unwrap(), 2);
        assert!(other.exists() && !ours.exists());
        assert_eq!(remove(dir.path(), false).unwrap(), 0);
    }
}
