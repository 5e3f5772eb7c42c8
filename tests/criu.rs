//! The engine `criu` and the interchange of images: what CRIU dumps we restore,
//! what we dump it restores, and no run depends on it. Needs CRIU 4.2
//! (scripts/get-criu brings it).
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::etc::OwnEtc;
use support::service::{Run, Service};
use support::target::{PATIENCE, Target, alone, dump, tool};
use support::{Ordinary, service, session, stderr};

mod support;

/// A server that answers with its pid and a number that nobody can guess, says
/// what it reads, and ends with status 7.
const SERVER: &str = r#"
import http.server, os, secrets, sys
print("up", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/quit":
            print("bye", flush=True)
            os._exit(7)
        body = f"{os.getpid()} {secrets.token_hex(16)}"
        if self.path == "/in":
            body = sys.stdin.readline()
        if self.path == "/own":
            body = f"{KEY[0]} {open('/proc/self/coredump_filter').read()}"
        body = body.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => skip!("{why}"),
        }
    };
}

/// Finds CRIU, and sees that it may dump what the test starts.
fn criu() -> Result<PathBuf, String> {
    session::settle();
    let criu = tool("WARMSTART_CRIU", "criu/usr/sbin/criu");
    criu.ok_or_else(|| "CRIU 4.2 is missing (scripts/get-criu)".into())
}

fn root() -> Result<(), String> {
    nix::unistd::geteuid().is_root().then_some(()).ok_or_else(|| "not root".into())
}

/// The server in a directory that everybody may read, under CRIU.
fn python<'a>(criu: &Path, dir: &Path) -> Service<'a> {
    let script = dir.join("server.py");
    fs::write(&script, SERVER).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let port = service::free_port();
    let words = ["/usr/bin/python3".into(), script.into_os_string(), port.to_string().into()];
    let mut service = Service::new(words, port);
    service.env.push(("WARMSTART_CRIU".into(), criu.to_str().unwrap().into()));
    service
}

const CRIU: [&str; 2] = ["--engine", "criu"];

/// Starts a run, which must be restored by CRIU in one of these ways.
fn restored(service: &Service<'_>, options: &[&str], pids: &[&str]) -> (Run, Value) {
    let mut run = service.start(options);
    let status = run.wait_status(|_| true);
    assert_eq!(status["outcome"], "restored", "{status}\n{}", run.said());
    assert_eq!(status["engine"], "criu", "{status}");
    assert!(pids.contains(&status["pids"].as_str().unwrap()), "{status}");
    (run, status)
}

/// Starts a run that must not be restored, for a reason; the program must run.
fn cold(service: &Service<'_>, options: &[&str], why: &str) {
    let mut run = service.start(options);
    let status = run.wait_status(|_| true);
    assert_eq!(status["outcome"], "cold", "{status}");
    assert!(status["reason"].as_str().unwrap().contains(why), "{status}\n{}", run.said());
    let pid: i32 = run.get("/").split(' ').next().unwrap().parse().unwrap();
    assert_eq!(pid, run.app());
    run.end();
}

fn same_pid_other_secret(first: &str, second: &str) {
    let parts = |text: &str| text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    let (first, second) = (parts(first).unwrap(), parts(second).unwrap());
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1, "two copies have drawn the same number");
}

/// Both ways to its pids; what is said of the engine; two copies at once draw
/// other numbers; the signal that ends it.
#[test]
fn a_python_server_is_dumped_and_restored_by_criu() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let service = python(&criu, dir.path());
    let mut first = service.capture(&CRIU);
    let cold_answer = first.get("/");
    first.end();
    for _ in 0..support::repetitions(2) {
        let (mut run, status) = restored(&service, &CRIU, &["set-tid", "namespace"]);
        assert_eq!(status["reason"], Value::Null);
        same_pid_other_secret(&cold_answer, &run.get("/"));
        run.end();
    }
    let enclosed = [&CRIU[..], &["--pids", "namespace"]].concat();
    let (mut run, _) = restored(&service, &enclosed, &["namespace"]);
    same_pid_other_secret(&cold_answer, &run.get("/"));
    let status = run.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));

    // An entry of CRIU's is none for who asks for the native engine, and has its
    // own name.
    cold(&service, &["--engine", "native", "--no-capture"], "no entry");
    let mut command = Command::new(support::binary());
    command.args(["image", "show", "--json"]).arg(service.image());
    let shown = command.output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["engine"], "criu");
}

/// CRIU's own pipes and terminals would be none of the next caller's.
#[test]
fn stdin_and_stdout_are_the_callers_whatever_they_are() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let cache = support::cache();
    let service = python(&criu, dir.path());
    let file = dir.path().join("out");
    for kind in ["pipe", "file", "null"] {
        let mut outcomes = Vec::new();
        for input in ["one\n", "two\n", "three\n"] {
            let status = dir.path().join("status");
            let _ = fs::remove_file(&status);
            let mut command = support::warmstart(&cache);
            command.args(CRIU).arg("--status-file").arg(&status).arg("--").args(&service.argv);
            command.env("WARMSTART_CRIU", &criu).stdin(Stdio::piped()).stderr(Stdio::null());
            let _ = fs::remove_file(&file);
            match kind {
                "pipe" => command.stdout(Stdio::piped()),
                "file" => command
                    .stdout(OpenOptions::new().append(true).create(true).open(&file).unwrap()),
                _ => command.stdout(Stdio::null()),
            };
            let mut child = command.spawn().unwrap();
            child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
            let end = Instant::now() + PATIENCE;
            let outcome = loop {
                assert!(Instant::now() < end, "{kind}: nothing was captured or restored");
                let text = fs::read(&status).unwrap_or_default();
                let told = serde_json::from_slice::<Value>(&text).unwrap_or_default();
                match told["outcome"].as_str() {
                    Some(outcome @ ("restored" | "captured")) => break outcome.to_owned(),
                    _ => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            assert_eq!(service::ask(service.port, "/in").unwrap(), input, "{kind}");
            assert!(service::ask(service.port, "/quit").is_err());
            let mut said = String::new();
            if let Some(stdout) = &mut child.stdout {
                stdout.read_to_string(&mut said).unwrap();
            }
            assert_eq!(child.wait().unwrap().code(), Some(7), "{kind}");
            if kind == "file" {
                said = fs::read_to_string(&file).unwrap();
            }
            let expected = if outcome == "captured" { "up\nbye\n" } else { "bye\n" };
            assert!(kind == "null" || said == expected, "{kind} {outcome}: {said:?}");
            outcomes.push(outcome);
        }
        assert_eq!(outcomes, ["captured", "restored", "restored"], "{kind}");
    }
}

#[test]
fn a_java_server_is_dumped_and_restored_by_criu() {
    let criu = need!(criu());
    need!(root());
    let jdk = need!(support::jdk(17).ok_or("there is no JDK 17"));
    let classes = need!(service::compile("Exercise.java"));
    let mut service = Service::exercise(&jdk, &[], classes.path());
    service.env.push(("WARMSTART_CRIU".into(), criu.to_str().unwrap().into()));
    let mut first = service.capture(&CRIU);
    let answer = first.get("/");
    first.end();
    for _ in 0..support::repetitions(2) {
        let (mut run, _) = restored(&service, &CRIU, &["set-tid", "namespace"]);
        assert_eq!(run.get("/"), answer);
        run.end();
    }
}

/// Dumped by ourselves, which needs no right, and restored in a user namespace.
#[test]
fn an_ordinary_user_needs_no_privilege() {
    let criu = need!(criu());
    let user = need!(Ordinary::with_namespaces());
    let dir = support::cache();
    let service = python(&criu, dir.path()).run_by(&user);
    let mut first = service.capture(&CRIU);
    let cold_answer = first.get("/");
    first.end();
    for _ in 0..2 {
        let (mut run, _) = restored(&service, &CRIU, &["namespace"]);
        same_pid_other_secret(&cold_answer, &run.get("/"));
        run.end();
    }
}

/// The capability is for the program that root has recorded, and for no other.
#[test]
fn the_capability_is_for_the_recorded_criu_alone() {
    let criu = need!(criu());
    let user = need!(Ordinary::with_capability());
    let etc = need!(OwnEtc::new());
    if let Err(why) = warmstart::criu::trust::is_roots_alone(&criu) {
        skip!("{why}");
    }
    let script = user.home().join("server.py");
    fs::write(&script, SERVER).unwrap();
    let port = service::free_port();
    let status = user.home().join("status");
    let run = |expected: &str, pids: Value| {
        let _ = fs::remove_file(&status);
        let mut command = user.warmstart();
        command.args(CRIU).arg("--status-file").arg(&status);
        command.args(["--", "/usr/bin/python3"]).arg(&script).arg(port.to_string());
        command.env("WARMSTART_CRIU", &criu);
        let mut command = etc.command(&command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        let told = loop {
            let text = fs::read(&status).unwrap_or_default();
            let told = serde_json::from_slice::<Value>(&text).unwrap_or_default();
            if told["outcome"] == expected {
                break told;
            }
            assert!(Instant::now() < end, "{expected}: {told}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(told["pids"], pids, "{told}");
        let app = told["app_pid"].as_i64().unwrap();
        if pids != "namespace" {
            let text = fs::read_to_string(format!("/proc/{app}/status")).unwrap();
            for key in ["CapPrm:\t", "CapEff:\t", "CapAmb:\t"] {
                let set = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                assert_eq!(set, "0000000000000000", "{key} of the program");
            }
        }
        let answer = service::ask(port, "/").unwrap();
        assert!(service::ask(port, "/quit").is_err());
        assert_eq!(child.wait().unwrap().code(), Some(7));
        answer
    };
    let first = run("captured", Value::Null);
    // Nobody has recorded it: not with the capability.
    same_pid_other_secret(&first, &run("restored", "namespace".into()));
    etc.change(&format!(
        "mkdir -m 755 /etc/warmstart; echo 'path = {}' >/etc/warmstart/criu.conf; \
         chmod 644 /etc/warmstart/criu.conf",
        criu.display()
    ));
    same_pid_other_secret(&first, &run("restored", "set-tid".into()));
    etc.change("chmod 666 /etc/warmstart/criu.conf");
    same_pid_other_secret(&first, &run("restored", "namespace".into()));
}

/// A pipe in signal-driven mode, which native refuses and CRIU carries.
const ODD: &str = "import os, fcntl\nr, w = os.pipe()\n\
                   fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid())\n\
                   fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC)\n";
/// An eventfd that is a semaphore, of which CRIU makes an ordinary one; Python
/// has a call for it only since 3.10.
const SEMAPHORE: &str = "import ctypes\nctypes.CDLL(None).eventfd(3, 1)\n";

/// Has the server do something before anything else.
fn prepared(service: &mut Service<'_>, dir: &Path, first: &str) {
    let script = dir.join("prepared.py");
    fs::write(&script, format!("{first}{SERVER}")).unwrap();
    service.argv[1] = script.into_os_string();
}

/// What the native engine refuses, CRIU restores; the status says why.
#[test]
fn auto_takes_criu_for_what_native_refuses() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let mut service = python(&criu, dir.path());
    prepared(&mut service, dir.path(), ODD);
    let mut first = service.capture(&[]);
    first.get("/");
    first.end();
    let (mut run, status) = restored(&service, &[], &["set-tid", "namespace"]);
    assert!(status["reason"].as_str().unwrap().contains("O_ASYNC"), "{status}");
    run.get("/");
    run.end();
    // Without CRIU: cold, and the entry stays for when it is there again.
    service.env[0].1 = "/no/criu".into();
    cold(&service, &[], "/no/criu: No such file");
    service.env[0].1 = criu.to_str().unwrap().into();
    cold(&service, &["--engine", "native", "--no-capture"], "--engine native");
    restored(&service, &[], &["set-tid", "namespace"]).0.end();
}

/// What `criu dump` would lose is refused in every engine, by what it is.
#[test]
fn what_criu_would_lose_is_refused_before_it_is_asked() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let mut service = python(&criu, dir.path());
    let refused = |service: &Service<'_>, options: &[&str]| {
        let mut run = service.start(options);
        let first = run.wait_status(|_| true);
        let status = run.wait_status(|status| *status != first);
        assert_eq!(status["outcome"], "cold", "{status}");
        run.get("/");
        run.end();
        status["reason"].as_str().unwrap_or_default().to_owned()
    };
    const LOST: &str = "engine criu: it would lose that fd 3 is an eventfd that is a semaphore";
    prepared(&mut service, dir.path(), SEMAPHORE);
    let reason = refused(&service, &CRIU);
    assert!(reason.starts_with(LOST), "{reason}");
    // Native carries it; but not with what it refuses for itself.
    service.capture(&[]).end();
    prepared(&mut service, dir.path(), &format!("{SEMAPHORE}{ODD}"));
    let reason = refused(&service, &[]);
    assert!(
        reason.starts_with("fd 4 is to send signals (O_ASYNC, F_SETOWN, F_SETSIG); "),
        "{reason}"
    );
    assert!(reason.contains(LOST), "{reason}");
}

/// An image of ours says what CRIU would lose of it, and CRIU does not take it.
#[test]
fn an_image_of_which_criu_would_lose_something_is_not_for_it() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let image = dir.path().join("image");
    let script = format!("{SEMAPHORE}import time\nprint('up', flush=True)\ntime.sleep(600)");
    let mut command = alone("/usr/bin/python3");
    command.args(["-c", &script]);
    let mut target = Target::start(command, &dir.path().join("out"));
    target.wait_until(|said| said.contains("up"));
    dump(target.pid(), &image, &[]);
    target.wait();
    let ours = |words: &[&str]| {
        let mut command = alone(support::binary());
        command.arg("image").args(words).arg(&image).env("WARMSTART_CRIU", &criu);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let shown = support::stdout(&ours(&["show"]));
    assert!(shown.contains("img_version: 3"), "{shown}");
    assert!(shown.contains("native_only: an eventfd that is a semaphore"), "{shown}");
    let output = ours(&["restore", "--engine", "criu"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CRIU would lose an eventfd that is a semaphore"), "{said}");
    let mut command = Command::new(&criu);
    command.args(["restore", "--shell-job", "-o", "log", "-D"]).arg(&image);
    assert!(!command.output().unwrap().status.success());
    let log = fs::read_to_string(image.join("log")).unwrap();
    assert!(log.contains("Not supported images version 3"), "{log}");
    // Nor can another plan be made of it.
    fs::remove_file(image.join("plan")).unwrap();
    let said = stderr(&ours(&["restore"]));
    assert!(said.contains("its plan is gone, and nothing else holds an eventfd"), "{said}");
}

/// What CRIU keeps and is not to, and what it does not keep: a key that no two
/// copies may have alike, and what a core dump holds, which every JVM changes.
#[test]
fn keys_are_wiped_and_the_filter_of_core_dumps_is_set_again() {
    const OWN: &str = "import mmap\n\
        KEY = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
        KEY.madvise(18)\nKEY[0] = 77\n\
        with open('/proc/self/coredump_filter', 'w') as filter: filter.write('0x7f')\n";
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let mut service = python(&criu, dir.path());
    prepared(&mut service, dir.path(), OWN);
    let mut first = service.capture(&CRIU);
    assert_eq!(first.get("/own").trim(), "77 0000007f");
    first.end();
    for pids in ["auto", "namespace"] {
        let options = [&CRIU[..], &["--pids", pids]].concat();
        let (mut run, _) = restored(&service, &options, &["set-tid", "namespace"]);
        assert_eq!(run.get("/own").trim(), "0 0000007f");
        run.end();
    }
}

/// `unshare -pf` begins no session: the program's is 0, in which CRIU dumps
/// nothing. That is said before it is asked, and is nothing to the native engine.
#[test]
fn a_session_outside_of_the_pid_namespace_is_refused_by_name() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let mut service = python(&criu, dir.path());
    // CRIU wants to find the mounts of what is open.
    let via = |session: &str| {
        let opened = format!(
            "for fd in /proc/self/fd/*; do fd=${{fd##*/}}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; \
             done; exec </dev/null >/dev/null 2>&1; {session} \"$@\""
        );
        ["unshare", "-pf", "--mount-proc", "--kill-child", "bash", "-c", &opened, "bash"]
            .map(OsString::from)
            .to_vec()
    };
    service.via = via("");
    let refused = |service: &Service<'_>, options: &[&str], why: &str| {
        let mut run = service.start(options);
        let first = run.wait_status(|_| true);
        let status = run.wait_status(|status| *status != first);
        let reason = status["reason"].as_str().unwrap_or_default();
        assert_eq!(status["outcome"], "cold", "{status}");
        assert!(reason.contains(why) && reason.contains("setsid --wait warmstart"), "{reason}");
        quit(run);
    };
    refused(&service, &CRIU, "engine criu: criu cannot dump a program whose session");

    // Native has nothing against it; what it refuses stays refused.
    let run = service.capture(&[]);
    quit(run);
    let mut run = service.start(&[]);
    let status = run.wait_status(|_| true);
    assert_eq!((&status["outcome"], &status["engine"]), (&"restored".into(), &"native".into()));
    run.get("/");
    quit(run);
    prepared(&mut service, dir.path(), ODD);
    refused(&service, &[], "(O_ASYNC, F_SETOWN, F_SETSIG); engine criu: criu cannot dump");

    // The remedy that it names; what was dumped in a session of its own is
    // restored in none, too.
    service.via = via("setsid --wait");
    quit(service.capture(&[]));
    for session in ["setsid --wait", ""] {
        service.via = via(session);
        let (mut run, _) = restored(&service, &[], &["set-tid", "namespace"]);
        run.get("/");
        quit(run);
    }
}

/// Has the server end by itself: its launcher may have another pid here.
fn quit(run: Run) {
    let mut run = run;
    run.get("/");
    let _ = service::ask(run.port(), "/quit");
    assert_eq!(run.wait().code(), Some(7));
}

fn fake(dir: &Path, text: &str) -> String {
    let path = dir.join("fake-criu");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().into()
}

/// Whatever is wrong with CRIU, the program runs, and nothing of CRIU is left.
#[test]
fn a_criu_that_is_missing_old_hangs_or_fails_is_a_cold_start() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let mut service = python(&criu, dir.path());
    let first = service.capture(&CRIU);
    first.end();
    let options = ["--engine", "criu", "--no-capture"];
    service.env[0].1 = "/no/criu".into();
    cold(&service, &options, "/no/criu: No such file");
    service.env[0].1 = fake(dir.path(), "echo Version: 3.17.1");
    cold(&service, &options, "is criu 3.17, and 4.2 is the first");
    service.env[0].1 = fake(
        dir.path(),
        "[ $1 = --version ] && echo Version: 4.2 && exit; echo '(0.1) Error (criu/x.c:1): odd thing'; exit 1",
    );
    cold(&service, &options, "criu: odd thing");
    let pids = dir.path().join("pids");
    service.env[0].1 = fake(
        dir.path(),
        &format!(
            "[ $1 = --version ] && echo Version: 4.2 && exit; setsid sleep 600 & echo $! $$ >{}; wait",
            pids.display()
        ),
    );
    let began = Instant::now();
    cold(&service, &options, "not restored within");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    for pid in fs::read_to_string(&pids).unwrap().split_ascii_whitespace() {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left over");
    }
}

/// A truncated pages file hangs CRIU at 100% CPU. The cache finds it before;
/// without the cache our deadline ends CRIU, and the half-restored program.
#[test]
fn truncated_pages_end_within_the_deadline_and_nothing_is_left() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let service = python(&criu, dir.path());
    let first = service.capture(&CRIU);
    let app = first.app();
    first.end();
    let image = service.image();
    let cut = |pages: &Path| {
        let file = OpenOptions::new().write(true).open(pages).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    let copy = dir.path().join("copy");
    let status = Command::new("cp").arg("-r").arg(&image).arg(&copy).status().unwrap();
    assert!(status.success());
    cut(&image.join("pages-1.img"));
    cold(&service, &["--engine", "criu", "--no-capture"], "pages-1.img");

    cut(&copy.join("pages-1.img"));
    let began = Instant::now();
    let mut command = alone(support::binary());
    command.args(["image", "restore", "--engine", "criu", "--timeout", "2"]).arg(&copy);
    let output = command.env("WARMSTART_CRIU", &criu).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let said = stderr(&output);
    assert!(said.contains("was not restored: "), "{said}");
    assert!(!Path::new(&format!("/proc/{app}")).exists(), "{app} is left over: {said}");
}

/// A process of its own session that counts.
fn ticker(out: &Path) -> Target {
    const SCRIPT: &str = "
import itertools, os, time
from threading import Thread
Thread(target=time.sleep, args=(1e6,), daemon=True).start()
for tick in itertools.count():
    print('tick', tick, os.getpid(), flush=True)
    time.sleep(0.01)
";
    let mut command = alone("setsid");
    command.args(["--wait", "/usr/bin/python3", "-c", SCRIPT]);
    Target::start(command, out)
}

fn last_tick(said: &str) -> Option<(u64, i32)> {
    let line = said.rsplit_once('\n')?.0.lines().last()?;
    let mut words = line.split(' ').skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Dumped by CRIU, restored by us: the plan is made on first use, then kept.
#[test]
fn what_criu_dumps_is_restored_natively() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let image = dir.path().join("image");
    fs::create_dir(&image).unwrap();
    let mut first = ticker(&dir.path().join("first"));
    first.wait_until(|said| last_tick(said).is_some_and(|(tick, _)| tick > 5));
    let (_, pid) = last_tick(&first.said()).unwrap();
    let mut command = Command::new(&criu);
    command.args(["dump", "--shell-job", "-v4", "-o", "log", "-t", &pid.to_string(), "-D"]);
    let output = command.arg(&image).output().unwrap();
    let log = || fs::read_to_string(image.join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}", log());
    first.wait();
    let (tick, _) = last_tick(&first.said()).unwrap();
    let mut plans = Vec::new();
    for round in 0..support::repetitions(3) {
        let mut again = Target::restore(&image, &dir.path().join("again"));
        again.wait_until(|said| {
            last_tick(said).is_some_and(|(now, own)| now > tick + 5 && own == pid)
        });
        again.end();
        plans.push(fs::metadata(image.join("plan")).unwrap().modified().unwrap());
        assert_eq!(plans[0], plans[round], "the plan was not kept");
    }
    // Another image in its place is another plan's.
    let inventory = image.join("inventory.img");
    let bytes = fs::read(&inventory).unwrap();
    fs::write(&inventory, &bytes).unwrap();
    Target::restore(&image, &dir.path().join("again")).end();
    assert_ne!(fs::metadata(image.join("plan")).unwrap().modified().unwrap(), plans[0]);
}

/// What would be lost is named.
#[test]
fn what_native_cannot_carry_of_crius_is_refused_by_name() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let image = dir.path().join("image");
    fs::create_dir(&image).unwrap();
    // It has deleted the file that it has open.
    let script = "import os, time\nf = open('x', 'w+')\nos.unlink('x')\nprint('up', flush=True)\ntime.sleep(600)";
    let mut command = alone("/usr/bin/python3");
    command.args(["-c", script]).current_dir(dir.path());
    let mut target = Target::start(command, &dir.path().join("out"));
    target.wait_until(|said| said.contains("up"));
    let mut command = Command::new(&criu);
    command.args(["dump", "--shell-job", "-t", &target.pid().to_string(), "-D"]).arg(&image);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    target.wait();
    let mut command = alone(support::binary());
    let output = command.args(["image", "restore"]).arg(&image).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a deleted file in the image (the native engine cannot"), "{said}");
    assert!(!image.join("plan").exists());
}

/// Dumped by us, restored by CRIU: threads, a listening socket, signals.
#[test]
fn what_we_dump_is_restored_by_criu() {
    let criu = need!(criu());
    need!(root());
    let dir = support::cache();
    let script = dir.path().join("server.py");
    fs::write(&script, SERVER).unwrap();
    let port = service::free_port();
    let mut command = alone("/usr/bin/python3");
    command.arg(&script).arg(port.to_string());
    let mut first = Target::start(command, &dir.path().join("first"));
    first.wait_until(|said| said.contains("up"));
    let answer = service::ask(port, "/");
    let image = dir.path().join("image");
    dump(first.pid(), &image, &[]);
    let pid = first.pid();
    first.wait();
    for _ in 0..2 {
        let mut command = alone(support::binary());
        command.args(["image", "restore", "--engine", "criu"]).arg(&image);
        command.env("WARMSTART_CRIU", &criu);
        let mut again = Target::start(command, &dir.path().join("again"));
        let end = Instant::now() + PATIENCE;
        let now = loop {
            match service::ask(port, "/") {
                Ok(now) => break now,
                Err(_) => assert!(Instant::now() < end, "{}", again.said()),
            }
            again.wait_until(|_| true);
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(now.starts_with(&format!("{pid} ")), "{now}");
        if let Ok(answer) = &answer {
            same_pid_other_secret(answer, &now);
        }
        // A mask that was not the program's kept it from hearing this.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(again.pid()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        let status = again.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    }
}
