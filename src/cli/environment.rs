//! What the caller gave us besides arguments: environment, working directory,
//! the cache's directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::command::Command;
use crate::criu::Sought;
use crate::failure::Failure;
use crate::sys::{capability, start};

/// Builds the command from its words and what we inherited.
pub(super) fn command(argv: Vec<OsString>) -> Command {
    Command { argv, env: whole(), cwd: cwd() }
}

/// Returns the environment that this process was started with, whole.
///
/// A binary with a file capability runs in secure-execution mode: libc has
/// deleted `LD_LIBRARY_PATH`, `TMPDIR` and others from its own copy before
/// `main` (`ld.so(8)`). The kernel still has what the caller gave, and the
/// program must get that. Without `/proc` libc's copy is the best there is.
fn whole() -> Vec<OsString> {
    let _ = capability::set_dumpable();
    if !capability::is_secure() {
        return start::environment();
    }
    // The file has no size to go by; a buffer that holds most environments
    // saves the calls of a growing one.
    let mut block = Vec::with_capacity(16 * 1024);
    let read = File::open("/proc/self/environ").and_then(|mut file| file.read_to_end(&mut block));
    // A hit takes its memory in order: what is left over is used again.
    block.shrink_to_fit();
    match read {
        Ok(_) => split(&block),
        Err(_) => start::environment(),
    }
}

/// Splits an environment block at its NULs, keeping order and odd entries.
fn split(block: &[u8]) -> Vec<OsString> {
    let Some(block) = block.strip_suffix(b"\0") else {
        return if block.is_empty() {
            Vec::new()
        } else {
            vec![OsString::from_vec(block.to_vec())]
        };
    };
    block.split(|&byte| byte == 0).map(|entry| OsString::from_vec(entry.to_vec())).collect()
}

/// Returns the working directory. One that was removed is named as the kernel
/// names it (`/old/path (deleted)`), which no other directory is.
fn cwd() -> PathBuf {
    std::env::current_dir()
        .or_else(|_| std::fs::read_link("/proc/self/cwd"))
        .unwrap_or_else(|_| PathBuf::from("/"))
}

/// Returns the cache's directory, absolute: `WARMSTART_CACHE_DIR`, else
/// `warmstart` in the user's cache directory. Without a home there is
/// nowhere to put it: the path is empty then, which no cache opens.
pub(super) fn cache_dir() -> PathBuf {
    let dir = std::env::var_os("WARMSTART_CACHE_DIR").filter(|dir| !dir.is_empty());
    choose_cache_dir(dir.as_deref(), cwd, || {
        directories::BaseDirs::new().map(|dirs| dirs.cache_dir().join("warmstart"))
    })
}

/// Returns where CRIU may be: `WARMSTART_CRIU`, else a place that root has
/// recorded, else `PATH`.
pub(super) fn criu() -> Sought {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    Sought {
        named: variable("WARMSTART_CRIU").map(|path| cwd().join(path)),
        path: variable("PATH"),
        runtime_dir: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
    }
}

/// Returns the path of our own binary.
pub(super) fn binary() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot tell where this binary lies: {error}")))
}

fn choose_cache_dir(
    asked: Option<&OsStr>,
    cwd: impl FnOnce() -> PathBuf,
    default: impl FnOnce() -> Option<PathBuf>,
) -> PathBuf {
    match asked {
        Some(dir) if dir.as_bytes().starts_with(b"/") => PathBuf::from(dir),
        Some(dir) => cwd().join(dir),
        None => default().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn blocks_keep_order_and_odd_entries() {
        let block = b"B=2\0A=1\0odd\0=x\0N=\xff\0";
        let entries = split(block);
        let bytes: Vec<&[u8]> = entries.iter().map(|entry| entry.as_bytes()).collect();
        assert_eq!(bytes, [&b"B=2"[..], b"A=1", b"odd", b"=x", b"N=\xff"]);
        assert!(split(b"").is_empty());
        assert_eq!(split(b"\0"), [OsString::new()]);
    }

    #[test]
    fn the_cache_is_absolute() {
        let cwd = || PathBuf::from("/dir");
        let default = || Some(PathBuf::from("/home/u/.cache/warmstart"));
        assert_eq!(choose_cache_dir(Some("/c".as_ref()), cwd, default), Path::new("/c"));
        assert_eq!(choose_cache_dir(Some("c".as_ref()), cwd, default), Path::new("/dir/c"));
        assert_eq!(choose_cache_dir(None, cwd, default), default().unwrap());
    }
}
