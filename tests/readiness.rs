//! Probes against real programs.

// Functions that are no tests themselves fail by panicking, too.
#![allow(clippy::unwrap_used)]

#[path = "readiness/program.rs"]
mod program;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use program::{Program, SERVER, free_port, python, shell};
use warmstart::readiness::{
    IDLE_WINDOW, Monitor, NotifySocket, PORT_HELD, Probe, Readiness, Warmup, wants_socket,
};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Long enough for a probe that would hold wrongly to do so.
const A_WHILE: Duration = Duration::from_millis(700);

#[test]
fn delay_counts_from_the_start() {
    let mut program = Program::start(&mut shell("sleep 9"), &["delay:300"]);
    let took = program.until_ready(LONG);
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert_eq!(program.ready_by(), "delay:300");
}

#[test]
fn a_program_that_ends_is_gone() {
    let mut program = Program::start(&mut shell("exit 3"), &["delay:60000"]);
    assert_eq!(program.until(LONG, |readiness| *readiness == Readiness::Gone), Readiness::Gone);
}

#[test]
fn file_must_be_newer_than_the_start_and_is_relative_to_the_directory() {
    let mut program = Program::prepared(
        &mut shell("sleep 1; touch run/ready; sleep 9"),
        &["file:run/ready"],
        |dir| {
            fs::create_dir(dir.join("run")).unwrap();
            fs::write(dir.join("run/ready"), "of an earlier run").unwrap();
        },
    );
    program.stays_waiting(A_WHILE, "a new file run/ready");
    program.until_ready(LONG);
}

#[test]
fn a_file_made_at_once_is_new() {
    for _ in 0..20 {
        let mut program =
            Program::start(Command::new("sh").args(["-c", ": > f; exec sleep 9"]), &["file:f"]);
        program.until_ready(LONG);
    }
}

#[test]
fn log_finds_a_line_on_either_stream() {
    for to in ["1", "2"] {
        let script =
            format!("echo booting; sleep 0.2; printf 'Started in %d ms\\n' 12 >&{to}; sleep 9");
        let mut program = Program::start(&mut shell(&script), &["log:^Started in [0-9]+ ms$"]);
        assert!(program.monitor.wants_output());
        program.until_ready(LONG);
    }
    let mut program = Program::start(&mut shell("echo not Started; sleep 9"), &["log:^Started"]);
    program.stays_waiting(A_WHILE, "a line of output that matches `^Started`");
}

#[test]
fn idle_waits_for_work_to_end() {
    let script = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\n\
                  print('done', flush=True)\ntime.sleep(30)";
    let mut program = Program::start(&mut python(script), &["idle"]);
    program.until_ready(LONG);
    assert!(program.printed().contains("done"), "idle while it worked");
}

#[test]
fn a_child_that_works_is_not_idle() {
    let mut program = Program::start(&mut shell("while :; do :; done & wait"), &["idle:100"]);
    program.stays_waiting(A_WHILE, "100 ms with under 5% of one CPU");
}

#[test]
fn a_chain_of_short_children_is_not_idle() {
    let script = "while :; do sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done'; done";
    let mut program = Program::start(&mut shell(script), &["idle:200"]);
    program.stays_waiting(A_WHILE, "under 5% of one CPU");
}

#[test]
fn a_stopped_program_is_not_idle() {
    let mut program = Program::start(&mut shell("sleep 9"), &["idle:50"]);
    program.signal("STOP");
    program.stays_waiting(A_WHILE, "under 5% of one CPU");
    program.signal("CONT");
    program.until_ready(LONG);
}

#[test]
fn port_is_found_without_connecting() {
    for (host, probe) in [("127.0.0.1", "port"), ("127.0.0.1", "port:N"), ("::1", "port:N")] {
        let port = free_port();
        let mut program = Program::start(
            &mut python(&format!(
                "import socket, time\n\
                 s = socket.socket({family})\n\
                 s.bind(('{host}', {port})); s.listen()\n\
                 t = time.monotonic()\n\
                 print('listening', flush=True)\n\
                 s.accept(); print('SOMEBODY CONNECTED', flush=True)",
                family = if host.contains(':') { "socket.AF_INET6" } else { "socket.AF_INET" }
            )),
            &[&probe.replace('N', &port.to_string())],
        );
        let listening = program.until_printed("listening", LONG);
        program.until_ready(LONG);
        assert!(listening.elapsed() >= PORT_HELD, "ready {:?} after", listening.elapsed());
        assert_eq!(program.monitor.port(), Some(port));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!program.printed().contains("SOMEBODY"));
    }
}

#[test]
fn the_port_of_another_process_does_not_count() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let mut another = Program::start(&mut python(&server(free_port())), &["port"]);
    another.until_ready(LONG);
    let probes = [format!("port:{port}"), format!("port:{}", another.port()), "port".to_owned()];
    for probe in probes {
        let mut program = Program::start(&mut shell("sleep 9"), &[&probe]);
        program.stays_waiting(A_WHILE, "listened on");
    }
}

/// Starts a program that listens briefly, several times, each followed by a
/// line `held SECONDS`, and then for good, having said `last`. Returns whether
/// it is taken for ready only then. Where the machine stood still so long that
/// it did not listen briefly, it is started again.
fn is_ready_at_last(brief: &str, is_right: impl Fn(&mut Program) -> bool) -> bool {
    for _ in 0..10 {
        let port = free_port();
        let script = format!(
            "import socket, time\n\
             def listen(): return socket.create_server(('127.0.0.1', {port}))\n\
             def briefly(seconds):\n\
             \x20   began = time.monotonic(); s = listen(); time.sleep(seconds); s.close()\n\
             \x20   print('held', time.monotonic() - began, flush=True)\n\
             {brief}\n\
             s = listen(); print('last', flush=True)\n\
             time.sleep(30)"
        );
        let mut program = Program::start(&mut python(&script), &["port"]);
        if is_right(&mut program) {
            return true;
        }
        program.until_printed("last", LONG);
        let held = |line: &str| line.strip_prefix("held ")?.parse::<f64>().ok();
        let longest = program.printed().lines().filter_map(held).fold(0.0, f64::max);
        if longest < PORT_HELD.as_secs_f64() {
            return false;
        }
    }
    panic!("the machine stands still again and again");
}

/// One real server listens for 31 ms, closes, and listens again half a second
/// later.
#[test]
fn a_port_that_is_closed_again_does_not_count() {
    assert!(is_ready_at_last("briefly(0.031); time.sleep(0.5)", |program| {
        let last = program.until_printed("last", LONG);
        program.until_ready(LONG);
        last.elapsed() >= PORT_HELD
    }));
}

/// Closing and listening again at once gives another socket, and the time
/// starts anew.
#[test]
fn a_port_that_changes_hands_quickly_is_not_held() {
    assert!(is_ready_at_last("for i in range(12): briefly(0.1)", |program| {
        program.until_ready(LONG);
        program.printed().contains("last")
    }));
}

#[test]
fn a_descendant_may_hold_the_port() {
    let port = free_port();
    let mut command = shell("\"$PYTHON\" -c \"$SCRIPT\" & sleep 0.3; wait");
    command.env("PYTHON", program::PYTHON).env("SCRIPT", server(port));
    let mut program = Program::start(&mut command, &[&format!("port:{port}")]);
    program.until_ready(LONG);
}

/// There, sock_diag would show our sockets and not the program's.
#[test]
fn a_port_in_another_network_namespace_is_found() {
    let unshare = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg("--net").args(args);
        command
    };
    if !unshare(&["true"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a network namespace needs root and util-linux");
        return;
    }
    let port = free_port();
    let script = server(port).replace("127.0.0.1", "");
    let mut command = unshare(&[program::PYTHON, "-c", &script]);
    let mut program = Program::start(&mut command, &[&format!("port:{port}")]);
    program.until_ready(LONG);
}

#[test]
fn the_default_is_a_port_and_rest() {
    let port = free_port();
    let script = format!(
        "import socket, time\n\
         s = socket.create_server(('127.0.0.1', {port})); print('listening', flush=True)\n\
         end = time.monotonic() + 0.8\n\
         while time.monotonic() < end: pass\n\
         print('done', flush=True)\n\
         time.sleep(30)"
    );
    let mut program = Program::start(&mut python(&script), &[]);
    program.until_ready(LONG);
    assert_eq!(program.ready_by(), "port and idle:200");
    assert!(program.printed().contains("done"), "ready while it worked");
    let mut program = Program::start(&mut shell("sleep 9"), &[]);
    program.stays_waiting(A_WHILE, "a TCP port listened on for 200 ms");
}

#[test]
fn probes_must_all_hold() {
    let mut program =
        Program::start(&mut shell("echo up; sleep 9"), &["log:up", "file:never", "idle:10"]);
    program.until_printed("up", LONG);
    let on = program.stays_waiting(A_WHILE, "a new file never");
    assert!(!on.contains("output"), "{on}");
}

fn server(port: u16) -> String {
    format!("import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\ntime.sleep(30)")
}

#[test]
fn http_waits_for_an_answer_and_leaves_nothing_behind() {
    for url in ["http:http://localhost:N/health?a=b", "http:N/health?a=b", "http::N/health?a=b"] {
        for (mode, status) in [
            ("close", "200"),
            ("close", "404"),
            ("keep", "200"),
            ("chunked", "302"),
            ("slow", "200"),
        ] {
            let port = free_port();
            let mut program = Program::start(
                python(SERVER).arg(port.to_string()).args([mode, status]),
                &[&url.replace('N', &port.to_string())],
            );
            program.until_ready(LONG);
            let sockets = program.connected_sockets();
            assert_eq!(sockets, 0, "{mode} {status}: {}", program.printed());
            let log = program.printed();
            assert!(log.contains("GET /health?a=b HTTP/1.1"), "{log}");
            assert!(!log.contains("Error"), "the server saw a broken connection: {log}");
            assert_eq!(program.monitor.port(), Some(port));
        }
    }
}

#[test]
fn http_needs_a_good_status_and_tries_again() {
    let port = free_port();
    let probe = format!("http:{port}/");
    let mut program =
        Program::start(python(SERVER).arg(port.to_string()).args(["close", "503"]), &[&probe]);
    program.until_printed("GET", LONG);
    let on = program.stays_waiting(A_WHILE, "an answer from");
    assert!(on.contains("the answer is 503"), "{on}");
    assert!(program.printed().matches("GET").count() > 1, "tried once");
    let port = free_port();
    let probe = format!("http:{port}/");
    let mut program =
        Program::start(python(SERVER).arg(port.to_string()).args(["recover", "200"]), &[&probe]);
    program.until_ready(LONG);
    assert_eq!(program.connected_sockets(), 0);
}

/// A restored server must get its port back even if it does not set
/// SO_REUSEADDR.
#[test]
fn http_leaves_no_time_wait() {
    let port = free_port();
    let mut program = Program::start(
        python(SERVER).arg(port.to_string()).args(["close", "200"]),
        &[&format!("http:{port}/")],
    );
    program.until_ready(LONG);
    drop(program);
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!(":{port:04X} ");
    let left: Vec<_> = table.lines().filter(|line| line.contains(&wanted)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn http_waits_for_a_server_that_keeps_the_connection() {
    let port = free_port();
    let mut program = Program::start(
        python(SERVER).arg(port.to_string()).args(["hold", "200"]),
        &[&format!("http:{port}/")],
    );
    program.until_printed("holding", LONG);
    std::thread::sleep(Duration::from_millis(100));
    let on = program.stays_waiting(Duration::from_millis(900), "an answer from");
    assert!(on.contains("still holds the probe's connection"), "{on}");
    program.until_printed("let go", LONG);
    program.until_ready(LONG);
    assert_eq!(program.connected_sockets(), 0);
}

#[test]
fn http_does_not_ask_another_program() {
    let port = free_port();
    let mut another = Program::start(
        python(SERVER).arg(port.to_string()).args(["close", "200"]),
        &[&format!("port:{port}")],
    );
    another.until_ready(LONG);
    let mut program = Program::start(&mut shell("sleep 9"), &[&format!("http:{port}/")]);
    let on = program.stays_waiting(A_WHILE, "an answer from");
    assert!(on.contains("the program does not listen on port"), "{on}");
    assert!(!another.printed().contains("GET"));
}

#[test]
fn http_is_not_fooled_by_another_protocol() {
    let port = free_port();
    let mut program = Program::start(
        python(SERVER).arg(port.to_string()).args(["ssh", "200"]),
        &[&format!("http:{port}/")],
    );
    program.until_printed("accepted", LONG);
    let on = program.stays_waiting(A_WHILE, "an answer from");
    assert!(on.contains("not HTTP"), "{on}");
}

/// Sends to NOTIFY_SOCKET; `$1` is the message.
const NOTIFY: &str = "import os, socket, sys\n\
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    s.sendto(sys.argv[1].encode(), os.environ['NOTIFY_SOCKET'])\n";

#[test]
fn notify_comes_from_the_program_or_its_children_even_dead_ones() {
    for script in [
        "sleep 0.2; \"$PYTHON\" -c \"$NOTIFY\" READY=1 & wait; exec sleep 9",
        "(\"$PYTHON\" -c \"$NOTIFY\" 'STATUS=up\nREADY=1'; exit 0); exec sleep 9",
        "exec \"$PYTHON\" -c \"$NOTIFY
import time; time.sleep(9)\" READY=1",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(&dir.path().join("n"), None).unwrap();
        let mut command = shell(script);
        command.env("PYTHON", program::PYTHON).env("NOTIFY", NOTIFY);
        command.env("NOTIFY_SOCKET", socket.path());
        let mut program = Program::start_with(&mut command, &["notify"], Some(socket));
        assert_eq!(program.monitor.fds().len(), 1);
        program.until_ready(LONG);
        assert_eq!(program.ready_by(), "notify");
        assert!(program.into_notify().unwrap().is_ready());
    }
}

#[test]
fn notify_of_a_stranger_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let socket = NotifySocket::bind(&dir.path().join("n"), None).unwrap();
    let path = socket.path().to_owned();
    let mut program = Program::start_with(&mut shell("sleep 9"), &["notify"], Some(socket));
    let stranger = std::os::unix::net::UnixDatagram::unbound().unwrap();
    stranger.send_to(b"READY=1", path).unwrap();
    program.stays_waiting(A_WHILE, "READY=1 on NOTIFY_SOCKET");
}

#[test]
fn notify_comes_before_the_default_rule() {
    let caller = OsStr::new("/nonexistent/caller");
    assert!(wants_socket(&[], Some(caller)));
    let dir = tempfile::tempdir().unwrap();
    let socket = NotifySocket::bind(&dir.path().join("n"), Some(caller)).unwrap();
    let mut command = python(&format!("import time\ntime.sleep(0.3)\n{NOTIFY}\nwhile True: pass"));
    command.arg("READY=1").env("NOTIFY_SOCKET", socket.path());
    let mut program = Program::start_with(&mut command, &[], Some(socket));
    program.until_ready(LONG);
    assert_eq!(program.ready_by(), "notify");
}

#[test]
fn a_warm_up_reaches_the_program() {
    let port = free_port();
    let mut program = Program::start(
        python(SERVER).arg(port.to_string()).args(["close", "200"]),
        &[&format!("port:{port}")],
    );
    program.until_ready(LONG);
    let script = "exec 3<>/dev/tcp/127.0.0.1/$WARMSTART_PORT; echo GET /warm$WARMSTART_PID >&3; \
                  cat <&3 >&2";
    let command = warmstart::command::Command {
        argv: vec!["server".into()],
        env: vec!["PATH=/usr/bin:/bin".into(), format!("SCRIPT={script}").into()],
        cwd: "/".into(),
    };
    let bash = OsStr::new("exec bash -c \"$SCRIPT\"");
    let pid = program.pid();
    let mut warmup = Warmup::start(bash, &command, pid, program.monitor.port(), LONG).unwrap();
    let begun = Instant::now();
    let result = loop {
        if let Some(result) = warmup.poll(Instant::now()) {
            break result;
        }
        assert!(begun.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(5));
    };
    result.unwrap();
    program.until_printed(&format!("GET /warm{pid}"), LONG);
}

/// The first law: a cold start must not get slower by being watched.
#[test]
fn polling_costs_little() {
    let mut program = Program::start(&mut python(&server(free_port())), &[]);
    let cpu = || {
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        Duration::from(nix::time::clock_gettime(clock).unwrap())
    };
    let mut measure = || {
        let (begun, before) = (Instant::now(), cpu());
        while begun.elapsed() < Duration::from_secs(2) {
            program.step();
        }
        let (elapsed, used) = (begun.elapsed(), cpu() - before);
        eprintln!("watching cost {used:?} in {elapsed:?}");
        // 1% is aimed at; debug builds, this loop's own work and a busy machine
        // get some room.
        used * 33 < elapsed
    };
    // What a host takes away from a virtual machine counts as used.
    assert!((0..3).any(|_| measure()), "three times too much");
}

#[test]
fn an_ordinary_user_sees_the_same() {
    const INSIDE: &str = "WARMSTART_TEST_UNPRIVILEGED";
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: becoming another user needs root (this run is already without)");
        return;
    }
    // The test binary sits where the other user may not look.
    let dir = tempfile::Builder::new().prefix("warmstart").tempdir_in("/tmp").unwrap();
    nix::unistd::chown(dir.path(), Some(65534.into()), Some(65534.into())).unwrap();
    let tests = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg("--bounding-set=-all")
        .arg(&tests)
        .args(["--test-threads=2", "port_is", "another_process", "http_waits", "notify", "idle_"])
        .args(["default_is", "file_must"])
        .env(INSIDE, "1")
        .env("TMPDIR", dir.path())
        .current_dir(dir.path())
        .output()
        .expect("setpriv of util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("port_is_found_without_connecting ... ok"), "{text}");
    assert!(text.contains("notify_of_a_stranger_does_not_count ... ok"), "{text}");
}

#[test]
fn a_jvm_server_is_ready_by_default() {
    if Command::new("java").arg("-version").output().is_err() {
        eprintln!("SKIPPED: no java on this machine");
        return;
    }
    let port = free_port();
    let source = format!(
        "import com.sun.net.httpserver.HttpServer; import java.net.InetSocketAddress;\n\
         public class Main {{ public static void main(String[] a) throws Exception {{\n\
         var s = HttpServer.create(new InetSocketAddress(\"127.0.0.1\", {port}), 0);\n\
         s.createContext(\"/\", x -> {{ x.sendResponseHeaders(200, 2); \n\
         x.getResponseBody().write(\"ok\".getBytes()); x.close(); }}); s.start(); }} }}"
    );
    for probes in [&[][..], &[&*format!("http:{port}/")]] {
        let mut command = Command::new("java");
        command.args(["-XX:-UsePerfData", "Main.java"]);
        let mut program = Program::prepared(&mut command, probes, |dir| {
            fs::write(dir.join("Main.java"), &source).unwrap();
        });
        let took = program.until_ready(3 * LONG);
        assert!(took >= IDLE_WINDOW.min(PORT_HELD));
        assert_eq!(program.monitor.port(), Some(port));
        assert_eq!(program.connected_sockets(), 0);
    }
}

#[test]
fn probes_of_ten_ms_do_not_busy_the_loop() {
    let probe: Probe = "delay:1000".parse().unwrap();
    let program = Program::start(&mut shell("sleep 9"), &[&probe.to_string()]);
    let monitor: &Monitor = &program.monitor;
    let pause = monitor.next_poll();
    assert!(pause >= Duration::from_millis(5) && pause <= Duration::from_millis(250), "{pause:?}");
}
