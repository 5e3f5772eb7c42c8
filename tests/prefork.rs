//! Real servers of several processes: what they share (memory, semaphores,
//! sockets to one another, files without a name) comes back with them.
//!
//! `WARMSTART_REPEAT=N` restores each N times. gunicorn and nginx are found below
//! `WARMSTART_TEST_RUNTIMES`, where `scripts/get-runtimes` put them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::service::{Run, Service, free_port, listeners};
use support::target::all_gone;

mod support;

/// How often each is restored with its pids outside, and in a namespace.
const USUAL: usize = 3;
/// Where a capture is made.
const WHEN_LISTENING: [&str; 4] = ["--at", "ready", "--ready", "port"];
const PYTHON: &str = "/usr/bin/python3";

/// Finds something that `scripts/get-runtimes` fetches.
fn fetched(place: &str) -> Result<PathBuf, String> {
    let dir = std::env::var_os("WARMSTART_TEST_RUNTIMES").map(PathBuf::from);
    let found = dir.map(|dir| dir.join(place)).filter(|path| path.exists());
    found.ok_or_else(|| format!("{place} is missing; scripts/get-runtimes brings it"))
}

fn installed(program: &str) -> Result<OsString, String> {
    let path = Path::new("/usr/bin").join(program);
    if path.exists() { Ok(path.into()) } else { Err(format!("there is no {program}")) }
}

fn source(name: &str) -> OsString {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtimes").join(name).into()
}

fn children(pid: i32) -> BTreeSet<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// How a server answers: whether an answer is right, given its workers.
type IsRight = fn(&str, &BTreeSet<i32>) -> bool;

/// Answers with the pid of the worker that answers.
fn is_worker(answer: &str, workers: &BTreeSet<i32>) -> bool {
    answer.parse().is_ok_and(|pid| workers.contains(&pid))
}

fn answers(run: &mut Run, workers: &BTreeSet<i32>, is_right: IsRight) {
    for _ in 0..6 {
        let answer = run.get("/");
        assert!(is_right(&answer, workers), "{answer}, {workers:?}:\n{}", run.said());
    }
}

/// Captures a server with so many workers and restores it, again and again; each
/// time one SIGTERM ends all of it with this status.
fn comes_back(server: &Service<'_>, count: usize, is_right: IsRight, code: i32) {
    let mut run = server.capture(&WHEN_LISTENING);
    let root = run.app();
    let workers = children(root);
    assert_eq!(workers.len(), count, "{}", run.said());
    // Having stood still does it no harm.
    answers(&mut run, &workers, is_right);
    assert_eq!(run.end().code(), Some(code));
    if support::can_choose_pids() {
        for _ in 0..support::repetitions(USUAL) {
            let mut run = server.restore_as(&WHEN_LISTENING);
            assert_eq!((run.app(), children(root)), (root, workers.clone()));
            answers(&mut run, &workers, is_right);
            assert_eq!(run.end().code(), Some(code), "one signal ends all");
            all_gone(workers.iter().copied().chain([root]));
            assert_eq!(listeners(server.port), 0);
        }
    }
    for _ in 0..support::repetitions(1) {
        let mut run = server.restore_enclosed(&WHEN_LISTENING);
        assert_eq!(run.app(), root);
        answers(&mut run, &workers, is_right);
        assert_eq!(run.end().code(), Some(code));
    }
    assert_eq!(listeners(server.port), 0);
}

/// Each worker tells the master that it lives by a deleted file that they share.
#[test]
fn gunicorn() {
    let place = match fetched("gunicorn") {
        Ok(place) => place,
        Err(missing) => skip!("{missing}"),
    };
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let code = fs::canonicalize(source("app.py")).unwrap();
    let code = code.parent().unwrap().to_str().unwrap();
    let words = [PYTHON, "-m", "gunicorn", "-w", "4", "-b", &address, "--chdir", code, "app:app"];
    let mut server = Service::new(words, port);
    server.env.push(("PYTHONPATH".into(), place.display().to_string()));
    server.env.push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
    comes_back(&server, 4, is_worker, 0);
}

/// A socket pair to each worker, with a signal for what comes in there, and
/// shared memory. It changes its groups as root, so another user runs it: one
/// who has no capability, for whom memory is read through the mappings.
#[test]
fn nginx() {
    let user = match support::Ordinary::with_namespaces() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    let nginx = match fetched("nginx/usr/sbin/nginx") {
        Ok(nginx) => nginx,
        Err(missing) => skip!("{missing}"),
    };
    if !Command::new(&nginx).arg("-v").output().is_ok_and(|output| output.status.success()) {
        skip!("{} does not run here: a library is missing", nginx.display());
    }
    let port = free_port();
    let home = user.home();
    let own = home.join("nginx");
    fs::copy(nginx, &own).unwrap();
    let shown = home.display();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
        .collect();
    let settings = format!(
        r#"worker_processes 4;
        daemon off;
        pid {shown}/nginx.pid;
        events {{ accept_mutex on; }}
        http {{
            access_log off;
            {paths}
            limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;
            server {{
                listen 127.0.0.1:{port};
                location / {{ limit_req zone=one burst=50 nodelay; return 200 $pid; }}
            }}
        }}"#
    );
    let file = home.join("nginx.conf");
    fs::write(&file, settings).unwrap();
    let words = [own.into_os_string(), "-e".into(), "stderr".into(), "-c".into(), file.into()];
    let server = Service::new(words, port).run_by(&user);
    let mut run = server.capture(&WHEN_LISTENING);
    let workers = children(run.app());
    assert_eq!(workers.len(), 4, "{}", run.said());
    answers(&mut run, &workers, is_worker);
    assert_eq!(run.end().code(), Some(0));
    for _ in 0..support::repetitions(USUAL) {
        let mut run = server.restore_enclosed(&WHEN_LISTENING);
        answers(&mut run, &workers, is_worker);
        assert_eq!(run.end().code(), Some(0));
        assert_eq!(listeners(port), 0);
    }
}

/// Pipes, and locks that are semaphores in deleted files of `/dev/shm`.
#[test]
fn python_s_pool_of_processes() {
    if !Path::new(PYTHON).exists() {
        skip!("there is no {PYTHON}");
    }
    let port = free_port();
    let words = [PYTHON.into(), source("pool.py"), port.to_string().into()];
    let is_right: IsRight = |answer, workers| {
        let mut words = answer.split(' ').map(|word| word.parse::<i32>().unwrap());
        let total = words.next().unwrap();
        total % 66 == 0 && words.all(|pid| workers.contains(&pid))
    };
    comes_back(&Service::new(words, port), 3, is_right, 7);
}

/// A socket pair to each worker, through which connections are passed on.
#[test]
fn node_s_cluster() {
    let node = match installed("node") {
        Ok(node) => node,
        Err(missing) => skip!("{missing}"),
    };
    let port = free_port();
    let words = [node, source("cluster.js"), port.to_string().into()];
    comes_back(&Service::new(words, port), 3, is_worker, 7);
}
