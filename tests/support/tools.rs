//! Real tools that `scripts/get-tools` fetches, and inputs for them.

use std::path::{Path, PathBuf};

/// A tool, in a jar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The Closure compiler.
    Closure,
    /// openapi-generator.
    OpenApi,
}

impl Tool {
    /// Returns the path of its jar: where `WARMSTART_TEST_CLOSURE` or
    /// `WARMSTART_TEST_OPENAPI` say, else where `scripts/test` puts it; an error
    /// says what is missing.
    pub fn jar(self) -> Result<PathBuf, String> {
        let (name, variable) = match self {
            Self::Closure => ("closure", "WARMSTART_TEST_CLOSURE"),
            Self::OpenApi => ("openapi", "WARMSTART_TEST_OPENAPI"),
        };
        if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            let missing = || format!("{variable} names {}, which is not there", path.display());
            return if path.is_file() { Ok(path) } else { Err(missing()) };
        }
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let mut jars: Vec<PathBuf> = named
            .into_iter()
            .chain([own])
            .filter_map(|dir| std::fs::read_dir(dir.join("test-tools")).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
            .filter(|path| {
                let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
                file.starts_with(&format!("{name}-")) && file.ends_with(".jar")
            })
            .collect();
        // The newest, should an older one still lie there.
        jars.sort();
        jars.pop()
            .ok_or_else(|| format!("there is no {name} (scripts/get-tools target/test-tools)"))
    }
}

/// Returns the directory of inputs for the tools.
pub fn inputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/tools")
}
