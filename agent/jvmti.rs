//! The part of JVMTI that the agent uses (JVM Tool Interface 1.2), declared by
//! hand like [`super::jni`], and checked by the same test.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use core::slice;

use super::jni::{Class, Object, Table};

/// Where functions are in the table: their numbers in `jvmti.h`, less one.
#[allow(non_upper_case_globals)] // as in the specification
pub mod slot {
    pub const SetEventNotificationMode: usize = 1;
    pub const GetAllThreads: usize = 3;
    pub const StopThread: usize = 6;
    pub const GetThreadInfo: usize = 8;
    pub const Deallocate: usize = 46;
    pub const GetClassSignature: usize = 47;
    pub const GetClassStatus: usize = 48;
    pub const GetClassLoader: usize = 56;
    pub const GetLoadedClasses: usize = 77;
    pub const ForceGarbageCollection: usize = 107;
    pub const SetJNIFunctionTable: usize = 119;
    pub const GetJNIFunctionTable: usize = 120;
    pub const SetEventCallbacks: usize = 121;
    pub const GetSystemProperty: usize = 130;
    pub const AddCapabilities: usize = 141;
}

/// Of `GetClassStatus`.
pub const PREPARED: i32 = 2;
pub const INITIALIZED: i32 = 4;
/// An array's class, or that of a primitive type.
pub const NO_CLASS_FILE: i32 = 16 | 32;
/// 1.2: every HotSpot since 6.
pub const VERSION: c_int = 0x3001_0200;
const EVENT_VM_INIT: c_int = 50;
/// In the first word of `jvmtiCapabilities`.
const CAN_SIGNAL_THREAD: u32 = 1 << 10;

/// Called once the JVM is up, on its main thread.
pub type VmInit = unsafe extern "C" fn(*mut c_void, *mut c_void, Object);

/// `jvmtiThreadInfo`.
#[repr(C)]
struct ThreadInfo {
    name: *mut c_char,
    priority: c_int,
    is_daemon: u8,
    group: Object,
    loader: Object,
}

/// What is known of a thread.
pub struct Thread {
    pub object: Object,
    pub name: Vec<u8>,
    pub is_daemon: bool,
}

/// An environment of JVMTI's; any thread may use it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Jvmti(pub *mut c_void);

/// Calls a function, which returns 0 if it succeeds.
macro_rules! call {
    ($env:expr, $slot:ident ( $($kind:ty),* ), $($argument:expr),*) => {{
        type Function = unsafe extern "C" fn(*mut c_void $(, $kind)*) -> c_int;
        // SAFETY: an environment begins with the pointer to its table, and the
        // slot holds a function of this type (`jvmti.h`).
        unsafe {
            let table = *$env.0.cast::<Table>();
            let function: Function = core::mem::transmute(*table.add(slot::$slot));
            function($env.0 $(, $argument)*)
        }
    }};
}

impl Jvmti {
    /// Asks for the one capability: to stop a thread. It makes nothing slower.
    pub fn ask_to_signal(self) -> bool {
        let capabilities = [CAN_SIGNAL_THREAD, 0, 0, 0];
        call!(self, AddCapabilities(*const u32), capabilities.as_ptr()) == 0
    }

    /// Asks to be called when the JVM is up.
    pub fn on_init(self, function: VmInit) -> bool {
        // The first of `jvmtiEventCallbacks`; the length says that there are
        // no others.
        let callbacks = [function];
        let size = c_int::try_from(size_of_val(&callbacks)).unwrap_or(0);
        call!(self, SetEventCallbacks(*const VmInit, c_int), callbacks.as_ptr(), size) == 0
            && call!(
                self,
                SetEventNotificationMode(c_int, c_int, Object),
                1,
                EVENT_VM_INIT,
                null_mut()
            ) == 0
    }

    /// Returns a copy of the table of JNI's functions, to be changed and set.
    pub fn jni_table(self) -> *mut *mut c_void {
        let mut table = null_mut();
        call!(self, GetJNIFunctionTable(*mut *mut *mut c_void), &raw mut table);
        table
    }

    /// Replaces the table of JNI's functions; the copy is freed.
    pub fn set_jni_table(self, table: *mut *mut c_void) -> bool {
        let set = call!(self, SetJNIFunctionTable(*mut *mut c_void), table) == 0;
        self.free(table);
        set
    }

    fn free<T>(self, memory: *mut T) {
        if !memory.is_null() {
            call!(self, Deallocate(*mut c_void), memory.cast());
        }
    }

    /// Takes a list that JVMTI has allocated.
    fn take<T: Copy>(self, list: *mut T, count: c_int) -> Vec<T> {
        if list.is_null() {
            return Vec::new();
        }
        // SAFETY: so many are there.
        let taken = unsafe { slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0)) };
        let taken = taken.to_vec();
        self.free(list);
        taken
    }

    /// Takes a string that JVMTI has allocated.
    fn take_text(self, text: *mut c_char) -> Vec<u8> {
        if text.is_null() {
            return Vec::new();
        }
        // SAFETY: it ends with a NUL.
        let taken = unsafe { CStr::from_ptr(text) }.to_bytes().to_vec();
        self.free(text);
        taken
    }

    /// Returns a property of the JVM; empty if there is none.
    pub fn property(self, name: &CStr) -> Vec<u8> {
        let mut text = null_mut();
        call!(
            self,
            GetSystemProperty(*const c_char, *mut *mut c_char),
            name.as_ptr(),
            &raw mut text
        );
        self.take_text(text)
    }

    /// Returns all loaded classes, as local references.
    pub fn classes(self) -> Vec<Class> {
        let (mut count, mut list) = (0, null_mut());
        call!(self, GetLoadedClasses(*mut c_int, *mut *mut Class), &raw mut count, &raw mut list);
        self.take(list, count)
    }

    /// Returns `Ljava/lang/Object;`.
    pub fn signature(self, class: Class) -> Vec<u8> {
        let mut text = null_mut();
        call!(
            self,
            GetClassSignature(Class, *mut *mut c_char, *mut *mut c_char),
            class,
            &raw mut text,
            null_mut()
        );
        self.take_text(text)
    }

    /// Returns a class's status.
    pub fn status(self, class: Class) -> i32 {
        let mut status = 0;
        call!(self, GetClassStatus(Class, *mut c_int), class, &raw mut status);
        status
    }

    /// Returns a class's loader; null is the boot loader.
    pub fn loader(self, class: Class) -> Object {
        let mut loader = null_mut();
        call!(self, GetClassLoader(Class, *mut Object), class, &raw mut loader);
        loader
    }

    /// Returns all live threads of Java's, as local references.
    pub fn threads(self) -> Vec<Thread> {
        let (mut count, mut list) = (0, null_mut());
        call!(self, GetAllThreads(*mut c_int, *mut *mut Object), &raw mut count, &raw mut list);
        let list: Vec<Object> = self.take(list, count);
        list.into_iter().filter_map(|object| self.thread(object)).collect()
    }

    fn thread(self, object: Object) -> Option<Thread> {
        let mut info = ThreadInfo {
            name: null_mut(),
            priority: 0,
            is_daemon: 0,
            group: null_mut(),
            loader: null_mut(),
        };
        // It may have ended since.
        let known = call!(self, GetThreadInfo(Object, *mut ThreadInfo), object, &raw mut info) == 0;
        known.then(|| Thread {
            object,
            name: self.take_text(info.name),
            is_daemon: info.is_daemon != 0,
        })
    }

    /// Throws something in another thread.
    pub fn stop(self, thread: Object, exception: Object) -> bool {
        call!(self, StopThread(Object, Object), thread, exception) == 0
    }

    /// Collects garbage, and waits for it.
    pub fn collect(self) {
        call!(self, ForceGarbageCollection(),);
    }
}
