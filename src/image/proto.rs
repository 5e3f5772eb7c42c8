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
