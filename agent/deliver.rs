//! A command becomes that of the process: environment, working directory,
//! command line and arguments, in the kernel, the C library and the JDK.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use super::jni::{Env, Object, Value, value};
use super::known::{self, Known};
use super::libc;
use super::orders::Call;
use super::protocol::Command;

const STRING: &CStr = c"Ljava/lang/String;";

/// Makes a command that of the process; tells whether its directory could be
/// entered. All but the arguments of `main` ([`arguments`]).
pub fn apply(env: Env, call: &Call, command: &Command) -> bool {
    set_command_line(command);
    refill_environment(env);
    let mut cwd = command.cwd.clone();
    cwd.push(0);
    // SAFETY: a C string.
    if unsafe { libc::chdir(cwd.as_ptr().cast()) } != 0 {
        return false;
    }
    if !call.has_user_dir {
        // As the kernel names it, as the JDK asks when it starts.
        let path = libc::working_directory().unwrap_or_else(|| command.cwd.clone());
        set_user_dir(env, &path);
    }
    let mut line = call.command.clone();
    for argument in &command.args {
        line.push(b' ');
        line.extend_from_slice(argument);
    }
    set_property(env, c"sun.java.command", string(env, &line));
    true
}

/// Makes the arguments of `main`, the launcher's own first; a global reference.
pub fn arguments(env: Env, call: &Call, args: &[Vec<u8>]) -> Object {
    let prefix = env.len(call.prefix);
    let count = i32::try_from(args.len()).unwrap_or(0);
    let array = env.array(prefix.saturating_add(count), env.class(c"java/lang/String"));
    for index in 0..prefix {
        env.frame(|| env.set_element(array, index, env.element(call.prefix, index)));
    }
    for (index, argument) in (prefix..).zip(args) {
        env.frame(|| env.set_element(array, index, string(env, argument)));
    }
    env.global(array)
}

/// Makes a string of bytes from the system, as the launcher does.
fn string(env: Env, bytes: &[u8]) -> Object {
    let helper = env.class(c"sun/launcher/LauncherHelper");
    let with: [Value; 2] = [1, value(env.bytes(bytes))];
    env.static_object(helper, c"makePlatformString", c"(Z[B)Ljava/lang/String;", &with)
}

/// Returns a string's bytes in the system's encoding; none of null.
pub fn text(env: Env, string: Object) -> Vec<u8> {
    let encoding = property(env, c"sun.jnu.encoding");
    env.read_bytes(env.object(string, c"getBytes", c"(Ljava/lang/String;)[B", &[value(encoding)]))
}

fn properties(env: Env) -> Object {
    env.get_static(env.class(c"java/lang/System"), c"props", c"Ljava/util/Properties;")
}

/// Returns a system property; null if there is none.
pub fn property(env: Env, name: &CStr) -> Object {
    let signature = c"(Ljava/lang/String;)Ljava/lang/String;";
    env.object(properties(env), c"getProperty", signature, &[value(env.string(name))])
}

fn set_property(env: Env, name: &CStr, to: Object) {
    if !to.is_null() {
        let signature = c"(Ljava/lang/Object;Ljava/lang/Object;)Ljava/lang/Object;";
        env.object(properties(env), c"put", signature, &[value(env.string(name)), value(to)]);
    }
}

/// Tells whether `user.dir` was given as an option.
pub fn has_user_dir(env: Env) -> bool {
    env.frame(|| {
        let vm = env.class(c"jdk/internal/misc/VM");
        let all = env.static_object(vm, c"getRuntimeArguments", c"()[Ljava/lang/String;", &[]);
        let count = if all.is_null() { 0 } else { env.len(all) };
        (0..count).any(|index| text(env, env.element(all, index)).starts_with(b"-Duser.dir="))
    })
}

/// Sets the working directory wherever the JDK remembers it.
fn set_user_dir(env: Env, path: &[u8]) {
    let directory = string(env, path);
    if directory.is_null() {
        return;
    }
    set_property(env, c"user.dir", directory);
    // Code compiled while training may have taken the final field's value in.
    // Only the JDK reads it, when it initialises what follows.
    env.set_static(known::get(Known::StaticProperty), c"USER_DIR", STRING, directory);
    // Only what is there is asked for: an error, even one that is cleared, draws
    // an identity hash code, and the program's would be others than in a plain
    // start.
    let class = known::get(Known::File);
    let is_new = known::release() >= 21;
    let system = env.get_static(class, if is_new { c"FS" } else { c"fs" }, c"Ljava/io/FileSystem;");
    env.set(system, c"userDir", STRING, directory);
    if !is_new {
        // For half a minute.
        for cache in [c"cache", c"javaHomePrefixCache"] {
            let cache = env.get(system, cache, c"Ljava/io/ExpiringCache;");
            env.run(cache, c"clear", c"()V", &[]);
        }
    }
    let provider = env.get_static(
        known::get(Known::FileSystemProvider),
        c"INSTANCE",
        c"Lsun/nio/fs/LinuxFileSystemProvider;",
    );
    let system = env.get(provider, c"theFileSystem", c"Lsun/nio/fs/UnixFileSystem;");
    env.set(system, c"defaultDirectory", c"[B", env.bytes(path));
    let permission = known::get(Known::FilePermission);
    if !permission.is_null() {
        let none = env.array(0, env.class(c"java/lang/String"));
        let signature = c"(Ljava/lang/String;[Ljava/lang/String;)Ljava/nio/file/Path;";
        let here = env.object(system, c"getPath", signature, &[value(directory), value(none)]);
        env.set_static(permission, c"here", c"Ljava/nio/file/Path;", here);
    }
}

/// Reads the environment again, if the JDK has read it before: into the same
/// map, of which the program may hold views, and in the same order.
fn refill_environment(env: Env) {
    let class = known::get(Known::ProcessEnvironment);
    let map = env.get_static(class, c"theEnvironment", c"Ljava/util/HashMap;");
    let all = env.static_object(class, c"environ", c"()[[B", &[]);
    if map.is_null() || all.is_null() {
        return;
    }
    let count = env.len(all) / 2;
    env.run(map, c"clear", c"()V", &[]);
    // As the constructor leaves it that the JDK calls with `count + 3`: the
    // order of a map's elements depends on its size.
    env.set(map, c"table", c"[Ljava/util/HashMap$Node;", null_mut());
    let capacity = count.saturating_add(3).cast_unsigned().next_power_of_two();
    env.set_int(map, c"threshold", capacity.cast_signed());
    let name = env.class(c"java/lang/ProcessEnvironment$Variable");
    let content = env.class(c"java/lang/ProcessEnvironment$Value");
    let put = c"(Ljava/lang/Object;Ljava/lang/Object;)Ljava/lang/Object;";
    // From the last: of two with one name the first counts.
    for index in (0..count).rev() {
        env.frame(|| {
            let of = [value(env.element(all, index * 2))];
            let signature = c"([B)Ljava/lang/ProcessEnvironment$Variable;";
            let name = env.static_object(name, c"valueOf", signature, &of);
            let of = [value(env.element(all, index * 2 + 1))];
            let signature = c"([B)Ljava/lang/ProcessEnvironment$Value;";
            let content = env.static_object(content, c"valueOf", signature, &of);
            env.object(map, c"put", put, &[value(name), value(content)]);
        });
    }
}

/// Lays the command line and the environment out as `execve` does, for
/// `/proc/PID/cmdline` and `environ`, and lets the C library use the latter.
fn set_command_line(command: &Command) {
    let size = |list: &[Vec<u8>]| list.iter().map(|text| text.len() + 1).sum::<usize>();
    let (len_args, len_env) = (size(&command.argv), size(&command.env));
    const READ_WRITE: c_int = 3;
    const PRIVATE_ANONYMOUS: c_int = 0x22;
    // The kernel asks for a mapping. Never freed: the program may keep what
    // getenv(3) returns.
    let len = (len_args + len_env).max(1);
    // SAFETY: a new mapping anywhere.
    let block = unsafe { libc::mmap(null_mut(), len, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0) };
    if block.addr() == usize::MAX {
        return;
    }
    let mut next = block.cast::<u8>();
    let mut environ: Vec<*mut c_char> = Vec::with_capacity(command.env.len() + 1);
    for (index, text) in command.argv.iter().chain(&command.env).enumerate() {
        if index >= command.argv.len() {
            environ.push(next.cast());
        }
        // SAFETY: the block has room for all of them, each with a NUL, which is
        // there already.
        unsafe {
            core::ptr::copy_nonoverlapping(text.as_ptr(), next, text.len());
            next = next.add(text.len() + 1);
        }
    }
    environ.push(null_mut());
    // SAFETY: a list that ends with null and is never freed. No other thread
    // of the JVM looks at it now: the program does not run.
    unsafe { libc::environ = environ.leak().as_mut_ptr() };
    let start = block.addr() as u64;
    tell_kernel(start, start + len_args as u64, start + (len_args + len_env) as u64);
}

/// `struct prctl_mm_map` of `linux/prctl.h`.
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *const c_void,
    auxv_size: u32,
    exe_fd: u32,
}

/// Fields of `/proc/PID/stat`, counted from the third: startcode, endcode,
/// start_data, end_data, start_brk and startstack (proc_pid_stat(5)).
const FIELDS: [usize; 6] = [26 - 3, 27 - 3, 45 - 3, 46 - 3, 47 - 3, 28 - 3];
/// Their values; zero while they are not known.
static LAYOUT: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

/// Reads what the kernel wants to be told again with a new command line.
pub fn remember_layout() {
    let Some(text) = libc::read_file(c"/proc/self/stat") else { return };
    // The name in parentheses may have any character in it.
    let Some(end) = text.iter().rposition(|byte| *byte == b')') else { return };
    let rest = text.get(end + 2..).unwrap_or_default();
    let fields: Vec<&[u8]> = rest.split(|byte| *byte == b' ').collect();
    for (place, index) in LAYOUT.iter().zip(FIELDS) {
        let field = fields.get(index).copied().unwrap_or_default();
        let number = core::str::from_utf8(field).ok().and_then(|text| text.parse().ok());
        place.store(number.unwrap_or(0), Ordering::Relaxed);
    }
}

/// Shows the kernel where the command line and the environment are. Where it
/// does not allow that (no CONFIG_CHECKPOINT_RESTORE), `/proc` goes on to show
/// the old ones.
fn tell_kernel(arg_start: u64, arg_end: u64, env_end: u64) {
    const SET_MM: c_int = 35;
    const SET_MM_MAP: c_long = 14;
    const BRK: c_long = 12;
    if LAYOUT.iter().any(|place| place.load(Ordering::Relaxed) == 0) {
        remember_layout();
    }
    let [start_code, end_code, start_data, end_data, start_brk, start_stack] =
        LAYOUT.each_ref().map(|place| place.load(Ordering::Relaxed));
    let map = MmMap {
        start_code,
        end_code,
        start_data,
        end_data,
        start_brk,
        // SAFETY: an impossible address asks for the present one.
        brk: unsafe { libc::syscall(BRK, 0) }.cast_unsigned(),
        start_stack,
        arg_start,
        arg_end,
        env_start: arg_end,
        env_end,
        auxv: core::ptr::null(),
        auxv_size: 0,
        // The executable stays.
        exe_fd: u32::MAX,
    };
    // SAFETY: the structure is as long as is said (prctl(2), PR_SET_MM_MAP).
    unsafe { libc::prctl(SET_MM, SET_MM_MAP, &raw const map, size_of::<MmMap>(), 0usize) };
}

/// Writes a number in decimal digits: what `core::fmt` would take 20 KB for.
pub fn put_number(text: &mut Vec<u8>, number: usize) {
    if number >= 10 {
        put_number(text, number / 10);
    }
    text.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
}
