//! Cold starts: as our child, or in our place.

use std::ffi::{CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::command::Command;
use crate::pids::placing::{self, Placed};
use crate::privilege;
use crate::sys::birth::Birth;
use crate::sys::process::{self, Exec, Inherited, SpawnError};

/// Where `execvp(3)` looks when PATH is not set.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Prepares to execute the command: everything is allocated here.
pub fn prepare(command: &Command) -> Result<Exec, NulError> {
    let path = command.var("PATH").map(OsStr::as_bytes);
    let candidates = candidates(command.name().as_bytes(), path)
        .into_iter()
        .map(CString::new)
        .collect::<Result<_, _>>()?;
    Ok(Exec::new(candidates, strings(&command.argv)?, strings(&command.env)?))
}

/// Prepares to execute one file with a command's arguments and environment.
pub fn prepare_at(path: &Path, command: &Command) -> Result<Exec, NulError> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Ok(Exec::new(vec![path], strings(&command.argv)?, strings(&command.env)?))
}

fn strings(list: &[OsString]) -> Result<Vec<CString>, NulError> {
    list.iter().map(|text| CString::new(text.as_bytes())).collect()
}

/// Starts a program as our child where its pids are unlikely to be taken
/// later, if that can be chosen: `mark` is the beginning of its entry's id, if
/// pids matter at all.
pub fn placed(
    mut exec: Exec,
    inherited: &Inherited,
    mark: Option<[u8; 8]>,
    stdio: [Option<RawFd>; 3],
) -> Result<(i32, Option<Placed>), SpawnError> {
    let placed = mark.and_then(|mark| {
        placing::place(mark, |pid| {
            // What is wrong with the program, the plain start says again.
            let birth = Birth::At(pid);
            privilege::raised(|| process::spawn_as(&mut exec, inherited, stdio, birth)).ok()
        })
    });
    if let Some((pid, placed)) = placed {
        return Ok((pid, Some(placed)));
    }
    let pid = process::spawn_as(&mut exec, inherited, stdio, Birth::Anywhere)?;
    Ok((pid, None))
}

/// Returns the paths that `execvp(3)` would try, in its order.
fn candidates(name: &[u8], path: Option<&[u8]>) -> Vec<Vec<u8>> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let join = |dir: &[u8]| match dir {
        // An empty element is the working directory.
        [] => name.to_vec(),
        dir => [dir, b"/", name].concat(),
    };
    path.unwrap_or(DEFAULT_PATH).split(|&byte| byte == b':').map(join).collect()
}

/// Returns the exit status for a program that could not be executed: 127 if
/// there is none, 126 if there is one.
pub fn exit_status(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        _ => 126,
    }
}

/// Says why a program could not be executed, in the shell's words.
pub fn complaint(command: &Command, error: &io::Error) -> String {
    let reason = match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    };
    format!("{}: {reason}", command.name().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(name: &str, path: Option<&str>) -> Vec<String> {
        candidates(name.as_bytes(), path.map(str::as_bytes))
            .into_iter()
            .map(|path| String::from_utf8(path).unwrap())
            .collect()
    }

    #[test]
    fn candidates_as_execvp() {
        assert_eq!(tried("a/b", Some("/x")), ["a/b"]);
        assert_eq!(tried("a", Some("/x::/y/")), ["/x/a", "a", "/y//a"]);
        assert_eq!(tried("a", Some("")), ["a"]);
        assert_eq!(tried("a", None), ["/bin/a", "/usr/bin/a"]);
        assert!(tried("", Some("/x")).is_empty());
    }
}
