//! Addresses to open endpoints: what kind an address is of decides who opens it.
//!
//! ```text
//!  sources.rs   a disk that is read          one arm for each kind of address
//!  trackers.rs  and what tells its changes   one arm for each kind of baseline
//!  targets.rs   a disk that is written       one arm for each kind of address, or of image
//! ```
//!
//! Why these are no tables: `docs/decisions/0009-kinds-are-matched.md`.

mod sources;
mod targets;
mod trackers;

pub use sources::{Disk, any_source};
pub(super) use targets::{How, leaves_nothing, target};
pub(super) use trackers::{Opened, source};

use super::options::Tuning;
use crate::address::Address;
use crate::nbd::client::{Options as ClientOptions, Retry};
use crate::nbd::uri::{Place, Uri};
use crate::source::http;
use crate::source::vddk::VddkAddress;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// How a server is talked to.
pub(super) fn client_options(
    address: &Address,
    tuning: &Tuning,
    retried: Arc<AtomicU64>,
) -> ClientOptions {
    ClientOptions {
        connections: tuning
            .connections
            .unwrap_or_else(|| suitable_connections(address))
            .min(tuning.connections_at_most.unwrap_or(usize::MAX)),
        force_multi_conn: tuning.force_connections,
        // Who says how long a request is means it.
        cut_reads: tuning.request_size.is_none(),
        retry: Retry {
            deadline: tuning.retry,
            ..Retry::default()
        },
        retried,
        ..ClientOptions::default()
    }
}

/// One to a server on this machine, where more only make it switch between threads; several over
/// TCP, where each is a stream of its own, and to VDDK, where each is a session of its own.
fn suitable_connections(address: &Address) -> usize {
    let uri = match address {
        Address::Nbd(uri) => uri.parse::<Uri>().ok(),
        _ => None,
    };
    match uri.as_ref().map(Uri::place) {
        _ if matches!(address, Address::Vddk(_)) => 4,
        _ if matches!(address, Address::Http(_)) => http::CONNECTIONS,
        Some(Place::Tcp { .. }) => 4,
        _ => 1,
    }
}

/// The machine that serves a disk; `None` if it is this one.
#[must_use]
pub fn host_of(address: &Address) -> Option<String> {
    match address {
        Address::Nbd(uri) => match uri.parse::<Uri>().ok()?.place() {
            Place::Tcp { host, .. } => Some(host.clone()),
            Place::Unix(_) => None,
        },
        Address::Vddk(text) => Some(text.parse::<VddkAddress>().ok()?.host),
        _ => None,
    }
}

/// Whether what has this type is read and written in order only.
pub(super) fn is_stream_type(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}
