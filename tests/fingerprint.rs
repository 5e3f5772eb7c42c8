//! Fingerprints of real programs: a Java virtual machine, if there is one.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use warmstart::command::Command;
use warmstart::fingerprint::{self, DigestMemory, Fingerprint, Host, Scope, explain};

/// Makes a jar, all of it stored, of (name, content).
fn jar(members: &[(&str, &str)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([0; 4]);
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(content.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([members.len() as u8, 0, members.len() as u8, 0]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

struct App {
    dir: tempfile::TempDir,
    command: Command,
    host: Host,
    digests: DigestMemory,
}

impl App {
    /// `java -jar app.jar`, its manifest naming `lib/a.jar`, whose own names
    /// `b.jar`; `None` without a JVM.
    fn new() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        if !std::env::split_paths(&path).any(|dir| dir.join("java").exists()) {
            eprintln!("SKIP: no java in PATH");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut env = OsString::from("PATH=");
        env.push(path);
        let command = Command {
            argv: ["java", "-jar", "app.jar"].map(OsString::from).into(),
            env: vec![env],
            cwd: dir.path().to_owned(),
        };
        let app = Self { dir, command, host: Host::current(), digests: DigestMemory::empty() };
        app.write("app.jar", &jar(&[("META-INF/MANIFEST.MF", "Class-Path: lib/a.jar\n\n")]));
        app.write("lib/a.jar", &jar(&[("META-INF/MANIFEST.MF", "Class-Path: b.jar\n\n")]));
        app.write("lib/b.jar", &jar(&[("x", "1")]));
        Some(app)
    }
    fn write(&self, name: &str, content: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fn fingerprint(&mut self) -> Fingerprint {
        let scope = Scope::default();
        fingerprint::of(&self.command, &scope, &self.host, &mut self.digests).unwrap()
    }
    fn changes(&mut self, old: &Fingerprint) -> Vec<String> {
        let new = self.fingerprint();
        let dir = format!("{}/", self.dir.path().display());
        let changes = explain(&old.inputs, &new.inputs);
        changes.iter().map(|change| change.to_string().replace(&dir, "")).collect()
    }
}

#[test]
fn jars_behind_manifests_count() {
    let Some(mut app) = App::new() else { return };
    let first = app.fingerprint();
    let label = |fingerprint: &Fingerprint, name: &str| {
        fingerprint.inputs.iter().any(|input| input.label.ends_with(name))
    };
    for name in ["/release", "/lib/modules", "/lib/server/libjvm.so", "/lib/b.jar"] {
        assert!(label(&first, name), "{name}");
    }
    app.write("lib/b.jar", &jar(&[("x", "2")]));
    assert_eq!(app.changes(&first), ["jar lib/b.jar changed"]);
    app.write("lib/b.jar", &jar(&[("x", "1")]));
    assert!(app.changes(&first).is_empty());
    fs::remove_file(app.dir.path().join("lib/b.jar")).unwrap();
    assert_eq!(app.changes(&first), ["jar lib/b.jar changed"], "missing now");
    app.write("lib/b.jar", b"no jar at all");
    assert_eq!(app.changes(&first), ["jar lib/b.jar changed"]);
}

#[test]
fn options_and_their_files_count() {
    let Some(mut app) = App::new() else { return };
    app.write("options", b"-Xmx100m");
    app.command.argv.insert(1, "@options".into());
    let first = app.fingerprint();
    app.write("options", b"-Xmx200m");
    assert_eq!(app.changes(&first), ["JVM option file options changed"]);
    app.write("options", b"-Xmx100m");
    app.command.env.push("JAVA_TOOL_OPTIONS=-javaagent:lib/b.jar".into());
    let with_agent = app.fingerprint();
    app.write("lib/b.jar", b"other");
    assert_eq!(app.changes(&with_agent), ["jar lib/b.jar changed"]);
}

#[test]
fn what_was_hashed_once_is_remembered_across_runs() {
    let Some(mut app) = App::new() else { return };
    let file = app.dir.path().join("digests");
    let first = app.fingerprint();
    app.digests.save(&file, &app.dir.path().join("temporary")).unwrap();
    app.digests = DigestMemory::load(&file);
    assert_eq!(app.fingerprint(), first);
    // The JVM is old enough to be remembered, the jars are not.
    assert!(!app.digests.is_changed(), "nothing of it was hashed again");
    let modules = first.inputs.iter().find(|input| input.label.ends_with("lib/modules")).unwrap();
    let path = PathBuf::from(modules.label.trim_start_matches("JVM file "));
    assert!(app.digests.answered(Path::new(&path)).unwrap().settled);
}
