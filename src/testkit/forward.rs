//! What the contract of [`Target`] says of one that is written once, in the order of the disk, and
//! cannot be read back: a stream, an image that is only appended to.
//!
//! Where its bytes end up only the caller knows, who compares them with what [`check_forward`] gives.

use super::conformance::{Verdict, buffer, byte_of, check_limits, ensure, pieces};
use crate::endpoint::Limits;
use crate::extent::ByteRange;
use crate::target::{Target, Zeroing};
use bytes::Bytes;
use futures_util::future::join_all;

/// Writes a disk of `size` bytes, at least 4 MiB, onto `target`, and tries all that the contract says
/// of a target that cannot be read back. One that can is written all the same. It is not finalized.
///
/// Gives the bytes that it must hold.
///
/// # Errors
/// The clause that does not hold.
pub async fn check_forward(target: &dyn Target, size: u64) -> Result<Vec<u8>, String> {
    check_limits(target.limits())?;
    ensure(size >= 4 << 20, || "the disk is too small to try".into())?;
    let capacity = target.capacity().unwrap_or(u64::MAX);
    ensure(capacity >= size, || format!("capacity {capacity}"))?;
    cannot_be_read(target).await?;
    go_past_the_end(target, capacity).await?;
    let steps = steps(size, target.limits());
    let (first, second) = steps.split_at(steps.len() / 2);
    write_all(target, first).await?;
    flush(target).await?;
    target.ending();
    write_all(target, second).await?;
    flush(target).await?;
    cannot_be_read(target).await?;
    Ok(steps.iter().flat_map(Step::bytes).collect())
}

/// What is done with a range of the disk.
#[derive(Clone, Copy, Debug)]
enum Step {
    Data(ByteRange),
    /// Zeroes that come as data.
    Blank(ByteRange),
    Zero(ByteRange, Zeroing),
}

impl Step {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Data(range) => (range.start..range.end)
                .map(|at| byte_of(at % 251 + at / 4096 % 5) | 1)
                .collect(),
            Self::Blank(range) | Self::Zero(range, _) => {
                (range.start..range.end).map(|_| 0).collect()
            }
        }
    }

    async fn run(self, target: &dyn Target) -> Verdict {
        let done = match self {
            Self::Zero(range, zeroing) => target.zero(range, zeroing).await,
            Self::Data(range) | Self::Blank(range) => {
                // From memory at an odd address.
                let mut odd = vec![0; 3];
                odd.extend(self.bytes());
                target.write(range.start, Bytes::from(odd).slice(3..)).await
            }
        };
        done.map_err(|error| format!("{self:?}: {error:?}"))
    }
}

/// Every byte once, in the order of the disk.
fn steps(size: u64, limits: Limits) -> Vec<Step> {
    let mut all = pieces(size, limits);
    all.retain(|piece| !piece.is_empty());
    let kinds = [0, 1, 2, 3, 4].into_iter().cycle();
    let steps = all.into_iter().zip(kinds).map(|(range, kind)| match kind {
        1 => Step::Zero(range, Zeroing::Unmap),
        3 => Step::Zero(range, Zeroing::Allocate),
        4 => Step::Blank(range),
        _ => Step::Data(range),
    });
    steps.collect()
}

/// Many requests at once, the last one first: what is next is under way, and no more is promised.
async fn write_all(target: &dyn Target, steps: &[Step]) -> Verdict {
    for some in steps.chunks(32) {
        let requests = some.iter().rev().map(|step| step.run(target));
        join_all(requests).await.into_iter().collect::<Verdict>()?;
    }
    Ok(())
}

async fn flush(target: &dyn Target) -> Verdict {
    let flushed = target.flush().await;
    flushed.map_err(|error| format!("flush: {error:?}"))
}

async fn cannot_be_read(target: &dyn Target) -> Verdict {
    let align = u64::from(target.limits().align);
    let lies = !target.can_read_back() && target.read_back(0, buffer(align)).await.is_ok();
    ensure(!lies, || "it cannot be read back, and was".into())
}

/// Is refused, and harms nothing: what follows must succeed.
async fn go_past_the_end(target: &dyn Target, capacity: u64) -> Verdict {
    if capacity == u64::MAX {
        return Ok(());
    }
    let align = u64::from(target.limits().align);
    let last = capacity / align * align;
    let range = ByteRange::new(last, capacity + align);
    let data = buffer(range.len()).freeze();
    ensure(target.write(last, data).await.is_err(), || {
        format!("a write of {range} past the end {capacity} succeeds")
    })?;
    for zeroing in [Zeroing::Unmap, Zeroing::Allocate] {
        ensure(target.zero(range, zeroing).await.is_err(), || {
            format!("a zero of {range} past the end {capacity} succeeds")
        })?;
    }
    Ok(())
}
