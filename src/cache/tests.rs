use super::*;
use crate::command::Command;
use crate::fingerprint::{Digest, Fingerprint, Input, Point};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

pub(super) struct Fixture {
    dir: tempfile::TempDir,
    pub(super) cache: Cache,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache")).unwrap();
        Self { dir, cache }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn staging(&self, content: &str) -> Staging {
        let staging = self.cache.stage().unwrap();
        fs::write(staging.image_dir().join("pages-1.img"), content).unwrap();
        fs::write(staging.image_dir().join("plan"), "plan").unwrap();
        staging
    }
    fn commit(&self, number: u8, content: &str, dependencies: &[PathBuf]) -> Entry {
        let fingerprint = fingerprint(number);
        let command = command(number);
        let new = new_entry(&fingerprint, &command, dependencies);
        self.staging(content).commit(&new, &mut DigestMemory::empty()).unwrap()
    }
    fn verify(&self, entry: &Entry) -> Result<(), Stale> {
        self.cache.verify(entry, &mut DigestMemory::empty())
    }
    fn tmp(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache.tmp()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn fingerprint(number: u8) -> Fingerprint {
    let id = format!("{number:032x}").parse().unwrap();
    let input = |label: &str, shown: String| Input {
        label: label.to_owned(),
        digest: Digest::of(shown.as_bytes()),
        shown,
    };
    let inputs = vec![
        input("argument 0", "/usr/bin/java".to_owned()),
        input("jar /x/app.jar", number.to_string()),
        input("kernel", (number / 4).to_string()),
    ];
    Fingerprint { id, inputs }
}

fn command(number: u8) -> Command {
    Command {
        argv: vec!["java".into(), format!("{number}").into()],
        env: Vec::new(),
        cwd: "/".into(),
    }
}

fn new_entry<'a>(
    fingerprint: &'a Fingerprint,
    command: &'a Command,
    dependencies: &'a [PathBuf],
) -> NewEntry<'a> {
    NewEntry {
        fingerprint,
        command,
        dependencies,
        captured_at: SystemTime::now() + Duration::from_secs(1),
        boot_id: "boot",
        kernel: "Linux",
        engine: "native",
        capture_point: "ready",
        at_main: None,
        pid: 4242,
        threads: 3,
        len_pages: 4096,
        page_mode: "mapped",
        freeze: Duration::from_micros(900),
    }
}

#[test]
fn what_is_committed_is_found() {
    let fixture = Fixture::new();
    let id = fingerprint(1).id;
    assert!(fixture.cache.lookup(&id).unwrap().is_none());
    drop(fixture.commit(
        1,
        "pages",
        &[PathBuf::from("/etc/passwd"), "/dev/null".into(), "/".into()],
    ));
    let entry = fixture.cache.lookup(&id).unwrap().unwrap();
    assert_eq!(entry.id(), &id);
    assert!(!fixture.cache.is_empty());
    assert_eq!(entry.meta().pid, 4242);
    assert_eq!(entry.inputs().unwrap(), fingerprint(1).inputs);
    assert_eq!(entry.meta().dependencies.len(), 3);
    fixture.verify(&entry).unwrap();
    fixture.cache.verify_contents(&entry).unwrap();
    assert!(fixture.tmp().is_empty());
    for path in [entry.dir().to_owned(), entry.image_dir()] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
    }
    for name in ["meta", "image/plan", "image/pages-1.img"] {
        let mode = fs::metadata(entry.dir().join(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(fixture.path("cache/CACHEDIR.TAG").exists());
    let shown = super::report::show(&fixture.cache, &entry.meta().id.to_string()).unwrap().render();
    assert!(shown.contains("an earlier boot"), "{shown}");
}

#[test]
fn a_hit_reads_no_image() {
    let fixture = Fixture::new();
    let entry = fixture.commit(1, "pages", &[]);
    for file in &entry.meta().files {
        assert!(file.identity.is_some(), "{} is remembered from its commit", file.name);
    }
}

#[test]
fn every_damage_of_the_image_is_found() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 8] = [
        ("plan of the image has 2 bytes, not 4", |image| {
            fs::write(image.join("plan"), "pl").unwrap();
        }),
        ("plan of the image is damaged", |image| fs::write(image.join("plan"), "plaN").unwrap()),
        ("plan is missing from the image", |image| fs::remove_file(image.join("plan")).unwrap()),
        ("extra does not belong to the image", |image| fs::write(image.join("extra"), "").unwrap()),
        ("plan of the image is damaged", |image| {
            fs::remove_file(image.join("plan")).unwrap();
            fs::create_dir(image.join("plan")).unwrap();
        }),
        ("plan of the image is damaged", |image| {
            fs::rename(image.join("plan"), image.join("../../plan")).unwrap();
            std::os::unix::fs::symlink("../../plan", image.join("plan")).unwrap();
        }),
        ("pages-1.img of the image is damaged", |image| {
            fs::write(image.join("other"), "Pages").unwrap();
            fs::rename(image.join("other"), image.join("pages-1.img")).unwrap();
        }),
        ("extra does not belong to the image", |image| {
            fs::write(image.join("../extra"), "").unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let fixture = Fixture::new();
        let entry = fixture.commit(1, "pages", &[]);
        damage(&entry.image_dir());
        assert_eq!(fixture.verify(&entry).unwrap_err().to_string(), expected);
        assert_eq!(fixture.cache.verify_contents(&entry).unwrap_err().to_string(), expected);
    }
    // A directory that was touched is looked through.
    let fixture = Fixture::new();
    let entry = fixture.commit(1, "pages", &[]);
    assert!(entry.meta().directory.is_some(), "the directory is known from its commit");
    fs::write(entry.image_dir().join("extra"), "").unwrap();
    fs::remove_file(entry.image_dir().join("extra")).unwrap();
    fixture.verify(&entry).unwrap();
    // The same bytes once more are no damage.
    let fixture = Fixture::new();
    let entry = fixture.commit(1, "pages", &[]);
    fs::write(entry.image_dir().join("pages-1.img"), "pages").unwrap();
    fixture.verify(&entry).unwrap();
}

#[test]
fn damaged_metadata_is_no_entry() {
    let fixture = Fixture::new();
    let entry = fixture.commit(1, "pages", &[]);
    let (id, meta) = (*entry.id(), entry.dir().join("meta"));
    drop(entry);
    let good = fs::read(&meta).unwrap();
    for content in [&b""[..], &good[..good.len() - 1], b"nonsense"] {
        fs::write(&meta, content).unwrap();
        assert!(matches!(fixture.cache.lookup(&id), Err(Unusable::Damaged)));
    }
    fs::remove_file(&meta).unwrap();
    assert!(matches!(fixture.cache.lookup(&id), Err(Unusable::Damaged)));
    // It is replaced as any other.
    drop(fixture.commit(1, "new pages", &[]));
    assert!(fixture.cache.lookup(&id).unwrap().is_some());

    // An entry under another's name.
    let other = fixture.cache.entry_dir(&fingerprint(2).id);
    fs::rename(fixture.cache.entry_dir(&id), &other).unwrap();
    assert!(matches!(fixture.cache.lookup(&fingerprint(2).id), Err(Unusable::Misplaced)));
    fs::remove_dir_all(&other).unwrap();
    std::os::unix::fs::symlink("/etc", &other).unwrap();
    assert!(matches!(fixture.cache.lookup(&fingerprint(2).id), Err(Unusable::Damaged)));
    drop(fixture.commit(2, "pages", &[]));
    assert!(fixture.cache.lookup(&fingerprint(2).id).unwrap().is_some());
}

#[test]
fn changed_dependencies_are_found() {
    let fixture = Fixture::new();
    let (jar, gone) = (fixture.path("app.jar"), fixture.path("gone"));
    fs::write(&jar, "jar").unwrap();
    fs::write(&gone, "x").unwrap();
    let entry = fixture.commit(1, "pages", &[jar.clone(), gone.clone()]);
    fixture.verify(&entry).unwrap();
    fs::write(&jar, "JAR").unwrap();
    assert_eq!(fixture.verify(&entry), Err(Stale::DependencyChanged(jar.clone())));
    fs::write(&jar, "jar").unwrap();
    fixture.verify(&entry).unwrap();
    fs::remove_file(&gone).unwrap();
    assert_eq!(fixture.verify(&entry), Err(Stale::DependencyMissing(gone.clone())));
    fs::create_dir(&gone).unwrap();
    assert_eq!(fixture.verify(&entry), Err(Stale::DependencyChanged(gone)));
}

#[test]
fn what_changed_since_the_capture_is_not_committed() {
    let fixture = Fixture::new();
    let jar = fixture.path("app.jar");
    let (fingerprint, command) = (fingerprint(1), command(1));
    let dependencies = [jar.clone()];
    let commit = |captured_at| {
        let new = NewEntry { captured_at, ..new_entry(&fingerprint, &command, &dependencies) };
        let committed = fixture.staging("pages").commit(&new, &mut DigestMemory::empty());
        committed.map(drop).map_err(|error| error.to_string())
    };
    let changed = format!("{}: changed while it was being captured", jar.display());
    assert_eq!(commit(SystemTime::now()), Err(changed.clone()));
    let before = SystemTime::now() - Duration::from_secs(1);
    fs::write(&jar, "jar").unwrap();
    assert_eq!(commit(before), Err(changed));
    assert!(fixture.tmp().is_empty());
    assert!(fixture.cache.ids().unwrap().is_empty());
    assert_eq!(commit(SystemTime::now() + Duration::from_millis(50)), Ok(()));
}

#[test]
fn a_commit_replaces_the_old_entry_and_cleans_up() {
    let fixture = Fixture::new();
    let old = fixture.commit(1, "old", &[]);
    // While someone restores the old one, it stays.
    let (fingerprint, command) = (fingerprint(1), command(1));
    let new = new_entry(&fingerprint, &command, &[]);
    let busy = fixture.staging("new").commit(&new, &mut DigestMemory::empty());
    assert!(matches!(busy, Err(CacheError::Busy(_))));
    assert_eq!(fs::read(old.image_dir().join("pages-1.img")).unwrap(), b"old");
    drop(old);
    let new = fixture.commit(1, "new", &[]);
    assert_eq!(fs::read(new.image_dir().join("pages-1.img")).unwrap(), b"new");
    fixture.verify(&new).unwrap();
    assert!(fixture.tmp().is_empty());
}

#[test]
fn what_is_not_committed_leaves_nothing() {
    let fixture = Fixture::new();
    drop(fixture.staging("pages"));
    assert!(fixture.tmp().is_empty());
    let staging = fixture.staging("pages");
    std::os::unix::fs::symlink("/etc/passwd", staging.image_dir().join("link")).unwrap();
    let (fingerprint, command) = (fingerprint(1), command(1));
    let new = new_entry(&fingerprint, &command, &[]);
    let refused = staging.commit(&new, &mut DigestMemory::empty());
    assert!(matches!(refused, Err(CacheError::NotAFile(_))));
    assert!(fixture.tmp().is_empty());
    // A living one is not swept away by the next.
    let living = fixture.staging("pages");
    let next = fixture.staging("pages");
    assert!(living.image_dir().join("plan").exists());
    drop((living, next));
    fs::create_dir_all(fixture.cache.tmp().join("dead/image")).unwrap();
    drop(fixture.staging("pages"));
    assert!(fixture.tmp().is_empty());
}

#[test]
fn removal_spares_what_is_in_use() {
    let fixture = Fixture::new();
    let held = fixture.commit(1, "pages", &[]);
    drop(fixture.commit(2, "pages", &[]));
    fixture.cache.note_use(held.id());
    let ids = fixture.cache.ids().unwrap();
    let removal = fixture.cache.remove_all(&ids).unwrap();
    assert_eq!((removal.busy, removal.removed), (vec![*held.id()], vec![fingerprint(2).id]));
    assert!(removal.len_freed > 0);
    assert_eq!(fixture.cache.usage(held.id()).restores, 1);
    let id = *held.id();
    drop(held);
    fixture.cache.remove(&id).unwrap();
    assert!(matches!(fixture.cache.remove(&id), Err(CacheError::NoSuchEntry(_))));
    assert_eq!(fixture.cache.usage(&id), Usage::default());
    assert!(fixture.tmp().is_empty());
}

#[test]
fn pruning_keeps_what_was_used_last() {
    let fixture = Fixture::new();
    for number in 1..=3 {
        drop(fixture.commit(number, &"pages".repeat(4000), &[]));
    }
    fixture.cache.note_use(&fingerprint(2).id);
    let hour_ahead = SystemTime::now() + Duration::from_secs(3600);
    let used = fixture.cache.bucket.join("used").join(fingerprint(2).id.to_string());
    File::options().write(true).open(used).unwrap().set_modified(hour_ahead).unwrap();
    let nothing = fixture.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(nothing, Removal::default());
    let one = removal::len_on_disk(&fixture.cache.entry_dir(&fingerprint(2).id));
    let options = PruneOptions { max_size: Some(one), older_than_days: None };
    assert_eq!(fixture.cache.prune(&options).unwrap().removed.len(), 2);
    assert_eq!(fixture.cache.ids().unwrap(), [fingerprint(2).id]);
    let options = PruneOptions { max_size: None, older_than_days: Some(0) };
    assert_eq!(fixture.cache.prune(&options).unwrap().removed.len(), 1);
}

#[test]
fn a_command_that_changes_again_and_again_leaves_a_handful_of_entries() {
    let fixture = Fixture::new();
    for number in 1..=7 {
        let (fingerprint, command) = (fingerprint(number), command(0));
        let new = new_entry(&fingerprint, &command, &[]);
        drop(fixture.staging("pages").commit(&new, &mut DigestMemory::empty()).unwrap());
    }
    assert_eq!(fixture.cache.ids().unwrap().len(), 4);
    assert!(fixture.cache.lookup(&fingerprint(7).id).unwrap().is_some());
}

/// All within one second.
#[test]
fn the_entry_that_is_used_is_not_the_one_that_goes() {
    let fixture = Fixture::new();
    let commit = |number| {
        let (fingerprint, command) = (fingerprint(number), command(0));
        let new = new_entry(&fingerprint, &command, &[]);
        drop(fixture.staging("pages").commit(&new, &mut DigestMemory::empty()).unwrap());
        // A tick of the file system's clock.
        std::thread::sleep(Duration::from_millis(15));
    };
    commit(1);
    for number in 2..=7 {
        fixture.cache.note_use(&fingerprint(1).id);
        commit(number);
    }
    let has = |number| fixture.cache.lookup(&fingerprint(number).id).unwrap().is_some();
    assert_eq!((1..=7).filter(|number| has(*number)).collect::<Vec<_>>(), [1, 5, 6, 7]);
}

#[test]
fn the_nearest_entry_says_what_changed() {
    let fixture = Fixture::new();
    assert!(fixture.cache.nearest(&fingerprint(9), Point::Ready).is_none());
    drop(fixture.commit(1, "pages", &[]));
    drop(fixture.commit(8, "pages", &[]));
    let nearest = fixture.cache.nearest(&fingerprint(9), Point::Ready).unwrap();
    assert_eq!(nearest.meta.id, fingerprint(8).id);
    assert_eq!(nearest.changes.len(), 1);
    assert_eq!(nearest.changes[0].to_string(), "jar /x/app.jar changed");
    let mut other = fingerprint(9);
    other.inputs[0].shown = "python3".to_owned();
    assert!(fixture.cache.nearest(&other, Point::Ready).is_none());
    // Captured elsewhere in its life, other things count.
    assert!(fixture.cache.nearest(&fingerprint(9), Point::Main).is_none());
}

/// A restore that misses its deadline every time cost three seconds a run, and
/// a capture.
#[test]
fn captures_that_cannot_be_restored_are_given_up() {
    let fixture = Fixture::new();
    let (cache, id) = (&fixture.cache, fingerprint(1).id);
    let fail = |captured| {
        let failed = cache.count_failed_restore(&id, captured);
        cache.note_failed_restore(&id, &command(1), "too slow", failed).unwrap();
    };
    fail(100);
    fail(100);
    assert_eq!(cache.given_up(&id), None, "one entry counts once");
    assert!(!report::list(cache).unwrap().render().contains("NOT CAPTURED"));
    drop(fixture.commit(1, "pages", &[]));
    fail(200);
    assert_eq!(cache.given_up(&id).unwrap(), "could not be restored: too slow");
    assert!(report::list(cache).unwrap().render().contains("NOT CAPTURED"));
    cache.note_restored(&id);
    fail(300);
    assert_eq!(cache.given_up(&id), None, "a restore that succeeds makes up for all");
}

#[test]
fn refusals_are_noted_until_a_capture_succeeds() {
    let fixture = Fixture::new();
    let id = fingerprint(1).id;
    fixture.cache.note_refusal(&id, &command(1), "fd 3 is\na socket").unwrap();
    assert_eq!(fixture.cache.refusal(&id).unwrap().reason, "fd 3 is a socket");
    let text = report::list(&fixture.cache).unwrap().render();
    assert!(text.contains("NOT CAPTURED") && text.contains("java 1: fd 3 is a socket"), "{text}");
    let note = fixture.cache.bucket.join("notes").join(id.to_string());
    let good = fs::read(&note).unwrap();
    fs::write(&note, "nonsense").unwrap();
    assert!(fixture.cache.refusal(&id).is_none());
    fs::write(&note, good).unwrap();
    drop(fixture.commit(1, "pages", &[]));
    assert!(fixture.cache.refused().is_empty());
    for number in 0..=210 {
        fixture.cache.note_refusal(&fingerprint(number).id, &command(1), "no").unwrap();
    }
    assert_eq!(fixture.cache.refused().len(), 200);
}

#[test]
fn one_process_captures_a_command() {
    let fixture = Fixture::new();
    let id = fingerprint(1).id;
    let lock = fixture.cache.lock_capture(&id).unwrap().unwrap();
    assert!(fixture.cache.lock_capture(&id).unwrap().is_none());
    assert!(fixture.cache.lock_capture(&fingerprint(2).id).unwrap().is_some());
    drop(lock);
    assert!(fixture.cache.lock_capture(&id).unwrap().is_some());
}

#[test]
fn reports_are_complete_and_have_a_schema() {
    let fixture = Fixture::new();
    assert_eq!(report::list(&fixture.cache).unwrap().render(), "");
    drop(fixture.commit(1, "pages", &[PathBuf::from("/etc/passwd")]));
    drop(fixture.commit(17, "pages", &[]));
    let json = serde_json::to_value(report::list(&fixture.cache).unwrap()).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["entries"].as_array().unwrap().len(), 2);
    assert!(json["len_disk"].as_u64().unwrap() > 0);

    let full = fingerprint(1).id.to_string();
    assert!(matches!(report::show(&fixture.cache, "0"), Err(CacheError::Ambiguous(_))));
    assert!(matches!(report::show(&fixture.cache, "f"), Err(CacheError::NoSuchEntry(_))));
    let shown = report::show(&fixture.cache, &full).unwrap();
    let text = shown.render();
    for part in ["java 1", "pid 4242, 3 threads", "pages-1.img: 5 bytes", "/etc/passwd", "0.9 ms"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json = serde_json::to_value(&shown).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["id"], full.as_str());
    assert_eq!(json["inputs"].as_array().unwrap().len(), 3);

    fs::write(fixture.cache.entry_dir(&fingerprint(17).id).join("image/plan"), "PLAN").unwrap();
    let verification = report::verify(&fixture.cache).unwrap();
    assert!(!verification.is_good());
    let text = verification.render();
    assert!(
        text.contains("good  java 1") && text.contains("plan of the image is damaged"),
        "{text}"
    );
    assert!(report::remove(&fixture.cache, &[full.clone(), "f".to_owned()]).is_err());
    assert_eq!(fixture.cache.ids().unwrap().len(), 2);
    let removed = report::remove(&fixture.cache, &[full]).unwrap();
    assert!(removed.render().starts_with("removed 1 entry, "));
    assert!(report::remove_everything(&fixture.cache).is_ok());
    assert!(fixture.cache.ids().unwrap().is_empty());
}

#[test]
fn directories_that_others_control_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let path = dir.path().join("cache");
    fs::write(&path, "").unwrap();
    assert!(matches!(Cache::open(&path), Err(CacheError::NotADirectory(_))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(Cache::open(Path::new("relative")), Err(CacheError::NotAbsolute(_))));
    assert!(Cache::open_existing(&path).unwrap().is_none());
    assert!(!path.exists());
    Cache::open(&path).unwrap();
    for name in ["", "v1", "v1/entries"] {
        mode(&path.join(name), 0o777);
        let error = Cache::open(&path).unwrap_err();
        assert!(matches!(error, CacheError::WritableByOthers { mode: 0o777, .. }), "{error}");
        mode(&path.join(name), 0o700);
    }
    // A link of our own to a directory of our own is fine.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Cache::open(&link).unwrap();
    if geteuid().is_root() {
        let other = Some(nix::unistd::Uid::from_raw(65534));
        nix::unistd::chown(&path.join("v1"), other, None).unwrap();
        assert!(matches!(Cache::open(&path), Err(CacheError::NotOurs { owner: 65534, .. })));
        nix::unistd::chown(&path.join("v1"), Some(geteuid()), None).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        assert!(matches!(Cache::open(&link), Err(CacheError::NotOurs { owner: 65534, .. })));
    } else {
        eprintln!("SKIP: only root can give a directory away");
    }
}

#[test]
fn digests_are_kept_with_the_cache() {
    let fixture = Fixture::new();
    let mut digests = fixture.cache.digests();
    digests.file(Path::new("/etc/passwd")).unwrap();
    fixture.cache.save_digests(&mut digests).unwrap();
    assert!(fixture.tmp().is_empty());
}
