//! A disk in the order of its bytes, whether it can be read anywhere or only so.

use super::open;
use super::scan::{self, Reader};
use crate::address::Address;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::job::options::{Reading, Tuning};
use crate::job::{self, Throttle};
use crate::plan::Step;
use crate::source::Source;
use crate::source::stream::{Came, Laid};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use std::sync::Arc;

/// Bytes of one read of what comes in order.
const PIECE: usize = 1 << 20;

/// A disk that is open to be read.
#[derive(Debug)]
pub(super) enum Sequence {
    /// Anywhere, many requests at a time.
    Any(Arc<dyn Source>),
    /// From its start to its end, once.
    Once(Laid),
}

impl Sequence {
    /// Opens a disk.
    ///
    /// # Errors
    /// It cannot be opened, or is not an image as `reading` says.
    pub(super) async fn open(
        address: &Address,
        reading: &Reading,
        tuning: &Tuning,
        throttle: &Throttle,
    ) -> Result<Self> {
        match job::in_order(address, reading, tuning, throttle).await? {
            Some(laid) => Ok(Self::Once(laid)),
            None => {
                let source = open::source(address, reading, tuning, throttle);
                Ok(Self::Any(source.await?))
            }
        }
    }

    /// Bytes of the disk, if that is known before its end.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Any(source) => Some(source.size()),
            Self::Once(laid) => laid.size(),
        }
    }

    /// All of the disk in order, read with the `share`th part of what `tuning` allows.
    pub(super) fn pieces(
        self,
        tuning: &Tuning,
        share: u64,
        extents: bool,
    ) -> BoxStream<'static, Result<Came>> {
        match self {
            Self::Once(laid) => once(laid).boxed(),
            Self::Any(source) => anywhere(Reader::new(source, tuning, share), extents).boxed(),
        }
    }
}

/// What comes, until it ends or fails.
pub(super) fn once(laid: Laid) -> impl Stream<Item = Result<Came>> + Send {
    let pieces = stream::unfold(Some(laid), async |laid| {
        let mut laid = laid?;
        match laid.next(Buffer::unbudgeted(PIECE)).await {
            Ok(Some(came)) => Some((Ok(came), Some(laid))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    // Two disks are read side by side, and one of them ends first.
    pieces.fuse()
}

fn anywhere(reader: Reader, extents: bool) -> impl Stream<Item = Result<Came>> + Send {
    let (planner, width) = (reader.clone(), reader.width);
    let steps = stream::iter(scan::windows(reader.source.size()))
        .map(move |window| {
            let planner = planner.clone();
            async move { planner.plan(window, extents).await }
        })
        .buffered(2)
        .flat_map(|planned| {
            stream::iter(match planned {
                Ok(steps) => steps.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            })
        });
    steps
        .map(move |step| {
            let reader = reader.clone();
            async move {
                Ok(match step? {
                    Step::Zero(range) => Came::Zeroes(range.len()),
                    Step::Copy(range) => Came::Data(reader.exactly(range).await?),
                })
            }
        })
        .buffered(width)
        .fuse()
}

/// Two disks, side by side.
pub(super) struct Sides {
    first: Side,
    second: Side,
    /// Bytes that were the same.
    at: u64,
}

struct Side {
    pieces: BoxStream<'static, Result<Came>>,
    front: Option<Came>,
    read: u64,
}

impl Sides {
    pub(super) fn new(
        first: BoxStream<'static, Result<Came>>,
        second: BoxStream<'static, Result<Came>>,
    ) -> Self {
        let side = |pieces| Side {
            pieces,
            front: None,
            read: 0,
        };
        Self {
            first: side(first),
            second: side(second),
            at: 0,
        }
    }

    /// The offset of the first byte that differs; past its end a disk counts as zero. `seen` is
    /// told how far the disks are the same.
    pub(super) async fn first_difference(&mut self, seen: impl Fn(u64)) -> Result<Option<u64>> {
        loop {
            let both = futures_util::future::try_join(self.first.fill(), self.second.fill());
            both.await?;
            let len = match (&self.first.front, &self.second.front) {
                (None, None) => return Ok(None),
                (Some(one), None) | (None, Some(one)) => one.len(),
                (Some(one), Some(other)) => one.len().min(other.len()),
            };
            let (one, other) = (self.first.take(len), self.second.take(len));
            if let Some(found) = differ(&one, &other) {
                return Ok(Some(self.at.saturating_add(found)));
            }
            self.at = self.at.saturating_add(len);
            seen(self.at);
        }
    }

    /// Bytes of the two disks, once they were compared.
    pub(super) fn sizes(&self) -> (u64, u64) {
        (self.first.read, self.second.read)
    }
}

impl Side {
    /// Has something in front, unless the disk has ended.
    async fn fill(&mut self) -> Result<()> {
        while self.front.as_ref().is_none_or(Came::is_empty) {
            self.front = self.pieces.next().await.transpose()?;
            match &self.front {
                None => break,
                Some(came) => self.read = self.read.saturating_add(came.len()),
            }
        }
        Ok(())
    }

    fn take(&mut self, len: u64) -> Came {
        let front = self.front.as_mut();
        front.map_or(Came::Zeroes(len), |front| front.split_to(len))
    }
}

/// Where two pieces of one length first differ.
fn differ(one: &Came, other: &Came) -> Option<u64> {
    let at = match (one, other) {
        (Came::Zeroes(_), Came::Zeroes(_)) => None,
        (Came::Data(bytes), Came::Zeroes(_)) | (Came::Zeroes(_), Came::Data(bytes)) => {
            super::compare::not_zero(bytes)
        }
        (Came::Data(one), Came::Data(other)) => super::compare::differ(one, other),
    };
    at.and_then(|at| u64::try_from(at).ok())
}

/// The first `most` bytes of what comes; fewer if there are fewer.
pub(super) async fn head(laid: &mut Laid, most: usize) -> Result<Bytes> {
    let mut found = Vec::new();
    while found.len() < most {
        let Some(mut came) = laid.next(Buffer::unbudgeted(PIECE)).await? else {
            break;
        };
        let left = most.saturating_sub(found.len());
        came.split_to(u64::try_from(left).unwrap_or(u64::MAX))
            .append_to(&mut found);
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use super::{Came, Sequence, Sides, once};
    use crate::job::options::Tuning;
    use crate::source::stream::Laid;
    use crate::testkit::{MemSource, MemStream};
    use futures_util::stream::{self, StreamExt};
    use std::sync::Arc;

    fn streamed(bytes: &[u8]) -> Laid {
        Laid::Raw(Box::new(MemStream::new(bytes)))
    }

    async fn compared(one: &[u8], other: &[u8]) -> (Option<u64>, (u64, u64)) {
        let any = Sequence::Any(Arc::new(MemSource::holding(other)));
        let pieces = any.pieces(&Tuning::default(), 2, true);
        let mut sides = Sides::new(once(streamed(one)).boxed(), pieces);
        let found = sides.first_difference(|_| {}).await.unwrap();
        (found, sides.sizes())
    }

    #[tokio::test]
    async fn what_comes_in_order_is_compared_with_what_can_be_read_anywhere() {
        let mut bytes = vec![0; (3 << 20) + 100];
        bytes[5] = 1;
        bytes[(2 << 20) + 7] = 2;
        let size = bytes.len() as u64;
        assert_eq!(compared(&bytes, &bytes).await, (None, (size, size)));
        for at in [0, 5, 1 << 20, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] ^= 0x40;
            assert_eq!(compared(&bytes, &other).await.0, Some(at as u64));
            assert_eq!(compared(&other, &bytes).await.0, Some(at as u64));
        }
        // Past its end a disk is zero.
        let short = &bytes[..(2 << 20) + 8];
        assert_eq!(compared(short, &bytes).await.0, None);
        assert_eq!(compared(&bytes, short).await.0, None);
        let shorter = &bytes[..2 << 20];
        assert_eq!(compared(shorter, &bytes).await.0, Some((2 << 20) + 7));
    }

    #[tokio::test]
    async fn zeroes_that_nobody_sends_are_compared_however_they_are_cut() {
        let pieces = |list: &[Came]| stream::iter(list.to_vec()).map(Ok).boxed();
        let data = |bytes: &[u8]| Came::Data(bytes.to_vec().into());
        let one = [Came::Zeroes(1 << 50), data(&[0, 0, 7])];
        let other = [Came::Zeroes(5), Came::Zeroes((1 << 50) - 3), data(&[7])];
        let mut sides = Sides::new(pieces(&one), pieces(&other));
        let found = sides.first_difference(|_| {}).await.unwrap();
        assert_eq!(found, None);
        let mut sides = Sides::new(pieces(&one), pieces(&other[..2]));
        let found = sides.first_difference(|_| {}).await.unwrap();
        assert_eq!(found, Some((1 << 50) + 2));
    }
}
