//! An `/etc` of a test's own, in a mount namespace that it can enter.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A mount namespace in which `/etc` is a copy: what `setup` writes there is
/// gone with the test, and no other test sees it.
pub struct OwnEtc {
    holder: Child,
    _dir: TempDir,
}

impl OwnEtc {
    /// Makes one; an error says what is missing here.
    pub fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can have an /etc of its own".into());
        }
        let dir = super::cache();
        // The directory becomes /etc, which everybody reads.
        let script = r#"
            mount --make-rprivate / && cp -a /etc/. "$1" && chmod 755 "$1" &&
            rm -rf "$1/warmstart" && mount --bind "$1" /etc && echo made && exec sleep 600"#;
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut said = [0; 5];
        let stdout = holder.stdout.as_mut().expect("it is piped");
        let made = std::io::Read::read_exact(stdout, &mut said);
        let own = Self { holder, _dir: dir };
        made.map_err(|_| "no mount namespace can be made".to_owned())?;
        Ok(own)
    }

    /// Prepares a command that sees this `/etc`.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--mount", "--target", &self.holder.id().to_string(), "--", "env"]);
        // Entering another mount namespace leads to its root directory.
        inside.arg("-C").arg(command.get_current_dir().unwrap_or(Path::new("/")));
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Runs lines of shell as root; they must succeed.
    #[track_caller]
    pub fn change(&self, script: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]);
        let output = self.command(&shell).output().expect("nsenter runs");
        assert!(output.status.success(), "{script}: {}", super::stderr(&output));
    }
}

impl Drop for OwnEtc {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
