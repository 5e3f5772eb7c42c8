//! Paths and arguments in JSON: any bytes, and readable where they are text; in
//! a binary encoding, the bytes.
//!
//! In JSON a byte that is no part of valid UTF-8 is written `%XX`, and so is `%`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Writes bytes as text.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (index, part) in chunk.valid().split('%').enumerate() {
            if index > 0 {
                text.push_str("%25");
            }
            text.push_str(part);
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// Reads them back; `None` for what [`escape`] does not write.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.as_bytes().split(|byte| *byte == b'%');
    let mut bytes = parts.next()?.to_vec();
    for part in parts {
        let hex = std::str::from_utf8(part.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        bytes.extend_from_slice(&part[2..]);
    }
    Some(bytes)
}

/// For a field of type `PathBuf`.
pub(crate) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let bytes = path.as_os_str().as_bytes();
        match to.is_human_readable() {
            true => to.serialize_str(&super::escape(bytes)),
            false => to.serialize_bytes(bytes),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        if !from.is_human_readable() {
            let bytes = <&'de [u8]>::deserialize(from)?;
            return Ok(PathBuf::from(OsString::from_vec(bytes.to_vec())));
        }
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let bytes = super::unescape(&text)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"escaped bytes"))?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// For a field of type `Vec<OsString>`.
pub(crate) mod list {
    use super::*;
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(words: &[OsString], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(words.iter().map(|word| escape(word.as_bytes())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<OsString>, D::Error> {
        Vec::<String>::deserialize(from)?
            .into_iter()
            .map(|text| {
                unescape(&text).map(OsString::from_vec).ok_or_else(|| {
                    D::Error::invalid_value(Unexpected::Str(&text), &"escaped bytes")
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_stays_readable() {
        assert_eq!(escape("/srv/äpp 100%.jar".as_bytes()), "/srv/äpp 100%25.jar");
        assert_eq!(escape(b"a\xffb"), "a%FFb");
        assert_eq!(unescape("a%"), None);
        assert_eq!(unescape("a%zz"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            unescape(&text);
        }
    }
}
