//! Compiles the schemas in `images/` to Rust, without protoc.

use std::path::PathBuf;
use std::{error, fs, io};

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

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
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
