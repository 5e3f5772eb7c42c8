//! What happens while the launcher is held before `main`.

use alloc::vec::Vec;

use super::hook::Launch;
use super::jni::{Class, Env, Object};
use super::protocol::{self, How, Message, Order};
use super::state::State;
use super::{classes, deliver, entropy, hook, jvmti, known, libc, train};

/// What is known of the launcher's call.
pub struct Call {
    pub class: Class,
    pub launch: Launch,
    /// The launcher's own arguments, which come before all others.
    pub prefix: Object,
    /// `sun.java.command` without arguments of the program.
    pub command: Vec<u8>,
    /// Whether `user.dir` was set by an option, and so is no directory of ours.
    pub has_user_dir: bool,
}

/// Carries out orders until the real command is delivered; returns a global
/// reference to its arguments.
pub fn serve(env: Env, class: Class, launch: Launch, prefix: Object) -> Object {
    let call = Call {
        class,
        launch,
        prefix,
        command: deliver::text(env, deliver::property(env, c"sun.java.command")),
        has_user_dir: deliver::has_user_dir(env),
    };
    let mut state: Option<State> = None;
    say_reached(env, &call);
    loop {
        let order = protocol::receive();
        let done = env.frame(|| match order {
            Order::Train { wait_ms, command } => {
                let state = state.get_or_insert_with(|| State::save(env));
                train::run(env, &call, state, wait_ms, &command);
                None
            }
            Order::Classes => {
                Message::new(b'K').list(&classes::loaded(env)).send();
                None
            }
            Order::Link(names) => {
                protocol::send_end(How::Returned, classes::link(env, &names), b"");
                None
            }
            Order::Prepare { settle_ms } => {
                prepare(env, &mut state, settle_ms);
                None
            }
            Order::Deliver { command, printed } => {
                protocol::close();
                if let Some(state) = &mut state {
                    state.finish(env);
                }
                if !deliver::apply(env, &call, &command) {
                    protocol::abandon();
                }
                entropy::mix(env, hook::main_thread());
                say_again(&printed);
                Some(deliver::arguments(env, &call, &command.args))
            }
        });
        if let Some(arguments) = done {
            return arguments;
        }
    }
}

/// Prints what the JVM prints at each start, before `main`: what was printed
/// when this one started, nobody saw.
fn say_again(printed: &[Vec<u8>; 2]) {
    for (fd, text) in (1..).zip(printed) {
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            // SAFETY: the buffer is as long as is said.
            let written = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) if libc::interrupted() => {}
                // As the JVM does without it.
                Err(_) => break,
            }
        }
    }
}

fn say_reached(env: Env, call: &Call) {
    let signature = jvmti().signature(call.class);
    let name = signature.strip_prefix(b"L").and_then(|name| name.strip_suffix(b";"));
    let name: Vec<u8> = name
        .unwrap_or(&signature)
        .iter()
        .map(|byte| if *byte == b'/' { b'.' } else { *byte })
        .collect();
    let count = env.len(call.prefix);
    let prefix: Vec<Vec<u8>> =
        (0..count).map(|index| deliver::text(env, env.element(call.prefix, index))).collect();
    Message::new(b'M').list(&prefix).string(&name).string(&call.command).send();
}

/// Makes the process small, and still.
fn prepare(env: Env, state: &mut Option<State>, settle_ms: u32) {
    if let Some(state) = state {
        if state.is_in_doubt(env) {
            let reason = b"a shutdown hook may belong to one run or to all: train twice";
            return protocol::send_end(How::Refused, 0, reason);
        }
        state.close();
    }
    // SAFETY: a C string. The root directory is always there.
    unsafe { libc::chdir(c"/".as_ptr()) };
    // Now, so that a restored run need not.
    known::scan(env);
    deliver::remember_layout();
    // The second one frees what the first has found to be finalised.
    jvmti().collect();
    jvmti().collect();
    trim();
    // G1 gives memory back in a thread of its own.
    libc::sleep_ms(settle_ms);
    trim();
    Message::new(b'R').send();
}

/// Gives free memory of the C library back; musl has no such call.
fn trim() {
    let found = libc::find(c"malloc_trim");
    if !found.is_null() {
        // SAFETY: malloc_trim(3) has this type.
        unsafe {
            let trim: unsafe extern "C" fn(usize) -> i32 = core::mem::transmute(found);
            trim(0);
        }
    }
}
