//! A run of `main` as training.

use alloc::vec::Vec;

use super::jni::{Env, value};
use super::orders::Call;
use super::protocol::{self, Command, How};
use super::state::State;
use super::{deliver, exit, hook, jvmti, known, libc};

/// How long the main thread sleeps between two looks at the other threads.
const PAUSE_MS: u32 = 2;
/// The longest reason that is told, in bytes.
const REASON_MAX: usize = 500;

/// Runs `main`, waits for the threads that it leaves, puts back what it has
/// changed, and says how it ended.
pub fn run(env: Env, call: &Call, state: &mut State, wait_ms: u32, command: &Command) {
    if !exit::bind(env) {
        return protocol::send_end(How::Refused, 0, b"the JVM's exit cannot be trapped");
    }
    known::scan(env);
    if !deliver::apply(env, call, command) {
        let reason = [b"cannot enter ", command.cwd.as_slice()].concat();
        return protocol::send_end(How::Refused, 0, &reason);
    }
    let arguments = deliver::arguments(env, call, &command.args);
    exit::trap();
    hook::call_main(env, call.class, call.launch, arguments);
    let exception = env.take_exception();
    let mut end = (How::Returned, 0);
    if !exception.is_null() && exit::exited().is_none() {
        // As when the main thread ends, which comes next.
        env.run(
            hook::main_thread(),
            c"dispatchUncaughtException",
            c"(Ljava/lang/Throwable;)V",
            &[value(exception)],
        );
        end = (How::Uncaught, 1);
    }
    exit::leave_main(env);
    let left = wait(env, wait_ms);
    // Only now: a thread that was left may have called for it.
    let end = exit::exited().unwrap_or(end);
    exit::release();
    env.release(arguments);
    known::scan(env);
    state.put_back(env, &command.args);
    match left.as_slice() {
        [] => protocol::send_end(end.0, end.1, b""),
        names => protocol::send_end(How::Refused, 0, &reason(names)),
    }
}

/// Waits until the only thread that keeps the JVM running is the main thread;
/// returns the names of the others if they do not end.
fn wait(env: Env, wait_ms: u32) -> Vec<Vec<u8>> {
    let end = libc::now_ms() + i64::from(wait_ms);
    loop {
        let left: Vec<Vec<u8>> = env.frame(|| {
            let threads = jvmti().threads().into_iter();
            threads
                .filter(|thread| !thread.is_daemon && !env.same(thread.object, hook::main_thread()))
                .map(|thread| thread.name)
                .collect()
        });
        if left.is_empty() || libc::now_ms() >= end {
            return left;
        }
        libc::sleep_ms(PAUSE_MS);
    }
}

/// Names the threads that were left.
fn reason(names: &[Vec<u8>]) -> Vec<u8> {
    let mut reason = b"left ".to_vec();
    deliver::put_number(&mut reason, names.len());
    reason.extend_from_slice(if names.len() == 1 {
        b" thread running: "
    } else {
        b" threads running: "
    });
    reason.extend_from_slice(&names.join(&b", "[..]));
    reason.truncate(REASON_MAX);
    reason
}
