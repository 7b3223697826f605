//! An NBD export as source. What the server says of zeroes is taken for true, as the protocol lets
//! it promise that; all else is data.

use super::Source;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::Result;
use crate::extent::{ByteRange, Extent, push_merged};
use crate::nbd::client::{BASE_ALLOCATION, Client, Endpoint, Options};
use crate::nbd::wire::allocation;
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};

/// An NBD export that is read. See the [module](self).
#[derive(Debug)]
pub struct NbdSource {
    client: Client,
    /// Whether it was told already that the server cannot tell extents.
    told: AtomicBool,
}

impl NbdSource {
    /// Connects to the server, or starts it, and opens the export.
    ///
    /// # Errors
    /// As for [`Client::connect`].
    pub async fn open(endpoint: Endpoint, options: Options) -> Result<Self> {
        Ok(Self::new(Client::connect(endpoint, options).await?))
    }

    /// Reads from an export that is open already.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            told: AtomicBool::new(false),
        }
    }

    /// The client, for what only NBD can tell: dirty bitmaps.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the server can tell zeroes from data at all.
    #[must_use]
    pub fn knows_extents(&self) -> bool {
        let contexts = &self.client.export().contexts;
        contexts.iter().any(|name| name == BASE_ALLOCATION)
    }
}

#[async_trait]
impl Source for NbdSource {
    fn size(&self) -> u64 {
        self.client.export().size
    }

    fn limits(&self) -> Limits {
        self.client.limits()
    }

    fn identity(&self) -> Identity {
        self.client.identity()
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.client.read(offset, buffer).await
    }

    /// Never fails: a server that cannot tell now costs speed only.
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        if !self.knows_extents() {
            return Ok(vec![Extent::data(range)]);
        }
        let found = match self.client.status(BASE_ALLOCATION, range).await {
            Ok(found) => found,
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!("extents are unknown, reading instead: {}", error.line());
                }
                return Ok(vec![Extent::data(range)]);
            }
        };
        let mut extents = Vec::with_capacity(found.len());
        for (part, flags) in found {
            let extent = if flags & allocation::ZERO == 0 {
                Extent::data(part)
            } else {
                Extent::zero(part)
            };
            push_merged(&mut extents, extent);
        }
        Ok(extents)
    }
}
