//! The seam between processors: the interpreter of a restore, the frame of
//! `rt_sigreturn(2)`, the extended state, the call numbers that `libc` lacks.
//!
//! Another processor is another file beside `x86_64.rs` with the same items.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "warmstart runs on x86-64 only so far: src/sys/arch is where another processor goes"
);
