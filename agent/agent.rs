//! The JVM agent: holds the `java` launcher just before it calls `main`, until
//! it is told with which arguments (docs/agent.md).
//!
//! A link product of its own, compiled by the build script. It has no standard
//! library and names no other library: it runs in JVMs of any libc. HotSpot 11
//! and later is served; in others it does nothing.
//!
//! - [`hook`] finds the moment, through the table of JNI's functions.
//! - [`orders`] waits there for what the trainer says ([`protocol`]).
//! - [`train`] runs `main`, with the JVM's exit trapped ([`exit`]) and what it
//!   changed put back ([`state`]).
//! - [`deliver`] makes arguments, environment and directory those of the day.
//!
//! It asks for one capability, which makes nothing slower. Until the launcher
//! reaches `main` it calls no Java method; it defines no class but [`quiet`].
#![no_std]

extern crate alloc;

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use jni::{Env, Object, Table};
use jvmti::Jvmti;
use protocol::Message;

mod classes;
mod deliver;
mod entropy;
mod exit;
mod hook;
mod jni;
mod jvmti;
mod known;
mod libc;
mod orders;
mod protocol;
mod quiet;
mod state;
mod streams;
mod train;

const JNI_OK: c_int = 0;
/// `GetEnv` in the table of a `JavaVM`.
const GET_ENV: usize = 6;

/// The environment of JVMTI's; set before any other thread runs.
static JVMTI: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Returns the environment of JVMTI's.
fn jvmti() -> Jvmti {
    Jvmti(JVMTI.load(Ordering::Relaxed))
}

/// Called by the JVM when it loads the agent. The option is the number of a
/// descriptor. Whatever fails here leaves a JVM without agent: the trainer
/// hears nothing, and gives up.
///
/// # Safety
///
/// A `JavaVM` and null or a C string, as the JVM passes them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn Agent_OnLoad(
    vm: *mut c_void,
    option: *const c_char,
    _: *mut c_void,
) -> c_int {
    if option.is_null() {
        return JNI_OK;
    }
    // SAFETY: the JVM passes a C string.
    let option = unsafe { CStr::from_ptr(option) };
    let Some(fd) = option.to_str().ok().and_then(|text| text.parse::<c_int>().ok()) else {
        return JNI_OK;
    };
    type GetEnv = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, c_int) -> c_int;
    let mut env = null_mut();
    // SAFETY: a `JavaVM` begins with the pointer to its table (`jni.h`), the
    // function of that slot has this type.
    let got = unsafe {
        let table = *vm.cast::<Table>();
        let get_env: GetEnv = core::mem::transmute(*table.add(GET_ENV));
        get_env(vm, &raw mut env, jvmti::VERSION)
    };
    if got != JNI_OK {
        return JNI_OK;
    }
    JVMTI.store(env, Ordering::Relaxed);
    protocol::open(fd);
    // Without the capability no exit from another thread can be trained.
    jvmti().ask_to_signal();
    jvmti().on_init(vm_init);
    JNI_OK
}

/// Called by the JVM on its main thread when it is up.
unsafe extern "C" fn vm_init(_: *mut c_void, env: *mut c_void, thread: Object) {
    let env = Env(env);
    match prepare(env, thread) {
        Ok(vm) => Message::new(b'H').number(protocol::VERSION).string(&vm).send(),
        Err(reason) => unfit(reason),
    }
}

/// Says that this JVM cannot be served, and does nothing any more.
fn unfit(reason: &str) {
    Message::new(b'X').string(reason.as_bytes()).send();
    protocol::close();
}

/// Makes all that is needed to hold `main`; returns the JVM's name.
fn prepare(env: Env, thread: Object) -> Result<Vec<u8>, &'static str> {
    let mut name = jvmti().property(c"java.vm.name");
    if !is_hotspot(&name) {
        return Err("the JVM is not HotSpot");
    }
    let release = jvmti().property(c"java.vm.specification.version");
    let release = core::str::from_utf8(&release).ok().and_then(|text| text.parse().ok());
    let Some(release @ 11..) = release else {
        return Err("the JVM is older than version 11");
    };
    known::set_release(release);
    if !exit::is_possible() {
        return Err("the JVM lacks a function");
    }
    hook::install(env, thread)?;
    name.push(b' ');
    name.extend_from_slice(&jvmti().property(c"java.vm.version"));
    Ok(name)
}

fn is_hotspot(name: &[u8]) -> bool {
    name.starts_with(b"OpenJDK ") || name.windows(7).any(|part| part == b"HotSpot")
}
