//! A dirty bitmap that someone else prepared, read through the NBD export that it belongs to.
//!
//! The source's meta context `qemu:dirty-bitmap:NAME` (QEMU's `docs/interop/nbd.txt`); bit 0 of
//! an extent's flags says "changed since the bitmap was started".

use super::{Changes, Tracker};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::client::Client;
use crate::nbd::wire::DIRTY;
use async_trait::async_trait;

/// The meta context of the bitmap `name`.
#[must_use]
pub fn context(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

/// Changes since a bitmap was started.
#[derive(Debug)]
pub struct NbdBitmap {
    client: Client,
    context: String,
}

impl NbdBitmap {
    /// Uses the bitmap `name` of the export that `client` is connected to, which must have been
    /// asked for [`context`] when it connected.
    ///
    /// # Errors
    /// The export has no such bitmap.
    pub fn new(client: Client, name: &str) -> Result<Self> {
        let context = context(name);
        if !client.export().contexts.contains(&context) {
            return Err(Error::new(Kind::Refused, format!("the export has no dirty bitmap {name:?}"))
                .hint("export it with the node, as docs/warm-by-hand.md shows; nbdinfo lists the contexts"));
        }
        Ok(Self { client, context })
    }
}

#[async_trait]
impl Tracker for NbdBitmap {
    async fn changes(&self, window: ByteRange) -> Result<Changes> {
        let status = self.client.status(&self.context, window).await?;
        let mut known = ByteRange::new(window.start, window.start);
        let mut changed: Vec<ByteRange> = Vec::new();
        for (range, flags) in status {
            if range.start != known.end || !window.covers(range) {
                let what = format!("{} answered {range} for {window}", self.context);
                return Err(Error::new(Kind::Corrupt, what));
            }
            known.end = range.end;
            if flags & DIRTY == 0 {
                continue;
            }
            match changed.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => changed.push(range),
            }
        }
        Ok(Changes { known, changed })
    }
}
