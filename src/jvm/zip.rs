//! Reads one small member of a zip file (APPNOTE.TXT 6.3.10, sections 4.3 and
//! 4.4): enough for a jar's manifest.
//!
//! A jar may be anything: every length is bounded, every offset checked, and
//! whatever does not fit is "no such member". The JVM will say what is wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const MEMBER: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const LEN_END: usize = 22;
const LEN_LOCATOR_64: u64 = 20;
const LEN_MEMBER: usize = 46;
const LEN_LOCAL: u64 = 30;
/// The comment at a zip file's end has a 16 bit length.
const LEN_COMMENT_MAX: u64 = 0xffff;
/// The directory is read in pieces of this size: the manifest is nearly
/// always the first or second member.
const LEN_PIECE: usize = 64 << 10;
/// The largest directory that is searched, in bytes: some 500,000 members.
const LEN_DIRECTORY_MAX: u64 = 64 << 20;
/// The largest member that is read, in bytes, packed or not.
const LEN_MEMBER_MAX: usize = 8 << 20;

/// Where a zip file's directory is.
struct Directory {
    start: u64,
    len: u64,
    /// What stands before the zip file proper (a launcher script).
    len_prefix: u64,
}

/// Returns the content of the member of that name, ASCII case aside.
pub(super) fn member(file: &File, name: &[u8]) -> Option<Vec<u8>> {
    let directory = directory(file)?;
    let mut left = directory.len;
    let mut at = directory.start;
    let mut piece = Vec::new();
    while left >= LEN_MEMBER as u64 {
        piece.resize(usize::try_from(left).ok()?.min(LEN_PIECE), 0);
        file.read_exact_at(&mut piece, at).ok()?;
        let mut used = 0;
        while let Some(header) = piece.get(used..used + LEN_MEMBER) {
            if u32_at(header, 0)? != MEMBER {
                return None;
            }
            let len_name = usize::from(u16_at(header, 28)?);
            let len_rest = usize::from(u16_at(header, 30)?) + usize::from(u16_at(header, 32)?);
            let start = used + LEN_MEMBER;
            let Some(found) = piece.get(start..start + len_name) else { break };
            if found.eq_ignore_ascii_case(name) {
                return content(file, header, directory.len_prefix);
            }
            used = start + len_name + len_rest;
        }
        // A member larger than a piece, or one that ends behind the end.
        if used == 0 || used as u64 > left {
            return None;
        }
        at += used as u64;
        left -= used as u64;
    }
    None
}

/// Unpacks the member that a directory header describes.
fn content(file: &File, header: &[u8], len_prefix: u64) -> Option<Vec<u8>> {
    let method = u16_at(header, 10)?;
    let len_packed = usize::try_from(u32_at(header, 20)?).ok()?;
    let start = u64::from(u32_at(header, 42)?).checked_add(len_prefix)?;
    if len_packed > LEN_MEMBER_MAX {
        return None;
    }
    let mut local = [0; LEN_LOCAL as usize];
    file.read_exact_at(&mut local, start).ok()?;
    if u32_at(&local, 0)? != LOCAL {
        return None;
    }
    let skip = u64::from(u16_at(&local, 26)?) + u64::from(u16_at(&local, 28)?);
    let mut packed = vec![0; len_packed];
    file.read_exact_at(&mut packed, start.checked_add(LEN_LOCAL + skip)?).ok()?;
    match method {
        0 => Some(packed),
        8 => miniz_oxide::inflate::decompress_to_vec_with_limit(&packed, LEN_MEMBER_MAX).ok(),
        _ => None,
    }
}

/// Finds the directory by the record at the file's end.
fn directory(file: &File) -> Option<Directory> {
    let len_file = file.metadata().ok()?.len();
    let end = find_end(file, len_file)?;
    let mut record = [0; LEN_END];
    file.read_exact_at(&mut record, end).ok()?;
    let (mut len, mut start) = (u64::from(u32_at(&record, 12)?), u64::from(u32_at(&record, 16)?));
    let mut behind = end;
    let is_64 = [len, start].contains(&u64::from(u32::MAX)) || u16_at(&record, 10)? == 0xffff;
    if is_64 && let Some((at, len_64, start_64)) = end_64(file, end) {
        (behind, len, start) = (at, len_64, start_64);
    }
    // The directory ends where the record begins; what it says of its start
    // is off by what was put before the zip file.
    let real = behind.checked_sub(len)?;
    let len_prefix = real.checked_sub(start)?;
    (len <= LEN_DIRECTORY_MAX).then_some(Directory { start: real, len, len_prefix })
}

/// Returns where the end record begins.
fn find_end(file: &File, len_file: u64) -> Option<u64> {
    // Without a comment it is the very end.
    let last = len_file.checked_sub(LEN_END as u64)?;
    let mut record = [0; LEN_END];
    file.read_exact_at(&mut record, last).ok()?;
    if u32_at(&record, 0)? == END && u16_at(&record, 20)? == 0 {
        return Some(last);
    }
    let first = len_file.saturating_sub(LEN_END as u64 + LEN_COMMENT_MAX);
    let mut tail = vec![0; usize::try_from(len_file - first).ok()?];
    file.read_exact_at(&mut tail, first).ok()?;
    (0..=tail.len() - LEN_END)
        .rev()
        .find(|at| {
            u32_at(&tail, *at) == Some(END)
                && u16_at(&tail, at + 20)
                    .is_some_and(|len| at + LEN_END + usize::from(len) <= tail.len())
        })
        .map(|at| first + at as u64)
}

/// Reads the 64 bit end record: where it is, and length and start of the
/// directory.
fn end_64(file: &File, end: u64) -> Option<(u64, u64, u64)> {
    let mut locator = [0; LEN_LOCATOR_64 as usize];
    file.read_exact_at(&mut locator, end.checked_sub(LEN_LOCATOR_64)?).ok()?;
    if u32_at(&locator, 0)? != LOCATOR_64 {
        return None;
    }
    let at = u64_at(&locator, 8)?;
    let mut record = [0; 56];
    file.read_exact_at(&mut record, at).ok()?;
    if u32_at(&record, 0)? != END_64 {
        return None;
    }
    Some((at, u64_at(&record, 40)?, u64_at(&record, 48)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// Makes a zip file of (name, content, packed or not).
    pub(in super::super) fn zip(
        members: &[(&str, &[u8], bool)],
        prefix: &[u8],
        comment: &[u8],
    ) -> Vec<u8> {
        let (mut bytes, mut directory) = (prefix.to_vec(), Vec::new());
        for (name, content, packed) in members {
            let data = if *packed {
                miniz_oxide::deflate::compress_to_vec(content, 6)
            } else {
                content.to_vec()
            };
            let start = (bytes.len() - prefix.len()) as u32;
            let method = if *packed { 8u16 } else { 0 };
            let lens = [data.len() as u32, content.len() as u32];
            let common = |into: &mut Vec<u8>| {
                into.extend([20, 0, 0, 0]);
                into.extend(method.to_le_bytes());
                into.extend([0; 8]);
                lens.iter().for_each(|len| into.extend(len.to_le_bytes()));
                into.extend((name.len() as u16).to_le_bytes());
                into.extend([0; 2]);
            };
            bytes.extend(LOCAL.to_le_bytes());
            common(&mut bytes);
            bytes.extend(name.as_bytes());
            bytes.extend(&data);
            directory.extend(MEMBER.to_le_bytes());
            directory.extend([20, 0]);
            common(&mut directory);
            directory.extend([0; 10]);
            directory.extend(start.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let start = (bytes.len() - prefix.len()) as u32;
        bytes.extend(&directory);
        bytes.extend(END.to_le_bytes());
        bytes.extend([0; 4]);
        let count = (members.len() as u16).to_le_bytes();
        bytes.extend([count, count].concat());
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend((comment.len() as u16).to_le_bytes());
        bytes.extend(comment);
        bytes
    }

    fn read(bytes: &[u8], name: &str) -> Option<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        member(&file, name.as_bytes())
    }

    #[test]
    fn members_are_found_packed_or_not() {
        let text = b"hello hello hello hello".as_slice();
        for (prefix, comment) in [(&b""[..], &b""[..]), (b"#!/bin/sh\n", b"a comment")] {
            let bytes = zip(&[("a", b"A", false), ("dir/B", text, true)], prefix, comment);
            assert_eq!(read(&bytes, "a").unwrap(), b"A");
            assert_eq!(read(&bytes, "DIR/b").unwrap(), text);
            assert_eq!(read(&bytes, "c"), None);
        }
    }

    #[test]
    fn large_directories_are_searched_to_their_end() {
        let names: Vec<String> = (0..3000).map(|number| format!("{number:050}")).collect();
        let mut members: Vec<(&str, &[u8], bool)> =
            names.iter().map(|name| (name.as_str(), &b"x"[..], false)).collect();
        members.push(("last", b"found", true));
        assert_eq!(read(&zip(&members, b"", b""), "last").unwrap(), b"found");
    }

    proptest! {
        #[test]
        fn damaged_files_do_no_harm(
            damage in proptest::collection::vec((0usize..400, any::<u8>()), 1..6),
            cut in 0usize..400,
        ) {
            let mut bytes = zip(&[("a", b"A", false), ("META-INF/MANIFEST.MF", b"x: y\n", true)], b"", b"");
            for (at, value) in damage {
                let len = bytes.len();
                bytes[at % len] = value;
            }
            bytes.truncate(cut.max(1));
            read(&bytes, "META-INF/MANIFEST.MF");
        }
    }
}
