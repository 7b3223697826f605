//! The descriptor: text that says which files a disk is made of. Pure.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! encoding="windows-1252"
//! CID=fffffffe
//! parentCID=ffffffff
//! createType="twoGbMaxExtentSparse"
//! # Extent description
//! RW 4192256 SPARSE "disk-s001.vmdk"
//! RW 2048 FLAT "disk-f002.vmdk" 0
//! ```
//!
//! "Virtual Disk Format 5.0", "The Descriptor File". Keys and types are matched whatever their
//! case, as other readers do.

use super::fault::Fault;
use super::header::bytes;
use encoding_rs::{Encoding, UTF_8};
use std::collections::BTreeMap;

/// Extents that a disk may have: 16 TiB in extents of 2 GiB.
const EXTENTS_MAX: usize = 8192;

/// A parent CID that says that there is no parent.
const NO_PARENT: u32 = u32::MAX;

/// Keys of the head of a descriptor whose first letters open every descriptor.
const OPENING: &str = "# disk descriptorfile";

/// A descriptor that was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Descriptor {
    pub(super) encoding: Option<String>,
    pub(super) cid: u32,
    /// What the CID of the parent must be, if there is a parent.
    pub(super) parent_cid: Option<u32>,
    pub(super) create_type: String,
    pub(super) parent: Option<String>,
    pub(super) change_tracking: Option<String>,
    pub(super) extents: Vec<Line>,
    /// The disk database, without its `ddb.` prefix.
    pub(super) database: BTreeMap<String, String>,
}

/// An extent, as its line describes it. Numbers are bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    pub(super) access: Access,
    pub(super) size: u64,
    pub(super) kind: Kind,
    pub(super) name: Option<String>,
    /// Where the extent begins in its file.
    pub(super) offset: u64,
}

/// What a guest may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
    /// Nothing: it sees zeroes.
    None,
}

/// What an extent is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Flat,
    Sparse,
    SeSparse,
    Zero,
    /// A physical disk.
    RawDevice,
}

/// Whether `head` is the beginning of a descriptor.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_ascii_lowercase();
    first.starts_with(OPENING)
}

/// Reads a descriptor; what follows the first NUL is padding.
pub(super) fn parse(text: &[u8]) -> Result<Descriptor, Fault> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let encoding = encoding_of(text);
    let text = decode(text, encoding.as_deref())?;
    let mut found = Descriptor {
        encoding,
        ..Descriptor::default()
    };
    let mut cid = None;
    for (number, line) in (1usize..).zip(text.lines()) {
        let line = line.trim();
        let fault = || Fault::Line {
            line: number,
            text: line.chars().take(80).collect(),
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((access, rest)) = access(line) {
            found.extents.push(extent(access, rest).ok_or_else(fault)?);
            if found.extents.len() > EXTENTS_MAX {
                return Err(fault());
            }
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(fault)?;
        let (key, value) = (key.trim().to_ascii_lowercase(), unquoted(value.trim()));
        let hex = || u32::from_str_radix(value, 16).map_err(|_| fault());
        match key.as_str() {
            "cid" => cid = Some(hex()?),
            "parentcid" => found.parent_cid = Some(hex()?).filter(|cid| *cid != NO_PARENT),
            "createtype" => value.clone_into(&mut found.create_type),
            "parentfilenamehint" => found.parent = Some(value.to_owned()),
            "changetrackpath" => found.change_tracking = Some(value.to_owned()),
            _ => {
                let name = key.strip_prefix("ddb.");
                let entry = name.map(|name| (name.to_owned(), value.to_owned()));
                found.database.extend(entry);
            }
        }
    }
    found.cid = cid.ok_or(Fault::Missing { what: "CID" })?;
    Ok(found)
}

/// Splits the access off a line that describes an extent.
fn access(line: &str) -> Option<(Access, &str)> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    let access = match word.to_ascii_uppercase().as_str() {
        "RW" => Access::ReadWrite,
        "RDONLY" => Access::ReadOnly,
        "NOACCESS" => Access::None,
        _ => return None,
    };
    Some((access, rest.trim()))
}

/// `SECTORS TYPE ["NAME" [OFFSET …]]`
fn extent(access: Access, text: &str) -> Option<Line> {
    let (sectors, rest) = text.split_once(char::is_whitespace)?;
    let (kind, rest) = match rest.trim().split_once(char::is_whitespace) {
        Some((kind, rest)) => (kind, rest.trim()),
        None => (rest.trim(), ""),
    };
    let kind = match kind.to_ascii_uppercase().as_str() {
        "FLAT" | "VMFS" => Kind::Flat,
        "SPARSE" | "VMFSSPARSE" => Kind::Sparse,
        "SESPARSE" => Kind::SeSparse,
        "ZERO" => Kind::Zero,
        "VMFSRDM" | "VMFSRAW" => Kind::RawDevice,
        _ => return None,
    };
    let (name, rest) = match rest.strip_prefix('"') {
        Some(quoted) => {
            // A name may hold blanks, and no quotes.
            let (name, rest) = quoted.split_once('"')?;
            (Some(name.to_owned()), rest.trim())
        }
        None => (None, rest),
    };
    let offset = match rest.split_whitespace().next() {
        Some(offset) => offset.parse().ok()?,
        None => 0,
    };
    let named = name.as_ref().is_some_and(|name| !name.is_empty());
    (named || kind == Kind::Zero || access == Access::None).then_some(())?;
    Some(Line {
        access,
        size: bytes(sectors.parse().ok()?, "extent").ok()?,
        kind,
        name,
        offset: bytes(offset, "extent").ok()?,
    })
}

fn unquoted(value: &str) -> &str {
    let inner = value
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// What the line `encoding="…"` says: it is in ASCII, whatever the others are in.
fn encoding_of(text: &[u8]) -> Option<String> {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let (key, value) = line.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case("encoding");
        is_it.then(|| unquoted(value.trim()).to_owned())
    })
}

fn decode(text: &[u8], encoding: Option<&str>) -> Result<String, Fault> {
    if text.is_ascii() {
        return Ok(String::from_utf8_lossy(text).into_owned());
    }
    let encoding = match encoding {
        Some(name) => Encoding::for_label(name.as_bytes()).ok_or_else(|| Fault::Encoding {
            name: name.to_owned(),
        })?,
        None => UTF_8,
    };
    Ok(encoding.decode_without_bom_handling(text).0.into_owned())
}
