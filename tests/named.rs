//! A source that an interpreter has read and closed is an input all the same:
//! who edits a module gets the new one. A Python and a Node server were once
//! restored with the code of yesterday.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use support::service::{Service, free_port};

mod support;

/// Captures a server whose answer is what a module says, changes the module,
/// and has the new answer.
fn an_edited_module_is_read_again(interpreter: &str, program: &str, module: [&str; 3]) {
    let place = ["/usr/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(interpreter));
    let Some(interpreter) = place.into_iter().find(|path| path.exists()) else {
        skip!("there is no {interpreter}");
    };
    // A name that only the program's memory has: no argument leads to it.
    let dir = support::cache();
    let [name, old, new] = module;
    let module: PathBuf = dir.path().join("lib of mine").join(name);
    fs::create_dir(module.parent().unwrap()).unwrap();
    fs::write(&module, old).unwrap();
    let port = free_port();
    let main = module.with_file_name("main");
    fs::write(&main, program.replace("PORT", &port.to_string())).unwrap();
    let service = Service::new([interpreter.as_os_str(), main.as_os_str()], port);
    service.capture(&[]).end();
    let said = service.cache_show();
    assert!(support::stdout(&said).contains(module.to_str().unwrap()), "{said:?}");
    let mut run = service.start(&[]);
    assert_eq!(run.get("/"), "old");
    assert_eq!(run.wait_status(|_| true)["outcome"], "restored", "{}", run.said());
    run.end();
    fs::write(&module, new).unwrap();
    let mut run = service.start(&[]);
    let status = run.wait_status(|_| true);
    assert_eq!(status["outcome"], "cold", "{status}");
    let reason = format!("{} changed", module.display());
    assert_eq!(status["reason"], reason, "{status}");
    assert_eq!(run.get("/"), "new");
    run.end();
}

#[test]
fn a_module_of_python() {
    let program = "
import http.server, words
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(words.ANSWER.encode())
http.server.HTTPServer(('127.0.0.1', PORT), Handler).serve_forever()
";
    let module = ["words.py", "ANSWER = 'old'\n", "ANSWER = 'new'\n"];
    an_edited_module_is_read_again("python3", program, module);
}

#[test]
fn a_module_of_node() {
    let program = "
const words = require('./words');
require('http').createServer((request, response) => response.end(words.answer))
    .listen(PORT, '127.0.0.1');
";
    let module = ["words.js", "exports.answer = 'old'\n", "exports.answer = 'new'\n"];
    an_edited_module_is_read_again("node", program, module);
}
