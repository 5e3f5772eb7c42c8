//! The messages of CRIU's format, compiled from the schemas in `images/`.
//!
//! Fields that a schema does not name are skipped when a message is decoded.
//! Paths and names are bytes, not text: Linux does not promise UTF-8. Fields
//! that hold an enumeration are plain `i32`, since a file may hold any
//! number; `FdTypes::try_from` and the accessors give the name.

pub use generated::core_entry::March;
pub use generated::*;

#[allow(missing_docs, clippy::doc_markdown)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}

/// How fields of bytes are printed; named by `build.rs`.
mod printing {
    use serde::Serializer;

    /// A field of bytes, required or optional.
    pub(super) trait Bytes {
        fn bytes(&self) -> Option<&[u8]>;
    }

    impl Bytes for Vec<u8> {
        fn bytes(&self) -> Option<&[u8]> {
            Some(self)
        }
    }

    impl Bytes for Option<Vec<u8>> {
        fn bytes(&self) -> Option<&[u8]> {
            self.as_deref()
        }
    }

    /// As text where it is UTF-8, else with escapes.
    pub(super) fn text<S: Serializer>(field: &impl Bytes, to: S) -> Result<S::Ok, S::Error> {
        match field.bytes() {
            None => to.serialize_none(),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => to.serialize_str(text),
                Err(_) => to.serialize_str(&bytes.escape_ascii().to_string()),
            },
        }
    }

    /// As hexadecimal digits.
    pub(super) fn hex<S: Serializer>(field: &impl Bytes, to: S) -> Result<S::Ok, S::Error> {
        match field.bytes() {
            None => to.serialize_none(),
            Some(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                to.serialize_str(&digits)
            }
        }
    }
}
