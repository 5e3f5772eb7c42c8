//! Clocks that are not those of the capture: after a reboot, which a time
//! namespace plays, and much later.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use support::{Jdk, jdk};
use trial::{Ended, Trial};

const DAY: i64 = 24 * 3600;

/// Shifts the clocks of what is called through it (`time_namespaces(7)`).
fn shifted(seconds: i64) -> Vec<String> {
    let seconds = seconds.to_string();
    let words = ["unshare", "--time", "--fork", "--kill-child", "--monotonic", &seconds];
    let words = words.into_iter().chain(["--boottime", &seconds, "--"]);
    words.map(str::to_owned).collect()
}

/// Says what is missing here.
fn can_shift() -> Result<(), String> {
    let words = shifted(DAY);
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["cat", "/proc/self/timens_offsets"]);
    let output = command.output().map_err(|error| format!("unshare: {error}"))?;
    let said = support::stdout(&output);
    if said.contains(&format!(" {DAY} ")) {
        return trial::can_restore();
    }
    Err(format!("no time namespaces: {said}{}", support::stderr(&output)))
}

#[track_caller]
fn check_enclosed(trial: &Trial, ended: &Ended, what: &str) {
    ended.check_restored(what);
    assert_eq!(trial.status().unwrap()["pids"], "namespace", "{what}");
}

/// The restored program ticks as before, by either clock, although the clock
/// of the machine is a month behind.
#[test]
fn an_image_from_the_future() {
    if let Err(missing) = can_shift() {
        skip!("{missing}");
    }
    let early = "def clocks():
    return [time.clock_gettime(c) for c in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)]
before = clocks()
import threading
ticks = []
def tick():
    while True:
        time.sleep(0.005); ticks.append(time.monotonic())
threading.Thread(target=tick, daemon=True).start()";
    let late = "
if 'before' in globals():
    passed = [now - then for now, then in zip(clocks(), before)]
    if not all(0 <= p < 600 for p in passed): print('jumped', passed); sys.exit(9)
    count, real = len(ticks), time.clock_gettime(time.CLOCK_REALTIME)
    while len(ticks) < count + 40: time.sleep(0.001)
    real = time.clock_gettime(time.CLOCK_REALTIME) - real
    if not 0.1 < real < 5: print('40 ticks took', real); sys.exit(9)";
    let mut trial = Trial::python(early, late);
    trial.via = shifted(30 * DAY);
    trial.capture().unwrap();
    trial.via.clear();
    check_enclosed(&trial, &trial.run(), "with the clock behind");

    trial.options.extend(["--pids".into(), "set-tid".into()]);
    let ended = trial.run();
    ended.check_cold("outside", "its clocks are ahead of now's");
    trial.options.truncate(2);

    // The image's own clock: pids are chosen outside again.
    trial.via = shifted(30 * DAY + 60);
    let ended = trial.run_restored("in its own time");
    assert!(ended.took < trial::PATIENCE);
}

const RUNS: &str = "static java.util.concurrent.atomic.AtomicLong runs = \
    new java.util.concurrent.atomic.AtomicLong();";
const SCHEDULE: &str = "java.util.concurrent.Executors.newScheduledThreadPool(1, r -> { \
    Thread t = new Thread(r); t.setDaemon(true); return t; }).scheduleAtFixedRate( \
    runs::incrementAndGet, 0, 10, java.util.concurrent.TimeUnit.MILLISECONDS);";
/// All runs since the start, in the file `runs`.
const COUNT: &str = "Thread.sleep(200); \
    Files.writeString(dir.resolve(\"runs\"), Long.toString(runs.get()));";

/// A schedule of 10 ms, an hour later: returns the trial, captured, whose runs
/// are an hour later.
fn an_hour_later(jdk: &Jdk) -> Option<Trial> {
    let mut trial = Trial::java(jdk, RUNS, SCHEDULE, COUNT)?;
    trial.capture().unwrap();
    trial.via = shifted(3600);
    Some(trial)
}

fn runs(trial: &Trial) -> u64 {
    std::fs::read_to_string(trial.path("runs")).unwrap().parse().unwrap()
}

fn fixed_rates(release: u32) {
    let Some(jdk) = jdk(release) else { skip!("there is no JDK {release}") };
    if let Err(missing) = can_shift() {
        skip!("{missing}");
    }
    let Some(mut trial) = an_hour_later(&jdk) else { skip!("there is no javac") };
    trial.options.extend(["--clock".into(), "continuous".into()]);
    check_enclosed(&trial, &trial.run(), "with clocks of its own");
    let calm = runs(&trial);
    trial.options.truncate(2);
    let attempt = || {
        trial.run_restored("with the machine's clocks");
        trial.status().unwrap()["pids"] == "set-tid"
    };
    support::with_free_pids(attempt, |is_outside| !is_outside);
    let storm = runs(&trial);
    println!("runs of a 10 ms schedule an hour later, in all: {calm}; outside: {storm}");
    // Those of before the capture, and of 200 ms since.
    assert!((10..3_000).contains(&calm), "{calm}");
    assert!(storm > calm + 5_000, "{storm}: the storm that the documents tell of");
}

#[test]
fn no_storm_of_a_fixed_rate_on_jdk_17() {
    fixed_rates(17);
}

#[test]
fn no_storm_of_a_fixed_rate_on_jdk_25() {
    fixed_rates(25);
}
