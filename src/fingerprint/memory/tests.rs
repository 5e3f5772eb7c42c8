use super::*;
use proptest::prelude::*;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
    fn load(&self) -> DigestMemory {
        DigestMemory::load(&self.path("digests"))
    }
    fn save(&self, memory: &mut DigestMemory) {
        memory.save(&self.path("digests"), &self.path("temporary")).unwrap();
    }
}

fn record(inode: u64, content: &[u8]) -> Record {
    let identity = FileIdentity { device: 1, inode, size: 9, mtime_ns: -1, ctime_ns: 5 };
    Record { identity, digest: Digest::of(content), used_day: today(), note: Note::LoneJar }
}

fn remember(memory: &mut DigestMemory, record: Record) {
    memory.fresh.insert(record.key(), record);
}

#[test]
fn what_is_saved_is_found_again() {
    let fixture = Fixture::new();
    let mut memory = fixture.load();
    for inode in 0..100 {
        remember(&mut memory, record(inode * 7 % 100, &[inode as u8]));
    }
    fixture.save(&mut memory);
    let loaded = fixture.load();
    assert!(!loaded.is_changed());
    for inode in 0..100 {
        let wanted = record(inode * 7 % 100, &[inode as u8]);
        let found = loaded.find(&wanted.identity).unwrap();
        assert_eq!((found.digest, found.note), (wanted.digest, Note::LoneJar));
        let other = FileIdentity { ctime_ns: 6, ..wanted.identity };
        assert!(loaded.find(&other).is_none(), "another ctime is another content");
    }
    assert!(loaded.find(&record(100, b"").identity).is_none());
}

#[test]
fn a_file_that_has_just_changed_is_not_remembered() {
    let fixture = Fixture::new();
    let path = fixture.file("new", b"one");
    let mut memory = DigestMemory::empty();
    let known = memory.file(&path).unwrap();
    assert_eq!(known.digest, Digest::of(b"one"));
    assert!(!known.settled && !memory.is_changed());
    memory.annotate(&path, Note::LoneJar);
    assert!(!memory.is_changed());

    fs::write(&path, b"two").unwrap();
    memory.refresh();
    assert_eq!(memory.file(&path).unwrap().digest, Digest::of(b"two"));
}

#[test]
fn how_old_a_change_must_be_depends_on_the_clock_that_dated_it() {
    let at = |ctime_ns| FileIdentity { ctime_ns, ..record(1, b"").identity };
    assert_eq!(racy_ns(&at(1_700_000_000_000_000_000)), RACY_NS);
    assert_eq!(racy_ns(&at(1_700_000_000_123_000_000)), RACY_NS);
    assert_eq!(racy_ns(&at(1_700_000_000_123_456_789)), RACY_FINE_NS);
}

#[test]
fn an_old_file_is_remembered_and_not_read_again() {
    let fixture = Fixture::new();
    // Nothing can set a ctime: take a file that has been there all along.
    let path = std::env::current_exe().and_then(fs::canonicalize).unwrap();
    let path = [Path::new("/etc/passwd"), &path].into_iter().find(|path| {
        let identity = FileIdentity::new(&fs::metadata(path).unwrap());
        now_ns() - identity.ctime_ns > RACY_NS
    });
    let Some(path) = path else { return eprintln!("SKIP: no file is older than two seconds") };
    let mut memory = fixture.load();
    let known = memory.file(path).unwrap();
    assert!(known.settled);
    memory.annotate(path, Note::LoneJar);
    fixture.save(&mut memory);

    let mut memory = fixture.load();
    let again = memory.identified(Path::new("/nonexistent"), known.identity).unwrap();
    assert_eq!((again.digest, again.note), (known.digest, Note::LoneJar));
    assert!(!memory.is_changed());
}

#[test]
fn writers_keep_what_others_wrote() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.load(), fixture.load());
    remember(&mut one, record(1, b"one"));
    remember(&mut two, record(2, b"two"));
    fixture.save(&mut one);
    fixture.save(&mut two);
    let loaded = fixture.load();
    assert!(loaded.find(&record(1, b"").identity).is_some());
    assert!(loaded.find(&record(2, b"").identity).is_some());
    assert!(!fixture.path("temporary").exists());
}

#[test]
fn unused_and_surplus_records_go() {
    let memory = DigestMemory::empty();
    let old = Record { used_day: today() - UNUSED_DAYS_MAX - 1, ..record(1, b"") };
    let future = Record { used_day: today() + 2, ..record(2, b"") };
    assert!(memory.worth_keeping(vec![old, future]).is_empty());
    let mut many: Vec<_> = (0..RECORDS_MAX as u64 + 10).map(|inode| record(inode, b"")).collect();
    many[7].used_day -= 3;
    let kept = memory.worth_keeping(many);
    assert_eq!(kept.len(), RECORDS_MAX);
    assert!(kept.iter().all(|record| record.identity.inode != 7));
    assert!(kept.is_sorted_by_key(Record::key));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let fixture = Fixture::new();
    let mut memory = fixture.load();
    remember(&mut memory, record(1, b"one"));
    fixture.save(&mut memory);
    remember(&mut memory, record(2, b"two"));
    let missing = fixture.path("missing/temporary");
    assert!(memory.save(&fixture.path("digests"), &missing).is_err());
    assert!(fixture.load().find(&record(1, b"").identity).is_some());
}

proptest! {
    /// A damaged memory is one that knows less, never one that says anything
    /// else.
    #[test]
    fn damage_never_gives_another_digest(
        at in 0usize..LEN_HEADER + 20 * LEN_RECORD,
        flip in 1u8..=255,
        cut in proptest::option::of(0usize..LEN_HEADER + 20 * LEN_RECORD),
    ) {
        let records: Vec<Record> = (0..20).map(|inode| record(inode, &[inode as u8])).collect();
        let mut bytes = encode(&records);
        bytes[at] ^= flip;
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        let stored = valid_records(bytes).unwrap_or_default();
        let memory = DigestMemory { stored, today: today(), ..DigestMemory::default() };
        let mut found = 0;
        for wanted in &records {
            if let Some(record) = memory.find(&wanted.identity) {
                prop_assert_eq!(record.digest, wanted.digest);
                found += 1;
            }
        }
        prop_assert!(found == 0 || (cut.is_none() && found < 20));
    }

    #[test]
    fn any_bytes_are_a_memory(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let stored = valid_records(bytes).unwrap_or_default();
        prop_assert!(stored.is_empty());
    }
}
