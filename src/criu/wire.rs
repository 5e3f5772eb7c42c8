//! Protobuf messages as bytes: one field is changed, every other one stays as
//! it is, also those that our schemas do not know.

/// A field of a message.
#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    number: u64,
    /// The whole field, its tag included.
    whole: &'a [u8],
    /// What is in it, if it has a length (strings, messages).
    content: Option<&'a [u8]>,
}

/// The kinds of a field (`protobuf.dev`, "encoding").
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Takes a message apart; `None` if it is not one.
fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let tag = varint(&mut rest)?;
        let mut content = None;
        match tag & 7 {
            VARINT => {
                varint(&mut rest)?;
            }
            FIXED64 => rest = rest.get(8..)?,
            FIXED32 => rest = rest.get(4..)?,
            LENGTH => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                content = Some(rest.get(..len)?);
                rest = &rest[len..];
            }
            _ => return None,
        }
        let whole = &start[..start.len() - rest.len()];
        fields.push(Field { number: tag >> 3, whole, content });
    }
    Some(fields)
}

/// Changes the message in a field of a message, if it is there; `None` if
/// either is not one.
pub fn within(
    message: &[u8],
    number: u64,
    change: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(message.len() + 16);
    for field in fields(message)? {
        match field.content.filter(|_| field.number == number) {
            Some(content) => {
                let content = change(content)?;
                put_varint(number << 3 | LENGTH, &mut changed);
                put_varint(content.len() as u64, &mut changed);
                changed.extend_from_slice(&content);
            }
            None => changed.extend_from_slice(field.whole),
        }
    }
    Some(changed)
}

/// Gives a field of numbers other values (none: it is left out); `None` if it is
/// no message.
pub fn replace(message: &[u8], number: u64, values: &[u64]) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(message.len() + 16);
    for field in fields(message)?.into_iter().filter(|field| field.number != number) {
        changed.extend_from_slice(field.whole);
    }
    for value in values {
        put_varint(number << 3 | VARINT, &mut changed);
        put_varint(*value, &mut changed);
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::image::proto::{
        CoreEntry, CredsEntry, FdTypes, FileEntry, RegFileEntry, ThreadCoreEntry,
    };

    #[test]
    fn one_field_changes_and_the_rest_stays() {
        let reg =
            RegFileEntry { id: 7, name: b"/x".to_vec(), size: Some(300), ..Default::default() };
        let file =
            FileEntry { id: 7, r#type: FdTypes::Reg as i32, reg: Some(reg), ..Default::default() };
        let mut bytes = file.encode_to_vec();
        // A field that no schema of ours has.
        put_varint(100 << 3 | LENGTH, &mut bytes);
        bytes.extend_from_slice(b"\x03new");
        let changed = within(&bytes, 3, &|reg| replace(reg, 8, &[])).unwrap();
        assert!(changed.ends_with(b"\x03new") && changed.len() == bytes.len() - 3);
        let decoded = FileEntry::decode(&changed[..]).unwrap();
        assert_eq!(decoded.reg.unwrap().size, None);
        assert_eq!(within(&bytes, 3, &|reg| Some(reg.to_vec())).unwrap(), bytes);
    }

    #[test]
    fn numbers_are_replaced_deep_inside() {
        let creds = CredsEntry { uid: 5, cap_bnd: vec![1, 2], ..Default::default() };
        let thread = ThreadCoreEntry { creds: Some(creds), ..Default::default() };
        let core = CoreEntry { thread_core: Some(thread), ..Default::default() };
        let all = [u64::from(u32::MAX); 2];
        let changed = within(&core.encode_to_vec(), 5, &|thread| {
            within(thread, 10, &|creds| replace(creds, 12, &all))
        });
        let decoded = CoreEntry::decode(&changed.unwrap()[..]).unwrap();
        let creds = decoded.thread_core.unwrap().creds.unwrap();
        assert_eq!((creds.uid, creds.cap_bnd), (5, vec![u32::MAX; 2]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_apart_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            if let Some(same) = within(&bytes, 3, &|content| Some(content.to_vec())) {
                proptest::prop_assert!(fields(&same).is_some());
            }
        }
    }
}
