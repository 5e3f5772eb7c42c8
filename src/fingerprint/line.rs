//! A JVM's command line in two parts: what starts it, and what it starts with.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::FingerprintError;
use super::program::Chain;
use crate::command::Command;
use crate::jvm::{Home, Tool, options};

/// Why a command cannot be captured before `main`.
#[derive(Debug, thiserror::Error)]
pub enum NotAtMain {
    /// It starts no JVM itself: a script, or another program.
    #[error("only a JVM that the command itself starts can be captured at main")]
    NoJvm,
    /// It names no program: `java -version`.
    #[error("it names no class, jar or module to start")]
    NoMain,
    /// With this option something of the program, or of its surroundings, is
    /// there before `main`, or the JVM prints.
    #[error("with {} more than a JVM is there before main", .0.display())]
    Option(OsString),
    /// It cannot be started at all.
    #[error(transparent)]
    Program(#[from] FingerprintError),
}

/// The command line of a JVM, taken apart at the program's own arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JvmLine {
    /// The file to execute.
    pub program: PathBuf,
    /// Which of a JDK's programs it is.
    pub tool: Tool,
    /// Whether something that starts it is found from the working directory.
    pub is_relative: bool,
    /// All arguments of the process, as a plain start gives them.
    pub argv: Vec<OsString>,
    /// The arguments of the JVM, its own name first, up to the class, jar or
    /// module that is started.
    pub jvm: Vec<OsString>,
    /// The arguments of the program: all that `main` is called with, but for
    /// those that an argument file holds.
    pub arguments: Vec<OsString>,
}

impl JvmLine {
    /// Takes a command apart.
    ///
    /// # Errors
    /// Why it cannot be captured at main, as far as the command tells.
    pub fn of(command: &Command) -> Result<Self, NotAtMain> {
        let chain = Chain::resolve(command)?;
        let last = chain.last();
        // `env` may change the environment; a script of a shell does more. One
        // that names `java` in its first line does neither.
        let others = chain.programs.split_last().map_or(&[][..], |(_, others)| others);
        if others.iter().any(|other| !other.is_script()) {
            return Err(NotAtMain::NoJvm);
        }
        let home = Home::of(&last.real).ok_or(NotAtMain::NoJvm)?;
        let options = options::read(home.tool(), &chain.argv, command);
        let is_relative = options.is_relative();
        if let Some(option) = options.forbids_main {
            return Err(NotAtMain::Option(option));
        }
        let own = options.arguments.ok_or(NotAtMain::NoMain)?;
        let (jvm, arguments) = match home.tool() {
            Tool::Java => {
                let (jvm, own) = chain.argv.split_at(chain.argv.len().saturating_sub(own));
                (jvm.to_vec(), own.to_vec())
            }
            Tool::Other => {
                let mut words = chain.argv.iter().cloned();
                let name = words.next();
                let (jvm, own): (Vec<_>, Vec<_>) =
                    words.partition(|word| word.as_bytes().starts_with(b"-J"));
                (name.into_iter().chain(jvm).collect(), own)
            }
        };
        Ok(Self {
            program: last.path.clone(),
            tool: home.tool(),
            jvm,
            arguments,
            is_relative,
            argv: chain.argv,
        })
    }

    /// Returns what would have been typed to run it with other arguments.
    pub fn typed(&self, whole: &Command, arguments: &[OsString]) -> Vec<OsString> {
        let mut typed = match self.tool {
            Tool::Java => {
                let own = whole.argv.len().saturating_sub(self.arguments.len());
                whole.argv[..own].to_vec()
            }
            Tool::Other => self.jvm.clone(),
        };
        typed.extend_from_slice(arguments);
        typed
    }

    /// Returns the command of which this is the line, without the program's
    /// arguments: what an entry at main is of.
    pub fn command(&self, whole: &Command) -> Command {
        let (env, cwd) = (whole.env.clone(), whole.cwd.clone());
        let mut argv = self.jvm.clone();
        // By its path, a script's interpreter would be looked for in PATH.
        if whole.argv.first() != argv.first()
            && let Some(name) = argv.first_mut()
        {
            *name = self.program.clone().into_os_string();
        }
        Command { argv, env, cwd }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Makes what looks like a JDK.
    fn jdk(dir: &Path) {
        fs::create_dir_all(dir.join("lib/server")).unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::write(dir.join("lib/server/libjvm.so"), "").unwrap();
        for name in ["java", "javac"] {
            fs::copy("/bin/true", dir.join("bin").join(name)).unwrap();
        }
    }

    fn line(words: &[&str], dir: &Path) -> Result<JvmLine, NotAtMain> {
        let path = format!("PATH={}:/usr/bin:/bin", dir.join("bin").display());
        let argv = words.iter().map(OsString::from).collect();
        JvmLine::of(&Command { argv, env: vec![path.into()], cwd: dir.to_owned() })
    }

    #[test]
    fn the_line_is_split_where_the_programs_arguments_begin() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        jdk(&dir);
        let found = line(&["java", "-jar", "x.jar", "-v", "a b"], &dir).unwrap();
        assert_eq!(found.jvm, ["java", "-jar", "x.jar"]);
        assert_eq!(found.arguments, ["-v", "a b"]);
        assert_eq!(found.program, dir.join("bin/java"));
        let found = line(&["javac", "A.java", "-J-Xmx1g", "-d", "x"], &dir).unwrap();
        assert_eq!((found.tool, found.jvm), (Tool::Other, vec!["javac".into(), "-J-Xmx1g".into()]));
        assert_eq!(found.arguments, ["A.java", "-d", "x"]);
        let script = dir.join("tool");
        fs::write(&script, format!("#!{}/bin/java --source 21\n", dir.display())).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let found = line(&["./tool", "x"], &dir).unwrap();
        assert_eq!(found.arguments, ["x"]);
        assert_eq!(found.jvm.len(), 3, "{found:?}");
    }

    #[test]
    fn what_is_no_plain_start_of_a_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        jdk(dir.path());
        let refused = |words: &[&str]| line(words, dir.path()).unwrap_err().to_string();
        assert!(refused(&["true"]).starts_with("only a JVM"));
        assert!(refused(&["env", "X=1", "java", "Main"]).starts_with("only a JVM"));
        assert!(refused(&["java", "-version"]).starts_with("it names no"));
        assert!(refused(&["java", "-agentlib:jdwp=x", "Main"]).contains("-agentlib:jdwp=x"));
    }
}
