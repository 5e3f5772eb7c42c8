//! What a capture at main tells: to its log, and to whoever waits for it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Failed;
use crate::cache::Tier;

/// The log of one capture; replaces that of the last one.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    path: PathBuf,
    began: Instant,
}

impl Log {
    /// Opens a log. One that cannot be written is missed by nobody.
    pub fn new(path: PathBuf) -> Self {
        Self { file: None, path, began: Instant::now() }
    }

    /// Adds a line.
    pub fn line(&mut self, text: &str) {
        print(text);
        if self.file.is_none() {
            // Not before there is something to say: another process may be at
            // the same capture.
            self.file = create(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{:8.3} s  {text}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Says what came of it all.
    pub fn outcome(&mut self, made: &Result<Tier, Failed>) {
        match made {
            Ok(tier) => self.line(&format!("captured: {}", tier.line())),
            Err(failed) if self.file.is_some() || failed.noted => {
                self.line(&format!("not captured: {}", failed.reason));
            }
            Err(_) => {}
        }
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Writes a line for whoever waits; there may be nobody.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
