//! Builds a fingerprint input by input.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustc_hash::{FxBuildHasher, FxHashSet};
use sha2::{Digest as _, Sha256};

use super::digest::{Digest, FileIdentity};
use super::directory::{self, Extent, Listing};
use super::environment::{self, Variable};
use super::host::{Host, Stream};
use super::memory::{DigestMemory, Known};
use super::program::{Chain, Format, Program};
use super::{EntryId, Fingerprint, FingerprintError, Input, Point, Scope};
use crate::command::Command;

/// How much of a value is shown, in characters.
const LEN_SHOWN_MAX: usize = 200;

/// The inputs so far, and where digests come from.
pub(super) struct Collector<'a> {
    inputs: Vec<Input>,
    labels: FxHashSet<String>,
    directories: FxHashSet<PathBuf>,
    pub(super) digests: &'a mut DigestMemory,
    cwd: &'a Path,
    outputs: &'a [PathBuf],
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        command: &'a Command,
        scope: &'a Scope,
        digests: &'a mut DigestMemory,
    ) -> Self {
        Self {
            inputs: Vec::with_capacity(128),
            labels: FxHashSet::with_capacity_and_hasher(128, FxBuildHasher),
            directories: FxHashSet::default(),
            digests,
            cwd: &command.cwd,
            outputs: &scope.outputs,
        }
    }

    /// Adds an input, unless there is one with this label: then it is the
    /// same thing seen twice (a jar that is twice on the class path).
    fn add(&mut self, label: String, digest: Digest, shown: String) {
        if self.labels.insert(label.clone()) {
            self.inputs.push(Input { label, digest, shown });
        }
    }

    /// Adds a value that may be shown.
    pub(super) fn text(&mut self, label: &str, value: &str) {
        self.add(label.to_owned(), Digest::of(value.as_bytes()), shorten(value));
    }

    /// Adds the content of a file; one that is missing counts as missing.
    ///
    /// Relative paths start from the command's working directory.
    pub(super) fn file(&mut self, kind: &str, path: &Path) -> Result<Found, FingerprintError> {
        let path = self.cwd.join(path);
        let metadata = fs::metadata(&path);
        self.file_with(kind, &path, metadata)
    }

    /// The same for an absolute path that the caller has just looked at.
    pub(super) fn file_with(
        &mut self,
        kind: &str,
        path: &Path,
        metadata: io::Result<Metadata>,
    ) -> Result<Found, FingerprintError> {
        let label = labelled(kind, path);
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                let shown = if error.kind() == io::ErrorKind::PermissionDenied {
                    "not accessible"
                } else {
                    "missing"
                };
                self.add(label, Digest::of(shown.as_bytes()), shown.to_owned());
                return Ok(Found::Missing);
            }
        };
        if metadata.is_dir() {
            return Ok(Found::Directory);
        }
        let identity = FileIdentity::new(&metadata);
        if !metadata.is_file() {
            // A device or FIFO counts as what it is, not by what it gives.
            let value = format!("{:o} {:x}", metadata.mode() & libc::S_IFMT, metadata.rdev());
            self.add(label, Digest::of(value.as_bytes()), "no regular file".to_owned());
            return Ok(Found::Special);
        }
        match self.digests.identified(path, identity) {
            Ok(known) => {
                let shown =
                    format!("{} bytes, sha256 {}", known.identity.size, known.digest.short());
                self.add(label, known.digest, shown);
                Ok(Found::File(known))
            }
            // Nobody can have read it: it counts by its identity.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let value = format!("{identity:?}");
                self.add(label, Digest::of(value.as_bytes()), "not readable".to_owned());
                Ok(Found::Special)
            }
            Err(source) => Err(FingerprintError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Adds what a directory holds.
    pub(super) fn directory(
        &mut self,
        kind: &str,
        path: &Path,
        extent: Extent,
    ) -> Result<(), FingerprintError> {
        let path = self.cwd.join(path);
        let listing = directory::list(&path, extent, self.outputs, self.digests)?;
        self.listing(kind, path, &listing);
        Ok(())
    }

    /// Adds what a directory holds that an argument names, unless it is an
    /// input already or too large to be a configuration.
    pub(super) fn named_directory(&mut self, path: &Path) -> Result<(), FingerprintError> {
        // Its own name without a trailing `/.`.
        let path: PathBuf = self.cwd.join(path).components().collect();
        if self.directories.contains(&path) {
            return Ok(());
        }
        if let Some(listing) = directory::list_named(&path, self.outputs, self.digests)? {
            self.listing("directory", path, &listing);
        }
        Ok(())
    }

    fn listing(&mut self, kind: &str, path: PathBuf, listing: &Listing) {
        let shown = format!("{} files, sha256 {}", listing.files, listing.digest.short());
        self.add(labelled(kind, &path), listing.digest, shown);
        self.directories.insert(path.components().collect());
    }

    /// Tells whether warmstart itself writes to a path during the run.
    pub(super) fn is_output(&self, path: &Path) -> bool {
        self.outputs.iter().any(|output| self.cwd.join(output) == path)
    }

    /// Adds a file's content or all of a directory.
    pub(super) fn path(&mut self, kind: &str, path: &Path) -> Result<(), FingerprintError> {
        match self.file(kind, path)? {
            Found::Directory => self.directory(kind, path, Extent::Everything),
            Found::File(_) | Found::Special | Found::Missing => Ok(()),
        }
    }

    /// Adds a program file under its own path and under the one that it is
    /// started by: a program finds its files by either.
    pub(super) fn program(&mut self, program: &Program) -> Result<(), FingerprintError> {
        let kind = match program.format {
            Format::Elf { .. } => "program",
            Format::Script { .. } | Format::Other => "script",
        };
        self.file(kind, &program.real)?;
        if program.path != program.real {
            let label = format!("target of {}", program.path.display());
            self.bytes(label, program.real.as_os_str().as_bytes());
        }
        Ok(())
    }

    /// Adds the dynamic linker and what tells it where libraries are. The
    /// libraries themselves are an entry's dependencies: at the capture they
    /// are mapped.
    pub(super) fn linker(&mut self, chain: &Chain) -> Result<(), FingerprintError> {
        if let Format::Elf { interpreter: Some(interpreter) } = &chain.last().format {
            self.file("dynamic linker", interpreter)?;
            self.file("dynamic linker's cache", Path::new("/etc/ld.so.cache"))?;
            self.file("dynamic linker's preloads", Path::new("/etc/ld.so.preload"))?;
        }
        Ok(())
    }

    fn bytes(&mut self, label: String, value: &[u8]) {
        let shown = shorten(&String::from_utf8_lossy(value));
        self.add(label, Digest::of(value), shown);
    }

    /// Adds the working directory itself.
    pub(super) fn working_directory(&mut self) {
        self.bytes("working directory".to_owned(), self.cwd.as_os_str().as_bytes());
    }

    /// Adds arguments, environment, working directory and our own options, as
    /// far as they count at the capture point.
    pub(super) fn command(
        &mut self,
        command: &Command,
        variables: &[Variable<'_>],
        scope: &Scope,
        host: &Host,
    ) {
        for (number, argument) in command.argv.iter().enumerate() {
            self.bytes(format!("argument {number}"), argument.as_bytes());
        }
        // At main, what it starts from is asked of its line (`java::collect`).
        if scope.point == Point::Ready {
            self.working_directory();
        }
        let account = host.account.as_deref();
        let counts = |variable: &Variable<'_>| {
            scope.point == Point::Ready || environment::is_read_at_main(variable.name, account)
        };
        let mut before: Option<(&[u8], usize)> = None;
        for variable in variables.iter().filter(|it| counts(it)) {
            let mut label =
                ["environment variable ", &String::from_utf8_lossy(variable.name)].concat();
            // They are sorted by name.
            let repeated = match before {
                Some((name, times)) if name == variable.name => times + 1,
                _ => 0,
            };
            before = Some((variable.name, repeated));
            if repeated > 0 {
                label.push_str(&format!(" (#{})", repeated + 1));
            }
            // The name goes in as bytes: lossy labels may fall together.
            let mut sha = Sha256::new_with_prefix(variable.name);
            if let Some(value) = variable.value {
                sha.update(b"=");
                sha.update(value);
            }
            let shown = match variable.value {
                Some(value) => format!("{} bytes", value.len()),
                None => "no value".to_owned(),
            };
            self.add_distinct(label, Digest(sha.finalize().into()), shown);
        }
        for (name, value) in &scope.settings {
            self.text(&format!("option {name}"), value);
        }
    }

    /// Adds an input whose label may have been given to another thing.
    fn add_distinct(&mut self, mut label: String, digest: Digest, shown: String) {
        while self.labels.contains(&label) {
            label.push('\'');
        }
        self.add(label, digest, shown);
    }

    /// Adds machine and caller.
    pub(super) fn host(&mut self, host: &Host, scope: &Scope, is_jvm: bool) -> &mut Self {
        self.text("user ids", &format!("{:?}", host.uids));
        self.text("group ids", &format!("{:?}", host.gids));
        self.text("supplementary groups", &format!("{:?}", host.groups));
        self.text("account in /etc/passwd", host.account.as_deref().unwrap_or("none"));
        let names = ["standard input", "standard output", "standard error"];
        for (name, stream) in names.into_iter().zip(host.streams) {
            self.text(name, stream_class(stream, is_jvm));
        }
        self.text("ignored signals", &format!("{:?}", host.ignored_signals));
        self.text("blocked signals", &format!("{:?}", host.blocked_signals));
        for (name, soft, hard) in &host.limits {
            self.text(&format!("limit of {name}"), &format!("{} {}", limit(*soft), limit(*hard)));
        }
        self.text("umask", &format!("{:03o}", host.umask));
        self.text("personality", &format!("{:#x}", host.personality));
        self.text("CPU affinity", &format!("{:?}", host.affinity));
        let cgroup = &host.cgroup;
        for (name, value) in [
            ("memory limit of the control group", cgroup.memory),
            ("CPU quota of the control group (1/1000)", cgroup.cpu_milli),
            ("CPU weight of the control group", cgroup.cpu_weight),
        ] {
            self.text(name, &value.map_or_else(|| "none".to_owned(), |value| value.to_string()));
        }
        self.text("memory of the machine (256 MiB)", &host.memory_steps.to_string());
        for (name, value) in &host.switches {
            self.text(name, value);
        }
        self.text("kernel", &host.kernel);
        self.add("vDSO".to_owned(), host.vdso, format!("sha256 {}", host.vdso.short()));
        self.text("CPU model", &host.cpu.model);
        let features = Digest::of(&host.cpu.features);
        self.add("CPU features".to_owned(), features, format!("cpuid {}", features.short()));
        // Nothing of the program has run that could have asked for it.
        let is_fresh =
            scope.point == Point::Main && !scope.settings.iter().any(|(name, _)| name == "--train");
        if !is_fresh && !scope.ignore_env.iter().any(|name| name == "HOSTNAME") {
            self.text("host name", &host.hostname);
        }
        self
    }

    /// Hashes it all.
    pub(super) fn finish(self) -> Fingerprint {
        let mut sha = Sha256::new_with_prefix(b"warmstart fingerprint\0");
        for input in &self.inputs {
            sha.update((input.label.len() as u64).to_le_bytes());
            sha.update(&input.label);
            sha.update(input.digest.0);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&sha.finalize()[..16]);
        Fingerprint { id: EntryId(id), inputs: self.inputs }
    }

    /// Tells whether this very path is an input already.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.digests.answered(path).is_some()
    }

    /// Tells where relative paths start from.
    pub(super) fn cwd(&self) -> &'a Path {
        self.cwd
    }
}

/// What [`Collector::file`] came upon.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    /// A regular file; it is an input now.
    File(Known),
    /// A directory, which is no input yet.
    Directory,
    /// Anything else, or a file that cannot be read; it is an input now.
    Special,
    /// Nothing; that is an input now.
    Missing,
}

/// What a program can tell apart: a JVM asks only whether a stream is a
/// terminal; runtimes with an event loop (libuv) treat each kind otherwise.
fn stream_class(stream: Stream, is_jvm: bool) -> &'static str {
    match stream {
        Stream::Terminal | Stream::Closed => stream.name(),
        _ if is_jvm => "no terminal",
        _ => stream.name(),
    }
}

fn limit(value: u64) -> String {
    if value == libc::RLIM_INFINITY { "unlimited".to_owned() } else { value.to_string() }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(LEN_SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns a label for a file or directory.
fn labelled(kind: &str, path: &Path) -> String {
    match path.to_str() {
        // As `display` writes it, which looks at each byte for what is not UTF-8.
        Some(path) => [kind, " ", path].concat(),
        None => format!("{kind} {}", path.display()),
    }
}

/// Makes a path of an option's bytes.
pub(super) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
