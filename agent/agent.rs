//! The agent: a library that a JVM loads.
#![no_std]

use core::ffi::{c_char, c_int, c_void};

/// Called by the JVM when it loads the agent; returns `JNI_OK`.
#[unsafe(no_mangle)]
pub extern "C" fn Agent_OnLoad(_vm: *mut c_void, _options: *const c_char, _: *mut c_void) -> c_int {
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
