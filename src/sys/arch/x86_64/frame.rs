//! The frame that `rt_sigreturn(2)` takes a thread's registers from.
//!
//! `struct ucontext` with `struct sigcontext` inside
//! (`arch/x86/include/uapi/asm/ucontext.h`, `sigcontext.h`), then the
//! extended state at the next multiple of 64. A malformed one is not refused
//! by the kernel but loses the extended state in silence, so the layout is
//! tested by a real return.

use super::Registers;

/// An alternate signal stack (`sigaltstack(2)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AltStack {
    /// The lowest byte.
    pub sp: u64,
    /// `SS_*`.
    pub flags: u32,
    /// The size in bytes.
    pub size: u64,
}

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;
const OFFSET_STACK: usize = 16;
const OFFSET_REGISTERS: usize = 40;
const OFFSET_SEGMENTS: usize = OFFSET_REGISTERS + 18 * 8;
const OFFSET_FPSTATE: usize = 224;
const OFFSET_SIGMASK: usize = 296;
/// The length of `struct ucontext` in bytes.
pub const LEN_UCONTEXT: usize = 304;
/// `FP_XSTATE_MAGIC1`, `FP_XSTATE_MAGIC2` and the place of
/// `struct _fpx_sw_bytes` in the FXSAVE image.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const OFFSET_SW_BYTES: usize = 464;
const ALIGN: u64 = 64;

/// Returns how many bytes a frame with that much extended state takes, at any
/// address that is a multiple of 64.
pub fn frame_len(len_xstate: usize) -> usize {
    LEN_UCONTEXT.next_multiple_of(ALIGN as usize) + len_xstate + 4
}

/// Builds the frame; [`place_frame`] says where it will lie.
pub fn signal_frame(regs: &Registers, mask: u64, alt_stack: AltStack, xstate: &[u8]) -> Vec<u8> {
    let offset_xstate = LEN_UCONTEXT.next_multiple_of(ALIGN as usize);
    let mut frame = vec![0; frame_len(xstate.len())];
    let mut put = |offset: usize, bytes: &[u8]| {
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &UC_FLAGS.to_le_bytes());
    put(OFFSET_STACK, &alt_stack.sp.to_le_bytes());
    put(OFFSET_STACK + 8, &alt_stack.flags.to_le_bytes());
    put(OFFSET_STACK + 16, &alt_stack.size.to_le_bytes());
    let registers = [
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.eflags,
    ];
    for (index, register) in registers.iter().enumerate() {
        put(OFFSET_REGISTERS + index * 8, &register.to_le_bytes());
    }
    for (index, segment) in [regs.cs, regs.gs, regs.fs, regs.ss].iter().enumerate() {
        put(OFFSET_SEGMENTS + index * 2, &(*segment as u16).to_le_bytes());
    }
    put(OFFSET_SIGMASK, &mask.to_le_bytes());
    put(offset_xstate, xstate);
    let xstate_bv = xstate.get(512..520).and_then(|word| word.try_into().ok());
    let features = xstate_bv.map_or(3, u64::from_le_bytes) | 3;
    let sw = offset_xstate + OFFSET_SW_BYTES;
    put(sw, &MAGIC1.to_le_bytes());
    put(sw + 4, &(xstate.len() as u32 + 4).to_le_bytes());
    put(sw + 8, &features.to_le_bytes());
    put(sw + 16, &(xstate.len() as u32).to_le_bytes());
    put(offset_xstate + xstate.len(), &MAGIC2.to_le_bytes());
    frame
}

/// Sets the one address in a frame for `addr`, a multiple of 64, where rsp has
/// to point when `rt_sigreturn` is called. The frame has at least
/// [`LEN_UCONTEXT`] bytes.
pub fn place_frame(frame: &mut [u8], addr: u64) {
    let xstate = addr + (LEN_UCONTEXT as u64).next_multiple_of(ALIGN);
    frame[OFFSET_FPSTATE..OFFSET_FPSTATE + 8].copy_from_slice(&xstate.to_le_bytes());
}
