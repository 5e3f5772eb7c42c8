//! Many copies of one image at once, each in namespaces of its own, and what
//! they cannot share.
//!
//! `WARMSTART_REPEAT` says how many rounds of eight there are.

#![allow(clippy::unwrap_used)]

mod support;
mod trial;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use support::enclosed::mounts;
use support::occupy::Occupant;
use support::service::{Service, compile, listeners, pid_of_image, tids_of_image};
use support::{Jdk, Ordinary, full_jdks, jdk, repetitions};
use trial::{PATIENCE, STATUS, Trial};

const COPIES: usize = 8;

/// Behind the gate it reads a line. `serve` makes it a server on any port,
/// which it tells, that answers one line.
const ECHO: &str = r#"
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        String line = in.readLine();
        if (line.startsWith("serve")) {
            try (java.net.ServerSocket server = new java.net.ServerSocket(0)) {
                System.out.println(server.getLocalPort());
                java.net.Socket peer = server.accept();
                String asked = new BufferedReader(
                    new InputStreamReader(peer.getInputStream())).readLine();
                peer.getOutputStream().write((line + " " + asked + "\n").getBytes());
                peer.close();
            }
        }
        System.out.println("echo " + line);"#;

/// The program, captured for a user.
fn captured(user: &Ordinary, jdk: &Jdk) -> Result<Trial, String> {
    let trial = Trial::java(jdk, "", "", ECHO).ok_or("there is no javac")?;
    let mut trial = trial.run_by(user);
    trial.is_asked = true;
    trial.capture()?;
    Ok(trial)
}

/// Starts one of many copies.
fn start(trial: &Trial, number: usize, options: &[&str]) -> Child {
    trial.command_with(&format!("status-{number}"), options).spawn().unwrap()
}

/// Tells a copy its line; asks it, if it serves; takes its end.
fn converse(mut child: Child, line: &str) -> (Option<i32>, String) {
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    writeln!(stdin, "{line}").unwrap();
    let mut said = String::new();
    if line.starts_with("serve") {
        let mut port = String::new();
        stdout.read_line(&mut port).unwrap();
        let mut peer =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port.trim().parse().unwrap())).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(peer, "asked").unwrap();
        peer.read_to_string(&mut said).unwrap();
    }
    stdout.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

/// Runs eight at once; returns how long they took.
fn eight(trial: &Trial, round: usize, kind: &str, options: &[&str]) -> Duration {
    trial.open_gate();
    let began = Instant::now();
    let children: Vec<Child> = (0..COPIES).map(|copy| start(trial, copy, options)).collect();
    let lines = (0..COPIES).map(|copy| format!("{kind} {round}.{copy}"));
    let talks: Vec<_> = children
        .into_iter()
        .zip(lines)
        .map(|(child, line)| {
            let talk = {
                let line = line.clone();
                move || converse(child, &line)
            };
            (line, std::thread::spawn(talk))
        })
        .collect();
    for (line, talk) in talks {
        let (code, said) = talk.join().unwrap();
        let served = if kind == "serve" { format!("{line} asked\n") } else { String::new() };
        assert_eq!(said, format!("{served}echo {line}\n{}", trial::ANSWER), "{line}");
        assert_eq!(code, Some(STATUS), "{line}");
    }
    began.elapsed()
}

fn eight_at_once(kind: &str, release: u32) {
    let Some(jdk) = jdk(release) else { skip!("there is no JDK {release}") };
    let made = Ordinary::with_namespaces().and_then(|user| Ok((captured(&user, &jdk)?, user)));
    let (trial, _user) = match made {
        Ok(made) => made,
        Err(missing) => skip!("{missing}"),
    };
    let before = mounts();
    let rounds = repetitions(5);
    let mut restored = Duration::ZERO;
    for round in 0..rounds {
        restored += eight(&trial, round, kind, &[]);
        for copy in 0..COPIES {
            let status = trial.status_in(&format!("status-{copy}")).unwrap();
            assert_eq!(status["pids"], "namespace", "{kind} {round}.{copy}: {status}");
        }
    }
    trial.check_nothing_left();
    assert_eq!(mounts(), before);
    // Without an entry, and without making one.
    std::fs::remove_dir_all(trial.cache.join("v1/entries")).unwrap();
    let cold = eight(&trial, rounds, kind, &["--no-capture"]);
    let each = restored / rounds as u32;
    println!("{rounds} times {COPIES} copies ({kind}, JDK {release}): {each:?}; cold: {cold:?}");
}

#[test]
fn eight_answer_what_each_was_asked() {
    eight_at_once("say", 17);
}

#[test]
fn eight_servers_on_any_port() {
    eight_at_once("serve", 25);
}

/// A user with the capability, a JDK and the server, or what is missing.
fn capable() -> Result<(Ordinary, Jdk, tempfile::TempDir), String> {
    Ordinary::with_namespaces()?;
    let user = Ordinary::with_capability()?;
    let jdk = full_jdks().into_iter().next().ok_or("there is no JDK")?;
    Ok((user, jdk, compile("Exercise.java")?))
}

/// The capability does not help where somebody else has the pid.
#[test]
fn taken_pids_and_tids_of_a_user_with_the_capability() {
    let (user, jdk, classes) = match capable() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    let pid = pid_of_image(&service.image());
    let tids: BTreeSet<i32> = tids_of_image(&service.image());
    let other = *tids.iter().find(|tid| **tid != pid).unwrap();
    for taken in [pid, other] {
        let _occupant = Occupant::of(taken).unwrap();
        let mut run = service.start(&[]);
        let status = run.wait_status(|_| true);
        assert_eq!(status["pids"], "namespace", "{taken}: {status}");
        assert_eq!(run.app(), pid);
        assert!(run.get("/work?1").ends_with("exec=2/0"));
        assert_eq!(listeners(service.port), 1);
        assert_eq!((run.said().as_str(), run.end().code()), ("", Some(143)));

        let mut run = service.start(&["--pids", "set-tid"]);
        let status = run.wait_status(|_| true);
        assert_eq!(status["reason"], format!("pid {taken} is taken"), "{status}");
        assert!(run.get("/work?1").ends_with("exec=2/0"));
        assert_eq!((run.app(), listeners(service.port)), (run.pid(), 1));
        assert_eq!(run.end().code(), Some(143));
    }
    service.restore().end();
}

/// A second copy of a server cannot have its port: it is started cold, and
/// hears that itself. That says nothing about the image.
#[test]
fn a_port_that_another_copy_has() {
    let (user, jdk, classes) = match capable() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    let made = || std::fs::metadata(service.image()).unwrap().modified().unwrap();
    let image = made();
    let mut first = service.restore();
    for round in 0..3 {
        // Not `start`: it shares the file of what is said.
        let mut second = user.command(user.binary());
        let status = user.home().join("second");
        second.env("WARMSTART_CACHE_DIR", service.cache()).arg("--status-file").arg(&status);
        second.arg("--").args(&service.argv);
        let null = std::process::Stdio::null;
        let errors = service.cache().join("errors");
        second.stdin(null()).stdout(null()).stderr(std::fs::File::create(&errors).unwrap());
        assert_eq!(second.status().unwrap().code(), Some(1), "round {round}");
        let said = std::fs::read_to_string(&errors).unwrap();
        let status: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&status).unwrap()).unwrap();
        let reason = status["reason"].as_str().unwrap_or_default();
        assert!(reason.ends_with(": the address is in use"), "{status}\n{said}");
        assert_eq!(status["outcome"], "cold");
        let line = format!("warmstart: started cold: {reason}\n");
        assert!(said.starts_with(&line) && said.contains("BindException"), "{said}");
        assert!(first.get("/work?1").ends_with("exec=2/0"), "round {round}");
        assert_eq!(listeners(service.port), 1);
    }
    assert_eq!(first.end().code(), Some(143));
    // Not captured again, nor counted as an image that cannot be restored.
    let mut last = service.restore();
    assert!(last.get("/work?1").ends_with("exec=2/0"));
    assert_eq!(made(), image);
    assert_eq!(last.end().code(), Some(143));
}

/// The middle of some times.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What the namespaces cost: runs of both kinds alternate.
#[test]
fn a_namespace_costs_little() {
    let (user, jdk, classes) = match capable() {
        Ok(prepared) => prepared,
        Err(missing) => skip!("{missing}"),
    };
    let service = Service::exercise(&jdk, &[], classes.path()).run_by(&user);
    service.capture(&[]).end();
    let mut times = [Vec::new(), Vec::new()];
    let mut launches = [Vec::new(), Vec::new()];
    for _ in 0..repetitions(5) {
        for (index, strategy) in ["set-tid", "namespace"].into_iter().enumerate() {
            let mut run = service.start(&["--pids", strategy]);
            let status = run.wait_status(|_| true);
            run.get("/environment?HOME");
            // A pid that is taken for the moment is no time.
            if status["pids"] == strategy {
                times[index].push(run.age());
                let ms = status["timings_ms"]["total"].as_f64().unwrap();
                launches[index].push(Duration::from_secs_f64(ms / 1e3));
            }
            run.end();
        }
    }
    let [set_tid, namespace] = times.each_mut().map(|times| median(times));
    let more = namespace.saturating_sub(set_tid);
    println!("first answer: set-tid {set_tid:?}, namespace {namespace:?}, {more:?} more");
    let [outside, inside] = launches.each_mut().map(|times| median(times));
    println!("until it runs: set-tid {outside:?}, namespace {inside:?}");
    assert!(namespace < set_tid * 3 + Duration::from_millis(50), "{set_tid:?} {namespace:?}");
}

/// Where a user may make no namespaces at all: limited in a user namespace of
/// the test's own, so that nobody else is.
#[test]
fn where_namespaces_are_off_it_is_cold() {
    let user = match Ordinary::with_namespaces() {
        Ok(user) => user,
        Err(missing) => skip!("{missing}"),
    };
    let mut trial = Trial::python("pass", "pass").run_by(&user);
    let limited = "echo 0 >/proc/sys/user/max_user_namespaces || exit 99
        exec setpriv --ambient-caps -all --inh-caps -all -- \"$@\"";
    let words = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", limited];
    trial.via.extend(words.map(str::to_owned));
    trial.via.push("sh".into());
    trial.capture().unwrap();
    for _ in 0..3 {
        let ended = trial.run();
        let why = "choosing pids needs CAP_CHECKPOINT_RESTORE, and namespaces cannot be made \
                   here: unshare: No space left on device";
        ended.check_cold("no namespaces", why);
        assert_eq!(ended.reason.as_deref(), Some(why));
    }
    trial.check_nothing_left();
    // Somewhere else the same image is as good as ever.
    trial.via.truncate(trial.via.len() - 8);
    trial.run().check_restored("without the limit");
}
