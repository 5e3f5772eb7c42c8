//! The key of a command, its entry, and the entry that is to be.
//!
//! What the launcher asks of fingerprint and cache goes through here. Order
//! matters on the way to a restore: nothing is written, and nothing is
//! computed that only a miss needs.

mod at_main;
mod draft;

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::delivery;
use super::engine::Engines;
use super::inner::{self, Inner};
use super::probing::chain;
use super::terminal;
use super::{EngineChoice, Options, Policy, Training};
use crate::cache::{Cache, CacheError, CaptureLock, Entry};
use crate::command::Command;
use crate::criu::record::Record;
use crate::fingerprint::{
    self, DigestMemory, EntryId, FileIdentity, Fingerprint, FingerprintError, Host, JvmLine,
    NotAtMain, Point, Reading, Scope, Stream,
};
use crate::restore::{self, CannotRestore, Restored, Witness};
use crate::snapshot::OpenTcp;

pub use draft::{Draft, Origin};

/// How long a restore may take until its release: it takes milliseconds, and
/// with a page file on a cold disk, tenths of a second; the engine adds what
/// copying takes.
const DEADLINE: Duration = Duration::from_secs(3);

/// How many bytes of files that are not remembered are read before a first
/// start: some milliseconds' worth.
const READ_AT_ONCE: u64 = 4 << 20;

/// The file of an image that holds [`Notify`].
const NOTIFY_FILE: &str = "notify.json";

/// Why there is no key to look for.
#[derive(Debug, thiserror::Error)]
pub enum NoLookup {
    /// The program cannot be started: its start will say so.
    #[error("the program is not there or cannot be executed")]
    NoProgram,
    /// Nothing is to be captured, and nothing has been.
    #[error("there is no cache yet")]
    NoCache,
    /// Nothing is to be captured, and there is no entry of such a command.
    #[error("no entry yet")]
    NoEntry,
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Cache(#[from] CacheError),
    /// It cannot be captured at main.
    #[error(transparent)]
    NotAtMain(NotAtMain),
    /// An input cannot be read.
    #[error("no fingerprint")]
    Fingerprint(#[source] FingerprintError),
    /// So much has to be read first that the program had better be started.
    #[error("no entry yet")]
    Unread(Box<Unread>),
}

/// What is under a key.
#[derive(Debug)]
pub enum Found {
    /// An entry that may be used; the lookup holds it.
    Entry,
    /// Nothing.
    Nothing,
    /// An entry that is to be replaced: why.
    Unusable(String),
}

/// The socket that a captured program notifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// The path in its environment.
    pub path: PathBuf,
    /// Whether it had said READY=1.
    pub notified: bool,
}

/// A command whose key is computed while it runs: a cold start is never made
/// to wait for the hashing of a JDK.
#[derive(Debug)]
pub struct Unread {
    cache: Cache,
    command: Command,
    scope: Scope,
    host: Host,
    policy: Policy,
    engines: Engines,
    /// The key by the files' identities, from before the start.
    sketch: EntryId,
    /// When that was.
    began: SystemTime,
}

impl Unread {
    /// Returns bytes of the key by the files' identities.
    pub fn mark(&self) -> [u8; 8] {
        self.sketch.mark()
    }

    /// Returns machine and caller, as the key has them.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Reads all inputs, for seconds perhaps, and takes the right to capture;
    /// the error says why there is nothing to capture.
    pub fn read(self) -> Result<Lookup, String> {
        let failed = |error: FingerprintError| chain(&NoLookup::Fingerprint(error));
        let mut digests = self.cache.digests();
        let fingerprint = fingerprint::of(&self.command, &self.scope, &self.host, &mut digests)
            .map_err(failed)?;
        let now = sketch(&self.command, &self.scope, &self.host).map_err(failed)?;
        if now != self.sketch {
            return Err("its inputs changed while it started".into());
        }
        let Self { cache, command, scope, host, policy, engines, began, .. } = self;
        let key = (scope, host, fingerprint);
        let mut lookup = Lookup::new(cache, command, key, engines, digests, began);
        lookup.policy = policy;
        lookup.save_digests();
        if let Found::Entry = lookup.find() {
            return Err("there is an entry already".into());
        }
        lookup.claim()?;
        Ok(lookup)
    }
}

/// Computes a key that changes when a file does, without reading any.
fn sketch(command: &Command, scope: &Scope, host: &Host) -> Result<EntryId, FingerprintError> {
    let mut digests = DigestMemory::empty();
    digests.set_reading(Reading::Nothing);
    Ok(fingerprint::of(command, scope, host, &mut digests)?.id)
}

/// The key of a command, and what is held under it.
#[derive(Debug)]
pub struct Lookup {
    cache: Cache,
    command: Command,
    scope: Scope,
    host: Host,
    digests: DigestMemory,
    fingerprint: Fingerprint,
    entry: Option<Entry>,
    claim: Option<CaptureLock>,
    notify: Option<PathBuf>,
    /// At main: the whole command, and its line.
    line: Option<(Command, JvmLine)>,
    policy: Policy,
    /// What may restore the entry.
    engines: Engines,
    /// When the key was computed, or begun to be: before any start.
    began: SystemTime,
}

/// What a caller gave that this process cannot find out about itself any more.
#[derive(Debug)]
pub struct Caller<'a> {
    /// Which of 0, 1 and 2 were closed.
    pub closed_stdio: [bool; 3],
    /// The signals that it ignores.
    pub ignored: &'a [i32],
    /// The signals that it blocks.
    pub blocked: Vec<i32>,
}

/// Looks at the machine for a caller.
pub fn host(caller: Caller<'_>) -> Host {
    let mut host = Host::current();
    for (stream, closed) in host.streams.iter_mut().zip(caller.closed_stdio) {
        if closed {
            *stream = Stream::Closed;
        }
    }
    host.ignored_signals = caller.ignored.to_vec();
    host.blocked_signals = caller.blocked;
    host
}

/// Computes the key of a command at a capture point.
pub fn look_up(
    command: &Command,
    options: &Options,
    host: Host,
    point: Point,
) -> Result<Lookup, NoLookup> {
    let began = SystemTime::now();
    let line = match point {
        Point::Ready => None,
        Point::Main if !options.keep.is_empty() => {
            return Err(NoLookup::NotAtMain(NotAtMain::Option("--keep-fd".into())));
        }
        Point::Main => Some((command.clone(), JvmLine::of(command).map_err(NoLookup::from)?)),
    };
    let command =
        line.as_ref().map_or_else(|| command.clone(), |(whole, line)| line.command(whole));
    let cache = match options.policy {
        Policy::Auto | Policy::Refresh => Cache::open(&options.cache_dir)?,
        Policy::NoCapture | Policy::RequireWarm => {
            Cache::open_existing(&options.cache_dir)?.ok_or(NoLookup::NoCache)?
        }
    };
    let scope = scope(options, point);
    let mut digests = cache.digests();
    digests.set_reading(match options.aside {
        Some(_) => Reading::All,
        None => Reading::UpTo(READ_AT_ONCE),
    });
    let mut result = fingerprint::of(&command, &scope, &host, &mut digests);
    if let Err(error) = &result
        && error.is_unread()
    {
        // An entry that a reading would find is worth the reading.
        let worth = options.policy != Policy::Refresh && cache.has_entry_of(&command);
        if !worth && matches!(options.policy, Policy::NoCapture | Policy::RequireWarm) {
            return Err(NoLookup::NoEntry);
        }
        if !worth {
            let sketch = sketch(&command, &scope, &host).map_err(NoLookup::from)?;
            let (policy, engines) = (options.policy, Engines::of(options));
            let unread = Unread { cache, command, scope, host, policy, engines, sketch, began };
            return Err(NoLookup::Unread(Box::new(unread)));
        }
        digests.set_reading(Reading::All);
        result = fingerprint::of(&command, &scope, &host, &mut digests);
    }
    let fingerprint = result?;
    digests.set_reading(Reading::All);
    let (key, engines) = ((scope, host, fingerprint), Engines::of(options));
    let mut lookup = Lookup::new(cache, command, key, engines, digests, began);
    lookup.policy = options.policy;
    lookup.line = line;
    Ok(lookup)
}

impl From<NotAtMain> for NoLookup {
    fn from(reason: NotAtMain) -> Self {
        match reason {
            NotAtMain::Program(error) => error.into(),
            reason => Self::NotAtMain(reason),
        }
    }
}

impl From<FingerprintError> for NoLookup {
    fn from(error: FingerprintError) -> Self {
        match error {
            FingerprintError::NotFound(_) | FingerprintError::NotExecutable { .. } => {
                Self::NoProgram
            }
            error => Self::Fingerprint(error),
        }
    }
}

/// Returns what the options add to the fingerprint: an image made under other
/// conditions is another image.
fn scope(options: &Options, point: Point) -> Scope {
    let mut settings = vec![("capture point".to_owned(), point.name().to_owned())];
    let is_ready = point == Point::Ready;
    if let Some(training) = options.training.as_ref().filter(|_| !is_ready) {
        let Training { runs, with, dir, allow_stateful } = training;
        settings.push(("--train".to_owned(), runs.to_string()));
        if !with.is_empty() {
            settings.push(("--train-with".to_owned(), format!("{with:?}")));
        }
        if let Some(dir) = dir {
            settings.push(("--train-dir".to_owned(), format!("{dir:?}")));
        }
        if *allow_stateful {
            settings.push(("--allow-stateful".to_owned(), "yes".to_owned()));
        }
    }
    // As lists, so that two commands never read like one.
    if is_ready && !options.ready.is_empty() {
        let probes: Vec<String> = options.ready.iter().map(ToString::to_string).collect();
        settings.push(("--ready".to_owned(), format!("{probes:?}")));
    }
    if is_ready && !options.warmup.is_empty() {
        settings.push(("--warmup".to_owned(), format!("{:?}", options.warmup)));
    }
    // Asked for, it has entries of its own: one of the native engine's is none.
    if options.engine == EngineChoice::Criu {
        settings.push(("--engine".to_owned(), "criu".to_owned()));
    }
    if options.tcp == OpenTcp::Close {
        settings.push(("--tcp".to_owned(), "close".to_owned()));
    }
    if !options.keep.is_empty() {
        let mut keep = options.keep.clone();
        keep.sort_unstable();
        keep.dedup();
        settings.push(("--keep-fd".to_owned(), format!("{keep:?}")));
    }
    Scope {
        point,
        inputs: options.inputs.clone(),
        ignore_env: options.ignore_env.clone(),
        settings,
        outputs: options.status_file.iter().cloned().collect(),
    }
}

impl Lookup {
    fn new(
        cache: Cache,
        command: Command,
        (scope, host, fingerprint): (Scope, Host, Fingerprint),
        engines: Engines,
        digests: DigestMemory,
        began: SystemTime,
    ) -> Self {
        Self {
            cache,
            command,
            scope,
            host,
            digests,
            fingerprint,
            entry: None,
            claim: None,
            notify: None,
            line: None,
            policy: Policy::Auto,
            engines,
            began,
        }
    }

    /// Returns the beginning of the entry's id.
    pub fn mark(&self) -> [u8; 8] {
        self.fingerprint.id.mark()
    }

    /// Returns the id of the entry, there or to be.
    pub fn id(&self) -> String {
        self.fingerprint.id.to_string()
    }

    /// Looks for the entry and takes hold of it.
    pub fn find(&mut self) -> Found {
        let entry = match self.cache.lookup(&self.fingerprint.id) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Found::Nothing,
            Err(error) => return Found::Unusable(chain(&error)),
        };
        let checked = self
            .cache
            .verify(&entry, &mut self.digests)
            .map_err(|stale| stale.to_string())
            .and_then(|()| self.engines.check(&entry.meta().engine))
            .and_then(|()| self.check_inner(&entry));
        match checked {
            Ok(()) => {
                self.entry = Some(entry);
                Found::Entry
            }
            Err(reason) => Found::Unusable(reason),
        }
    }

    /// Checks what the command's program had become, if it was another one.
    fn check_inner(&mut self, entry: &Entry) -> Result<(), String> {
        if !entry.meta().files.iter().any(|file| file.name == inner::FILE) {
            return Ok(());
        }
        let text = std::fs::read(entry.image_dir().join(inner::FILE));
        let inner: Inner = text
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(|error| format!("cannot read {} of the image: {error}", inner::FILE))?;
        inner.check(&self.scope, &self.host, &mut self.digests)
    }

    /// Returns machine and caller, as the key has them.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Lets go of the entry that was found.
    pub fn let_go(&mut self) {
        self.entry = None;
    }

    /// Says what is different from the entry that comes closest, one line for
    /// each difference.
    pub fn differences(&self) -> Vec<String> {
        let nearest = self.cache.nearest(&self.fingerprint, self.scope.point);
        nearest.into_iter().flat_map(|nearest| nearest.changes).map(|c| c.to_string()).collect()
    }

    /// Restores the entry that was found.
    pub fn restore(
        &self,
        options: &Options,
        ignored: &[i32],
        closed_stdio: [bool; 3],
    ) -> Result<Restored, CannotRestore> {
        let Some(entry) = &self.entry else {
            return Err(CannotRestore::Unusable("there is no entry".into()));
        };
        let dir = entry.image_dir();
        let mut lent = Vec::new();
        if let Some((whole, line)) = &self.line {
            let unusable = |why| CannotRestore::Unusable(format!("delivering its command: {why}"));
            let at_main = entry.meta().at_main.as_ref();
            let at_main = at_main.ok_or_else(|| unusable("it was not captured at main".into()))?;
            let delivery = delivery::deliver(at_main, whole, line);
            lent.push((at_main.fd, delivery.map_err(|error| unusable(error.to_string()))?));
        }
        let engine = &entry.meta().engine;
        self.engines.restore(
            engine,
            &restore::Request {
                dir: &dir,
                lent: &lent,
                plan: restore::plan::Bytes::Verified,
                program: Some(&Verified { entry, digests: &self.digests }),
                keep: &options.keep,
                closed_stdio,
                ignored,
                pids: &options.pids,
                pid_budget: options.pid_budget,
                clock: options.clock,
                deadline: DEADLINE,
            },
        )
    }

    /// Says why the entry is not restored by the native engine, if nobody asked
    /// for another.
    pub fn why_not_native(&self) -> Option<String> {
        let entry = self.entry.as_ref().filter(|entry| entry.meta().engine == "criu")?;
        Record::read(&entry.image_dir()).ok().flatten()?.reason
    }

    /// Returns the socket that the program in the entry notifies, if any.
    pub fn notify(&self) -> Option<Notify> {
        let entry = self.entry.as_ref()?;
        entry.meta().files.iter().find(|file| file.name == NOTIFY_FILE)?;
        let text = std::fs::read(entry.image_dir().join(NOTIFY_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Returns the mode that the program in the entry has put its terminal
    /// into, if it has.
    pub fn terminal(&self) -> Option<terminal::Mode> {
        let entry = self.entry.as_ref()?;
        entry.meta().files.iter().find(|file| file.name == terminal::FILE)?;
        terminal::Mode::read(&entry.image_dir())
    }

    /// Remembers that the entry, which was found good, could not be restored.
    /// One that took too long is removed: it would cost every run the same.
    /// Returns whether a new capture is worth it; if the last one was of no
    /// use either, it is not.
    pub fn note_failed(&mut self, failure: &CannotRestore) -> bool {
        // Held, it could not be removed.
        let Some(captured) = self.entry.take().map(|entry| entry.meta().created) else {
            return true;
        };
        let id = &self.fingerprint.id;
        let failed = self.cache.count_failed_restore(id, captured);
        if failed.is_enough() || matches!(failure, CannotRestore::Deadline(_)) {
            // One that is in use is not so bad.
            let _ = self.cache.remove(id);
        }
        // Nobody depends on the note.
        let reason = failure.to_string();
        let _ = self.cache.note_failed_restore(id, &self.command, &reason, failed);
        !failed.is_enough()
    }

    /// Does what a hit leaves to do once the program runs.
    pub fn finish_hit(&mut self) {
        // Others may replace it from here on.
        self.entry = None;
        self.cache.note_restored(&self.fingerprint.id);
        self.cache.note_use(&self.fingerprint.id);
        self.save_digests();
    }

    /// Writes down what files have been hashed; that this fails only costs the
    /// next run the same work.
    pub fn save_digests(&mut self) {
        let _ = self.cache.save_digests(&mut self.digests);
    }

    /// Takes the right to capture the command; the error says why not.
    pub fn claim(&mut self) -> Result<(), String> {
        if self.policy != Policy::Refresh
            && let Some(reason) = self.cache.given_up(&self.fingerprint.id)
        {
            return Err(format!("{reason} (--refresh tries again)"));
        }
        // Held, it could not be replaced.
        self.entry = None;
        match self.cache.lock_capture(&self.fingerprint.id) {
            Ok(Some(claim)) => {
                self.claim = Some(claim);
                Ok(())
            }
            Ok(None) => Err("another run is capturing this command".into()),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Tells which socket the program notifies.
    pub fn set_notify(&mut self, path: &Path) {
        self.notify = Some(path.to_owned());
    }

    /// Makes a place for the new entry.
    pub fn draft(&self) -> Result<Draft, String> {
        let staging = self.workspace()?;
        Ok(Draft {
            image_dir: staging.image_dir(),
            staging,
            cache: self.cache.clone(),
            command: self.command.clone(),
            scope: self.scope.clone(),
            host: self.host.clone(),
            fingerprint: self.fingerprint.clone(),
            notify: self.notify.clone(),
            point: self.scope.point,
            began: self.began,
        })
    }

    /// Remembers why the command cannot be captured.
    pub fn note_refusal(&self, reason: &str) {
        // Nobody depends on the note.
        let _ = self.cache.note_refusal(&self.fingerprint.id, &self.command, reason);
    }
}

/// An entry that was found good, as a witness of its program's file: the file
/// that is opened for a restore is the one that was checked a moment before,
/// not one that took its path since, nor one that only the plan names.
#[derive(Debug)]
struct Verified<'a> {
    entry: &'a Entry,
    digests: &'a DigestMemory,
}

impl Witness for Verified<'_> {
    fn knows(&self, path: &Path, file: &Metadata) -> bool {
        self.entry.depends_on(path, &FileIdentity::new(file), self.digests)
    }
}
