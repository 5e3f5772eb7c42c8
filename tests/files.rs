//! Files that a program has open when it is captured, and what became of them
//! until it is restored.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use trial::Trial;

/// A captured Python program; `late` runs only where `early` did.
fn captured(early: &str, late: &str) -> Trial {
    let late = late.replace('\n', "\n    ");
    let trial = Trial::python(early, &format!("if 'fd' in globals():\n    {late}"));
    fs::create_dir(trial.path("dir")).unwrap();
    fs::write(trial.path("dir/data"), "0123456789").unwrap();
    trial.capture().unwrap();
    trial
}

/// The same in Java, where there is a `static` field to tell.
fn captured_java(field: &str, early: &str, late: &str) -> Option<Trial> {
    let jdk = support::full_jdks().into_iter().next()?;
    let trial = Trial::java(&jdk, field, early, late)?;
    fs::write(trial.path("data"), "0123456789").unwrap();
    trial.capture().unwrap();
    Some(trial)
}

const OPEN: &str = "path = os.path.join(home, 'dir', 'log.log')\n";

#[test]
fn a_log_opened_for_appending() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
os.write(fd, b'early\\n')";
    let trial = captured(&format!("{OPEN}{early}"), "os.write(fd, b'late\\n')");
    let log = trial.path("dir/log.log");
    let text = || fs::read_to_string(&log).unwrap();
    trial.run_restored("as it was");
    assert_eq!(text(), "early\nlate\n");
    // Grown meanwhile, by another process that still has it open.
    let mut other = OpenOptions::new().append(true).open(&log).unwrap();
    other.write_all(b"other\n").unwrap();
    trial.run_restored("grown");
    other.write_all(b"more\n").unwrap();
    assert_eq!(text(), "early\nlate\nother\nlate\nmore\n");
    // Truncated: no hole.
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    trial.run_restored("truncated");
    assert_eq!(text(), "late\n");
    // Rotated.
    let rotated = trial.path("dir/log.log.1");
    fs::rename(&log, &rotated).unwrap();
    trial.run_restored("rotated");
    assert_eq!((text(), fs::read_to_string(&rotated).unwrap()), ("late\n".into(), "late\n".into()));
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o640);
    // Gone with its directory.
    fs::remove_dir_all(trial.path("dir")).unwrap();
    trial.run_restored("without its directory");
    assert_eq!(text(), "late\n");
    // Something else in its place: as a cold start, which opens no log here.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    trial.run().check_cold("a directory in its place", "log.log");
}

#[test]
fn a_log_written_from_its_start() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = captured_java(
        "static FileOutputStream log;",
        "log = new FileOutputStream(dir.resolve(\"log.log\").toFile()); log.write(\"early\\n\".getBytes());",
        "if (log != null) log.write(\"late\\n\".getBytes());",
    );
    let Some(trial) = trial else { skip!("there is no JDK with javac") };
    let log = trial.path("log.log");
    let text = || fs::read_to_string(&log).unwrap();
    for round in 0..2 {
        trial.run_restored(&format!("round {round}"));
        assert_eq!(text(), "early\nlate\n");
    }
    // Another run has it open and goes on writing to it.
    let mut other = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    other.seek(SeekFrom::End(0)).unwrap();
    other.write_all(&b"other\n".repeat(100_000)).unwrap();
    trial.run_restored("in another run's hands");
    assert_eq!(text(), "early\nlate\n");
    other.write_all(b"end\n").unwrap();
    let mut all = String::new();
    other.seek(SeekFrom::Start(0)).unwrap();
    other.read_to_string(&mut all).unwrap();
    assert!(all == format!("early\nlate\n{}end\n", "other\n".repeat(100_000)));
    assert_eq!(text(), "early\nlate\n");
    // Rotated, and gone.
    fs::rename(&log, trial.path("log.log.1")).unwrap();
    trial.run_restored("rotated");
    assert_eq!(text(), "early\nlate\n");
    fs::remove_file(&log).unwrap();
    trial.run_restored("gone");
    assert_eq!(text(), "early\nlate\n");
    // A link in its place is not followed.
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(trial.path("data"), &log).unwrap();
    trial.run_restored("a link in its place");
    assert_eq!(fs::read_to_string(trial.path("data")).unwrap(), "0123456789");
    assert_eq!(text(), "early\nlate\n");
}

#[test]
fn the_captured_run_keeps_its_log() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "import fcntl
fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o644)
flags = fcntl.fcntl(fd, fcntl.F_GETFL)
os.write(fd, b'early\\n')";
    let late = "os.write(fd, b'late\\n')
if fcntl.fcntl(fd, fcntl.F_GETFL) != flags: sys.exit(9)";
    let trial = captured(&format!("{OPEN}{early}"), late);
    trial.run_restored("made anew, with its flags");
    let waiting = trial.start(&["--refresh"]);
    let log = trial.path("dir/log.log");
    let captured = fs::metadata(&log).unwrap().ino();
    // A second run finds its pid taken, before it touches a file.
    let mut second = trial.command(&["--require-warm", "--pids", "set-tid"]);
    let output = second.output().unwrap();
    let said = support::stderr(&output);
    assert!(said.contains("is taken"), "{said}");
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert_eq!(fs::metadata(&log).unwrap().ino(), captured);
    let (code, said, _) = waiting.finish();
    assert_eq!((code, said.as_str()), (Some(trial::STATUS), trial::ANSWER));
    assert_eq!(fs::read_to_string(&log).unwrap(), "early\nlate\n");
}

#[test]
fn a_data_file_that_is_written() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = captured_java(
        "static RandomAccessFile file;",
        "file = new RandomAccessFile(dir.resolve(\"data\").toFile(), \"rw\"); file.seek(4);",
        "if (file != null) { if (file.readByte() != '4') System.exit(9); if (Files.exists(dir.resolve(\"write\"))) file.write('x'); }",
    );
    let Some(trial) = trial else { skip!("there is no JDK with javac") };
    let data = trial.path("data");
    trial.run_restored("unchanged");
    trial.run_restored("unchanged again");
    // The same content in a new file is the same.
    fs::remove_file(&data).unwrap();
    fs::write(&data, "0123456789").unwrap();
    trial.run_restored("the same content");
    fs::write(trial.path("write"), "").unwrap();
    trial.run_restored("it writes");
    assert_eq!(fs::read_to_string(&data).unwrap(), "01234x6789");
    let why = format!("{} changed", data.display());
    trial.run().check_cold("changed by the last run", &why);
    fs::write(&data, "0123456789 and more").unwrap();
    trial.run().check_cold("grown", &why);
    fs::remove_file(&data).unwrap();
    trial.run().check_cold("gone", "is missing");
    fs::remove_file(trial.path("write")).unwrap();
    fs::write(&data, "0123456789").unwrap();
    trial.run_restored("put back");
}

/// What can be read back is data, even if it is written by appending; a file
/// that is open twice or mapped as well must stay one file.
#[test]
fn files_that_only_look_like_logs() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    for (early, late) in [
        (
            "fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)\nos.write(fd, b'early')",
            "pass",
        ),
        (
            "fd = os.open(path, os.O_WRONLY | os.O_CREAT)
os.write(fd, b'early')
reader = os.open(path, os.O_RDONLY)",
            "os.write(fd, b'late'); assert os.read(reader, 99) == b'earlylate'",
        ),
        (
            "reader = os.open(path, os.O_RDONLY | os.O_CREAT)
fd = os.open(path, os.O_WRONLY)
os.write(fd, b'early')",
            "os.write(fd, b'late'); assert os.read(reader, 99) == b'earlylate'",
        ),
        (
            "import mmap
fd = os.open(path, os.O_WRONLY | os.O_CREAT)
os.write(fd, b'early')
reader = os.open(path, os.O_RDONLY)
seen = mmap.mmap(reader, 0, prot=mmap.PROT_READ)
os.close(reader)
reader = seen.close
view = seen[:]",
            "os.lseek(fd, 0, 0); os.write(fd, b'late!'); assert seen[:] == b'late!'",
        ),
        (
            "fd = os.open(path, os.O_WRONLY | os.O_CREAT)
other = os.open(path, os.O_WRONLY)
os.write(fd, b'early')",
            "os.write(other, b'EA'); os.write(fd, b'late')",
        ),
    ] {
        let trial = captured(&format!("{OPEN}{early}"), late);
        trial.run_restored(early);
        let log = trial.path("dir/log.log");
        fs::write(&log, "something else").unwrap();
        trial.run().check_cold(early, "changed");
        assert_eq!(fs::read_to_string(&log).unwrap(), "something else");
    }
}

/// A journal that every run goes on with looked like a log that is truncated:
/// a restore put back what it held at the capture, and lost the rest.
#[test]
fn a_journal_that_was_there_before() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "fd = os.open(path, os.O_WRONLY | os.O_CREAT)
os.lseek(fd, 0, os.SEEK_END)
os.write(fd, b'run\\n')";
    let late = "if 'fd' in globals():\n    os.write(fd, b'end\\n')";
    let trial = Trial::python(&format!("{OPEN}{early}"), late);
    fs::create_dir(trial.path("dir")).unwrap();
    let journal = trial.path("dir/log.log");
    fs::write(&journal, "before\n").unwrap();
    trial.capture().unwrap();
    fs::write(&journal, "before\nrun\nend\nof another\n").unwrap();
    trial.run().check_cold("a journal", "changed");
    let text = fs::read_to_string(&journal).unwrap();
    assert!(text.starts_with("before\nrun\nend\nof another\n"), "{text}");
}

/// A restored program would answer for the input of the run that was captured.
#[test]
fn input_that_was_read_already() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = Trial::python("import sys; sys.stdin.readline()", "pass");
    let input = trial.path("input");
    fs::write(&input, "alpha\nbeta\n").unwrap();
    let mut command = trial.command(&[]);
    let mut child = command.stdin(File::open(&input).unwrap()).spawn().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let refused = |status: serde_json::Value| {
        status["reason"].as_str().is_some_and(|reason| reason.contains("standard input"))
    };
    while !trial.status().is_some_and(refused) && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = trial.status().unwrap();
    trial.open_gate();
    child.wait().unwrap();
    assert!(refused(status.clone()), "{status}");
}

/// A store into a shared mapping changes no time of a page that is dirty
/// already: the capture makes them clean.
#[test]
fn a_file_that_is_written_through_a_mapping() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "import mmap
fd = os.open(os.path.join(home, 'dir', 'data'), os.O_RDWR)
memory = mmap.mmap(fd, 10)
os.close(fd)
memory[0:1] = b'a'
# Younger files are read whatever their times say.
time.sleep(2.2)";
    let late = "assert memory[:] == b'a123456789'
if os.path.exists(os.path.join(home, 'write')): memory[1:2] = b'b'";
    let trial = captured(early, late);
    let data = trial.path("dir/data");
    trial.run_restored("unchanged");
    fs::write(trial.path("write"), "").unwrap();
    trial.run_restored("it writes");
    assert_eq!(fs::read_to_string(&data).unwrap(), "ab23456789");
    trial.run().check_cold("changed through the mapping", "changed");
    // The captured program itself stores into a page that was dirty already.
    fs::write(&data, "0123456789").unwrap();
    fs::remove_file(trial.path("write")).unwrap();
    let waiting = trial.start(&["--refresh"]);
    assert_eq!(trial.status().unwrap()["outcome"], "captured", "{:?}", trial.status());
    fs::write(trial.path("write"), "").unwrap();
    let (code, said, errors) = waiting.finish();
    assert_eq!((code, said.as_str()), (Some(trial::STATUS), trial::ANSWER), "{errors}");
    assert_eq!(fs::read_to_string(&data).unwrap(), "ab23456789");
    trial.run().check_cold("changed by the captured run", "changed");
}

/// A change that a program makes in the first moment after the freeze is not
/// taken for what the image was made from, though the clock of file times may
/// not have ticked since.
#[test]
fn a_change_right_after_the_freeze() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "fd = os.open(os.path.join(home, 'dir', 'data'), os.O_RDWR)
written = False
import threading
def work():
    global written
    last = time.monotonic()
    while not os.path.exists(gate):
        now = time.monotonic()
        if now - last > 0.002 and os.path.exists(os.path.join(home, 'ready')):
            os.pwrite(fd, b'W', 0); written = True; break
        last = now
threading.Thread(target=work, daemon=True).start()";
    let late = "first = os.pread(fd, 1, 0)
if (first == b'W') != written: sys.exit(9)";
    let late = late.replace('\n', "\n    ");
    for round in 0..trial::repeat(5) {
        let trial = Trial::python(early, &format!("if 'fd' in globals():\n    {late}"));
        fs::create_dir(trial.path("dir")).unwrap();
        fs::write(trial.path("dir/data"), "0123456789").unwrap();
        let refusal = trial.capture().err();
        let changed = refusal.as_ref().is_none_or(|reason| reason.contains("changed"));
        assert!(changed, "{refusal:?}");
        trial.run().check(&format!("round {round}, {refusal:?}"));
    }
}

#[test]
fn a_file_that_is_read() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "fd = os.open(os.path.join(home, 'dir', 'data'), os.O_RDONLY)
assert os.read(fd, 4) == b'0123'";
    let trial = captured(early, "assert os.read(fd, 4) == b'4567'");
    let data = trial.path("dir/data");
    trial.run_restored("unchanged");
    trial.run_restored("unchanged again");
    fs::write(&data, "01234567 8").unwrap();
    trial.run().check_cold("changed, of the same size", &format!("{} changed", data.display()));
    fs::write(&data, "0123456789").unwrap();
    trial.run_restored("put back");
    fs::rename(&data, trial.path("aside")).unwrap();
    trial.run().check_cold("gone", &format!("{} is missing", data.display()));
}

#[test]
fn a_deleted_file_is_refused_by_name() {
    let early = "fd = os.open(os.path.join(home, 'dir', 'data'), os.O_RDWR)
os.unlink(os.path.join(home, 'dir', 'data'))";
    let trial = Trial::python(early, "os.pwrite(fd, b'x', 0)");
    fs::create_dir(trial.path("dir")).unwrap();
    fs::write(trial.path("dir/data"), "0123456789").unwrap();
    let waiting = trial.start(&[]);
    let reason = trial.status().unwrap()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("fd 3 is a deleted"), "{reason}");
    assert!(reason.contains("dir/data"), "{reason}");
    let (code, said, errors) = waiting.finish();
    assert_eq!((code, said.as_str()), (Some(trial::STATUS), trial::ANSWER), "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn performance_data_is_there_again() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let jdks = support::jdks();
    if jdks.is_empty() {
        skip!("there is no JDK");
    }
    for jdk in jdks {
        let Some(trial) = Trial::java(&jdk, "", "", "") else { skip!("there is no javac") };
        trial.capture().unwrap();
        let waiting = trial.start(&[]);
        let status = trial.status().unwrap();
        assert_eq!(status["outcome"], "restored", "{status}");
        let pid = status["app_pid"].to_string();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        let path = format!("/tmp/hsperfdata_{}/{pid}", user.name);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.len()), (0o600, 32768), "{path}");
        let content = fs::read(&path).unwrap();
        assert!(content.windows(11).any(|part| part == b"java.rt.vmN" || part == b"sun.rt.java"));
        for (tool, args, words) in [
            ("jps", &["-l"][..], format!("{pid} Answer")),
            ("jcmd", &[pid.as_str(), "VM.version"], format!("{}.", jdk.release)),
            ("jcmd", &[pid.as_str(), "Thread.print"], "Answer.main".to_owned()),
        ] {
            let program = jdk.home.join("bin").join(tool);
            if !program.exists() {
                eprintln!("SKIP: {} is not there", program.display());
                continue;
            }
            let output = Command::new(program).args(args).output().unwrap();
            let said = support::stdout(&output);
            assert!(said.contains(&words), "{tool} {args:?}: {said} {}", support::stderr(&output));
        }
        let (code, said, errors) = waiting.finish();
        let right = (Some(trial::STATUS), trial::ANSWER, "");
        assert_eq!((code, said.as_str(), errors.as_str()), right, "JDK {}", jdk.release);
        assert!(!fs::exists(&path).unwrap(), "{path} is left");
    }
}

#[test]
fn output_that_the_program_redirected() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let trial = captured_java(
        "static PrintStream out;",
        "out = System.out; System.setOut(new PrintStream(new FileOutputStream(dir.resolve(\"out\").toFile()), true)); System.out.println(\"early\");",
        "if (out != null) { System.out.println(\"late\"); System.setOut(out); }",
    );
    let Some(trial) = trial else { skip!("there is no JDK with javac") };
    trial.run_restored("System.setOut");
    assert_eq!(fs::read_to_string(trial.path("out")).unwrap(), "early\nlate\n");
    // The descriptor itself is another file: then it is not the caller's.
    let early = "fd = os.open(os.path.join(home, 'out'), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(fd, 1)
os.close(fd)
print('early', flush=True)";
    let trial = captured(early, "pass");
    let ended = trial.run();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(trial::STATUS), ""), "{ended:?}");
    assert!(ended.restored(), "{ended:?}");
    let written = fs::read_to_string(trial.path("out")).unwrap();
    assert_eq!(written, format!("early\n{}", trial::ANSWER));
}

/// Whether somebody holds a POSIX lock on the file.
fn is_locked(path: &std::path::Path) -> bool {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).unwrap();
    lock.l_type != libc::F_UNLCK as i16
}

fn whole_file() -> libc::flock {
    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 }
}

#[test]
fn locks_are_held_again() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    for open in [
        "new RandomAccessFile(dir.resolve(\"app.lock\").toFile(), \"rw\").getChannel()",
        "new FileOutputStream(dir.resolve(\"app.lock\").toFile()).getChannel()",
    ] {
        let early = format!("lock = {open}.tryLock(); if (lock == null) System.exit(9);");
        let trial = captured_java("static FileLock lock;", &early, "");
        let Some(trial) = trial else { skip!("there is no JDK with javac") };
        let path = trial.path("app.lock");
        assert!(!is_locked(&path), "the captured run is gone");
        let waiting = trial.start(&[]);
        assert_eq!(trial.status().unwrap()["outcome"], "restored", "{:?}", trial.status());
        assert!(is_locked(&path), "{open}");
        waiting.finish();
        assert!(!is_locked(&path), "{open}");
        // Held by somebody else: cold, and it is still the same file.
        let inode = fs::metadata(&path).unwrap().ino();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        fcntl(&file, FcntlArg::F_SETLK(&whole_file())).unwrap();
        trial.run().check_cold("held by somebody else", "");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "{open}");
        drop(file);
        trial.run_restored("free again");
        // Others write into it, or it is gone.
        fs::write(&path, "pid 1").unwrap();
        trial.run().check_cold("written to by somebody else", "");
        assert_eq!(fs::read_to_string(&path).unwrap(), "pid 1");
    }
}

/// An empty lock file is made again: programs remove theirs when they end.
#[test]
fn a_lock_file_that_was_removed() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "import fcntl
fd = os.open(os.path.join(home, 'app.lck'), os.O_WRONLY | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let late = "other = os.open(os.path.join(home, 'app.lck'), os.O_RDONLY)
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB); sys.exit(9)
except OSError: pass
os.unlink(os.path.join(home, 'app.lck'))";
    let trial = captured(early, late);
    for round in 0..3 {
        trial.run_restored(&format!("round {round}"));
        assert!(!trial.path("app.lck").exists());
    }
}

/// Many megabytes of a stream are carried along; more are refused by name.
#[test]
fn a_long_stream() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let open = "fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n";
    // Zeros at its end are not stored, but there.
    for zeros in [0, 100_000] {
        let write = format!("os.write(fd, b'0123456789abcdef' * 65536 * 3 + bytes({zeros}))");
        let early = format!("{OPEN}{open}{write}");
        let trial = captured(&early, "os.write(fd, b'late')");
        fs::remove_file(trial.path("dir/log.log")).unwrap();
        trial.run_restored("3 MiB");
        let log = fs::read(trial.path("dir/log.log")).unwrap();
        assert_eq!(log.len(), (3 << 20) + zeros + 4);
        assert_eq!(log[(3 << 20) - 16..][..16], *b"0123456789abcdef");
        assert!(log[3 << 20..][..zeros].iter().all(|byte| *byte == 0));
        assert_eq!(log[(3 << 20) + zeros..], *b"late");
    }
    let early = format!("{OPEN}{open}os.truncate(fd, 17 << 20); os.lseek(fd, 0, 2)");
    let trial = Trial::python(&early, "pass");
    fs::create_dir(trial.path("dir")).unwrap();
    let refusal = trial.capture().unwrap_err();
    assert!(refusal.contains("17 MiB") && refusal.contains("log.log"), "{refusal}");
}

/// Permissions that were set for the file alone come back with it.
#[test]
fn a_stream_keeps_its_permissions() {
    if let Err(missing) = trial::can_restore() {
        skip!("{missing}");
    }
    let early = "fd = os.open(path, os.O_WRONLY | os.O_CREAT)\nos.fchmod(fd, 0o606)";
    let trial = captured(&format!("{OPEN}{early}"), "os.write(fd, b'late')");
    trial.run_restored("once");
    let log = trial.path("dir/log.log");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o606);
    assert_eq!(fs::read_to_string(&log).unwrap(), "late");
}
