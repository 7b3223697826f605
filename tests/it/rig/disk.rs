//! Disks with content that a seed determines, and byte comparison.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A small generator of numbers that a seed determines: xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }
}

/// A file of `size` bytes that do not compress.
pub(crate) fn random_disk(path: &Path, size: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut file = File::create(path).expect("make a disk");
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left.min(1 << 20)).unwrap();
        file.write_all(&rng.bytes(length)).expect("fill a disk");
        left -= length as u64;
    }
}

/// A file of `size` bytes in which about `percent` of the 64 KiB blocks hold data, some of those
/// with zeroes inside; the rest are holes.
pub(crate) fn sparse_disk(path: &Path, size: u64, percent: u64, seed: u64) {
    const BLOCK: u64 = 64 << 10;
    let mut rng = Rng::new(seed);
    let file = File::create(path).expect("make a disk");
    file.set_len(size).expect("size a disk");
    for offset in (0..size).step_by(64 << 10) {
        if rng.below(100) >= percent {
            continue;
        }
        let mut bytes = rng.bytes(usize::try_from(BLOCK.min(size - offset)).unwrap());
        if rng.below(4) == 0 {
            let middle = bytes.len() / 4..bytes.len() / 2;
            bytes[middle].fill(0);
        }
        file.write_all_at(&bytes, offset).expect("fill a disk");
    }
}

/// A file of `size` bytes that no disk of the rig resembles: what is not written stays visible.
pub(crate) fn scrambled_disk(path: &Path, size: u64) {
    let file = File::create(path).expect("make a disk");
    for offset in (0..size).step_by(1 << 20) {
        let length = usize::try_from((size - offset).min(1 << 20)).unwrap();
        file.write_all_at(&vec![0x55; length], offset)
            .expect("fill a disk");
    }
}

/// The first offset below `length` at which two files or devices differ.
///
/// Both are read through the page cache, which writers past it keep coherent.
pub(crate) fn first_difference(left: &Path, right: &Path, length: u64) -> Option<u64> {
    let open = |path: &Path| File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut a, mut b) = (open(left), open(right));
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < length {
        let piece = usize::try_from((length - offset).min(1 << 20)).unwrap();
        a.read_exact(&mut ours[..piece])
            .expect("read the left side");
        b.read_exact(&mut theirs[..piece])
            .expect("read the right side");
        if ours[..piece] != theirs[..piece] {
            let at = ours.iter().zip(&theirs).position(|(x, y)| x != y).unwrap();
            return Some(offset + at as u64);
        }
        offset += piece as u64;
    }
    None
}

/// Asserts that `target` begins with all the bytes of `source`.
#[track_caller]
pub(crate) fn assert_same_bytes(source: &Path, target: &Path) {
    let length = File::open(source).unwrap().seek(SeekFrom::End(0)).unwrap();
    if let Some(at) = first_difference(source, target, length) {
        panic!(
            "{} and {} differ at {at:#x}",
            source.display(),
            target.display()
        );
    }
}
