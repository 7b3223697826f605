//! An NBD export as target.
//!
//! Zeroes are written by the server where it can; where it cannot, or refuses once, they are sent.
//! A connection that is lost between a write and its flush fails the flush for good, as the server
//! may have crashed: see [`Client::flush`].

use super::{Target, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::client::{Client, Endpoint, Options};
use crate::nbd::wire::errno;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is sent where the server cannot make zeroes itself.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// An NBD export that is written. See the [module](self).
#[derive(Debug)]
pub struct NbdTarget {
    client: Client,
    /// Whether the server makes zeroes itself.
    zeroes: AtomicBool,
}

impl NbdTarget {
    /// Connects to the server, or starts it, and opens the export.
    ///
    /// # Errors
    /// As for [`Client::connect`], and `Refused` if the export is read-only.
    pub async fn open(endpoint: Endpoint, options: Options) -> Result<Self> {
        Self::new(Client::connect(endpoint, options).await?)
    }

    /// Writes to an export that is open already.
    ///
    /// # Errors
    /// `Refused` if the export is read-only.
    pub fn new(client: Client) -> Result<Self> {
        let flags = client.export().flags;
        if flags.read_only() {
            let why = format!("{} is read-only", client.name());
            return Err(Error::new(Kind::Refused, why));
        }
        if !flags.can_flush() {
            tracing::warn!(
                "{} cannot flush: when its data are durable is up to the server",
                client.name()
            );
        }
        Ok(Self {
            zeroes: AtomicBool::new(flags.can_zero()),
            client,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the server makes zeroes itself, as far as is known now.
    #[must_use]
    pub fn makes_zeroes(&self) -> bool {
        self.zeroes.load(Ordering::Relaxed)
    }

    async fn send_zeroes(&self, range: ByteRange) -> Result<()> {
        let mut rest = range;
        while !rest.is_empty() {
            let longest = u64::try_from(ZEROES.len()).unwrap_or(u64::MAX);
            let (piece, after) = rest.split(longest);
            let len = usize::try_from(piece.len()).unwrap_or(0);
            let data = Bytes::from_static(ZEROES.get(..len).unwrap_or(&[]));
            self.client.write(piece.start, data).await?;
            rest = after;
        }
        Ok(())
    }
}

/// Whether a server that offered to make zeroes answered that it cannot. EINVAL is what ENOTSUP
/// becomes on the way through nbdkit.
fn cannot_zero(error: &Error) -> bool {
    error.kind() == Kind::Unsupported || error.errno() == i32::try_from(errno::EINVAL).ok()
}

#[async_trait]
impl Target for NbdTarget {
    fn capacity(&self) -> Option<u64> {
        Some(self.client.export().size)
    }

    fn limits(&self) -> Limits {
        self.client.limits()
    }

    fn identity(&self) -> Identity {
        self.client.identity()
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.client.write(offset, data).await
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        if self.makes_zeroes() {
            let no_hole = zeroing == Zeroing::Allocate;
            match self.client.zero(range, no_hole, false).await {
                Err(error) if cannot_zero(&error) => {
                    if self.zeroes.swap(false, Ordering::Relaxed) {
                        tracing::warn!("zeroes are sent from now on: {}", error.line());
                    }
                }
                done => return done,
            }
        }
        self.send_zeroes(range).await
    }

    async fn flush(&self) -> Result<()> {
        self.client.flush().await
    }

    /// Says goodbye, and waits for a server that was started for this job: what it serves is
    /// complete, and free for others, only when it has ended.
    async fn finalize(&self) -> Result<()> {
        self.client.close().await;
        Ok(())
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.client.read(offset, buffer).await
    }
}
