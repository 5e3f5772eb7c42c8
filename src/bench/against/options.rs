//! Which options make an archive of a command, and which use it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::command::Command;
use crate::fingerprint::program_of;
use crate::jvm::{Home, Tool};

/// What else starts a program faster: what a JDK has itself, or CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alternative {
    /// The classes of an earlier run, in a dynamic CDS archive: JDK 13 and
    /// later (JEP 350).
    AppCds,
    /// Classes, loaded and linked, and profiles of an earlier run: JDK 24 and
    /// later (JEP 483, 514, 515).
    AotCache,
    /// The engine `criu` (`--engine criu`), with an image of its own.
    Criu,
}

impl Alternative {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AotCache, Self::AppCds, Self::Criu];

    /// Returns its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::AppCds => "appcds",
            Self::AotCache => "aot-cache",
            Self::Criu => "criu",
        }
    }

    /// Returns the first release of the JDK that has it; `None` if it is none of
    /// the JDK's.
    fn since(self) -> Option<u32> {
        match self {
            Self::AppCds => Some(13),
            Self::AotCache => Some(24),
            Self::Criu => None,
        }
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Alternative {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let known = Self::ALL.into_iter().find(|alternative| alternative.name() == text);
        known.ok_or_else(|| format!("`{text}` is none of {names}"))
    }
}

/// A command to carry out while an archive is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Runs the program: it has got there at the mark, and is ended then.
    Run(Command),
    /// Does not run the program, and ends by itself.
    Assemble(Command),
}

/// How an archive is made, tried and used.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What the log of loaded classes calls the archive.
    pub(super) source: &'static str,
    java: Java,
    usage: OsString,
    insist: &'static str,
}

impl Plan {
    /// Makes the plan for a command; an error says why there is none.
    pub(super) fn of(
        alternative: Alternative,
        command: &Command,
        archive: &Path,
        record: &Path,
    ) -> Result<Self, String> {
        let java = Java::of(command)?;
        let name = alternative.name();
        let since = alternative.since().ok_or_else(|| format!("{name} makes no archive"))?;
        match java.release {
            None => return Err(format!("{name} needs JDK {since}; the release is not known here")),
            Some(release) if release < since => {
                return Err(format!("{name} needs JDK {since} or later, this is JDK {release}"));
            }
            Some(_) => {}
        }
        let at = |option: &str, path: &Path| join(option, path.as_os_str());
        Ok(match alternative {
            Alternative::AppCds => Self {
                steps: vec![Step::Run(java.with(&[at("-XX:ArchiveClassesAtExit=", archive)]))],
                source: "shared objects file (top)",
                usage: at("-XX:SharedArchiveFile=", archive),
                insist: "-Xshare:on",
                java,
            },
            Alternative::Criu => return Err(format!("{name} makes no archive")),
            Alternative::AotCache => Self {
                steps: if java.release == Some(24) {
                    let record = at("-XX:AOTConfiguration=", record);
                    let (mode, cache) = ("-XX:AOTMode=", at("-XX:AOTCache=", archive));
                    let recording = [join(mode, "record"), record.clone()];
                    let creating = [join(mode, "create"), record, cache];
                    vec![Step::Run(java.with(&recording)), Step::Assemble(java.with(&creating))]
                } else {
                    vec![Step::Run(java.with(&[at("-XX:AOTCacheOutput=", archive)]))]
                },
                source: "shared objects file",
                usage: at("-XX:AOTCache=", archive),
                insist: "-XX:AOTMode=on",
                java,
            },
        })
    }

    /// Returns the command that uses the archive.
    pub(super) fn usage(&self) -> Command {
        self.java.with(std::slice::from_ref(&self.usage))
    }

    /// Returns the command that uses the archive or fails, and writes a log of
    /// the classes that it loads.
    pub(super) fn trial(&self, log: &Path) -> Command {
        // Quotes, as a path may have a colon; no decorations; one file.
        let mut classes = join("-Xlog:class+load:file=\"", log.as_os_str());
        classes.push("\":none:filecount=0");
        self.java.with(&[self.usage.clone(), self.insist.into(), classes])
    }
}

/// The launcher of a JDK in a command line.
#[derive(Debug, Clone)]
struct Java {
    command: Command,
    tool: Tool,
    /// Where its own arguments begin.
    at: usize,
    release: Option<u32>,
}

impl Java {
    /// Finds it: the program itself, or what `env` starts.
    fn of(command: &Command) -> Result<Self, String> {
        let name = || command.name().to_string_lossy();
        let (real, argv) = program_of(command).map_err(|error| error.to_string())?;
        let Some(home) = Home::of(&real) else {
            return Err(format!("{} is not a launcher of a JDK", name()));
        };
        // A script of java's (`#!`) has its first line's words before ours.
        let own = argv.get(1..).unwrap_or_default();
        let at = command.argv.len().saturating_sub(own.len());
        if at == 0 || !command.argv.ends_with(own) {
            return Err(format!("{} is a script", name()));
        }
        Ok(Self { at, tool: home.tool(), release: release(&home), command: command.clone() })
    }

    /// Returns the command with options of the JVM before its own arguments.
    fn with(&self, options: &[OsString]) -> Command {
        let options = options.iter().map(|option| match self.tool {
            Tool::Java => option.clone(),
            Tool::Other => join("-J", option),
        });
        let mut command = self.command.clone();
        command.argv.splice(self.at..self.at, options);
        command
    }
}

fn join(start: &str, end: impl AsRef<OsStr>) -> OsString {
    let mut joined = OsString::from(start);
    joined.push(end);
    joined
}

/// Reads the feature release of a JVM: 17.
fn release(home: &Home) -> Option<u32> {
    let file = home.files().into_iter().find(|path| path.ends_with("release"))?;
    feature(&std::fs::read_to_string(file).ok()?)
}

/// Reads it from the text of a `release` file: `JAVA_VERSION="17.0.15"`, and
/// `"1.8.0_482"` up to version 8.
fn feature(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    let version = version.trim_matches('"');
    version.strip_prefix("1.").unwrap_or(version).split(['.', '_', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A JDK as far as it is looked at, with `java` and `javac`.
    fn jdk(version: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::create_dir_all(dir.path().join("lib/server")).unwrap();
        fs::write(dir.path().join("lib/server/libjvm.so"), "").unwrap();
        fs::write(dir.path().join("release"), format!("A=\"b\"\nJAVA_VERSION=\"{version}\"\n"))
            .unwrap();
        for name in ["java", "javac"] {
            fs::copy("/proc/self/exe", dir.path().join("bin").join(name)).unwrap();
        }
        dir
    }

    fn plan(alternative: Alternative, home: &Path, line: &str) -> Result<Plan, String> {
        let command = Command {
            argv: line.split(' ').map(OsString::from).collect(),
            env: vec![join("PATH=", [home.to_str().unwrap(), "/bin:/usr/bin"].join("/bin:"))],
            cwd: "/".into(),
        };
        Plan::of(alternative, &command, Path::new("/t/a"), Path::new("/t/r"))
    }

    fn words(step: &Command) -> String {
        let words: Vec<_> = step.argv.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn options_stand_right_after_java() {
        let home = jdk("17.0.15");
        let plan = plan(Alternative::AppCds, home.path(), "java -cp x Main -version").unwrap();
        let [Step::Run(command)] = &plan.steps[..] else { panic!("{plan:?}") };
        assert_eq!(words(command), "java -XX:ArchiveClassesAtExit=/t/a -cp x Main -version");
        assert_eq!(words(&plan.usage()), "java -XX:SharedArchiveFile=/t/a -cp x Main -version");
        assert_eq!(
            words(&plan.trial(Path::new("/t/l"))),
            "java -XX:SharedArchiveFile=/t/a -Xshare:on \
             -Xlog:class+load:file=\"/t/l\":none:filecount=0 -cp x Main -version"
        );
    }

    #[test]
    fn other_tools_have_them_behind_j_and_env_is_followed() {
        let home = jdk("25.0.3");
        let found = plan(Alternative::AotCache, home.path(), "env A=1 javac -d o A.java").unwrap();
        assert_eq!(words(&found.usage()), "env A=1 javac -J-XX:AOTCache=/t/a -d o A.java");
        let [Step::Run(command)] = &found.steps[..] else { panic!("{found:?}") };
        assert_eq!(words(command), "env A=1 javac -J-XX:AOTCacheOutput=/t/a -d o A.java");
    }

    #[test]
    fn release_24_takes_two_steps() {
        let home = jdk("24");
        let plan = plan(Alternative::AotCache, home.path(), "java -jar a.jar").unwrap();
        let [Step::Run(first), Step::Assemble(second)] = &plan.steps[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(words(first), "java -XX:AOTMode=record -XX:AOTConfiguration=/t/r -jar a.jar");
        assert_eq!(
            words(second),
            "java -XX:AOTMode=create -XX:AOTConfiguration=/t/r -XX:AOTCache=/t/a -jar a.jar"
        );
    }

    #[test]
    fn what_is_too_old_or_no_java_is_said_so() {
        let why = |alternative, version, line| {
            let home = jdk(version);
            plan(alternative, home.path(), line).unwrap_err()
        };
        let found = why(Alternative::AppCds, "11.0.13", "java X");
        assert_eq!(found, "appcds needs JDK 13 or later, this is JDK 11");
        let found = why(Alternative::AotCache, "17.0.15", "java X");
        assert_eq!(found, "aot-cache needs JDK 24 or later, this is JDK 17");
        let found = why(Alternative::AppCds, "odd", "java X");
        assert_eq!(found, "appcds needs JDK 13; the release is not known here");
        let found = why(Alternative::AppCds, "25", "true X");
        assert_eq!(found, "true is not a launcher of a JDK");
        assert!(why(Alternative::AppCds, "25", "no-such X").contains("no-such"));

        let home = jdk("25");
        let script = home.path().join("bin/tool");
        fs::write(&script, format!("#!{}/bin/java\n", home.path().display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for line in ["tool X", &format!("{} X", script.display())] {
            let found = plan(Alternative::AppCds, home.path(), line).unwrap_err();
            assert!(found.ends_with("tool is a script"), "{found}");
        }
    }

    #[test]
    fn releases_and_names() {
        let of = |version: &str| feature(&format!("JAVA_VERSION=\"{version}\""));
        assert_eq!(of("1.8.0_482"), Some(8));
        assert_eq!(of("26-ea"), Some(26));
        assert_eq!(of("25+36"), Some(25));
        assert_eq!(of(""), None);
        assert_eq!(feature("IMPLEMENTOR=\"x\""), None);
        for alternative in Alternative::ALL {
            assert_eq!(alternative.name().parse(), Ok(alternative));
        }
        let wrong = "cds".parse::<Alternative>().unwrap_err();
        assert_eq!(wrong, "`cds` is none of aot-cache, appcds, criu");
    }
}
