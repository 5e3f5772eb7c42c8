//! What a jar's manifest refers to (JAR File Specification, "Class-Path
//! Attribute").

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::zip;

/// More references than any jar has.
const REFERENCES_MAX: usize = 10_000;

/// Returns the jars and directories that a jar's manifest puts on the class
/// path, in order. A file that is no jar, or a damaged one, refers to
/// nothing.
pub fn references(jar: &Path) -> Vec<PathBuf> {
    let manifest = File::open(jar)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
        .and_then(|file| zip::member(&file, b"META-INF/MANIFEST.MF"));
    let dir = jar.parent().unwrap_or(Path::new("/"));
    parse(&manifest.unwrap_or_default())
        .iter()
        .filter_map(|url| resolve(dir, url))
        .take(REFERENCES_MAX)
        .collect()
}

/// Returns the URLs in a manifest's main section: `Class-Path`, and what
/// agents have as `Boot-Class-Path`.
fn parse(manifest: &[u8]) -> Vec<Vec<u8>> {
    let mut urls = Vec::new();
    let mut value: Option<Vec<u8>> = None;
    let mut finish = |value: &mut Option<Vec<u8>>| {
        let value = value.take().unwrap_or_default();
        let words = value.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        urls.extend(words.map(<[u8]>::to_vec));
    };
    for line in manifest.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            // The sections of single members follow.
            break;
        }
        // Lines end after 72 bytes and go on behind a space.
        if let Some(more) = line.strip_prefix(b" ") {
            if let Some(value) = &mut value {
                value.extend_from_slice(more);
            }
            continue;
        }
        finish(&mut value);
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = &line[..at];
        if name.eq_ignore_ascii_case(b"Class-Path") || name.eq_ignore_ascii_case(b"Boot-Class-Path")
        {
            value = Some(line[at + 1..].trim_ascii_start().to_vec());
        }
    }
    finish(&mut value);
    urls
}

/// Makes a path of a URL relative to the jar's directory; `None` for what is
/// no file.
fn resolve(dir: &Path, url: &[u8]) -> Option<PathBuf> {
    let scheme = url
        .iter()
        .position(|byte| *byte == b':')
        .filter(|at| url[..*at].iter().all(u8::is_ascii_alphanumeric) && !url[..*at].is_empty());
    let path = match scheme {
        Some(at) if url[..at].eq_ignore_ascii_case(b"file") => &url[at + 1..],
        Some(_) => return None,
        None => url,
    };
    let path = path.strip_prefix(b"//").unwrap_or(path);
    let path = decode(path);
    (!path.contains(&0)).then(|| dir.join(PathBuf::from(OsString::from_vec(path))))
}

/// Decodes `%20` and its kind.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                bytes.push(decoded);
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn class_paths_are_joined_over_lines() {
        let dir = tempfile::tempdir().unwrap();
        let jar = dir.path().join("app.jar");
        let manifest = b"Manifest-Version: 1.0\r\nclass-path: lib/a.jar li\r\n b/b%20c.jar  \
                         file:/opt/x.jar http://h/y.jar ../classes/\r\nMain-Class: A\r\n\r\n\
                         Name: z\r\nClass-Path: no.jar\r\n";
        let bytes = zip::tests::zip(&[("META-INF/MANIFEST.MF", manifest, true)], b"", b"");
        std::fs::write(&jar, bytes).unwrap();
        let expected = ["lib/a.jar", "lib/b c.jar", "/opt/x.jar", "../classes/"];
        assert_eq!(references(&jar), expected.map(|path| dir.path().join(path)));
    }

    #[test]
    fn what_is_no_jar_refers_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for content in [&b""[..], b"PK", b"not a jar at all, but long enough for an end record"] {
            std::fs::write(&path, content).unwrap();
            assert!(references(&path).is_empty());
        }
        assert!(references(dir.path()).is_empty());
        assert!(references(Path::new("/nonexistent/x.jar")).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_manifest(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            for url in parse(&text) {
                resolve(Path::new("/d"), &url);
            }
        }
    }
}
