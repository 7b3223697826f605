//! Any source, served over NBD: read-only.

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
            minimum: limits.align,
            preferred: limits.preferred,
            maximum: limits.max,
        }
    }

    fn description(&self) -> String {
        self.0.identity().name
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.0.read(offset, buffer).await
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
