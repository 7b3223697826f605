//! Any source, served over NBD: read-only.
//!
//! Clients may read at any offset. What the source does not like, because it reads past the page
//! cache for example, is read in a wider range here and copied out of it; clients that obey the
//! preferred block size never see that. (Telling them a minimum instead would not do: clients fall
//! over a disk whose size is not a multiple of it.)

use super::Source;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, ExtentKind};
use crate::nbd::server::{BlockSizes, Export, Status, ZeroHow};
use crate::nbd::wire::allocation;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// A source as an export.
#[derive(Clone, Debug)]
pub struct SourceExport(Arc<dyn Source>);

impl SourceExport {
    /// Serves `source`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self(source)
    }
}

/// Bytes of disk that one status tells of.
const WINDOW: u64 = 256 << 20;

/// Bytes of a wider read at a time.
const WIDE: u64 = 256 << 10;

impl SourceExport {
    async fn read_wider(&self, range: ByteRange, mut buffer: Buffer) -> Result<Buffer> {
        let align = u64::from(self.0.limits().align);
        let mut rest = range;
        let mut out = &mut buffer[..];
        let mut wide = Buffer::unbudgeted(0);
        while !rest.is_empty() {
            let (part, after) = rest.split(WIDE);
            let whole = part.align_out(align, self.0.size());
            let to_usize = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            if wide.len() != to_usize(whole.len()) {
                wide = Buffer::unbudgeted(to_usize(whole.len()));
            }
            wide = self.0.read(whole.start, wide).await?;
            let skip = to_usize(part.start.saturating_sub(whole.start));
            let (now, later) = out.split_at_mut(to_usize(part.len()).min(out.len()));
            now.iter_mut()
                .zip(wide.iter().skip(skip))
                .for_each(|(to, from)| *to = *from);
            (out, rest) = (later, after);
        }
        Ok(buffer)
    }
}

fn read_only<T>() -> Result<T> {
    Err(Error::new(Kind::Refused, "the export is read-only"))
}

#[async_trait]
impl Export for SourceExport {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn block_sizes(&self) -> BlockSizes {
        let limits = self.0.limits();
        BlockSizes {
            minimum: 1,
            preferred: limits.preferred.max(limits.align),
            maximum: limits.max,
        }
    }

    fn description(&self) -> String {
        self.0.identity().name
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let (align, size) = (u64::from(self.0.limits().align), self.0.size());
        let len = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let range = ByteRange::at(offset, len);
        // The tail of a disk is the one range that need not be aligned.
        if range.align_out(align, size) == range {
            return self.0.read(offset, buffer).await;
        }
        self.read_wider(range, buffer).await
    }

    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        read_only()
    }

    async fn zero(&self, _range: ByteRange, _how: ZeroHow) -> Result<()> {
        read_only()
    }

    async fn trim(&self, _range: ByteRange) -> Result<()> {
        read_only()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// There is one context only. A source that cannot tell now is data: that costs speed only.
    async fn status(&self, _context: &str, range: ByteRange) -> Result<Vec<Status>> {
        // An answer may end early; this one must not grow with the disk.
        let (range, _) = range.split(WINDOW);
        let extents = match self.0.extents(range).await {
            Ok(extents) => extents,
            Err(error) => {
                tracing::debug!(error = error.line(), "extents are served as data");
                vec![Extent::data(range)]
            }
        };
        let status = |extent: Extent| Status {
            len: extent.range.len(),
            flags: match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => allocation::HOLE | allocation::ZERO,
            },
        };
        Ok(extents.into_iter().map(status).collect())
    }
}
