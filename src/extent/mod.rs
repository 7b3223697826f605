//! Byte ranges of a disk and what is known of them. Pure arithmetic, no I/O.
//!
//! ```text
//!  range.rs   ByteRange: half-open, never inverted
//!  set.rs     RangeSet: ranges merged, for what is done and what has changed
//! ```

mod range;
mod set;

pub use range::ByteRange;
pub use set::RangeSet;

/// What is known of the bytes of an extent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum ExtentKind {
    /// Must be read. Says nothing about its content.
    Data,
    /// A read gives zeroes, promised by whoever answered.
    Zero,
}

/// A guest byte range and what is known of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Extent {
    /// Which bytes.
    pub range: ByteRange,
    /// What is known of them.
    pub kind: ExtentKind,
}

impl Extent {
    /// An extent that must be read.
    #[must_use]
    pub fn data(range: ByteRange) -> Self {
        Self {
            range,
            kind: ExtentKind::Data,
        }
    }

    /// An extent that reads as zeroes.
    #[must_use]
    pub fn zero(range: ByteRange) -> Self {
        Self {
            range,
            kind: ExtentKind::Zero,
        }
    }
}

/// Appends `extent` to `list`, merging it with the last one if they touch and are of one kind.
pub fn push_merged(list: &mut Vec<Extent>, extent: Extent) {
    if extent.range.is_empty() {
        return;
    }
    match list.last_mut() {
        Some(last) if last.kind == extent.kind && last.range.end == extent.range.start => {
            last.range.end = extent.range.end;
        }
        _ => list.push(extent),
    }
}
