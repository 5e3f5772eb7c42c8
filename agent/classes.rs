//! The classes that a run has used, and how another JVM has them ready without
//! running any of their code.

use alloc::vec::Vec;
use core::ffi::CStr;

use super::jni::{Env, Object, value};
use super::jvmti::{NO_CLASS_FILE, PREPARED};
use super::{jvmti, quiet};

const GET_LOADER: &CStr = c"()Ljava/lang/ClassLoader;";

/// Returns the names (`a/b/C`) of the loaded classes that come from a class
/// file and that another JVM finds under the same name: those of the boot, the
/// platform and the system class loader, without what is made at run time.
pub fn loaded(env: Env) -> Vec<Vec<u8>> {
    let jvmti = jvmti();
    let class_loader = env.class(c"java/lang/ClassLoader");
    let loaders = [c"getSystemClassLoader", c"getPlatformClassLoader"]
        .map(|name| env.static_object(class_loader, name, GET_LOADER, &[]));
    let mut names = Vec::new();
    for class in jvmti.classes() {
        if jvmti.status(class) & NO_CLASS_FILE != 0 {
            continue;
        }
        let loader = jvmti.loader(class);
        if !loader.is_null() && !loaders.iter().any(|known| env.same(*known, loader)) {
            continue;
        }
        let signature = jvmti.signature(class);
        let name = signature.strip_prefix(b"L").and_then(|name| name.strip_suffix(b";"));
        if let Some(name) = name.filter(|name| is_from_file(name)) {
            names.push(name.to_vec());
        }
    }
    names
}

/// Tells by a class's name whether it is made at run time: a hidden class has a
/// `.` in it (in 11 a slash before digits), lambda forms, proxies and accessors
/// have names of their own.
fn is_from_file(name: &[u8]) -> bool {
    const MADE: [&[u8]; 5] = [
        b"$$Lambda",
        b"LambdaForm$",
        b"$Proxy",
        b"/GeneratedMethodAccessor",
        b"/GeneratedConstructorAccessor",
    ];
    const SPECIES: &[u8] = b"$Species_";
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    !name.contains(&b'.')
        && !last.first().is_none_or(u8::is_ascii_digit)
        && name != quiet::NAME.to_bytes()
        && !has(SPECIES)
        && !MADE.iter().any(|part| has(part))
}

/// Loads and links classes without initialising them; returns how many of
/// them are linked. What cannot be loaded or linked is left out.
pub fn link(env: Env, names: &[Vec<u8>]) -> i32 {
    let class_loader = env.class(c"java/lang/ClassLoader");
    let loader = env.static_object(class_loader, c"getSystemClassLoader", GET_LOADER, &[]);
    names.iter().map(|name| env.frame(|| i32::from(link_one(env, loader, name)))).sum()
}

fn link_one(env: Env, loader: Object, name: &[u8]) -> bool {
    let mut dotted: Vec<u8> =
        name.iter().map(|byte| if *byte == b'/' { b'.' } else { *byte }).collect();
    dotted.push(0);
    let Ok(dotted) = CStr::from_bytes_with_nul(&dotted) else { return false };
    let signature = c"(Ljava/lang/String;)Ljava/lang/Class;";
    let class = env.object(loader, c"loadClass", signature, &[value(env.string(dotted))]);
    if class.is_null() {
        return false;
    }
    if jvmti().status(class) & PREPARED == 0 {
        // Whoever asks for the members of a class has it linked, and no more.
        // Only public constructors: the list is thrown away.
        let signature = c"(Z)[Ljava/lang/reflect/Constructor;";
        env.object(class, c"getDeclaredConstructors0", signature, &[1]);
    }
    jvmti().status(class) & PREPARED != 0
}
