//! What a training run changes in the JVM, saved before the first and put back
//! after each.
//!
//! Only what belongs to the JDK and what nearly every run touches: static state
//! of the program itself stays, and is what makes the next run fast.

use alloc::vec::Vec;
use core::ffi::{CStr, c_int};
use core::ptr::null_mut;

use super::jni::{Class, Env, Object, value};
use super::known::{self, Known};
use super::{hook, jvmti, libc, streams};

const LOADER: &CStr = c"Ljava/lang/ClassLoader;";
const HANDLER: &CStr = c"Ljava/lang/Thread$UncaughtExceptionHandler;";
const MANAGER: &CStr = c"Ljava/lang/SecurityManager;";
const LOCALE: &CStr = c"Ljava/util/Locale;";
const ZONE: &CStr = c"Ljava/util/TimeZone;";
const LOCALS: &CStr = c"Ljava/lang/ThreadLocal$ThreadLocalMap;";
const ATOMIC: &CStr = c"Ljava/util/concurrent/atomic/AtomicInteger;";
const LOCALES: [&CStr; 3] = [c"defaultLocale", c"defaultDisplayLocale", c"defaultFormatLocale"];
/// The main thread's, always.
const NORMAL_PRIORITY: u64 = 5;

/// What was saved. All references are global.
pub struct State {
    /// Copies of 0, 1 and 2; -1 of one that was closed.
    fds: [c_int; 3],
    properties: Object,
    properties_copy: Object,
    security: Object,
    locales: [Object; 3],
    zone: Object,
    name: Object,
    loader: Object,
    handler: Object,
    default_handler: Object,
    /// The numbers for the names of threads, pools and timers.
    numbers: [i32; 3],
    /// Shutdown hooks that one run has registered, and no other.
    hooks: Vec<Hook>,
}

/// A shutdown hook.
struct Hook {
    thread: Object,
    /// The arguments of the run that has registered it.
    args: Vec<Vec<u8>>,
    /// Whether a later run with these arguments has not registered another: it
    /// belongs to static state, not to the run.
    is_static: bool,
    /// Whether other runs have registered their own: it belongs to the run.
    is_of_run: bool,
}

impl State {
    /// Saves what is put back after each run.
    pub fn save(env: Env) -> Self {
        known::scan(env);
        let system = env.class(c"java/lang/System");
        let thread = hook::main_thread();
        let properties = env.get_static(system, c"props", c"Ljava/util/Properties;");
        let copy = env.object(properties, c"clone", c"()Ljava/lang/Object;", &[]);
        let locale = env.class(c"java/util/Locale");
        let default = env.get_static(env.class(c"java/lang/Thread"), DEFAULT_HANDLER, HANDLER);
        let zone = env.get_static(known::get(Known::TimeZone), c"defaultTimeZone", ZONE);
        Self {
            // SAFETY: no condition.
            fds: [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }),
            properties: env.global(properties),
            properties_copy: env.global(copy),
            security: env.global(env.get_static(system, c"security", MANAGER)),
            locales: LOCALES.map(|name| env.global(env.get_static(locale, name, LOCALE))),
            zone: env.global(zone),
            name: env.global(env.get(thread, c"name", c"Ljava/lang/String;")),
            loader: env.global(env.get(thread, c"contextClassLoader", LOADER)),
            handler: env.global(env.get(thread, c"uncaughtExceptionHandler", HANDLER)),
            default_handler: env.global(default),
            numbers: numbers(env),
            hooks: Vec::new(),
        }
    }

    /// Puts back what a run with these arguments has changed.
    pub fn put_back(&mut self, env: Env, args: &[Vec<u8>]) {
        self.put_back_descriptors();
        self.put_back_system(env);
        self.put_back_thread(env);
        set_numbers(env, self.numbers);
        self.put_back_hooks(env, args);
        delete_files(env);
        // After the properties, which have the encodings.
        streams::renew(env);
    }

    fn put_back_descriptors(&self) {
        for (fd, saved) in (0..).zip(self.fds) {
            // SAFETY: the copy is ours; the program that had the other is over.
            unsafe {
                match saved {
                    0.. => libc::dup2(saved, fd),
                    _ => libc::close(fd),
                };
            }
        }
    }

    fn put_back_system(&self, env: Env) {
        let system = env.class(c"java/lang/System");
        env.set_static(system, c"security", MANAGER, self.security);
        env.set_static(system, c"props", c"Ljava/util/Properties;", self.properties);
        let copy = [value(self.properties_copy)];
        if !env.is(self.properties, c"equals", c"(Ljava/lang/Object;)Z", &copy) {
            let keys = c"keySet";
            let set = c"()Ljava/util/Set;";
            let own = env.object(self.properties, keys, set, &[]);
            let kept = env.object(self.properties_copy, keys, set, &[]);
            env.is(own, c"retainAll", c"(Ljava/util/Collection;)Z", &[value(kept)]);
            env.run(self.properties, c"putAll", c"(Ljava/util/Map;)V", &copy);
        }
        let locale = env.class(c"java/util/Locale");
        for (name, saved) in LOCALES.into_iter().zip(self.locales) {
            env.set_static(locale, name, LOCALE, saved);
        }
        env.set_static(known::get(Known::TimeZone), c"defaultTimeZone", ZONE, self.zone);
    }

    fn put_back_thread(&self, env: Env) {
        let (class, thread) = (env.class(c"java/lang/Thread"), hook::main_thread());
        env.set_static(class, DEFAULT_HANDLER, HANDLER, self.default_handler);
        env.set(thread, c"uncaughtExceptionHandler", HANDLER, self.handler);
        env.set(thread, c"contextClassLoader", LOADER, self.loader);
        // A cold run begins with those of the JDK alone, which come again.
        env.set(thread, c"threadLocals", LOCALS, null_mut());
        env.set(thread, c"inheritableThreadLocals", LOCALS, null_mut());
        env.is_static(class, c"interrupted");
        if !env.same(env.get(thread, c"name", c"Ljava/lang/String;"), self.name) {
            env.run(thread, c"setName", c"(Ljava/lang/String;)V", &[value(self.name)]);
        }
        env.run(thread, c"setPriority", c"(I)V", &[NORMAL_PRIORITY]);
    }

    /// Takes out the shutdown hooks that the run has registered.
    ///
    /// Those of `main` come again in the next run. Those of static
    /// initialisers do not, and are needed in the real run.
    fn put_back_hooks(&mut self, env: Env, args: &[Vec<u8>]) {
        let map = hooks(env);
        let set = env.object(map, c"keySet", c"()Ljava/util/Set;", &[]);
        let array = env.object(set, c"toArray", c"()[Ljava/lang/Object;", &[]);
        let count = if array.is_null() { 0 } else { env.len(array) };
        let new: Vec<Object> = (0..count).map(|index| env.element(array, index)).collect();
        let classes: Vec<Class> = new.iter().map(|thread| doing(env, *thread)).collect();
        for hook in &mut self.hooks {
            let class = doing(env, hook.thread);
            if classes.iter().any(|other| env.same(*other, class)) {
                hook.is_of_run = true;
            } else if hook.args == args {
                hook.is_static = true;
            }
        }
        for (thread, class) in new.into_iter().zip(classes) {
            let known = self.hooks.iter().any(|hook| env.same(doing(env, hook.thread), class));
            // Of the second of a class nothing new is learned.
            if !known {
                let (args, thread) = (args.to_vec(), env.global(thread));
                self.hooks.push(Hook { thread, args, is_static: false, is_of_run: false });
            }
        }
        env.run(map, c"clear", c"()V", &[]);
    }

    /// Tells whether there are shutdown hooks of which it is not known if the
    /// real run registers them: too little was trained.
    pub fn is_in_doubt(&self, env: Env) -> bool {
        let is_known = |hook: &Hook| hook.is_static || hook.is_of_run || is_jdk(env, hook);
        !self.hooks.iter().all(is_known)
    }

    /// Does what is left to do before the real run.
    pub fn finish(&mut self, env: Env) {
        self.close();
        let map = hooks(env);
        let put = c"(Ljava/lang/Object;Ljava/lang/Object;)Ljava/lang/Object;";
        for hook in self.hooks.drain(..) {
            // The JDK's are static: that of the loggers, for one.
            if !hook.is_of_run && (hook.is_static || is_jdk(env, &hook)) {
                env.object(map, c"put", put, &[value(hook.thread), value(hook.thread)]);
            }
        }
    }

    /// Closes the copies of the descriptors.
    pub fn close(&mut self) {
        for fd in &mut self.fds {
            if *fd >= 0 {
                // SAFETY: a copy of ours, used no more.
                unsafe { libc::close(*fd) };
                *fd = -1;
            }
        }
    }
}

const DEFAULT_HANDLER: &CStr = c"defaultUncaughtExceptionHandler";

/// Returns the map of shutdown hooks; null if there never was one.
fn hooks(env: Env) -> Object {
    env.get_static(known::get(Known::ShutdownHooks), c"hooks", c"Ljava/util/IdentityHashMap;")
}

/// Tells whether what a hook does is the JDK's.
fn is_jdk(env: Env, hook: &Hook) -> bool {
    jvmti().loader(doing(env, hook.thread)).is_null()
}

/// Returns the class of what a thread does: its own, or that of its task.
fn doing(env: Env, thread: Object) -> Class {
    const TASK: &CStr = c"Ljava/lang/Runnable;";
    let class = env.class_of(thread);
    if !env.same(class, env.class(c"java/lang/Thread")) {
        return class;
    }
    // Since 19 it is in a holder.
    let holder = env.get(thread, c"holder", c"Ljava/lang/Thread$FieldHolder;");
    let task = match holder.is_null() {
        true => env.get(thread, c"target", TASK),
        false => env.get(holder, c"task", TASK),
    };
    if task.is_null() { class } else { env.class_of(task) }
}

/// Deletes the files that the run wanted to be deleted at its exit.
fn delete_files(env: Env) {
    let class = known::get(Known::DeleteOnExit);
    let files = env.get_static(class, c"files", c"Ljava/util/LinkedHashSet;");
    let array = env.object(files, c"toArray", c"()[Ljava/lang/Object;", &[]);
    if array.is_null() {
        return;
    }
    let file = env.class(c"java/io/File");
    // The last one first: directories come before what is in them.
    for index in (0..env.len(array)).rev() {
        let name = env.element(array, index);
        let path = env.make(file, c"(Ljava/lang/String;)V", &[value(name)]);
        env.is(path, c"delete", c"()Z", &[]);
    }
    env.run(files, c"clear", c"()V", &[]);
}

/// Returns the numbers of the next thread, pool and timer without a name.
fn numbers(env: Env) -> [i32; 3] {
    let counter = |class, name, first| {
        env.get_int(env.get_static(class, name, ATOMIC), c"value").unwrap_or(first)
    };
    let threads = env.get_static_int(env.class(c"java/lang/Thread"), c"threadInitNumber");
    let numbering = || env.get_static_int(known::get(Known::ThreadNumbering), c"next");
    [
        threads.or_else(numbering).unwrap_or(0),
        counter(known::get(Known::ThreadFactory), c"poolNumber", 1),
        counter(known::get(Known::Timer), c"nextSerialNumber", 0),
    ]
}

fn set_numbers(env: Env, [thread, pool, timer]: [i32; 3]) {
    env.set_static_int(env.class(c"java/lang/Thread"), c"threadInitNumber", thread);
    env.set_static_int(known::get(Known::ThreadNumbering), c"next", thread);
    let set = |class, name, number| {
        env.set_int(env.get_static(class, name, ATOMIC), c"value", number);
    };
    set(known::get(Known::ThreadFactory), c"poolNumber", pool);
    set(known::get(Known::Timer), c"nextSerialNumber", timer);
}
