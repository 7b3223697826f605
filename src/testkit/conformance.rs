//! What the contracts of [`Source`] and [`Target`] say, tried on any endpoint.
//!
//! An endpoint under test is handed over fresh. What it cannot be made to do from outside, such as
//! a flush that fails, is tested where that endpoint is. A target that cannot be read back is tried
//! by `forward.rs`.

use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::endpoint::Limits;
use crate::extent::{ByteRange, ExtentKind};
use crate::source::Source;
use crate::target::{Target, Untouched, Zeroing};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt, TryFutureExt};

/// `Err` names the clause that does not hold.
pub type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, clause: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(clause()) }
}

/// Tries every clause of the contract of [`Source`] on `source`, a disk that holds `expected`.
///
/// # Errors
/// The clause that does not hold.
pub async fn check_source(source: &dyn Source, expected: &[u8]) -> Verdict {
    let size = expected.len() as u64;
    let limits = source.limits();
    let claimed = source.size();
    ensure(claimed == size, || format!("size {claimed}, not {size}"))?;
    let named = source.identity().size;
    ensure(named == size, || format!("identity of size {named}"))?;
    check_limits(limits)?;
    read_everything(source, expected).await?;
    read_past_the_end(source, size).await?;
    drop_a_read(source, expected).await?;
    check_extents(source, expected).await
}

pub(super) fn check_limits(limits: Limits) -> Verdict {
    let Limits {
        align,
        preferred,
        max,
        in_flight,
    } = limits;
    ensure(align.is_power_of_two(), || format!("alignment {align}"))?;
    let fits = |length: u32| length > 0 && length.is_multiple_of(align);
    ensure(fits(preferred) && fits(max) && preferred <= max, || {
        format!("lengths {preferred} and {max} with alignment {align}")
    })?;
    ensure(in_flight > 0, || "no request may be under way".into())
}

/// Ranges that together touch every byte of a disk: short, long, and the end.
pub(super) fn pieces(size: u64, limits: Limits) -> Vec<ByteRange> {
    let align = u64::from(limits.align);
    let longest = u64::from(limits.max).min(1 << 20);
    let lengths = [align, 3 * align, 64 * align, longest];
    let mut rest = ByteRange::new(0, size);
    let mut pieces = Vec::new();
    for length in lengths.into_iter().cycle() {
        let (piece, after) = rest.split(length.min(longest));
        pieces.push(piece);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    pieces
}

pub(super) fn part(bytes: &[u8], range: ByteRange) -> &[u8] {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    bytes.get(at(range.start)..at(range.end)).unwrap_or(&[])
}

pub(super) fn byte_of(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

pub(super) fn buffer(len: u64) -> Buffer {
    let mut buffer = Buffer::unbudgeted(usize::try_from(len).unwrap_or(0));
    // Stale bytes, so that a read that fills too little is seen.
    buffer.fill(0xee);
    buffer
}

async fn read_everything(source: &dyn Source, expected: &[u8]) -> Verdict {
    let mut all = pieces(expected.len() as u64, source.limits());
    all.retain(|piece| !piece.is_empty());
    for some in all.chunks(32) {
        let reads = some.iter().map(|piece| async move {
            let found = source.read(piece.start, buffer(piece.len())).await;
            let found = found.map_err(|error| format!("read {piece}: {error:?}"))?;
            ensure(*found == *part(expected, *piece), || {
                format!("read {piece}: wrong bytes")
            })
        });
        join_all(reads).await.into_iter().collect::<Verdict>()?;
    }
    Ok(())
}

async fn read_past_the_end(source: &dyn Source, size: u64) -> Verdict {
    let align = u64::from(source.limits().align);
    let last = size.saturating_sub(1) / align * align;
    let beyond = ByteRange::new(last, size).len().next_multiple_of(align) + align;
    for (offset, len) in [(last, beyond), (size.next_multiple_of(align), align)] {
        let read = source.read(offset, buffer(len)).await;
        ensure(read.is_err(), || {
            format!("a read of {len} bytes at {offset} past the end {size} succeeds")
        })?;
    }
    Ok(())
}

async fn drop_a_read(source: &dyn Source, expected: &[u8]) -> Verdict {
    let (first, _) =
        ByteRange::new(0, expected.len() as u64).split(u64::from(source.limits().align));
    for _ in 0..8 {
        // Polled once, then gone.
        drop(source.read(0, buffer(first.len())).now_or_never());
    }
    let found = source.read(0, buffer(first.len())).await;
    let found = found.map_err(|error| format!("after abandoned reads: {error:?}"))?;
    ensure(*found == *part(expected, first), || {
        "after abandoned reads: wrong bytes".into()
    })
}

async fn check_extents(source: &dyn Source, expected: &[u8]) -> Verdict {
    let size = expected.len() as u64;
    let align = u64::from(source.limits().align);
    let middle = size / 2 / align * align;
    let windows = [
        (0, size),
        (middle, size),
        (0, middle),
        (middle, middle + align),
    ];
    for (start, end) in windows {
        let window = ByteRange::new(start, end.min(size));
        let mut rest = window;
        while !rest.is_empty() {
            let answer = source.extents(rest).await;
            let answer = answer.map_err(|error| format!("extents of {rest}: {error:?}"))?;
            let mut at = rest.start;
            for extent in &answer {
                let here = extent.range;
                ensure(
                    here.start == at && !here.is_empty() && rest.covers(here),
                    || format!("extents of {rest}: {here} after {at:#x}"),
                )?;
                let promised = extent.kind == ExtentKind::Zero;
                ensure(!promised || is_zero(part(expected, here)), || {
                    format!("{here} is called zero and is not")
                })?;
                at = here.end;
            }
            ensure(at > rest.start, || format!("extents of {rest}: none"))?;
            rest = ByteRange::new(at, rest.end);
        }
    }
    Ok(())
}

/// Tries every clause of the contract of [`Target`] on `target`, onto which a disk of `size` bytes,
/// at least 4 MiB, is written. What it held is lost. It must be readable, or
/// [`check_forward`](super::check_forward) is for it; it is not finalized.
///
/// # Errors
/// The clause that does not hold.
pub async fn check_target(target: &dyn Target, size: u64) -> Verdict {
    check_limits(target.limits())?;
    ensure(target.can_read_back(), || "it cannot be read back".into())?;
    ensure(size >= 4 << 20, || "the disk is too small to try".into())?;
    let capacity = target.capacity().unwrap_or(u64::MAX);
    ensure(capacity >= size, || format!("capacity {capacity}"))?;
    let align = u64::from(target.limits().align);
    let beyond = size.next_multiple_of(align).saturating_add(align);
    let mut trial = Trial {
        target,
        size,
        span: beyond.min(if capacity == u64::MAX { size } else { capacity }),
        align,
        model: Vec::new(),
    };
    trial.look_first().await?;
    trial.mark_beyond().await?;
    for zeroing in [Zeroing::Unmap, Zeroing::Allocate] {
        trial.fill().await?;
        trial.zero_most(zeroing).await?;
    }
    trial.change_parts().await?;
    trial.change_tail().await?;
    trial.go_past_the_end(capacity).await?;
    trial.abandon().await?;
    target.flush().map_err(|e| format!("flush: {e:?}")).await?;
    trial.compare("after the flush").await?;
    target.ending();
    trial.fill().await?;
    trial.change_parts().await?;
    target.flush().map_err(|e| format!("flush: {e:?}")).await?;
    trial
        .compare("after it was told that the end is near")
        .await
}

/// A target under test and what it must hold.
struct Trial<'a> {
    target: &'a dyn Target,
    size: u64,
    /// The disk and a little of what is beyond its end, which must not change.
    span: u64,
    align: u64,
    model: Vec<u8>,
}

impl Trial<'_> {
    async fn read(&self, range: ByteRange) -> Result<Buffer, String> {
        let read = self.target.read_back(range.start, buffer(range.len()));
        read.await
            .map_err(|error| format!("read back {range}: {error:?}"))
    }

    async fn look_first(&mut self) -> Verdict {
        for piece in pieces(self.span, self.target.limits()) {
            self.model.extend_from_slice(&self.read(piece).await?);
        }
        let untouched = self.target.untouched() == Untouched::Zero;
        ensure(!untouched || is_zero(&self.model), || {
            "what was not touched is not zero".into()
        })
    }

    async fn compare(&self, when: &str) -> Verdict {
        for piece in pieces(self.span, self.target.limits()) {
            let found = self.read(piece).await?;
            ensure(*found == *part(&self.model, piece), || {
                format!("{when}: {piece} holds other bytes")
            })?;
        }
        Ok(())
    }

    fn remember(&mut self, range: ByteRange, byte: impl Fn(u64) -> u8) {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(bytes) = self.model.get_mut(at(range.start)..at(range.end)) {
            for (offset, slot) in (range.start..).zip(bytes) {
                *slot = byte(offset);
            }
        }
    }

    /// Makes what is beyond the disk tell whether it was touched.
    async fn mark_beyond(&mut self) -> Verdict {
        let beyond = ByteRange::new(self.size / self.align * self.align, self.span);
        if beyond.is_empty() {
            return Ok(());
        }
        self.change(beyond, None).await
    }

    /// A range of many steps of whoever zeroes.
    async fn zero_most(&mut self, zeroing: Zeroing) -> Verdict {
        let most = ByteRange::new(
            3 * self.align,
            self.size - self.size % self.align - self.align,
        );
        self.change(most, Some(zeroing)).await?;
        self.compare("after most was zeroed").await
    }

    /// Every byte, many requests at once.
    async fn fill(&mut self) -> Verdict {
        let whole = ByteRange::new(0, self.size);
        self.remember(whole, |at| byte_of(at % 251 + at / 4096 % 5) | 1);
        let all = pieces(self.size, self.target.limits());
        for some in all.chunks(32) {
            let writes = some.iter().map(|piece| {
                let mut data = buffer(piece.len());
                data.copy_from_slice(part(&self.model, *piece));
                self.target
                    .write(piece.start, data.freeze())
                    .map_err(move |error| format!("write {piece}: {error:?}"))
            });
            join_all(writes).await.into_iter().collect::<Verdict>()?;
        }
        self.compare("after everything was written").await
    }

    /// Writes and both kinds of zeroes, some next to each other, from memory at odd addresses.
    async fn change_parts(&mut self) -> Verdict {
        let units = [(1, 1), (2, 7), (64, 65), (1024, 2048)];
        for (start, len) in units {
            for (round, zeroing) in [None, Some(Zeroing::Unmap), Some(Zeroing::Allocate)]
                .into_iter()
                .enumerate()
            {
                let start =
                    start * self.align + round as u64 * (self.size / 3 / self.align * self.align);
                let range = ByteRange::at(start, len * self.align);
                let range = range.intersect(ByteRange::new(0, self.size / self.align * self.align));
                if !range.is_empty() {
                    self.change(range, zeroing).await?;
                }
            }
        }
        self.compare("after parts were changed").await
    }

    async fn change(&mut self, range: ByteRange, zeroing: Option<Zeroing>) -> Verdict {
        let made = match zeroing {
            Some(zeroing) => {
                self.remember(range, |_| 0);
                self.target.zero(range, zeroing).await
            }
            None => {
                self.remember(range, |at| !byte_of(at % 249));
                let mut odd = vec![0; 3];
                odd.extend_from_slice(part(&self.model, range));
                self.target
                    .write(range.start, Bytes::from(odd).slice(3..))
                    .await
            }
        };
        made.map_err(|error| format!("{zeroing:?} {range}: {error:?}"))
    }

    /// The end of a disk that does not end with a whole block.
    async fn change_tail(&mut self) -> Verdict {
        let start = (self.size - 1) / self.align * self.align;
        let start = start.saturating_sub(2 * self.align);
        for zeroing in [
            None,
            Some(Zeroing::Unmap),
            None,
            Some(Zeroing::Allocate),
            None,
        ] {
            self.change(ByteRange::new(start, self.size), zeroing)
                .await?;
            let window = ByteRange::new(start.saturating_sub(self.align), self.span);
            let found = self.read(window).await?;
            ensure(*found == *part(&self.model, window), || {
                format!("after the tail was changed: {zeroing:?} {window} holds other bytes")
            })?;
        }
        Ok(())
    }

    async fn go_past_the_end(&self, capacity: u64) -> Verdict {
        if capacity == u64::MAX {
            return Ok(());
        }
        let last = capacity / self.align * self.align;
        let len = capacity - last + self.align;
        let data = buffer(len).freeze();
        let range = ByteRange::at(last, len);
        ensure(self.target.write(last, data).await.is_err(), || {
            format!("a write of {range} past the end {capacity} succeeds")
        })?;
        for zeroing in [Zeroing::Unmap, Zeroing::Allocate] {
            ensure(self.target.zero(range, zeroing).await.is_err(), || {
                format!("a zero of {range} past the end {capacity} succeeds")
            })?;
        }
        ensure(
            self.target.read_back(last, buffer(len)).await.is_err(),
            || format!("a read of {range} past the end {capacity} succeeds"),
        )
    }

    /// Requests polled once, then gone: their range holds one or the other, the disk stays usable.
    async fn abandon(&mut self) -> Verdict {
        let (range, _) = ByteRange::new(0, self.size).split(16 * self.align);
        for _ in 0..8 {
            let data = Bytes::copy_from_slice(part(&self.model, range));
            drop(self.target.write(range.start, data).now_or_never());
        }
        self.compare("after abandoned writes").await
    }
}
