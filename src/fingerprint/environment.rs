//! Which environment variables are part of a fingerprint: all but those that
//! change from one terminal, session or step of a CI job to the next and
//! that programs do not work by.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Variables that are left out, and why.
///
/// Everything else is in: a variable that made no difference costs one cold
/// start, one that was wrongly left out gives a wrong answer. A user takes
/// more out with `--ignore-env`.
const IGNORED: &[&str] = &[
    // Set anew by the shell for each command, or counting shells.
    "_",
    "SHLVL",
    "OLDPWD",
    "BASH_EXECUTION_STRING",
    "PIPESTATUS",
    "HISTCMD",
    "RANDOM",
    // The window and the terminal's session.
    "WINDOWID",
    "WINDOWPATH",
    "TERM_SESSION_ID",
    "ITERM_SESSION_ID",
    "KONSOLE_DBUS_SESSION",
    "KONSOLE_DBUS_WINDOW",
    "KONSOLE_DBUS_SERVICE",
    "SHELL_SESSION_ID",
    "GNOME_TERMINAL_SCREEN",
    "GNOME_TERMINAL_SERVICE",
    "KITTY_WINDOW_ID",
    "KITTY_PID",
    "KITTY_PUBLIC_KEY",
    "ALACRITTY_WINDOW_ID",
    "ALACRITTY_LOG",
    "ALACRITTY_SOCKET",
    "WEZTERM_PANE",
    "WEZTERM_UNIX_SOCKET",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "VTE_VERSION",
    "TILIX_ID",
    "GPG_TTY",
    "SSH_TTY",
    // Their size: a program that asks the terminal gets the caller's.
    "COLUMNS",
    "LINES",
    // The login session and its agents.
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SSH_ORIGINAL_COMMAND",
    "GPG_AGENT_INFO",
    "XDG_SESSION_ID",
    "XDG_SESSION_PATH",
    "XDG_SEAT_PATH",
    "XDG_ACTIVATION_TOKEN",
    "DESKTOP_STARTUP_ID",
    "SESSION_MANAGER",
    "AUDIT_SESSION_ID",
    "XDG_VTNR",
    // The invocation by systemd, and what readiness is told to.
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    // One step of one job of a CI service.
    "GITHUB_RUN_ID",
    "GITHUB_RUN_NUMBER",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_ACTION",
    "GITHUB_ENV",
    "GITHUB_OUTPUT",
    "GITHUB_PATH",
    "GITHUB_STATE",
    "GITHUB_STEP_SUMMARY",
    "RUNNER_TRACKING_ID",
    "CI_JOB_ID",
    "CI_JOB_STARTED_AT",
    "CI_JOB_TOKEN",
    "CI_JOB_URL",
    "CI_PIPELINE_ID",
    "CI_PIPELINE_IID",
    "CI_PIPELINE_CREATED_AT",
    "BUILD_ID",
    "BUILD_NUMBER",
    "BUILD_TAG",
    "BUILD_URL",
    "BUILDKITE_BUILD_ID",
    "BUILDKITE_BUILD_NUMBER",
    "BUILDKITE_JOB_ID",
    "CIRCLE_BUILD_NUM",
    "CIRCLE_WORKFLOW_ID",
    "CIRCLE_WORKFLOW_JOB_ID",
    // Ours.
    "WARMSTART_CACHE_DIR",
    "WARMSTART_CRIU",
    "WARMSTART_LOG",
];

/// Tells whether a variable is left out by default.
pub fn is_ignored(name: &[u8]) -> bool {
    IGNORED.iter().any(|ignored| ignored.as_bytes() == name)
}

/// Variables that a JVM, its launcher or libc read before `main`.
const READ_AT_MAIN: [&str; 12] = [
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "JDK_AOT_VM_OPTIONS",
    "CLASSPATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TZDIR",
    "LOCPATH",
    "NLSPATH",
    "GCONV_PATH",
    "RES_OPTIONS",
];
/// The same, by how their names begin: libc's, the linker's, the launcher's.
const READ_AT_MAIN_PREFIXES: [&str; 5] = ["LC_", "LD_", "MALLOC_", "GLIBC_", "_JAVA_"];

/// Tells whether a variable decides what a JVM becomes before `main`; all
/// others it gets from the caller at each restore. `account` is the user's
/// line of `/etc/passwd`: without a home in it, `user.home` is `HOME`.
pub fn is_read_at_main(name: &[u8], account: Option<&str>) -> bool {
    if name == b"HOME" {
        // JDK: java_props_md.c takes HOME for a home of less than three bytes.
        return account.and_then(|line| line.split(':').nth(5)).is_none_or(|home| home.len() < 3);
    }
    READ_AT_MAIN.iter().any(|read| read.as_bytes() == name)
        || READ_AT_MAIN_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// A string of the environment that is part of the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name, or all of a string that has no `=`.
    pub name: &'a [u8],
    /// Its value, `None` for a string that has no `=`.
    pub value: Option<&'a [u8]>,
}

/// Returns what counts of an environment, sorted by name; several strings of
/// one name stay in their order, because `getenv` answers the first.
pub fn relevant<'a>(env: &'a [OsString], ignore: &[String]) -> Vec<Variable<'a>> {
    let mut variables: Vec<Variable<'a>> = env
        .iter()
        .map(|string| {
            let string = string.as_bytes();
            // A leading '=' belongs to the name.
            match string.iter().skip(1).position(|byte| *byte == b'=') {
                Some(at) => Variable { name: &string[..=at], value: Some(&string[at + 2..]) },
                None => Variable { name: string, value: None },
            }
        })
        .filter(|variable| {
            !is_ignored(variable.name)
                && !ignore.iter().any(|name| name.as_bytes() == variable.name)
        })
        .collect();
    variables.sort_by_key(|variable| variable.name);
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn env(strings: &[&[u8]]) -> Vec<OsString> {
        strings.iter().map(|string| OsString::from_vec(string.to_vec())).collect()
    }

    #[test]
    fn names_and_values_are_split_at_the_first_equals_sign() {
        let env = env(&[b"B=1=2", b"A=", b"odd", b"", b"=C=x", b"N\xff=\xfe"]);
        let found: Vec<_> =
            relevant(&env, &[]).iter().map(|found| (found.name, found.value)).collect();
        let expected: Vec<(&[u8], Option<&[u8]>)> = vec![
            (b"", None),
            (b"=C", Some(b"x")),
            (b"A", Some(b"")),
            (b"B", Some(b"1=2")),
            (b"N\xff", Some(b"\xfe")),
            (b"odd", None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn ignored_names_are_left_out_and_order_does_not_matter() {
        let one = env(&[b"SHLVL=1", b"PATH=/bin", b"X=1", b"X=2", b"SECRET=1"]);
        let two = env(&[b"X=1", b"X=2", b"PATH=/bin", b"SHLVL=2", b"SECRET=2"]);
        let ignore = ["SECRET".to_owned()];
        assert_eq!(relevant(&one, &ignore), relevant(&two, &ignore));
        assert_eq!(relevant(&one, &ignore).len(), 3);
        let swapped = env(&[b"X=2", b"X=1", b"PATH=/bin"]);
        assert_ne!(relevant(&one, &ignore), relevant(&swapped, &ignore));
        assert_ne!(relevant(&one, &[]), relevant(&two, &[]));
    }

    #[test]
    fn a_home_is_read_where_the_account_has_none() {
        let reads = |name: &str, account| is_read_at_main(name.as_bytes(), account);
        assert!(reads("LC_ALL", None) && reads("TZ", None) && reads("_JAVA_OPTIONS", None));
        assert!(!reads("PATH", None) && !reads("JDK_JAVAC_OPTIONS", None));
        assert!(!reads("HOME", Some("u:x:1000:1000:U:/home/u:/bin/sh")));
        assert!(reads("HOME", Some("u:x:1000:1000:U:/:/bin/sh")) && reads("HOME", None));
    }

    #[test]
    fn nothing_that_matters_is_ignored() {
        for name in ["PATH", "HOME", "LANG", "TZ", "JAVA_HOME", "CLASSPATH", "LD_PRELOAD", "TERM"] {
            assert!(!is_ignored(name.as_bytes()), "{name}");
        }
    }
}
