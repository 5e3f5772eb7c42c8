//! Programs of other runtimes than Java's, and a real servlet container: each
//! is captured when it listens and restored again and again, with right
//! answers; and what two copies of one image draw at random.
//!
//! `WARMSTART_REPEAT=N` restores each N times. What is not installed is found
//! below `WARMSTART_TEST_RUNTIMES`, where `scripts/get-runtimes` put it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::service::{Service, free_port};
use support::{binary, jdk, stdout};

mod support;

/// How often each is restored.
const USUAL: usize = 3;
/// Where a capture is made.
const WHEN_LISTENING: [&str; 4] = ["--at", "ready", "--ready", "port"];

fn installed(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The system's own before a version manager's, which is a script.
    let places = ["/usr/bin".into()].into_iter().chain(std::env::split_paths(&path));
    let mut found = places.map(|dir: PathBuf| dir.join(program)).filter(|path| path.exists());
    found.next().ok_or_else(|| format!("there is no {program}"))
}

/// Finds something that `scripts/get-runtimes` fetches.
fn fetched(place: &str) -> Result<PathBuf, String> {
    let dir = std::env::var_os("WARMSTART_TEST_RUNTIMES").map(PathBuf::from);
    let found = dir.map(|dir| dir.join(place)).filter(|path| path.exists());
    found.ok_or_else(|| format!("{place} is missing; scripts/get-runtimes brings it"))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtimes").join(name)
}

fn service(
    program: PathBuf,
    words: impl IntoIterator<Item = OsString>,
    port: u16,
) -> Service<'static> {
    Service::new([program.into_os_string()].into_iter().chain(words), port)
}

fn node(kind: Option<&str>) -> Result<Service<'static>, String> {
    let port = free_port();
    let mut words: Vec<OsString> = vec![source("server.js").into(), port.to_string().into()];
    words.extend(kind.map(Into::into));
    let mut service = service(installed("node")?, words, port);
    if kind.is_some() {
        let modules = fetched("node/node_modules")?.display().to_string();
        service.env.push(("NODE_PATH".into(), modules));
    }
    Ok(service)
}

fn python(kind: &str) -> Result<Service<'static>, String> {
    let port = free_port();
    let words = [source("server.py").into(), port.to_string().into(), kind.into()];
    let mut service = service(installed("python3")?, words, port);
    if kind != "plain" {
        service.env.push(("PYTHONPATH".into(), fetched("python")?.display().to_string()));
    }
    Ok(service)
}

/// How the pages of the only image come back.
fn page_mode(service: &Service<'_>) -> String {
    let output = Command::new(binary()).args(["image", "show"]).arg(service.image()).output();
    let text = stdout(&output.unwrap());
    let line = text.lines().find(|line| line.trim_start().starts_with("pages ")).unwrap();
    let words: Vec<&str> = line.split([' ', ',', ';']).collect();
    let mode = words.iter().find(|word| ["mapped", "copied"].contains(word));
    (*mode.unwrap_or_else(|| panic!("{line}"))).to_owned()
}

/// Captures a server and restores it, again and again: each copy goes on from
/// the same moment.
fn restored_again_and_again(
    service: Result<Service<'_>, String>,
    path: &str,
    answers: [&str; 2],
    mode: &str,
) {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen with this build of the binary");
    }
    let service = match service {
        Ok(service) => service,
        Err(missing) => skip!("{missing}"),
    };
    let mut cold = service.start(&WHEN_LISTENING);
    let first = cold.wait_status(|_| true);
    let status = cold.wait_status(|status| *status != first);
    assert_eq!(status["outcome"], "captured", "{status}");
    assert_eq!(cold.get(path).trim_end(), answers[0], "the program that was captured");
    cold.end();
    assert_eq!(page_mode(&service), mode);
    for round in 0..support::repetitions(USUAL) {
        let mut run = service.restore_as(&WHEN_LISTENING);
        for answer in answers {
            assert_eq!(run.get(path).trim_end(), answer, "restore {round}: {}", run.said());
        }
        assert!(!run.said().contains("warmstart:"), "restore {round}: {}", run.said());
        run.end();
    }
}

const COUNTED: [&str; 2] = ["answer 1", "answer 2"];

#[test]
fn node_http() {
    restored_again_and_again(node(None), "/", COUNTED, "copied");
}

#[test]
fn node_express() {
    restored_again_and_again(node(Some("express")), "/", COUNTED, "copied");
}

#[test]
fn python_http_server() {
    restored_again_and_again(python("plain"), "/", COUNTED, "copied");
}

#[test]
fn python_flask() {
    restored_again_and_again(python("flask"), "/", COUNTED, "copied");
}

/// Its event loop has a pair of Unix sockets.
#[test]
fn python_aiohttp() {
    restored_again_and_again(python("aiohttp"), "/", COUNTED, "copied");
}

#[test]
fn perl() {
    let port = free_port();
    let service = installed("perl")
        .map(|perl| service(perl, [source("server.pl").into(), port.to_string().into()], port));
    restored_again_and_again(service, "/", COUNTED, "copied");
}

/// `webhook`, a server in Go: its runtime gives memory back by MADV_DONTNEED.
#[test]
fn go() {
    let dir = support::cache();
    let hooks = dir.path().join("hooks.json");
    let hook = r#"[{"id": "x", "execute-command": "/bin/true", "response-message": "hooked"}]"#;
    fs::write(&hooks, hook).unwrap();
    let port = free_port();
    let service = fetched("go/usr/bin/webhook").map(|webhook| {
        let words = ["-ip", "127.0.0.1", "-port", &port.to_string(), "-hooks"];
        let words = words.into_iter().map(OsString::from).chain([hooks.clone().into_os_string()]);
        service(webhook, words, port)
    });
    restored_again_and_again(service, "/hooks/x", ["hooked"; 2], "copied");
}

/// A static binary with another C library, its allocator and its threads.
#[test]
fn musl() {
    let dir = support::cache();
    let program = dir.path().join("server");
    let port = free_port();
    let service = installed("musl-gcc").map(|compiler| {
        let mut compile = Command::new(compiler);
        compile.args(["-O1", "-static", "-Wall", "-Werror", "-o"]).arg(&program);
        let output = compile.arg(source("server.c")).output().unwrap();
        assert!(output.status.success(), "{}", support::stderr(&output));
        service(program, [port.to_string().into()], port)
    });
    restored_again_and_again(service, "/", COUNTED, "copied");
}

/// The servlets that Tomcat's own `web.xml` begins with. (That is in another
/// package, with the service.)
const TOMCAT_WEB: &str = r#"<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
<servlet><servlet-name>default</servlet-name>
<servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class>
<load-on-startup>1</load-on-startup></servlet>
<servlet><servlet-name>jsp</servlet-name>
<servlet-class>org.apache.jasper.servlet.JspServlet</servlet-class>
<load-on-startup>3</load-on-startup></servlet>
<servlet-mapping><servlet-name>default</servlet-name>
<url-pattern>/</url-pattern></servlet-mapping>
<servlet-mapping><servlet-name>jsp</servlet-name>
<url-pattern>*.jsp</url-pattern></servlet-mapping>
<welcome-file-list><welcome-file>index.html</welcome-file></welcome-file-list>
</web-app>"#;

/// Tomcat 10 as Debian has it, run from a base directory of its own.
fn tomcat(base: &Path, port: u16) -> Result<Service<'static>, String> {
    let home = Path::new("/usr/share/tomcat10");
    if !home.join("bin/bootstrap.jar").exists() {
        return Err("there is no Tomcat (package tomcat10-common)".into());
    }
    let java = jdk(17).ok_or("there is no JDK 17")?.java();
    for dir in ["conf", "logs", "temp", "webapps/ROOT", "work"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    fs::write(base.join("webapps/ROOT/index.html"), "served by Tomcat\n").unwrap();
    fs::write(base.join("conf/web.xml"), TOMCAT_WEB).unwrap();
    let server = format!(
        r#"<Server port="-1"><Service name="Catalina">
        <Connector port="{port}" address="127.0.0.1" protocol="HTTP/1.1"/>
        <Engine name="Catalina" defaultHost="localhost">
        <Host name="localhost" appBase="webapps"/></Engine></Service></Server>"#
    );
    fs::write(base.join("conf/server.xml"), server).unwrap();
    let jars = ["bootstrap.jar", "tomcat-juli.jar"];
    let jars = jars.map(|jar| home.join("bin").join(jar).display().to_string()).join(":");
    let base = base.display();
    let words = [
        "-Xmx256m".to_owned(),
        "-cp".to_owned(),
        jars,
        format!("-Dcatalina.home={}", home.display()),
        format!("-Dcatalina.base={base}"),
        format!("-Djava.io.tmpdir={base}/temp"),
        "org.apache.catalina.startup.Bootstrap".to_owned(),
        "start".to_owned(),
    ];
    Ok(service(java, words.map(OsString::from), port))
}

#[test]
fn tomcat_10() {
    let dir = support::cache();
    let service = tomcat(dir.path(), free_port());
    restored_again_and_again(service, "/", ["served by Tomcat"; 2], "mapped");
}

/// libuv's ring cannot be carried: the program is told so by name, runs on,
/// and is cold the next time.
#[test]
fn node_with_io_uring_is_refused_by_name() {
    let mut service = match node(None) {
        Ok(service) => service,
        Err(missing) => skip!("{missing}"),
    };
    service.env.push(("UV_USE_IO_URING".into(), "1".into()));
    let mut run = service.start(&WHEN_LISTENING);
    let first = run.wait_status(|_| true);
    // Its libraries are read, which takes a moment, and then it is looked at.
    let status = run.wait_status(|status| *status != first);
    if status["outcome"] == "captured" {
        skip!("this Node has no ring here");
    }
    assert!(status["reason"].as_str().unwrap().contains("io_uring"), "{status}");
    assert_eq!(run.get("/"), "answer 1");
    run.end();
}

/// What a copy draws, by the name of the generator.
fn drawn(text: &str) -> BTreeMap<(bool, String), String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, name, value] = words[..] else { panic!("{line}") };
        ((kind == "secure", name.to_owned()), value.to_owned())
    };
    text.lines().map(line).collect()
}

/// Two copies of one image: what a generator for secrets draws differs, or
/// docs/security.md names the generator and says what to do.
fn two_copies_draw(service: Result<Service<'_>, String>) {
    if !support::can_choose_pids() {
        skip!("pids cannot be chosen with this build of the binary");
    }
    let service = match service {
        Ok(service) => service,
        Err(missing) => skip!("{missing}"),
    };
    service.capture(&WHEN_LISTENING).end();
    let draw = || {
        let mut run = service.restore_as(&WHEN_LISTENING);
        let text = run.get("/random");
        run.end();
        drawn(&text)
    };
    let (one, other) = (draw(), draw());
    assert!(one.len() > 2 && one.keys().eq(other.keys()), "{one:?}");
    let security = include_str!("../docs/security.md");
    let mut unsaid = Vec::new();
    for (key, value) in &one {
        let same = *value == other[key];
        eprintln!("{}: {}", key.1, if same { "the same in both" } else { "differs" });
        if same && !security.contains(&format!("`{}`", key.1)) {
            unsaid.push(&key.1);
        }
    }
    assert!(unsaid.is_empty(), "two copies draw the same, and no document says so: {unsaid:?}");
}

#[test]
fn what_node_draws() {
    two_copies_draw(node(None));
}

#[test]
fn what_python_draws() {
    two_copies_draw(python("plain"));
}

#[test]
fn what_java_draws() {
    let classes = match support::service::compile("Draws.java") {
        Ok(classes) => classes,
        Err(missing) => skip!("{missing}"),
    };
    let port = free_port();
    let service = jdk(17).ok_or("there is no JDK 17".to_owned()).map(|jdk| {
        let words = ["-cp".into(), classes.path().into(), "Draws".into(), port.to_string().into()];
        service(jdk.java(), words, port)
    });
    two_copies_draw(service);
}
