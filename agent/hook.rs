//! Where the launcher calls `main`.
//!
//! `java` and its siblings call it through the table of JNI's functions, from
//! their main thread, with no Java frame below: look the method up, which
//! initialises the program's class, and call it. The table is replaced by one
//! in which
//!
//! - `NewObjectArray` remembers the last array, which is that of the arguments
//!   when `main` is looked up;
//! - `GetStaticMethodID`, and `GetMethodID` of the constructor where `main`
//!   belongs to an instance (JEP 512), first wait for orders: no line of the
//!   program has run then, not even of its static initialiser;
//! - `CallStaticVoidMethod` and `CallVoidMethod` replace the arguments. They
//!   are variadic, so a stub looks at the method's id and jumps.
//!
//! Afterwards the hooks do nothing but compare a number. Taking them out would
//! cost a safepoint, in a restored run.

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::jni::{Class, Env, Id, Object, slot, value};
use super::{jvmti, libc, orders};

/// What the hooks wait for.
static PHASE: AtomicU32 = AtomicU32::new(IDLE);
const IDLE: u32 = 0;
/// The launcher's look for `main`.
const ARMED: u32 = 1;
/// The id of `main`, which the launcher is about to get.
const DELIVERED: u32 = 2;

static MAIN_THREAD: AtomicUsize = AtomicUsize::new(0);
static MAIN_JTHREAD: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The id of `main` while its call is awaited; else null, which is no id.
static MAIN_ID: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static MAIN_CLASS: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The last array that the launcher made.
static ARRAY: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The arguments for `main`.
static ARGUMENTS: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

static NEW_OBJECT_ARRAY: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static GET_METHOD_ID: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static GET_STATIC_METHOD_ID: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static CALL_VOID_METHOD: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static CALL_STATIC_VOID_METHOD: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

type GetId = unsafe extern "C" fn(*mut c_void, Class, *const c_char, *const c_char) -> Id;
type NewArray = unsafe extern "C" fn(*mut c_void, i32, Class, Object) -> Object;

const MAIN: &CStr = c"main";
const WITH_ARGUMENTS: &CStr = c"([Ljava/lang/String;)V";
const WITHOUT: &CStr = c"()V";

/// How the launcher calls `main`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// `static void main(String[])`.
    Static,
    /// `static void main()`.
    StaticWithout,
    /// `void main(String[])` or `void main()` of a new object.
    Instance,
}

/// Puts the hooks in. On the main thread, which is then known.
pub fn install(env: Env, thread: Object) -> Result<(), &'static str> {
    MAIN_THREAD.store(libc::thread(), Ordering::Relaxed);
    MAIN_JTHREAD.store(env.global(thread), Ordering::Relaxed);
    let table = jvmti().jni_table();
    if table.is_null() {
        return Err("the JVM does not give its JNI functions");
    }
    let hooks: [(usize, &AtomicPtr<c_void>, *mut c_void); 5] = [
        (slot::NewObjectArray, &NEW_OBJECT_ARRAY, new_object_array as *mut c_void),
        (slot::GetMethodID, &GET_METHOD_ID, get_method_id as *mut c_void),
        (slot::GetStaticMethodID, &GET_STATIC_METHOD_ID, get_static_method_id as *mut c_void),
        (slot::CallVoidMethod, &CALL_VOID_METHOD, call_void_method as *mut c_void),
        (
            slot::CallStaticVoidMethod,
            &CALL_STATIC_VOID_METHOD,
            call_static_void_method as *mut c_void,
        ),
    ];
    for (slot, original, hook) in hooks {
        // SAFETY: a copy of the table, which has all these slots since 1.2.
        unsafe {
            let place = table.add(slot);
            original.store(*place, Ordering::Relaxed);
            *place = hook;
        }
    }
    if !jvmti().set_jni_table(table) {
        return Err("the JVM does not take JNI functions");
    }
    PHASE.store(ARMED, Ordering::Relaxed);
    Ok(())
}

/// Tells whether this is the JVM's main thread.
pub fn on_main_thread() -> bool {
    MAIN_THREAD.load(Ordering::Relaxed) == libc::thread()
}

/// Returns the main thread's object.
pub fn main_thread() -> Object {
    MAIN_JTHREAD.load(Ordering::Relaxed)
}

/// Tells whether the launcher is in a certain phase, here.
fn is(phase: u32) -> bool {
    PHASE.load(Ordering::Relaxed) == phase && on_main_thread()
}

/// Looks `main` up and calls it as the launcher does; an exception is pending
/// afterwards if there was one.
pub fn call_main(env: Env, class: Class, launch: Launch, arguments: Object) {
    let with = [value(arguments)];
    if launch != Launch::Instance {
        let signature = if launch == Launch::Static { WITH_ARGUMENTS } else { WITHOUT };
        let id = env.static_method_or_throw(class, MAIN, signature);
        if !id.is_null() {
            env.call_static_or_throw(class, id, &with);
        }
        return;
    }
    let constructor = env.method_or_throw(class, c"<init>", WITHOUT);
    if constructor.is_null() {
        return;
    }
    let object = env.make_or_throw(class, constructor, &[]);
    if object.is_null() {
        return;
    }
    let id = env
        .method(class, MAIN, WITH_ARGUMENTS)
        .unwrap_or_else(|| env.method_or_throw(class, MAIN, WITHOUT));
    if !id.is_null() {
        env.call_or_throw(object, id, &with);
    }
}

/// Waits for orders before anything of the program runs.
fn hold(env: Env, class: Class, launch: Launch) {
    // What the agent itself looks up must not end here again.
    PHASE.store(IDLE, Ordering::Relaxed);
    let array = ARRAY.swap(null_mut(), Ordering::Relaxed);
    let is_strings = !array.is_null()
        && env.frame(|| jvmti().signature(env.class_of(array))) == b"[Ljava/lang/String;";
    if !is_strings {
        return super::unfit("the launcher's arguments were not seen");
    }
    let arguments = env.frame(|| orders::serve(env, class, launch, array));
    ARGUMENTS.store(arguments, Ordering::Relaxed);
    MAIN_CLASS.store(env.global(class), Ordering::Relaxed);
    PHASE.store(DELIVERED, Ordering::Relaxed);
}

/// Tells whether the launcher asks for `main`.
///
/// # Safety
///
/// Both are C strings.
unsafe fn is_main(name: *const c_char, signature: *const c_char) -> bool {
    // SAFETY: as above.
    let (name, signature) = unsafe { (CStr::from_ptr(name), CStr::from_ptr(signature)) };
    name == MAIN && (signature == WITH_ARGUMENTS || signature == WITHOUT)
}

/// Remembers the id of `main` for the call that follows.
fn remember(env: Env, class: Class, id: Id) {
    if env.same(class, MAIN_CLASS.load(Ordering::Relaxed)) {
        PHASE.store(IDLE, Ordering::Relaxed);
        MAIN_ID.store(id, Ordering::Relaxed);
    }
}

unsafe extern "C" fn new_object_array(
    env: *mut c_void,
    len: i32,
    class: Class,
    value: Object,
) -> Object {
    // SAFETY: the original function, with the caller's arguments.
    let array = unsafe {
        let original: NewArray = transmute(NEW_OBJECT_ARRAY.load(Ordering::Relaxed));
        original(env, len, class, value)
    };
    if !array.is_null() && is(ARMED) {
        let env = Env(env);
        let before = ARRAY.swap(env.global(array), Ordering::Relaxed);
        if !before.is_null() {
            env.release(before);
        }
    }
    array
}

unsafe extern "C" fn get_static_method_id(
    env: *mut c_void,
    class: Class,
    name: *const c_char,
    signature: *const c_char,
) -> Id {
    // SAFETY: C strings.
    if is(ARMED) && unsafe { is_main(name, signature) } {
        // SAFETY: a C string.
        let with = unsafe { CStr::from_ptr(signature) } == WITH_ARGUMENTS;
        hold(Env(env), class, if with { Launch::Static } else { Launch::StaticWithout });
    }
    // SAFETY: the original function, with the caller's arguments.
    let id = unsafe {
        let original: GetId = transmute(GET_STATIC_METHOD_ID.load(Ordering::Relaxed));
        original(env, class, name, signature)
    };
    // SAFETY: C strings.
    if is(DELIVERED) && !id.is_null() && unsafe { is_main(name, signature) } {
        remember(Env(env), class, id);
    }
    id
}

unsafe extern "C" fn get_method_id(
    env: *mut c_void,
    class: Class,
    name: *const c_char,
    signature: *const c_char,
) -> Id {
    // SAFETY: C strings.
    let is_constructor =
        || unsafe { CStr::from_ptr(name) == c"<init>" && CStr::from_ptr(signature) == WITHOUT };
    if is(ARMED) && is_constructor() {
        let env = Env(env);
        if is_main_class(env, class) {
            hold(env, class, Launch::Instance);
        }
    }
    // SAFETY: the original function, with the caller's arguments.
    let id = unsafe {
        let original: GetId = transmute(GET_METHOD_ID.load(Ordering::Relaxed));
        original(env, class, name, signature)
    };
    // SAFETY: C strings.
    if is(DELIVERED) && !id.is_null() && unsafe { is_main(name, signature) } {
        remember(Env(env), class, id);
    }
    id
}

/// Tells whether a class is the one that the launcher has found to start.
fn is_main_class(env: Env, class: Class) -> bool {
    env.frame(|| {
        let helper = env.class(c"sun/launcher/LauncherHelper");
        let found = env.get_static(helper, c"appClass", c"Ljava/lang/Class;");
        !found.is_null() && env.same(found, class)
    })
}

/// Jumps to a hook if the method is the awaited `main`, else to the original
/// function, with all arguments where they are.
macro_rules! stub {
    ($name:ident, $original:ident, $hook:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            // System V: the method's id is the third argument. r11 belongs to
            // nobody at a call.
            naked_asm!(
                "mov r11, [rip + {id}]",
                "cmp rdx, r11",
                "je {hook}",
                "jmp [rip + {original}]",
                id = sym MAIN_ID,
                hook = sym $hook,
                original = sym $original,
            )
        }
    };
}

stub!(call_void_method, CALL_VOID_METHOD, enter);
stub!(call_static_void_method, CALL_STATIC_VOID_METHOD, enter_static);

/// Calls `main` of an object with the delivered arguments. An exception stays
/// pending, and the launcher goes on with it.
unsafe extern "C" fn enter(env: *mut c_void, object: Object, id: Id, _: Object) {
    let env = Env(env);
    let arguments = forget_main(env);
    env.call_or_throw(object, id, &[value(arguments)]);
}

/// As [`enter`], for a static `main`.
unsafe extern "C" fn enter_static(env: *mut c_void, class: Class, id: Id, _: Object) {
    let env = Env(env);
    let arguments = forget_main(env);
    env.call_static_or_throw(class, id, &[value(arguments)]);
}

/// Ends the wait for the call of `main`; returns its arguments.
fn forget_main(env: Env) -> Object {
    MAIN_ID.store(null_mut(), Ordering::Relaxed);
    env.release(MAIN_CLASS.swap(null_mut(), Ordering::Relaxed));
    // It stays a global reference: the array lives as long as the process, and
    // so does one of the launcher's, which holds a local one.
    ARGUMENTS.swap(null_mut(), Ordering::Relaxed)
}
