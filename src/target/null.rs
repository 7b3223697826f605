//! Nowhere: takes everything, keeps nothing. For measuring a source.

use super::{Target, Untouched, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;

/// `null:`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullTarget;

#[async_trait]
impl Target for NullTarget {
    fn capacity(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn identity(&self) -> Identity {
        Identity {
            id: "null:".into(),
            size: 0,
            name: "null:".into(),
        }
    }

    /// Nobody can tell otherwise, so nobody need zero it.
    fn untouched(&self) -> Untouched {
        Untouched::Zero
    }

    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        Ok(())
    }

    async fn zero(&self, _range: ByteRange, _zeroing: Zeroing) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn can_read_back(&self) -> bool {
        false
    }

    async fn read_back(&self, offset: u64, _buffer: Buffer) -> Result<Buffer> {
        Err(Error::new(Kind::Unsupported, "read back null:").at(offset))
    }
}
