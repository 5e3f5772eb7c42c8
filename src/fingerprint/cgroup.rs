//! Memory and CPU limits of the control group: what runtimes size heaps and
//! thread pools by (`cgroups(7)`).
//!
//! Only the limits count, not the group's name: each terminal and each job
//! has a group of its own. The mounts are taken to be where systemd, Docker
//! and the others put them; reading `/proc/self/mountinfo` to be sure would
//! cost more than all the rest.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Ancestors that are looked at, at most.
const DEPTH_MAX: usize = 32;
/// A limit of v1 from here on means that there is none: the kernel writes
/// LONG_MAX rounded down to a page.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

/// What a program may use; `None` is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The smallest memory limit from the group up to the root, in bytes.
    pub memory: Option<u64>,
    /// The smallest CPU quota, in thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// `cpu.weight` or `cpu.shares` of the group itself, which older JVMs
    /// count CPUs by.
    pub cpu_weight: Option<u64>,
}

impl Limits {
    /// Reads the limits of the calling process; a machine without control
    /// groups has none.
    pub fn current() -> Self {
        Self::read(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
    }

    /// Reads the limits of the groups listed in `list`, the hierarchies being
    /// mounted below `mount`.
    pub fn read(list: &Path, mount: &Path) -> Self {
        let mut buffer = [0; 4096];
        let Some(list) = read_small(list, &mut buffer) else { return Self::default() };
        let mut limits = Self::default();
        let (mut has_memory, mut has_cpu, mut v2) = (false, false, None);
        for line in list.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(group)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let controls = |name| controllers.split(',').any(|controller| controller == name);
            if number == "0" && controllers.is_empty() {
                v2 = Some(group);
            } else if controls("memory") {
                has_memory = true;
                limits.add_v1_memory(&v1_mount(mount, controllers, "memory"), group);
            } else if controls("cpu") {
                has_cpu = true;
                limits.add_v1_cpu(&v1_mount(mount, controllers, "cpu"), group);
            }
        }
        // In the hybrid layout v2 is mounted beside the controllers of v1,
        // which it does not have then.
        if let Some(group) = v2 {
            if !has_memory {
                limits.add_v2_memory(mount, group);
            }
            if !has_cpu {
                limits.add_v2_cpu(mount, group);
            }
        }
        limits
    }

    fn add_v2_memory(&mut self, mount: &Path, group: &str) {
        for dir in ancestors(mount, group) {
            lower(&mut self.memory, number(&dir, "memory.max"));
        }
    }

    fn add_v2_cpu(&mut self, mount: &Path, group: &str) {
        for dir in ancestors(mount, group) {
            let mut buffer = [0; 64];
            if let Some(text) = read_small(&dir.join("cpu.max"), &mut buffer) {
                let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().ok());
                let (quota, period) = (fields.next().flatten(), fields.next().flatten());
                lower(&mut self.cpu_milli, quota.zip(period).and_then(milli));
            }
        }
        self.cpu_weight = of_group(mount, group, "cpu.weight");
    }

    fn add_v1_memory(&mut self, mount: &Path, group: &str) {
        for dir in ancestors(mount, group) {
            let limit = number(&dir, "memory.limit_in_bytes");
            lower(&mut self.memory, limit.filter(|limit| *limit < V1_UNLIMITED));
        }
    }

    fn add_v1_cpu(&mut self, mount: &Path, group: &str) {
        for dir in ancestors(mount, group) {
            // The quota is -1 where there is none, which is no u64.
            if let Some(quota) = number(&dir, "cpu.cfs_quota_us") {
                let period = number(&dir, "cpu.cfs_period_us");
                lower(&mut self.cpu_milli, period.and_then(|period| milli((quota, period))));
            }
        }
        self.cpu_weight = of_group(mount, group, "cpu.shares");
    }
}

/// Returns where controllers of v1 are mounted: under their joint name or
/// under the one alone.
fn v1_mount(mount: &Path, controllers: &str, name: &str) -> PathBuf {
    let joint = mount.join(controllers);
    if controllers == name || joint.is_dir() { joint } else { mount.join(name) }
}

/// Returns the directories from the group's own up to the mount, of which some
/// may not be there: a group is not to be seen in a container without a cgroup
/// namespace, whose own directory is the mount.
fn ancestors(mount: &Path, group: &str) -> Vec<PathBuf> {
    let group = group.trim_start_matches('/');
    if group.is_empty() || group.split('/').any(|part| part == "..") {
        return vec![mount.to_owned()];
    }
    let own = mount.join(group);
    let dirs = own.ancestors().take_while(|dir| dir.starts_with(mount)).take(DEPTH_MAX);
    dirs.map(Path::to_owned).collect()
}

/// Reads a number of the group alone.
fn of_group(mount: &Path, group: &str, name: &str) -> Option<u64> {
    let own = ancestors(mount, group).swap_remove(0);
    // Asked only then: most groups have it.
    number(&own, name).or_else(|| number(mount, name).filter(|_| !own.is_dir()))
}

fn lower(limit: &mut Option<u64>, other: Option<u64>) {
    *limit = match (*limit, other) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    };
}

fn milli((quota, period): (u64, u64)) -> Option<u64> {
    quota.checked_mul(1000)?.checked_div(period)
}

/// Reads a file that holds one number; `None` for any other word (`max`).
fn number(dir: &Path, name: &str) -> Option<u64> {
    let mut buffer = [0; 64];
    read_small(&dir.join(name), &mut buffer)?.trim().parse().ok()
}

/// Reads the beginning of a small file, without asking for its size.
pub(super) fn read_small<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a str> {
    let file = File::open(path).ok()?;
    let mut len = 0;
    // A file of /proc or /sys may come in pieces; a last line that is whole
    // saves the read that says so.
    while len < buffer.len() && (len == 0 || buffer[len - 1] != b'\n') {
        match file.read_at(&mut buffer[len..], len as u64).ok()? {
            0 => break,
            read => len += read,
        }
    }
    std::str::from_utf8(&buffer[..len]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self(dir)
        }
        fn limits(&self) -> Limits {
            Limits::read(&self.0.path().join("list"), &self.0.path().join("cg"))
        }
    }

    #[test]
    fn v2_takes_the_lowest_limit_on_the_way_up() {
        let tree = Tree::new(&[
            ("list", "0::/a/b\n"),
            ("cg/a/memory.max", "1000\n"),
            ("cg/a/b/memory.max", "max\n"),
            ("cg/a/cpu.max", "150000 100000\n"),
            ("cg/a/b/cpu.max", "max 100000\n"),
            ("cg/a/b/cpu.weight", "100\n"),
        ]);
        let expected = Limits { memory: Some(1000), cpu_milli: Some(1500), cpu_weight: Some(100) };
        assert_eq!(tree.limits(), expected);
    }

    #[test]
    fn v1_controllers_are_found_under_joint_and_single_names() {
        for cpu in ["cpu,cpuacct", "cpu"] {
            let tree = Tree::new(&[
                ("list", "5:memory:/m\n4:cpu,cpuacct:/\n1:name=systemd:/x\n"),
                ("cg/memory/m/memory.limit_in_bytes", "9223372036854771712\n"),
                ("cg/memory/memory.limit_in_bytes", "4096\n"),
                (&format!("cg/{cpu}/cpu.cfs_quota_us"), "50000\n"),
                (&format!("cg/{cpu}/cpu.cfs_period_us"), "100000\n"),
                (&format!("cg/{cpu}/cpu.shares"), "1024\n"),
            ]);
            let expected =
                Limits { memory: Some(4096), cpu_milli: Some(500), cpu_weight: Some(1024) };
            assert_eq!(tree.limits(), expected);
        }
    }

    #[test]
    fn a_group_that_is_not_to_be_seen_is_the_mount() {
        for group in ["/docker/123", "/../..", "/"] {
            let tree = Tree::new(&[("list", &format!("0::{group}\n")), ("cg/memory.max", "77\n")]);
            assert_eq!(tree.limits().memory, Some(77), "{group}");
        }
    }

    #[test]
    fn nonsense_is_no_limit() {
        let tree = Tree::new(&[
            ("list", "0::/\nnonsense\n7:cpu\n"),
            ("cg/memory.max", "-1\n"),
            ("cg/cpu.max", "100 0\n"),
        ]);
        assert_eq!(tree.limits(), Limits::default());
        assert_eq!(Tree::new(&[]).limits(), Limits::default());
        Limits::current();
    }
}
