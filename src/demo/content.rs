//! What is on the demo's disk: noise, text, zeroes that were written, and holes, as on real disks.

use super::LiveDisk;
use super::bitmap::GRAIN;
use crate::extent::ByteRange;
use std::io;

/// A fast generator of numbers that a seed determines: xorshift64*. Not for secrets.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// A generator; seeds that are close give numbers that are not.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`; zero if that is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number().checked_rem(bound).unwrap_or(0)
    }

    /// Fills `bytes` with what does not compress.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk
                .iter_mut()
                .zip(number)
                .for_each(|(to, from)| *to = from);
        }
    }
}

/// What an extent of the disk holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stuff {
    /// Never written.
    Nothing,
    /// Zeroes that were written: data to whoever asks, nothing to whoever reads.
    Zeroes,
    /// What does not compress.
    Noise,
    /// What does.
    Text,
}

/// Which extents a disk of `size` bytes has, in order and without gaps.
#[must_use]
pub fn layout(size: u64, noise: &mut Noise) -> Vec<(ByteRange, Stuff)> {
    let longest = (size / GRAIN / 64).clamp(1, 256);
    let mut list = Vec::new();
    let mut rest = ByteRange::new(0, size);
    while !rest.is_empty() {
        let blocks = noise.below(longest).saturating_add(1);
        let (extent, after) = rest.split(blocks.saturating_mul(GRAIN));
        let stuff = match noise.below(10) {
            0..4 => Stuff::Nothing,
            4 => Stuff::Zeroes,
            5..8 => Stuff::Noise,
            _ => Stuff::Text,
        };
        list.push((extent, stuff));
        rest = after;
    }
    list
}

/// Fills a disk that holds nothing yet. Gives the bytes of noise and text.
///
/// # Errors
/// The disk cannot be written.
pub fn fill(disk: &LiveDisk, layout: &[(ByteRange, Stuff)], noise: &mut Noise) -> io::Result<u64> {
    const PIECE: u64 = 1 << 20;
    let text = text(noise);
    let mut filled = 0u64;
    for (extent, stuff) in layout {
        let mut rest = *extent;
        while !rest.is_empty() && *stuff != Stuff::Nothing {
            let (piece, after) = rest.split(PIECE);
            let mut bytes = vec![0; usize::try_from(piece.len()).unwrap_or(0)];
            match stuff {
                Stuff::Noise => noise.fill(&mut bytes),
                Stuff::Text => put_text(&text, noise, &mut bytes),
                Stuff::Nothing | Stuff::Zeroes => {}
            }
            disk.write_at(piece.start, &bytes)?;
            if matches!(stuff, Stuff::Noise | Stuff::Text) {
                filled = filled.saturating_add(piece.len());
            }
            rest = after;
        }
    }
    Ok(filled)
}

/// Lines of a log, some hundred KiB of them.
fn text(noise: &mut Noise) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "mounted", "session", "opened", "for", "user", "service", "started", "closed",
    ];
    let mut text = String::new();
    for line in 0..8000u32 {
        text.push_str(&format!("{line:08} kernel:"));
        for word in (0..6).filter_map(|_| usize::try_from(noise.below(8)).ok()) {
            text.push(' ');
            text.push_str(WORDS.get(word).unwrap_or(&""));
        }
        text.push('\n');
    }
    text.into_bytes()
}

/// Fills `bytes` with pieces of `text` from places that differ.
fn put_text(text: &[u8], noise: &mut Noise, bytes: &mut [u8]) {
    const PIECE: usize = 32 << 10;
    let places = u64::try_from(text.len().saturating_sub(PIECE)).unwrap_or(0);
    for chunk in bytes.chunks_mut(PIECE) {
        let start = usize::try_from(noise.below(places)).unwrap_or(0);
        let from = text.iter().skip(start);
        chunk
            .iter_mut()
            .zip(from)
            .for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteRange, LiveDisk, Noise, Stuff, fill, layout};

    #[test]
    fn a_layout_covers_the_disk_and_has_some_of_everything() {
        let size = (64 << 20) + 512;
        let list = layout(size, &mut Noise::new(1));
        let mut at = 0;
        for (extent, _) in &list {
            assert_eq!(extent.start, at);
            at = extent.end;
        }
        assert_eq!(at, size);
        for stuff in [Stuff::Nothing, Stuff::Zeroes, Stuff::Noise, Stuff::Text] {
            assert!(list.iter().any(|(_, kind)| *kind == stuff), "{stuff:?}");
        }
    }

    #[test]
    fn each_extent_holds_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let disk = LiveDisk::create(directory.path(), 256 << 10).unwrap();
        let at = |block: u64| ByteRange::at(block << 16, 1 << 16);
        let list = [
            (at(0), Stuff::Nothing),
            (at(1), Stuff::Zeroes),
            (at(2), Stuff::Noise),
            (at(3), Stuff::Text),
        ];
        assert_eq!(fill(&disk, &list, &mut Noise::new(1)).unwrap(), 128 << 10);
        let view = disk.checkpoint(None, None).unwrap();
        let mut all = vec![1; 256 << 10];
        view.read_at(0, &mut all).unwrap();
        let (zeroes, rest) = all.split_at(128 << 10);
        let (noise, text) = rest.split_at(64 << 10);
        assert!(zeroes.iter().all(|byte| *byte == 0));
        assert!(noise.iter().filter(|byte| **byte == 0).count() < 1000);
        assert!(text.iter().all(|byte| byte.is_ascii()));
    }
}
