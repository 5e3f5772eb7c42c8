//! Compiles the schemas in `images/` to Rust, without protoc, and the JVM agent
//! in `agent/` to a shared library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error, fs, io};

/// Bytes that are text to a reader: paths and names, which need not be UTF-8.
const TEXT: &[&str] = &[
    "TaskCoreEntry.comm",
    "ThreadCoreEntry.comm",
    "RegFileEntry.name",
    "MemfdInodeEntry.name",
    "UnixSkEntry.name",
    "UnixSkEntry.name_dir",
    "GhostFileEntry.symlnk_target",
];

/// Bytes that are not.
const BINARY: &[&str] =
    &["SiginfoEntry.siginfo", "SeccompFilter.filter", "CredsEntry.apparmor_data"];

/// How the agent is compiled. It is for whatever libc the JVM has: it has no
/// start files, names no library, and finds what it calls in the process.
const AGENT: &[&str] = &[
    "--crate-name=warmstart_agent",
    "--crate-type=cdylib",
    "--edition=2024",
    "-Cpanic=abort",
    "-Copt-level=s",
    "-Clto=fat",
    "-Ccodegen-units=1",
    "-Cstrip=symbols",
    // The rest of the build is static and at a fixed address.
    "-Ctarget-feature=-crt-static",
    "-Crelocation-model=pic",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    // The same bytes wherever it is built.
    "-Clink-arg=-Wl,--build-id=none",
    // A warning nobody reads, in a part that no lint of Cargo's looks at.
    "-Dwarnings",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    schemas()?;
    agent()
}

/// Compiles the agent to `agent.so`. Not with a nested Cargo: `cargo package`
/// drops a directory with a manifest of its own, and two Cargos wait for each
/// other where they share a target directory.
fn agent() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=agent");
    let variable = |name: &str| env::var_os(name).ok_or(format!("Cargo has not set {name}"));
    let out = Path::new(&variable("OUT_DIR")?).join("agent.so");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(AGENT).arg("--target").arg(variable("TARGET")?).arg("-o").arg(&out);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    let status = rustc.arg("agent/agent.rs").status()?;
    if !status.success() {
        return Err(format!("the JVM agent does not compile ({status})").into());
    }
    Ok(())
}

fn schemas() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=images");
    let mut schemas = fs::read_dir("images")?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    schemas.retain(|path| path.extension().is_some_and(|e| e == "proto"));
    // The order of the directory must not show in the output.
    schemas.sort();

    let descriptors = protox::compile(&schemas, ["images"])?;
    let mut config = prost_build::Config::new();
    config.type_attribute(".", "#[derive(serde::Serialize)]");
    for (fields, how) in [(TEXT, "text"), (BINARY, "hex")] {
        for field in fields {
            config.field_attribute(
                format!(".criu.{field}"),
                format!("#[serde(serialize_with = \"crate::image::printing::{how}\")]"),
            );
        }
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
