//! System calls: the only module with unsafe code.
//!
//! One family of calls a file; each function is one call (or the few that
//! make one step), takes and returns values, and says in a `SAFETY` comment
//! why its unsafe block is right.
#![allow(unsafe_code)]

pub mod auxv;
pub mod capability;
pub mod cpu;
pub mod descriptors;
pub mod kcmp;
pub mod process;
pub mod signals;
pub mod start;
pub mod support;
pub mod tty;
pub mod xattr;
