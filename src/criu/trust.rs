//! Which CRIU may be given the capability.
//!
//! A file capability on `warmstart` lends `CAP_CHECKPOINT_RESTORE` to an
//! ordinary user for choosing pids. Another program may only have it if root
//! has said so ([`PATH`], written by `warmstart setup --criu`), and if nobody
//! but root can put another one in its place: the file and every directory on
//! the way to it belong to root, and nobody else may write there.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file that names it; its directory is root's alone as well.
pub const PATH: &str = "/etc/warmstart/criu.conf";

/// Longer is no path (`PATH_MAX`), with comments.
const LEN_MAX: u64 = 8192;

/// Returns the path that root has recorded.
///
/// # Errors
/// If the file is there and cannot be relied on.
pub fn recorded() -> Result<Option<PathBuf>, String> {
    read(Path::new(PATH), 0)
}

/// Returns the text of a file that names a path.
pub fn to_file(path: &Path) -> String {
    format!("path = {}\n", path.display())
}

/// Tells whether a program is the one that root has recorded and that nobody
/// else can replace.
///
/// # Errors
/// Why it is not.
pub fn may_be_lent_to(path: &Path) -> Result<(), String> {
    let refuse = |why: String| Err(format!("criu may not have the capability: {why}"));
    match recorded() {
        Err(why) => return refuse(why),
        Ok(None) => {
            return refuse("root has not recorded one (warmstart setup --criu PATH)".into());
        }
        Ok(Some(recorded)) if recorded != path => {
            return refuse(format!(
                "{} is not the recorded {}",
                path.display(),
                recorded.display()
            ));
        }
        Ok(Some(_)) => {}
    }
    is_roots_alone(path).or_else(refuse)
}

/// Tells whether only root can change what is under a path.
///
/// # Errors
/// Which part of it is somebody else's, or cannot be looked at.
pub fn is_roots_alone(path: &Path) -> Result<(), String> {
    is_owners_alone(path, 0)
}

fn is_owners_alone(path: &Path, owner: u32) -> Result<(), String> {
    if !path.is_absolute() {
        return Err(format!("{} is not absolute", path.display()));
    }
    // A link would be one more thing to follow and to trust.
    let real = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    if real != path {
        return Err(format!("{} is a link to {}", path.display(), real.display()));
    }
    for part in path.ancestors() {
        let meta = std::fs::symlink_metadata(part)
            .map_err(|error| format!("{}: {error}", part.display()))?;
        if part == path && !meta.is_file() {
            return Err(format!("{} is no file", part.display()));
        }
        trust(part, &meta, owner)?;
    }
    Ok(())
}

/// Refuses what somebody else than its owner, or root, could have written.
fn trust(path: &Path, meta: &Metadata, owner: u32) -> Result<(), String> {
    // Where everybody may write, a sticky directory still keeps others from
    // replacing what is there.
    let sticky = meta.is_dir() && meta.mode() & libc::S_ISVTX != 0;
    let why = match meta.mode() & 0o022 {
        _ if ![owner, 0].contains(&meta.uid()) => "does not belong to root",
        0 => return Ok(()),
        _ if sticky => return Ok(()),
        // An access list shows as rights of the group (acl(5)).
        _ => "can be written by others than root",
    };
    Err(format!("{} {why}", path.display()))
}

fn read(path: &Path, owner: u32) -> Result<Option<PathBuf>, String> {
    let Some(dir) = path.parent() else { return Ok(None) };
    let unreadable = |error: std::io::Error| format!("{}: {error}", path.display());
    // A FIFO is not waited for, a link not followed.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() || meta.len() > LEN_MAX {
        return Err(format!("{} is no file of ours", path.display()));
    }
    trust(path, &meta, owner)?;
    trust(dir, &std::fs::symlink_metadata(dir).map_err(unreadable)?, owner)?;
    let mut text = String::new();
    file.take(LEN_MAX).read_to_string(&mut text).map_err(unreadable)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut lines = lines.filter(|line| !line.is_empty());
    let named = lines.next().and_then(|line| line.split_once('='));
    match (named, lines.next()) {
        (Some((key, value)), None) if key.trim() == "path" && value.trim().starts_with('/') => {
            Ok(Some(value.trim().into()))
        }
        _ => Err(format!("{}: it is not one line `path = /…`", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn one_path_is_read_and_what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let path = dir.path().join("criu.conf");
        assert_eq!(read(&path, me), Ok(None));
        std::fs::write(&path, format!("# ours\n{}", to_file(Path::new("/usr/sbin/criu")))).unwrap();
        chmod(&path, 0o644);
        assert_eq!(read(&path, me), Ok(Some("/usr/sbin/criu".into())));
        for text in ["", "path = criu", "path /usr/sbin/criu", "path = /a\npath = /b", "x = /a"] {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path, me).unwrap_err().contains("is not one line"), "{text}");
        }
        std::fs::write(&path, "path = /a").unwrap();
        chmod(&path, 0o664);
        assert!(read(&path, me).unwrap_err().ends_with("can be written by others than root"));
        chmod(&path, 0o644);
        chmod(dir.path(), 0o777);
        assert!(read(&path, me).unwrap_err().ends_with("can be written by others than root"));
    }

    #[test]
    fn a_program_is_trusted_with_every_directory_above_it_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let within = dir.path().canonicalize().unwrap().join("bin");
        std::fs::create_dir(&within).unwrap();
        let path = within.join("criu");
        std::fs::write(&path, "").unwrap();
        chmod(&path, 0o755);
        chmod(&within, 0o755);
        assert_eq!(is_owners_alone(&path, me), Ok(()));
        chmod(&within, 0o775);
        assert!(
            is_owners_alone(&path, me)
                .unwrap_err()
                .ends_with("bin can be written by others than root")
        );
        chmod(&within, 0o755);
        chmod(&path, 0o757);
        assert!(is_owners_alone(&path, me).is_err());
        chmod(&path, 0o755);
        let link = within.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(is_owners_alone(&link, me).unwrap_err().contains("is a link to"));
        assert!(is_owners_alone(Path::new("criu"), me).is_err());
        assert!(is_owners_alone(&within, me).unwrap_err().ends_with("is no file"));
        if me != 0 {
            assert!(is_roots_alone(&path).unwrap_err().contains("does not belong to root"));
        }
    }
}
