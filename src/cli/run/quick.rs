//! The options of a run, read by hand.
//!
//! Building the parser with its help texts costs more than 100 µs, which every
//! restore with an option would pay. This reads what is plainly right and
//! knows no messages: whatever it is not sure of is left to the parser, which
//! says what is wrong. A test holds the two together.

use std::ffi::{OsStr, OsString};
use std::slice::Iter;

use clap::ValueEnum;

use crate::launcher;

use super::{Arguments, At, CaptureArguments, Clocks, DEFAULT_CAPTURE_TIMEOUT, Engine, Pids, Tcp};
use super::{descriptor, seconds};

/// Reads the words of a run, our own name first; `None`: ask the parser.
pub(super) fn read(args: &[OsString]) -> Option<Arguments> {
    let mut arguments = empty();
    let mut words = args.get(1..)?.iter();
    loop {
        let rest = words.as_slice();
        let word = words.next()?;
        match word.to_str() {
            Some("--") => {
                arguments.command = words.as_slice().to_vec();
                break;
            }
            Some(option) if option.starts_with('-') => {
                apply(&mut arguments, option, &mut words)?;
            }
            // A name that is no UTF-8 may begin with a dash all the same.
            None if word.as_encoded_bytes().starts_with(b"-") => return None,
            _ => {
                arguments.command = rest.to_vec();
                break;
            }
        }
    }
    is_sound(&arguments).then_some(arguments)
}

fn empty() -> Arguments {
    Arguments {
        capture: CaptureArguments {
            ready: Vec::new(),
            warmup: Vec::new(),
            at: At::Auto,
            train: None,
            train_with: Vec::new(),
            train_dir: None,
            allow_stateful: false,
            capture_timeout: DEFAULT_CAPTURE_TIMEOUT,
            engine: Engine::Auto,
            pids: Pids::Auto,
            pid_budget: launcher::PID_BUDGET,
            clock: Clocks::Auto,
            tcp: Tcp::Refuse,
            inputs: Vec::new(),
            ignore_env: Vec::new(),
        },
        refresh: false,
        no_capture: false,
        require_warm: false,
        wait: false,
        verify_every: None,
        aside: None,
        status_file: None,
        keep: Vec::new(),
        verbose: 0,
        quiet: false,
        command: Vec::new(),
    }
}

fn apply(arguments: &mut Arguments, option: &str, words: &mut Iter<'_, OsString>) -> Option<()> {
    // An option given twice is the parser's to judge, unless it is repeatable.
    let once = |flag: &mut bool| (!std::mem::replace(flag, true)).then_some(());
    let capture = &mut arguments.capture;
    match option {
        "-v" | "--verbose" => arguments.verbose = arguments.verbose.checked_add(1)?,
        "-q" | "--quiet" => once(&mut arguments.quiet)?,
        "--refresh" => once(&mut arguments.refresh)?,
        "--no-capture" => once(&mut arguments.no_capture)?,
        "--require-warm" => once(&mut arguments.require_warm)?,
        "--status-file" if arguments.status_file.is_none() => {
            arguments.status_file = Some(value(words)?.into());
        }
        "--wait" => once(&mut arguments.wait)?,
        "--train" if capture.train.is_none() => capture.train = Some(3),
        "--allow-stateful" => once(&mut capture.allow_stateful)?,
        "--train-with" => capture.train_with.push(value(words)?.to_owned()),
        option if option.starts_with("--train=") && capture.train.is_none() => {
            let runs = option.strip_prefix("--train=")?.parse().ok()?;
            capture.train = (1..=100).contains(&runs).then_some(runs);
            capture.train?;
        }
        "--keep-fd" => arguments.keep.push(descriptor(text(words)?).ok()?),
        "--ready" => capture.ready.push(text(words)?.parse().ok()?),
        "--warmup" => capture.warmup.push(value(words)?.into()),
        "--input" => capture.inputs.push(value(words)?.into()),
        "--ignore-env" => capture.ignore_env.push(text(words)?.to_owned()),
        "--capture-timeout" if capture.capture_timeout == DEFAULT_CAPTURE_TIMEOUT => {
            capture.capture_timeout = seconds(text(words)?).ok()?;
        }
        "--at" if capture.at == At::Auto => capture.at = choice(words)?,
        "--engine" if capture.engine == Engine::Auto => capture.engine = choice(words)?,
        "--pids" if capture.pids == Pids::Auto => capture.pids = choice(words)?,
        "--pid-budget" if capture.pid_budget == launcher::PID_BUDGET => {
            capture.pid_budget = text(words)?.parse().ok()?;
        }
        "--clock" if capture.clock == Clocks::Auto => capture.clock = choice(words)?,
        "--tcp" if capture.tcp == Tcp::Refuse => capture.tcp = choice(words)?,
        _ => return None,
    }
    Some(())
}

/// Returns the value of an option; one that looks like an option may be a
/// mistake, an empty one too.
fn value<'a>(words: &mut Iter<'a, OsString>) -> Option<&'a OsStr> {
    let value = words.next()?;
    let bytes = value.as_encoded_bytes();
    (!bytes.is_empty() && !bytes.starts_with(b"-")).then_some(value)
}

fn text<'a>(words: &mut Iter<'a, OsString>) -> Option<&'a str> {
    value(words)?.to_str()
}

fn choice<T: ValueEnum>(words: &mut Iter<'_, OsString>) -> Option<T> {
    T::from_str(text(words)?, false).ok()
}

/// Whether there is a command, and no option that excludes another.
fn is_sound(arguments: &Arguments) -> bool {
    let Arguments { refresh, no_capture, require_warm, wait, verbose, quiet, command, .. } =
        arguments;
    let policies = [refresh, no_capture, require_warm].into_iter().filter(|flag| **flag).count();
    let waits = !*wait || !(*no_capture || *require_warm);
    waits && policies < 2 && !(*quiet && *verbose > 0) && !command.is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::by_parser;
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("warmstart").chain(line.split_whitespace()).map(OsString::from).collect()
    }

    #[test]
    fn what_is_read_is_what_the_parser_reads() {
        for line in [
            "-v x",
            "-v -v --verbose x -v",
            "-q -- x",
            "-q -- -x --help",
            "--quiet --refresh x y --refresh",
            "--no-capture --status-file s x",
            "--require-warm --keep-fd 7 --keep-fd 9 x -- y",
            "--ready port:80 --ready notify --ready log:a --warmup w --warmup v x",
            "--input a --input /b --ignore-env A --ignore-env B x",
            "--capture-timeout 2.5 --at ready --engine native --pids set-tid x",
            "--at main --engine criu --pids cycle x",
            "--at auto --pids last-pid doctor --json",
            "--tcp close x",
        ] {
            let quick = read(&words(line)).unwrap_or_else(|| panic!("{line}: not read"));
            let parsed = by_parser(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(format!("{quick:?}"), format!("{parsed:?}"), "{line}");
        }
    }

    #[test]
    fn what_is_not_sure_is_left_to_the_parser() {
        for line in [
            "",
            "--",
            "-v",
            "-vv x",
            "--help",
            "-h x",
            "--version",
            "--nonsense x",
            "-x",
            "--status-file",
            "--status-file --refresh x",
            "--status-file=s x",
            "--ready x y",
            "--ready",
            "--keep-fd 1 x",
            "--keep-fd 99999999999 x",
            "--capture-timeout 0 x",
            "--refresh --no-capture x",
            "--refresh --refresh x",
            "-q -v x",
            "--pids odd x",
            "--status-file a --status-file b x",
            "--at ready --at main x",
            "--ready= x",
        ] {
            assert!(read(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_pass_where_they_may() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(vec![b'a', 0xff]);
        let line = vec!["w".into(), "--status-file".into(), odd(), odd(), "-v".into()];
        let arguments = read(&line).unwrap();
        assert_eq!(arguments.command, [odd(), "-v".into()]);
        assert!(read(&["w".into(), OsString::from_vec(vec![b'-', 0xff])]).is_none());
        assert!(read(&["w".into(), "--ready".into(), odd(), "x".into()]).is_none());
    }
}
