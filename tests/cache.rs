//! The cache, used by several processes at once, some of which are killed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant, SystemTime};

use warmstart::cache::{Cache, CacheError, Entry, NewEntry};
use warmstart::command::Command;
use warmstart::fingerprint::{DigestMemory, Fingerprint};

/// Names the part that a process started by these tests plays, and the cache.
const ROLE: &str = "CACHE_TEST_ROLE";
const DIR: &str = "CACHE_TEST_DIR";

fn fingerprint() -> Fingerprint {
    Fingerprint { id: format!("{:032x}", 7).parse().unwrap(), inputs: Vec::new() }
}

/// Commits an entry whose two files both hold `content`.
fn commit(cache: &Cache, content: &str) -> Result<Entry, CacheError> {
    let staging = cache.stage()?;
    for name in ["pages-1.img", "plan"] {
        fs::write(staging.image_dir().join(name), content).map_err(|source| {
            let path = staging.image_dir().join(name);
            match source.kind() {
                std::io::ErrorKind::StorageFull => CacheError::Full(path),
                _ => CacheError::Io { action: "write", path, source },
            }
        })?;
    }
    let fingerprint = fingerprint();
    let new = NewEntry {
        fingerprint: &fingerprint,
        command: &Command { argv: vec!["x".into()], env: Vec::new(), cwd: "/".into() },
        dependencies: &[],
        captured_at: SystemTime::now(),
        boot_id: "boot",
        kernel: "Linux",
        engine: "native",
        capture_point: "ready",
        at_main: None,
        pid: 1,
        threads: 1,
        len_pages: 0,
        page_mode: "copied",
        freeze: Duration::ZERO,
    };
    staging.commit(&new, &mut DigestMemory::empty())
}

/// Starts this test binary again, in a part of `play`.
fn start(role: &str, dir: &Path) -> Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "play", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a started process says that it is where it should be.
fn await_ready(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("in place")), "it never got there");
}

/// Kills a process that we started, as nothing can be caught or cleaned up.
fn kill_9(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn say_in_place_and_wait() -> ! {
    println!("in place");
    std::thread::sleep(Duration::from_secs(60));
    panic!("nobody killed us");
}

/// Not a test by itself: what the processes do that the tests start.
#[test]
fn play() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else { return };
    let cache = Cache::open(Path::new(&dir)).unwrap();
    match role.as_str() {
        "restore" => {
            let _entry = cache.lookup(&fingerprint().id).unwrap().unwrap();
            say_in_place_and_wait();
        }
        "stage" => {
            let staging = cache.stage().unwrap();
            fs::write(staging.image_dir().join("pages-1.img"), "half").unwrap();
            say_in_place_and_wait();
        }
        "capture" => {
            let _lock = cache.lock_capture(&fingerprint().id).unwrap().unwrap();
            say_in_place_and_wait();
        }
        "commit" => {
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                let content = format!("{}-{:?}", std::process::id(), Instant::now());
                match commit(&cache, &content) {
                    Ok(_) | Err(CacheError::Busy(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        "commit-once" => drop(commit(&cache, "pages").unwrap()),
        "read-only" => {
            let entry = cache.lookup(&fingerprint().id).unwrap().unwrap();
            cache.verify(&entry, &mut cache.digests()).unwrap();
            cache.note_use(entry.id());
            assert!(matches!(cache.stage(), Err(CacheError::Io { .. })));
            assert!(matches!(cache.lock_capture(entry.id()), Err(CacheError::Io { .. })));
        }
        "fill" => match commit(&cache, &"x".repeat(1 << 20)) {
            Err(CacheError::Full(path)) => {
                assert!(!path.exists());
                assert_eq!(names(&Path::new(&dir).join("v1/tmp")), Vec::<PathBuf>::new());
                assert!(commit(&cache, "small").is_ok(), "the space is free again");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("no such part: {other}"),
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn new_cache() -> (tempfile::TempDir, PathBuf, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Cache::open(&path).unwrap();
    (dir, path, cache)
}

#[test]
fn an_entry_in_use_stays_until_its_user_is_killed() {
    let (_dir, path, cache) = new_cache();
    drop(commit(&cache, "old").unwrap());
    let id = fingerprint().id;
    let mut user = start("restore", &path);
    await_ready(&mut user);
    assert!(matches!(cache.remove(&id), Err(CacheError::Busy(_))));
    assert!(matches!(commit(&cache, "new"), Err(CacheError::Busy(_))));
    // Others may restore it as well.
    assert!(cache.lookup(&id).unwrap().is_some());
    kill_9(user);
    drop(commit(&cache, "new").unwrap());
    cache.remove(&id).unwrap();
    assert!(cache.lookup(&id).unwrap().is_none());
}

#[test]
fn what_a_killed_capture_left_is_swept_away() {
    let (_dir, path, cache) = new_cache();
    let mut capturing = start("stage", &path);
    await_ready(&mut capturing);
    drop(cache.stage().unwrap());
    assert_eq!(names(&path.join("v1/tmp")).len(), 1, "the living one's is left alone");
    kill_9(capturing);
    assert_eq!(names(&path.join("v1/tmp")).len(), 1);
    drop(cache.stage().unwrap());
    assert!(names(&path.join("v1/tmp")).is_empty());

    let mut capturing = start("capture", &path);
    await_ready(&mut capturing);
    assert!(cache.lock_capture(&fingerprint().id).unwrap().is_none());
    kill_9(capturing);
    assert!(cache.lock_capture(&fingerprint().id).unwrap().is_some());
}

#[test]
fn readers_see_whole_entries_while_writers_replace_them() {
    let (_dir, path, cache) = new_cache();
    drop(commit(&cache, "first").unwrap());
    let mut writers = [start("commit", &path), start("commit", &path)];
    let mut reads = 0;
    while writers.iter_mut().any(|writer| writer.try_wait().unwrap().is_none()) {
        let Some(entry) = cache.lookup(&fingerprint().id).unwrap() else { continue };
        cache.verify(&entry, &mut DigestMemory::empty()).unwrap();
        let read = |name| fs::read(entry.image_dir().join(name)).unwrap();
        assert_eq!(read("plan"), read("pages-1.img"));
        reads += 1;
    }
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    assert!(reads > 10, "{reads} reads");
    drop(cache.stage().unwrap());
    assert!(names(&path.join("v1/tmp")).is_empty());
}

/// Every byte of every file of an entry, flipped: found each time, whether the
/// file is looked at through what is remembered or not.
#[test]
fn every_flipped_byte_is_found() {
    let (_dir, _path, cache) = new_cache();
    let entry = commit(&cache, "0123456789").unwrap();
    let mut digests = cache.digests();
    for name in ["image/plan", "image/pages-1.img", "meta"] {
        let file = entry.dir().join(name);
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            digests.refresh();
            let found = match cache.lookup(entry.id()) {
                Err(_) => true,
                Ok(entry) => cache.verify(&entry.unwrap(), &mut digests).is_err(),
            };
            assert!(found, "byte {at} of {name}");
        }
        fs::write(&file, &good).unwrap();
    }
    digests.refresh();
    cache.verify(&entry, &mut digests).unwrap();
}

/// Runs a shell script in a mount namespace of its own, as root, with the
/// directory `$1` and this test binary as `$2`; nothing outside sees what it
/// mounts.
fn with_own_mounts(script: &str) {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("SKIP: mounting a small file system needs root");
    }
    let can_mount = Process::new("unshare").args(["--mount", "true"]).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        return eprintln!("SKIP: no mount namespaces here");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Process::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path().join("cache"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "it did not run");
}

#[test]
fn a_full_disk_is_said_and_cleaned_up() {
    with_own_mounts(
        "mount -t tmpfs -o size=256k,mode=700 none \"$1\"
         CACHE_TEST_ROLE=fill \"$2\" --exact play",
    );
}

#[test]
fn a_cache_that_is_read_only_now_is_still_restored_from() {
    with_own_mounts(
        "mount -t tmpfs -o size=1m,mode=700 none \"$1\"
         CACHE_TEST_ROLE=commit-once \"$2\" --exact play
         mount -o remount,ro \"$1\"
         CACHE_TEST_ROLE=read-only \"$2\" --exact play",
    );
}
