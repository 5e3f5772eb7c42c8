//! The one class that the agent defines, and only when a thread other than
//! `main` exits while training: a handler of uncaught exceptions that does
//! nothing. Without it that thread would end with a stack trace, since 22 even
//! of a `ThreadDeath`.

use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::jni::{Env, Object};

/// The class's name, in the boot class loader.
pub const NAME: &CStr = c"warmstart/Quiet";
const HANDLER: &CStr = c"Ljava/lang/Thread$UncaughtExceptionHandler;";

static INSTANCE: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(null_mut());

/// Lets the thread that runs end without a word.
pub fn hush(env: Env) {
    let class = env.class(c"java/lang/Thread");
    let thread = env.static_object(class, c"currentThread", c"()Ljava/lang/Thread;", &[]);
    let handler = instance(env);
    if !handler.is_null() {
        env.set(thread, c"uncaughtExceptionHandler", HANDLER, handler);
    }
}

/// Returns the handler. Two threads that come at a time are not both first:
/// the JDK lets one at a time exit.
fn instance(env: Env) -> Object {
    let known = INSTANCE.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let class = env.define(NAME, &class_file());
    let handler = env.global(env.allocate(class));
    INSTANCE.store(handler, Ordering::Relaxed);
    handler
}

/// Writes the class file (JVM Specification, chapter 4): version 52, which
/// every JVM since 8 reads.
fn class_file() -> Vec<u8> {
    const THIS: u16 = 1;
    const OBJECT: u16 = 3;
    const INTERFACE: u16 = 5;
    let names: [&[u8]; 3] =
        [NAME.to_bytes(), b"java/lang/Object", b"java/lang/Thread$UncaughtExceptionHandler"];
    let texts: [&[u8]; 3] =
        [b"uncaughtException", b"(Ljava/lang/Thread;Ljava/lang/Throwable;)V", b"Code"];
    let mut file = Vec::from(0xcafe_babe_u32.to_be_bytes());
    let put = |file: &mut Vec<u8>, words: &[u16]| {
        words.iter().for_each(|word| file.extend_from_slice(&word.to_be_bytes()));
    };
    let text = |file: &mut Vec<u8>, text: &[u8]| {
        file.push(1); // CONSTANT_Utf8
        file.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        file.extend_from_slice(text);
    };
    // Minor and major version; nine constants, and one more by tradition.
    put(&mut file, &[0, 52, 10]);
    for (index, name) in (1u16..).step_by(2).zip(names) {
        file.push(7); // CONSTANT_Class, whose name is the next constant
        put(&mut file, &[index + 1]);
        text(&mut file, name);
    }
    texts.iter().for_each(|one| text(&mut file, one));
    // ACC_FINAL | ACC_SUPER; one interface, no fields, one method.
    put(&mut file, &[0x0030, THIS, OBJECT, 1, INTERFACE, 0, 1]);
    // ACC_PUBLIC, name, descriptor, one attribute: the code, 13 bytes long.
    put(&mut file, &[0x0001, 7, 8, 1, 9, 0, 13]);
    // No stack, three locals, one byte: `return`; no handlers, no attributes.
    put(&mut file, &[0, 3, 0, 1]);
    file.push(0xb1);
    put(&mut file, &[0, 0]);
    // No attributes of the class.
    put(&mut file, &[0]);
    file
}
