use super::*;
use std::fs;
use std::path::Path;

struct Place {
    dir: tempfile::TempDir,
    command: Command,
    scope: Scope,
    host: Host,
}

impl Place {
    /// A directory to work in, and `/bin/sh script` to fingerprint.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let command = Command {
            argv: ["/bin/sh", "script", "word"].map(OsString::from).into(),
            env: ["PATH=/usr/bin:/bin", "FOO=1", "SHLVL=1"].map(OsString::from).into(),
            cwd: dir.path().to_owned(),
        };
        let place = Self { dir, command, scope: Scope::default(), host: Host::current() };
        place.write("script", "echo hi");
        place
    }
    fn write(&self, name: &str, content: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fn fingerprint(&self) -> Fingerprint {
        of(&self.command, &self.scope, &self.host, &mut DigestMemory::empty()).unwrap()
    }
    /// The changes since `old`, without this place's path.
    fn changes(&self, old: &Fingerprint) -> Vec<String> {
        let new = self.fingerprint();
        let changes = explain(&old.inputs, &new.inputs);
        assert_eq!(changes.is_empty(), old.id == new.id);
        let dir = self.dir.path().display().to_string();
        changes.iter().map(|change| change.to_string().replace(&dir, "DIR")).collect()
    }
}

#[test]
fn the_same_command_has_the_same_fingerprint() {
    let place = Place::new();
    let first = place.fingerprint();
    assert_eq!(place.fingerprint(), first);
    let labels: std::collections::HashSet<_> =
        first.inputs.iter().map(|input| &input.label).collect();
    assert_eq!(labels.len(), first.inputs.len(), "labels are unique");
    let text = first.id.to_string();
    assert_eq!(text.len(), 32);
    assert_eq!(text.parse::<EntryId>().unwrap(), first.id);
    for bad in ["", "xyz", &text[1..], &text.to_uppercase().replace(char::is_numeric, "G")] {
        assert!(bad.parse::<EntryId>().is_err());
    }
}

#[test]
fn each_change_of_the_command_is_named() {
    let mut place = Place::new();
    let first = place.fingerprint();
    place.command.env[2] = "SHLVL=7".into();
    assert!(place.changes(&first).is_empty());

    place.command.argv[2] = "other".into();
    assert_eq!(place.changes(&first), ["argument 2 changed from `word` to `other`"]);
    place.command.argv[2] = "word".into();
    place.command.argv.push("".into());
    assert_eq!(place.changes(&first), ["argument 3 added: ``"]);
    place.command.argv.pop();

    place.command.env[1] = "FOO=2".into();
    assert_eq!(place.changes(&first), ["environment variable FOO changed"]);
    place.command.env[1] = "FOO".into();
    assert_eq!(place.changes(&first), ["environment variable FOO changed"]);
    place.scope.ignore_env.push("FOO".into());
    assert_eq!(place.changes(&first), ["environment variable FOO removed"]);
    place.scope.ignore_env.clear();
    place.command.env[1] = "FOO=1".into();

    place.scope.settings.push(("--at".into(), "ready".into()));
    assert_eq!(place.changes(&first), ["option --at added"]);
    place.scope.settings.clear();
    place.command.cwd = place.command.cwd.join(".");
    assert!(!place.changes(&first).is_empty());
}

#[test]
fn each_change_of_a_file_is_named() {
    let mut place = Place::new();
    let first = place.fingerprint();
    place.write("script", "echo ho");
    assert_eq!(place.changes(&first), ["file DIR/script changed"]);
    place.write("script", "echo hi");
    assert!(place.changes(&first).is_empty(), "content counts, not time");
    fs::remove_file(place.dir.path().join("script")).unwrap();
    assert_eq!(place.changes(&first), ["file DIR/script removed"]);

    place.scope.inputs = vec!["data".into(), "missing".into()];
    place.write("data/deep/file", "1");
    let first = place.fingerprint();
    place.write("data/deep/file", "2");
    assert_eq!(place.changes(&first), ["input DIR/data changed"]);
    place.write("data/deep/file", "1");
    place.write("missing", "");
    assert_eq!(place.changes(&first), ["input DIR/missing changed"]);
}

#[test]
fn files_that_the_environment_names_count_by_content() {
    let mut place = Place::new();
    let path = |name: &str| place.dir.path().join(name).display().to_string();
    place.command.env.extend(
        [
            format!("APP_CONFIG={}", path("app.cfg")),
            format!("OPTS=-v -Dconf={} -Xlog:{}", path("opts.cfg"), path("x.txt")),
            format!("LOCATIONS=file:{},file:{}", path("one.yml"), path("two.yml")),
            format!("SHELL={}", path("shell")),
            format!("SEARCH={}:{}", path("shell"), path("x.txt")),
            format!("LOG={}", path("server.log")),
            "RELATIVE=relative".to_owned(),
        ]
        .map(OsString::from),
    );
    let counted = ["app.cfg", "opts.cfg", "one.yml", "two.yml"];
    let ignored = ["shell", "x.txt", "server.log", "relative"];
    for name in counted.iter().chain(&ignored) {
        place.write(name, "1");
    }
    let first = place.fingerprint();
    for name in counted {
        place.write(name, "2");
        assert_eq!(place.changes(&first), [format!("file DIR/{name} changed")]);
        place.write(name, "1");
    }
    for name in ignored {
        place.write(name, "2");
        assert!(place.changes(&first).is_empty(), "{name}");
    }
    place.scope.ignore_env.push("APP_CONFIG".into());
    let first = place.fingerprint();
    place.write("app.cfg", "2");
    assert!(place.changes(&first).is_empty());
    let large = fs::File::create(place.dir.path().join("opts.cfg")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    assert_eq!(place.changes(&first), ["file DIR/opts.cfg removed"]);
}

#[test]
fn small_directories_that_arguments_name_count() {
    let mut place = Place::new();
    for name in ["conf/deep/app.cfg", "other/app.cfg", "data/x", "store/x"] {
        place.write(name, "1");
    }
    place.command.argv.extend(
        ["--conf-dir", "conf/", "--etc=other", "--home", "data", "--work-dir", "store", "."]
            .map(OsString::from),
    );
    let first = place.fingerprint();
    for (name, changed) in [("conf/deep/app.cfg", "conf"), ("other/app.cfg", "other")] {
        place.write(name, "2");
        assert_eq!(place.changes(&first), [format!("directory DIR/{changed} changed")]);
        place.write(name, "1");
    }
    // What the program writes, or works in.
    for name in ["conf/server.log", "data/x", "store/x", "anything"] {
        place.write(name, "2");
        assert!(place.changes(&first).is_empty(), "{name}");
    }
    for number in 0..=256 {
        place.write(&format!("conf/{number}"), "");
    }
    assert_eq!(place.changes(&first), ["directory DIR/conf removed"]);
    let large = fs::File::create(place.dir.path().join("other/large")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    assert_eq!(place.changes(&first).len(), 2);
}

#[test]
fn each_change_of_the_host_is_named() {
    let place = Place::new();
    let first = place.fingerprint();
    let changed = |change: &dyn Fn(&mut Host)| {
        let mut host = place.host.clone();
        change(&mut host);
        let new = of(&place.command, &place.scope, &host, &mut DigestMemory::empty()).unwrap();
        assert_ne!(new.id, first.id);
        let changes = explain(&first.inputs, &new.inputs);
        changes.iter().map(|change| change.label().to_owned()).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(changed(&|host| host.uids[0] += 1), "user ids");
    assert_eq!(changed(&|host| host.groups.push(77777)), "supplementary groups");
    assert_eq!(changed(&|host| host.kernel.push('x')), "kernel");
    assert_eq!(changed(&|host| host.vdso = Digest::of(b"other")), "vDSO");
    assert_eq!(changed(&|host| host.cpu.features[0] ^= 1), "CPU features");
    assert_eq!(changed(&|host| host.limits[3].1 -= 1), "limit of open files");
    assert_eq!(changed(&|host| host.affinity.push(4000)), "CPU affinity");
    assert_eq!(changed(&|host| host.cgroup.memory = Some(1)), "memory limit of the control group");
    assert_eq!(changed(&|host| host.umask ^= 0o700), "umask");
    assert_eq!(changed(&|host| host.hostname.push('x')), "host name");
    assert_eq!(changed(&|host| host.streams[0] = Stream::Closed), "standard input");
    let mut scope = place.scope.clone();
    scope.ignore_env = vec!["HOSTNAME".into()];
    let mut host = place.host.clone();
    let one = of(&place.command, &scope, &host, &mut DigestMemory::empty()).unwrap();
    host.hostname.push('x');
    host.boot_id.push('x');
    let two = of(&place.command, &scope, &host, &mut DigestMemory::empty()).unwrap();
    assert_eq!(one.id, two.id);
}

#[test]
fn streams_of_a_jvm_are_terminals_or_not() {
    let fake = tempfile::tempdir().unwrap();
    let java = fake.path().join("bin/java");
    fs::create_dir_all(fake.path().join("lib/server")).unwrap();
    fs::create_dir_all(fake.path().join("bin")).unwrap();
    fs::copy("/bin/sh", &java).unwrap();
    for file in ["release", "lib/modules", "lib/server/libjvm.so"] {
        fs::write(fake.path().join(file), file).unwrap();
    }
    let mut place = Place::new();
    place.host.streams = [Stream::Pipe; 3];
    let with_file = |place: &Place| {
        let mut host = place.host.clone();
        host.streams = [Stream::File; 3];
        of(&place.command, &place.scope, &host, &mut DigestMemory::empty()).unwrap().id
    };
    assert_ne!(place.fingerprint().id, with_file(&place));
    place.command.argv = vec![java.clone().into(), "-cp".into(), "x".into(), "Main".into()];
    let first = place.fingerprint();
    assert_eq!(first.id, with_file(&place));

    fs::write(fake.path().join("release"), "other").unwrap();
    let changes = place.changes(&first);
    assert_eq!(changes, [format!("JVM file {}/release changed", fake.path().display())]);
    fs::write(fake.path().join("release"), "release").unwrap();
    place.write("x/Main.class", "1");
    // A directory now, where nothing was.
    assert_eq!(place.changes(&first), ["class directory DIR/x added", "jar DIR/x removed"]);
    let first = place.fingerprint();
    place.write("x/Main.class", "2");
    assert_eq!(place.changes(&first), ["class directory DIR/x changed"]);

    // The default class path, with output beside the classes.
    place.command.argv = vec![java.into(), "Main".into()];
    place.write("Main.class", "1");
    let first = place.fingerprint();
    place.write("out.txt", "output");
    assert!(place.changes(&first).is_empty());
    place.write("Main.class", "2");
    assert_eq!(place.changes(&first), ["class directory DIR changed"]);
}

#[test]
fn programs_that_cannot_start_have_no_fingerprint() {
    let mut place = Place::new();
    place.command.argv = vec!["nonexistent-program".into()];
    let mut digests = DigestMemory::empty();
    let error = of(&place.command, &place.scope, &place.host, &mut digests).unwrap_err();
    assert!(matches!(error, FingerprintError::NotFound(_)));
    assert_eq!(error.to_string(), "nonexistent-program: not found");
    place.command.argv = vec!["./script".into()];
    let error = of(&place.command, &place.scope, &place.host, &mut digests).unwrap_err();
    assert!(matches!(error, FingerprintError::NotExecutable { .. }));
    place.command.argv = Vec::new();
    assert!(of(&place.command, &place.scope, &place.host, &mut digests).is_err());
}

#[test]
fn scripts_count_with_their_interpreters() {
    let mut place = Place::new();
    place.write("run", "#!/bin/sh\necho hi\n");
    let path = place.dir.path().join("run");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    place.command.argv = vec![path.into()];
    let first = place.fingerprint();
    assert!(first.inputs.iter().any(|input| {
        input.label.starts_with("program /") && Path::new(&input.label[8..]).exists()
    }));
    place.write("run", "#!/bin/sh\necho ho\n");
    assert_eq!(place.changes(&first), ["script DIR/run changed"]);
}
