//! One digest of a whole disk, the same however its zeroes are stored. Pure.
//!
//! It is a digest over the digests of the blocks of [`BLOCK`](super::BLOCK) bytes, in order, in
//! which every longest run of zero blocks counts once, with its length: a hole of terabytes costs
//! as much as one block. What is digested, as bytes:
//!
//! ```text
//!  block that is not zero     its digest, 16 bytes
//!  run of n zero blocks       16 zero bytes, n as 8 bytes little endian
//!  at the end                 size of the disk in bytes, 8 bytes little endian
//! ```
//!
//! The last block may be short. No block that is not zero has the digest of 16 zero bytes
//! ([`Digest::ZERO`]), so two disks share these bytes only if they share their blocks and size.

use super::{Algorithm, Digest, LEN};
use std::fmt;
use twox_hash::xxhash3_128::Hasher as Xxh3;

/// Takes in the blocks of a disk in order and gives the digest of the whole.
#[derive(Debug)]
pub struct Content {
    hash: Hash,
    /// Zero blocks since the last block that was not.
    zeroes: u64,
}

enum Hash {
    Xxh3(Box<Xxh3>),
    Blake3(Box<blake3::Hasher>),
}

impl Content {
    /// A disk of which nothing has been seen yet, whose blocks are digested by `algorithm`.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let hash = match algorithm {
            Algorithm::Xxh3 => Hash::Xxh3(Box::new(Xxh3::new())),
            Algorithm::Blake3 => Hash::Blake3(Box::default()),
        };
        Self { hash, zeroes: 0 }
    }

    /// Takes in the digest of the next block.
    pub fn block(&mut self, digest: Digest) {
        if digest == Digest::ZERO {
            return self.zeroes(1);
        }
        self.end_run();
        self.hash.update(&digest.0);
    }

    /// Takes in `blocks` zero blocks.
    pub fn zeroes(&mut self, blocks: u64) {
        self.zeroes = self.zeroes.saturating_add(blocks);
    }

    /// The digest of a disk of `size` bytes, all blocks of which have been taken in.
    #[must_use]
    pub fn finish(mut self, size: u64) -> Digest {
        self.end_run();
        self.hash.update(&size.to_le_bytes());
        self.hash.finish()
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.zeroes);
        if run > 0 {
            self.hash.update(&Digest::ZERO.0);
            self.hash.update(&run.to_le_bytes());
        }
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xxh3(_) => "Xxh3",
            Self::Blake3(_) => "Blake3",
        })
    }
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(hash) => hash.write(bytes),
            Self::Blake3(hash) => {
                hash.update(bytes);
            }
        }
    }

    fn finish(&self) -> Digest {
        match self {
            Self::Xxh3(hash) => Digest(hash.finish_128().to_be_bytes()),
            Self::Blake3(hash) => {
                let mut short = [0; LEN];
                hash.finalize_xof().fill(&mut short);
                Digest(short)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Content, Digest};

    const ALGORITHMS: [Algorithm; 2] = [Algorithm::Xxh3, Algorithm::Blake3];

    fn digest(algorithm: Algorithm, blocks: &[u8], size: u64) -> Digest {
        let mut content = Content::new(algorithm);
        blocks
            .iter()
            .for_each(|block| content.block(Digest([*block; 16])));
        content.finish(size)
    }

    #[test]
    fn a_hole_and_the_zeroes_that_it_stands_for_are_the_same() {
        for algorithm in ALGORITHMS {
            let mut holes = Content::new(algorithm);
            holes.block(Digest([1; 16]));
            holes.zeroes(2);
            holes.zeroes(1);
            holes.block(Digest([2; 16]));
            holes.zeroes(1);
            assert_eq!(holes.finish(6), digest(algorithm, &[1, 0, 0, 0, 2, 0], 6));
        }
    }

    #[test]
    fn order_size_and_the_length_of_every_run_count() {
        for algorithm in ALGORITHMS {
            let base = digest(algorithm, &[1, 0, 0, 2], 100);
            for (blocks, size) in [
                (&[2, 0, 0, 1][..], 100),
                (&[1, 0, 2][..], 100),
                (&[1, 0, 2, 0][..], 100),
                (&[1, 0, 0, 2][..], 101),
                (&[1, 0, 0, 2, 0][..], 100),
            ] {
                assert_ne!(digest(algorithm, blocks, size), base, "{blocks:?} {size}");
            }
        }
    }

    /// The definition, written out once more by hand; it must never change.
    #[test]
    fn the_digest_is_the_documented_one() {
        let mut bytes = vec![7; 16];
        bytes.extend([0; 16]);
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(9u64.to_le_bytes());
        let blocks = [7, 0, 0, 0];
        let xxh3 = twox_hash::XxHash3_128::oneshot(&bytes).to_be_bytes();
        assert_eq!(digest(Algorithm::Xxh3, &blocks, 9), Digest(xxh3));
        let blake3 = blake3::hash(&bytes);
        assert_eq!(
            digest(Algorithm::Blake3, &blocks, 9).0,
            blake3.as_bytes()[..16]
        );
    }
}
