//! What can be wrong with a VMDK.

use crate::error::{Error, Kind};
use crate::extent::ByteRange;

/// Where a VMDK breaks the rules of its format, or uses what is not read here.
///
/// Each variant carries what was found, so that the message alone tells which byte to look at.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file ends inside a header.
    #[error("the file ends inside of its header")]
    Short,
    /// Not the first bytes of such an extent.
    #[error("it does not begin like a sparse extent")]
    Magic,
    /// A version of the format.
    #[error("version {found} is not known")]
    Version {
        /** What the header says. */
        found: u32,
    },
    /// The newline characters of the header were changed.
    #[error("its newlines are {found:02x?}: it was sent as if it were text")]
    Newlines {
        /** What the header says. */
        found: [u8; 4],
    },
    /// `compressAlgorithm`.
    #[error("compression {found} is not known")]
    Compression {
        /** What the header says. */
        found: u16,
    },
    /// Compressed grains, and no flag for markers.
    #[error("its grains are compressed and have no markers")]
    Unmarked,
    /// Not made to be read forward.
    #[error("it is not stream-optimized, so it cannot be read without seeking")]
    NoStream,
    /// A snapshot, which is not a whole disk.
    #[error("it is a difference to another disk")]
    Difference,
    /// `grainSize`.
    #[error("a grain of {found} sectors is not a power of two, or too large")]
    GrainSize {
        /** What the header says, in sectors. */
        found: u64,
    },
    /// `numGTEsPerGT`.
    #[error("{found} entries of a grain table make no sense")]
    Entries {
        /** What the header says. */
        found: u32,
    },
    /// A number that cannot be.
    #[error("its {name} of {found:#x} makes no sense")]
    Number {
        /** Which. */
        name: &'static str,
        /** What the header says. */
        found: u64,
    },
    /// Metadata outside of the file.
    #[error("its {what} is at {range}, and the file ends at {size:#x}")]
    Outside {
        /** Which. */
        what: &'static str,
        /** Where it should be. */
        range: ByteRange,
        /** Of the file. */
        size: u64,
    },
    /// A stream-optimized extent without the end that it must have.
    #[error("its footer is not at the end of the file")]
    Footer,
    /// A seSparse extent that was not closed.
    #[error("its journal must be replayed first")]
    Journal,
    /// A directory entry.
    #[error("the directory entry {entry:#x} makes no sense")]
    Table {
        /** What the directory says. */
        entry: u64,
    },
    /// A table entry.
    #[error("the grain table entry {entry:#x} makes no sense")]
    Grain {
        /** What the table says. */
        entry: u64,
    },
    /// The descriptor is no such thing.
    #[error("line {line} of its descriptor makes no sense: {text:?}")]
    Line {
        /** Counted from 1. */
        line: usize,
        /** What it says. */
        text: String,
    },
    /// Something that a descriptor must have.
    #[error("its descriptor has no {what}")]
    Missing {
        /** Which. */
        what: &'static str,
    },
    /// An encoding of the names in a descriptor.
    #[error("the encoding {name:?} of its descriptor is not known")]
    Encoding {
        /** What the descriptor says. */
        name: String,
    },
}

impl Fault {
    fn kind(&self) -> Kind {
        match self {
            Self::Version { .. }
            | Self::Compression { .. }
            | Self::Unmarked
            | Self::NoStream
            | Self::Difference
            | Self::Journal
            | Self::Encoding { .. } => Kind::Unsupported,
            _ => Kind::Corrupt,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Footer | Self::Outside { .. } | Self::Short => {
                Some("the file is cut off, or it is damaged")
            }
            Self::Journal => {
                Some("open and close the snapshot on the ESXi host, or consolidate it")
            }
            Self::NoStream | Self::Difference => Some("put it into a file first"),
            Self::Newlines { .. } => Some("transfer it again, as binary"),
            _ => None,
        }
    }

    /// The error, `doing` something to the extent.
    pub(super) fn while_doing(self, doing: String) -> Error {
        let hint = self.hint();
        let error = Error::new(self.kind(), doing).because(self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
