//! What can be wrong with a qcow2 image, with the value that was found.

use crate::error::{Error, Kind};

/// Why an image is not read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "the messages say it, and the fields are what was found"
)]
pub enum Flaw {
    #[error("the file ends at {size:#x}, inside {what}")]
    Truncated { what: &'static str, size: u64 },
    #[error("not a qcow2 image")]
    Magic,
    #[error("qcow version {0}")]
    Version(u32),
    #[error("a cluster of 2^{0} bytes")]
    ClusterBits(u32),
    #[error("a header of {0} bytes")]
    HeaderLength(u32),
    #[error("refcounts of 2^{0} bits")]
    RefcountOrder(u32),
    #[error("{what} of {bytes} bytes, where {most} are the limit")]
    TooLarge {
        what: &'static str,
        bytes: u64,
        most: u64,
    },
    #[error("{what} at {offset:#x} is not at the start of a cluster")]
    Unaligned { what: &'static str, offset: u64 },
    #[error("an L1 table of {entries} entries for a disk that needs {needed}")]
    ShortL1 { entries: u64, needed: u64 },
    #[error("a name of {0} bytes for the backing file")]
    BackingName(u32),
    #[error("{0} is not text")]
    NotText(&'static str),
    #[error("a backing file beside a raw external data file")]
    BackedRaw,
    #[error("{0} twice")]
    Twice(&'static str),
    #[error("subclusters in clusters of 2^{0} bytes")]
    SmallSubclusters(u32),
    #[error("the compression type is {0}, and the feature bit says otherwise")]
    CompressionBit(u8),
    #[error("the bitmaps extension makes no sense")]
    Bitmaps,
    #[error("entry {0} of the bitmap directory makes no sense")]
    Bitmap(u32),
    #[error("marked as corrupt by who wrote it last")]
    MarkedCorrupt,
    #[error("the L1 entry {0:#018x} has reserved bits")]
    L1Reserved(u64),
    #[error("the L2 entry {0:#018x} has reserved bits")]
    L2Reserved(u64),
    #[error("the subcluster bitmap {0:#018x} contradicts itself")]
    Subclusters(u64),
    #[error("a compressed cluster of an image whose data are in another file")]
    CompressedOutside,
    #[error("the cluster is at {found:#x} of the data file, and belongs at {expected:#x}")]
    Displaced { found: u64, expected: u64 },
    #[error("the feature {0}")]
    Feature(String),
    #[error("{0} encryption")]
    Encrypted(&'static str),
    #[error("compression type {0}")]
    CompressionType(u8),
}

impl Flaw {
    /// Whether the image is broken or only more than is read here.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Version(_) | Self::Feature(_) | Self::Encrypted(_) | Self::CompressionType(_) => {
                Kind::Unsupported
            }
            _ => Kind::Corrupt,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Version(1) => Some("convert it with qemu-img, which reads version 1"),
            Self::MarkedCorrupt => Some("qemu-img check -r all repairs it"),
            Self::Encrypted(_) => Some(
                "let qemu-nbd decrypt it: diskferry copy [ qemu-nbd -r --object secret,… \
                 --image-opts … ] TARGET",
            ),
            Self::Truncated { .. } => Some("it was not copied to its end"),
            _ => None,
        }
    }

    /// This flaw, found while `doing` something.
    #[must_use]
    pub fn error(self, doing: impl Into<String>) -> Error {
        let error = Error::new(self.kind(), doing.into());
        let error = match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        };
        error.because(self)
    }
}
