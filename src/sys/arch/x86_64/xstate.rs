//! The extended state in the standard XSAVE format (Intel SDM vol. 1, ch. 13).

use std::collections::BTreeMap;

use super::xstate_component;

/// The legacy region and the XSAVE header.
const LEN_LEGACY: usize = 512;
const LEN_HEADER: usize = 64;
/// The first feature bit behind x87 and SSE, which live in the legacy region.
const FIRST_EXTENDED: u32 = 2;
/// Components an image can hold: AVX, MPX, AVX-512, protection keys. AMX
/// tiles, CET and what comes later are refused where they are in use.
const CARRIED: u64 = 0b10_1111_1111;

/// The extended state of a thread, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XstateComponents {
    /// The FXSAVE image, 512 bytes (the last 48 are software's: zeros).
    pub legacy: Vec<u8>,
    /// `XSTATE_BV`: the components that are not in their initial state.
    pub xstate_bv: u64,
    /// The bytes of each component in use, by feature bit.
    pub extended: BTreeMap<u32, Vec<u8>>,
}

/// Takes the bytes that a tracer read apart; on a component that an image
/// cannot hold, returns its feature bit.
pub fn decompose(bytes: &[u8]) -> Result<XstateComponents, u32> {
    let mut legacy = vec![0; LEN_LEGACY];
    let len = bytes.len().min(464);
    legacy[..len].copy_from_slice(&bytes[..len]);
    let word = bytes.get(LEN_LEGACY..LEN_LEGACY + 8).and_then(|word| word.try_into().ok());
    // Without XSAVE the state is the legacy region alone.
    let xstate_bv = word.map_or(3, u64::from_le_bytes);
    let strange = xstate_bv & !CARRIED;
    if strange != 0 {
        return Err(strange.trailing_zeros());
    }
    let mut extended = BTreeMap::new();
    for feature in FIRST_EXTENDED..u64::BITS {
        if xstate_bv & (1 << feature) == 0 {
            continue;
        }
        let (offset, len) = xstate_component(feature);
        let component = bytes.get(offset..offset + len).ok_or(feature)?;
        extended.insert(feature, component.to_vec());
    }
    Ok(XstateComponents { legacy, xstate_bv, extended })
}

/// Returns the length of the state in the standard format: up to the end of
/// the last component in use.
pub fn xstate_len(xstate_bv: u64) -> usize {
    (FIRST_EXTENDED..u64::BITS)
        .filter(|feature| xstate_bv & (1 << feature) != 0)
        .map(|feature| {
            let (offset, len) = xstate_component(feature);
            offset + len
        })
        .fold(LEN_LEGACY + LEN_HEADER, usize::max)
}

/// Puts the state together again; `None` if a component is missing or has
/// another size than this processor's.
pub fn compose(state: &XstateComponents) -> Option<Vec<u8>> {
    if state.xstate_bv & !CARRIED != 0 || state.legacy.len() != LEN_LEGACY {
        return None;
    }
    let mut bytes = vec![0; xstate_len(state.xstate_bv)];
    bytes[..LEN_LEGACY].copy_from_slice(&state.legacy);
    bytes[LEN_LEGACY..LEN_LEGACY + 8].copy_from_slice(&state.xstate_bv.to_le_bytes());
    for feature in FIRST_EXTENDED..u64::BITS {
        if state.xstate_bv & (1 << feature) == 0 {
            continue;
        }
        let (offset, len) = xstate_component(feature);
        let component = state.extended.get(&feature).filter(|bytes| bytes.len() == len)?;
        bytes.get_mut(offset..offset + len)?.copy_from_slice(component);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::arch::xfeatures;

    #[test]
    fn what_was_taken_apart_goes_together_again() {
        let all = xfeatures() & CARRIED | 3;
        let mut bytes: Vec<u8> = (0..xstate_len(all)).map(|i| (i * 7 % 251) as u8).collect();
        bytes[464..LEN_LEGACY].fill(0);
        bytes[LEN_LEGACY..LEN_LEGACY + LEN_HEADER].fill(0);
        bytes[LEN_LEGACY..LEN_LEGACY + 8].copy_from_slice(&all.to_le_bytes());
        let state = decompose(&bytes).unwrap();
        let again = compose(&state).unwrap();
        for feature in (2..64).filter(|feature| all & (1 << feature) != 0) {
            let (offset, len) = xstate_component(feature);
            assert_eq!(bytes[offset..offset + len], again[offset..offset + len], "{feature}");
        }
        assert_eq!(bytes[..LEN_LEGACY + LEN_HEADER], again[..LEN_LEGACY + LEN_HEADER]);
    }

    #[test]
    fn components_an_image_cannot_hold_are_named() {
        let mut bytes = vec![0; 16384];
        bytes[LEN_LEGACY..LEN_LEGACY + 8].copy_from_slice(&(3u64 | 1 << 18).to_le_bytes());
        assert_eq!(decompose(&bytes), Err(18));
    }
}
