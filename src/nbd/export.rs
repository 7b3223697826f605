//! What a handshake tells of an export, checked. No I/O.

use crate::nbd::lie::Lie;
use crate::nbd::wire::{InfoBlockSize, export_flag};

/// The smallest and largest minimum block size of the specification.
const MINIMUM_RANGE: std::ops::RangeInclusive<u32> = 1..=65536;

/// What an export can do: its transmission flags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flags(u16);

impl Flags {
    /// Checks the flags as they came.
    ///
    /// # Errors
    /// They lack `HAS_FLAGS`, so they are something else.
    pub fn check(bits: u16) -> Result<Self, Lie> {
        if bits & export_flag::HAS_FLAGS == 0 {
            return Err(Lie::Flags(bits));
        }
        Ok(Self(bits))
    }

    /// The flags as they came.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    /// No writes.
    #[must_use]
    pub fn read_only(self) -> bool {
        self.has(export_flag::READ_ONLY)
    }

    /// `FLUSH` works.
    #[must_use]
    pub fn can_flush(self) -> bool {
        self.has(export_flag::SEND_FLUSH)
    }

    /// The FUA flag works.
    #[must_use]
    pub fn can_fua(self) -> bool {
        self.has(export_flag::SEND_FUA)
    }

    /// `TRIM` works.
    #[must_use]
    pub fn can_trim(self) -> bool {
        self.has(export_flag::SEND_TRIM)
    }

    /// `WRITE_ZEROES` works.
    #[must_use]
    pub fn can_zero(self) -> bool {
        self.has(export_flag::SEND_WRITE_ZEROES)
    }

    /// `WRITE_ZEROES` can be asked to fail rather than be slow.
    #[must_use]
    pub fn can_fast_zero(self) -> bool {
        self.has(export_flag::SEND_FAST_ZERO)
    }

    /// A read can be asked for in one piece.
    #[must_use]
    pub fn can_df(self) -> bool {
        self.has(export_flag::SEND_DF)
    }

    /// A flush on one connection covers all connections.
    #[must_use]
    pub fn can_multi_conn(self) -> bool {
        self.has(export_flag::CAN_MULTI_CONN)
    }
}

/// Block sizes of an export, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSize {
    /// Alignment of every request. A power of two, at most 64 KiB.
    pub minimum: u32,
    /// What is fast. A multiple of `minimum`.
    pub preferred: u32,
    /// The longest request with a payload. A multiple of `minimum`.
    pub maximum: u32,
}

impl BlockSize {
    /// What a server supports that says nothing (specification, "Block size constraints").
    pub const DEFAULT: Self = Self {
        minimum: 1,
        preferred: 4096,
        maximum: 32 << 20,
    };

    /// Checks block sizes as they came.
    ///
    /// # Errors
    /// They cannot be obeyed. Oddities that can be are rounded towards caution.
    pub fn check(wire: &InfoBlockSize) -> Result<Self, Lie> {
        let minimum = wire.minimum.get();
        let preferred = wire.preferred.get();
        let maximum = wire.maximum.get();
        let sound = minimum.is_power_of_two()
            && MINIMUM_RANGE.contains(&minimum)
            && preferred >= minimum
            && maximum >= minimum;
        if !sound {
            return Err(Lie::BlockSize {
                minimum,
                preferred,
                maximum,
            });
        }
        let down = |size: u32| size & !minimum.wrapping_sub(1);
        Ok(Self {
            minimum,
            preferred: down(preferred),
            maximum: down(maximum),
        })
    }
}

/// An export, as one connection agreed on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Export {
    /// The name by which the server knows it; what was asked for if the server did not say.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Bytes; fits an `i64`.
    pub size: u64,
    /// What it can do.
    pub flags: Flags,
    /// What requests must look like.
    pub block_size: BlockSize,
    /// Names of the meta contexts that were negotiated.
    pub contexts: Vec<String>,
}

impl Export {
    /// Checks a size as it came.
    ///
    /// # Errors
    /// It is beyond what a file offset can say.
    pub fn check_size(size: u64) -> Result<u64, Lie> {
        if i64::try_from(size).is_err() {
            return Err(Lie::Size(size));
        }
        Ok(size)
    }

    /// Checks that this is still `before`, after the connection was lost.
    ///
    /// # Errors
    /// Size, abilities, block sizes or contexts differ, so the bytes may differ as well.
    pub fn check_unchanged(&self, before: &Self) -> Result<(), Lie> {
        let changed = if self.size != before.size {
            format!("it had {} bytes and has {}", before.size, self.size)
        } else if self.flags != before.flags {
            let (now, then) = (self.flags.bits(), before.flags.bits());
            format!("its flags were {then:#06x} and are {now:#06x}")
        } else if self.block_size != before.block_size {
            "its block sizes are others".to_owned()
        } else if let Some(lost) = before.contexts.iter().find(|c| !self.contexts.contains(c)) {
            format!("its context {lost:?} is gone")
        } else {
            return Ok(());
        };
        Err(Lie::Changed(changed))
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockSize, Export, Flags};
    use crate::nbd::lie::Lie;
    use crate::nbd::wire::{InfoBlockSize, export_flag};

    fn block_size(minimum: u32, preferred: u32, maximum: u32) -> Result<BlockSize, Lie> {
        BlockSize::check(&InfoBlockSize {
            kind: 3.into(),
            minimum: minimum.into(),
            preferred: preferred.into(),
            maximum: maximum.into(),
        })
    }

    #[test]
    fn block_sizes_that_cannot_be_obeyed_are_a_lie() {
        for (minimum, preferred, maximum) in [
            (0, 4096, 1 << 20),
            (3, 4096, 1 << 20),
            (1 << 17, 1 << 17, 1 << 20),
            (4096, 512, 1 << 20),
            (4096, 4096, 512),
        ] {
            assert!(
                block_size(minimum, preferred, maximum).is_err(),
                "{minimum}"
            );
        }
    }

    #[test]
    fn a_maximum_without_end_is_rounded_down_to_the_minimum() {
        let sizes = block_size(4096, 65536, u32::MAX).unwrap();
        assert_eq!(sizes.maximum, u32::MAX - 4095);
        assert_eq!(sizes.preferred, 65536);
    }

    #[test]
    fn an_export_that_comes_back_smaller_or_read_only_or_without_its_bitmap_is_another() {
        let before = Export {
            name: "x".to_owned(),
            description: None,
            size: 1 << 20,
            flags: Flags::check(export_flag::HAS_FLAGS).unwrap(),
            block_size: BlockSize::DEFAULT,
            contexts: vec!["base:allocation".to_owned()],
        };
        assert_eq!(before.check_unchanged(&before), Ok(()));
        let smaller = Export {
            size: 512,
            ..before.clone()
        };
        let read_only = Export {
            flags: Flags::check(export_flag::HAS_FLAGS | export_flag::READ_ONLY).unwrap(),
            ..before.clone()
        };
        let no_bitmap = Export {
            contexts: Vec::new(),
            ..before.clone()
        };
        for after in [smaller, read_only, no_bitmap] {
            assert!(matches!(
                after.check_unchanged(&before),
                Err(Lie::Changed(_))
            ));
        }
    }
}
