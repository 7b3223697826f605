//! The NBD client: one export over several connections, with many requests in flight on each.
//!
//! [`Client`] is what the rest of the crate sees. Requests go to the connection with the least to
//! do, are matched to replies by cookie in any order, split where the server's maximum asks for
//! it, and tried again after a lost connection or an error that may pass. Reads are received into
//! the caller's [`Buffer`]; nothing copies disk data in user space, except under TLS and for
//! requests that are not aligned to the server's minimum block size.
//!
//! ```text
//!  endpoint.rs      which server; started if need be
//!  options.rs       what a user can choose; the rule for trying again     pure
//!  plan.rs          ranges to requests that the server takes              pure
//!  request.rs       requests to bytes                                     pure
//!  reply.rs         bytes to reply headers                                pure
//!  assembly.rs      what has come of one reply                            pure
//!  pending.rs       a request that waits for its replies                  pure
//!  transmission.rs  bytes in, answers out: all state of a connection      pure
//!  barrier.rs       what a flush can still vouch for                      pure
//!  stream.rs        the socket                  dial.rs   connect and shake hands
//!  driver.rs        the task of a connection    connection.rs   its handle
//!  pool.rs          which connection; reconnect
//!  perform.rs       one request, with its repetitions
//! ```
//!
//! Not done: one request over several connections, which nothing needs.

mod assembly;
mod barrier;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod options;
mod pending;
mod perform;
mod plan;
mod pool;
mod reply;
mod request;
mod stream;
mod transmission;

pub use assembly::{ServerError, Status};
pub use endpoint::Endpoint;
pub use options::{Options, Retry, Timeouts};
pub use request::{Header, Work};
pub use transmission::{Answer, Finished, Transmission};

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::export::Export;
use crate::nbd::handshake::Listing;
use bytes::Bytes;
use dial::Dialer;
use endpoint::Resolved;
use pool::Pool;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The context that tells holes and zeroes from data.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// One export. Cloning shares its connections; they end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    /// The export's address, for messages.
    name: Arc<str>,
    /// The same, to tell disks apart.
    id: Arc<str>,
    read_only: bool,
    cut_reads: bool,
    /// One at a time changes part of a block.
    patching: Arc<tokio::sync::Mutex<()>>,
}

impl Client {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// The server cannot be reached or started, has no such export, wants or lacks TLS, or breaks
    /// the protocol.
    pub async fn connect(endpoint: Endpoint, options: Options) -> Result<Self> {
        let Resolved {
            uri,
            child,
            name,
            id,
        } = endpoint.resolve()?;
        let doing = || format!("open {name}");
        let dialer = Dialer::new(&uri, options.all_contexts(), options.timeouts.connect)
            .map_err(|error| error.context(doing()))?;
        let pool = Pool::connect(dialer, child, &options)
            .await
            .map_err(|error| error.context(doing()))?;
        Ok(Self {
            pool: Arc::new(pool),
            read_only: options.read_only,
            cut_reads: options.cut_reads,
            name: name.into(),
            id: id.into(),
            patching: Arc::default(),
        })
    }

    /// What the server told of the export.
    #[must_use]
    pub fn export(&self) -> &Export {
        self.pool.export()
    }

    /// The export's address, without secrets: a URI, or the words of the child.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which disk this is, for a journal and for people.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            id: self.id.to_string(),
            size: self.size(),
            name: self.name.to_string(),
        }
    }

    /// What requests may look like.
    #[must_use]
    pub fn limits(&self) -> Limits {
        plan::limits(self.export().block_size, self.connections())
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pool.connections()
    }

    /// How often a request was tried again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.pool.retries()
    }

    /// How often a connection was made again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.pool.barrier().generation()
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The range is past the end, or the server cannot read it and does not recover in time.
    pub async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, length(buffer.len()));
        let whole = self.whole_blocks(range);
        let read = async {
            self.check_range(range)?;
            if whole == range {
                self.read_blocks(offset, buffer).await
            } else {
                let wide = Buffer::unbudgeted(size(whole.len())?);
                let wide = self.read_blocks(whole.start, wide).await?;
                copy_out(&wide, size(offset.saturating_sub(whole.start))?, buffer)
            }
        };
        read.await
            .map_err(|error| self.explain(error, "read", offset))
    }

    async fn read_blocks(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let export = self.export();
        let max = export.block_size.maximum.into();
        let part =
            plan::part(export.block_size, self.pool.reads().get()).filter(|_| self.cut_reads);
        for piece in plan::pieces(ByteRange::at(offset, length(buffer.len())), max) {
            let window = window(piece, offset)?;
            let began = Instant::now();
            let work = Work::Read {
                offset: piece.start,
                buffer,
                window,
                whole: export.flags.can_df() && piece.len() <= plan::MAX_WHOLE,
                part,
            };
            buffer = match perform::perform(&self.pool, work).await? {
                Answer::Read(buffer) => buffer,
                _ => return Err(Error::new(Kind::Corrupt, "a read gave no data")),
            };
            self.pool.reads().answered_in(began.elapsed());
        }
        Ok(buffer)
    }

    /// Writes `data` at `offset`. Durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// The export is read-only, the range is past the end, or the server cannot write it.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.write_with(offset, data, false).await
    }

    /// Writes `data` at `offset`, durable when this returns.
    ///
    /// # Errors
    /// As for [`write`](Self::write) and [`flush`](Self::flush).
    pub async fn write_durable(&self, offset: u64, data: Bytes) -> Result<()> {
        let fua = self.export().flags.can_fua();
        self.write_with(offset, data, fua).await?;
        if fua { Ok(()) } else { self.flush().await }
    }

    async fn write_with(&self, offset: u64, data: Bytes, fua: bool) -> Result<()> {
        let range = ByteRange::at(offset, length(data.len()));
        let write = async {
            self.check_change(range)?;
            if self.whole_blocks(range) == range {
                self.write_blocks(offset, data, fua).await
            } else {
                self.patch(range, &data, fua).await
            }
        };
        write
            .await
            .map_err(|error| self.explain(error, "write", offset))
    }

    async fn write_blocks(&self, offset: u64, data: Bytes, fua: bool) -> Result<()> {
        let max = self.export().block_size.maximum.into();
        for piece in plan::pieces(ByteRange::at(offset, length(data.len())), max) {
            let work = Work::Write {
                offset: piece.start,
                data: data.slice(window(piece, offset)?),
                fua,
            };
            self.change(work).await?;
        }
        Ok(())
    }

    /// Writes part of a block by reading and writing the whole of it.
    async fn patch(&self, range: ByteRange, data: &[u8], fua: bool) -> Result<()> {
        let _alone = self.patching.lock().await;
        let whole = self.whole_blocks(range);
        let buffer = Buffer::unbudgeted(size(whole.len())?);
        let mut buffer = self.read_blocks(whole.start, buffer).await?;
        if let Some(place) = buffer.get_mut(window(range, whole.start)?) {
            place.copy_from_slice(data);
        }
        self.write_blocks(whole.start, buffer.freeze(), fua).await
    }

    /// Makes `range` read as zeroes, keeping the space if `no_hole`. With `fast`, fails with
    /// `Unsupported` rather than write zeroes as slowly as [`write`](Self::write) would.
    ///
    /// # Errors
    /// As for `write`, and `Unsupported` if the server has no such request.
    pub async fn zero(&self, range: ByteRange, no_hole: bool, fast: bool) -> Result<()> {
        let zero = async {
            self.check_change(range)?;
            let flags = self.export().flags;
            if !flags.can_zero() || (fast && !flags.can_fast_zero()) {
                return Err(unsupported("write-zeroes"));
            }
            let (head, middle, tail) = plan::around_blocks(range, self.minimum(), self.size());
            for range in plan::pieces(middle, plan::MAX_BARE) {
                let work = Work::Zero {
                    range,
                    no_hole,
                    fast,
                };
                self.change(work).await?;
            }
            for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
                let zeroes = vec![0; size(part.len())?];
                self.patch(part, &zeroes, false).await?;
            }
            Ok(())
        };
        zero.await
            .map_err(|error| self.explain(error, "zero", range.start))
    }

    /// Says that the content of `range` does not matter any more. Only whole blocks are trimmed.
    ///
    /// # Errors
    /// As for `write`, and `Unsupported` if the server has no such request.
    pub async fn trim(&self, range: ByteRange) -> Result<()> {
        let trim = async {
            self.check_change(range)?;
            if !self.export().flags.can_trim() {
                return Err(unsupported("trim"));
            }
            let (_, middle, _) = plan::around_blocks(range, self.minimum(), self.size());
            for range in plan::pieces(middle, plan::MAX_BARE) {
                self.change(Work::Trim { range }).await?;
            }
            Ok(())
        };
        trim.await
            .map_err(|error| self.explain(error, "trim", range.start))
    }

    async fn change(&self, work: Work) -> Result<()> {
        perform::perform(&self.pool, work).await.map(drop)
    }

    /// Makes all writes durable that were answered before this was called. Does nothing if the
    /// server has no such request: such a server promises nothing.
    ///
    /// # Errors
    /// Some write may be lost: the server says so, or a connection was lost after the write and
    /// the server may have crashed (`Transient`). Every later flush of this client fails as well.
    pub async fn flush(&self) -> Result<()> {
        if !self.export().flags.can_flush() {
            return Ok(());
        }
        perform::flush(&self.pool)
            .await
            .map_err(|error| error.context(format!("flush {}", self.name)))
    }

    /// What a context tells of a prefix of `range`: consecutive ranges with their flags, at least
    /// one, from the start of `range` and not past its end.
    ///
    /// # Errors
    /// The context was not negotiated (`Unsupported`), the range is empty or past the end, or the
    /// server cannot tell.
    pub async fn status(&self, context: &str, range: ByteRange) -> Result<Status> {
        let status = async {
            self.check_range(range)?;
            let window = plan::status_window(range, self.minimum(), self.size());
            match perform::status(&self.pool, context, window).await? {
                Answer::Status(found) => Ok(plan::clip(found, range)),
                _ => Err(Error::new(Kind::Corrupt, "a status request gave no status")),
            }
        };
        status
            .await
            .map_err(|error| self.explain(error, "ask for the extents of", range.start))
    }

    /// Ends the connections politely, and the child server if there is one.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn size(&self) -> u64 {
        self.export().size
    }

    fn minimum(&self) -> u64 {
        self.export().block_size.minimum.into()
    }

    /// `range` grown to whole blocks. The last block may be cut by the end of the export.
    fn whole_blocks(&self, range: ByteRange) -> ByteRange {
        range.align_out(self.minimum(), self.size())
    }

    fn check_range(&self, range: ByteRange) -> Result<()> {
        if range.end <= self.size() {
            return Ok(());
        }
        let why = format!("{range} is past its end, {:#x}", self.size());
        Err(Error::new(Kind::Io, why))
    }

    fn check_change(&self, range: ByteRange) -> Result<()> {
        if self.read_only || self.export().flags.read_only() {
            return Err(Error::new(Kind::Refused, "the export is read-only"));
        }
        self.check_range(range)
    }

    fn explain(&self, error: Error, doing: &str, offset: u64) -> Error {
        error.context(format!("{doing} {}", self.name)).at(offset)
    }
}

/// Lists the exports of a server and describes each. Only URIs name a server that has a list.
///
/// # Errors
/// The server cannot be reached, does not list its exports, or breaks the protocol.
pub async fn list(endpoint: Endpoint, timeouts: Timeouts) -> Result<Vec<Listing>> {
    let Resolved {
        uri, child, name, ..
    } = endpoint.resolve()?;
    let listed = match Dialer::new(&uri, Vec::new(), timeouts.connect) {
        Ok(dialer) => dialer.list().await,
        Err(error) => Err(error),
    };
    let listed = match (listed, &child) {
        (Err(error), Some(child)) => Err(child.explain(error).await),
        (listed, _) => listed,
    };
    listed.map_err(|error| error.context(format!("list the exports of {name}")))
}

fn unsupported(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("the server has no {what}"))
}

/// Where `piece` lies in a buffer that starts at `offset` of the export.
fn window(piece: ByteRange, offset: u64) -> Result<Range<usize>> {
    let start = size(piece.start.saturating_sub(offset))?;
    Ok(start..size(piece.end.saturating_sub(offset))?)
}

fn copy_out(wide: &[u8], skip: usize, mut buffer: Buffer) -> Result<Buffer> {
    let end = skip.saturating_add(buffer.len());
    let bytes = wide
        .get(skip..end)
        .ok_or_else(|| Error::new(Kind::Io, "the range is past the end"))?;
    buffer.copy_from_slice(bytes);
    Ok(buffer)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::new(Kind::Io, "more bytes than memory can have"))
}
