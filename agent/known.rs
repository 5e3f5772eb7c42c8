//! Classes of the JDK that the agent looks into, if the program has used them.
//!
//! Looking one up by name would initialise it, which changes what it is going
//! to see; so the loaded ones are searched. What a JDK does not have, or no
//! longer in that form, is not found, and left alone.

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::jni::{Class, Env};
use super::jvmti::INITIALIZED;

/// Defines the classes and their signatures.
macro_rules! known {
    ($($name:ident = $signature:literal),* $(,)?) => {
        /// A class that may be there.
        #[derive(Clone, Copy)]
        pub enum Known { $($name),* }
        const SIGNATURES: &[&[u8]] = &[$($signature),*];
    };
}

known! {
    ProcessEnvironment = b"Ljava/lang/ProcessEnvironment;",
    StaticProperty = b"Ljdk/internal/util/StaticProperty;",
    File = b"Ljava/io/File;",
    FilePermission = b"Ljava/io/FilePermission;",
    FileSystemProvider = b"Lsun/nio/fs/DefaultFileSystemProvider;",
    ShutdownHooks = b"Ljava/lang/ApplicationShutdownHooks;",
    DeleteOnExit = b"Ljava/io/DeleteOnExitHook;",
    TimeZone = b"Ljava/util/TimeZone;",
    ThreadNumbering = b"Ljava/lang/Thread$ThreadNumbering;",
    ThreadFactory = b"Ljava/util/concurrent/Executors$DefaultThreadFactory;",
    Timer = b"Ljava/util/Timer;",
    ThreadLocalRandom = b"Ljava/util/concurrent/ThreadLocalRandom;",
    Random = b"Ljava/util/Random;",
    SplittableRandom = b"Ljava/util/SplittableRandom;",
    MathRandom = b"Ljava/lang/Math$RandomNumberGeneratorHolder;",
    Collections = b"Ljava/util/Collections;",
    Uuid = b"Ljava/util/UUID$Holder;",
    FileTemp = b"Ljava/io/File$TempDirectory;",
    NativePrng = b"Lsun/security/provider/NativePRNG;",
    NativePrngBlocking = b"Lsun/security/provider/NativePRNG$Blocking;",
    NativePrngNonBlocking = b"Lsun/security/provider/NativePRNG$NonBlocking;",
    PathTemp = b"Ljava/nio/file/TempFileHelper;",
}

const COUNT: usize = SIGNATURES.len();
static FOUND: [AtomicPtr<c_void>; COUNT] = [const { AtomicPtr::new(null_mut()) }; COUNT];
static RELEASE: AtomicU32 = AtomicU32::new(0);

/// Remembers the JDK's feature release.
pub fn set_release(release: u32) {
    RELEASE.store(release, Ordering::Relaxed);
}

/// Returns the JDK's feature release: 17.
pub fn release() -> u32 {
    RELEASE.load(Ordering::Relaxed)
}

/// Looks for classes that have been initialised since the last time. Takes
/// about a millisecond for some thousand classes.
pub fn scan(env: Env) {
    let jvmti = super::jvmti();
    env.frame(|| {
        for class in jvmti.classes() {
            let status = jvmti.status(class);
            if status & INITIALIZED == 0 || !jvmti.loader(class).is_null() {
                continue;
            }
            let signature = jvmti.signature(class);
            let found = SIGNATURES.iter().position(|known| *known == signature);
            let Some(place) = found.and_then(|index| FOUND.get(index)) else { continue };
            if place.load(Ordering::Relaxed).is_null() {
                place.store(env.global(class), Ordering::Relaxed);
            }
        }
    });
}

/// Returns a class that was initialised at the last [`scan`]; null if it was
/// not.
pub fn get(known: Known) -> Class {
    FOUND.get(known as usize).map_or(null_mut(), |place| place.load(Ordering::Relaxed))
}
