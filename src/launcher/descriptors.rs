//! Descriptors above 2 that the caller passed on, and whether the command
//! counts on them.
//!
//! A restored program gets none of them but those named by `--keep-fd`; a
//! command whose arguments or environment name one therefore runs plain. So
//! does one that is told its own pid (`LISTEN_PID`, `WATCHDOG_PID`): only a
//! plain `execve` keeps it.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

use crate::command::Command;

/// What a descriptor's number follows where one is named: its file, an option,
/// make's jobserver (`R,W`).
const PREFIXES: [&[u8]; 7] = [
    b"/dev/fd/",
    b"/proc/self/fd/",
    b"/proc/thread-self/fd/",
    b"fd=",
    b"fds=",
    b"--jobserver-auth=",
    b"--jobserver-fds=",
];

/// Says why the command must run plain, if it must.
///
/// `passed` holds the descriptors above 2 that are open, less the ones kept;
/// `own_pid` is the launcher's, which a plain run would keep.
pub fn reason_for_plain(command: &Command, passed: &[RawFd], own_pid: u32) -> Option<String> {
    for name in ["LISTEN_PID", "WATCHDOG_PID"] {
        if command.var(name).is_some_and(|pid| pid.as_bytes() == own_pid.to_string().as_bytes()) {
            return Some(format!("{name} names this process"));
        }
    }
    if passed.is_empty() {
        return None;
    }
    let named = |fd: RawFd| passed.contains(&fd);
    for arg in command.argv.iter().skip(1) {
        if let Some(fd) = named_in(arg.as_bytes(), &named) {
            return Some(format!("descriptor {fd} is named in the arguments"));
        }
    }
    for entry in &command.env {
        let entry = entry.as_bytes();
        let Some(at) = entry.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (&entry[..at], &entry[at + 1..]);
        let fd = named_in(value, &named).or_else(|| named_by_variable(name, value, &named));
        if let Some(fd) = fd {
            let name = String::from_utf8_lossy(name);
            return Some(format!("descriptor {fd} is named in the environment ({name})"));
        }
    }
    None
}

/// Finds a descriptor that a text names: `/dev/fd/7`, `fd=7`, a jobserver.
fn named_in(text: &[u8], named: &dyn Fn(RawFd) -> bool) -> Option<RawFd> {
    for prefix in PREFIXES {
        for at in positions(text, prefix) {
            let rest = &text[at + prefix.len()..];
            let list = rest.split(|byte| !byte.is_ascii_digit() && *byte != b',').next();
            let found = list
                .unwrap_or_default()
                .split(|&byte| byte == b',')
                .find_map(|digits| number(digits).filter(|&fd| named(fd)));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// Finds a descriptor that a variable names by convention: a name that ends
/// in FD or FDS and a number (`NODE_CHANNEL_FD=3`), or systemd's count from 3.
fn named_by_variable(name: &[u8], value: &[u8], named: &dyn Fn(RawFd) -> bool) -> Option<RawFd> {
    if name == b"LISTEN_FDS" {
        let count = number(value)?;
        return (3..3 + count.min(1024)).find(|&fd| named(fd));
    }
    let upper = name.to_ascii_uppercase();
    if !upper.ends_with(b"FD") && !upper.ends_with(b"FDS") {
        return None;
    }
    let words = value.split(|byte| !byte.is_ascii_digit());
    words.filter_map(number).find(|&fd| named(fd))
}

fn number(digits: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&fd| fd >= 0)
}

fn positions(text: &[u8], wanted: &[u8]) -> impl Iterator<Item = usize> {
    let windows = text.windows(wanted.len()).enumerate();
    windows.filter(move |(_, window)| *window == wanted).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(argv: &[&str], env: &[&str], passed: &[RawFd]) -> Option<String> {
        let command = Command {
            argv: argv.iter().map(Into::into).collect(),
            env: env.iter().map(Into::into).collect(),
            cwd: "/".into(),
        };
        reason_for_plain(&command, passed, 42)
    }

    #[test]
    fn names_that_make_a_run_plain() {
        for (argv, env) in [
            (vec!["x", "/dev/fd/7"], vec![]),
            (vec!["x", "@/proc/self/fd/7"], vec![]),
            (vec!["x", "-Dfd=7"], vec![]),
            (vec!["x"], vec!["A=/dev/fd/7"]),
            (vec!["x"], vec!["MAKEFLAGS= -j --jobserver-auth=6,7"]),
            (vec!["x"], vec!["MAKEFLAGS=j --jobserver-fds=7,8 -- X=1"]),
            (vec!["x"], vec!["NODE_CHANNEL_FD=7"]),
            (vec!["x"], vec!["LISTEN_FDS=5"]),
        ] {
            let why = reason(&argv, &env, &[7]).unwrap();
            assert!(why.contains("descriptor 7"), "{why}");
            assert_eq!(reason(&argv, &env, &[9]), None, "{argv:?} {env:?}");
            assert_eq!(reason(&argv, &env, &[]), None);
        }
    }

    #[test]
    fn names_that_do_not() {
        assert_eq!(reason(&["/dev/fd/7", "7"], &["A=7", "LISTEN_FDS=x", "nothing"], &[7]), None);
        assert_eq!(reason(&["x", "/dev/fd/77", "/dev/fd/"], &[], &[7]), None);
        assert_eq!(reason(&["x"], &["MAKEFLAGS=--jobserver-auth=fifo:/tmp/7"], &[7]), None);
        assert_eq!(reason(&["x"], &["MAKEFLAGS=--jobserver-auth=-2,-2"], &[7]), None);
        assert_eq!(reason(&["x"], &["LISTEN_FDS=2147483647"], &[7000]), None);
    }

    #[test]
    fn a_command_that_knows_its_pid() {
        assert!(reason(&["x"], &["LISTEN_PID=42"], &[]).is_some());
        assert!(reason(&["x"], &["WATCHDOG_PID=42"], &[]).is_some());
        assert_eq!(reason(&["x"], &["WATCHDOG_PID=41"], &[]), None);
    }
}
