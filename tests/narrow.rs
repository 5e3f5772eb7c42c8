//! The privileged part is narrow: an ordinary user whose binary carries the
//! capability attacks it with entries of their own making, and gains nothing.
//!
//! Each attack must be refused before the first process is made: `strace(1)`
//! sees no `clone3` with a pid that was asked for (where it is installed; the
//! reason is checked everywhere), and sees it in a restore that is not
//! tampered with. `tests/hostile.rs` has more of what a plan may not say;
//! here is what an attacker would say first, through the whole binary.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::etc::OwnEtc;
use support::{Ordinary, stderr, stdout, with_free_pids};
use warmstart::cache::{Content, Dependency, EntryMeta};
use warmstart::fingerprint;
use warmstart::privilege::file::{self, FileCaps};
use warmstart::restore::plan::{Arg, Check, Operation, Plan, PlanFile, ThreadPlan};

const PATIENCE: Duration = Duration::from_secs(30);
/// Two threads that wait for ever.
const PROGRAM: &str = "
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
time.sleep(600)
";
const CHECKPOINT_RESTORE: u64 = 1 << 40;

/// An ordinary user's entry, and what they do with it.
struct Attacker {
    user: Ordinary,
    etc: OwnEtc,
    /// The plan as it was captured.
    plan: Plan,
    entry: PathBuf,
    /// The cursor, moved far ahead for the capture, was put back after it.
    put_back: bool,
}

static CURSOR: Mutex<()> = Mutex::new(());

/// A run that ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The relay passes it on.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Waits until something is there.
#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a set of `/proc/PID/status`, such as CapPrm.
fn set_of(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

impl Attacker {
    /// Captures a program as an ordinary user; an error says what is missing.
    fn new() -> Result<Self, String> {
        let user = Ordinary::with_capability()?;
        let etc = OwnEtc::new()?;
        if !Path::new("/usr/bin/python3").exists() {
            return Err("there is no /usr/bin/python3".into());
        }
        fs::write(user.home().join("program.py"), PROGRAM).unwrap();
        // The cursor of pids is the machine's: one at a time moves it here.
        let alone = CURSOR.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last_pid();
        let run = start(&user, &etc, &[]);
        let status = wait_for("it is captured", || {
            let status = status(&user);
            assert!(status["reason"].is_null() || status["reason"] == "no entry yet", "{status}");
            (status["outcome"] == "captured").then_some(status)
        });
        wait_for("the launcher gives the capability up", || {
            (set_of(run.0.id(), "CapPrm") == 0).then_some(())
        });
        let app = status["app_pid"].as_i64().unwrap() as i32;
        let since = |pid: i32| (pid - before).rem_euclid(pid_max());
        let end = Instant::now() + Duration::from_secs(2);
        // What others have started meanwhile is little.
        let put_back = loop {
            match since(last_pid()) < since(app) {
                false if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                put_back => break put_back,
            }
        };
        drop(alone);
        drop(run);
        let id = status["entry"].as_str().unwrap();
        let entry = user.home().join(".cache/warmstart/v1/entries").join(id);
        let plan = Plan::read(&entry.join("image")).unwrap();
        let this = Self { user, etc, plan, entry, put_back };
        this.wait_for_pids();
        Ok(this)
    }

    /// Waits until no thread of the program is left.
    fn wait_for_pids(&self) {
        let tids = || self.plan.file().threads.iter().map(|thread| thread.tid);
        wait_for("its pids are free", || {
            tids().all(|tid| kill(Pid::from_raw(tid), None).is_err()).then_some(())
        });
    }

    /// Lets the user have a copy of the image, with this plan.
    fn image(&self, plan: &[u8]) -> PathBuf {
        let dir = self.user.home().join("image");
        let _ = fs::remove_dir_all(&dir);
        let copied = Command::new("cp").arg("-a").arg(self.entry.join("image")).arg(&dir).status();
        assert!(copied.unwrap().success());
        fs::write(dir.join("plan"), plan).unwrap();
        dir
    }

    /// Prepares `image restore` of a plan by the user, watched by strace if
    /// there is one.
    fn restoring(&self, plan: &[u8]) -> Command {
        self.restoring_by("set-tid", plan)
    }

    fn restoring_by(&self, way: &str, plan: &[u8]) -> Command {
        let dir = self.image(plan);
        // One that is accepted runs for ever.
        let mut restore = self.user.command("timeout");
        restore
            .arg("20")
            .arg(self.user.binary())
            .args(["image", "restore", "--pids", way])
            .arg(dir);
        let mut restore = self.etc.command(&watched(&restore, &self.trace()));
        restore.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        restore
    }

    fn trace(&self) -> PathBuf {
        self.user.home().join("trace")
    }

    /// Which processes were asked for by number, by the trace.
    fn asked_for(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.trace()).unwrap_or_default();
        trace.lines().filter(|line| line.contains("set_tid=")).map(str::to_owned).collect()
    }

    /// Fails unless a plan is refused for a reason, before anything is made.
    #[track_caller]
    fn check_refused(&self, what: &str, reason: &str, change: impl FnOnce(&mut PlanFile)) {
        let output = self.restoring(&sealed(&self.plan, change)).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(reason), "{what}: {said}");
        assert_eq!(self.asked_for(), [""; 0], "{what}");
    }

    /// Runs a restore until the program runs.
    #[track_caller]
    fn run(&self, what: &str, mut restore: Command) -> Running {
        let leader = self.plan.pid();
        let attempt = || {
            let mut run = Running(restore.spawn().unwrap());
            let ended = wait_for(what, || {
                let name = fs::read_to_string(format!("/proc/{leader}/comm")).unwrap_or_default();
                let cwd = fs::read_link(format!("/proc/{leader}/cwd")).unwrap_or_default();
                // Still itself while the restore lasts: `warmstart`. And not the
                // program of another test.
                let runs = (name == "python3\n" && cwd == self.user.home()).then_some(false);
                runs.or_else(|| run.0.try_wait().unwrap().map(|_| true))
            });
            let mut said = String::new();
            if ended {
                run.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            }
            (run, ended, said)
        };
        let (run, ended, said) = with_free_pids(attempt, |(.., said)| said.contains("is taken"));
        assert!(!ended, "{what}: {said}");
        run
    }

    /// Fails unless a plan is restored, with its pids.
    #[track_caller]
    fn check_restored(&self, what: &str, restore: Command) {
        let run = self.run(what, restore);
        let leader = self.plan.pid();
        let exe = fs::read_link(format!("/proc/{leader}/exe")).unwrap();
        assert_eq!(exe.as_os_str().as_encoded_bytes(), self.plan.file().exe, "{what}");
        for thread in &self.plan.file().threads {
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(set_of(thread.tid as u32, set), 0, "{what}: {set}");
            }
        }
        // Itself: strace, with an output file, passes no signal on.
        kill(Pid::from_raw(leader), Signal::SIGTERM).unwrap();
        drop(run);
        self.wait_for_pids();
    }
}

/// Puts strace before a command, which must be root's: a tracer without
/// privilege would take the file capability away.
fn watched(command: &Command, trace: &Path) -> Command {
    let _ = fs::remove_file(trace);
    let mut strace = Command::new("strace");
    if strace.arg("-V").output().is_err() {
        let must_run = std::env::var_os("WARMSTART_TESTS_MUST_RUN");
        assert_ne!(must_run.as_deref(), Some("1".as_ref()), "there is no strace");
        eprintln!("SKIP: there is no strace; only reasons are checked");
        let mut plain = Command::new("env");
        copy(command, &mut plain);
        return plain;
    }
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=clone3", "-o"]).arg(trace).arg("--");
    copy(command, &mut strace);
    strace
}

fn copy(from: &Command, to: &mut Command) {
    to.arg(from.get_program()).args(from.get_args());
    to.current_dir(from.get_current_dir().unwrap());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// Starts the program through the launcher.
fn start(user: &Ordinary, etc: &OwnEtc, options: &[&str]) -> Running {
    let _ = fs::remove_file(user.home().join("status"));
    let mut command = user.warmstart();
    command.args(["--status-file", "status", "--ready", "delay:300", "--pids", "set-tid"]);
    command.args(options);
    command.args(["--", "/usr/bin/python3", "-S", "program.py"]);
    let mut command = etc.command(&command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn status(user: &Ordinary) -> Value {
    let text = fs::read(user.home().join("status")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Changes a plan and puts the right length and checksum before it.
fn sealed(plan: &Plan, change: impl FnOnce(&mut PlanFile)) -> Vec<u8> {
    let mut file = plan.file().clone();
    change(&mut file);
    file.seal()
}

fn call(number: i64, args: &[u64]) -> Operation {
    let args: Vec<Arg> = args.iter().map(|value| Arg::Value(*value)).collect();
    Operation::new(number, &args, Check::Ok)
}

fn map_at(addr: u64, len: u64) -> Operation {
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS) as u64;
    call(libc::SYS_mmap, &[addr, len, 3, flags, u64::MAX, 0])
}

fn kernel(name: &str) -> i32 {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
    text.trim().parse().unwrap()
}

fn pid_max() -> i32 {
    kernel("pid_max")
}

fn last_pid() -> i32 {
    kernel("ns_last_pid")
}

#[test]
fn hostile_plans_are_refused_before_anything_is_made() {
    let attacker = match Attacker::new() {
        Ok(attacker) => attacker,
        Err(missing) => skip!("{missing}"),
    };
    let refused = |what: &str, reason: &str, change: &dyn Fn(&mut PlanFile)| {
        attacker.check_refused(what, reason, change);
    };

    // Calls that would do something with the capability, before all others and
    // in a thread: there is no place for an operation before the drop, and no
    // such operation.
    let privileged = [
        ("a child", call(libc::SYS_clone3, &[0x10_0000, 88])),
        ("another child", call(libc::SYS_clone, &[0; 5])),
        ("an exec", call(libc::SYS_execve, &[0; 3])),
        ("its program's file", call(libc::SYS_prctl, &[35, 14, 0x10_0000, 104, 0])),
        ("capabilities kept", call(libc::SYS_prctl, &[47, 2, 40, 0, 0])),
        ("capabilities set", call(libc::SYS_capset, &[0x10_0000, 0x10_0000])),
        ("another namespace", call(libc::SYS_setns, &[3, 0])),
        ("a new namespace", call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64])),
        ("a tracer", call(libc::SYS_ptrace, &[16, 1, 0, 0])),
        ("a call of the other table", call(0x4000_0000 | libc::SYS_mmap, &[0; 6])),
    ];
    for (what, operation) in &privileged {
        refused(what, "call ", &|file| file.operations.insert(0, *operation));
        refused(what, "call ", &|file| file.threads[1].operations.insert(0, *operation));
    }

    // Pids, of the leader and of a thread.
    for tid in [0, -1, 1, i32::MIN, i32::MAX, 1 << 22] {
        refused("no pid", "its pids cannot be", &|file| file.threads[0].tid = tid);
        refused("no tid", "its pids cannot be", &|file| file.threads[1].tid = tid);
    }
    // A namespace of its own may have the highest limit there can be.
    let outside = |tid: &i32| *tid < 1000 || (pid_max()..1 << 22).contains(tid);
    for tid in [2, 300, 999, pid_max(), pid_max() + 1, (1 << 22) - 1].into_iter().filter(outside) {
        let reason = format!("pid {tid} is outside 1000-{}", pid_max() - 1);
        refused("a pid outside", &reason, &|file| file.threads[0].tid = tid);
        refused("a tid outside", &reason, &|file| file.threads[1].tid = tid);
    }
    let twice = |file: &mut PlanFile| file.threads[1].tid = file.threads[0].tid;
    refused("a tid twice", "its pids cannot be", &twice);

    // Addresses: the kernel's half, the restore's own pages, the kernel's
    // areas, and what wraps around.
    let place = attacker.plan.file().places[0];
    let vdso = attacker.plan.file().kernel_areas[0].addr;
    for (addr, len) in [
        (0xffff_8000_0000_0000, 0x1000),
        (0x7fff_ffff_f000, 0x1000),
        (u64::MAX - 0xfff, 0x2000),
        (0x10_0000, u64::MAX - 0xfff),
        (0, 0x1000),
        (place, 0x1000),
        (place - 0x1000, 0x2000),
        (place + 0x1000, 0x1000),
        (0x10_0000, 0x7fff_ffff_0000 - 0x10_0000),
        (vdso, 0x1000),
    ] {
        refused("a mapping", "operation 0: ", &|file| file.operations.insert(0, map_at(addr, len)));
        let register = call(libc::SYS_rseq, &[addr, 32, 0, 0x5305_3053]);
        if addr != 0x10_0000 && addr != 0 && addr != place - 0x1000 {
            refused("an address that the kernel writes to", "", &|file| {
                file.threads[1].operations.push(register);
            });
        }
    }
    refused("a place in the kernel", "", &|file| file.places[0] = 0xffff_8000_0000_0000);
    refused("an area in the kernel", "", &|file| file.kernel_areas[0].addr = 1 << 63);

    // Counts and lengths.
    refused("no threads", "it has no threads", &|file| file.threads.clear());
    refused("many threads", "it is too large", &|file| {
        let thread = ThreadPlan { operations: Vec::new(), ..file.threads[1].clone() };
        file.threads =
            (0..100_001).map(|n| ThreadPlan { tid: 5000 + n, ..thread.clone() }).collect();
    });
    refused("many descriptors", "its sizes cannot be", &|file| file.fd_ceiling = u32::MAX);
    refused("much memory", "", &|file| file.len_pages = !0xfff);
    refused("a large place", "", &|file| file.len_place = u64::MAX);
    refused("a long frame", "", &|file| file.threads[1].frame.len = u64::MAX);
    refused("a short frame", "the frame of thread", &|file| file.threads[1].frame.head = 303);
    refused("a far frame", "", &|file| file.threads[1].frame.offset = u64::MAX - 8);
    refused("a long auxiliary vector", "", &|file| file.memory_map.auxv_len = u64::MAX);

    // The program's file.
    let set_uid = attacker.user.home().join("set-uid");
    support::install(Path::new("/usr/bin/true"), &set_uid).unwrap();
    fs::set_permissions(&set_uid, fs::Permissions::from_mode(0o4755)).unwrap();
    let secret = attacker.user.home().join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    for (path, reason) in [
        (set_uid.to_str().unwrap(), "is a set-id program"),
        ("/etc/passwd", "is not a program"),
        (secret.to_str().unwrap(), "Permission denied"),
        ("/proc/self/exe/x", "Not a directory"),
        ("/usr", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("bin/su", "its program or digest cannot be"),
    ] {
        refused(path, reason, &|file| file.exe = path.as_bytes().to_vec());
    }
    if fs::metadata("/bin/su").is_ok_and(|su| su.permissions().mode() & 0o4000 != 0) {
        refused("su", "is a set-id program", &|file| file.exe = b"/bin/su".to_vec());
    }

    // And what is not tampered with works, and strace would have seen it.
    let restore = attacker.restoring(&attacker.plan.encode());
    attacker.check_restored("the plan as it was", restore);
    if attacker.trace().exists() {
        let asked = attacker.asked_for();
        assert!(asked.iter().any(|line| line.contains(&format!("[{}]", attacker.plan.pid()))));
    }
}

/// Seals an entry's metadata after a change (`docs/cache.md`).
fn reseal(entry: &Path, change: impl FnOnce(&mut EntryMeta)) {
    let path = entry.join("meta");
    let bytes = fs::read(&path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (first, second) = bytes[96..].split_at(number(16));
    assert_eq!(second.len(), number(24));
    let mut meta: EntryMeta = postcard::from_bytes(first).unwrap();
    change(&mut meta);
    let first = postcard::to_stdvec(&meta).unwrap();
    let mut header = bytes[..32].to_vec();
    header[16..24].copy_from_slice(&(first.len() as u64).to_le_bytes());
    let digest = Sha256::digest([&header[..], &first[..]].concat());
    let sealed = [&header[..], &digest[..], &bytes[64..96], &first[..], second].concat();
    fs::write(&path, sealed).unwrap();
}

/// Replaces the plan of an entry, digest and all.
fn replace_plan(entry: &Path, plan: &[u8]) {
    fs::write(entry.join("image/plan"), plan).unwrap();
    reseal(entry, |meta| {
        let file = meta.files.iter_mut().find(|file| file.name == "plan").unwrap();
        file.size = plan.len() as u64;
        file.sha256 = fingerprint::Digest::of(plan);
        file.identity = None;
    });
}

#[test]
fn an_entry_with_right_digests_is_no_better() {
    let attacker = match Attacker::new() {
        Ok(attacker) => attacker,
        Err(missing) => skip!("{missing}"),
    };
    let Attacker { user, etc, plan, entry, .. } = &attacker;
    let once = || {
        attacker.wait_for_pids();
        let run = start(user, etc, &["--no-capture"]);
        let status = wait_for("it runs", || Some(status(user)).filter(Value::is_object));
        if status["outcome"] == "restored" {
            assert_eq!(status["app_pid"], plan.pid());
            wait_for("the launcher gives up the capability", || {
                (set_of(run.0.id(), "CapPrm") == 0).then_some(())
            });
        }
        drop(run);
        (status["outcome"].as_str().unwrap().to_owned(), status["reason"].to_string())
    };
    let outcome = || with_free_pids(once, |(_, reason)| reason.contains("is taken"));
    let cold = |reason: &str| {
        let (outcome, told) = outcome();
        assert!(outcome == "cold" && told.contains(reason), "{outcome}: {told}");
    };
    let original = plan.encode();
    replace_plan(entry, &original);
    assert_eq!(outcome().0, "restored", "sealed again, it is as good as before");

    // Another program that the user may run, but not the one of this entry.
    replace_plan(entry, &sealed(plan, |file| file.exe = b"/usr/bin/env".to_vec()));
    cold("/usr/bin/env is not the program that was checked");
    // Nor does it help to say that the entry depends on it.
    let set_uid = user.home().join("set-uid");
    support::install(Path::new("/usr/bin/true"), &set_uid).unwrap();
    fs::set_permissions(&set_uid, fs::Permissions::from_mode(0o4755)).unwrap();
    let content = fs::read(&set_uid).unwrap();
    let exe = set_uid.to_str().unwrap();
    replace_plan(entry, &sealed(plan, |file| file.exe = exe.as_bytes().to_vec()));
    reseal(entry, |meta| {
        let sha256 = fingerprint::Digest::of(&content);
        let content = Content::File { size: content.len() as u64, sha256, identity: None };
        meta.dependencies.push(Dependency { path: set_uid.clone(), content });
    });
    cold("is a set-id program");
    // Its digest is known to be right, what it says is checked all the same.
    let exec = || call(libc::SYS_execve, &[0; 3]);
    replace_plan(entry, &sealed(plan, |file| file.operations.insert(0, exec())));
    cold("call 59 is not allowed");
    replace_plan(entry, &sealed(plan, |file| file.threads[0].tid = 300));
    cold(&format!("pid 300 is outside 1000-{}", pid_max() - 1));
    replace_plan(entry, &original);
    assert_eq!(outcome().0, "restored");
}

#[test]
fn the_range_is_roots_to_set() {
    let attacker = match Attacker::new() {
        Ok(attacker) => attacker,
        Err(missing) => skip!("{missing}"),
    };
    let (etc, plan) = (&attacker.etc, &attacker.plan);
    let tids = || plan.file().threads.iter().map(|thread| thread.tid);
    let (lowest, highest) = (tids().min().unwrap(), tids().max().unwrap());
    let write = |min: i32, max: i32| {
        etc.change("mkdir -p /etc/warmstart && chmod 755 /etc/warmstart");
        etc.change(&format!(
            "rm -f /etc/warmstart/pids.conf; umask 022;
             printf 'min = {min}\nmax = {max}\n' > /etc/warmstart/pids.conf"
        ));
    };
    write(lowest, highest);
    attacker.check_restored("all are inside", attacker.restoring(&plan.encode()));
    write(lowest + 1, pid_max() - 1);
    let by = "which /etc/warmstart/pids.conf permits";
    let reason = format!("pid {lowest} is outside {}-{}, {by}", lowest + 1, pid_max() - 1);
    attacker.check_refused("one is below", &reason, |_| ());
    write(2, highest - 1);
    let reason = format!("pid {highest} is outside 2-{}, {by}", highest - 1);
    attacker.check_refused("one is above", &reason, |_| ());

    // Root is not limited.
    let dir = attacker.image(&plan.encode());
    let mut by_root = Command::new(attacker.user.binary());
    by_root.args(["image", "restore", "--pids", "set-tid"]).arg(dir);
    let mut by_root = etc.command(&by_root);
    by_root.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    drop(attacker.run("root restores", by_root));
    attacker.wait_for_pids();

    // What root alone did not write is no range, and no default either.
    for (change, reason) in [
        ("chown 65534 /etc/warmstart/pids.conf", "pids.conf does not belong to root"),
        ("chmod g+w /etc/warmstart/pids.conf", "pids.conf can be written by others than root"),
        ("chmod o+w /etc/warmstart", "/etc/warmstart can be written by others than root"),
        ("chown 65534 /etc/warmstart", "/etc/warmstart does not belong to root"),
        ("echo >> /etc/warmstart/pids.conf user = 5", "pids.conf: line 3 is not"),
        (": > /etc/warmstart/pids.conf", "pids.conf: it has no min"),
        ("chmod 600 /etc/warmstart/pids.conf", "pids.conf: Permission denied"),
        ("rm /etc/warmstart/pids.conf; mkfifo /etc/warmstart/pids.conf", "not a regular file"),
        (
            "mv /etc/warmstart/pids.conf /etc/warmstart/there &&
             ln -s there /etc/warmstart/pids.conf",
            "Too many levels of symbolic links",
        ),
    ] {
        etc.change("rm -rf /etc/warmstart");
        write(2, pid_max() - 1);
        etc.change(change);
        attacker.check_refused(change, reason, |_| ());
    }
    etc.change("rm -rf /etc/warmstart");
    attacker.check_restored("by default", attacker.restoring(&plan.encode()));
}

/// The cursor of pids is moved with the same capability.
#[test]
fn pids_that_are_made_the_next_are_limited_too() {
    let attacker = match Attacker::new() {
        Ok(attacker) => attacker,
        Err(missing) => skip!("{missing}"),
    };
    let plan = &attacker.plan;
    for index in [0, 1] {
        let hostile = sealed(plan, |file| file.threads[index].tid = 300);
        let output = attacker.restoring_by("last-pid", &hostile).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("pid 300 is outside 1000-"), "{said}");
    }
    let exec = |pid: &str, way: &str| {
        let mut exec = attacker.user.warmstart();
        exec.args(["pids", "exec", "--pid", pid, "--via", way, "--", "true"]);
        let once = || {
            let output = attacker.etc.command(&exec).output().unwrap();
            (output.status.code(), stderr(&output))
        };
        with_free_pids(once, |(_, said)| said.contains("is taken"))
    };
    for way in ["set-tid", "last-pid"] {
        let (status, said) = exec("300", way);
        assert!(status == Some(125) && said.contains("1000 to"), "{way}: {status:?} {said}");
        assert_eq!(exec(&plan.pid().to_string(), way), (Some(0), String::new()), "{way}");
    }
    attacker.etc.change("mkdir /etc/warmstart; echo odd > /etc/warmstart/pids.conf");
    for way in ["set-tid", "last-pid"] {
        let (status, said) = exec(&plan.pid().to_string(), way);
        assert!(status == Some(125) && said.contains("pids.conf: line 1"), "{way}: {said}");
    }
    attacker.etc.change("rm -r /etc/warmstart");
    let restore = attacker.restoring_by("last-pid", &plan.encode());
    attacker.check_restored("by the cursor", restore);
}

/// The launcher keeps the capability until the cursor is back where it was
/// found, and no longer.
#[test]
fn the_cursor_is_put_back_before_the_capability_is_given_up() {
    // Somebody else may move it as well.
    for _ in 0..3 {
        match Attacker::new() {
            Ok(attacker) if attacker.put_back => return,
            Ok(_) => {}
            Err(missing) => skip!("{missing}"),
        }
    }
    panic!("the cursor stays where a captured program was put");
}

/// Runs a command of which stdout is full, so that it stays in the middle.
fn held(mut command: Command) -> Running {
    let (reader, writer) = std::io::pipe().unwrap();
    // Less than any completion script has.
    assert_eq!(fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)), Ok(4096));
    let mut child = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    child.stdout = Some(std::os::fd::OwnedFd::from(reader).into());
    let pid = child.id();
    let run = Running(child);
    wait_for("it waits for its reader", || {
        let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Not setpriv, which it was at first.
        let is_ours = state.contains("(warmstart) ");
        (is_ours && (place.contains("pipe") || state.contains(") S "))).then_some(())
    });
    run
}

/// A file may have been given more than it needs, by hand or by a package.
#[test]
fn every_other_capability_is_given_up_at_once() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    const NET_ADMIN: u64 = 1 << 12;
    let more = FileCaps { permitted: CHECKPOINT_RESTORE | NET_ADMIN, ..FileCaps::OURS };
    for effective in [false, true] {
        file::set(&user.binary(), &FileCaps { effective, ..more }).unwrap();
        let mut completions = user.warmstart();
        completions.args(["completions", "zsh"]);
        let run = held(completions);
        assert_eq!(set_of(run.0.id(), "CapPrm"), CHECKPOINT_RESTORE);
        assert_eq!(set_of(run.0.id(), "CapEff"), 0);
        assert_eq!(set_of(run.0.id(), "CapInh"), 0);
    }
    // The kernel does give both: another program with that file capability.
    let sleep = user.home().join("sleep");
    support::install(Path::new("/usr/bin/sleep"), &sleep).unwrap();
    file::set(&sleep, &more).unwrap();
    let run = Running(user.command(&sleep).arg("60").spawn().unwrap());
    wait_for("it has both", || {
        (set_of(run.0.id(), "CapPrm") == CHECKPOINT_RESTORE | NET_ADMIN).then_some(())
    });
}

/// What the C library would read must not steer the privileged binary.
#[test]
fn the_environment_does_not_steer_it() {
    let user = match Ordinary::with_capability() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    let run = |variables: &[&str]| -> Output {
        // By env, which is not steered itself then.
        let mut command = user.command("env");
        command.args(variables).arg(user.binary()).args(["cache", "path"]);
        command.output().unwrap()
    };
    let before = run(&[]);
    assert!(before.status.success());
    let written = user.home().join("written");
    let [debug, trace] =
        ["LD_DEBUG_OUTPUT", "MALLOC_TRACE"].map(|name| format!("{name}={}", written.display()));
    let after = run(&[
        "LD_PRELOAD=/no/such.so",
        "LD_AUDIT=/no/such.so",
        "LD_DEBUG=all",
        &debug,
        &trace,
        "MALLOC_CHECK_=3",
        "MALLOC_PERTURB_=255",
        "GLIBC_TUNABLES=glibc.malloc.check=3:glibc.malloc.perturb=255",
        "RUST_BACKTRACE=full",
        "RUST_MIN_STACK=1",
    ]);
    assert_eq!(stdout(&after), stdout(&before));
    assert_eq!(stderr(&after), "");
    assert_eq!(fs::read_dir(user.home()).unwrap().count(), 0, "something was written");
}
