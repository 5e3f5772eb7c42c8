//! What a Java virtual machine reads before and while it starts.
//!
//! Everything here is about names and formats: which files belong to a JDK,
//! which of the launcher's options name files, what a jar's manifest refers
//! to. Digests and the decision what counts are [`crate::fingerprint`]'s.

pub mod agent;
pub mod manifest;
pub mod options;
mod words;
mod zip;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Where a JVM is recognised, below the directory that its `bin` is in: since
/// 9, and 8 as a JRE or JDK.
const MARKS: [&str; 5] = [
    "lib/server/libjvm.so",
    "lib/modules",
    "lib/client/libjvm.so",
    "lib/amd64/server/libjvm.so",
    "jre/lib/amd64/server/libjvm.so",
];

/// What of a JVM decides how a program starts. Its other libraries are mapped
/// at the capture, and so are an entry's dependencies.
const FILES: [&str; 13] = [
    "release",
    "lib/jvm.cfg",
    "lib/libjli.so",
    "lib/libjava.so",
    "lib/server/libjvm.so",
    "lib/server/classes.jsa",
    "lib/modules",
    "lib/tzdb.dat",
    "lib/security/cacerts",
    "lib/security/default.policy",
    "conf/security/java.security",
    "conf/net.properties",
    "conf/logging.properties",
];

/// The same of a JVM up to version 8, where `lib` may be `jre/lib`.
const FILES_8: [&str; 8] = [
    "rt.jar",
    "amd64/server/libjvm.so",
    "amd64/jvm.cfg",
    "amd64/server/classes.jsa",
    "security/java.security",
    "security/cacerts",
    "net.properties",
    "tzdb.dat",
];

/// Splits a line of arguments into words: at white space, unless quoted by `'`
/// or `"`.
pub fn words_of(line: &OsStr) -> Vec<OsString> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    words::of_variable(line.as_bytes()).into_iter().map(OsString::from_vec).collect()
}

/// A JVM's directory, and which of its tools was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    tool: Tool,
}

/// A program in a JVM's `bin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `java`: its arguments are the launcher's options, then a program.
    Java,
    /// Any other (`javac`, `jshell`): the launcher's options have `-J` before
    /// them.
    Other,
}

impl Home {
    /// Recognises a JVM by the real path of the program, `HOME/bin/java`.
    pub fn of(program: &Path) -> Option<Self> {
        let bin = program.parent()?;
        if bin.file_name() != Some(OsStr::new("bin")) {
            return None;
        }
        let mut root = bin.parent()?;
        if !MARKS.iter().any(|mark| root.join(mark).exists()) {
            return None;
        }
        if root.ends_with("jre") {
            root = root.parent().filter(|jdk| jdk.join("jre/lib").is_dir()).unwrap_or(root);
        }
        let is_java = program.file_name() == Some(OsStr::new("java"));
        let tool = if is_java { Tool::Java } else { Tool::Other };
        Some(Self { root: root.to_owned(), tool })
    }

    /// Returns the tool that was started.
    pub fn tool(&self) -> Tool {
        self.tool
    }

    /// Returns the files of the JVM itself that count; some are missing.
    pub fn files(&self) -> Vec<PathBuf> {
        let below = |dir: &Path, names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| dir.join(name)).collect()
        };
        let (jre, own) = (self.root.join("jre/lib"), self.root.join("lib"));
        if jre.is_dir() {
            below(&jre, &FILES_8)
        } else if own.join("amd64").is_dir() {
            below(&own, &FILES_8)
        } else {
            below(&self.root, &FILES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_jvm_is_recognised_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let java = dir.path().join("bin/java");
        assert_eq!(Home::of(&java), None);
        fs::create_dir_all(dir.path().join("lib/server")).unwrap();
        fs::write(dir.path().join("lib/server/libjvm.so"), "").unwrap();
        let home = Home::of(&java).unwrap();
        assert_eq!(home.tool(), Tool::Java);
        assert!(home.files().into_iter().any(|file| file == dir.path().join("release")));
        assert_eq!(Home::of(&dir.path().join("bin/javac")).unwrap().tool(), Tool::Other);
        fs::create_dir_all(dir.path().join("jre/lib/amd64/server")).unwrap();
        let home = Home::of(&dir.path().join("jre/bin/java"));
        assert_eq!(home, None);
        fs::write(dir.path().join("jre/lib/amd64/server/libjvm.so"), "").unwrap();
        let home = Home::of(&dir.path().join("jre/bin/java")).unwrap();
        assert!(home.files().contains(&dir.path().join("jre/lib/rt.jar")));
        assert_eq!(Home::of(&dir.path().join("sbin/java")), None);
        assert_eq!(Home::of(Path::new("java")), None);
        assert_eq!(Home::of(Path::new("/")), None);
    }
}
