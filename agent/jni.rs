//! The part of JNI that the agent uses (Java Native Interface Specification,
//! chapter 4), declared by hand: a table of functions, and where each one is.
//!
//! The numbers are checked against `jni.h` by a test (tests/agent.rs). No
//! variadic function is called: each has a twin that takes an array.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;

/// A reference to an object, or a method's or field's id.
pub type Object = *mut c_void;
pub type Class = Object;
pub type Id = *mut c_void;
/// A `jvalue`: an object's reference, or a number in its low bytes.
pub type Value = u64;
/// The table of functions, which an environment begins with a pointer to.
pub type Table = *const *mut c_void;

/// Where functions are in the table.
#[allow(non_upper_case_globals)] // as in the specification
pub mod slot {
    pub const DefineClass: usize = 5;
    pub const FindClass: usize = 6;
    pub const Throw: usize = 13;
    pub const ExceptionOccurred: usize = 15;
    pub const ExceptionClear: usize = 17;
    pub const PushLocalFrame: usize = 19;
    pub const PopLocalFrame: usize = 20;
    pub const NewGlobalRef: usize = 21;
    pub const DeleteGlobalRef: usize = 22;
    pub const IsSameObject: usize = 24;
    pub const AllocObject: usize = 27;
    pub const NewObjectA: usize = 30;
    pub const GetObjectClass: usize = 31;
    pub const GetMethodID: usize = 33;
    pub const CallObjectMethodA: usize = 36;
    pub const CallBooleanMethodA: usize = 39;
    pub const CallVoidMethod: usize = 61;
    pub const CallVoidMethodA: usize = 63;
    pub const GetFieldID: usize = 94;
    pub const GetObjectField: usize = 95;
    pub const GetIntField: usize = 100;
    pub const GetLongField: usize = 101;
    pub const SetObjectField: usize = 104;
    pub const SetBooleanField: usize = 105;
    pub const SetIntField: usize = 109;
    pub const SetLongField: usize = 110;
    pub const GetStaticMethodID: usize = 113;
    pub const CallStaticObjectMethodA: usize = 116;
    pub const CallStaticBooleanMethodA: usize = 119;
    pub const CallStaticVoidMethod: usize = 141;
    pub const CallStaticVoidMethodA: usize = 143;
    pub const GetStaticFieldID: usize = 144;
    pub const GetStaticObjectField: usize = 145;
    pub const GetStaticIntField: usize = 150;
    pub const SetStaticObjectField: usize = 154;
    pub const SetStaticIntField: usize = 159;
    pub const NewStringUTF: usize = 167;
    pub const GetArrayLength: usize = 171;
    pub const NewObjectArray: usize = 172;
    pub const GetObjectArrayElement: usize = 173;
    pub const SetObjectArrayElement: usize = 174;
    pub const NewByteArray: usize = 176;
    pub const GetByteArrayRegion: usize = 200;
    pub const SetByteArrayRegion: usize = 208;
    pub const RegisterNatives: usize = 215;
}

/// `JNINativeMethod`.
#[repr(C)]
pub struct NativeMethod {
    pub name: *const c_char,
    pub signature: *const c_char,
    pub function: *const c_void,
}

/// A thread's environment. Valid on the thread that it was given to, which is
/// always the one that runs: no `Env` is kept.
///
/// Unless said otherwise a function here that meets an exception clears it and
/// returns null, `None` or nothing. References are local, and freed with the
/// frame ([`Env::frame`]).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Env(pub *mut c_void);

/// Calls a function of an environment: its slot, the types of its arguments
/// behind the environment and of its result, and the arguments.
macro_rules! call {
    ($env:expr, $slot:ident ( $($kind:ty),* ) $(-> $result:ty)? , $($argument:expr),*) => {{
        type Function = unsafe extern "C" fn(*mut c_void $(, $kind)*) $(-> $result)?;
        // SAFETY: an environment begins with the pointer to its table, and the
        // slot holds a function of this type (`jni.h`). Arguments are what the
        // function asks for: references and ids of the classes they belong to.
        unsafe {
            let table = *$env.0.cast::<Table>();
            let function: Function = core::mem::transmute(*table.add(slot::$slot));
            function($env.0 $(, $argument)*)
        }
    }};
}

impl Env {
    /// Returns the class of a name (`java/lang/Thread`), loaded and
    /// initialised.
    pub fn class(self, name: &CStr) -> Class {
        self.clean(call!(self, FindClass(*const c_char) -> Class, name.as_ptr()))
    }

    /// Defines a class in the boot class loader.
    pub fn define(self, name: &CStr, file: &[u8]) -> Class {
        let Ok(len) = i32::try_from(file.len()) else { return null_mut() };
        self.clean(call!(
            self,
            DefineClass(*const c_char, Object, *const u8, i32) -> Class,
            name.as_ptr(),
            null_mut(),
            file.as_ptr(),
            len
        ))
    }

    /// Makes an object without calling a constructor; null of null.
    pub fn allocate(self, class: Class) -> Object {
        if class.is_null() {
            return null_mut();
        }
        self.clean(call!(self, AllocObject(Class) -> Object, class))
    }

    /// Runs something in a frame of local references of its own.
    pub fn frame<T>(self, inside: impl FnOnce() -> T) -> T {
        // The number is a hint to HotSpot, which takes any number of them.
        let pushed = call!(self, PushLocalFrame(i32) -> i32, 64) == 0;
        self.clear();
        let result = inside();
        if pushed {
            call!(self, PopLocalFrame(Object) -> Object, null_mut());
        }
        result
    }

    /// Keeps an object beyond the frame.
    pub fn global(self, object: Object) -> Object {
        call!(self, NewGlobalRef(Object) -> Object, object)
    }

    /// Lets go of what [`Env::global`] kept.
    pub fn release(self, object: Object) {
        call!(self, DeleteGlobalRef(Object), object);
    }

    /// Tells whether two references are to one object.
    pub fn same(self, one: Object, other: Object) -> bool {
        call!(self, IsSameObject(Object, Object) -> u8, one, other) != 0
    }

    /// Returns the class of an object that is not null.
    pub fn class_of(self, object: Object) -> Class {
        call!(self, GetObjectClass(Object) -> Class, object)
    }

    /// Returns the pending exception, which pends no longer; null if there is
    /// none.
    pub fn take_exception(self) -> Object {
        let exception = call!(self, ExceptionOccurred() -> Object,);
        if !exception.is_null() {
            call!(self, ExceptionClear(),);
        }
        exception
    }

    /// Clears a pending exception and tells whether there was one.
    pub fn clear(self) -> bool {
        !self.take_exception().is_null()
    }

    /// Makes an exception pending.
    pub fn throw(self, exception: Object) {
        call!(self, Throw(Object) -> i32, exception);
    }

    fn clean(self, object: Object) -> Object {
        if self.clear() { null_mut() } else { object }
    }

    /// Returns a method's id; the class is initialised.
    pub fn method(self, class: Class, name: &CStr, signature: &CStr) -> Option<Id> {
        if class.is_null() {
            return None;
        }
        let id = self.method_or_throw(class, name, signature);
        Some(self.clean(id)).filter(|id| !id.is_null())
    }

    /// As [`Env::method`], but an exception stays pending.
    pub fn method_or_throw(self, class: Class, name: &CStr, signature: &CStr) -> Id {
        call!(
            self,
            GetMethodID(Class, *const c_char, *const c_char) -> Id,
            class,
            name.as_ptr(),
            signature.as_ptr()
        )
    }

    /// Returns a static method's id; the class is initialised.
    pub fn static_method(self, class: Class, name: &CStr, signature: &CStr) -> Option<Id> {
        if class.is_null() {
            return None;
        }
        let id = self.static_method_or_throw(class, name, signature);
        Some(self.clean(id)).filter(|id| !id.is_null())
    }

    /// As [`Env::static_method`], but an exception stays pending.
    pub fn static_method_or_throw(self, class: Class, name: &CStr, signature: &CStr) -> Id {
        call!(
            self,
            GetStaticMethodID(Class, *const c_char, *const c_char) -> Id,
            class,
            name.as_ptr(),
            signature.as_ptr()
        )
    }

    fn field(self, class: Class, name: &CStr, signature: &CStr) -> Option<Id> {
        if class.is_null() {
            return None;
        }
        let id = call!(
            self,
            GetFieldID(Class, *const c_char, *const c_char) -> Id,
            class,
            name.as_ptr(),
            signature.as_ptr()
        );
        Some(self.clean(id)).filter(|id| !id.is_null())
    }

    fn field_of(self, object: Object, name: &CStr, signature: &CStr) -> Option<Id> {
        if object.is_null() {
            return None;
        }
        self.field(self.class_of(object), name, signature)
    }

    /// Returns the id of a static field.
    pub fn static_field(self, class: Class, name: &CStr, signature: &CStr) -> Option<Id> {
        if class.is_null() {
            return None;
        }
        let id = call!(
            self,
            GetStaticFieldID(Class, *const c_char, *const c_char) -> Id,
            class,
            name.as_ptr(),
            signature.as_ptr()
        );
        Some(self.clean(id)).filter(|id| !id.is_null())
    }

    /// Makes an object; null after an exception, or if there is no such
    /// constructor.
    pub fn make(self, class: Class, signature: &CStr, arguments: &[Value]) -> Object {
        match self.method(class, c"<init>", signature) {
            Some(id) => self.clean(self.make_or_throw(class, id, arguments)),
            None => null_mut(),
        }
    }

    /// Makes an object; an exception stays pending.
    pub fn make_or_throw(self, class: Class, constructor: Id, arguments: &[Value]) -> Object {
        call!(
            self,
            NewObjectA(Class, Id, *const Value) -> Object,
            class,
            constructor,
            arguments.as_ptr()
        )
    }

    /// Calls a method that returns an object; null also if there is no such
    /// method.
    pub fn object(self, on: Object, name: &CStr, signature: &CStr, with: &[Value]) -> Object {
        if on.is_null() {
            return null_mut();
        }
        let Some(id) = self.method(self.class_of(on), name, signature) else { return null_mut() };
        self.clean(call!(
            self,
            CallObjectMethodA(Object, Id, *const Value) -> Object,
            on,
            id,
            with.as_ptr()
        ))
    }

    /// Calls a method that returns a boolean; false also if it cannot.
    pub fn is(self, on: Object, name: &CStr, signature: &CStr, with: &[Value]) -> bool {
        if on.is_null() {
            return false;
        }
        let Some(id) = self.method(self.class_of(on), name, signature) else { return false };
        let answer =
            call!(self, CallBooleanMethodA(Object, Id, *const Value) -> u8, on, id, with.as_ptr());
        !self.clear() && answer != 0
    }

    /// Calls a method that returns nothing, if there is one.
    pub fn run(self, on: Object, name: &CStr, signature: &CStr, with: &[Value]) {
        if on.is_null() {
            return;
        }
        if let Some(id) = self.method(self.class_of(on), name, signature) {
            self.call_or_throw(on, id, with);
            self.clear();
        }
    }

    /// Calls a method that returns nothing; an exception stays pending.
    pub fn call_or_throw(self, on: Object, id: Id, with: &[Value]) {
        call!(self, CallVoidMethodA(Object, Id, *const Value), on, id, with.as_ptr());
    }

    /// Calls a static method that returns nothing; an exception stays pending.
    pub fn call_static_or_throw(self, class: Class, id: Id, with: &[Value]) {
        call!(self, CallStaticVoidMethodA(Class, Id, *const Value), class, id, with.as_ptr());
    }

    /// Calls a static method that returns an object.
    pub fn static_object(self, class: Class, name: &CStr, sig: &CStr, with: &[Value]) -> Object {
        let Some(id) = self.static_method(class, name, sig) else { return null_mut() };
        self.clean(call!(
            self,
            CallStaticObjectMethodA(Class, Id, *const Value) -> Object,
            class,
            id,
            with.as_ptr()
        ))
    }

    /// Calls a static method that returns nothing, if there is one.
    pub fn run_static(self, class: Class, name: &CStr, signature: &CStr, with: &[Value]) {
        if let Some(id) = self.static_method(class, name, signature) {
            self.call_static_or_throw(class, id, with);
            self.clear();
        }
    }

    /// Calls a static method without arguments that returns a boolean.
    pub fn is_static(self, class: Class, name: &CStr) -> bool {
        let Some(id) = self.static_method(class, name, c"()Z") else { return false };
        let answer = call!(
            self,
            CallStaticBooleanMethodA(Class, Id, *const Value) -> u8,
            class,
            id,
            [].as_ptr()
        );
        !self.clear() && answer != 0
    }

    /// Reads a field with an object; null if there is none.
    pub fn get(self, object: Object, name: &CStr, signature: &CStr) -> Object {
        match self.field_of(object, name, signature) {
            Some(id) => call!(self, GetObjectField(Object, Id) -> Object, object, id),
            None => null_mut(),
        }
    }

    /// Sets a field, final or not, if there is one.
    pub fn set(self, object: Object, name: &CStr, signature: &CStr, value: Object) {
        if let Some(id) = self.field_of(object, name, signature) {
            call!(self, SetObjectField(Object, Id, Object), object, id, value);
        }
    }

    /// Sets a boolean field, if there is one.
    pub fn set_boolean(self, object: Object, name: &CStr, value: bool) {
        if let Some(id) = self.field_of(object, name, c"Z") {
            call!(self, SetBooleanField(Object, Id, u8), object, id, u8::from(value));
        }
    }

    /// Reads an integer field.
    pub fn get_int(self, object: Object, name: &CStr) -> Option<i32> {
        let id = self.field_of(object, name, c"I")?;
        Some(call!(self, GetIntField(Object, Id) -> i32, object, id))
    }

    /// Sets an integer field, if there is one.
    pub fn set_int(self, object: Object, name: &CStr, value: i32) {
        if let Some(id) = self.field_of(object, name, c"I") {
            call!(self, SetIntField(Object, Id, i32), object, id, value);
        }
    }

    /// Reads a long field.
    pub fn get_long(self, object: Object, name: &CStr) -> Option<i64> {
        let id = self.field_of(object, name, c"J")?;
        Some(call!(self, GetLongField(Object, Id) -> i64, object, id))
    }

    /// Sets a long field, if there is one.
    pub fn set_long(self, object: Object, name: &CStr, value: i64) {
        if let Some(id) = self.field_of(object, name, c"J") {
            call!(self, SetLongField(Object, Id, i64), object, id, value);
        }
    }

    /// Reads a static field with an object; null if there is none.
    pub fn get_static(self, class: Class, name: &CStr, signature: &CStr) -> Object {
        match self.static_field(class, name, signature) {
            Some(id) => call!(self, GetStaticObjectField(Class, Id) -> Object, class, id),
            None => null_mut(),
        }
    }

    /// Sets a static field, final or not, if there is one.
    pub fn set_static(self, class: Class, name: &CStr, signature: &CStr, value: Object) {
        if let Some(id) = self.static_field(class, name, signature) {
            call!(self, SetStaticObjectField(Class, Id, Object), class, id, value);
        }
    }

    /// Reads a static integer field.
    pub fn get_static_int(self, class: Class, name: &CStr) -> Option<i32> {
        let id = self.static_field(class, name, c"I")?;
        Some(call!(self, GetStaticIntField(Class, Id) -> i32, class, id))
    }

    /// Sets a static integer field, if there is one.
    pub fn set_static_int(self, class: Class, name: &CStr, value: i32) {
        if let Some(id) = self.static_field(class, name, c"I") {
            call!(self, SetStaticIntField(Class, Id, i32), class, id, value);
        }
    }

    /// Makes a string of text in the class files' UTF-8.
    pub fn string(self, text: &CStr) -> Object {
        self.clean(call!(self, NewStringUTF(*const c_char) -> Object, text.as_ptr()))
    }

    /// Returns the length of an array that is not null.
    pub fn len(self, array: Object) -> i32 {
        call!(self, GetArrayLength(Object) -> i32, array)
    }

    /// Makes an array of nulls.
    pub fn array(self, len: i32, class: Class) -> Object {
        self.clean(call!(self, NewObjectArray(i32, Class, Object) -> Object,
            len, class, null_mut()))
    }

    /// Reads an element of an array.
    pub fn element(self, array: Object, index: i32) -> Object {
        self.clean(call!(self, GetObjectArrayElement(Object, i32) -> Object, array, index))
    }

    /// Sets an element of an array.
    pub fn set_element(self, array: Object, index: i32, value: Object) {
        call!(self, SetObjectArrayElement(Object, i32, Object), array, index, value);
        self.clear();
    }

    /// Makes an array of bytes.
    pub fn bytes(self, bytes: &[u8]) -> Object {
        let Ok(len) = i32::try_from(bytes.len()) else { return null_mut() };
        let array = self.clean(call!(self, NewByteArray(i32) -> Object, len));
        if !array.is_null() {
            call!(
                self,
                SetByteArrayRegion(Object, i32, i32, *const u8),
                array,
                0,
                len,
                bytes.as_ptr()
            );
        }
        array
    }

    /// Reads an array of bytes; none of null.
    pub fn read_bytes(self, array: Object) -> Vec<u8> {
        if array.is_null() {
            return Vec::new();
        }
        let len = self.len(array);
        let mut bytes = alloc::vec![0u8; usize::try_from(len).unwrap_or(0)];
        call!(
            self,
            GetByteArrayRegion(Object, i32, i32, *mut u8),
            array,
            0,
            len,
            bytes.as_mut_ptr()
        );
        bytes
    }

    /// Binds native methods; tells whether it worked.
    pub fn register(self, class: Class, methods: &[NativeMethod]) -> bool {
        if class.is_null() {
            return false;
        }
        let bound = call!(
            self,
            RegisterNatives(Class, *const NativeMethod, i32) -> i32,
            class,
            methods.as_ptr(),
            i32::try_from(methods.len()).unwrap_or(0)
        );
        !self.clear() && bound == 0
    }
}

/// Passes a reference as an argument.
pub fn value(object: Object) -> Value {
    object.expose_provenance() as Value
}
