//! How fields of bytes are printed as JSON; `build.rs` names these functions
//! in the compiled messages.

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

/// Prints text where it is UTF-8, else with escapes.
pub(super) fn text<S: Serializer>(field: &impl Bytes, to: S) -> Result<S::Ok, S::Error> {
    match field.bytes() {
        None => to.serialize_none(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.serialize_str(&bytes.escape_ascii().to_string()),
        },
    }
}

/// Prints hexadecimal digits.
pub(super) fn hex<S: Serializer>(field: &impl Bytes, to: S) -> Result<S::Ok, S::Error> {
    match field.bytes() {
        None => to.serialize_none(),
        Some(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            to.serialize_str(&digits)
        }
    }
}
