//! `warmstart [OPTIONS] [--] COMMAND [ARG…]`: from words to a run.

mod quick;

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};

use super::{Cli, answer_clap, environment};
use crate::bench::AtMain;
use crate::failure::{Failure, status};
use crate::fingerprint::Stream;
use crate::launcher::{self, CapturePoint, Clock, EngineChoice, Options, Policy, Training};
use crate::pids::Strategy;
use crate::readiness::Probe;
use crate::snapshot::OpenTcp;

/// The options of a run and the COMMAND.
#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) capture: CaptureArguments,

    /// Capture anew, replacing the image
    #[arg(long, conflicts_with_all = ["no_capture", "require_warm"])]
    refresh: bool,

    /// Never capture: restore, or start cold
    #[arg(long, conflicts_with = "require_warm")]
    no_capture: bool,

    /// Fail (125) instead of starting cold
    #[arg(long)]
    require_warm: bool,

    /// Wait for a capture at main, which is made once the program has ended
    #[arg(long, conflicts_with_all = ["no_capture", "require_warm"])]
    wait: bool,

    /// Compare every Kth restored run at main with a cold one
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    verify_every: Option<u32>,

    /// Make a capture at main for a caller with these 0, 1 and 2
    #[arg(long, hide = true, value_parser = aside)]
    aside: Option<[Stream; 3]>,

    /// Write what happened to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,

    /// Give the program the caller's descriptor N at a restore too (repeatable)
    #[arg(long = "keep-fd", value_name = "N", value_parser = descriptor)]
    keep: Vec<RawFd>,

    /// Say what is done and why (twice: more)
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,

    /// Say nothing, not even why a program was started cold
    #[arg(short, long)]
    quiet: bool,

    /// The program and its arguments, untouched
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        value_parser = clap::value_parser!(OsString),
    )]
    command: Vec<OsString>,
}

/// The options that decide what is captured, and how it is restored: those of
/// a run that `bench` has too.
#[derive(Debug, Clone, Args)]
pub(super) struct CaptureArguments {
    // Not a comment for rustdoc, which would take the brackets for links.
    #[arg(
        long = "ready",
        value_name = "PROBE",
        help = "When the program counts as ready (repeatable, all must hold): notify, \
                port[:N], http:URL, log:REGEX, file:PATH, idle[:MS], delay:MS. \
                Default: notify if it comes, else a listening port and quiet"
    )]
    pub(super) ready: Vec<Probe>,

    /// Run CMD (sh -c) when ready, before the capture (repeatable)
    #[arg(long, value_name = "CMD")]
    warmup: Vec<OsString>,

    #[arg(
        long,
        value_name = "POINT",
        value_enum,
        default_value_t = At::Auto,
        help = "Where to capture: when ready, or a JVM before main. auto: a server when \
                ready, a JVM's program that ends before at main"
    )]
    at: At,

    /// Capturing at main: run main N times before, so that it comes back warm
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "3",
        value_parser = clap::value_parser!(u32).range(1..=100),
    )]
    train: Option<u32>,

    /// Train with these arguments too (repeatable, one for each subcommand);
    /// in quotes: --train-with 'list --all'
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    train_with: Vec<OsString>,

    /// Train in a scratch copy of DIR [default: the working directory]
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ".",
    )]
    train_dir: Option<PathBuf>,

    /// Use a trained image even if training shows that the program keeps state
    #[arg(long)]
    allow_stateful: bool,

    /// Give up capturing after so many seconds of readiness
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(super) capture_timeout: Duration,

    /// What restores
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,

    /// How pids are chosen
    #[arg(long, value_name = "STRATEGY", value_enum, default_value_t = Pids::Auto)]
    pids: Pids,

    /// How many pids `--pids cycle` may use up to reach the program's
    #[arg(long, value_name = "N", default_value_t = launcher::PID_BUDGET)]
    pid_budget: u32,

    /// Whether clocks must go on from the capture, which takes a namespace
    #[arg(long, value_enum, default_value_t = Clocks::Auto)]
    clock: Clocks,

    /// What to do about open TCP connections: wait until they are closed, or
    /// capture them as closed by their peers, so that pools connect again
    #[arg(long, value_enum, default_value_t = Tcp::Refuse)]
    tcp: Tcp,

    /// Count PATH, a file or directory, among the inputs (repeatable)
    #[arg(long = "input", value_name = "PATH")]
    inputs: Vec<PathBuf>,

    /// Leave variable NAME out of the fingerprint (repeatable)
    #[arg(long, value_name = "NAME")]
    ignore_env: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum At {
    Auto,
    Ready,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Engine {
    Auto,
    Native,
    Criu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Tcp {
    Refuse,
    Close,
}

impl Tcp {
    pub(super) fn choice(self) -> OpenTcp {
        match self {
            Self::Refuse => OpenTcp::Refuse,
            Self::Close => OpenTcp::Close,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clocks {
    Auto,
    Continuous,
}

impl Clocks {
    fn choice(self) -> Clock {
        match self {
            Self::Auto => Clock::Machines,
            Self::Continuous => Clock::Own,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Pids {
    Auto,
    SetTid,
    Namespace,
    LastPid,
    Cycle,
}

impl Pids {
    /// The ways to try, in this order.
    pub(super) fn strategies(self) -> Vec<Strategy> {
        match self {
            Self::Auto => launcher::PIDS_AUTO.to_vec(),
            Self::SetTid => vec![Strategy::SetTid],
            Self::Namespace => vec![Strategy::Namespace],
            Self::LastPid => vec![Strategy::LastPid],
            Self::Cycle => vec![Strategy::Cycle],
        }
    }
}

impl CaptureArguments {
    /// The capture point, engine and pid strategy; what does not go together is
    /// refused, and so are inputs that are not there: a mistyped one would count
    /// as missing in every run.
    pub(super) fn choices(&self) -> Result<(CapturePoint, EngineChoice, Vec<Strategy>), Failure> {
        for path in &self.inputs {
            std::fs::metadata(path)
                .map_err(|error| Failure::usage(format!("--input {}: {error}", path.display())))?;
        }
        let at = match self.at {
            // A server is not trained.
            At::Main | At::Auto if self.engine == Engine::Criu && self.asks_for_main() => {
                let failure = Failure::usage("--engine criu captures programs that are ready");
                return Err(failure.hint("--engine native, or leave --engine out"));
            }
            At::Auto if self.engine == Engine::Criu => CapturePoint::Ready,
            At::Auto if self.train.is_some() => CapturePoint::Main,
            At::Auto => CapturePoint::Auto,
            At::Ready => CapturePoint::Ready,
            At::Main => CapturePoint::Main,
        };
        let engine = match self.engine {
            Engine::Auto => EngineChoice::Auto,
            Engine::Native => EngineChoice::Native,
            Engine::Criu => EngineChoice::Criu,
        };
        let pids = match self.pids {
            Pids::LastPid | Pids::Cycle if self.engine == Engine::Criu => {
                let failure =
                    Failure::usage("--engine criu takes pids by set-tid or in a namespace");
                return Err(failure.hint("--pids set-tid, or leave --pids out"));
            }
            Pids::SetTid | Pids::LastPid | Pids::Cycle if self.clock == Clocks::Continuous => {
                let failure = Failure::usage("--clock continuous takes a namespace");
                return Err(failure.hint("--pids namespace, or leave --pids out"));
            }
            pids => pids.strategies(),
        };
        Ok((at, engine, pids))
    }

    /// Whether nothing but an image at main will do.
    fn asks_for_main(&self) -> bool {
        self.at == At::Main || self.train.is_some()
    }

    /// What training was asked for.
    fn training(&self) -> Result<Option<Training>, Failure> {
        let Self { train, train_with, train_dir, allow_stateful, at, .. } = self;
        let Some(runs) = *train else {
            if !train_with.is_empty() || train_dir.is_some() || *allow_stateful {
                let failure = Failure::usage("how to train is said, but not to train");
                return Err(failure.hint("--train"));
            }
            return Ok(None);
        };
        if *at == At::Ready {
            return Err(Failure::usage("--train takes a capture at main").hint("--at main"));
        }
        Ok(Some(Training {
            runs,
            with: train_with.clone(),
            dir: train_dir.clone(),
            allow_stateful: *allow_stateful,
        }))
    }

    /// Whether an image that these options make may be one at `main`.
    pub(super) fn at_main(&self) -> AtMain {
        match self.at {
            At::Auto if self.train.is_some() => AtMain::Asked,
            At::Auto => AtMain::Possible,
            At::Ready => AtMain::Never,
            At::Main => AtMain::Asked,
        }
    }

    /// Spells the options out again, for another run of ourselves.
    pub(super) fn to_words(&self) -> Vec<OsString> {
        let mut words = self.words_but_point();
        if let Some(at) = self.at.to_possible_value() {
            words.extend(["--at".into(), at.get_name().into()]);
        }
        words
    }

    /// Spells out all but the capture point.
    fn words_but_point(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: &OsStr| {
            words.push(option.into());
            words.push(value.to_owned());
        };
        for probe in &self.ready {
            add("--ready", probe.to_string().as_ref());
        }
        for command in &self.warmup {
            add("--warmup", command);
        }
        for path in &self.inputs {
            add("--input", path.as_os_str());
        }
        for name in &self.ignore_env {
            add("--ignore-env", name.as_ref());
        }
        for arguments in &self.train_with {
            // As one word: it begins with a dash more often than not.
            let mut option = OsString::from("--train-with=");
            option.push(arguments);
            words.push(option);
        }
        if let Some(runs) = self.train {
            words.push(format!("--train={runs}").into());
        }
        if let Some(dir) = &self.train_dir {
            let mut option = OsString::from("--train-dir=");
            option.push(dir);
            words.push(option);
        }
        if self.allow_stateful {
            words.push("--allow-stateful".into());
        }
        let mut add = |option: &str, value: &OsStr| {
            words.push(option.into());
            words.push(value.to_owned());
        };
        if self.capture_timeout != DEFAULT_CAPTURE_TIMEOUT {
            let timeout = self.capture_timeout.as_secs_f64().to_string();
            add("--capture-timeout", timeout.as_ref());
        }
        if self.pid_budget != launcher::PID_BUDGET {
            add("--pid-budget", self.pid_budget.to_string().as_ref());
        }
        for (option, value, is_default) in [
            ("--engine", self.engine.to_possible_value(), self.engine == Engine::Auto),
            ("--pids", self.pids.to_possible_value(), self.pids == Pids::Auto),
            ("--clock", self.clock.to_possible_value(), self.clock == Clocks::Auto),
            ("--tcp", self.tcp.to_possible_value(), self.tcp == Tcp::Refuse),
        ] {
            if let Some(value) = value.filter(|_| !is_default) {
                add(option, value.get_name().as_ref());
            }
        }
        words
    }
}

impl Arguments {
    fn options(self) -> Result<(Vec<OsString>, Options), Failure> {
        let (at, engine, pids) = self.capture.choices()?;
        let clock = self.capture.clock.choice();
        let policy = match (self.refresh, self.no_capture, self.require_warm) {
            (true, _, _) => Policy::Refresh,
            (_, true, _) => Policy::NoCapture,
            (_, _, true) => Policy::RequireWarm,
            _ => Policy::Auto,
        };
        let training = self.capture.training()?;
        let words = self.capture.words_but_point();
        let verbosity = if self.quiet { -1 } else { i8::try_from(self.verbose).unwrap_or(i8::MAX) };
        let options = Options {
            at,
            ready: self.capture.ready,
            warmup: self.capture.warmup,
            capture_timeout: self.capture.capture_timeout,
            engine,
            criu: environment::criu(),
            pids,
            pid_budget: self.capture.pid_budget,
            clock,
            tcp: self.capture.tcp.choice(),
            keep: self.keep,
            inputs: self.capture.inputs,
            ignore_env: self.capture.ignore_env,
            training,
            wait: self.wait,
            verify_every: self.verify_every,
            aside: self.aside,
            words,
            policy,
            status_file: self.status_file,
            verbosity,
            cache_dir: environment::cache_dir(),
        };
        Ok((self.command, options))
    }
}

/// A run without any option: what most command lines are, so that they need
/// no parser at all.
fn defaults() -> Options {
    Options {
        at: CapturePoint::Auto,
        ready: Vec::new(),
        warmup: Vec::new(),
        capture_timeout: DEFAULT_CAPTURE_TIMEOUT,
        engine: EngineChoice::Auto,
        criu: environment::criu(),
        pids: launcher::PIDS_AUTO.to_vec(),
        pid_budget: launcher::PID_BUDGET,
        clock: Clock::Machines,
        tcp: OpenTcp::Refuse,
        keep: Vec::new(),
        inputs: Vec::new(),
        ignore_env: Vec::new(),
        training: None,
        wait: false,
        verify_every: None,
        aside: None,
        words: Vec::new(),
        policy: Policy::Auto,
        status_file: None,
        verbosity: 0,
        cache_dir: environment::cache_dir(),
    }
}

const DEFAULT_CAPTURE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the run was asked for with the word `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `warmstart COMMAND`.
    Bare,
    /// `warmstart run COMMAND`; the word is no longer in the arguments.
    Run,
}

/// Runs the COMMAND; `args` starts with our own name.
pub(super) fn main(args: Vec<OsString>, spelling: Spelling) -> Result<u8, Failure> {
    crate::sys::arena::prefault();
    let parsed = match parse(args) {
        Ok(parsed) => parsed,
        Err(error) => return answer(&error, spelling),
    };
    let (argv, options) = match parsed {
        Parsed::Plain(argv) => (argv, defaults()),
        Parsed::Arguments(arguments) => arguments.options()?,
    };
    if argv.first().is_none_or(|name| name.is_empty()) {
        return Err(Failure::usage("COMMAND is empty").hint("warmstart --help"));
    }
    Ok(launcher::run(environment::command(argv), options))
}

#[derive(Debug)]
enum Parsed {
    Plain(Vec<OsString>),
    Arguments(Box<Arguments>),
}

/// Separates our options from the COMMAND.
fn parse(mut args: Vec<OsString>) -> Result<Parsed, clap::Error> {
    match args.get(1).map(|word| word.as_encoded_bytes()) {
        Some(b"--") if args.len() > 2 => Ok(Parsed::Plain(args.split_off(2))),
        Some(first) if !first.starts_with(b"-") => Ok(Parsed::Plain(args.split_off(1))),
        _ => {
            let arguments = match quick::read(&args) {
                Some(arguments) => arguments,
                None => by_parser(args)?,
            };
            Ok(Parsed::Arguments(Box::new(arguments)))
        }
    }
}

/// Checks that these are options of a run, and no command.
pub(super) fn check_options(options: &[OsString]) -> Result<(), Failure> {
    let words = [&["warmstart".into()], options, &["--".into(), "x".into()]].concat();
    match by_parser(words) {
        Ok(arguments) if arguments.command == ["x"] => arguments.options().map(drop),
        Ok(_) => Err(Failure::usage("options of a run only, no COMMAND").hint("warmstart --help")),
        Err(error) => answer_clap(&error).map(drop),
    }
}

/// Parses what [`quick`] is not sure of: rare forms, help, mistakes.
fn by_parser(args: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let matches = parser().try_get_matches_from(args)?;
    Arguments::from_arg_matches(&matches)
}

/// The parser of a run: no subcommands, or `warmstart -v doctor` would be one.
fn parser() -> clap::Command {
    Arguments::augment_args(clap::Command::new("warmstart"))
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage("warmstart [OPTIONS] [--] COMMAND [ARG]...")
}

/// Answers what the parser of a run could not: help and version, shown as the
/// whole command line has them, or an error.
fn answer(error: &clap::Error, spelling: Spelling) -> Result<u8, Failure> {
    use clap::error::ErrorKind::{DisplayHelp, MissingRequiredArgument};
    let mut whole = Cli::command();
    whole.build();
    if error.kind() == DisplayHelp {
        let long = std::env::args_os().any(|word| word == "--help");
        let shown = match spelling {
            Spelling::Bare => &mut whole,
            Spelling::Run => whole.find_subcommand_mut("run").expect("run is a subcommand"),
        };
        // A closed stdout must not turn into a panic.
        let _ = if long { shown.print_long_help() } else { shown.print_help() };
        return Ok(status::OK);
    }
    if error.kind() == MissingRequiredArgument {
        return Err(Failure::usage("no COMMAND given: warmstart [OPTIONS] [--] COMMAND [ARG]...")
            .hint("warmstart --help"));
    }
    answer_clap(error)
}

/// Parses a descriptor number; 0, 1 and 2 are the program's in any case.
fn descriptor(text: &str) -> Result<RawFd, String> {
    match text.parse::<RawFd>() {
        Ok(fd) if fd > 2 => Ok(fd),
        Ok(0..=2) => Err("0, 1 and 2 are always the caller's; name one above 2".into()),
        _ => Err("not the number of a descriptor".into()),
    }
}

/// Parses the classes of 0, 1 and 2, as [`launcher::streams_word`] spells them.
fn aside(text: &str) -> Result<[Stream; 3], String> {
    launcher::streams_of_word(text).ok_or_else(|| "not three kinds of streams".into())
}

/// Parses a positive number of seconds, with a fraction if need be.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 31_536_000.0 => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("not a number of seconds above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn words(words: &[&str]) -> Vec<OsString> {
        std::iter::once("warmstart").chain(words.iter().copied()).map(OsString::from).collect()
    }

    fn command(line: &[&str]) -> Vec<OsString> {
        match parse(words(line)).unwrap() {
            Parsed::Plain(argv) => argv,
            Parsed::Arguments(arguments) => arguments.command,
        }
    }

    #[test]
    fn everything_after_the_command_is_its_own() {
        for tail in [
            &["java", "-jar", "x.jar"][..],
            &["java", "--help"],
            &["java", "--", "-v", "--"],
            &["java", "-v", "--ready", "nonsense"],
            &["java", "", "-"],
            &["doctor", "--version"],
        ] {
            assert_eq!(command(tail), words(tail)[1..], "{tail:?}");
            let with_options = [&["-v", "--capture-timeout", "5"], tail].concat();
            assert_eq!(command(&with_options), words(tail)[1..], "{with_options:?}");
            let with_dashes = [&["-v", "--"], tail].concat();
            assert_eq!(command(&with_dashes), words(tail)[1..], "{with_dashes:?}");
            let only_dashes = [&["--"], tail].concat();
            assert_eq!(command(&only_dashes), words(tail)[1..], "{only_dashes:?}");
        }
    }

    #[test]
    fn commands_behind_dashes_may_look_like_options() {
        assert_eq!(command(&["--", "--odd", "-x"]), words(&["--odd", "-x"])[1..]);
        assert_eq!(command(&["-v", "--", "--odd", "--"]), words(&["--odd", "--"])[1..]);
        assert_eq!(command(&["--", "--", "x"]), words(&["--", "x"])[1..]);
    }

    #[test]
    fn bytes_that_are_no_utf8_pass() {
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let line = vec!["warmstart".into(), "-v".into(), odd.clone(), odd.clone()];
        match parse(line).unwrap() {
            Parsed::Arguments(arguments) => assert_eq!(arguments.command, [odd.clone(), odd]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_reach_the_launcher() {
        let line = words(&[
            "-vv",
            "--keep-fd",
            "7",
            "--keep-fd=9",
            "--input",
            "/dev/null",
            "--ignore-env",
            "X",
            "--refresh",
            "--status-file",
            "s",
            "--warmup",
            "curl x",
            "--capture-timeout",
            "1.5",
            "--pids",
            "set-tid",
            "--engine",
            "native",
            "--ready",
            "http:8080/x",
            "--ready",
            "log:a b",
            "--at",
            "ready",
            "x",
        ]);
        let Parsed::Arguments(arguments) = parse(line).unwrap() else { panic!() };
        let (argv, options) = arguments.options().unwrap();
        assert_eq!(argv, [OsString::from("x")]);
        assert_eq!(options.verbosity, 2);
        assert_eq!(options.keep, [7, 9]);
        assert_eq!(options.policy, Policy::Refresh);
        assert_eq!(options.pids, [Strategy::SetTid]);
        assert_eq!(options.engine, EngineChoice::Native);
        assert_eq!(options.at, CapturePoint::Ready);
        assert_eq!(options.capture_timeout, Duration::from_millis(1500));
        assert_eq!(options.ready.len(), 2);
        assert_eq!(options.warmup, [OsString::from("curl x")]);
    }

    #[test]
    fn options_can_be_spelled_again() {
        let line = words(&[
            "--ready",
            "http:80/",
            "--warmup",
            "a b",
            "--input",
            "/",
            "--ready",
            "log:^x$",
            "--capture-timeout",
            "2.5",
            "--ignore-env",
            "E",
            "--pids",
            "set-tid",
            "--tcp",
            "close",
            "x",
        ]);
        let arguments = |line| match parse(line).unwrap() {
            Parsed::Arguments(arguments) => arguments.options().unwrap(),
            Parsed::Plain(_) => panic!(),
        };
        let Parsed::Arguments(first) = parse(line.clone()).unwrap() else { panic!() };
        let again = [words(&[]), first.capture.to_words(), vec!["x".into()]].concat();
        assert_eq!(format!("{:?}", arguments(again)), format!("{:?}", arguments(line)));
    }

    #[test]
    fn the_defaults_are_those_of_the_parser() {
        let Parsed::Arguments(arguments) = parse(words(&["-q", "x"])).unwrap() else { panic!() };
        let (_, parsed) = arguments.options().unwrap();
        let plain = Options { verbosity: -1, ..defaults() };
        assert_eq!(format!("{parsed:?}"), format!("{plain:?}"));
    }

    #[test]
    fn what_criu_cannot_be_asked_for_is_said() {
        let options = |line: &[&str]| match parse(words(line)).unwrap() {
            Parsed::Arguments(arguments) => arguments.options(),
            Parsed::Plain(_) => panic!("it has options"),
        };
        for line in
            [&["--engine", "criu", "--at", "main", "x"][..], &["--engine", "criu", "--train", "x"]]
        {
            let failure = options(line).unwrap_err();
            assert_eq!(failure.error.to_string(), "--engine criu captures programs that are ready");
        }
        let failure = options(&["--engine", "criu", "--pids", "cycle", "x"]).unwrap_err();
        assert!(failure.error.to_string().ends_with("by set-tid or in a namespace"));
        let (_, options) = options(&["--engine", "criu", "x"]).unwrap();
        assert_eq!((options.engine, options.at), (EngineChoice::Criu, CapturePoint::Ready));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            &["--nonsense", "x"][..],
            &["-v"],
            &[],
            &["--"],
            &["--keep-fd", "1", "x"],
            &["--keep-fd", "-4", "x"],
            &["--keep-fd", "x", "x"],
            &["--capture-timeout", "0", "x"],
            &["--capture-timeout", "inf", "x"],
            &["--capture-timeout", "-1", "x"],
            &["--capture-timeout", "nan", "x"],
            &["--refresh", "--require-warm", "x"],
            &["-q", "-v", "x"],
            &["--pids", "nonsense", "x"],
        ] {
            assert!(parse(words(line)).is_err(), "{line:?}");
        }
    }
}
