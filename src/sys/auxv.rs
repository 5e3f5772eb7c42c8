//! The auxiliary vector: what the kernel told this process at its `execve`.
#![allow(unsafe_code)]

/// The largest vDSO that is looked at, in bytes (x86-64 has two pages).
const LEN_VDSO_MAX: usize = 64 << 10;
/// The smallest page of any architecture: this much of the vDSO is mapped for
/// certain.
const LEN_PAGE: usize = 4096;

/// Returns the bytes of the vDSO that is mapped into this process, or `None`
/// if there is none or it does not look like one (`vdso(7)`).
///
/// Every process of a kernel has the same vDSO, so our own stands for that of
/// the program.
pub fn vdso() -> Option<&'static [u8]> {
    let address = vdso_address()? as usize;
    // SAFETY: a non-zero AT_SYSINFO_EHDR is the address of the mapped vDSO,
    // which is at least one page long, is readable, is never written and is
    // unmapped by nobody in this process (a restore does that in its child).
    let first = unsafe { std::slice::from_raw_parts(address as *const u8, LEN_PAGE) };
    let len = elf_len(first)?;
    // SAFETY: as above; the kernel maps the whole image, and `len` is where
    // the image's own headers say that it ends.
    Some(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
}

/// Returns where the vDSO is mapped into this process, a multiple of the page
/// size; `None` if there is none.
pub fn vdso_address() -> Option<u64> {
    // SAFETY: getauxval only reads the vector that libc saved (getauxval(3)).
    let address = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    (address != 0 && address.is_multiple_of(LEN_PAGE as u64)).then_some(address)
}

/// Returns how long the ELF-64 image is that starts with `head`: the end of
/// its loaded segments and of its section headers, at most [`LEN_VDSO_MAX`].
fn elf_len(head: &[u8]) -> Option<usize> {
    if head.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let program_headers = usize::try_from(u64_at(head, 32)?).ok()?;
    let section_headers = usize::try_from(u64_at(head, 40)?).ok()?;
    let (len_program, count_program) = (u16_at(head, 54)?, u16_at(head, 56)?);
    let (len_section, count_section) = (u16_at(head, 58)?, u16_at(head, 60)?);

    let mut end = section_headers.checked_add(len_section * count_section)?;
    for index in 0..count_program {
        let at = program_headers.checked_add(index * len_program)?;
        let kind = u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == libc::PT_LOAD {
            let offset = usize::try_from(u64_at(head, at + 8)?).ok()?;
            let len = usize::try_from(u64_at(head, at + 32)?).ok()?;
            end = end.max(offset.checked_add(len)?);
        }
    }
    (64..=LEN_VDSO_MAX).contains(&end).then_some(end)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vdso_is_an_elf_image_of_whole_headers() {
        let vdso = vdso().expect("this kernel has a vDSO");
        assert_eq!(&vdso[..4], b"\x7fELF");
        assert!(vdso.len() > 1000, "{} bytes", vdso.len());
        assert!(vdso.windows(19).any(|name| name == b"__vdso_gettimeofday"));
    }

    #[test]
    fn damaged_headers_give_no_length() {
        let head = vdso().unwrap()[..512].to_vec();
        for at in [32, 40, 54, 58] {
            let mut damaged = head.clone();
            damaged[at..at + 2].fill(0xff);
            damaged[at + 5] = 0xff;
            let _ = elf_len(&damaged);
        }
        assert_eq!(elf_len(b"\x7fELF\x02"), None);
        assert_eq!(elf_len(b""), None);
    }
}
