//! Looking at the machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::Facts;
use super::directory::Directory;
use crate::criu::{self, Sought, Standing};
use crate::pids::{Strategy, range};
use crate::privilege;
use crate::sys::{capability, support};

impl Facts {
    /// Gathers them, for a binary and a cache directory.
    pub fn gather(binary: PathBuf, cache_dir: PathBuf, sought: &Sought) -> Self {
        Self {
            kernel: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            uid: nix::unistd::geteuid().as_raw(),
            caps: privilege::current(),
            bounded: capability::in_bounding_set(capability::CAP_CHECKPOINT_RESTORE),
            no_new_privs: capability::no_new_privs(),
            set_tid: privilege::raised(support::clone3_set_tid),
            last_pid: Strategy::LastPid.check().err(),
            namespace: Strategy::Namespace.check().err(),
            cycle: Strategy::Cycle.check().err(),
            pid_range: privilege::choice_is_lent().then(range::permitted),
            seccomp: seccomp(),
            file_caps: privilege::file::of(&binary).ok().flatten(),
            nosuid: statvfs(&binary).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID)),
            binary,
            ptrace_scope: sysctl("kernel/yama/ptrace_scope"),
            pid_max: sysctl("kernel/pid_max"),
            vdso_sealed: std::fs::read_to_string("/proc/self/smaps")
                .ok()
                .and_then(|smaps| vdso_sealed(&smaps)),
            tid_address: support::has_tid_address(),
            kcmp: support::has_kcmp(),
            map_files: Path::new("/proc/self/map_files").is_dir(),
            max_user_namespaces: sysctl("user/max_user_namespaces"),
            user_namespaces_restricted_by: user_namespace_restriction(),
            time_namespaces: Path::new("/proc/self/ns/time").exists(),
            cache: Directory::look(cache_dir),
            criu: criu(sought),
        }
    }
}

fn sysctl<T: FromStr>(name: &str) -> Option<T> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    text.trim().parse().ok()
}

fn seccomp() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?.trim().parse().ok()
}

/// Finds CRIU, and says what it may do here.
fn criu(sought: &Sought) -> Result<String, String> {
    let criu = criu::find(sought, None).map_err(|error| error.to_string())?;
    let may = match criu.standing() {
        Ok(Standing::Root) => "dumps and restores".to_owned(),
        Ok(Standing::Lent) => "dumps and restores with the capability".to_owned(),
        Err(why) => format!("restores in a namespace; {why}"),
    };
    Ok(format!("{}: {may}", criu.path().display()))
}

/// Finds the sysctl that keeps ordinary users from making user namespaces:
/// Debian's own, or Ubuntu's AppArmor one.
fn user_namespace_restriction() -> Option<&'static str> {
    if sysctl::<u32>("kernel/unprivileged_userns_clone") == Some(0) {
        return Some("kernel.unprivileged_userns_clone");
    }
    (sysctl::<u32>("kernel/apparmor_restrict_unprivileged_userns") == Some(1))
        .then_some("kernel.apparmor_restrict_unprivileged_userns")
}

/// Finds out from `smaps` whether the vDSO is sealed (`mseal(2)`, flag `sl`,
/// `CONFIG_MSEAL_SYSTEM_MAPPINGS` since Linux 6.15): then it cannot be moved.
fn vdso_sealed(smaps: &str) -> Option<bool> {
    let (_, rest) = smaps.split_once("[vdso]\n")?;
    let flags = rest.lines().find_map(|line| line.strip_prefix("VmFlags:"))?;
    Some(flags.split_whitespace().any(|flag| flag == "sl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_are_read_from_the_vdso_only() {
        let smaps = |vdso: &str| {
            format!(
                "1000-2000 r--p 0 00:00 0  [vvar]\nSize: 4 kB\nVmFlags: rd sl\n\
                 3000-4000 r-xp 0 00:00 0  [vdso]\nSize: 8 kB\nVmFlags: {vdso} \n\
                 5000-6000 rw-p 0 00:00 0  [stack]\nVmFlags: rd sl\n"
            )
        };
        assert_eq!(vdso_sealed(&smaps("rd ex mr mw me de")), Some(false));
        assert_eq!(vdso_sealed(&smaps("rd ex mr mw me de sl")), Some(true));
        assert_eq!(vdso_sealed("1000-2000 rw-p 0 00:00 0\nVmFlags: rd sl\n"), None);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let facts = Facts::gather(
            std::env::current_exe().unwrap(),
            std::env::temp_dir(),
            &Sought::default(),
        );
        assert!(!facts.kernel.is_empty());
        assert!(facts.pid_max.is_some_and(|max| max > 300));
    }
}
