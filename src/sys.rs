//! System calls: the only module with unsafe code.

pub mod capability;
pub mod support;
pub mod xattr;
