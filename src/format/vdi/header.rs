//! A header → something that was checked. Pure.

use super::layout::{FREE, Header, SIGNATURE, ZERO, image_type};
use crate::error::{Error, Kind as ErrorKind};
use crate::extent::ByteRange;
use zerocopy::FromBytes;

/// Most bytes of a block. Usual ones have 1 MiB.
const BLOCK_MAX: u32 = 256 << 20;

/// Where a VDI breaks the rules of its format, or uses what is not read here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not a VDI.
    #[error("it has no VDI signature")]
    Signature,
    /// A version.
    #[error("version {found:#x} is not known")]
    Version {
        /** What the header says. */
        found: u32,
    },
    /// `image_type`.
    #[error("images of type {found} are not known")]
    Type {
        /** What the header says. */
        found: u32,
    },
    /// A difference, which names its parent by UUID only, and that is not there.
    #[error("it is a difference to the image {parent}, and no VDI beside it is that one")]
    Orphan {
        /** UUID of the parent. */
        parent: String,
    },
    /// A difference whose parent is there, and was written to since.
    #[error(
        "it is a difference to the image {parent} in {file} as it was before that was written to"
    )]
    Changed {
        /** UUID of the parent. */
        parent: String,
        /** Its file. */
        file: String,
    },
    /// A difference whose parent may be any of several files.
    #[error("it is a difference to the image {parent}, which both {one} and {other} are")]
    Ambiguous {
        /** UUID of the parent. */
        parent: String,
        /** A file. */
        one: String,
        /** Another one. */
        other: String,
    },
    /// A number that cannot be.
    #[error("its {name} of {found:#x} makes no sense")]
    Number {
        /** Which. */
        name: &'static str,
        /** What the header says. */
        found: u64,
    },
    /// An entry of the block map.
    #[error("its map says block {entry}, and there are {blocks}")]
    Entry {
        /** What the map says. */
        entry: u32,
        /** Blocks of the image. */
        blocks: u32,
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
}

impl Fault {
    /// The error, `doing` something to the image.
    pub(super) fn while_doing(self, doing: String) -> Error {
        let kind = match self {
            Self::Version { .. } | Self::Type { .. } => ErrorKind::Unsupported,
            Self::Orphan { .. } => ErrorKind::Io,
            Self::Ambiguous { .. } => ErrorKind::Refused,
            _ => ErrorKind::Corrupt,
        };
        let error = Error::new(kind, doing);
        match self {
            Self::Outside { .. } => error.hint("the file is cut off, or it is damaged"),
            Self::Orphan { .. } => {
                error.hint("put the parent beside it, or name its directory: --allow-backing DIR")
            }
            Self::Changed { .. } => {
                error.hint("the guest of the parent ran since, or it is a copy")
            }
            Self::Ambiguous { .. } => error.hint("take the copies away"),
            _ => error,
        }
        .because(self)
    }
}

/// An image, checked. Numbers are bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Disk {
    pub(super) size: u64,
    pub(super) block: u64,
    /// Before the data of each block.
    extra: u64,
    pub(super) map: ByteRange,
    data: u64,
    blocks: u32,
    pub(super) fixed: bool,
    pub(super) id: Uuid,
    /// Changes whenever somebody writes to it.
    pub(super) modified: Uuid,
    pub(super) parent: Option<Parent>,
}

/// As it is stored.
pub(super) type Uuid = [u8; 16];

/// The image that this one is a difference to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Parent {
    pub(super) id: Uuid,
    /// What its `modified` must be; zeroes if nobody noted that.
    pub(super) modified: Uuid,
}

impl Parent {
    /// Whether `disk` is as this says.
    pub(super) fn is_unchanged(&self, disk: &Disk) -> bool {
        let unknown = self.modified == Uuid::default() || disk.modified == Uuid::default();
        unknown || self.modified == disk.modified
    }
}

/// What an entry of the block map says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Block {
    /// In the parent; without one it is zero.
    Below,
    Zero,
    At(u64),
}

/// Reads the header of an image in a file of `size` bytes.
pub(super) fn header(bytes: &[u8], size: u64) -> Result<Disk, Fault> {
    let found = Header::read_from_prefix(bytes);
    let (header, _) = found.map_err(|_| Fault::Signature)?;
    if header.signature.get() != SIGNATURE {
        return Err(Fault::Signature);
    }
    let version = header.version.get();
    if version >> 16 != 1 || version & 0xffff == 0 {
        return Err(Fault::Version { found: version });
    }
    let fixed = match header.image_type.get() {
        image_type::NORMAL => false,
        image_type::FIXED => true,
        image_type::DIFFERENCE => false,
        found => return Err(Fault::Type { found }),
    };
    let is_difference = header.image_type.get() == image_type::DIFFERENCE;
    let parent = is_difference.then_some(Parent {
        id: header.uuid_linkage,
        modified: header.uuid_parent_modify,
    });
    let number = |name, found: u64, holds: bool| match holds {
        true => Ok(()),
        false => Err(Fault::Number { name, found }),
    };
    let (block, extra) = (header.block_size.get(), header.block_extra.get());
    let sane = block.is_power_of_two() && (512..=BLOCK_MAX).contains(&block);
    number("block size", block.into(), sane)?;
    number("block extra", extra.into(), extra <= BLOCK_MAX)?;
    let (disk, blocks) = (header.disk_size.get(), header.blocks.get());
    let needed = disk.div_ceil(block.into());
    number("disk size", disk, needed <= blocks.into())?;
    let map = ByteRange::at(header.blocks_offset.get().into(), needed.saturating_mul(4));
    if map.end > size {
        let what = "block map";
        let range = map;
        return Err(Fault::Outside { what, range, size });
    }
    Ok(Disk {
        size: disk,
        block: block.into(),
        extra: extra.into(),
        map,
        data: header.data_offset.get().into(),
        blocks,
        fixed,
        id: header.uuid_create,
        modified: header.uuid_modify,
        parent,
    })
}

impl Disk {
    /// What an entry of the map says of its block.
    pub(super) fn block(&self, entry: u32) -> Result<Block, Fault> {
        match entry {
            FREE => return Ok(Block::Below),
            ZERO => return Ok(Block::Zero),
            _ => {}
        }
        if entry >= self.blocks {
            let blocks = self.blocks;
            return Err(Fault::Entry { entry, blocks });
        }
        let stride = self.block.saturating_add(self.extra);
        let before = u64::from(entry).saturating_mul(stride);
        let data = before.saturating_add(self.data).saturating_add(self.extra);
        Ok(Block::At(data))
    }
}

/// A UUID as people write it; it is stored as Windows does.
pub(super) fn uuid(bytes: &Uuid) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let hex = |part: &[u8]| {
        part.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let (fourth, fifth) = rest.split_at(2);
    [&[*d, *c, *b, *a][..], &[*f, *e], &[*h, *g], fourth, fifth]
        .map(hex)
        .join("-")
}
