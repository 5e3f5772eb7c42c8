//! A server that watches its settings (`inotify(7)`): it is told of changes after
//! a restore, and never answers from settings that have changed before one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use support::service::{Service, free_port};
use support::target::PATIENCE;

mod support;

const PYTHON: &str = "/usr/bin/python3";
const WHEN_LISTENING: [&str; 4] = ["--at", "ready", "--ready", "port"];

/// Answers with its settings, which it reads again when it is told.
const SERVER: &str = r#"
import ctypes, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
port, place = int(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None)
IN_CLOSE_WRITE = 8
watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
number = libc.inotify_add_watch(watch, place.encode(), IN_CLOSE_WRITE)
assert number == 1
def read():
    with open(place + "/settings") as settings:
        return settings.read()
settings = read()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global settings
        try:
            event = os.read(watch, 4096)
            assert int.from_bytes(event[:4], "little") == number
            settings = read()
        except BlockingIOError:
            pass
        body = settings.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"#;

#[test]
fn a_watch_goes_on_and_what_it_watches_is_an_input() {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen with this build of the binary");
    }
    if !Path::new(PYTHON).exists() {
        skip!("there is no {PYTHON}");
    }
    let dir = support::cache();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let settings = place.join("settings");
    fs::write(&settings, "one").unwrap();
    let port = free_port();
    let words = [PYTHON, "-c", SERVER, &port.to_string(), place.to_str().unwrap()];
    let server = Service::new(words, port);
    let mut run = server.capture(&WHEN_LISTENING);
    assert_eq!(run.get("/"), "one");
    run.end();
    let mut run = server.restore_as(&WHEN_LISTENING);
    assert_eq!(run.get("/"), "one");
    fs::write(&settings, "two").unwrap();
    let end = Instant::now() + PATIENCE;
    while run.get("/") != "two" {
        assert!(Instant::now() < end, "nobody has told it");
        std::thread::sleep(Duration::from_millis(5));
    }
    run.end();
    // Nobody was there to be told of this.
    let mut run = server.start(&WHEN_LISTENING);
    let status = run.wait_status(|_| true);
    assert_eq!(status["outcome"], "cold", "{status}");
    assert_eq!(run.get("/"), "two");
    let captured = run.wait_status(|status| status["outcome"] == "captured");
    assert_eq!(captured["outcome"], "captured");
    run.end();
    let mut run = server.restore_as(&WHEN_LISTENING);
    assert_eq!(run.get("/"), "two");
    run.end();
}
