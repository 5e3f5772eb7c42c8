//! `warmstart image dump|show|restore` on a live process, without the cache.

mod support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{cache, stderr, stdout, warmstart};

/// Counts up in a file, ends with status 7 once told to.
const PROGRAM: &str = "
import sys, time, os
os.closerange(3, 1024)  # what the test runner left open
n = 0
while not os.path.exists(sys.argv[1] + '/stop'):
    n += 1
    with open(sys.argv[1] + '/count.t', 'w') as f: f.write(str(n))
    os.rename(sys.argv[1] + '/count.t', sys.argv[1] + '/count')
    time.sleep(0.01)
sys.exit(7)";

/// A child that does not outlive its test.
struct Started(Child);

impl std::ops::Deref for Started {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Started {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", PROGRAM]).arg(dir).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Started(command.spawn().expect("python3"));
    counted(dir, 5);
    child
}

fn count(dir: &Path) -> u32 {
    std::fs::read_to_string(dir.join("count")).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Waits until the program has counted to `n`.
fn counted(dir: &Path, n: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(dir) < n {
        assert!(Instant::now() < deadline, "it stands at {}", count(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn image(words: &[&str], dir: &Path) -> Output {
    let mut command = warmstart(&cache());
    command.arg("image").args(words).arg(dir).output().expect("the binary")
}

fn dump(pid: u32, options: &[&str], dir: &Path) -> Output {
    let pid = pid.to_string();
    image(&[&["dump", pid.as_str()], options, &["-o"]].concat(), dir)
}

fn can_restore() -> bool {
    warmstart(&cache()).arg("doctor").output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_process_is_dumped_shown_and_restored() {
    if !can_restore() {
        skip!("restoring does not work here (warmstart doctor)");
    }
    let dir = cache();
    let set = dir.path().join("set");
    let mut child = start(dir.path());
    let pid = child.id();

    let output = dump(pid, &["--json"], &set);
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_eq!((&json["schema_version"], &json["pid"]), (&1.into(), &pid.into()));
    // It ends, unless told otherwise.
    assert_eq!(child.wait().expect("our child").signal(), Some(9));
    let before = count(dir.path());

    let text = stdout(&image(&["show"], &set));
    assert!(text.contains(&format!("plan: pid {pid}")), "{text}");
    let json: Value =
        serde_json::from_slice(&image(&["show", "--json"], &set).stdout).expect("JSON of the set");
    assert_eq!(json["schema_version"], 1);
    assert!(json["plan"]["text"].is_array(), "{}", json["plan"]);

    let mut restored = warmstart(&cache());
    let restored = restored.args(["image", "restore"]).arg(&set).spawn();
    let mut restored = Started(restored.expect("the binary"));
    counted(dir.path(), before + 5);
    std::fs::write(dir.path().join("stop"), "").expect("a file");
    assert_eq!(restored.wait().expect("our child").code(), Some(7));
}

#[test]
fn a_process_can_be_left_running_or_stopped() {
    let dir = cache();
    let child = start(dir.path());
    let output = dump(child.id(), &["--leave-running"], &dir.path().join("a"));
    assert!(output.status.success(), "{}", stderr(&output));
    counted(dir.path(), count(dir.path()) + 5);

    let output = dump(child.id(), &["--leave-stopped"], &dir.path().join("b"));
    assert!(output.status.success(), "{}", stderr(&output));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("its stat");
    assert!(stat.contains(") T "), "{stat}");
}

#[test]
fn a_directory_that_is_not_empty_is_not_touched() {
    let dir = cache();
    let child = start(dir.path());
    let output = dump(child.id(), &[], dir.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
    counted(dir.path(), count(dir.path()) + 5);
}

#[test]
fn what_cannot_be_dumped_leaves_nothing() {
    let dir = cache();
    let set = dir.path().join("set");
    let output = dump(i32::MAX as u32, &[], &set);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("was not dumped"), "{}", stderr(&output));
    assert!(!set.exists());
}

#[test]
fn what_is_no_image_is_neither_shown_nor_restored() {
    let dir = cache();
    for words in [["show"], ["restore"]] {
        for path in [dir.path().to_path_buf(), dir.path().join("nowhere"), "/dev/null".into()] {
            let output = image(&words, &path);
            assert_eq!(output.status.code(), Some(1), "{words:?} {path:?}");
            assert!(stderr(&output).starts_with("warmstart: "), "{}", stderr(&output));
            assert!(stderr(&output).lines().count() <= 2, "{}", stderr(&output));
        }
    }
}
