//! A virtual disk of vSphere, read through VMware's VDDK: nbdkit's vddk plugin, as a child.
//!
//! VDDK is not free software and is loaded by nobody but that plugin. Each NBD connection to it is
//! an NFC session of its own, and sessions are slow one by one; so a disk has several, as many as
//! its host can spare. What is read is a snapshot, which never changes.
//!
//! ```text
//!  address.rs   vddk://…, as a user writes it                           pure
//!  command.rs   what nbdkit is called with                              pure
//!  words.rs     what nbdkit and VDDK say: version, host, the cause       pure
//!  budget.rs    sessions and bytes that one host can spare
//!  server.rs    one nbdkit, from its start to its end
//!  mod.rs       reads, in the face of dying servers and full hosts
//! ```
//!
//! Everything is tried again here, not by NBD: a read that is too long for the host must become
//! shorter before it is, and a server that died must be started first. Not done: writing.

pub mod address;
mod budget;
mod command;
mod server;
pub mod words;

pub use address::VddkAddress;

use super::Source;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, ServedBy, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::nbd::client::Retry;
use crate::secret::Secret;
use async_trait::async_trait;
use budget::Host;
use server::{Server, Trouble};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{Instant, sleep};

/// The longest request: vCenter refuses more, as its NFC buffers are small.
const LONGEST: u32 = 2 << 20;

/// The shortest that a request is made when the host has no memory for longer ones.
const SHORTEST: u32 = 64 << 10;

/// Sessions of a disk if nobody says otherwise.
const SESSIONS: usize = 4;

/// Requests that one session has use for: VDDK's own number of buffers.
const PER_SESSION: usize = 4;

/// How a disk is read.
#[derive(Clone, Debug, Default)]
pub struct VddkOptions {
    /// How long a failure is tried again.
    pub retry: Retry,
    /// Counts what is tried again.
    pub retried: Arc<AtomicU64>,
    /// Sessions, if the address does not say.
    pub sessions: Option<usize>,
}

/// A virtual disk. See the [module](self).
#[derive(Debug)]
pub struct VddkSource {
    address: VddkAddress,
    password: Secret,
    options: VddkOptions,
    host: Arc<Host>,
    size: u64,
    server: Mutex<Arc<Server>>,
    /// One at a time starts a server.
    starting: tokio::sync::Mutex<()>,
    /// No request is longer than this, in bytes.
    longest: AtomicU32,
}

impl VddkSource {
    /// Starts nbdkit and opens the disk.
    ///
    /// # Errors
    /// There is no nbdkit with a vddk plugin of 1.42 or later or no VDDK; or the host cannot be
    /// reached, lets nobody in, or has no such disk. The line has VDDK's own reason.
    pub async fn open(address: VddkAddress, options: VddkOptions) -> Result<Self> {
        let password = address.password.read()?;
        server::check_plugin(&address).await?;
        let host = Host::of(&address.host);
        let sessions = address.sessions.or(options.sessions).unwrap_or(SESSIONS);
        let server = Server::start(&address, &password, &host, sessions).await?;
        Ok(Self {
            size: server.size(),
            address,
            password,
            options: VddkOptions {
                sessions: Some(sessions),
                ..options
            },
            host,
            server: Mutex::new(Arc::new(server)),
            starting: tokio::sync::Mutex::default(),
            longest: AtomicU32::new(LONGEST),
        })
    }

    fn now(&self) -> Arc<Server> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.clone()
    }

    /// A server that runs: the one that there is, or its successor.
    async fn running(&self) -> Result<Arc<Server>> {
        let server = self.now();
        if server.is_running() {
            return Ok(server);
        }
        let _alone = self.starting.lock().await;
        let server = self.now();
        if server.is_running() {
            return Ok(server);
        }
        tracing::warn!("{}; starting it again", server.obituary());
        // Its sessions are the host's again before new ones are asked for.
        server.release();
        let sessions = self.options.sessions.unwrap_or(SESSIONS);
        let next = Server::start(&self.address, &self.password, &self.host, sessions).await?;
        if next.size() != self.size {
            let what = format!(
                "{} has {} bytes now and had {}",
                self.address,
                next.size(),
                self.size
            );
            return Err(Error::new(Kind::Mismatch, what));
        }
        let next = Arc::new(next);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = next.clone();
        Ok(next)
    }

    /// One attempt at a read. `buffer` is the caller's, the first time.
    async fn attempt(
        &self,
        server: &Server,
        offset: u64,
        buffer: Buffer,
    ) -> Result<Buffer, Trouble> {
        let longest = self.longest.load(Ordering::Relaxed);
        let step = usize::try_from(longest).unwrap_or(usize::MAX);
        if buffer.len() <= step {
            return server.read(offset, buffer).await;
        }
        let (mut whole, mut at) = (buffer, offset);
        for part in whole.chunks_mut(step) {
            let read = server.read(at, Buffer::unbudgeted(part.len())).await?;
            part.copy_from_slice(&read);
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        Ok(whole)
    }

    /// Makes requests shorter from now on, if they can be; `false` if this was the shortest.
    fn shorten(&self, length: usize) -> bool {
        let tried = u32::try_from(length).unwrap_or(LONGEST).min(LONGEST);
        let shorter = (tried / 2).next_power_of_two().max(SHORTEST);
        if tried <= SHORTEST {
            return false;
        }
        let before = self.longest.fetch_min(shorter, Ordering::Relaxed);
        if shorter < before {
            tracing::warn!("the host has no memory for requests of {tried} bytes; using {shorter}");
        }
        true
    }
}

#[async_trait]
impl Source for VddkSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            align: 512,
            preferred: 1 << 20,
            max: LONGEST,
            in_flight: self.now().sessions().saturating_mul(PER_SESSION),
        }
    }

    fn identity(&self) -> Identity {
        let snapshot = self.address.snapshot.as_deref().unwrap_or("now");
        Identity {
            id: format!("{}@{snapshot}", self.address.disk()),
            size: self.size,
            name: self.address.to_string(),
        }
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let length = buffer.len();
        let range = ByteRange::at(offset, u64::try_from(length).unwrap_or(u64::MAX));
        check_bounds("read", &self.address.to_string(), range, self.size)?;
        let _room = self.host.room(length).await?;
        let mut buffer = Some(buffer);
        let (mut attempts, mut since) = (0u32, None);
        loop {
            // A buffer that went into a failed request is gone; for once, one without a budget.
            let next = buffer.take().unwrap_or_else(|| Buffer::unbudgeted(length));
            let failed = match self.running().await {
                Err(error) => error,
                Ok(server) => match self.attempt(&server, offset, next).await {
                    Ok(buffer) => return Ok(buffer),
                    Err(Trouble::TooLong(length)) if self.shorten(length) => continue,
                    Err(trouble) => server.explain(trouble).await,
                },
            };
            let error = failed.context(format!("read {}", self.address)).at(offset);
            let since = *since.get_or_insert_with(Instant::now);
            let pause = self.options.retry.pause(attempts, since.elapsed());
            let Some(pause) = pause.filter(|_| may_pass(error.kind())) else {
                return Err(error);
            };
            attempts = attempts.saturating_add(1);
            self.options.retried.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("{}; trying again in {} ms", error.line(), pause.as_millis());
            sleep(pause).await;
        }
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        // Not worth a new server: whoever reads next starts one.
        self.now().extents(range).await
    }

    fn served_by(&self) -> Option<ServedBy> {
        Some(self.now().served_by())
    }
}

/// A read error of VDDK may be a path that failed over, or a host that is busy.
fn may_pass(kind: Kind) -> bool {
    matches!(kind, Kind::Transient)
}
