//! System calls: the only module with unsafe code.

pub mod auxv;
pub mod cpu;
