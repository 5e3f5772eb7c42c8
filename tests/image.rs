//! Image sets: written, read, checked and printed, and damaged in every way.

// A helper of a test may panic like the test itself.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use warmstart::image::proto::*;
use warmstart::image::{self, GhostContent, ImageError, PAGES_FILE, Queued, Set};

#[path = "image/sample.rs"]
mod sample;

use sample::{large_sample, sample, write};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images/golden")
}

fn image_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".img"));
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    for set in [sample(), large_sample()] {
        let dir = tempfile::tempdir().unwrap();
        set.check().unwrap();
        write(&set, dir.path());
        assert_eq!(Set::read(dir.path()).unwrap(), set);
    }
}

#[test]
fn files_are_owner_only_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    sample().write(dir.path()).unwrap();
    for name in image_files(dir.path()) {
        let mode = fs::metadata(dir.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = sample().write(dir.path()).unwrap_err();
    assert!(again.to_string().contains("inventory.img: File exists"), "{again}");
}

/// The bytes on disk are a promise: to CRIU, and to images made by an older
/// version. WARMSTART_REGENERATE=1 writes them anew.
#[test]
fn the_golden_set_is_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(), dir.path());
    if std::env::var_os("WARMSTART_REGENERATE").is_some() {
        fs::create_dir_all(golden()).unwrap();
        for name in image_files(&golden()) {
            fs::remove_file(golden().join(name)).unwrap();
        }
        for name in image_files(dir.path()) {
            fs::copy(dir.path().join(&name), golden().join(&name)).unwrap();
        }
    }
    assert_eq!(image_files(dir.path()), image_files(&golden()));
    for name in image_files(&golden()) {
        let same =
            fs::read(dir.path().join(&name)).unwrap() == fs::read(golden().join(&name)).unwrap();
        assert!(same, "{name} differs from images/golden");
    }
}

#[test]
fn the_golden_set_as_text() {
    let mut text = Vec::new();
    image::show(&Set::read(&golden()).unwrap(), &mut text).unwrap();
    insta::assert_snapshot!(String::from_utf8(text).unwrap());
}

#[test]
fn json_names_everything() {
    let json = image::json(&large_sample());
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["tasks"][0]["threads"][1]["tid"], 43);
    assert_eq!(json["tasks"][0]["threads"][0]["core"]["tc"]["comm"], "caf\\xc3");
    assert_eq!(json["pipe_data"][0]["data"], "68656c6c6f");
    let text = json.to_string();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json);
}

#[test]
fn text_names_what_is_not_understood() {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(), dir.path());
    fs::write(dir.path().join("mountpoints-12.img"), b"whatever").unwrap();
    fs::write(dir.path().join("dump.log"), b"whatever").unwrap();
    let set = Set::read(dir.path()).unwrap();
    assert_eq!(set.unread, ["mountpoints-12.img"]);
    let mut text = Vec::new();
    image::show(&set, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().ends_with("mountpoints-12.img\n  (not understood)\n"));
}

/// Reads the sample with one file replaced.
fn read_with(name: &str, content: &[u8]) -> Result<Set, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(), dir.path());
    fs::write(dir.path().join(name), content).unwrap();
    Set::read(dir.path())
}

#[test]
fn damaged_files_are_named() {
    let whole = |name: &str| fs::read(golden().join(name)).unwrap();
    let mut doubled = whole("fs-42.img");
    doubled.extend_from_slice(&whole("fs-42.img")[8..]);
    let mut old = whole("inventory.img");
    // The first field, after magic and length.
    assert_eq!(old[8..10], [0x08, 2]);
    old[9] = 1;
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("inventory.img", vec![], "inventory.img: is not an image file of that name"),
        ("inventory.img", old, "inventory.img: version 1 is not supported"),
        ("mm-42.img", whole("fs-42.img"), "mm-42.img: is not an image file of that name"),
        ("mm-42.img", whole("mm-42.img")[..100].to_vec(), "mm-42.img: is truncated"),
        ("fs-42.img", whole("fs-42.img")[..8].to_vec(), "fs-42.img: is empty"),
        ("fs-42.img", doubled, "fs-42.img: holds more than one entry"),
    ];
    for (name, content, expected) in cases {
        assert_eq!(&read_with(name, content).unwrap_err().to_string(), expected);
    }
}

#[test]
fn sizes_are_capped() {
    let large = vec![0; 2 << 20];
    assert_eq!(
        read_with("core-42.img", &large).unwrap_err().to_string(),
        "core-42.img: is larger than the 1048576 bytes that are read"
    );
    let mut many = fs::read(golden().join("pstree.img")).unwrap()[..8].to_vec();
    many.resize(8 + 4 * 5000, 0);
    assert_eq!(
        read_with("pstree.img", &many).unwrap_err().to_string(),
        "pstree.img: holds too many entries"
    );
    let mut endless = fs::read(golden().join("files.img")).unwrap()[..8].to_vec();
    endless.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        read_with("files.img", &endless).unwrap_err().to_string(),
        "files.img: is truncated"
    );
}

#[test]
fn links_and_fifos_are_refused_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(), dir.path());
    let mm = dir.path().join("mm-42.img");
    fs::rename(&mm, dir.path().join("elsewhere")).unwrap();
    symlink("elsewhere", &mm).unwrap();
    let link = Set::read(dir.path()).unwrap_err().to_string();
    assert!(link.contains("mm-42.img: Too many levels of symbolic links"), "{link}");
    fs::remove_file(&mm).unwrap();
    nix::unistd::mkfifo(&mm, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let fifo = Set::read(dir.path()).unwrap_err().to_string();
    assert!(fifo.ends_with("mm-42.img: not a regular file"), "{fifo}");
}

#[test]
fn a_missing_file_is_named() {
    for name in image_files(&golden()) {
        // What is optional is missing without an error; mappings and
        // descriptors that need it are found by `check`.
        let optional = ["tty-info.img", "timens-0.img", PAGES_FILE].contains(&name.as_str());
        let dir = tempfile::tempdir().unwrap();
        write(&sample(), dir.path());
        fs::remove_file(dir.path().join(&name)).unwrap();
        match Set::read(dir.path()) {
            Ok(_) => assert!(optional, "{name} was not missed"),
            Err(error) => assert!(error.to_string().contains(&name), "{error}"),
        }
    }
}

/// Changes the sample and tells what `check` has to say.
fn complaint(change: impl FnOnce(&mut Set)) -> String {
    let mut set = large_sample();
    set.check().unwrap();
    change(&mut set);
    set.check().map_or_else(|error| error.to_string(), |()| "nothing".into())
}

#[test]
fn contradictions_are_named() {
    fn leader(set: &mut Set) -> &mut CoreEntry {
        &mut set.tasks[0].threads[0].core
    }
    fn vma(set: &mut Set, at: usize) -> &mut VmaEntry {
        &mut set.tasks[0].mm.vmas[at]
    }
    let cases: Vec<(String, &str)> = vec![
        (complaint(|set| set.inventory.root_ids = None), "inventory.img: root_ids are missing"),
        (complaint(|set| set.pstree.clear()), "pstree.img: holds no process"),
        (complaint(|set| set.tasks.clear()), "pstree.img: lists 1 processes, the set has 0"),
        (
            complaint(|set| set.pstree[0].ppid = 7),
            "pstree.img: process 42 comes before its parent 7",
        ),
        (
            complaint(|set| {
                set.pstree[0].threads[1] = 0;
                set.tasks[0].threads[1].tid = 0;
            }),
            "pstree.img: 0 is no pid",
        ),
        (
            complaint(|set| set.pstree[0].threads.push(44)),
            "pstree.img: process 42 and its core files differ in their threads",
        ),
        (complaint(|set| leader(set).tc = None), "core-42.img: tc is missing"),
        (complaint(|set| leader(set).thread_core = None), "core-42.img: thread_core is missing"),
        (complaint(|set| leader(set).mtype = 3), "core-42.img: is of another machine"),
        (
            complaint(|set| leader(set).tc.as_mut().unwrap().comm = b"sixteen letters!".to_vec()),
            "core-42.img: has an impossible comm: sixteen letters!",
        ),
        (
            complaint(|set| {
                leader(set).thread_info.as_mut().unwrap().fpregs.xmm_space.push(0);
            }),
            "core-42.img: xmm_space has 65 words, not 64",
        ),
        (complaint(|set| set.files[1].id = 1), "files.img: id 1 is there twice"),
        (
            complaint(|set| set.files[0].reg.as_mut().unwrap().name = b"bin/app".to_vec()),
            "files.img: id 1 has a path that does not begin at the root: bin/app",
        ),
        (complaint(|set| set.tty_info.clear()), "files.img: id 5: terminal 0 is missing"),
        (complaint(|set| set.memfds.clear()), "files.img: id 10: memfd 1 is missing"),
        (
            complaint(|set| set.tasks[0].fdinfo[0].id = 99),
            "fdinfo-2.img: descriptor 0: there is no such file with the id 99",
        ),
        (
            complaint(|set| set.tasks[0].fdinfo[1].fd = 0),
            "fdinfo-2.img: descriptor 0 is there twice",
        ),
        (
            complaint(|set| set.tasks[0].fs.cwd_id = 5),
            "fs-42.img: the current directory has the id 5, which is no file of the set",
        ),
        (
            complaint(|set| vma(set, 0).start += 1),
            "mm-42.img: the mapping at 0x400001 is not page-aligned",
        ),
        (
            complaint(|set| vma(set, 1).start -= 0x2000),
            "mm-42.img: the mapping at 0x400000 overlaps or precedes the one before it",
        ),
        (
            complaint(|set| {
                let last = vma(set, 6);
                (last.start, last.end) = (0x7fff_ffff_f000, 0x8000_0000_0000);
            }),
            "mm-42.img: the mapping at 0x7ffffffff000 ends outside the range of addresses",
        ),
        (
            complaint(|set| vma(set, 0).pgoff = 0x7fff_ffff_ffff_f000),
            "mm-42.img: the mapping at 0x400000 lies beyond the end of any file",
        ),
        (
            complaint(|set| vma(set, 0).shmid = 77),
            "mm-42.img: the mapping at 0x400000 is of a file with the id 77, which is not in the set",
        ),
        (
            complaint(|set| set.tasks[0].mm.exe_file_id = 0),
            "mm-42.img: the program has the id 0, which is no file of the set",
        ),
        (
            complaint(|set| set.tasks[0].pagemap.entries[0].nr_pages = Some(3)),
            "pagemap-42.img: the run at 0x402000 has no mapping at 0x403000",
        ),
        (
            complaint(|set| set.shmem[0].pagemap.pages_id = 1),
            "pages-1.img: belongs to two pagemaps",
        ),
        (complaint(|set| set.file_locks[0].pid = 9), "filelocks.img: process 9 is missing"),
        (
            complaint(|set| set.pipe_data[0].entry.bytes = 9),
            "pipes-data.img: pipe 7: the announced length is wrong",
        ),
        (
            complaint(|set| set.remaps[0].remap_id = 9),
            "remap-fpath.img: file 3: its substitute 9 is missing",
        ),
        (
            complaint(|set| {
                set.ghosts[1].content = GhostContent::Chunks(vec![Queued {
                    entry: GhostChunkEntry { len: 3, off: u64::MAX - 1 },
                    data: b"abc".to_vec(),
                }]);
            }),
            "ghost-file-1f.img: the chunk at 18446744073709551614 does not fit",
        ),
        (
            complaint(|set| set.seccomp.as_mut().unwrap().seccomp_filters[0].prev = Some(0)),
            "seccomp.img: filter 0 follows a later one",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

/// What a user of a damaged set would do with it: nothing of it may panic.
fn use_everything(dir: &Path) {
    let Ok(set) = Set::read(dir) else { return };
    let mut text = Vec::new();
    image::show(&set, &mut text).unwrap();
    image::json(&set);
    let checked = set.check();
    for task in &set.tasks {
        if let Ok(runs) = task.page_runs() {
            assert!(runs.iter().all(|run| run.end() > run.vaddr));
            let _ = runs.check_len(PAGES_FILE, 8192);
        } else {
            assert!(checked.is_err());
        }
    }
    for shmem in &set.shmem {
        let _ = shmem.page_runs();
    }
}

/// A large sample of which one file at a time is replaced for a moment.
struct Victim {
    dir: tempfile::TempDir,
    names: Vec<String>,
}

impl Victim {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&large_sample(), dir.path());
        let names = image_files(dir.path());
        Self { dir, names }
    }

    fn with(&self, file: prop::sample::Index, damage: impl FnOnce(&mut Vec<u8>)) {
        let path = self.dir.path().join(file.get(&self.names));
        let whole = fs::read(&path).unwrap();
        let mut content = whole.clone();
        damage(&mut content);
        fs::write(&path, content).unwrap();
        use_everything(self.dir.path());
        fs::write(&path, whole).unwrap();
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

#[test]
fn damage_never_panics() {
    let victim = Victim::new();
    proptest!(cases(1000), |(
        file: prop::sample::Index,
        place: prop::sample::Index,
        value: u8,
        cut: bool,
    )| {
        victim.with(file, |content| {
            let at = place.index(content.len());
            if cut { content.truncate(at) } else { content[at] = value }
        });
    });
}

#[test]
fn noise_never_panics() {
    let victim = Victim::new();
    proptest!(cases(500), |(
        file: prop::sample::Index,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    )| {
        // Behind the magics, with a length that is right.
        victim.with(file, |content| {
            content.truncate(8);
            content.extend_from_slice(&u32::try_from(noise.len()).unwrap().to_le_bytes());
            content.extend_from_slice(&noise);
        });
    });
}

#[test]
fn any_numbers_survive_the_disk() {
    proptest!(cases(100), |(
        regs in prop::array::uniform4(any::<u64>()),
        comm in prop::collection::vec(any::<u8>(), 0..15),
        runs in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..20),
        name in prop::collection::vec(1_u8.., 0..50),
        mnt_id: i32,
    )| {
        let mut set = sample();
        let core = &mut set.tasks[0].threads[0].core;
        let gpregs = &mut core.thread_info.as_mut().unwrap().gpregs;
        [gpregs.ax, gpregs.ip, gpregs.sp, gpregs.orig_ax] = regs;
        core.tc.as_mut().unwrap().comm = comm;
        let entry = |(vaddr, nr_pages, flags)| PagemapEntry {
            vaddr,
            nr_pages: Some(nr_pages),
            flags: Some(flags),
            ..Default::default()
        };
        set.tasks[0].pagemap.entries = runs.into_iter().map(entry).collect();
        let reg = set.files[0].reg.as_mut().unwrap();
        reg.name = name;
        reg.mnt_id = Some(mnt_id);
        let dir = tempfile::tempdir().unwrap();
        set.write(dir.path()).unwrap();
        prop_assert_eq!(Set::read(dir.path()).unwrap(), set);
        use_everything(dir.path());
    });
}

/// CRIU's own tool reads every file of a set.
#[test]
fn crit_decodes_every_file() {
    let Some(crit) = tool("WARMSTART_CRIT", "crit/crit", "crit") else {
        eprintln!("SKIPPED: crit is missing; scripts/get-crit brings it");
        return;
    };
    let mut set = large_sample();
    // crit cannot read names that are not UTF-8; CRIU can.
    set.tasks[0].threads[0].core.tc.as_mut().unwrap().comm = b"app".to_vec();
    let dir = tempfile::tempdir().unwrap();
    write(&set, dir.path());
    let mut decoded = 0;
    for name in image_files(dir.path()) {
        if name.starts_with("pages-") {
            continue;
        }
        let path = dir.path().join(&name);
        let output = Command::new(&crit).arg("decode").arg("-i").arg(&path).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!json["entries"].as_array().unwrap().is_empty(), "{name}");
        decoded += 1;
        if name == "mm-42.img" {
            assert_eq!(json["entries"][0]["vmas"][0]["start"], 0x40_0000);
        }
        if name == "files.img" {
            assert_eq!(json["entries"][0]["reg"]["name"], "/usr/bin/app");
        }
    }
    assert!(decoded >= 20, "only {decoded} files");
}

/// Returns a tool: named by a variable, where scripts/get-* puts it, or in PATH.
fn tool(variable: &str, place: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let cached = cache.join("warmstart-tools").join(place);
    if cached.exists() {
        return Some(cached);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}
