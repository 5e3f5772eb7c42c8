//! The fingerprint of a hit: a JVM with a 100 MB jar, everything remembered;
//! and the parts that it is made of.
//!
//! Without a `java` in PATH, a script stands for it.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use warmstart::cache::{Cache, NewEntry};
use warmstart::command::Command;
use warmstart::fingerprint::{self, DigestMemory, Host, Scope};

const LEN_JAR: usize = 100 << 20;

fn command(dir: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_java = std::env::split_paths(&path).any(|dir| dir.join("java").exists());
    let program = if has_java { "java" } else { "sh" };
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    Command {
        argv: [program, "-jar", "app.jar", "--port=8080"].map(OsString::from).into(),
        env: env.collect(),
        cwd: dir.to_owned(),
    }
}

fn write_jar(path: &Path) {
    let mut file = File::create(path).unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    for _ in 0..LEN_JAR >> 20 {
        file.write_all(&block).unwrap();
    }
}

/// What an image of 15 files depends on: the libraries of a JVM, or whatever
/// is in /usr/lib.
fn dependencies() -> Vec<std::path::PathBuf> {
    let libraries = fs::read_dir("/usr/lib/x86_64-linux-gnu").into_iter().flatten();
    libraries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .take(60)
        .collect()
}

fn hit(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    write_jar(&dir.path().join("app.jar"));
    let command = command(dir.path());
    let scope = Scope::default();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    // What changed less than two seconds ago is not remembered.
    std::thread::sleep(Duration::from_millis(2100));

    let host = Host::current();
    let mut digests = cache.digests();
    let fingerprint = fingerprint::of(&command, &scope, &host, &mut digests).unwrap();
    let staging = cache.stage().unwrap();
    for number in 0..15 {
        fs::write(staging.image_dir().join(format!("core-{number}.img")), [0; 2000]).unwrap();
    }
    let new = NewEntry {
        fingerprint: &fingerprint,
        command: &command,
        dependencies: &dependencies(),
        captured_at: SystemTime::now(),
        boot_id: &host.boot_id,
        kernel: &host.kernel,
        engine: "native",
        capture_point: "ready",
        at_main: None,
        pid: 1,
        threads: 25,
        len_pages: 0,
        page_mode: "mapped",
        freeze: Duration::ZERO,
    };
    drop(staging.commit(&new, &mut digests).unwrap());
    cache.save_digests(&mut digests).unwrap();

    let mut group = criterion.benchmark_group("hit");
    group.bench_function("host", |bencher| bencher.iter(|| black_box(Host::current())));
    group.bench_function("digests", |bencher| bencher.iter(|| black_box(cache.digests())));
    group.bench_function("fingerprint", |bencher| {
        let mut digests: DigestMemory = cache.digests();
        bencher.iter(|| fingerprint::of(&command, &scope, &host, &mut digests).unwrap())
    });
    group.bench_function("lookup", |bencher| {
        bencher.iter(|| cache.lookup(&fingerprint.id).unwrap().unwrap())
    });
    group.bench_function("verify", |bencher| {
        let entry = cache.lookup(&fingerprint.id).unwrap().unwrap();
        let mut digests = cache.digests();
        bencher.iter(|| {
            digests.refresh();
            cache.verify(&entry, &mut digests).unwrap();
        })
    });
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let host = Host::current();
            let cache = Cache::open(cache.dir()).unwrap();
            let mut digests = cache.digests();
            let key = fingerprint::of(&command, &scope, &host, &mut digests).unwrap();
            assert!(!digests.is_changed(), "a file was hashed");
            let entry = cache.lookup(&key.id).unwrap().unwrap();
            cache.verify(&entry, &mut digests).unwrap();
            entry
        })
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = hit
}
criterion_main!(benches);
