//! What this machine allows, and the one command that would allow more.
//!
//! [`Facts`] are gathered without changing anything; a [`Report`] is computed
//! from them purely, so that every machine that we know of is a test.

pub mod directory;
mod facts;
mod report;
mod strategies;

use std::path::PathBuf;

use serde::Serialize;

use crate::pids::Unavailable;
use crate::pids::range::{Permitted, RangeError};
use crate::privilege::Caps;
use crate::privilege::file::FileCaps;
use crate::sys::support::SetTid;
use directory::Directory;

/// What was found.
#[derive(Debug, Clone)]
pub struct Facts {
    /// As `uname -r` says it.
    pub kernel: String,
    /// The effective user.
    pub uid: u32,
    /// Our capabilities.
    pub caps: Caps,
    /// `CAP_CHECKPOINT_RESTORE` is in the bounding set.
    pub bounded: bool,
    /// File capabilities do nothing for us.
    pub no_new_privs: bool,
    /// What `clone3` says to a wish for a pid.
    pub set_tid: SetTid,
    /// Why the kernel's cursor of pids cannot be positioned, if it cannot.
    pub last_pid: Option<Unavailable>,
    /// Why namespaces cannot be made, if they cannot: they were tried out.
    pub namespace: Option<Unavailable>,
    /// Why pids cannot be passed over, if they cannot.
    pub cycle: Option<Unavailable>,
    /// Which pids may be chosen, or why none may; `None`: all.
    pub pid_range: Option<Result<Permitted, RangeError>>,
    /// The mode of seccomp that we are under (`proc_pid_status(5)`): 0 none, 2
    /// a filter.
    pub seccomp: Option<u32>,
    /// Our binary.
    pub binary: PathBuf,
    /// Its capabilities.
    pub file_caps: Option<FileCaps>,
    /// Its file system ignores file capabilities.
    pub nosuid: bool,
    /// `kernel.yama.ptrace_scope`, `None` without Yama.
    pub ptrace_scope: Option<u32>,
    /// `kernel.pid_max`.
    pub pid_max: Option<u32>,
    /// The vDSO is sealed against being moved; `None` if that cannot be told.
    pub vdso_sealed: Option<bool>,
    /// `PR_GET_TID_ADDRESS` works.
    pub tid_address: bool,
    /// `kcmp(2)` works.
    pub kcmp: bool,
    /// `/proc/PID/map_files` is there.
    pub map_files: bool,
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// A sysctl that keeps ordinary users from user namespaces, if one does.
    pub user_namespaces_restricted_by: Option<&'static str>,
    /// The kernel has time namespaces.
    pub time_namespaces: bool,
    /// The cache's directory.
    pub cache: Directory,
    /// A CRIU that works, with what it may do here; or why there is none.
    pub criu: Result<String, String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing, neither good nor bad.
    Info,
    /// In the way of capturing or restoring.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A short name that stays the same from version to version.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
}

/// Whether something works, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// It works here as this user.
    pub works: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// The command that would change that.
    pub enable: Option<String>,
}

/// A pid strategy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Strategy {
    /// As `--pids` names it.
    pub name: &'static str,
    /// Whether it works.
    #[serde(flatten)]
    pub ability: Ability,
}

/// What `doctor` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of the JSON form.
    pub schema_version: u32,
    /// Of warmstart.
    pub version: &'static str,
    /// The user it holds for.
    pub uid: u32,
    /// Captured images can be restored.
    pub restoring: Ability,
    /// How a restored program comes by its pids: the name of a strategy.
    pub pids: Option<&'static str>,
    /// Programs can be captured.
    pub capturing: Ability,
    /// How pids can be chosen.
    pub strategies: Vec<Strategy>,
    /// What was looked at.
    pub checks: Vec<Check>,
}
