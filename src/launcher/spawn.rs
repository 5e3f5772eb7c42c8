//! Cold starts: as our child, or in our place.

use std::ffi::{CString, NulError, OsStr};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;

use crate::command::Command;
use crate::sys::process::Exec;

/// Where `execvp(3)` looks when PATH is not set.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Prepares to execute the command: everything is allocated here.
pub fn prepare(command: &Command) -> Result<Exec, NulError> {
    let strings = |list: &[std::ffi::OsString]| {
        list.iter().map(|text| CString::new(text.clone().into_vec())).collect::<Result<_, _>>()
    };
    let path = command.var("PATH").map(OsStr::as_bytes);
    let candidates = candidates(command.name().as_bytes(), path)
        .into_iter()
        .map(CString::new)
        .collect::<Result<_, _>>()?;
    Ok(Exec::new(candidates, strings(&command.argv)?, strings(&command.env)?))
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
