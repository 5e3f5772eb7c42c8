//! Which file a command starts, as `execvp(3)` and the kernel decide it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::FingerprintError;
use crate::command::Command;

/// Where programs are looked for without a PATH: what glibc's `confstr` says.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// How many scripts may start one another (the kernel: 5 since Linux 4.15,
/// plus `env` between them).
const SCRIPTS_MAX: usize = 8;
/// The kernel reads so much of a script's first line (BINPRM_BUF_SIZE since
/// Linux 5.1).
const LEN_LINE_MAX: usize = 256;
/// What is read of a program: enough for the headers and, nearly always, for
/// the interpreter's name.
const LEN_HEAD: usize = 4096;

/// A program file and what it takes to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The path that `execve` is given.
    pub path: PathBuf,
    /// The file's own path, every symbolic link resolved.
    pub real: PathBuf,
    /// What kind of file it is.
    pub format: Format,
}

/// What the kernel takes a program file for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// An ELF file, and its dynamic linker unless it is static.
    Elf {
        /// PT_INTERP.
        interpreter: Option<PathBuf>,
    },
    /// A script, and the words of its first line after `#!`.
    Script {
        /// The interpreter and, at most, one argument.
        words: Vec<OsString>,
    },
    /// Neither: `execvp` gives such a file to the shell.
    Other,
}

/// A command resolved down to the ELF file that will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The program, and the interpreters it needs, in that order.
    pub programs: Vec<Program>,
    /// The arguments of the last of them, its own name first.
    pub argv: Vec<OsString>,
}

impl Chain {
    /// Follows a command to the program that runs in the end.
    ///
    /// # Errors
    /// As `execvp` would fail, or if a file cannot be read.
    pub fn resolve(command: &Command) -> Result<Self, FingerprintError> {
        let mut programs = Vec::with_capacity(1);
        let mut argv = command.argv.clone();
        let mut path = find(command, command.name())?;
        loop {
            let program = Program::read(path)?;
            let next = match &program.format {
                Format::Elf { .. } => {
                    // `env` replaces itself by what it is told to start.
                    let is_env = program.path.file_name() == Some(OsStr::new("env"));
                    if is_env { env_target(&argv) } else { None }
                }
                Format::Script { words } => {
                    let script = program.path.clone().into_os_string();
                    let rest = argv.drain(..).skip(1).collect::<Vec<_>>();
                    argv = words.iter().cloned().chain([script]).chain(rest).collect();
                    argv.first().cloned().map(|interpreter| (interpreter, Lookup::Exact))
                }
                Format::Other => {
                    let script = program.path.clone().into_os_string();
                    argv = [OsString::from("/bin/sh"), script]
                        .into_iter()
                        .chain(argv.drain(..).skip(1))
                        .collect();
                    argv.first().cloned().map(|interpreter| (interpreter, Lookup::Exact))
                }
            };
            programs.push(program);
            let Some((name, lookup)) = next else { break };
            if programs.len() > SCRIPTS_MAX {
                let path = PathBuf::from(command.name());
                return Err(FingerprintError::NotExecutable { path, source: loop_error() });
            }
            path = match lookup {
                Lookup::Exact => command.cwd.join(&name),
                Lookup::Path => {
                    let at = argv.iter().skip(1).position(|word| *word == name);
                    argv.drain(..at.map_or(0, |at| at + 1));
                    // What looked like a program may be an option's value.
                    match find(command, &name) {
                        Ok(path) => path,
                        Err(_) => break,
                    }
                }
            };
        }
        Ok(Self { programs, argv })
    }

    /// Returns the program that runs in the end.
    pub fn last(&self) -> &Program {
        self.programs.last().expect("resolve() puts at least one program in")
    }
}

enum Lookup {
    Exact,
    Path,
}

fn loop_error() -> io::Error {
    io::Error::from_raw_os_error(libc::ELOOP)
}

/// Returns what `env` would start: its first word that is no option and no
/// assignment. `-S` splits its argument into words.
fn env_target(argv: &[OsString]) -> Option<(OsString, Lookup)> {
    let words = argv.iter().skip(1).map(|word| word.as_bytes());
    let name = words.into_iter().find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    Some((OsString::from_vec(name.to_vec()), Lookup::Path))
}

/// Finds a program as `execvp(3)` does: a name with a slash is a path, any
/// other is looked for along the command's PATH.
fn find(command: &Command, name: &OsStr) -> Result<PathBuf, FingerprintError> {
    let missing = || FingerprintError::NotFound(name.to_owned());
    if name.is_empty() {
        return Err(missing());
    }
    if name.as_bytes().contains(&b'/') {
        let path = command.cwd.join(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if is_missing(&error) => Err(missing()),
            Err(source) => Err(FingerprintError::NotExecutable { path, source }),
        };
    }
    let search = command.var("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes();
    let mut denied = None;
    for dir in search.split(|byte| *byte == b':') {
        // An empty part is the working directory, as a relative one starts
        // from it.
        let path = command.cwd.join(OsStr::from_bytes(dir)).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) if is_missing(&error) => {}
            Err(error) => denied = denied.or(Some((path, error))),
        }
    }
    match denied {
        Some((path, source)) => Err(FingerprintError::NotExecutable { path, source }),
        None => Err(missing()),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn executable(path: &Path) -> io::Result<()> {
    access(path, AccessFlags::X_OK)?;
    // Directories are "executable" too.
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EACCES))
    }
}

impl Program {
    /// Tells whether it is a script with an interpreter in its first line.
    pub fn is_script(&self) -> bool {
        matches!(self.format, Format::Script { .. })
    }

    /// Reads what kind of program a file is.
    fn read(path: PathBuf) -> Result<Self, FingerprintError> {
        let read = || -> io::Result<(PathBuf, Format)> {
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
            let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .or_else(|_| fs::canonicalize(&path))?;
            let mut head = [0; LEN_HEAD];
            let len = read_head(&file, &mut head)?;
            Ok((real, Format::of(&head[..len], &file)))
        };
        match read() {
            Ok((real, format)) => Ok(Self { path, real, format }),
            Err(source) if is_missing(&source) => {
                Err(FingerprintError::NotFound(path.into_os_string()))
            }
            Err(source) => Err(FingerprintError::Unreadable { path, source }),
        }
    }
}

fn read_head(file: &File, head: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < head.len() {
        match file.read_at(&mut head[len..], len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

impl Format {
    fn of(head: &[u8], file: &File) -> Self {
        if head.starts_with(b"\x7fELF") {
            Self::Elf { interpreter: elf_interpreter(head, file) }
        } else if let Some(line) = head.strip_prefix(b"#!") {
            script_words(&line[..line.len().min(LEN_LINE_MAX - 2)])
        } else {
            Self::Other
        }
    }
}

/// Splits a script's first line as the kernel does: the interpreter, then all
/// the rest as one argument.
fn script_words(line: &[u8]) -> Format {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    if interpreter.is_empty() {
        return Format::Other;
    }
    let mut words = vec![OsString::from_vec(interpreter.to_vec())];
    let argument = argument.trim_ascii();
    let is_env = Path::new(OsStr::from_bytes(interpreter)).file_name() == Some(OsStr::new("env"));
    match argument.strip_prefix(b"-S") {
        // `#!/usr/bin/env -S java --source 21`: env splits it itself.
        Some(split) if is_env => words.extend(
            split
                .split(|byte| byte.is_ascii_whitespace())
                .filter(|word| !word.is_empty())
                .map(|word| OsString::from_vec(word.to_vec())),
        ),
        _ if argument.is_empty() => {}
        _ => words.push(OsString::from_vec(argument.to_vec())),
    }
    Format::Script { words }
}

/// Returns the path of an ELF-64 file's dynamic linker (PT_INTERP, `elf(5)`).
fn elf_interpreter(head: &[u8], file: &File) -> Option<PathBuf> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    if head.get(4) != Some(&2) {
        return None;
    }
    let start = usize::try_from(u64_at(32)?).ok()?;
    let (len, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        let at = start.checked_add(index * len)?;
        let kind = u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind != libc::PT_INTERP {
            continue;
        }
        let (offset, len) = (u64_at(at + 8)?, usize::try_from(u64_at(at + 32)?).ok()?);
        if len > LEN_HEAD {
            return None;
        }
        let mut name = vec![0; len];
        file.read_exact_at(&mut name, offset).ok()?;
        let name = name.split(|byte| *byte == 0).next()?;
        return Some(PathBuf::from(OsStr::from_bytes(name)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn command(argv: &[&str], path: Option<&str>, cwd: &Path) -> Command {
        Command {
            argv: argv.iter().map(OsString::from).collect(),
            env: path.map(|path| format!("PATH={path}").into()).into_iter().collect(),
            cwd: cwd.to_owned(),
        }
    }

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn names(chain: &Chain) -> Vec<String> {
        let name = |program: &Program| program.path.file_name().unwrap().to_string_lossy().into();
        chain.programs.iter().map(name).collect()
    }

    #[test]
    fn programs_are_found_along_the_path_of_the_command() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("tool"), "#!/bin/sh\n", 0o755);
        fs::create_dir(dir.path().join("sub")).unwrap();
        write(&dir.path().join("sub/tool"), "", 0o644);
        let path = format!("/nonexistent:{0}/sub:{0}", dir.path().display());
        let chain = Chain::resolve(&command(&["tool"], Some(&path), Path::new("/"))).unwrap();
        assert_eq!(chain.programs[0].path, dir.path().join("tool"));
        // An empty part is the working directory.
        let chain = Chain::resolve(&command(&["tool"], Some(":/x"), dir.path())).unwrap();
        assert_eq!(chain.programs[0].path, dir.path().join("tool"));
        let chain = Chain::resolve(&command(&["./tool", "x"], None, dir.path())).unwrap();
        assert_eq!(chain.argv.len(), 3);
        assert_eq!(chain.argv[0], "/bin/sh");
        assert_eq!(chain.argv[2], "x");
        // Without a PATH, the system's.
        assert!(Chain::resolve(&command(&["sh"], None, Path::new("/"))).is_ok());
    }

    #[test]
    fn missing_and_not_executable_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("plain"), "", 0o644);
        fs::create_dir(dir.path().join("folder")).unwrap();
        let path = dir.path().display().to_string();
        for name in ["plain", "folder", "./plain", "./folder"] {
            let error = Chain::resolve(&command(&[name], Some(&path), dir.path())).unwrap_err();
            assert!(matches!(error, FingerprintError::NotExecutable { .. }), "{name}: {error}");
        }
        for name in ["none", "./none", "plain/none", ""] {
            let error = Chain::resolve(&command(&[name], Some(&path), dir.path())).unwrap_err();
            assert!(matches!(error, FingerprintError::NotFound(_)), "{name}: {error}");
        }
    }

    #[test]
    fn elf_files_have_their_dynamic_linker() {
        let chain = Chain::resolve(&command(&["/bin/sh"], None, Path::new("/"))).unwrap();
        let Format::Elf { interpreter: Some(interpreter) } = &chain.last().format else {
            return eprintln!("SKIP: /bin/sh is static");
        };
        assert!(interpreter.exists(), "{}", interpreter.display());
    }

    #[test]
    fn scripts_lead_to_their_interpreters() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("inner"), "#! /usr/bin/env -S sh -e\n", 0o755);
        let inner = dir.path().join("inner");
        write(&dir.path().join("outer"), &format!("#!{} -x y \n", inner.display()), 0o755);
        let chain = Chain::resolve(&command(&["./outer", "arg"], None, dir.path())).unwrap();
        assert_eq!(names(&chain), ["outer", "inner", "env", "sh"]);
        let argv: Vec<_> = chain.argv.iter().map(|word| word.to_str().unwrap()).collect();
        let outer = dir.path().join("./outer");
        assert_eq!(
            argv,
            ["sh", "-e", inner.to_str().unwrap(), "-x y", outer.to_str().unwrap(), "arg"]
        );
    }

    #[test]
    fn odd_programs_end_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("loop");
        write(&own, &format!("#!{}\n", own.display()), 0o755);
        let error = Chain::resolve(&command(&["./loop"], None, dir.path())).unwrap_err();
        assert!(matches!(error, FingerprintError::NotExecutable { .. }));
        for (name, content) in [("empty", ""), ("text", "echo hi\n"), ("bare", "#!\n")] {
            write(&dir.path().join(name), content, 0o755);
            let found = Chain::resolve(&command(&[&format!("./{name}")], None, dir.path()));
            assert_eq!(names(&found.unwrap()), [name, "sh"]);
        }
        write(&dir.path().join("gone"), "#!/nonexistent/x\n", 0o755);
        assert!(Chain::resolve(&command(&["./gone"], None, dir.path())).is_err());
        fs::write(dir.path().join("bad"), b"\x7fELF\x02\x01\x01").unwrap();
        fs::set_permissions(dir.path().join("bad"), fs::Permissions::from_mode(0o755)).unwrap();
        let chain = Chain::resolve(&command(&["./bad"], None, dir.path())).unwrap();
        assert_eq!(chain.last().format, Format::Elf { interpreter: None });
    }
}
