//! x86-64.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

mod frame;
mod interpreter;
mod xstate;

pub use frame::{AltStack, LEN_UCONTEXT, frame_len, place_frame, signal_frame};
pub use interpreter::{Instruction, Op, Start, clone_and_run, interpreter_code, own_rseq};
pub use xstate::{XstateComponents, compose, decompose, xstate_len};

/// One past the highest user address with 4-level page tables (47 bits less
/// the guard page).
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The length in bytes of the `syscall` instruction.
pub const LEN_SYSCALL: u64 = 2;

/// The `syscall` instruction.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The general registers of a thread.
pub type Registers = libc::user_regs_struct;

/// `ERESTARTSYS` and its relatives, as a tracer sees them in rax
/// (`include/linux/errno.h`).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// How a thread that was stopped in a system call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// It was not in a system call, or the call had returned.
    No,
    /// The kernel makes the call again when the thread runs on.
    Restarts,
    /// The call answered EINTR because of our stop.
    Eintr,
}

/// Says how a stopped thread was interrupted.
pub fn interrupted(regs: &Registers) -> Interrupted {
    if (regs.orig_rax as i64) < 0 {
        return Interrupted::No;
    }
    match regs.rax as i64 {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK => {
            Interrupted::Restarts
        }
        error if error == -i64::from(libc::EINTR) => Interrupted::Eintr,
        _ => Interrupted::No,
    }
}

/// Makes a stopped thread issue its interrupted system call again.
pub fn rewind(regs: &mut Registers) {
    regs.rax = regs.orig_rax;
    regs.rip = regs.rip.wrapping_sub(LEN_SYSCALL);
    regs.orig_rax = u64::MAX;
}

/// Returns the number of the system call a stopped thread was in.
pub fn syscall_number(regs: &Registers) -> i64 {
    regs.orig_rax as i64
}

/// Sets registers so that the next instruction, `syscall` at `at`, makes the
/// call `nr` with `args`.
pub fn prepare_call(regs: &mut Registers, at: u64, nr: i64, args: [u64; 6]) {
    regs.rip = at;
    regs.rax = nr as u64;
    regs.orig_rax = u64::MAX;
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
}

/// Returns the result of a system call that [`prepare_call`] prepared.
pub fn call_result(regs: &Registers) -> i64 {
    regs.rax as i64
}

/// Returns whether these are the registers of a 64-bit thread: segment
/// selectors of the kernel's `USER_CS` and `USER_DS`.
pub fn is_native(regs: &Registers) -> bool {
    regs.cs == 0x33 && regs.ss == 0x2b
}

#[target_feature(enable = "xsave")]
unsafe fn xgetbv0() -> u64 {
    // SAFETY: the caller has checked that the instruction exists.
    unsafe { _xgetbv(0) }
}

/// Returns the processor's extended-state feature mask (XCR0), 0 without
/// XSAVE.
pub fn xfeatures() -> u64 {
    // OSXSAVE, CPUID.1:ECX.27: xgetbv exists and the kernel uses XSAVE.
    if __cpuid(1).ecx & (1 << 27) == 0 {
        return 0;
    }
    // SAFETY: OSXSAVE was just checked: xgetbv exists.
    unsafe { xgetbv0() }
}

/// Returns offset and size in bytes of an extended-state component in the
/// standard XSAVE format (CPUID leaf 0xD).
pub fn xstate_component(feature: u32) -> (usize, usize) {
    match feature {
        0 => (0, 160),
        1 => (160, 256),
        feature => {
            let leaf = __cpuid_count(0xd, feature);
            (leaf.ebx as usize, leaf.eax as usize)
        }
    }
}
