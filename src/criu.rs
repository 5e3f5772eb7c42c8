//! CRIU, as a tool of ours: where it is, whether it may be used, how it is run.
//!
//! CRIU (4.2 or later) is never needed for the main job. It restores what the
//! native engine refuses, and each engine proves the images of the other. Here
//! is what both directions share: finding it ([`find`]), running it with a
//! deadline of our own ([`tool`]), giving an image to its next caller
//! ([`edit`]), and what an entry says about all that ([`record`]).
//!
//! Nothing here decides when it is used: the launcher does.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::privilege;

pub mod edit;
pub mod record;
pub mod tool;
pub mod trust;
pub mod wiped;
mod wire;

/// The first version that works with today's kernels: 4.1 fails on every
/// process with a socket, and older ones do not start (Linux 6.12).
pub const OLDEST: Version = Version { major: 4, minor: 2 };

/// How long `criu --version` may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where distributions and `make install` put it, after `PATH`.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// Where to look for CRIU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sought {
    /// The file that was named (`WARMSTART_CRIU`): no other counts then.
    pub named: Option<PathBuf>,
    /// The caller's `PATH`.
    pub path: Option<OsString>,
    /// The caller's `XDG_RUNTIME_DIR`, where CRIU remembers what the kernel
    /// can do.
    pub runtime_dir: Option<PathBuf>,
}

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 4 of 4.2.1.
    pub major: u32,
    /// 2 of 4.2.1.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What tells one file of CRIU's from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    path: PathBuf,
    /// Device, inode, size, time of the last change in ns.
    numbers: (u64, u64, u64, i64),
}

impl Identity {
    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn new(path: &Path, meta: &Metadata) -> Self {
        let changed = meta.ctime().wrapping_mul(1_000_000_000).wrapping_add(meta.ctime_nsec());
        Self { path: path.into(), numbers: (meta.dev(), meta.ino(), meta.size(), changed) }
    }
}

/// A CRIU that works, as far as its version says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    /// Which file it is.
    pub identity: Identity,
    /// The caller's `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
}

impl Criu {
    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.identity.path
    }

    /// Says with which right it can act in our own pid namespace.
    ///
    /// # Errors
    /// Why it cannot: it may not be given the capability, or we have none.
    pub fn standing(&self) -> Result<Standing, String> {
        let caps = privilege::current();
        if caps.root {
            return Ok(Standing::Root);
        }
        if !caps.can_choose_pids() {
            return Err("criu needs CAP_CHECKPOINT_RESTORE".into());
        }
        if !privilege::choice_is_lent() {
            // The caller's own, which every program of theirs has.
            return Ok(Standing::Lent);
        }
        trust::may_be_lent_to(self.path()).map(|()| Standing::Lent)
    }
}

/// With which right CRIU acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Root's.
    Root,
    /// An ordinary user's, and `CAP_CHECKPOINT_RESTORE`.
    Lent,
}

/// Why there is no CRIU to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing of that name is anywhere.
    #[error("there is no criu (scripts/get-criu DIR brings one, WARMSTART_CRIU=FILE names one)")]
    Missing,
    /// The one that was named cannot be used.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is there, but too old.
    #[error("{} is criu {found}, and {OLDEST} is the first that works", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
}

/// Finds CRIU: the one that was named, that root has recorded, on the `PATH`, or
/// where it is usually installed. `known` is one that was found good before: it
/// is not asked for its version again.
///
/// # Errors
/// If there is none that works.
pub fn find(sought: &Sought, known: Option<&Identity>) -> Result<Criu, Unavailable> {
    let path = locate(sought)?;
    let unusable = |why: String| Unavailable::Unusable { path: path.clone(), why };
    let meta = std::fs::metadata(&path).map_err(|error| unusable(error.to_string()))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(unusable("it is no program".into()));
    }
    let identity = Identity::new(&path, &meta);
    if known != Some(&identity) {
        let found = version_of(&path).map_err(unusable)?;
        if found < OLDEST {
            return Err(Unavailable::TooOld { path, found });
        }
    }
    Ok(Criu { identity, runtime_dir: sought.runtime_dir.clone() })
}

fn locate(sought: &Sought) -> Result<PathBuf, Unavailable> {
    if let Some(named) = &sought.named {
        return Ok(named.clone());
    }
    if let Some(recorded) = trust::recorded().ok().flatten() {
        return Ok(recorded);
    }
    let path = sought.path.as_deref().unwrap_or_default().as_bytes();
    let dirs = path.split(|byte| *byte == b':').filter(|dir| dir.first() == Some(&b'/'));
    let dirs = dirs.map(|dir| PathBuf::from(std::ffi::OsStr::from_bytes(dir)));
    dirs.chain(PLACES.map(PathBuf::from))
        .map(|dir| dir.join("criu"))
        .find(|path| path.is_file())
        .ok_or(Unavailable::Missing)
}

/// Asks for the version: `Version: 4.2.1`, then perhaps a line about Git.
fn version_of(path: &Path) -> Result<Version, String> {
    let output = tool::run(path, ["--version"], &[], PATIENCE)
        .map_err(|error| format!("it does not say its version: {error}"))?;
    let text = String::from_utf8_lossy(&output.said).into_owned();
    parse_version(&text).ok_or_else(|| "it does not say its version".into())
}

fn parse_version(text: &str) -> Option<Version> {
    let version = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut numbers = version.split(['.', '-', '+', '~']).map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Version { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, text: &str) -> Sought {
        let path = dir.join("criu");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Sought { named: Some(path), ..Sought::default() }
    }

    #[test]
    fn versions_are_read_and_compared() {
        let version = |text| parse_version(text);
        assert_eq!(version("Version: 4.2.1\n"), Some(Version { major: 4, minor: 2 }));
        assert_eq!(
            version("Version: 4.3\nGitID: v4.3-1-gabc\n"),
            Some(Version { major: 4, minor: 3 })
        );
        assert_eq!(version("Version: 5.0-rc1\n"), Some(Version { major: 5, minor: 0 }));
        assert_eq!(version("criu 4.2"), None);
        assert_eq!(version("Version: four\n"), None);
        assert!(
            Version { major: 4, minor: 1 } < OLDEST && OLDEST < Version { major: 10, minor: 0 }
        );
    }

    #[test]
    fn what_is_missing_old_or_no_criu_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let none = Sought { named: Some(dir.path().join("none")), ..Sought::default() };
        assert!(
            find(&none, None)
                .unwrap_err()
                .to_string()
                .ends_with("No such file or directory (os error 2)")
        );
        let old = script(dir.path(), "echo Version: 3.17.1");
        let why = find(&old, None).unwrap_err().to_string();
        assert!(why.ends_with("criu is criu 3.17, and 4.2 is the first that works"), "{why}");
        let other = script(dir.path(), "echo hello");
        assert!(
            find(&other, None).unwrap_err().to_string().ends_with("it does not say its version")
        );
        let fails = script(dir.path(), "echo Version: 4.2; exit 1");
        let why = find(&fails, None).unwrap_err().to_string();
        assert!(why.contains("it ended with status 1"), "{why}");
    }

    #[test]
    fn one_that_is_known_is_not_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let asked = dir.path().join("asked");
        let sought =
            script(dir.path(), &format!("echo x >>{}; echo Version: 4.2", asked.display()));
        let found = find(&sought, None).unwrap();
        assert_eq!(find(&sought, Some(&found.identity)).unwrap(), found);
        assert_eq!(std::fs::read_to_string(&asked).unwrap(), "x\n");
        let path = Sought { named: None, path: Some(dir.path().into()), runtime_dir: None };
        if trust::recorded() == Ok(None) {
            assert_eq!(find(&path, Some(&found.identity)).unwrap(), found);
        }
    }
}
