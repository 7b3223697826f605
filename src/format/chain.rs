//! Layers: what one image does not hold is in the one below it, or nowhere.

use super::image::{Image, Mapped, PARTS_MAX, To, push_mapped};
use crate::error::Result;
use crate::extent::ByteRange;

/// What one layer knows of a range.
#[derive(Clone, Debug)]
pub enum Layer {
    /// It is here.
    Here(To),
    /// It was never written in this layer.
    Below,
}

impl Layer {
    /// Whether `next`, `bytes` after the start of this, only continues it.
    fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Below, Self::Below) => true,
            (Self::Here(to), Self::Here(next)) => to.continues(bytes, next),
            _ => false,
        }
    }
}

/// Appends what one layer knows of `range`, merging it with the last part if it only continues
/// that.
pub fn push_layer(list: &mut Vec<(ByteRange, Layer)>, range: ByteRange, layer: Layer) {
    if range.is_empty() {
        return;
    }
    if let Some((last, known)) = list.last_mut()
        && last.end == range.start
        && known.continues(last.len(), &layer)
    {
        last.end = range.end;
        return;
    }
    list.push((range, layer));
}

/// Puts `parts`, which touch each other in order, over the image `below`.
///
/// Past the end of the image below, and without one, what was never written is zero. The answer
/// may be a prefix: the image below may answer with one, and no answer gets long.
///
/// # Errors
/// Those of the image below.
pub async fn over(
    parts: Vec<(ByteRange, Layer)>,
    below: Option<&dyn Image>,
) -> Result<Vec<Mapped>> {
    let mut all = Vec::new();
    for (range, layer) in parts {
        let to = match layer {
            Layer::Here(to) => to,
            Layer::Below => {
                let (inside, outside) = split_at(range, below.map_or(0, Image::size));
                if let Some(below) = below.filter(|_| !inside.is_empty()) {
                    let end = append(&mut all, below.map(inside).await?, inside);
                    if end < inside.end || all.len() >= PARTS_MAX {
                        return Ok(all);
                    }
                }
                let to = To::Zero;
                push_mapped(&mut all, Mapped { range: outside, to });
                continue;
            }
        };
        push_mapped(&mut all, Mapped { range, to });
        if all.len() >= PARTS_MAX {
            break;
        }
    }
    Ok(all)
}

/// The bytes before `offset`, and those after it.
fn split_at(range: ByteRange, offset: u64) -> (ByteRange, ByteRange) {
    range.split(offset.saturating_sub(range.start))
}

/// Appends what was found of `wanted`; where it ends.
fn append(all: &mut Vec<Mapped>, found: Vec<Mapped>, wanted: ByteRange) -> u64 {
    let mut end = wanted.start;
    for part in found {
        end = part.range.end;
        push_mapped(all, part);
    }
    end
}
