//! What once came back otherwise than it had been, found by trying to break it;
//! each test says what it was.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::target::{PATIENCE, Target, alone, dump, try_dump};

mod support;

const PYTHON: &str = "/usr/bin/python3";
/// Where `scripts/get-criu` puts it.
const CRIU: &str = "criu/usr/sbin/criu";

/// A Python program in a directory of its own, where it waits for `go`.
struct Program {
    dir: tempfile::TempDir,
}

impl Program {
    /// Writes one; an error says what is missing here.
    fn new(text: &str) -> Result<Self, &'static str> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root may choose pids with this build of the binary");
        }
        if !Path::new(PYTHON).exists() {
            return Err("there is no /usr/bin/python3");
        }
        let dir = support::cache();
        let prelude = format!(
            "import fcntl, os, socket, struct, sys, time\n\
             HERE = {:?}\n\
             def go():\n    while not os.path.exists(HERE + '/go'): time.sleep(0.005)\n\
             def say(*what): print(*what, flush=True)\n",
            dir.path().to_str().unwrap()
        );
        fs::write(dir.path().join("program.py"), prelude + text).unwrap();
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it and waits until it has said that it is ready.
    fn start(&self) -> Target {
        let mut command = alone(PYTHON);
        command.arg(self.path("program.py"));
        let mut target = Target::start(command, &self.path("out"));
        target.wait_until(|said| said.contains("ready"));
        target
    }

    /// Lets it go on; returns what it has said in the end.
    fn finish(&self, mut target: Target) -> String {
        fs::write(self.path("go"), "").unwrap();
        let status = target.wait();
        fs::remove_file(self.path("go")).unwrap();
        let said = target.said();
        assert!(status.success(), "{status}: {said}");
        said.rsplit_once("ready\n").map_or(said.clone(), |(_, rest)| rest.to_owned())
    }

    /// Dumps it, and compares what it says with what it says when restored.
    fn comes_back(&self) -> String {
        let target = self.start();
        dump(target.pid(), &self.path("image"), &["--leave-running"]);
        let before = self.finish(target);
        for _ in 0..support::repetitions(3) {
            let target = Target::restore(&self.path("image"), &self.path("restored"));
            assert_eq!(self.finish(target), before);
        }
        before
    }
}

/// A process loses its locks of a file as soon as it closes any descriptor of
/// it, and those by which a tree's descriptions are handed over were closed
/// after the locks had been taken.
#[test]
fn a_lock_of_a_process_with_children_is_held() {
    let program = Program::new(
        "
file = open(HERE + '/file', 'w')
fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
if (child := os.fork()) == 0:
    go()
    for start in (0, 5):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, start)
            say('free')
        except OSError:
            say('locked')
    os._exit(0)
time.sleep(0.25)
say('ready')
go()
os.waitpid(child, 0)
",
    );
    match program {
        Ok(program) => assert_eq!(program.comes_back(), "free\nlocked\n"),
        Err(missing) => skip!("{missing}"),
    }
}

/// A process that its parent has left is none of the tree's: it went on writing
/// into the pipe of a program that had long ended.
#[test]
fn what_a_process_outside_of_the_tree_has_open_is_refused() {
    let program = Program::new(
        "
reader, writer = os.pipe()
if (child := os.fork()) == 0:
    if os.fork() == 0:
        go()
        os.write(writer, b'from outside')
    os._exit(0)
os.waitpid(child, 0)
time.sleep(0.25)
say('ready')
go()
say(os.read(reader, 20))
",
    );
    let program = match program {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let target = program.start();
    let output = try_dump(target.pid(), &program.path("image"), &["--leave-running"]);
    let said = support::stderr(&output);
    let outside = said.split_once("is open in process ").and_then(|(_, rest)| rest.split_once(' '));
    let outside: i32 = outside.and_then(|(pid, _)| pid.parse().ok()).expect(&said);
    assert!(said.contains("which is not part of the program"), "{said}");
    // When it has ended, nothing is in the way.
    kill(Pid::from_raw(outside), Signal::SIGKILL).unwrap();
    dump(target.pid(), &program.path("image-2"), &["--leave-running"]);
}

/// `exec 3<&0 </dev/null`: what was kept of the caller's input came back as the
/// file of the capture, whatever the next caller's input was; with CRIU also
/// the pipe of a child whose parent had let go of it, which is refused.
#[test]
fn input_that_was_kept_elsewhere_is_the_next_callers() {
    support::session::settle();
    let moved = "
kept = os.dup(0)
os.dup2(os.open('/dev/null', os.O_RDONLY), 0)
say('ready')
go()
say(os.read(kept, 20))
";
    let of_a_child = "
if (child := os.fork()) == 0:
    go()
    say(os.read(0, 20))
    os._exit(0)
os.dup2(os.open('/dev/null', os.O_RDONLY), 0)
time.sleep(0.25)
say('ready')
go()
os.waitpid(child, 0)
";
    let captured = r#""outcome":"captured""#;
    for (engine, text, expected) in [
        ("native", moved, captured),
        ("native", of_a_child, captured),
        ("criu", moved, captured),
        ("criu", of_a_child, "has kept its caller's 0 as fd 0 alone"),
    ] {
        let program = match Program::new(text) {
            Ok(program) => program,
            Err(missing) => skip!("{missing}"),
        };
        let criu = support::target::tool("WARMSTART_CRIU", CRIU);
        if engine == "criu" && criu.is_none() {
            skip!("there is no CRIU (scripts/get-criu)");
        }
        let run = |input: &str, expected: &str| {
            let (status, file) = (program.path("status"), program.path(input));
            let _ = fs::remove_file(&status);
            fs::write(&file, input).unwrap();
            let mut command = Command::new(support::binary());
            command.env("WARMSTART_CACHE_DIR", program.path("cache"));
            command.envs(criu.iter().map(|criu| ("WARMSTART_CRIU", criu)));
            command.args(["--engine", engine, "--ready", "log:ready", "--status-file"]);
            command.arg(&status).args(["--", PYTHON]).arg(program.path("program.py"));
            command.stdin(File::open(&file).unwrap());
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            let run = command.spawn().unwrap();
            let end = Instant::now() + PATIENCE;
            loop {
                let text = fs::read_to_string(&status).unwrap_or_default();
                if text.contains(expected) {
                    break;
                }
                assert!(Instant::now() < end, "{engine}: {text}");
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::write(program.path("go"), "").unwrap();
            let output = run.wait_with_output().unwrap();
            fs::remove_file(program.path("go")).unwrap();
            let said = support::stdout(&output);
            assert!(said.contains(input), "{engine}, {input}: {output:?}");
        };
        run("the-first", expected);
        if expected == captured {
            run("the-second", r#""outcome":"restored""#);
        }
    }
}

/// A program with the same pid, in another namespace, has a file of the same
/// name below `/tmp` (a JVM's `hsperfdata`): the one that made it between our
/// removing of ours and our making it anew had its neighbour start cold.
#[test]
fn a_file_that_another_makes_in_the_same_moment_is_made_anew_again() {
    let program = Program::new(
        "
import mmap
os.makedirs(HERE + '/hsperfdata_me', exist_ok=True)
path = HERE + '/hsperfdata_me/' + str(os.getpid())
with open(path, 'w+b') as file:
    file.truncate(4096)
    data = mmap.mmap(file.fileno(), 4096)
data[:4] = b'mine'
say('ready')
go()
say(open(path, 'rb').read(4))
",
    );
    let program = match program {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let target = program.start();
    let path = program.path(&format!("hsperfdata_me/{}", target.pid()));
    dump(target.pid(), &program.path("image"), &["--leave-running"]);
    assert_eq!(program.finish(target), "b'mine'\n");
    let mut met = 0;
    let end = Instant::now() + PATIENCE;
    while met < 3 {
        assert!(Instant::now() < end, "only {met} times in the same moment");
        let (done, path) = (AtomicBool::new(false), &path);
        let others = || {
            while !done.load(Relaxed) && Instant::now() < end {
                if File::create_new(path).is_ok() {
                    return true;
                }
            }
            false
        };
        met += std::thread::scope(|scope| {
            let others = scope.spawn(others);
            let target = Target::restore(&program.path("image"), &program.path("restored"));
            assert_eq!(program.finish(target), "b'mine'\n");
            done.store(true, Relaxed);
            u32::from(others.join().unwrap())
        });
    }
}
