//! A disk that comes in the order of its bytes, out of whatever it comes in. What nobody sends is
//! zero.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::format::vmdk::{Forward, Grain, Piece};
use crate::sys::computing;
use bytes::Bytes;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::collections::VecDeque;

/// Bytes of one read of a VMDK.
const PIECE: usize = 256 << 10;

/// Unpacked bytes that there are at once.
const UNPACKED: u64 = 8 << 20;

/// The next bytes of a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Came {
    /// These.
    Data(Bytes),
    /// So many, which are zero.
    Zeroes(u64),
}

impl Came {
    /// How many bytes these are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => length(bytes.len()),
            Self::Zeroes(count) => *count,
        }
    }

    /// Whether it is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts these behind what is in `bytes`: for heads and blocks, not for a disk of zeroes.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Data(data) => bytes.extend_from_slice(data),
            Self::Zeroes(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                bytes.resize(bytes.len().saturating_add(count), 0);
            }
        }
    }

    /// Takes the first `count` bytes off; all, if there are fewer.
    #[must_use]
    pub fn split_to(&mut self, count: u64) -> Self {
        let count = count.min(self.len());
        match self {
            Self::Data(bytes) => {
                Self::Data(bytes.split_to(usize::try_from(count).unwrap_or(bytes.len())))
            }
            Self::Zeroes(left) => {
                *left = left.saturating_sub(count);
                Self::Zeroes(count)
            }
        }
    }
}

/// A disk on its way.
#[derive(Debug)]
pub enum Laid {
    /// Its bytes.
    Raw(Box<dyn ByteStream>),
    /// Grains of a VMDK.
    Vmdk(Box<Grains>),
}

/// A stream-optimized VMDK, grain by grain.
#[derive(Debug)]
pub struct Grains {
    stream: Box<dyn ByteStream>,
    forward: Forward,
    size: u64,
    /// Grains that came, and are not unpacked yet.
    packed: VecDeque<Grain>,
    ready: VecDeque<Came>,
    /// What is unpacked ends here.
    at: u64,
    ended: bool,
}

impl Laid {
    /// The disk in a VMDK, whose header is read.
    ///
    /// # Errors
    /// The stream is no such VMDK.
    pub async fn vmdk(stream: Box<dyn ByteStream>) -> Result<Self> {
        let mut grains = Grains {
            stream,
            forward: Forward::default(),
            size: 0,
            packed: VecDeque::new(),
            ready: VecDeque::new(),
            at: 0,
            ended: false,
        };
        while grains.size == 0 && grains.read().await? {}
        Ok(Self::Vmdk(Box::new(grains)))
    }

    /// Bytes of the disk, if that is known before it has ended.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Raw(_) => None,
            Self::Vmdk(grains) => Some(grains.size),
        }
    }

    /// How people know it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Raw(stream) => stream.name(),
            Self::Vmdk(grains) => grains.stream.name(),
        }
    }

    /// What comes next; `None` after all of the disk. `buffer` is what raw bytes are read into.
    ///
    /// # Errors
    /// The stream cannot be read, or its grains come in another order than that of the disk.
    pub async fn next(&mut self, buffer: Buffer) -> Result<Option<Came>> {
        match self {
            Self::Raw(stream) => {
                let bytes = stream.next(buffer).await?;
                Ok(bytes.map(|bytes| Came::Data(bytes.freeze())))
            }
            Self::Vmdk(grains) => grains.next().await,
        }
    }
}

impl Grains {
    /// Takes in some of the stream; whether there was any.
    async fn read(&mut self) -> Result<bool> {
        let Some(bytes) = self.stream.next(Buffer::unbudgeted(PIECE)).await? else {
            self.forward.finish()?;
            self.ended = true;
            return Ok(false);
        };
        for piece in self.forward.push(&bytes)? {
            match piece {
                Piece::Disk(size) => self.size = size,
                Piece::Grain(grain) => self.packed.push_back(grain),
            }
        }
        Ok(true)
    }

    async fn next(&mut self) -> Result<Option<Came>> {
        loop {
            if let Some(came) = self.ready.pop_front() {
                return Ok(Some(came));
            }
            if !self.packed.is_empty() {
                self.unpack().await?;
            } else if self.ended {
                let left = self.size.saturating_sub(self.at);
                self.at = self.size;
                return Ok((left > 0).then_some(Came::Zeroes(left)));
            } else {
                self.read().await?;
            }
        }
    }

    /// Unpacks some of the grains that came, by all processors.
    async fn unpack(&mut self) -> Result<()> {
        let (mut batch, mut bytes) = (Vec::new(), 0u64);
        while let Some(grain) = self.packed.front()
            && (batch.is_empty() || bytes < UNPACKED)
        {
            if grain.offset < self.at {
                let what = format!("{}: its grains are not in order", self.stream.name());
                let error = Error::new(Kind::Unsupported, what).at(grain.offset);
                return Err(error.hint("put it into a file, or copy it onto a raw disk"));
            }
            let gap = grain.offset.saturating_sub(self.at);
            self.at = grain.offset.saturating_add(grain.len.into());
            bytes = bytes.saturating_add(grain.unpacked.into());
            batch.extend(self.packed.pop_front().map(|grain| (gap, grain)));
        }
        let unpacked = computing(move || {
            let all = batch.into_par_iter();
            let all = all.map(|(gap, grain)| Ok((gap, unpack(&grain)?)));
            all.collect::<Result<Vec<_>>>()
        });
        for (gap, bytes) in unpacked.await?? {
            if gap > 0 {
                self.ready.push_back(Came::Zeroes(gap));
            }
            self.ready.push_back(Came::Data(bytes));
        }
        Ok(())
    }
}

/// The bytes of a grain that are on the disk.
fn unpack(grain: &Grain) -> Result<Bytes> {
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut out = vec![0; size(grain.unpacked)];
    let unpacked = grain.codec.unpack(&grain.packed, &mut out);
    unpacked.map_err(|error| error.context("read the VMDK stream").at(grain.offset))?;
    out.truncate(size(grain.len));
    Ok(out.into())
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Came, Laid};
    use crate::buffer::Buffer;
    use crate::error::{Kind, Result};
    use crate::testkit::MemStream;
    use crate::testkit::vmdk::{self, Grain, Hosted};

    fn stream(grains: &[Grain], sectors: u64) -> Vec<u8> {
        let how = Hosted {
            stream: true,
            ..Hosted::default()
        };
        vmdk::hosted(grains, sectors, "", how)
    }

    async fn content(vmdk: &[u8]) -> Result<(Option<u64>, Vec<u8>)> {
        let mut laid = Laid::vmdk(Box::new(MemStream::new(vmdk))).await?;
        let mut all = Vec::new();
        while let Some(came) = laid.next(Buffer::unbudgeted(1000)).await? {
            assert!(!came.is_empty());
            match came {
                Came::Data(bytes) => all.extend_from_slice(&bytes),
                Came::Zeroes(count) => all.resize(all.len() + usize::try_from(count).unwrap(), 0),
            }
        }
        Ok((laid.size(), all))
    }

    #[tokio::test]
    async fn what_no_grain_came_for_is_zero_also_at_both_ends() {
        let data = |byte| Grain::Data(vec![byte; 8192]);
        let grains = [Grain::Below, data(1), Grain::Below, data(3), Grain::Below];
        let (size, all) = content(&stream(&grains, 72)).await.unwrap();
        assert_eq!((size, all.len()), (Some(36864), 36864));
        for (place, expected) in [0, 1, 0, 3, 0].into_iter().enumerate() {
            let part = &all[place * 8192..all.len().min((place + 1) * 8192)];
            assert!(part.iter().all(|byte| *byte == expected), "{place}");
        }
    }

    #[tokio::test]
    async fn grains_out_of_order_are_refused_and_a_stream_that_is_cut_off_is_corrupt() {
        let one = |byte| Grain::Data(vec![byte; 8192]);
        let mut bytes = stream(&[one(1), one(2)], 32);
        let cut = content(&bytes[..bytes.len() - 512]).await.unwrap_err();
        assert_eq!(cut.kind(), Kind::Corrupt);
        // Each of the two has a sector: its marker and little else.
        let (first, second) = bytes[1024..2048].split_at_mut(512);
        first.swap_with_slice(second);
        let error = content(&bytes).await.unwrap_err();
        assert!(error.line().contains("not in order"), "{error:?}");
    }

    #[test]
    fn a_part_is_taken_off_the_front() {
        let mut came = Came::Zeroes(9);
        assert_eq!(came.split_to(4), Came::Zeroes(4));
        assert_eq!(came.split_to(40), Came::Zeroes(5));
        let mut came = Came::Data(vec![1, 2, 3].into());
        assert_eq!(came.split_to(2), Came::Data(vec![1, 2].into()));
        assert_eq!((came.len(), came.is_empty()), (1, false));
    }
}
