//! Files that are no disk as they are, and that nothing here reads. Pure; reads nothing.
//!
//! Without them whatever no format knows would be raw: a disk would hold the bytes of a ZIP archive or
//! of a server's error page, and the copy would be called complete.

use super::Ends;
use crate::error::{Error, Kind, Result};

/// Where the bytes are that tell.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So far from the start.
    Head(usize),
    /// So far before the end.
    Tail(usize),
}

use Place::{Head, Tail};

/// What a file is, and the bytes that it is known by.
const UNREAD: &[(&str, Place, &[u8])] = &[
    ("a QED image", Head(0), b"QED\0"),
    ("a Parallels image", Head(0), b"WithoutFreeSpace"),
    ("a Parallels image", Head(0), b"WithouFreSpacExt"),
    ("a Bochs image", Head(0), b"Bochs Virtual HD Image"),
    ("a cloop image", Head(0), b"#!/bin/sh\n#V2.0 Format\n"),
    ("a DMG image", Tail(512), b"koly"),
    ("an EWF image", Head(0), b"EVF\x09\r\n\xff\0"),
    ("an EWF image", Head(0), b"EVF2\r\n\x81\0"),
    ("a WIM image", Head(0), b"MSWIM\0\0\0"),
    ("a sparse image of Android", Head(0), b"\x3a\xff\x26\xed"),
    ("a tar archive, and no OVA", Head(257), b"ustar"),
    ("a ZIP archive", Head(0), b"PK\x03\x04"),
    ("a 7z archive", Head(0), b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", Head(0), b"Rar!\x1a\x07"),
    // Behind "BZh" and the size of the blocks.
    ("bzip2 data", Head(4), b"\x31\x41\x59\x26\x53\x59"),
    ("LZ4 data", Head(0), b"\x04\x22\x4d\x18"),
    ("lzip data", Head(0), b"LZIP\x01"),
    ("lzop data", Head(0), b"\x89LZO\0\r\n\x1a\n"),
    ("an XML document", Head(0), b"<?xml"),
    ("an HTML page", Head(0), b"<!DOCTYPE html"),
    ("an HTML page", Head(0), b"<!doctype html"),
    ("an HTML page", Head(0), b"<html"),
];

/// What a file with such `ends` is, if nothing here reads it.
fn unread(ends: &Ends<'_>) -> Option<&'static str> {
    let found = UNREAD.iter().find(|(_, place, magic)| {
        let bytes = match *place {
            Head(offset) => ends.head.get(offset..),
            Tail(length) => {
                let start = ends.tail.len().checked_sub(length);
                start.and_then(|start| ends.tail.get(start..))
            }
        };
        bytes.is_some_and(|bytes| bytes.starts_with(magic))
    });
    found.map(|(what, ..)| *what)
}

/// Checks that `name`, with such `ends`, may be the bytes of a disk. For what looks like no format.
///
/// # Errors
/// `Refused`: it is of a kind that nothing here reads.
pub fn may_be_raw(name: &str, ends: &Ends<'_>) -> Result<()> {
    let Some(what) = unread(ends) else {
        return Ok(());
    };
    let what = format!("{name} is {what}, which is not read here");
    let hint = "convert or unpack it first; -f raw copies its bytes as they are";
    Err(Error::new(Kind::Refused, what).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::{Place, UNREAD, may_be_raw};
    use crate::error::Kind;
    use crate::format::{Ends, Wrapper, looks_like};

    fn ends(bytes: &[u8]) -> Ends<'_> {
        Ends {
            head: &bytes[..bytes.len().min(4096)],
            tail: &bytes[bytes.len().saturating_sub(1024)..],
            size: bytes.len() as u64,
        }
    }

    #[test]
    fn each_kind_is_known_where_it_says_and_not_a_byte_off() {
        for (what, place, magic) in UNREAD {
            let mut bytes = vec![7; 8192];
            let at = match place {
                Place::Head(offset) => *offset,
                Place::Tail(length) => bytes.len() - length,
            };
            bytes[at..at + magic.len()].copy_from_slice(magic);
            let error = may_be_raw("x", &ends(&bytes)).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.line().starts_with(&format!("x is {what}, which")));
            assert_eq!(looks_like(&ends(&bytes)).name(), "raw", "{what}");
            assert_eq!(Wrapper::of(&bytes), None, "{what}");
            bytes[at] ^= 1;
            may_be_raw("x", &ends(&bytes)).unwrap();
        }
    }

    #[test]
    fn whatever_is_short_may_be_raw() {
        for bytes in [&b""[..], b"QED", b"PK\x03", &[0; 300]] {
            may_be_raw("x", &ends(bytes)).unwrap();
        }
    }
}
