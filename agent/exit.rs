//! The exit of the JVM, trapped while `main` runs as training.
//!
//! `System.exit`, `Runtime.exit` and `Runtime.halt` all pass two natives of
//! `java.lang.Shutdown`: `beforeHalt`, then, after the shutdown hooks,
//! `halt0`. They are bound to functions of ours when the first training
//! begins. While a training runs,
//!
//! - `beforeHalt` lets the JVM look shut down, so that no hook runs: hooks tear
//!   down what is static, which a next run would not set up again;
//! - `halt0` takes that back, remembers the status and throws a `ThreadDeath`:
//!   of all there is, programs catch it least. If it is not the main thread
//!   that exits, that one is stopped, too.
//!
//! Outside of training both do what the JDK's own do.

use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::jni::{Class, Env, NativeMethod, Object};
use super::protocol::{self, How};
use super::{hook, jvmti, libc, quiet};

/// How often `main` may go on after its exit before it is given up.
const EXITS_MAX: u32 = 100;
/// `VM.initLevel` of a JVM that runs, and of one that is shut down.
const BOOTED: i32 = 4;
const SHUTDOWN: i32 = 5;

static IS_BOUND: AtomicBool = AtomicBool::new(false);
static IS_TRAINING: AtomicBool = AtomicBool::new(false);
static VM: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// How the JVM would have exited in this training.
static EXIT: AtomicU32 = AtomicU32::new(NOT);
const NOT: u32 = 0;
const BY_MAIN: u32 = 1;
const BY_OTHER: u32 = 2;
static CODE: AtomicI32 = AtomicI32::new(0);
static EXITS: AtomicU32 = AtomicU32::new(0);

/// Whether the main thread is in the program, and may be stopped.
static IN_MAIN: AtomicBool = AtomicBool::new(false);
/// Held while `IN_MAIN` is looked at and acted on.
static LOCK: AtomicBool = AtomicBool::new(false);

/// Tells whether the JVM has what the natives need.
pub fn is_possible() -> bool {
    !libc::find(c"JVM_Halt").is_null() && !libc::find(c"JVM_BeforeHalt").is_null()
}

/// Binds the natives, once; tells whether they are bound.
pub fn bind(env: Env) -> bool {
    if IS_BOUND.load(Ordering::Relaxed) {
        return true;
    }
    let vm = env.class(c"jdk/internal/misc/VM");
    if env.get_static_int(vm, c"initLevel") != Some(BOOTED) {
        return false;
    }
    VM.store(env.global(vm), Ordering::Relaxed);
    let methods = [
        NativeMethod {
            name: c"beforeHalt".as_ptr(),
            signature: c"()V".as_ptr(),
            function: before_halt as *const c_void,
        },
        NativeMethod {
            name: c"halt0".as_ptr(),
            signature: c"(I)V".as_ptr(),
            function: halt as *const c_void,
        },
    ];
    // HotSpot warns of natives that are bound again, since 16.
    let bound = muted(|| env.register(env.class(c"java/lang/Shutdown"), &methods));
    IS_BOUND.store(bound, Ordering::Relaxed);
    bound
}

/// Does something while what is written to stdout and stderr goes nowhere.
fn muted<T>(inside: impl FnOnce() -> T) -> T {
    // SAFETY: descriptors of ours; where one cannot be had nothing is muted.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let saved = [1, 2].map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3));
        for (fd, saved) in [1, 2].into_iter().zip(saved) {
            if saved >= 0 && null >= 0 {
                libc::dup2(null, fd);
            }
        }
        let result = inside();
        for (fd, saved) in [1, 2].into_iter().zip(saved) {
            if saved >= 0 {
                libc::dup2(saved, fd);
                libc::close(saved);
            }
        }
        if null >= 0 {
            libc::close(null);
        }
        result
    }
}

/// Begins a training: exits are trapped from now on.
pub fn trap() {
    EXIT.store(NOT, Ordering::Relaxed);
    EXITS.store(0, Ordering::Relaxed);
    IN_MAIN.store(true, Ordering::Relaxed);
    IS_TRAINING.store(true, Ordering::Release);
}

/// Says that the main thread has left the program: it is not stopped any more.
pub fn leave_main(env: Env) {
    locked(|| IN_MAIN.store(false, Ordering::Relaxed));
    // An exception from another thread may be on its way. It arrives when this
    // thread comes back from Java.
    let thread = env.class(c"java/lang/Thread");
    for _ in 0..2 {
        env.run_static(thread, c"yield", c"()V", &[]);
    }
}

/// Returns the exit in this training, if there was one, and its status.
pub fn exited() -> Option<(How, i32)> {
    let how = match EXIT.load(Ordering::Acquire) {
        NOT => return None,
        BY_MAIN => How::Exited,
        _ => How::Stopped,
    };
    Some((how, CODE.load(Ordering::Relaxed)))
}

/// Ends a training: exits are exits again.
pub fn release() {
    IS_TRAINING.store(false, Ordering::Release);
}

fn locked(inside: impl FnOnce()) {
    while LOCK.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    inside();
    LOCK.store(false, Ordering::Release);
}

unsafe extern "C" fn before_halt(env: *mut c_void, _: Class) {
    if IS_TRAINING.load(Ordering::Acquire) {
        Env(env).set_static_int(VM.load(Ordering::Relaxed), c"initLevel", SHUTDOWN);
        return;
    }
    let function = libc::find(c"JVM_BeforeHalt");
    if !function.is_null() {
        // SAFETY: `jvm.h` has it with this type.
        unsafe {
            let function: unsafe extern "C" fn() = transmute(function);
            function();
        }
    }
}

unsafe extern "C" fn halt(env: *mut c_void, _: Class, code: c_int) {
    if IS_TRAINING.load(Ordering::Acquire) {
        return trapped(Env(env), code);
    }
    let function = libc::find(c"JVM_Halt");
    if !function.is_null() {
        // SAFETY: `jvm.h` has it with this type; it does not return.
        unsafe {
            let function: unsafe extern "C" fn(c_int) = transmute(function);
            function(code);
        }
    }
}

/// Leaves the program instead of the JVM.
fn trapped(env: Env, code: c_int) {
    env.set_static_int(VM.load(Ordering::Relaxed), c"initLevel", BOOTED);
    let is_main = hook::on_main_thread();
    let exit = if is_main { BY_MAIN } else { BY_OTHER };
    // The status of the first exit counts. The JDK lets one thread in at a
    // time.
    if EXIT.load(Ordering::Relaxed) == NOT {
        CODE.store(code, Ordering::Relaxed);
        EXIT.store(exit, Ordering::Release);
    }
    if is_main && EXITS.fetch_add(1, Ordering::Relaxed) >= EXITS_MAX {
        protocol::send_end(How::Refused, 0, b"the program goes on after its exit");
        // Nothing can end it but the end of the JVM, which the trainer sees to.
        loop {
            protocol::receive();
        }
    }
    let death = death(env);
    if !is_main {
        quiet::hush(env);
        locked(|| {
            if IN_MAIN.load(Ordering::Relaxed) {
                jvmti().stop(hook::main_thread(), death);
            }
        });
    }
    env.throw(death);
}

fn death(env: Env) -> Object {
    let class = env.class(c"java/lang/ThreadDeath");
    let class = if class.is_null() { env.class(c"java/lang/Error") } else { class };
    env.make(class, c"()V", &[])
}
