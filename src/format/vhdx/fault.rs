//! What can be wrong with a VHDX.

use super::layout::Guid;
use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use std::fmt::Write;

/// Where a VHDX breaks the rules of [MS-VHDX], or uses what is not read here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A structure that is not there.
    #[error("it has no {what}")]
    Missing {
        /** Which. */
        what: &'static str,
    },
    /// §2.2: neither copy is valid.
    #[error("neither copy of its {what} is valid")]
    NoCopy {
        /** Which. */
        what: &'static str,
    },
    /// A number that cannot be.
    #[error("its {name} of {found:#x} makes no sense")]
    Number {
        /** Which. */
        name: &'static str,
        /** What the file says. */
        found: u64,
    },
    /// Something that must be known to read the file.
    #[error("it needs the {what} {id}, which is not known")]
    Unknown {
        /** A region, an item, a version. */
        what: &'static str,
        /** Its GUID or number. */
        id: String,
    },
    /// Something outside of the file.
    #[error("its {what} is at {range}, and the file ends at {size:#x}")]
    Outside {
        /** Which. */
        what: &'static str,
        /** Where it should be. */
        range: ByteRange,
        /** Of the file. */
        size: u64,
    },
    /// §2.3.3: the log must be replayed and cannot be.
    #[error("it was not closed, and its log cannot be replayed: {why}")]
    Log {
        /** What is wrong with it. */
        why: &'static str,
    },
    /// §2.5.1: an entry of the block allocation table.
    #[error("the entry {entry:#x} of its block table makes no sense")]
    Entry {
        /** What the table says. */
        entry: u64,
    },
}

impl Fault {
    /// The error, `doing` something to the image.
    pub(super) fn while_doing(self, doing: String) -> Error {
        let kind = match self {
            Self::Unknown { .. } => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        let error = Error::new(kind, doing);
        match self {
            Self::Outside { .. } => error.hint("the file is cut off, or it is damaged"),
            _ => error,
        }
        .because(self)
    }
}

/// A GUID as people write it.
pub(super) fn shown(guid: &Guid) -> String {
    let order = [3usize, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let bytes = order.iter().filter_map(|place| guid.get(*place));
    bytes
        .enumerate()
        .fold(String::new(), |mut text, (place, byte)| {
            if [4, 6, 8, 10].contains(&place) {
                text.push('-');
            }
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
