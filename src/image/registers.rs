//! Registers and extended state, from the processor's layout to the format's
//! messages and back.

use std::collections::BTreeMap;

use super::proto::{ThreadSasEntry, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};
use crate::sys::arch::{self, Registers, XstateComponents};

/// `SS_DISABLE` (`sigaltstack(2)`): there is no alternate stack.
const SS_DISABLE: u32 = 2;

/// Returns the message for general registers.
pub fn encode_registers(regs: &Registers) -> UserX86RegsEntry {
    UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.rbp,
        bx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax: regs.rax,
        cx: regs.rcx,
        dx: regs.rdx,
        si: regs.rsi,
        di: regs.rdi,
        orig_ax: regs.orig_rax,
        ip: regs.rip,
        cs: regs.cs,
        flags: regs.eflags,
        sp: regs.rsp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        mode: None,
    }
}

/// Returns the registers that an image holds. An image that CRIU made can
/// hold a call that the kernel was about to restart; it is rewound.
pub fn decode_registers(entry: &UserX86RegsEntry) -> Registers {
    let mut regs = Registers {
        r15: entry.r15,
        r14: entry.r14,
        r13: entry.r13,
        r12: entry.r12,
        rbp: entry.bp,
        rbx: entry.bx,
        r11: entry.r11,
        r10: entry.r10,
        r9: entry.r9,
        r8: entry.r8,
        rax: entry.ax,
        rcx: entry.cx,
        rdx: entry.dx,
        rsi: entry.si,
        rdi: entry.di,
        orig_rax: entry.orig_ax,
        rip: entry.ip,
        cs: entry.cs,
        eflags: entry.flags,
        rsp: entry.sp,
        ss: entry.ss,
        fs_base: entry.fs_base,
        gs_base: entry.gs_base,
        ds: entry.ds,
        es: entry.es,
        fs: entry.fs,
        gs: entry.gs,
    };
    if arch::interrupted(&regs) != arch::Interrupted::No {
        arch::rewind(&mut regs);
    }
    regs
}

/// Returns the alternate signal stack that an image holds.
pub fn decode_alt_stack(entry: Option<&ThreadSasEntry>) -> arch::AltStack {
    entry.map_or(arch::AltStack { sp: 0, flags: SS_DISABLE, size: 0 }, |sas| arch::AltStack {
        sp: sas.ss_sp,
        flags: sas.ss_flags,
        size: sas.ss_size,
    })
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks_exact(4);
    words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

fn words64(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|bytes| word(bytes, 0)).collect()
}

/// Returns the message for extended state.
pub fn encode_xstate(state: &XstateComponents) -> UserX86FpregsEntry {
    let legacy = &state.legacy;
    let short = |offset: usize| u32::from(u16::from_le_bytes([legacy[offset], legacy[offset + 1]]));
    let wide = |feature: u32| state.extended.get(&feature).map_or(Vec::new(), |b| words64(b));
    let narrow = |feature: u32| state.extended.get(&feature).map_or(Vec::new(), |b| words32(b));
    UserX86FpregsEntry {
        cwd: short(0),
        swd: short(2),
        twd: short(4),
        fop: short(6),
        rip: word(legacy, 8),
        rdp: word(legacy, 16),
        mxcsr: word(legacy, 24) as u32,
        mxcsr_mask: (word(legacy, 24) >> 32) as u32,
        st_space: words32(&legacy[32..160]),
        xmm_space: words32(&legacy[160..416]),
        padding: vec![0; 24],
        xsave: Some(UserX86XsaveEntry {
            xstate_bv: state.xstate_bv,
            ymmh_space: padded(narrow(2), 64),
            bndreg_state: wide(3),
            bndcsr_state: wide(4),
            opmask_reg: wide(5),
            zmm_upper: wide(6),
            hi16_zmm: wide(7),
            pkru: narrow(9),
            cet: None,
        }),
    }
}

/// CRIU expects the AVX halves to be there even where AVX is not in use.
fn padded(mut words: Vec<u32>, len: usize) -> Vec<u32> {
    if words.is_empty() {
        words.resize(len, 0);
    }
    words
}

/// Returns the extended state that an image holds; `None` if it is malformed.
pub fn decode_xstate(entry: &UserX86FpregsEntry) -> Option<XstateComponents> {
    let mut legacy = vec![0u8; 512];
    let mut put = |offset: usize, bytes: &[u8]| {
        legacy[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    for (offset, short) in [(0, entry.cwd), (2, entry.swd), (4, entry.twd), (6, entry.fop)] {
        put(offset, &u16::try_from(short).ok()?.to_le_bytes());
    }
    put(8, &entry.rip.to_le_bytes());
    put(16, &entry.rdp.to_le_bytes());
    put(24, &entry.mxcsr.to_le_bytes());
    put(28, &entry.mxcsr_mask.to_le_bytes());
    if entry.st_space.len() != 32 || entry.xmm_space.len() != 64 {
        return None;
    }
    for (index, word) in entry.st_space.iter().chain(&entry.xmm_space).enumerate() {
        put(32 + index * 4, &word.to_le_bytes());
    }
    let Some(xsave) = &entry.xsave else {
        return Some(XstateComponents { legacy, xstate_bv: 3, extended: BTreeMap::new() });
    };
    let bytes32 = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bytes64 = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let components: [(u32, Vec<u8>); 7] = [
        (2, bytes32(&xsave.ymmh_space)),
        (3, bytes64(&xsave.bndreg_state)),
        (4, bytes64(&xsave.bndcsr_state)),
        (5, bytes64(&xsave.opmask_reg)),
        (6, bytes64(&xsave.zmm_upper)),
        (7, bytes64(&xsave.hi16_zmm)),
        (9, bytes32(&xsave.pkru)),
    ];
    let extended = components
        .into_iter()
        .filter(|(feature, _)| xsave.xstate_bv & (1 << feature) != 0)
        .collect();
    Some(XstateComponents { legacy, xstate_bv: xsave.xstate_bv, extended })
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..offset + 8)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_state_survive_the_image() {
        let mut state = XstateComponents {
            legacy: (0..512u32).map(|i| (i % 256) as u8).collect(),
            xstate_bv: 3,
            extended: BTreeMap::new(),
        };
        state.legacy[416..].fill(0);
        for feature in [2, 5, 6, 7, 9] {
            if arch::xfeatures() & (1 << feature) != 0 {
                state.xstate_bv |= 1 << feature;
                let (_, len) = arch::xstate_component(feature);
                state.extended.insert(feature, vec![feature as u8; len]);
            }
        }
        assert_eq!(decode_xstate(&encode_xstate(&state)), Some(state.clone()));
        let mut short = encode_xstate(&state);
        short.xmm_space.pop();
        assert_eq!(decode_xstate(&short), None);
    }
}
