//! Conditions under which nothing can be captured or restored: a clear line,
//! and the program runs with the right result.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use support::{stderr, stdout};
use trial::{PATIENCE, STATUS, Trial};

/// A trial whose program needs no image to be made.
fn plain() -> Trial {
    let trial = Trial::python("pass", "pass");
    trial.open_gate();
    trial
}

/// Runs once, cold, and returns what it said.
#[track_caller]
fn cold(trial: &Trial, what: &str) -> String {
    let ended = trial.run();
    ended.check(what);
    assert_eq!(ended.outcome, "cold", "{what}: {ended:?}");
    assert!(ended.stderr.lines().all(|line| line.starts_with("warmstart: ")), "{ended:?}");
    ended.stderr
}

#[test]
fn cache_directories_that_cannot_be_used() {
    let mut trial = plain();
    let file = trial.path("file");
    fs::write(&file, "").unwrap();
    let link_to_file = trial.path("link-to-file");
    symlink(&file, &link_to_file).unwrap();
    let dangling = trial.path("dangling");
    symlink("/nowhere/at/all", &dangling).unwrap();
    let open = trial.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let fifo = trial.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bucket = trial.path("bucket-is-a-file");
    fs::create_dir(&bucket).unwrap();
    fs::write(bucket.join("v1"), "").unwrap();
    for (path, words) in [
        (file.clone(), "not a directory"),
        (link_to_file, "not a directory"),
        (dangling, "cannot create"),
        (open, "others may write"),
        (fifo, "not a directory"),
        (file.join("below"), "Not a directory"),
        (bucket, "not a directory"),
        (Path::new("/proc/no/cache").to_owned(), "cannot create"),
        (Path::new("/dev/null/cache").to_owned(), "Not a directory"),
    ] {
        trial.cache = path;
        let said = cold(&trial, &trial.cache.display().to_string());
        assert!(said.starts_with("warmstart: started cold: the cache cannot be used: "), "{said}");
        assert!(said.to_lowercase().contains(&words.to_lowercase()), "{words}: {said}");
    }
}

#[test]
fn a_cache_directory_of_somebody_else() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root can give a directory away");
    }
    let mut trial = plain();
    trial.cache = trial.path("theirs");
    fs::create_dir(&trial.cache).unwrap();
    fs::set_permissions(&trial.cache, Permissions::from_mode(0o700)).unwrap();
    chown(&trial.cache, Some(support::NOBODY), Some(support::NOBODY)).unwrap();
    let said = cold(&trial, "their directory");
    assert!(said.contains(&format!("belongs to user {}", support::NOBODY)), "{said}");
    // A symbolic link that somebody else made to our own directory.
    let ours = trial.path("ours");
    fs::create_dir(&ours).unwrap();
    trial.cache = trial.path("their-link");
    symlink(&ours, &trial.cache).unwrap();
    std::os::unix::fs::lchown(&trial.cache, Some(support::NOBODY), None).unwrap();
    let said = cold(&trial, "their link");
    assert!(said.contains("belongs to user"), "{said}");
}

#[test]
fn a_cache_directory_that_is_not_writable_for_an_ordinary_user() {
    let user = match support::Ordinary::new() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    for (name, mode) in [("no-writing", 0o500), ("no-entering", 0o000)] {
        let dir = user.home().join(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(support::NOBODY), Some(support::NOBODY)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        let output = user
            .warmstart()
            .env("WARMSTART_CACHE_DIR", &dir)
            .args(["--", "sh", "-c", "echo right; exit 7"])
            .output()
            .unwrap();
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "right\n"));
        let said = stderr(&output);
        assert!(said.starts_with("warmstart: started cold: the cache cannot be used"), "{said}");
        assert!(said.contains("Permission denied") && said.lines().count() == 1, "{said}");
    }
}

/// Runs a shell script in a mount namespace of its own; the trial's cache
/// directory is `$CACHE` in it, warmstart and its arguments as `"$@"`.
fn in_namespace(trial: &Trial, options: &[&str], script: &str) -> Result<Command, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can mount".into());
    }
    let probe = "mount --make-rprivate / && mount -t tmpfs none \"$1\"";
    let probe = Command::new("unshare")
        .args(["--mount", "sh", "-c", probe, "sh"])
        .arg(trial.dir.path())
        .output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(format!("no private mounts: {}", stderr(&output).trim())),
        Err(error) => return Err(format!("unshare: {error}")),
    }
    let inner = trial.command(options);
    let mut command = Command::new("unshare");
    // Not in the environment, which belongs to the key.
    let script = script.replace("$CACHE", trial.cache.to_str().unwrap());
    let script = format!("mount --make-rprivate / || exit 99\n{script}");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Waits in the shell until the capture is over, one way or the other.
const WAIT: &str = r#"
"$@" & launcher=$!
while ! grep -q -e '"captured"' -e 'space left' -e 'File too large' "$TRIAL_DIR/status" 2>/dev/null
do sleep 0.02; n=$((n + 1)); [ $n -lt 1000 ] || exit 98; done
touch "$TRIAL_DIR/gate"
wait $launcher; echo "status $?"
"#;

/// Whatever step of a capture finds the disk full, from the first file of the
/// cache to the last: the program goes on.
#[test]
fn a_full_disk_during_the_capture() {
    let trial = Trial::python("data = os.urandom(3 << 20)", "pass");
    fs::create_dir(&trial.cache).unwrap();
    let (mut full, mut captured) = (0, 0);
    // In KiB; the image has some 12 MiB.
    for size in [64, 128, 256, 1024, 4096, 10_000, 12_000, 14_000, 16_000, 18_000, 65_536] {
        trial.close_gate();
        let script = format!(
            "mount -t tmpfs -o size={size}k,mode=700 none \"$CACHE\" || exit 99\n{WAIT}\n\
             echo left $(ls \"$CACHE/v1/tmp\" | wc -l)"
        );
        let command = match in_namespace(&trial, &[], &script) {
            Ok(command) => command,
            Err(missing) => skip!("{missing}"),
        };
        let ended = trial.end(command);
        let said = format!("answer 42\nstatus {STATUS}\nleft 0\n");
        assert_eq!(ended.stdout, said, "{size} KiB: {ended:?}");
        assert_eq!(ended.stderr, "", "{size} KiB: {ended:?}");
        match ended.outcome.as_str() {
            "captured" => captured += 1,
            _ => {
                full += 1;
                let reason = ended.reason.unwrap();
                assert!(reason.contains("space left"), "{size} KiB: {reason}");
            }
        }
    }
    assert!(full >= 4 && captured >= 1, "{full} full, {captured} captured");
    trial.check_nothing_left();
}

/// A limit of file sizes is a full disk for one file: SIGXFSZ must end neither
/// the launcher nor the program.
#[test]
fn a_limit_of_file_sizes_during_the_capture() {
    let mut trial = Trial::python("data = os.urandom(3 << 20)", "pass");
    trial.via = ["sh", "-c", "ulimit -f 2000; exec \"$@\"", "sh"].map(str::to_owned).into();
    let waiting = trial.start(&[]);
    let reason = trial.status().unwrap()["reason"].to_string();
    assert!(reason.contains("File too large"), "{reason}");
    let (code, said, errors) = waiting.finish();
    assert_eq!((code, said.as_str(), errors.as_str()), (Some(STATUS), trial::ANSWER, ""));
    assert!(trial.unfinished().is_empty());
}

/// An image can be used from a cache that became read-only, and a program
/// whose cache never was anything else just runs.
#[test]
fn a_read_only_cache() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("pass", "pass");
    trial.capture().unwrap();
    trial.run_restored("before");
    let script = r#"mount --bind "$CACHE" "$CACHE" && mount -o remount,bind,ro "$CACHE" || exit 99
        exec "$@""#;
    let command = match in_namespace(&trial, &[], script) {
        Ok(command) => command,
        Err(missing) => skip!("{missing}"),
    };
    let ended = trial.end(command);
    ended.check("read-only");
    assert!(ended.restored(), "{ended:?}");
    // A damaged entry cannot be replaced there; a miss cannot be captured.
    let plan = trial.entry().join("image/plan");
    let bytes = fs::read(&plan).unwrap();
    fs::write(&plan, &bytes[1..]).unwrap();
    let ended = trial.end(in_namespace(&trial, &[], script).unwrap());
    ended.check_cold("read-only and damaged", "plan of the image has");
    fs::write(&plan, &bytes).unwrap();
    let ended = trial.end(in_namespace(&trial, &["--ignore-env", "NOTHING"], script).unwrap());
    ended.check("read-only");
    let empty = trial.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut trial = trial;
    trial.cache = empty;
    let ended = trial.end(in_namespace(&trial, &[], script).unwrap());
    ended.check_cold("read-only and empty", "Read-only file system");
}

/// A variable for programs in Rust, which is for the command, not for us.
#[test]
fn a_small_stack_for_the_threads_of_the_program() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let mut trial = Trial::python("", "");
    trial.via = ["env", "RUST_MIN_STACK=1"].map(str::to_owned).into();
    trial.capture().unwrap();
    trial.run_restored("captured by threads with stacks of their own");
}

/// From a noexec mount no code can be mapped: such an image is copied.
#[test]
fn a_cache_on_a_noexec_mount() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let Some(trial) = Trial::java(&jdk, "", "", "") else { skip!("there is no javac") };
    fs::create_dir(&trial.cache).unwrap();
    // Both times as a background job: the shell ignores some signals for it.
    let script = format!(
        "mount -t tmpfs -o noexec,mode=700 none \"$CACHE\" || exit 99\n{WAIT}\n\
         \"$@\" & wait $!"
    );
    let command = match in_namespace(&trial, &[], &script) {
        Ok(command) => command,
        Err(missing) => skip!("{missing}"),
    };
    let ended = trial.end(command);
    assert_eq!(ended.stdout, format!("answer 42\nstatus {STATUS}\nanswer 42\n"), "{ended:?}");
    assert_eq!((ended.code, ended.outcome.as_str()), (Some(STATUS), "restored"), "{ended:?}");
}

/// An entry of another version of the layout is not read, nor a plan of
/// another version; both are captured anew.
#[test]
fn what_another_version_wrote() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("pass", "pass");
    trial.capture().unwrap();
    trial.run_restored("before");
    let meta = trial.entry().join("meta");
    let bytes = fs::read(&meta).unwrap();
    let mut other = bytes.clone();
    other[8] += 1;
    // The header and the first document have a digest of their own.
    let len = u64::from_le_bytes(other[16..24].try_into().unwrap()) as usize;
    let mut sha = Sha256::new_with_prefix(&other[..32]);
    sha.update(&other[96..96 + len]);
    other[32..64].copy_from_slice(&sha.finalize());
    fs::write(&meta, &other).unwrap();
    trial.run().check_cold("another layout", "another version of warmstart");
    fs::write(&meta, &bytes).unwrap();
    trial.run_restored("undone");
    // Another bucket is another version's: nobody looks there.
    fs::rename(trial.cache.join("v1"), trial.cache.join("v999")).unwrap();
    let ended = trial.run();
    ended.check("another bucket");
    assert_eq!((ended.outcome.as_str(), ended.stderr.as_str()), ("cold", ""));
    // And a waiting run replaces what another version wrote.
    fs::remove_dir_all(trial.cache.join("v1")).unwrap();
    fs::rename(trial.cache.join("v999"), trial.cache.join("v1")).unwrap();
    fs::write(&meta, &other).unwrap();
    let waiting = trial.start(&[]);
    let status = trial.status().unwrap();
    assert_eq!(status["outcome"], "captured", "{status}");
    waiting.end_program(status["app_pid"].as_i64().unwrap() as i32);
    trial.run_restored("captured anew");
}

/// A log that became a FIFO which nobody reads: opening it for appending
/// waits for ever, so the restore ends by its deadline, once.
#[test]
fn a_restore_that_waits_for_ever() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("log = open(os.path.join(home, 'log.log'), 'a')", "pass");
    trial.capture().unwrap();
    trial.run_restored("before");
    fs::remove_file(trial.path("log.log")).unwrap();
    nix::unistd::mkfifo(&trial.path("log.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ended = trial.run();
    ended.check_cold("a FIFO", "not restored within");
    assert!(ended.took < PATIENCE / 2, "{ended:?}");
    trial.check_nothing_left();
    fs::remove_file(trial.path("log.log")).unwrap();
    // It would have cost every run the same: the entry is gone.
    trial.capture().unwrap();
    trial.run_restored("captured anew");
}

#[test]
fn commands_that_cannot_be_started() {
    let trial = plain();
    let text = trial.path("text");
    fs::write(&text, "no program").unwrap();
    let text = text.to_str().unwrap();
    for (argv, code, words) in [
        (vec!["no-such-command-anywhere"], 127, "No such file"),
        (vec!["/no/such/command"], 127, "No such file"),
        (vec![text], 126, "Permission denied"),
        (vec!["/usr"], 126, "Permission denied"),
    ] {
        let mut command = trial.command(&[]);
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        let separator = arguments.iter().position(|word| word == "--").unwrap();
        command = Command::new(program);
        command.args(&arguments[..=separator]).args(&argv);
        command.env("WARMSTART_CACHE_DIR", &trial.cache);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{argv:?} {output:?}");
        let said = stderr(&output);
        assert!(said.contains(words) && said.lines().count() == 1, "{argv:?} {said}");
    }
}

#[test]
fn a_jar_that_cannot_be_read() {
    let Some(jdk) = support::full_jdks().into_iter().next() else { skip!("there is no JDK") };
    let dir = support::cache();
    let garbage = dir.path().join("garbage.jar");
    fs::write(&garbage, "this is no jar").unwrap();
    let directory = dir.path().join("directory.jar");
    fs::create_dir(&directory).unwrap();
    let fifo = dir.path().join("fifo.jar");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for jar in [garbage, directory, dir.path().join("missing.jar")] {
        let run = |mut command: Command| {
            let output = command.arg("-jar").arg(&jar).output().unwrap();
            (output.status.code(), stdout(&output), stderr(&output))
        };
        let direct = run(Command::new(jdk.java()));
        assert_eq!(direct.0, Some(1), "{direct:?}");
        let mut warmstart = support::warmstart(&dir);
        warmstart.arg("--").arg(jdk.java());
        assert_eq!(run(warmstart), direct, "{}", jar.display());
    }
}

#[test]
fn options_that_make_no_sense() {
    let trial = plain();
    for options in [
        &["--ready", "telepathy"][..],
        &["--ready", "port:0"],
        &["--ready", "port:70000"],
        &["--ready", "log:("],
        &["--ready", "http:no-url"],
        &["--ready", ""],
        &["--keep-fd", "-1"],
        &["--keep-fd", "x"],
        &["--no-such-option"],
    ] {
        let ended = trial.end(trial.command(options));
        assert_eq!(ended.code, Some(125), "{options:?} {ended:?}");
        assert_eq!(ended.stdout, "", "{options:?}");
        assert!(!ended.stderr.is_empty() && !ended.stderr.contains("panicked"), "{ended:?}");
    }
}

#[test]
fn a_status_file_that_cannot_be_written() {
    let trial = plain();
    for path in ["/no/such/dir/status", "/usr", "/dev/full", "/proc/self/mem"] {
        let output = support::warmstart(&support::cache())
            .args(["--status-file", path, "--no-capture", "--"])
            .args(&trial.argv)
            .env("TRIAL_DIR", trial.dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(STATUS), "{path} {output:?}");
        assert_eq!(stdout(&output), trial::ANSWER, "{path}");
        let said = stderr(&output);
        let told = said.starts_with(&format!("warmstart: cannot write {path}: "));
        assert!(told && said.lines().count() == 1, "{path} {said}");
    }
}

/// Closed standard descriptors, cold and restored: the program finds them
/// closed, and nothing that warmstart opens takes their numbers.
#[test]
fn closed_standard_descriptors() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let look = "open(os.path.join(home, 'seen'), 'w').write(' '.join(
        str(fd) for fd in range(3) if os.path.exists('/proc/self/fd/%d' % fd)))
sys.stdout = sys.stdout or open('/dev/null', 'w')";
    for (redirection, opened) in
        [("<&-", "1 2"), (">&-", "0 2"), ("2>&-", "0 1"), ("<&- >&- 2>&-", "")]
    {
        let mut trial = Trial::python("pass", look);
        let script = format!("exec \"$@\" {redirection}");
        trial.via = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
        let mut found = Vec::new();
        for _ in 0..2 {
            let ended = trial.run();
            assert_eq!(ended.code, Some(STATUS), "{redirection} {ended:?}");
            found.push(fs::read_to_string(trial.path("seen")).unwrap());
            if found.len() == 1 {
                assert_eq!(ended.outcome, "cold");
                trial.capture().unwrap();
            } else {
                assert!(ended.restored(), "{redirection} {ended:?}");
            }
        }
        // The file itself gets the lowest free number.
        assert_eq!(found[0], found[1], "{redirection}");
        let lowest = (0..3).find(|fd| !opened.contains(&fd.to_string())).unwrap().to_string();
        let expected: Vec<_> = opened.split_whitespace().collect();
        let seen: Vec<_> = found[1].split(' ').filter(|fd| *fd != lowest).collect();
        assert_eq!(seen, expected, "{redirection}: {}", found[1]);
    }
}
