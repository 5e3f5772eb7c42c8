//! What the CPU says of itself (the CPUID instruction).
//!
//! `/proc/cpuinfo` says the same, but the kernel needs a millisecond to write
//! it; a CPUID costs 1.5 us in a virtual machine and nothing outside.

/// The leaves that are read, each with its subleaf.
///
/// Left out are the leaves that depend on the core that happens to run us
/// (topology, APIC ids, cache sharing) and those for a kernel only.
#[cfg(target_arch = "x86_64")]
const LEAVES: [(u32, u32); 12] = [
    (0x0, 0),
    (0x1, 0),
    (0x7, 0),
    (0x7, 1),
    (0xd, 0),
    (0xd, 1),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
];

/// A CPU, as far as programs choose their code by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// The brand string, for people.
    pub model: String,
    /// The registers of every leaf, as bytes.
    pub features: Vec<u8>,
}

/// Reads model and features of the CPU.
#[cfg(target_arch = "x86_64")]
pub fn identify() -> Cpu {
    use std::arch::x86_64::__cpuid_count;

    let max = [__cpuid_count(0, 0).eax, __cpuid_count(0x8000_0000, 0).eax];
    let mut features = Vec::with_capacity(LEAVES.len() * 16);
    let mut brand = Vec::with_capacity(48);
    for (leaf, subleaf) in LEAVES {
        if leaf > max[usize::from(leaf >= 0x8000_0000)] {
            continue;
        }
        let mut read = __cpuid_count(leaf, subleaf);
        match leaf {
            // The initial APIC id and the number of logical processors: they
            // are those of the core that we run on. Bits 8 to 15 are CLFLUSH.
            0x1 => read.ebx &= 0xff00,
            // The size for the features that XCR0 enables now, and the one
            // for those that IA32_XSS does, which the kernel may change for
            // each task; EAX and ECX hold what there is.
            0xd if subleaf == 1 => read.ebx = 0,
            // The number of threads of the package.
            0x8000_0008 => read.ecx = 0,
            _ => {}
        }
        for register in [read.eax, read.ebx, read.ecx, read.edx] {
            features.extend_from_slice(&register.to_le_bytes());
            if (0x8000_0002..=0x8000_0004).contains(&leaf) {
                brand.extend_from_slice(&register.to_le_bytes());
            }
        }
    }
    let model = String::from_utf8_lossy(&brand);
    Cpu { model: model.trim_matches(['\0', ' ']).to_owned(), features }
}

/// Says only which architecture it is: warmstart restores on x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn identify() -> Cpu {
    Cpu { model: std::env::consts::ARCH.to_owned(), features: Vec::new() }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_same_every_time() {
        let first = identify();
        assert!(!first.features.is_empty());
        for _ in 0..100 {
            std::thread::yield_now();
            assert_eq!(identify(), first);
        }
    }
}
