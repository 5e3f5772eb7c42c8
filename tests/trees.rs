//! Programs of several processes: all of them come back, with their pids, as
//! what they were to one another.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::occupy::Occupant;
use support::service::{Run, Service, free_port, listeners, pid_of_image};
use support::target::{
    PATIENCE, Target, all_gone, alone, compile, dump, restored_pid, state, try_dump,
};

mod support;

/// A server that forks before it serves: one process that waits, four that
/// answer with their pids. SIGTERM ends them all, with status 7.
const PREFORK: &str = r#"
import os, signal, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen(64)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def serve():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    while True:
        peer, _ = server.accept()
        peer.recv(4096)
        body = str(os.getpid()).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        peer.sendall(head % len(body) + body)
        peer.close()
workers = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        serve()
    workers.append(pid)
# Not pause(): a signal just before it would be waited for for ever.
signal.sigwait([signal.SIGTERM])
for pid in workers:
    os.kill(pid, signal.SIGTERM)
statuses = [os.waitpid(pid, 0)[1] for pid in workers]
sys.exit(7 if statuses == [signal.SIGTERM] * 4 else 1)
"#;

const PYTHON: &str = "/usr/bin/python3";

/// Says what is missing here for a tree to come back outside of a namespace.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        Some("only root may choose pids with this build of the binary")
    } else if !Path::new(PYTHON).exists() {
        Some("there is no /usr/bin/python3")
    } else {
        None
    }
}

fn prefork() -> Service<'static> {
    let port = free_port();
    Service::new([PYTHON, "-c", PREFORK, &port.to_string()], port)
}

fn children(pid: i32) -> BTreeSet<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Asks until every worker has answered.
fn all_answer(run: &mut Run, workers: &BTreeSet<i32>) {
    let end = Instant::now() + PATIENCE;
    let mut answered = BTreeSet::new();
    while answered != *workers {
        answered.insert(run.get("/").parse().unwrap());
        assert!(answered.is_subset(workers) && Instant::now() < end, "{answered:?}, {workers:?}");
    }
}

#[test]
fn a_prefork_server_comes_back_whole_and_ends_by_one_signal() {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    let server = prefork();
    let mut run = server.capture(&[]);
    let root = run.app();
    let workers = children(root);
    assert_eq!(workers.len(), 4);
    let shown = support::stdout(&server.cache_show());
    assert!(shown.contains("5 processes, 5 threads"), "{shown}");
    all_answer(&mut run, &workers);
    assert_eq!(run.end().code(), Some(7));
    for _ in 0..support::repetitions(8) {
        let mut run = server.restore();
        assert_eq!((run.app(), children(root)), (root, workers.clone()));
        all_answer(&mut run, &workers);
        assert_eq!(run.end().code(), Some(7), "one signal ends all");
        all_gone(workers.iter().copied().chain([root]));
        assert_eq!(listeners(server.port), 0);
    }
    // A worker's pid is another process's now: not the root's.
    let taken = Occupant::of(*workers.last().unwrap());
    if let Ok(taken) = taken {
        let mut run = server.start(&[]);
        let status = run.wait_status(|_| true);
        assert_eq!(status["pids"], "namespace", "{status}");
        all_answer(&mut run, &workers);
        assert_eq!(run.end().code(), Some(7));
        drop(taken);
    }
    for _ in 0..support::repetitions(4) {
        let mut run = server.restore_enclosed(&[]);
        assert_eq!(run.app(), root);
        all_answer(&mut run, &workers);
        assert_eq!(run.end().code(), Some(7));
    }
    assert_eq!(listeners(server.port), 0);
}

/// A worker that is killed is its parent's to notice, as in any program.
#[test]
fn the_root_s_death_leaves_its_children_as_a_cold_start_does() {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    let server = prefork();
    let run = server.capture(&[]);
    let workers = children(run.app());
    assert_eq!(run.end().code(), Some(7));
    let mut run = server.restore();
    let root = run.app();
    all_answer(&mut run, &workers);
    kill(Pid::from_raw(root), Signal::SIGKILL).unwrap();
    all_gone([root]);
    std::thread::sleep(Duration::from_millis(50));
    // They live on, and nobody's death signal was left in them.
    for worker in &workers {
        assert!(matches!(state(*worker), Some('S' | 'R')), "worker {worker}");
        kill(Pid::from_raw(*worker), Signal::SIGKILL).unwrap();
    }
    all_gone(workers);
}

/// `sh -c "SERVER; true"`: the shell waits for the server.
#[test]
fn a_shell_around_a_server_comes_back() {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    let port = free_port();
    let script = format!("{PYTHON} -m http.server --bind 127.0.0.1 {port} 2>&1; exit 5");
    let server = Service::new(["sh", "-c", &script], port);
    let run = server.capture(&[]);
    let inner = children(run.app());
    assert_eq!(inner.len(), 1, "{inner:?}");
    let end = |inner: &BTreeSet<i32>| {
        for pid in inner {
            kill(Pid::from_raw(*pid), Signal::SIGTERM).unwrap();
        }
    };
    end(&inner);
    assert_eq!(run.wait().code(), Some(5));
    for _ in 0..support::repetitions(3) {
        let mut run = server.restore();
        assert_eq!(children(run.app()), inner);
        assert!(run.get("/").contains("Directory listing"));
        end(&inner);
        assert_eq!(run.wait().code(), Some(5), "the shell goes on with what comes next");
    }
}

/// Carries a program that checks itself through a restore.
fn carried(options: &[&str], mapped: &[&str]) {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    let dir = support::cache();
    let program = match compile("tree", dir.path()) {
        Ok(program) => program,
        Err(missing) => skip!("{missing}"),
    };
    let work = dir.path();
    let mut command = alone(&program);
    command.arg(work).args(mapped);
    let mut target = Target::start(command, &work.join("out"));
    target.wait_until(|said| said.contains("ready\n"));
    let image = work.join("image");
    dump(target.pid(), &image, &["--leave-running"]);
    let pid = target.pid();
    let is_well = |mut target: Target, what: &str| {
        fs::write(work.join("go"), "").unwrap();
        let status = target.wait();
        let said = target.said();
        assert!(status.success() && said.ends_with("all is well\n"), "{what}: {status}\n{said}");
        fs::remove_file(work.join("go")).unwrap();
    };
    // Having stood still does it no harm.
    is_well(target, "dumped");
    for round in 0..support::repetitions(2) {
        let out = work.join(format!("out-{round}"));
        let mut target = Target::restore_as(&image, &out, options);
        target.wait_until(|said| said.contains("waiting"));
        if options.contains(&"set-tid") {
            assert_eq!(restored_pid(target.pid()), Some(pid));
        }
        is_well(target, &format!("{options:?}, {mapped:?}, restored for the {round}. time"));
    }
}

#[test]
fn sessions_groups_and_ended_children_copied() {
    carried(&["--pids", "set-tid"], &[]);
}

#[test]
fn sessions_groups_and_ended_children_mapped() {
    carried(&["--pids", "set-tid"], &["mapped"]);
}

#[test]
fn sessions_groups_and_ended_children_in_a_namespace() {
    carried(&["--pids", "namespace"], &[]);
}

/// Runs a command and says which orphans it left: pid 1 of a container may reap
/// none, and their pids would be taken for ever.
const ADOPTING: &str = "
import ctypes, os, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
status = subprocess.run(sys.argv[1:]).returncode
print('left:', open(f'/proc/self/task/{os.getpid()}/children').read().split())
sys.exit(status)
";

/// What one process cannot have back, none gets: nothing is left over.
#[test]
fn a_child_that_cannot_come_back_takes_all_along() {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    const PROGRAM: &str = "
import os, sys, time
if os.fork() == 0:
    mine = open(sys.argv[1])
    print('ready', flush=True)
    time.sleep(1000)
os.wait()
";
    let dir = support::cache();
    let (file, image) = (dir.path().join("file"), dir.path().join("image"));
    fs::write(&file, "content").unwrap();
    let mut command = alone(PYTHON);
    command.args(["-c", PROGRAM]).arg(&file);
    let mut target = Target::start(command, &dir.path().join("out"));
    target.wait_until(|said| said.contains("ready"));
    let pids: Vec<i32> = children(target.pid()).into_iter().chain([target.pid()]).collect();
    dump(target.pid(), &image, &["--leave-running"]);
    // Reaped by its parent: pid 1 of a container may not.
    kill(Pid::from_raw(pids[0]), Signal::SIGTERM).unwrap();
    target.wait();
    fs::remove_file(&file).unwrap();
    for way in ["set-tid", "namespace"] {
        let mut command = Command::new(PYTHON);
        command.args(["-c", ADOPTING]).arg(support::binary());
        command.args(["image", "restore"]).arg(&image).args(["--pids", way]);
        let attempt = || command.output().unwrap();
        let is_taken = |output: &Output| support::stderr(output).contains("is taken");
        let output = support::with_free_pids(attempt, is_taken);
        let said = support::stderr(&output);
        assert!(!output.status.success(), "{way}");
        let reason = format!("process {}: openat(-100, {file:?}", pids[0]);
        assert!(said.contains(&reason), "{said}");
        assert_eq!(support::stdout(&output), "left: []\n", "{way}");
        all_gone(pids.clone());
    }
    // A page file that is not as long as the plan says is found before.
    let pages = fs::OpenOptions::new().write(true).open(image.join("pages-1001.img")).unwrap();
    pages.set_len(4096).unwrap();
    let output = Command::new(support::binary()).args(["image", "restore"]).arg(&image).output();
    let said = support::stderr(&output.unwrap());
    assert!(said.contains("pages-1001.img has 4096 bytes"), "{said}");
    let (own, others) = (image.join("plan"), image.join(format!("plan-{}", pids[0])));
    let part = fs::read(&others).unwrap();
    fs::write(&others, fs::read(&own).unwrap()).unwrap();
    let output = Command::new(support::binary()).args(["image", "restore"]).arg(&image).output();
    let said = support::stderr(&output.unwrap());
    assert!(said.contains("is there twice"), "{said}");
    fs::write(&others, &part).unwrap();
    // There is no other way to several pids than to ask for each.
    let mut command = Command::new(support::binary());
    let output = command.args(["image", "restore", "--pids", "cycle"]).arg(&image).output();
    let said = support::stderr(&output.unwrap());
    assert!(said.contains("cycle does not make trees of processes"), "{said}");
    fs::remove_file(&others).unwrap();
    let output = Command::new(support::binary()).args(["image", "restore"]).arg(&image).output();
    let said = support::stderr(&output.unwrap());
    assert!(said.contains(&format!("plan-{}", pids[0])), "{said}");
    assert_ne!(pid_of_image(&image), 0);
}

/// Neither a worker nor the process that forked it has a right that a cold start
/// would not have given: not the one by which their pids were chosen.
#[test]
fn an_ordinary_user_s_tree_has_no_capability() {
    if let Some(missing) = missing() {
        skip!("{missing}");
    }
    for way in ["set-tid", "namespace"] {
        let user = match way {
            "set-tid" => support::Ordinary::with_capability(),
            _ => support::Ordinary::with_namespaces(),
        };
        let user = match user {
            Ok(user) => user,
            Err(missing) => skip!("{missing}"),
        };
        let server = prefork().run_by(&user);
        let run = server.capture(&[]);
        let workers = children(run.app());
        assert_eq!(run.end().code(), Some(7));
        let mut run = match way {
            "set-tid" => server.restore(),
            _ => server.restore_enclosed(&[]),
        };
        all_answer(&mut run, &workers);
        // As others see them.
        let outside: BTreeSet<i32> = children(run.pid())
            .into_iter()
            .flat_map(|pid| children(pid).into_iter().chain([pid]))
            .filter(|pid| comm(*pid).starts_with("python3"))
            .collect();
        assert_eq!(outside.len(), 5, "{outside:?}");
        for pid in outside {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{way}: {status}");
            }
        }
        assert_eq!(run.end().code(), Some(7));
    }
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// A program that asks others now and then is not caught with one of them.
#[test]
fn a_child_that_has_just_been_started_is_waited_for() {
    let dir = support::cache();
    let mut command = alone("sh");
    command.args(["-c", "echo ready; while :; do sleep 0.06; done"]);
    let mut target = Target::start(command, &dir.path().join("out"));
    target.wait_until(|said| said.contains("ready"));
    for _ in 0..20 {
        let output = try_dump(target.pid(), &dir.path().join("image"), &["--leave-running"]);
        let said = support::stderr(&output);
        if said.contains("has just been started") {
            return;
        }
        // Between two of them it has no child.
        let _ = fs::remove_dir_all(dir.path().join("image"));
    }
    panic!("no child was met");
}
