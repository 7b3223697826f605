//! Raw: the guest's bytes as they are. What matches nothing else is raw.

use super::{Ends, Facts, Format, Image, Mapped, Opener, Storage, To};
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::sync::Arc;

/// The format.
#[derive(Debug)]
pub struct Raw;

#[async_trait]
impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    /// Never by itself: it is what is left.
    fn probe(&self, _ends: &Ends<'_>) -> bool {
        false
    }

    async fn open(&self, storage: Arc<dyn Storage>, _opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(RawImage { storage }))
    }
}

#[derive(Debug)]
struct RawImage {
    storage: Arc<dyn Storage>,
}

#[async_trait]
impl Image for RawImage {
    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn unit(&self) -> u64 {
        self.storage.limits().preferred.into()
    }

    fn facts(&self) -> Facts {
        Facts {
            format: Raw.name(),
            file: self.storage.identity().name,
            virtual_size: self.size(),
            ..Facts::default()
        }
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let to = To::Raw {
            storage: Arc::clone(&self.storage),
            offset: range.start,
        };
        Ok(vec![Mapped { range, to }])
    }
}
