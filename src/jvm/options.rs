//! The options of the `java` launcher that name files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Tool, words};
use crate::command::Command;

/// How large an option file may be, in bytes.
const LEN_FILE_MAX: u64 = 4 << 20;
/// Option files that refer to one another.
const FILES_MAX: usize = 64;

/// Options with their value in the next word.
const WITH_VALUE: [&[u8]; 14] = [
    b"--add-modules",
    b"--limit-modules",
    b"--add-exports",
    b"--add-opens",
    b"--add-reads",
    b"--patch-module",
    b"--describe-module",
    b"-d",
    b"--source",
    b"--enable-native-access",
    b"--illegal-native-access",
    b"--upgrade-module-path",
    b"--module-path",
    b"-p",
];
/// Options for the class path, with their value in the next word.
const CLASS_PATH: [&[u8]; 3] = [b"-cp", b"-classpath", b"--class-path"];
/// `NAME=FILE`: files that the JVM reads.
const FILE_OPTIONS: [&[u8]; 11] = [
    b"-XX:Flags=",
    b"-XX:VMOptionsFile=",
    b"-XX:SharedArchiveFile=",
    b"-XX:SharedClassListFile=",
    b"-XX:AOTCache=",
    b"-XX:AOTConfiguration=",
    b"-XX:CompileCommandFile=",
    b"-XX:CompilerDirectivesFile=",
    b"-XX:SharedArchiveConfigFile=",
    b"-Djava.security.properties=",
    b"-Djava.util.logging.config.file=",
];
/// Options, by how they begin, with which something of the program or of its
/// surroundings is there before `main`, or the JVM prints or does more than to
/// start `main`: other agents, ports, logs, archives written at the end.
const NOT_AT_MAIN: [&[u8]; 24] = [
    b"-agentlib:",
    b"-agentpath:",
    b"-javaagent:",
    b"-Xrun",
    b"-Xdebug",
    b"-Xlog",
    b"-Xloggc",
    b"-verbose",
    b"--verbose",
    b"-showversion",
    b"--show-version",
    b"-Xdiag",
    b"-splash:",
    b"-XX:+Print",
    b"-XX:+Log",
    b"-XX:+TraceClass",
    b"-XX:StartFlightRecording",
    b"-XX:FlightRecorderOptions",
    b"-XX:ArchiveClassesAtExit",
    b"-XX:AOTMode=record",
    b"-XX:AOTMode=create",
    b"-XX:AOTCacheOutput",
    b"-XX:CRaC",
    b"-Dcom.sun.management.",
];
/// Files that a JVM may read in its working directory.
const IN_CWD: [&str; 2] = [".hotspotrc", ".hotspot_compiler"];
/// Configurations that Spring Boot, by far the most common of the frameworks,
/// reads in its working directory.
const CONFIGURATIONS: [&str; 6] = [
    "application.properties",
    "application.yml",
    "application.yaml",
    "config/application.properties",
    "config/application.yml",
    "config/application.yaml",
];

/// What a command line of a JVM refers to. Paths are as they were written:
/// relative ones start from the working directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Jars, directories and wildcards (`dir/*`) of the class path.
    pub class_path: Vec<PathBuf>,
    /// Jars and directories of the module path.
    pub module_path: Vec<PathBuf>,
    /// Jars of Java agents: their manifests count too.
    pub agents: Vec<PathBuf>,
    /// The source file of `java File.java`.
    pub source: Option<PathBuf>,
    /// Any other files, the argument files among them.
    pub files: Vec<PathBuf>,
    /// Files that a program may find in its working directory.
    pub in_cwd: Vec<PathBuf>,
    /// How many words at the end of the line are the program's own, if it
    /// names a program at all.
    pub arguments: Option<usize>,
    /// The first option for which the JVM is not captured before `main`.
    pub forbids_main: Option<OsString>,
}

impl Options {
    /// Tells whether a path depends on the working directory.
    pub fn is_relative(&self) -> bool {
        let Self { class_path, module_path, agents, source, files, .. } = self;
        let mut lists = [class_path, module_path, agents, files].into_iter().flatten();
        lists.any(|path| path.is_relative()) || source.as_ref().is_some_and(|p| p.is_relative())
    }
}

/// Reads a whole file, or nothing if it is too large or not there.
fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LEN_FILE_MAX {
        return None;
    }
    std::fs::read(path).ok()
}

/// Finds out what a JVM's arguments and option variables refer to.
///
/// `argv` are the arguments of the JVM's program itself, its name first. What
/// cannot be understood refers to nothing: the JVM will say what is wrong.
pub fn read(tool: Tool, argv: &[OsString], command: &Command) -> Options {
    let mut reader = Reader { cwd: &command.cwd, options: Options::default(), files: 0 };
    let variable = |name| command.var(name).map(|value| words::of_variable(value.as_bytes()));
    for name in ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"] {
        for word in variable(name).unwrap_or_default() {
            reader.vm_option(&word);
        }
    }
    let own = argv.iter().skip(1).map(|argument| argument.as_bytes().to_vec());
    match tool {
        Tool::Java => {
            let mut line = variable("JDK_JAVA_OPTIONS").unwrap_or_default();
            line.extend(own);
            reader.launcher(line);
            let default = command.var("CLASSPATH").filter(|path| !path.is_empty());
            reader.finish(default.unwrap_or(OsStr::new(".")));
        }
        Tool::Other => {
            let mut arguments = 0;
            for word in own {
                match word.strip_prefix(b"-J") {
                    Some(option) => reader.vm_option(option),
                    None => arguments += 1,
                }
            }
            reader.options.arguments = Some(arguments);
        }
    }
    reader.options
}

struct Reader<'a> {
    cwd: &'a Path,
    options: Options,
    files: usize,
}

/// What the launcher starts.
enum Main {
    Jar,
    Module,
    ClassOrSource,
}

impl Reader<'_> {
    fn file(&mut self, path: &[u8]) {
        self.options.files.push(path_of(path));
    }

    /// Takes the launcher's arguments apart, up to where the program's begin.
    fn launcher(&mut self, words: Vec<Vec<u8>>) {
        let mut expand = true;
        let mut main = Main::ClassOrSource;
        let mut class_path = None;
        let (mut is_named, mut is_source) = (false, false);
        // What is still to be read, the next word last.
        let mut rest: Vec<(Vec<u8>, Origin)> =
            words.into_iter().rev().map(|word| (word, Origin::Line)).collect();
        while let Some((word, origin)) = rest.pop() {
            let mut value = || rest.pop().map(|(word, _)| word).unwrap_or_default();
            if expand
                && origin == Origin::Line
                && word.starts_with(b"@")
                && !word.starts_with(b"@@")
            {
                let path = path_of(&word[1..]);
                let text = self.option_file(&path).unwrap_or_default();
                let words = words::of_argument_file(&text);
                rest.extend(words.into_iter().rev().map(|word| (word, Origin::File)));
            } else if word == b"--disable-@files" {
                expand = false;
            } else if CLASS_PATH.contains(&word.as_slice()) {
                class_path = Some(value());
            } else if let Some(path) = word.strip_prefix(b"--class-path=") {
                class_path = Some(path.to_vec());
            } else if matches!(word.as_slice(), b"-m" | b"--module")
                || word.starts_with(b"--module=")
            {
                main = Main::Module;
                is_named = word.starts_with(b"--module=") || rest.pop().is_some();
                break;
            } else if word == b"-jar" {
                main = Main::Jar;
            } else if WITH_VALUE.contains(&word.as_slice()) {
                let value = value();
                is_source |= word == b"--source";
                self.module_option(&word, &value);
            } else if word.starts_with(b"-") {
                match word.iter().position(|byte| *byte == b'=') {
                    Some(at) if word.starts_with(b"--") => {
                        self.module_option(&word[..at], &word[at + 1..]);
                    }
                    _ => self.vm_option(&word),
                }
            } else {
                is_named = true;
                match main {
                    Main::Jar => class_path = Some(word),
                    _ if word.ends_with(b".java") || is_source => {
                        self.options.source = Some(path_of(&word))
                    }
                    _ => {}
                }
                break;
            }
        }
        if is_named {
            let own = rest.iter().filter(|(_, origin)| *origin == Origin::Line).count();
            self.options.arguments = Some(own);
        }
        if let Some(path) = class_path {
            // The jar of -jar is no list: its name may have a colon.
            match main {
                Main::Jar => self.options.class_path.push(path_of(&path)),
                _ => split_into(&path, &mut self.options.class_path),
            }
        } else if matches!(main, Main::Module) {
            // With a main module, nothing is on the class path by default.
            self.options.class_path.push(PathBuf::new());
        }
    }

    /// Reads a file of options, which is an input itself.
    fn option_file(&mut self, path: &Path) -> Option<Vec<u8>> {
        self.options.files.push(path.to_owned());
        self.files += 1;
        if self.files > FILES_MAX {
            return None;
        }
        read_bounded(&self.cwd.join(path))
    }

    fn module_option(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"-p" | b"--module-path" | b"--upgrade-module-path" => {
                split_into(value, &mut self.options.module_path);
            }
            // --patch-module MODULE=PATH:PATH
            b"--patch-module" => {
                if let Some(at) = value.iter().position(|byte| *byte == b'=') {
                    split_into(&value[at + 1..], &mut self.options.module_path);
                }
            }
            _ => {}
        }
    }

    /// Looks at an option of the virtual machine itself.
    fn vm_option(&mut self, option: &[u8]) {
        if NOT_AT_MAIN.iter().any(|start| option.starts_with(start)) {
            let word = || OsString::from_vec(option.to_vec());
            self.options.forbids_main.get_or_insert_with(word);
        }
        let before = |text: &[u8], end: u8| {
            text.split(|byte| *byte == end).next().unwrap_or_default().to_vec()
        };
        if let Some(agent) = option.strip_prefix(b"-javaagent:") {
            self.options.agents.push(path_of(&before(agent, b'=')));
        } else if let Some(agent) = option.strip_prefix(b"-agentpath:") {
            self.file(&before(agent, b'='));
        } else if let Some(image) = option.strip_prefix(b"-splash:") {
            self.file(image);
        } else if let Some(path) = option.strip_prefix(b"-Xbootclasspath") {
            // -Xbootclasspath:, -Xbootclasspath/a:, -Xbootclasspath/p:
            if let Some(at) = path.iter().position(|byte| *byte == b':') {
                split_into(&path[at + 1..], self.options.class_path_of_boot());
            }
        } else if let Some(path) = option.strip_prefix(b"-Djava.class.path=") {
            split_into(path, &mut self.options.files);
        } else if let Some(prefix) =
            FILE_OPTIONS.iter().find(|prefix| option.starts_with(prefix)).copied()
        {
            let value = &option[prefix.len()..];
            if prefix == b"-XX:VMOptionsFile=" {
                let text = self.option_file(&path_of(value)).unwrap_or_default();
                for word in words::of_variable(&text) {
                    // One such file cannot name another.
                    if !word.starts_with(prefix) {
                        self.vm_option(&word);
                    }
                }
            } else {
                // A base archive and one on top of it: -XX:SharedArchiveFile=a:b
                split_into(value.strip_prefix(b"=").unwrap_or(value), &mut self.options.files);
            }
        }
    }

    fn finish(&mut self, default_class_path: &OsStr) {
        if self.options.class_path.is_empty() && self.options.source.is_none() {
            split_into(default_class_path.as_bytes(), &mut self.options.class_path);
        }
        self.options.class_path.retain(|path| !path.as_os_str().is_empty());
        let in_cwd = IN_CWD.iter().chain(&CONFIGURATIONS).map(PathBuf::from);
        self.options.in_cwd.extend(in_cwd.filter(|path| self.cwd.join(path).exists()));
    }
}

/// Where a word of the launcher comes from: files are not expanded again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Line,
    File,
}

impl Options {
    /// The boot class path is read like a module path: jars whose manifests
    /// do not count.
    fn class_path_of_boot(&mut self) -> &mut Vec<PathBuf> {
        &mut self.module_path
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// Splits a path list at its colons; an empty part is the working directory.
fn split_into(list: &[u8], into: &mut Vec<PathBuf>) {
    into.extend(
        list.split(|byte| *byte == b':')
            .map(|part| if part.is_empty() { PathBuf::from(".") } else { path_of(part) }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str, env: &[&str], cwd: &Path) -> Options {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let env = env.iter().map(OsString::from).collect();
        let command = Command { argv: argv.clone(), env, cwd: cwd.to_owned() };
        read(Tool::Java, &argv, &command)
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn the_class_path_is_what_the_launcher_takes() {
        let nowhere = Path::new("/nonexistent");
        let class_path = |line, env: &[&str]| options(line, env, nowhere).class_path;
        assert_eq!(class_path("java A", &[]), paths(&["."]));
        assert_eq!(class_path("java A", &["CLASSPATH=x:y.jar"]), paths(&["x", "y.jar"]));
        assert_eq!(
            class_path("java -cp a:b/*: A -cp c", &["CLASSPATH=x"]),
            paths(&["a", "b/*", "."])
        );
        assert_eq!(class_path("java --class-path=a A", &[]), paths(&["a"]));
        assert_eq!(class_path("java -cp a -jar b:c.jar x.jar", &[]), paths(&["b:c.jar"]));
        assert_eq!(class_path("java -jar -Xmx1g b.jar", &[]), paths(&["b.jar"]));
        assert_eq!(class_path("java -d m --add-modules n -cp q A", &[]), paths(&["q"]));
        assert!(class_path("java -p mods -m m/x.Main", &["CLASSPATH=x"]).is_empty());
        assert_eq!(class_path("java -jar", &[]), paths(&["."]));
        assert_eq!(class_path("java A", &["JDK_JAVA_OPTIONS=-cp 'a b'"]), paths(&["a b"]));
    }

    #[test]
    fn agents_modules_and_files_are_found_wherever_they_stand() {
        let line = "java -javaagent:a.jar=x=y -agentpath:/l.so=o --patch-module m=p:q \
                    -XX:SharedArchiveFile=b.jsa:t.jsa -Xbootclasspath/a:boot.jar \
                    --module-path=mods Main -javaagent:no.jar";
        let found =
            options(line, &["JAVA_TOOL_OPTIONS=-javaagent:t.jar"], Path::new("/nonexistent"));
        assert_eq!(found.agents, paths(&["t.jar", "a.jar"]));
        assert_eq!(found.module_path, paths(&["p", "q", "boot.jar", "mods"]));
        assert_eq!(found.files, paths(&["/l.so", "b.jsa", "t.jsa"]));
    }

    #[test]
    fn option_files_are_inputs_and_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("args", "-cp lib.jar @nested -XX:VMOptionsFile=vm");
        write("vm", "-javaagent:v.jar -XX:VMOptionsFile=vm");
        write("nested", "-cp no.jar");
        write("application.yml", "");
        let found = options("java @args Main", &[], dir.path());
        assert_eq!(found.class_path, paths(&["lib.jar"]));
        let found = options("java @args -XX:VMOptionsFile=vm Main @args", &[], dir.path());
        assert_eq!(found.files[0], Path::new("args"));
        assert!(found.in_cwd.contains(&PathBuf::from("application.yml")));
        let found = options("java --disable-@files @args", &[], dir.path());
        assert_eq!(found.class_path, paths(&["."]));
        let found = options("java @missing Main", &[], dir.path());
        assert_eq!(found.files[0], Path::new("missing"));
    }

    #[test]
    fn the_programs_own_words_are_what_follows_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("args"), "-cp lib.jar Main one").unwrap();
        let found = |line| {
            let found = options(line, &["JDK_JAVA_OPTIONS=-cp x"], dir.path());
            (found.arguments, found.forbids_main)
        };
        let own = |count| (Some(count), None);
        assert_eq!(found("java -cp x Main a b"), own(2));
        assert_eq!(found("java -jar -Xmx1g x.jar -jar"), own(1));
        assert_eq!(found("java -m m/x.Main"), own(0));
        assert_eq!(found("java --module=m/x.Main -m"), own(1));
        assert_eq!(found("java @args two three"), own(2));
        assert_eq!(found("java --source 21 Main a"), own(1));
        assert_eq!(found("java -version"), (None, None));
        assert_eq!(found("java -jar"), (None, None));
        assert_eq!(found("java -m"), (None, None));
        let (own, forbids) = found("java -javaagent:a.jar -Xlog:gc Main -Xint");
        assert_eq!((own, forbids.unwrap()), (Some(1), "-javaagent:a.jar".into()));
    }

    #[test]
    fn paths_may_depend_on_the_working_directory() {
        let nowhere = Path::new("/nonexistent");
        let relative = |line| options(line, &[], nowhere).is_relative();
        assert!(relative("java Main") && relative("java -cp /a:b Main"));
        assert!(relative("java -cp /a: Main") && relative("java Main.java"));
        assert!(!relative("java -jar /x.jar rel") && !relative("java -p /m -m m/x.Main"));
    }

    #[test]
    fn sources_and_other_tools() {
        let found = options("java src/Main.java x", &[], Path::new("/nonexistent"));
        assert_eq!(found.source, Some(PathBuf::from("src/Main.java")));
        assert!(found.class_path.is_empty());
        let argv: Vec<OsString> =
            ["javac", "-J-javaagent:a.jar", "-cp", "x"].map(OsString::from).into();
        let command = Command { argv: argv.clone(), env: Vec::new(), cwd: "/".into() };
        let found = read(Tool::Other, &argv, &command);
        assert_eq!(found.agents, paths(&["a.jar"]));
        assert!(found.class_path.is_empty() && found.is_relative());
        assert_eq!(found.arguments, Some(2));
    }
}
