//! System calls: the only module with unsafe code.
//!
//! One family of system calls a file, one call a function, each safe to call
//! with any argument its types allow, or `unsafe` with a `# Safety` section.
//! Everything that depends on the processor is in [`arch`].
#![allow(unsafe_code)]

pub mod ambient;
pub mod arch;
pub mod arena;
pub mod auxv;
pub mod birth;
pub mod capability;
pub mod clone3;
pub mod cpu;
pub mod descriptors;
pub mod diag;
pub mod inside;
pub mod kcmp;
pub mod keyring;
pub mod limits;
pub mod memory;
pub mod namespaces;
pub mod pidfd;
pub mod process;
pub mod ptrace;
pub mod scheduling;
pub mod semaphores;
pub mod signals;
pub mod socket;
pub mod start;
pub mod support;
pub mod tty;
pub mod xattr;
