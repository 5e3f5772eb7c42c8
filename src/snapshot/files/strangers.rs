//! Processes outside of the program that have something of its own open: most
//! often one that it has started and that its parent has left (a daemon).
//!
//! A restore would make the pipe, the socket or the nameless file anew, and the
//! other process, where it still is, would be talking into the old one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Descriptor, Files, Refusal};
use crate::snapshot::FileId;

/// Things that no path leads to, by what `/proc/PID/fd/N` says: what each is,
/// and where the program has it.
pub(super) type Nameless = BTreeMap<PathBuf, Vec<(FileId, i32)>>;

impl Files {
    /// Remembers a descriptor of something that others reach only by having
    /// got it from the program.
    pub(super) fn note_nameless(&mut self, descriptor: &Descriptor) {
        if let Some(id) = descriptor.id.filter(|_| is_nameless(&descriptor.target)) {
            let known = self.nameless.entry(descriptor.target.clone()).or_default();
            known.push((id, descriptor.fd));
        }
    }

    /// Refuses a program that shares such a thing with a process that is none
    /// of its own. It may pass: what was left behind often ends soon.
    pub fn check_strangers(&self) -> Result<(), Refusal> {
        if self.nameless.is_empty() {
            return Ok(());
        }
        let own = std::process::id() as i32;
        let is_ours = |pid: &i32| *pid == own || self.family.0.iter().any(|(its, _)| its == pid);
        let all = fs::read_dir("/proc")
            .map_err(|error| Refusal::passing(format!("/proc: {error}")))?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for pid in all.filter(|pid| !is_ours(pid)) {
            if let Some(fd) = self.shared_with(pid) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let whom = format!("process {pid} ({}), which is not", name.trim_end());
                let what = format!("what is open as fd {fd} is open in {whom} part of the program");
                return Err(Refusal::passing(what));
            }
        }
        Ok(())
    }

    /// Looks whether a process has something of the program's open; returns the
    /// program's descriptor. Of another user's process it is not told.
    fn shared_with(&self, pid: i32) -> Option<i32> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        descriptors.flatten().find_map(|entry| {
            let known = self.nameless.get(&fs::read_link(entry.path()).ok()?)?;
            let meta = fs::metadata(entry.path()).ok()?;
            let id = FileId { dev: meta.dev(), ino: meta.ino() };
            known.iter().find(|(its, _)| *its == id).map(|(_, fd)| *fd)
        })
    }
}

/// Whether this is a pipe, a socket, a memfd or a deleted file.
fn is_nameless(target: &Path) -> bool {
    let target = target.as_os_str().as_bytes();
    [&b"pipe:["[..], b"socket:[", b"/memfd:"].iter().any(|prefix| target.starts_with(prefix))
        || target.ends_with(b" (deleted)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_path_is_not_nameless() {
        for target in ["pipe:[12]", "socket:[3]", "/memfd:x (deleted)", "/tmp/x (deleted)"] {
            assert!(is_nameless(Path::new(target)), "{target}");
        }
        // Every eventfd has the same inode.
        for target in ["/tmp/x", "anon_inode:[eventfd]", "/dev/null"] {
            assert!(!is_nameless(Path::new(target)), "{target}");
        }
    }
}
