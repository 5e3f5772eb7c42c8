//! Promises about time. They are kept by a released build on a machine that
//! has nothing else to do, so these tests run when asked for:
//! `WARMSTART_TEST_BINARY=target/…/release/warmstart cargo test --test speed
//! -- --ignored --nocapture --test-threads=1`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::service::{Service, compile};
use support::{Jdk, binary, can_choose_pids, full_jdks, repetitions};

/// A JDK and a compiled program, or what is missing.
fn prepare(program: &str) -> Result<(Jdk, tempfile::TempDir), String> {
    if !can_choose_pids() {
        return Err("choosing pids needs CAP_CHECKPOINT_RESTORE".into());
    }
    let jdk = full_jdks().into_iter().next().ok_or("there is no JDK")?;
    Ok((jdk, compile(program)?))
}

/// The middle of some figures, and the smallest and the largest one.
fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

fn show(name: &str, figures: &[f64]) -> f64 {
    let (median, least, most) = spread(figures.to_vec());
    println!("{name}: median {median:.2} ms, {least:.2} to {most:.2}");
    median
}

/// Ends a run in the way that leaves its pids free.
fn end(child: &mut Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
}

/// A ticker with so many megabytes of live objects.
struct Ticker {
    argv: Vec<String>,
    dir: tempfile::TempDir,
}

impl Ticker {
    fn new(jdk: &Jdk, classes: &Path, megabytes: u32) -> Self {
        let words = ["-XX:+UseSerialGC", "-Xmx3g", "-cp", classes.to_str().unwrap(), "Ticker"];
        let mut argv = vec![jdk.java().to_str().unwrap().to_owned()];
        argv.extend(words.map(str::to_owned));
        argv.push(megabytes.to_string());
        Self { argv, dir: support::cache() }
    }

    fn status_file(&self) -> PathBuf {
        self.dir.path().join("status")
    }

    fn start(&self, option: &str) -> (Child, Instant) {
        let _ = fs::remove_file(self.status_file());
        let mut command = Command::new(binary());
        // A cold start is one that finds no cache.
        let cache = if option == "--no-capture" { "none" } else { "cache" };
        command.env("WARMSTART_CACHE_DIR", self.dir.path().join(cache));
        // Ready means: the objects are there, and it says so now and then.
        command.args(["--ready", "log:^tick 20 ", option]);
        command.arg("--status-file").arg(self.status_file()).arg("--").args(&self.argv);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        (command.spawn().unwrap(), began)
    }

    fn status(&self) -> serde_json::Value {
        let text = fs::read(self.status_file()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn capture(&self) {
        let (mut child, began) = self.start("-q");
        let mut said = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        while self.status()["outcome"] != "captured" {
            assert!(began.elapsed() < Duration::from_secs(120), "{}", self.status());
            assert!(child.try_wait().unwrap().is_none(), "{}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
        end(&mut child);
        reader.join().unwrap().unwrap();
    }

    /// Milliseconds from the start to the first line of output.
    fn first_line(&self, option: &str, outcome: &str) -> f64 {
        let (mut child, began) = self.start(option);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let took = began.elapsed();
        assert!(line.starts_with("tick "), "{line:?}");
        while self.status()["outcome"].is_null() {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.status()["outcome"], outcome, "{}", self.status());
        end(&mut child);
        took.as_secs_f64() * 1e3
    }
}

#[test]
#[ignore = "measures time"]
fn a_gigabyte_is_restored_as_fast_as_sixteen_megabytes() {
    let (jdk, classes) = match prepare("Ticker.java") {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let tickers = [16, 1024].map(|megabytes| Ticker::new(&jdk, classes.path(), megabytes));
    tickers.iter().for_each(Ticker::capture);
    let (mut restored, mut cold) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..repetitions(40) {
        for (at, ticker) in tickers.iter().enumerate() {
            let took = ticker.first_line("--require-warm", "restored");
            // The first one looks whether the pages file is what was written.
            if round > 1 {
                restored[at].push(took);
            }
            if round % 10 == 0 {
                cold[at].push(ticker.first_line("--no-capture", "cold"));
            }
        }
    }
    show("16 MB cold", &cold[0]);
    show("1 GB cold", &cold[1]);
    let small = show("16 MB restored", &restored[0]);
    let big = show("1 GB restored", &restored[1]);
    println!("ratio {:.2}", big / small);
    assert!(big <= 1.5 * small, "1 GB takes {:.2} times as long as 16 MB", big / small);
}

/// Watches, from outside, how long warmstart takes from its `execve` to its
/// first `clone3`: through tracepoints, in a mount namespace of its own.
struct Watch(Child);

impl Watch {
    fn start() -> Result<Self, String> {
        let name = binary().file_name().unwrap().to_str().unwrap().to_owned();
        let name = &name[..name.len().min(15)];
        let script = format!(
            "[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing || exit 1\n\
             cd /sys/kernel/tracing && mkdir instances/warmstart-$$ || exit 1\n\
             cd instances/warmstart-$$\n\
             echo mono >trace_clock\n\
             for event in sched/sched_process_exec syscalls/sys_enter_clone3; do\n\
               echo 'COMM == \"{name}\"' >events/$event/filter\n\
               echo 1 >events/$event/enable\n\
             done\n\
             echo ready; read end; cat trace\n\
             for event in sched/sched_process_exec syscalls/sys_enter_clone3; do\n\
               echo 0 >events/$event/enable\n\
             done\n\
             cd ..; rmdir warmstart-$$"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut ready = [0; 6];
        match child.stdout.as_mut().unwrap().read_exact(&mut ready) {
            Ok(()) => Ok(Self(child)),
            Err(_) => {
                child.wait().unwrap();
                Err("tracepoints cannot be used".into())
            }
        }
    }

    /// Returns the times in milliseconds.
    fn end(mut self) -> Vec<f64> {
        self.0.stdin.take().unwrap().write_all(b"end\n").unwrap();
        let mut trace = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut trace).unwrap();
        self.0.wait().unwrap();
        // `warmstart-123 [001] d.... 12.345678: sys_clone3(...)`
        let mut began: Option<(&str, f64)> = None;
        let mut times = Vec::new();
        for line in trace.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_ascii_whitespace();
            let Some(task) = words.next() else { continue };
            let Some(time) = words.nth(2).and_then(|word| word.strip_suffix(':')?.parse().ok())
            else {
                continue;
            };
            match words.next() {
                Some("sched_process_exec:") => began = Some((task, time)),
                Some(event) if event.starts_with("sys_") => {
                    if let Some((of, began)) = began.take_if(|(of, _)| *of == task) {
                        assert_eq!(of, task);
                        times.push((time - began) * 1e3);
                    }
                }
                _ => {}
            }
        }
        times
    }
}

/// Copies the binary into a directory, as every way of installing it does.
///
/// What a linker writes piece by piece lies in the page cache in single pages,
/// and each fault maps sixteen of them one by one: a hit takes a quarter longer.
fn installed(dir: &Path) -> PathBuf {
    let path = dir.join(binary().file_name().unwrap());
    fs::copy(binary(), &path).unwrap();
    path
}

#[test]
#[ignore = "measures time"]
fn a_hit_on_a_big_jar_is_decided_within_two_milliseconds() {
    let (jdk, classes) = match prepare("Exercise.java") {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let jar = support::cache();
    let jar = jar.path().join("big.jar");
    // Stored, not compressed: 100 MB on disk.
    fs::write(classes.path().join("blob"), vec![7; 100 << 20]).unwrap();
    let mut make = Command::new(jdk.home.join("bin/jar"));
    make.args(["--create", "--no-compress", "--file"]).arg(&jar).arg("-C").arg(classes.path());
    match make.arg(".").status() {
        Ok(status) if status.success() => {}
        other => skip!("jar: {other:?}"),
    }
    let mut service = Service::exercise(&jdk, &[], &jar);
    service.binary = installed(classes.path());
    service.capture(&[]).end();
    // Files that were written just now are hashed once more, later.
    std::thread::sleep(Duration::from_secs(3));
    for _ in 0..3 {
        service.restore().end();
    }
    let accounts = || -> Vec<f64> {
        let account = |_| {
            // What the kernel has to clear up after the last one, and whoever
            // looks on, takes time from what is looked at.
            std::thread::sleep(Duration::from_millis(50));
            let mut run = service.start(&[]);
            std::thread::sleep(Duration::from_millis(20));
            let status = run.wait_status(|_| true);
            assert_eq!(status["pids"], "set-tid", "{status}");
            run.get("/");
            run.end();
            status["timings_ms"]["lookup"].as_f64().unwrap()
        };
        (0..repetitions(40)).map(account).collect()
    };
    let unwatched = show("by its own account", &accounts());
    let watch = match Watch::start() {
        Ok(watch) => watch,
        Err(missing) => skip!("{missing}"),
    };
    let own = accounts();
    let outside = watch.end();
    assert!(outside.len() >= own.len(), "{} runs were seen of {}", outside.len(), own.len());
    let told = show("by its own account, watched", &own);
    let seen = show("seen from outside", &outside);
    // Its own account begins when its first code runs, after the execve; to
    // watch one system call slows every one down.
    let before = seen - told;
    assert!((0.0..0.7).contains(&before), "{seen:.2} ms, of which it tells {told:.2}");
    let all = unwatched + before;
    println!("from exec to clone3, unwatched: {all:.2} ms");
    assert!(all < 2.0, "{all:.2} ms from exec to clone3");
}
