//! Fresh `System.in`, `out` and `err`, as the JDK makes them when it starts
//! (`System.initPhase1`).
//!
//! A tool may close `System.out`, or leave bytes in a buffer of `System.in`:
//! neither must reach the next run.

use core::ffi::CStr;
use core::ptr::null_mut;

use super::deliver::property;
use super::jni::{Class, Env, Object, value};
use super::known;

const DESCRIPTOR: &CStr = c"Ljava/io/FileDescriptor;";
const WITH_DESCRIPTOR: &CStr = c"(Ljava/io/FileDescriptor;)V";

/// Replaces the three streams.
pub fn renew(env: Env) {
    let system = env.class(c"java/lang/System");
    let input = env.make(
        // 22 and later have classes of their own.
        class(env, c"java/lang/System$In", c"java/io/FileInputStream"),
        WITH_DESCRIPTOR,
        &[value(descriptor(env, c"in", 0))],
    );
    let buffered = env.make(
        env.class(c"java/io/BufferedInputStream"),
        c"(Ljava/io/InputStream;)V",
        &[value(input)],
    );
    if !buffered.is_null() {
        env.set_static(system, c"initialIn", c"Ljava/io/InputStream;", buffered);
        env.run_static(system, c"setIn0", c"(Ljava/io/InputStream;)V", &[value(buffered)]);
    }
    // The property has its public name since 19.
    let is_public = known::release() >= 19;
    let out = if is_public { c"stdout.encoding" } else { c"sun.stdout.encoding" };
    let out = print_stream(env, system, descriptor(env, c"out", 1), property(env, out));
    if !out.is_null() {
        env.run_static(system, c"setOut0", c"(Ljava/io/PrintStream;)V", &[value(out)]);
    }
    let err = if is_public { c"stderr.encoding" } else { c"sun.stderr.encoding" };
    let err = print_stream(env, system, descriptor(env, c"err", 2), property(env, err));
    if !err.is_null() {
        env.set_static(system, c"initialErr", c"Ljava/io/PrintStream;", err);
        env.run_static(system, c"setErr0", c"(Ljava/io/PrintStream;)V", &[value(err)]);
    }
    env.set_static(system, c"cons", c"Ljava/io/Console;", null_mut());
}

/// Returns the first of two classes that this JDK has.
fn class(env: Env, new: &CStr, old: &CStr) -> Class {
    let class = env.class(new);
    if class.is_null() { env.class(old) } else { class }
}

/// Returns one of the three `FileDescriptor`s, as good as new.
fn descriptor(env: Env, name: &CStr, fd: i32) -> Object {
    let class = env.class(c"java/io/FileDescriptor");
    let descriptor = env.get_static(class, name, DESCRIPTOR);
    env.set_int(descriptor, c"fd", fd);
    env.set_boolean(descriptor, c"closed", false);
    env.set(descriptor, c"parent", c"Ljava/io/Closeable;", null_mut());
    env.set(descriptor, c"otherParents", c"Ljava/util/List;", null_mut());
    descriptor
}

fn print_stream(env: Env, system: Class, descriptor: Object, encoding: Object) -> Object {
    let class = class(env, c"java/lang/System$Out", c"java/io/FileOutputStream");
    let file = env.make(class, WITH_DESCRIPTOR, &[value(descriptor)]);
    if file.is_null() {
        return null_mut();
    }
    let with = [value(file), value(encoding)];
    // 17 and earlier ask for the file's stream, later ones for any.
    let new = c"(Ljava/io/OutputStream;Ljava/lang/String;)Ljava/io/PrintStream;";
    let old = c"(Ljava/io/FileOutputStream;Ljava/lang/String;)Ljava/io/PrintStream;";
    let stream = env.static_object(system, c"newPrintStream", new, &with);
    if !stream.is_null() {
        return stream;
    }
    env.static_object(system, c"newPrintStream", old, &with)
}
