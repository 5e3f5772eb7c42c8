//! An ordinary user whose binary carries one file capability: what they
//! restore has no privilege and looks like what they started.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgid, getsid};

use support::service::{
    Service, ask, compile, free_port, listeners, pid_of_image, tids, tids_of_image,
};
use support::{Jdk, Ordinary, full_jdks, jdk, repetitions, stderr};

/// Lines of `/proc/PID/task/TID/status` that a restore brings back. (SigCgt
/// and SigIgn are the process's.)
const OF_A_THREAD: [&str; 16] = [
    "Name",
    "Umask",
    "Tgid",
    "Pid",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "SigIgn",
    "SigCgt",
];

const CAPABILITIES: [&str; 4] = ["CapInh", "CapPrm", "CapEff", "CapAmb"];

type Lines = BTreeMap<String, String>;

fn status_of(pid: i32, tid: i32) -> Option<Lines> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Some(text.lines().filter_map(split).collect())
}

/// Asserts that no thread has any capability.
fn assert_no_privilege(pid: i32) {
    for tid in tids(pid) {
        // One that ends meanwhile has none.
        let Some(status) = status_of(pid, tid) else { continue };
        for set in CAPABILITIES {
            assert_eq!(status[set], "0000000000000000", "{set} of thread {tid}");
        }
    }
}

/// What anybody sees of a process.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    links: Vec<PathBuf>,
    files: Vec<(&'static str, String)>,
    /// Its stack, and the areas that the kernel maps: lines of `maps`.
    kernels: Vec<String>,
    threads: BTreeMap<i32, Lines>,
}

impl Looks {
    /// Looks at a process and these of its threads.
    fn of(pid: i32, threads: &BTreeSet<i32>) -> Self {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        let file = |name: &'static str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap();
            (name, String::from_utf8_lossy(&bytes).into_owned())
        };
        let lines = |tid: &i32| {
            let mut lines = status_of(pid, *tid).unwrap_or_else(|| panic!("no thread {tid}"));
            lines.retain(|name, _| OF_A_THREAD.contains(&name.as_str()));
            (*tid, lines)
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let kernels = |line: &&str| line.ends_with(']') && !line.ends_with("[heap]");
        Self {
            links: ["exe", "cwd", "root"].map(link).to_vec(),
            files: ["comm", "cmdline", "environ", "limits", "oom_score_adj", "auxv"]
                .map(file)
                .into(),
            kernels: maps.lines().filter(kernels).map(str::to_owned).collect(),
            threads: threads.iter().map(lines).collect(),
        }
    }
}

impl Looks {
    /// Asserts that another process looks the same, each thing on its own.
    fn assert_same(&self, other: &Self) {
        assert_eq!(self.links, other.links);
        for (mine, others) in self.files.iter().zip(&other.files) {
            assert_eq!(mine, others);
        }
        assert_eq!(self.kernels, other.kernels);
        for (tid, lines) in &self.threads {
            assert_eq!(Some(lines), other.threads.get(tid), "thread {tid}");
        }
    }
}

/// What the tests need, or what is missing.
fn prepare() -> Result<(Ordinary, Jdk, tempfile::TempDir), String> {
    let user = Ordinary::with_capability()?;
    let jdk = full_jdks().pop().ok_or("there is no JDK")?;
    Ok((user, jdk, compile("Exercise.java")?))
}

#[test]
fn restored_programs_look_like_cold_ones() {
    let (user, jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let mut service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    let tmp = user.home().join("tmp").to_str().unwrap().to_owned();
    // The C library takes these away from a binary with a capability.
    for (name, value) in [("LD_LIBRARY_PATH", "/no/such/lib"), ("TMPDIR", &tmp), ("TZDIR", "/z")] {
        service.env.push((name.into(), value.into()));
    }
    let cold = service.capture(&[]);
    let captured = tids_of_image(&service.image());
    let looks = Looks::of(cold.app(), &captured);
    assert_eq!(cold.end().code(), Some(143));
    for (name, value) in &service.env {
        assert!(looks.files[2].1.contains(&format!("{name}={value}\0")), "{name} was not there");
    }

    for round in 0..repetitions(5) {
        let mut run = service.restore();
        assert_eq!(pid_of_image(&service.image()), run.app(), "round {round}");
        looks.assert_same(&Looks::of(run.app(), &captured));
        assert_no_privilege(run.app());
        let [app, launcher] = [run.app(), run.pid()].map(Pid::from_raw);
        assert_eq!(getpgid(Some(app)), getpgid(Some(launcher)));
        assert_eq!(getsid(Some(app)), getsid(Some(launcher)));
        let parent = &status_of(run.app(), run.app()).unwrap()["PPid"];
        assert_eq!(parent, &run.pid().to_string());
        for (name, value) in &service.env {
            let answer = run.get(&format!("/environment?{name}"));
            let home = user.home();
            let expected = format!("{value}\n{}\n{}", home.display(), run.app());
            assert_eq!(answer, expected, "round {round}");
        }
        // Its file I/O, its threads and its children are an ordinary user's.
        assert!(run.get("/work?5").ends_with("exec=6/0"), "round {round}");
        assert_no_privilege(run.app());
        assert_eq!(run.said(), "", "round {round}");
        assert_eq!(run.end().code(), Some(143), "round {round}");
    }
}

#[test]
fn jcmd_finds_restored_programs() {
    let (user, jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let jcmd = jdk.home.join("bin/jcmd");
    if !jcmd.exists() {
        skip!("there is no {}", jcmd.display());
    }
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    let mut run = service.restore();
    let list = user.command(&jcmd).arg("-l").output().unwrap();
    let line = format!("{} Exercise {}", run.app(), service.port);
    assert!(support::stdout(&list).lines().any(|listed| listed == line), "{list:?}");
    let print = [run.app().to_string(), "Thread.print".into()];
    let output = user.command(&jcmd).args(print).output().unwrap();
    let text = support::stdout(&output);
    assert!(text.contains("Full thread dump") && text.contains("HTTP-Dispatcher"), "{output:?}");
    assert!(run.get("/work?1").starts_with("gc="));
    assert_eq!(run.end().code(), Some(143));
}

/// A user without the capability, a JDK and the captured server, or what is
/// missing.
fn without_capability() -> Result<(Ordinary, Jdk, tempfile::TempDir), String> {
    let user = Ordinary::new()?;
    let jdk = jdk(17).or_else(|| full_jdks().pop()).ok_or("there is no JDK")?;
    Ok((user, jdk, compile("Exercise.java")?))
}

#[test]
fn without_the_capability_it_is_restored_in_a_namespace() {
    let (user, jdk, classes) = match without_capability() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    for round in 1..3 {
        let mut run = service.start(&[]);
        let status = run.wait_status(|_| true);
        let how = (&status["outcome"], &status["pids"]);
        assert_eq!(how, (&"restored".into(), &"namespace".into()), "{status}");
        assert_eq!(run.app(), pid_of_image(&service.image()), "as it sees itself");
        assert!(run.get(&format!("/work?{round}")).ends_with(&format!("exec={}/0", round + 1)));
        assert_eq!(run.said(), "", "round {round}");
        assert_eq!(listeners(service.port), 1);
        assert_eq!(run.end().code(), Some(143));
    }
}

#[test]
fn without_capability_and_namespaces_it_starts_cold_and_says_so_in_one_line() {
    let (user, jdk, classes) = match without_capability() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    for _ in 0..2 {
        let mut run = service.start(&["--pids", "set-tid"]);
        let status = run.wait_status(|_| true);
        assert_eq!(status["outcome"], "cold", "{status}");
        assert!(run.get("/work?1").ends_with("exec=2/0"));
        let said = run.said();
        assert!(said.starts_with("warmstart: started cold: choosing pids needs"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(listeners(service.port), 1);
        assert_eq!(run.app(), run.pid(), "a plain start");
        assert_eq!(run.end().code(), Some(143));
    }
}

/// Waits until the server answers.
fn answer(port: u16, path: &str, child: &mut Child) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match ask(port, path) {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dumped_programs_come_back_without_privilege() {
    let (user, jdk, classes) = match prepare() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if scope.trim().parse::<u8>().is_ok_and(|scope| scope > 0) {
        skip!("Yama lets nobody dump a process that is not their child");
    }
    let port = free_port();
    // Descriptors that a test runner leaves open would be refused by name.
    let script = "for fd in /proc/self/fd/*; do fd=${fd##*/}; \
                  if [ $fd -gt 2 ]; then eval \"exec $fd>&-\"; fi; done; exec \"$@\"";
    let mut java = user.command("bash");
    java.args(["-c", script, "bash"]).arg(jdk.java()).arg("-cp").arg(classes.path());
    java.args(["Exercise", &port.to_string()]);
    java.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut java = Ends(java.spawn().unwrap());
    answer(port, "/work?1", &mut java.0);
    let pid = java.0.id() as i32;
    let dump = |command: &mut Command| {
        let args = ["image", "dump", &pid.to_string(), "-o", "image"];
        command.args(args).output().unwrap()
    };
    let mut dumped = dump(&mut user.warmstart());
    // The connection that was answered last may not be gone yet.
    for _ in 0..50 {
        if dumped.status.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        dumped = dump(&mut user.warmstart());
    }
    assert!(dumped.status.success(), "{}", stderr(&dumped));
    assert_eq!(java.0.wait().unwrap().signal(), Some(libc::SIGKILL));

    let captured = tids_of_image(&user.home().join("image"));
    let dumped = Instant::now();
    for round in 0..repetitions(3) {
        // Somebody else may have got one of them: what then comes back in a
        // namespace is another test's.
        let is_taken = |tid: &i32| fs::exists(format!("/proc/{tid}")).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while captured.iter().any(is_taken) {
            assert!(Instant::now() < end, "round {round}: a pid stays taken");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut restore = user.warmstart();
        restore.args(["image", "restore", "--pids", "set-tid", "image"]);
        restore.stdin(Stdio::null()).stdout(Stdio::null());
        let mut restore = Ends(restore.spawn().unwrap());
        assert!(answer(port, "/work?2", &mut restore.0).ends_with("exec=3/0"), "round {round}");
        // The JDK's `process reaper` ends after a minute without a child: by its
        // clock, which has gone on, that is over from then on.
        let ended = usize::from(dumped.elapsed() > Duration::from_secs(58));
        let missing = captured.difference(&tids(pid)).count();
        assert!(missing <= ended, "round {round}: {missing} of {} tids", captured.len());
        assert_no_privilege(pid);
        let launcher = Pid::from_raw(restore.0.id() as i32);
        nix::sys::signal::kill(launcher, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(restore.0.wait().unwrap().code(), Some(143), "round {round}");
    }
}
