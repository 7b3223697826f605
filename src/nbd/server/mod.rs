//! An NBD server inside the process: several exports by name, several connections to each.
//!
//! Serves the demo, `diskferry serve`, and tests. Listens on a Unix socket or on the loopback
//! device only. What it does not do: users and rights beyond TLS client certificates, `CACHE`,
//! resizing.
//!
//! ```text
//!  mod.rs         Server: listen, count clients, stop
//!  connection.rs  one client: handshake, TLS, transmission        (waits)
//!  negotiate.rs   the handshake, bytes in → bytes out             (pure)
//!  option.rs      the data of options                             (pure)
//!  menu.rs        what a client can choose from                   (values)
//!  session.rs     requests to an Export, replies back             (waits)
//!  request.rs     which requests are granted                      (pure)
//!  reply.rs       replies as bytes                                (pure)
//!  export.rs      trait Export: a disk that is served
//! ```
//!
//! A hostile client gets errors or is sent away. It cannot make the server panic, keep more memory
//! than [`Settings::memory`] and a few small replies, or stop other clients being served.

#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

mod connection;
pub mod export;
mod listen;
pub mod menu;
pub mod negotiate;
mod option;
mod reply;
pub mod request;
mod session;

pub use export::{BASE_ALLOCATION, BlockSizes, Export, Status, ZeroHow};
pub use listen::{Listen, Place};

use crate::error::{Error, Kind, Result};
use crate::nbd::wire::MAX_STRING;
use listen::{Listener, Socket};
use menu::{Menu, Offer, Tls};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// The longest read or write, in bytes.
pub const MAX_REQUEST: u32 = 32 << 20;

/// The most extents of one context in one reply.
const MAX_EXTENTS: usize = 16 << 10;

/// How long clients may take to fetch the replies that are due to them when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Rest after a connection could not be accepted, for want of file descriptors mostly.
const BREATH: Duration = Duration::from_millis(50);

/// Limits and TLS of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of data in the requests of one connection.
    pub memory: usize,
    /// Requests under way on one connection.
    pub requests: usize,
    /// Connections at a time; more have to wait.
    pub connections: usize,
    /// Certificates, if TLS is spoken.
    pub tls: Option<TlsSetup>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            requests: 64,
            connections: 128,
            tls: None,
        }
    }
}

/// How TLS is spoken.
#[derive(Clone, Debug)]
pub struct TlsSetup {
    /// Certificate, key, and which clients are let in.
    pub config: Arc<rustls::ServerConfig>,
    /// Whether clients that do not ask for TLS are sent away.
    pub required: bool,
}

/// An export and its name.
type Named = (String, Arc<dyn Export>);

/// What all connections share.
#[derive(Debug)]
struct Shared {
    exports: Mutex<Vec<Named>>,
    settings: Settings,
}

impl Shared {
    /// What a client that comes now can choose from.
    fn menu(&self) -> (Menu, Vec<Arc<dyn Export>>) {
        let named = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        let offers = named
            .iter()
            .map(|(name, export)| Offer::of(name, &**export));
        let tls = match &self.settings.tls {
            None => Tls::Unavailable,
            Some(setup) if setup.required => Tls::Required,
            Some(_) => Tls::Offered,
        };
        let menu = Menu {
            offers: offers.collect(),
            tls,
        };
        (
            menu,
            named.iter().map(|(_, export)| export.clone()).collect(),
        )
    }
}

/// How many clients there are and were.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Census {
    now: usize,
    ever: u64,
}

/// A running server. Dropping it cuts off its clients; [`stop`](Self::stop) lets them finish.
pub struct Server {
    shared: Arc<Shared>,
    place: Place,
    census: watch::Receiver<Census>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts to listen. Clients that come before an export is there find none.
    ///
    /// # Errors
    /// The address is in use, or not one of this machine alone.
    pub async fn start(listen: &Listen, settings: Settings) -> Result<Self> {
        let (listener, place) = Listener::bind(listen).await?;
        let (count, census) = watch::channel(Census::default());
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            exports: Mutex::default(),
            settings,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone(), count, stopping));
        Ok(Self {
            shared,
            place,
            census,
            stop,
            accepting,
        })
    }

    /// Serves `export` under `name` to clients that come from now on. The first one is also the
    /// default export. An export that had the name is replaced, for those who come.
    ///
    /// # Errors
    /// The name, the description or a context is longer than the protocol allows.
    pub fn add(&self, name: &str, export: Arc<dyn Export>) -> Result<()> {
        let offer = Offer::of(name, &*export);
        let too_long = |text: &str| u32::try_from(text.len()).map_or(true, |len| len > MAX_STRING);
        let texts = [&offer.name, &offer.description];
        if let Some(text) = texts
            .into_iter()
            .chain(&offer.contexts)
            .find(|t| too_long(t))
        {
            let start: String = text.chars().take(32).collect();
            let doing = format!("serve {start:?}…: longer than the {MAX_STRING} bytes of NBD");
            return Err(Error::new(Kind::Usage, doing));
        }
        let mut named = self.exports();
        match named.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = export,
            None => named.push((name.to_owned(), export)),
        }
        Ok(())
    }

    /// Takes an export away from clients that come from now on; those that use it keep it.
    pub fn remove(&self, name: &str) {
        self.exports().retain(|(known, _)| known != name);
    }

    /// Where it listens.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns when at least one client was there and the last one has left.
    pub async fn deserted(&self) {
        let empty = |census: &Census| census.ever > 0 && census.now == 0;
        // An error means that nobody is let in any more.
        let _ = self.census.clone().wait_for(empty).await;
    }

    /// Lets nobody in any more, finishes the requests that were begun, and ends.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let _ = (&mut self.accepting).await;
    }

    fn exports(&self) -> std::sync::MutexGuard<'_, Vec<Named>> {
        let exports = &self.shared.exports;
        exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The set of connections lives in this task and ends with it.
        self.accepting.abort();
        self.place.remove();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({:?})", self.place)
    }
}

/// Lets clients in until it is told to stop, then sees them out.
async fn accept(
    listener: Listener,
    shared: Arc<Shared>,
    count: watch::Sender<Census>,
    stop: watch::Receiver<bool>,
) {
    let mut clients = JoinSet::new();
    let mut stopping = pin!(stopped(stop.clone()));
    loop {
        let full = clients.len() >= shared.settings.connections.max(1);
        tokio::select! {
            () = &mut stopping => break,
            _ = clients.join_next(), if !clients.is_empty() => {
                count.send_modify(|census| census.now = clients.len());
            }
            socket = listener.accept(), if !full => match socket {
                Ok(socket) => {
                    clients.spawn(welcome(socket, shared.clone(), stop.clone()));
                    count.send_modify(|census| {
                        census.now = clients.len();
                        census.ever = census.ever.saturating_add(1);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an NBD client could not be let in");
                    sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    let farewell = async { while clients.join_next().await.is_some() {} };
    if timeout(GRACE, farewell).await.is_err() {
        tracing::warn!("NBD clients that did not take their replies were cut off");
    }
}

/// Returns when the server stops or is gone.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn welcome(socket: Socket, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let end = match socket {
        Socket::Unix(stream) => connection::serve(stream, shared, stop).await,
        Socket::Tcp(stream) => connection::serve(stream, shared, stop).await,
    };
    if let Err(error) = end {
        tracing::debug!(
            error = error.line(),
            "the connection of an NBD client ended"
        );
    }
}
