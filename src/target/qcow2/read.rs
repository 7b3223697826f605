//! What was written, read back.

use super::write::Runs;
use super::{Qcow2Target, length};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::extent::ByteRange;
use crate::format::Codec;
use crate::format::qcow2::entry::{Cluster, Packed};
use crate::format::qcow2::header::Compression;
use crate::target::read_back;
use std::io;

/// Compressed clusters that lie no further apart are read at once, in bytes.
const GAP: u64 = 128 << 10;

/// Where the bytes of a request are.
#[derive(Debug, Default)]
struct Found {
    zero: Vec<ByteRange>,
    raw: Runs,
    packed: Vec<Together>,
}

/// Compressed clusters that are read at once.
#[derive(Debug)]
struct Together {
    span: ByteRange,
    parts: Vec<Part>,
}

/// A part of a compressed cluster.
#[derive(Debug)]
struct Part {
    range: ByteRange,
    skip: u64,
    at: Packed,
}

impl Qcow2Target {
    /// Fills `buffer` with what the image holds in `range`.
    pub(super) async fn fetch(&self, range: ByteRange, mut buffer: Buffer) -> Result<Buffer> {
        let found = self.find(range).await;
        let found = found.map_err(|error| self.draft.failed("read back", range.start, error))?;
        for part in found.zero {
            place(&mut buffer, part, range.start).fill(0);
        }
        for (host, part) in found.raw.0 {
            let bytes = self.read_raw(ByteRange::at(host, part.len())).await?;
            copy(place(&mut buffer, part, range.start), &bytes);
        }
        for together in found.packed {
            let bytes = self.read_raw(together.span).await?;
            for part in together.parts {
                let from = length(part.at.offset.saturating_sub(together.span.start));
                let unpacked = self.unpack(bytes.get(from..).unwrap_or_default())?;
                let wanted = unpacked.get(length(part.skip)..).unwrap_or_default();
                copy(place(&mut buffer, part.range, range.start), wanted);
            }
        }
        Ok(buffer)
    }

    async fn find(&self, range: ByteRange) -> io::Result<Found> {
        let mut found = Found::default();
        let mut tables = self.tables.lock().await;
        for (start, part) in self.clusters(range) {
            let raw = tables.entry(start).await?;
            let skip = part.start.saturating_sub(start);
            match tables.cluster(raw, start)? {
                Cluster::Standard(host) => found.raw.push(host.saturating_add(skip), part),
                Cluster::Compressed(at) => found.push_packed(Part {
                    range: part,
                    skip,
                    at,
                }),
                _ => found.zero.push(part),
            }
        }
        Ok(found)
    }

    async fn read_raw(&self, there: ByteRange) -> Result<Buffer> {
        let buffer = Buffer::unbudgeted(length(there.len()));
        read_back(self.draft.queue(), there, buffer)
            .await
            .map_err(|error| self.draft.failed("read back", there.start, error))
    }

    fn unpack(&self, packed: &[u8]) -> Result<Vec<u8>> {
        let codec = match self.options.compression {
            Some(Compression::Zstd) => Codec::Zstd,
            _ => Codec::Deflate,
        };
        let mut bytes = vec![0; length(self.geometry.cluster())];
        codec.unpack(packed, &mut bytes)?;
        Ok(bytes)
    }
}

impl Found {
    fn push_packed(&mut self, part: Part) {
        let span = ByteRange::at(part.at.offset, part.at.len);
        match self.packed.last_mut() {
            Some(last) if near(last.span, span) => {
                last.span.end = last.span.end.max(span.end);
                last.parts.push(part);
            }
            _ => self.packed.push(Together {
                span,
                parts: vec![part],
            }),
        }
    }
}

/// Whether `next` begins in `span` or soon after it.
fn near(span: ByteRange, next: ByteRange) -> bool {
    span.start <= next.start && next.start <= span.end.saturating_add(GAP)
}

/// Where the bytes of `part` go in a buffer that begins at `start`.
fn place(buffer: &mut Buffer, part: ByteRange, start: u64) -> &mut [u8] {
    let from = length(part.start.saturating_sub(start));
    let to = from.saturating_add(length(part.len()));
    buffer.get_mut(from..to).unwrap_or_default()
}

/// Copies as much as both have.
fn copy(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}
