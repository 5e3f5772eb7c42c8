//! The ways in which a case is carried.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::case::{Bench, Step, criu};
use super::coverage::Cell;
use super::support;
use super::support::target::alone;

/// One way: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Dumped and restored by us, its pages mapped.
    Mapped,
    /// The same, its pages copied.
    Copied,
    /// Restored in a namespace of its own, its pages copied.
    Namespace,
    /// Dumped by us, restored by CRIU.
    ToCriu,
    /// Dumped by CRIU, restored by us.
    FromCriu,
}

/// All of them, in the order of the table.
pub const ALL: [Way; 5] = [Way::Mapped, Way::Copied, Way::Namespace, Way::ToCriu, Way::FromCriu];

impl Way {
    /// A word for directories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Copied => "copied",
            Self::Namespace => "namespace",
            Self::ToCriu => "to-criu",
            Self::FromCriu => "from-criu",
        }
    }

    fn by_criu(self) -> bool {
        matches!(self, Self::ToCriu | Self::FromCriu)
    }

    fn strategy(self) -> &'static str {
        if self == Self::Namespace { "namespace" } else { "set-tid" }
    }

    /// Carries a case.
    pub fn carry(self, bench: Bench<'_>) -> Cell {
        let case = bench.case;
        if self == Self::Mapped && case.only_copied || self.by_criu() && case.launched {
            return Cell::NotSo;
        }
        let carried = match (case.launched, self) {
            (true, Self::Mapped | Self::Copied | Self::Namespace) => self.run(&bench),
            _ => self.interchange(&bench),
        };
        match carried {
            Ok(()) => Cell::Works,
            Err(cell) => cell,
        }
    }

    fn prepare(self, mut command: Command) -> Command {
        command.env("RESTORED", "1");
        if self.by_criu() {
            command.env("WITH_CRIU", "1");
        }
        command
    }

    fn words(self) -> &'static [&'static str] {
        if self == Self::Mapped { &["mapped"] } else { &[] }
    }

    /// Dumps a process into a directory, and restores that.
    fn interchange(self, bench: &Bench<'_>) -> Step<()> {
        let command = self.prepare(bench.command(&[], self.words()));
        let mut program = bench.start(command, "out")?;
        bench.wait_until_ready(&mut program)?;
        let pid = program.pid();
        if self == Self::FromCriu {
            bench.check_for_criu(&mut program)?;
            fs::create_dir(bench.path("image")).unwrap();
            let mut command = criu_command("dump", &bench.path("image"));
            command.args(["-t", &pid.to_string()]);
            let (status, _) = bench.tool(command, "dump")?;
            if !status.success() {
                let reason = format!("CRIU: {}", complaint(bench));
                return Err(bench.refused(&mut program, &reason));
            }
            program.wait()?;
        } else {
            bench.dump(&mut program)?;
        }
        if !self.by_criu() {
            self.check_mode(bench)?;
        }
        // It looks as soon as it runs again.
        bench.go();
        if self == Self::ToCriu {
            return restore_by_criu(bench, pid);
        }
        for _ in 0..50 {
            let mut command = alone(support::binary());
            command.args(["image", "restore", "--pids", self.strategy()]).arg(bench.path("image"));
            let mut restored = bench.start(command, "restored")?;
            let end = bench.end(&mut restored);
            let said = restored.said();
            let Some((_, why)) = said.split_once(" was not restored: ") else { return end };
            if !said.contains("is taken") {
                let why = bench.general(why.lines().next().unwrap_or_default(), pid);
                return Err(match self {
                    // Only now is it known what CRIU has dumped.
                    Self::FromCriu => Cell::Refused(why),
                    _ => Cell::Fails(format!("dumped, but not restored: {why}")),
                });
            }
            reap_pids(&bench.path("image"));
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Cell::Fails("its pid stays taken".into()))
    }

    /// Sees that memory comes back as it is to.
    fn check_mode(self, bench: &Bench<'_>) -> Step<()> {
        let mut command = alone(support::binary());
        command.args(["image", "show"]).arg(bench.path("image"));
        let (_, said) = bench.tool(command, "show")?;
        let wanted = if self == Self::Mapped { "mapped" } else { "copied" };
        if said.contains(&format!(" bytes, {wanted};")) {
            return Ok(());
        }
        Err(Cell::Fails(format!("its pages are not {wanted}")))
    }

    /// Has it captured and restored by `warmstart run`.
    fn run(self, bench: &Bench<'_>) -> Step<()> {
        let ready = format!("file:{}", bench.path("ready").display());
        let status = bench.path("status");
        let binary = support::binary();
        let names = [&binary, &status].map(|path| path.display().to_string());
        let launcher = [
            &names[0],
            "run",
            "--engine",
            "native",
            "--at",
            "ready",
            "--ready",
            &ready,
            "--status-file",
            &names[1],
            "--pids",
            self.strategy(),
            "--",
        ];
        let command = || {
            let mut command = self.prepare(bench.command(&launcher, self.words()));
            command.env("WARMSTART_CACHE_DIR", bench.path("cache"));
            command
        };
        let outcome = || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let text = |key| value[key].as_str().unwrap_or_default().to_owned();
            (text("outcome"), text("reason"), value["app_pid"].as_i64().unwrap_or(0) as i32)
        };
        let mut cold = bench.start(command(), "out")?;
        bench.wait_until_ready(&mut cold)?;
        let mut tries = 0;
        // Until it is known whether it is captured, the reason is that of the miss.
        while ["", "no entry yet"].contains(&outcome().1.as_str()) && outcome().0 != "captured" {
            tries += 1;
            if tries > 5000 {
                return Err(Cell::Fails(format!("not captured: {}", cold.said())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let (what, reason, pid) = outcome();
        if what != "captured" {
            let cell = bench.refused(&mut cold, &reason);
            return Err(match cell {
                Cell::Refused(_) => Cell::Refused(bench.general(&reason, pid)),
                other => other,
            });
        }
        bench.go();
        bench.end(&mut cold)?;
        let mut warm = bench.start(command(), "restored")?;
        bench.end(&mut warm)?;
        match outcome() {
            (what, _, _) if what == "restored" => Ok(()),
            (what, reason, _) => Err(Cell::Fails(format!("{what}: {reason}"))),
        }
    }
}

fn criu_command(action: &str, dir: &Path) -> Command {
    let mut command = alone(criu().expect("the test has looked for it"));
    command.args([action, "--shell-job", "--file-locks", "--link-remap", "-v2", "-o", "log", "-D"]);
    command.arg(dir);
    command
}

/// Returns what CRIU first complains about: `(00.01) 42: Error (file.c:7): why`.
fn complaint(bench: &Bench<'_>) -> String {
    let log = fs::read(bench.path("image").join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    let mut errors = log.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    // Which it goes on without.
    let error = errors.find(|(_, why)| !why.starts_with("rlimit: "));
    error.map_or_else(|| "no reason given".to_owned(), |(_, why)| why.to_owned())
}

/// Takes away who has ended on a pid of an image: orphans of the dumped program,
/// which are ours now.
fn reap_pids(image: &Path) {
    support::service::tids_of_image(image).into_iter().for_each(support::session::reap);
}

fn restore_by_criu(bench: &Bench<'_>, pid: i32) -> Step<()> {
    for _ in 0..50 {
        let mut restored =
            bench.start(criu_command("restore", &bench.path("image")), "restored")?;
        let end = bench.end(&mut restored);
        let why = complaint(bench);
        // It ends with 0 even if the program did not.
        if end.is_ok() || why == "no reason given" {
            return end;
        }
        if !why.contains("File exists") {
            return Err(Cell::Refused(format!("CRIU: {}", bench.general(&why, pid))));
        }
        reap_pids(&bench.path("image"));
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Cell::Fails("its pid stays taken".into()))
}
