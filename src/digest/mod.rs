//! A strong digest per block: what the target must hold, 16 bytes for every 64 KiB.
//!
//! XXH3-128 by default: no attacker sits between a disk and its copy (a guest can only hurt
//! itself), and it costs less than the copy of the bytes. BLAKE3, cut to 128 bits, where policy
//! asks for a cryptographic one. A block of zeroes has the digest [`Digest::ZERO`] whatever the
//! algorithm, so that a sparse disk has a sparse manifest.
//!
//! Blocks are hashed where they were just received, still in the cache: handing them to another
//! core costs more than the hash does (`docs/decisions/0003-digests.md`).

pub mod checksum;
mod content;

pub use content::Content;

use serde::{Deserialize, Serialize};
use std::fmt;
use twox_hash::XxHash3_128;

/// Bytes of disk under one digest. The last block of a disk may be shorter.
pub const BLOCK: u64 = 64 * 1024;

/// Bytes of one digest.
pub const LEN: usize = 16;

/// The digest of one block.
#[derive(Clone, Copy, Eq, PartialEq, Hash, Default)]
pub struct Digest(pub [u8; LEN]);

impl Digest {
    /// The digest of a block that holds nothing but zeroes.
    pub const ZERO: Self = Self([0; LEN]);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How blocks are digested.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// XXH3, 128 bits: fast, not cryptographic.
    #[default]
    Xxh3,
    /// BLAKE3, the first 128 bits: cryptographic.
    Blake3,
}

impl Algorithm {
    /// The digest of one block.
    #[must_use]
    pub fn digest(self, block: &[u8]) -> Digest {
        if is_zero(block) {
            return Digest::ZERO;
        }
        let digest = match self {
            Self::Xxh3 => XxHash3_128::oneshot(block).to_be_bytes(),
            Self::Blake3 => {
                let mut short = [0; LEN];
                short.copy_from_slice(&blake3::hash(block).as_bytes()[..LEN]);
                short
            }
        };
        // ZERO is taken; the one content in 2^128 that would collide with it gets a neighbour.
        if digest == Digest::ZERO.0 {
            Digest([1; LEN])
        } else {
            Digest(digest)
        }
    }
}

/// Whether all bytes are zero. Data is told from zeroes by its first bytes nearly always.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, tail) = bytes.as_chunks::<64>();
    tail.iter().all(|&byte| byte == 0) && chunks.iter().all(|chunk| *chunk == [0; 64])
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Digest, is_zero};

    #[test]
    fn zeroes_have_the_zero_digest_and_nothing_else_has() {
        for algorithm in [Algorithm::Xxh3, Algorithm::Blake3] {
            assert_eq!(algorithm.digest(&[0; 65536]), Digest::ZERO);
            assert_eq!(algorithm.digest(&[0; 100]), Digest::ZERO);
            assert_ne!(algorithm.digest(&[1]), Digest::ZERO);
        }
    }

    #[test]
    fn one_bit_anywhere_changes_the_digest() {
        let block = [7u8; 4096];
        let whole = Algorithm::Xxh3.digest(&block);
        for at in [0, 1, 2048, 4095] {
            let mut other = block;
            other[at] ^= 1;
            assert_ne!(Algorithm::Xxh3.digest(&other), whole, "byte {at}");
        }
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [1usize, 63, 64, 65, 4096, 4097] {
            assert!(is_zero(&vec![0; len]));
            for at in [0, len / 2, len - 1] {
                let mut bytes = vec![0; len];
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
            }
        }
    }
}
