//! Any target that can be read back, served over NBD: read and written.
//!
//! What was written is durable after a flush, as everywhere. Who serves a target
//! [finalizes](super::Target::finalize) it when its clients are gone.

use super::{Target, Zeroing};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::server::{BlockSizes, Export, ZeroHow};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// A target as an export.
#[derive(Clone, Debug)]
pub struct TargetExport {
    target: Arc<dyn Target>,
    size: u64,
}

impl TargetExport {
    /// Serves `target`.
    ///
    /// # Errors
    /// It has no size, or cannot be read back: then it is a stream, and no disk. Or its size is not
    /// a multiple of its sectors: there are clients that fall over such an export.
    pub fn new(target: Arc<dyn Target>) -> Result<Self> {
        let refuse = |why: &str| {
            let doing = format!("serve {}: {why}", target.identity());
            Err(Error::new(Kind::Unsupported, doing))
        };
        match target.capacity() {
            Some(size) if !size.is_multiple_of(target.limits().align.into()) => {
                refuse("its size is not a multiple of its sectors")
            }
            Some(size) if target.can_read_back() => Ok(Self { target, size }),
            _ => refuse("it cannot be read"),
        }
    }
}

#[async_trait]
impl Export for TargetExport {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn block_sizes(&self) -> BlockSizes {
        let limits = self.target.limits();
        BlockSizes {
            minimum: limits.align,
            preferred: limits.preferred,
            maximum: limits.max,
        }
    }

    fn description(&self) -> String {
        self.target.identity().name
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.target.read_back(offset, buffer).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.target.write(offset, data).await
    }

    async fn zero(&self, range: ByteRange, how: ZeroHow) -> Result<()> {
        let zeroing = match how.no_hole {
            true => Zeroing::Allocate,
            false => Zeroing::Unmap,
        };
        self.target.zero(range, zeroing).await
    }

    /// Not offered: a target zeroes or it does nothing, and zeroing may be slow.
    async fn trim(&self, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.target.flush().await
    }
}
