//! Seeds must not be frozen: two restores of one image would draw the same
//! random numbers.
//!
//! The JDK's pseudo-random generators begin with a seed that they take from a
//! static one. Fresh bytes are mixed into those, and into the generators that
//! the JDK itself keeps.
//!
//! `SecureRandom` is of another kind. `NativePRNG`, the default on Linux, returns
//! what it reads from `/dev/urandom`, by way of a buffer that counts as fresh for
//! 100 ms of the system's clock, which may be set back: the buffer is emptied.
//! `DRBG` and `SHA1PRNG` go on from their state, so those that the JDK keeps are
//! given fresh bytes; of those that a program keeps in its static state the agent
//! does not know.

use core::ffi::CStr;

use super::jni::{Env, Object, value};
use super::known::{self, Known};
use super::{jvmti, libc};

const ATOMIC: &CStr = c"Ljava/util/concurrent/atomic/AtomicLong;";
const RANDOM: &CStr = c"Ljava/util/Random;";
const SECURE: &CStr = c"Ljava/security/SecureRandom;";
const SOURCE: &CStr = c"Lsun/security/provider/NativePRNG$RandomIO;";
/// 48 bits: what a `Random` has for a seed.
const RANDOM_MASK: i64 = (1 << 48) - 1;

/// Mixes fresh bytes into all seeds that are known.
pub fn mix(env: Env, main: Object) {
    let seeds = [
        (Known::ThreadLocalRandom, c"seeder"),
        (Known::Random, c"seedUniquifier"),
        (Known::SplittableRandom, c"defaultGen"),
    ];
    for (class, field) in seeds {
        mix_atomic(env, env.get_static(known::get(class), field, ATOMIC), !0);
    }
    let kept = [(Known::MathRandom, c"randomNumberGenerator"), (Known::Collections, c"r")];
    for (class, field) in kept {
        let random = env.get_static(known::get(class), field, RANDOM);
        mix_atomic(env, env.get(random, c"seed", ATOMIC), RANDOM_MASK);
    }
    for class in [Known::NativePrng, Known::NativePrngBlocking, Known::NativePrngNonBlocking] {
        let source = env.get_static(known::get(class), c"INSTANCE", SOURCE);
        env.set_int(source, c"buffered", 0);
    }
    mix_thread(env, main);
    env.frame(|| {
        for thread in jvmti().threads() {
            if !env.same(thread.object, main) {
                mix_thread(env, thread.object);
            }
        }
    });
    let secure = [
        (Known::Uuid, c"numberGenerator"),
        (Known::FileTemp, c"random"),
        (Known::PathTemp, c"random"),
    ];
    for (class, field) in secure {
        reseed(env, env.get_static(known::get(class), field, SECURE));
    }
}

/// Mixes fresh bytes into an `AtomicLong`.
fn mix_atomic(env: Env, atomic: Object, mask: i64) {
    if let Some(seed) = env.get_long(atomic, c"value") {
        env.set_long(atomic, c"value", seed ^ (libc::random() & mask));
    }
}

/// Mixes fresh bytes into a thread's own seed, if it has one by now.
fn mix_thread(env: Env, thread: Object) {
    if let Some(seed @ (..=-1 | 1..)) = env.get_long(thread, c"threadLocalRandomSeed") {
        env.set_long(thread, c"threadLocalRandomSeed", seed ^ libc::random());
    }
}

/// Gives fresh bytes to a generator that would go on without.
fn reseed(env: Env, random: Object) {
    if random.is_null() {
        return;
    }
    let name = env.object(random, c"getAlgorithm", c"()Ljava/lang/String;", &[]);
    let native = env.string(c"NativePRNG");
    if env.is(name, c"startsWith", c"(Ljava/lang/String;)Z", &[value(native)]) {
        return;
    }
    let mut seed = [0; 32];
    for part in seed.chunks_exact_mut(8) {
        part.copy_from_slice(&libc::random().to_ne_bytes());
    }
    env.run(random, c"setSeed", c"([B)V", &[value(env.bytes(&seed))]);
}
