//! What the CPU says of itself (the CPUID instruction).
//!
//! `/proc/cpuinfo` says the same, but the kernel needs a millisecond to write
//! it; a CPUID costs 1.5 us in a virtual machine and nothing outside.

/// The leaves that are read, each with its subleaf.
///
/// Left out are the leaves that depend on the core that happens to run us
/// (topology, APIC ids, cache sharing), those for a kernel only, and the brand
/// string, which says nothing that vendor, family, model and features do not.
#[cfg(target_arch = "x86_64")]
const LEAVES: [(u32, u32); 9] = [
    (0x0, 0),
    (0x1, 0),
    (0x7, 0),
    (0x7, 1),
    (0xd, 0),
    (0xd, 1),
    (0x8000_0001, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
];

/// A CPU, as far as programs choose their code by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Vendor, family, model and stepping, for people.
    pub model: String,
    /// The registers of every leaf, as bytes.
    pub features: Vec<u8>,
}

/// Reads model and features of the CPU.
#[cfg(target_arch = "x86_64")]
pub fn identify() -> Cpu {
    use std::arch::x86_64::__cpuid_count;

    let highest = __cpuid_count(0x8000_0000, 0).eax;
    let mut features = Vec::with_capacity(LEAVES.len() * 16);
    let mut model = String::new();
    let mut max = 0;
    for (leaf, subleaf) in LEAVES {
        if leaf > if leaf >= 0x8000_0000 { highest } else { max } {
            continue;
        }
        let mut read = __cpuid_count(leaf, subleaf);
        match leaf {
            0x0 => {
                max = read.eax;
                let vendor = [read.ebx, read.edx, read.ecx].map(u32::to_le_bytes).concat();
                model = String::from_utf8_lossy(&vendor).into_owned();
            }
            0x1 => {
                model.push_str(&signature(read.eax));
                // The initial APIC id and the number of logical processors:
                // they are those of the core that we run on. Bits 8 to 15 are
                // CLFLUSH.
                read.ebx &= 0xff00;
            }
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
        }
    }
    Cpu { model, features }
}

/// Writes out the family, model and stepping in leaf 1's EAX (Intel SDM vol.
/// 2A, figure 3-6).
#[cfg(target_arch = "x86_64")]
fn signature(eax: u32) -> String {
    let field = |shift: u32, bits: u32| eax >> shift & ((1 << bits) - 1);
    let (family, model) = (field(8, 4), field(4, 4));
    let model = if matches!(family, 6 | 15) { field(16, 4) << 4 | model } else { model };
    let family = if family == 15 { family + field(20, 8) } else { family };
    format!(", family {family}, model {model}, stepping {}", field(0, 4))
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
    fn signatures_are_read_as_the_kernel_shows_them() {
        assert_eq!(signature(0x000c_06f2), ", family 6, model 207, stepping 2");
        assert_eq!(signature(0x00a2_0f12), ", family 25, model 33, stepping 2");
        let shown = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = |name: &str| {
            let line = shown.lines().find(|line| line.split('\t').next() == Some(name)).unwrap();
            line.rsplit(": ").next().unwrap().to_owned()
        };
        let expected = format!(
            "{}, family {}, model {}, stepping {}",
            line("vendor_id"),
            line("cpu family"),
            line("model"),
            line("stepping")
        );
        assert_eq!(identify().model, expected);
    }

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
