//! Which parts of a request are read together. Pure.
//!
//! Neighbours in the guest are mostly neighbours in the image. One long read and a copy are faster
//! than many short reads, as long as little is read that nobody wants.

use crate::extent::ByteRange;
use crate::format::{Mapped, Packed, Storage, To};
use std::sync::Arc;

/// Bytes that may be read for nothing between two parts.
const GAP: u64 = 64 << 10;

/// Bytes that are read at once at most, unless one part alone is longer.
const SPAN_MAX: u64 = 4 << 20;

/// Parts of a request that are done together.
#[derive(Debug)]
pub(super) enum Run {
    /// Nothing to read.
    Zero(ByteRange),
    /// A piece of one compressed unit, of which another request may want another piece.
    Unit {
        range: ByteRange,
        run: Packed,
        skip: u64,
    },
    /// All in one span of one storage; compressed ones are wanted as a whole.
    Together {
        storage: Arc<dyn Storage>,
        span: ByteRange,
        parts: Vec<Mapped>,
    },
}

/// Groups `parts`, which are in order.
pub(super) fn runs(parts: Vec<Mapped>) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for part in parts {
        let (storage, span) = match &part.to {
            To::Zero => {
                found.push(Run::Zero(part.range));
                continue;
            }
            To::Packed { run, skip } if part.range.len() < run.unpacked.into() => {
                found.push(Run::Unit {
                    range: part.range,
                    run: run.clone(),
                    skip: *skip,
                });
                continue;
            }
            To::Packed { run, .. } => {
                let span = ByteRange::at(run.offset, run.len.into());
                (Arc::clone(&run.storage), span)
            }
            To::Raw { storage, offset } => {
                let span = ByteRange::at(*offset, part.range.len());
                (Arc::clone(storage), span)
            }
        };
        // Zeroes between two parts do not keep them apart.
        let open = found.iter_mut().rfind(|run| !matches!(run, Run::Zero(_)));
        match open {
            Some(Run::Together {
                storage: other,
                span: all,
                parts,
            }) if Arc::ptr_eq(other, &storage) && near(*all, span) => {
                *all = ByteRange::new(all.start.min(span.start), all.end.max(span.end));
                parts.push(part);
            }
            _ => found.push(Run::Together {
                storage,
                span,
                parts: vec![part],
            }),
        }
    }
    found
}

/// Whether `next` is worth reading together with `all`.
fn near(all: ByteRange, next: ByteRange) -> bool {
    let both = ByteRange::new(all.start.min(next.start), all.end.max(next.end));
    let wanted = all.len().saturating_add(next.len()).saturating_add(GAP);
    both.len() <= wanted && both.len() <= SPAN_MAX
}

#[cfg(test)]
mod tests {
    use super::{GAP, Run, runs};
    use crate::extent::ByteRange;
    use crate::format::{Mapped, Storage, To};
    use crate::source::image::SourceStorage;
    use crate::testkit::MemSource;
    use std::sync::Arc;

    fn storage() -> Arc<dyn Storage> {
        Arc::new(SourceStorage::new(Arc::new(MemSource::new(1 << 30))))
    }

    fn raw(storage: &Arc<dyn Storage>, at: u64, offset: u64) -> Mapped {
        Mapped {
            range: ByteRange::at(at, 4096),
            to: To::Raw {
                storage: Arc::clone(storage),
                offset,
            },
        }
    }

    fn spans(parts: Vec<Mapped>) -> Vec<ByteRange> {
        let found = runs(parts).into_iter().filter_map(|run| match run {
            Run::Together { span, .. } => Some(span),
            _ => None,
        });
        found.collect()
    }

    #[test]
    fn neighbours_in_the_image_are_read_together_in_any_order_and_over_zeroes() {
        let disk = storage();
        let zero = Mapped {
            range: ByteRange::at(4096, 4096),
            to: To::Zero,
        };
        let parts = vec![
            raw(&disk, 0, 1 << 20),
            zero,
            raw(&disk, 8192, (1 << 20) - 4096),
            raw(&disk, 12288, (1 << 20) + 4096 + GAP),
        ];
        let whole = ByteRange::new((1 << 20) - 4096, (1 << 20) + 8192 + GAP);
        assert_eq!(spans(parts), [whole]);
    }

    #[test]
    fn what_is_far_apart_or_in_another_file_is_read_apart() {
        let (disk, other) = (storage(), storage());
        let far = vec![raw(&disk, 0, 0), raw(&disk, 4096, 8192 + GAP + 1)];
        assert_eq!(spans(far).len(), 2);
        assert_eq!(
            spans(vec![raw(&disk, 0, 0), raw(&other, 4096, 4096)]).len(),
            2
        );
    }
}
