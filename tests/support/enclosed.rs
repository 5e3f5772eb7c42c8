//! What is in namespaces of its own, seen from outside.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the values of a line of a `status` file of `/proc`.
pub fn line(status: &Path, name: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Returns the pids of a process or thread, from ours to its own.
fn pids(status: &Path) -> Vec<i32> {
    let words = line(status, "NSpid").unwrap_or_default();
    words.iter().map(|word| word.parse().unwrap()).collect()
}

/// Returns the pid as we see it of the launcher's child that sees itself as
/// `inner`, in a pid namespace of its own.
pub fn outer(launcher: i32, inner: i32) -> i32 {
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    let children = fs::read_to_string(children).unwrap();
    let mut children = children.split_ascii_whitespace();
    let found = children.find(|child| {
        let pids = pids(Path::new(&format!("/proc/{child}/status")));
        pids.len() > 1 && pids.last() == Some(&inner)
    });
    let found = found.unwrap_or_else(|| panic!("no child of {launcher} is {inner} inside"));
    found.parse().unwrap()
}

/// Returns the pid of the init of a launcher's namespace.
pub fn init(launcher: i32) -> i32 {
    outer(launcher, 1)
}

/// Returns the threads of a process as they see themselves.
pub fn inner_tids(pid: i32) -> BTreeSet<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let own = |path: &Path| pids(&path.join("status")).last().copied();
    tasks.filter_map(|task| own(&task.unwrap().path())).collect()
}

/// Asserts that no thread has any capability, in its user namespace or out of
/// it: seen by us, and by the `/proc` that the process itself sees.
pub fn assert_no_capability(pid: i32, inner: i32) {
    let outside = format!("/proc/{pid}/task");
    let inside = format!("/proc/{pid}/root/proc/{inner}/task");
    for tasks in [outside, inside] {
        let mut count = 0;
        for task in fs::read_dir(&tasks).unwrap() {
            let status = task.unwrap().path().join("status");
            // The bounding set of a new user namespace is full. It is the
            // limit of what an exec may give, and gives nothing: no program
            // is set-id there, and no file capability counts.
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                // One that ends meanwhile has none.
                let Some(value) = line(&status, set) else { continue };
                assert_eq!(value, ["0000000000000000"], "{set} in {}", status.display());
                count += 1;
            }
        }
        assert!(count >= 4, "nobody is in {tasks}");
    }
}

/// Returns our mounts.
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}
