//! The JVM agent, as seen from outside: the library itself, and the messages
//! between it and the trainer.
//!
//! The agent (`agent/` at the top of the repository) is a library that a JVM
//! loads. It stops the `java` launcher's call of `main`, runs `main` as often
//! as it is told to, waits to be captured, and goes on with the arguments, the
//! environment and the directory of the day (docs/agent.md has the whole).
//! It is another link product, so the build script compiles it, and it is
//! carried in this program as bytes.
//!
//! Nothing here touches a process: [`Order`]s are encoded, [`Report`]s are
//! decoded, bytes from the other side are not trusted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

mod wire;

pub use wire::{Delivery, End, FrameReader, How, MainReached, Order, Report, WireError, encode};

/// The version of the messages that this program and its agent speak.
pub const PROTOCOL: u32 = 1;

/// The agent: an ELF shared library without dependencies, for HotSpot.
pub const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.so"));

/// Puts the agent into a directory and returns its path, which has no comma,
/// equals sign or colon behind the directory's own name.
///
/// The directory is made if it is missing, for us alone. The library's name
/// has its hash in it, so that two versions of this program do not disturb
/// each other. A file of that name with other content, damaged or cut short,
/// is replaced; a JVM that has the old one mapped keeps it.
///
/// # Errors
///
/// The directory cannot be made or written to.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join(name());
    if fs::read(&path).is_ok_and(|bytes| bytes == BYTES) {
        return Ok(path);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let staged = dir.join(format!(".{}.{}", name(), std::process::id()));
    // What an interrupted run of the same pid left.
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o500)
        .open(&staged)
        .and_then(|mut file| file.write_all(BYTES).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&staged, &path));
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    Ok(path)
}

/// Returns the name of the agent's file.
fn name() -> String {
    let digest = Sha256::digest(BYTES);
    let digits: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("warmstart-agent-{digits}.so")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn the_agent_is_installed_once_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/agent");
        let path = install(&dir).unwrap();
        assert_eq!(fs::read(&path).unwrap(), BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o500);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let first = inode(&path);
        assert_eq!(install(&dir).unwrap(), path);
        assert_eq!(inode(&path), first);

        fs::remove_file(&path).unwrap();
        fs::write(&path, &BYTES[..BYTES.len() / 2]).unwrap();
        install(&dir).unwrap();
        assert_eq!(fs::read(&path).unwrap(), BYTES);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_is_no_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(install(&file).is_err());
    }

    /// It is for JVMs of any libc: it may name no library.
    #[test]
    fn the_agent_is_a_shared_library_without_dependencies() {
        let number = |at: usize| u64::from_le_bytes(BYTES[at..at + 8].try_into().unwrap()) as usize;
        let short = |at: usize| usize::from(u16::from_le_bytes([BYTES[at], BYTES[at + 1]]));
        assert_eq!(&BYTES[..4], b"\x7fELF");
        // e_type: ET_DYN.
        assert_eq!(short(16), 3);
        // e_phoff, e_phentsize, e_phnum; of each: p_type, p_offset, p_filesz.
        let headers = (0..short(56)).map(|index| number(32) + index * short(54));
        let dynamic = headers.filter(|at| BYTES[*at..at + 4] == 2u32.to_le_bytes());
        let tags: Vec<usize> = dynamic
            .flat_map(|at| (number(at + 8)..number(at + 8) + number(at + 32)).step_by(16))
            .map(number)
            .collect();
        // DT_SYMTAB is there, DT_NEEDED is not.
        assert!(tags.contains(&6) && !tags.contains(&1), "{tags:?}");
    }
}
