//! HTTP/1.1 as a client: connections, trust, requests and what answers say.
//!
//! ```text
//!  trust.rs    whose certificate is believed
//!  connect.rs  a connection to one server: straight or through a proxy, with TLS or without
//!  client.rs   connections that are kept, one request at a time each; redirects
//!  reply.rs    an answer whose body comes piece by piece
//!  answer.rs   what the head of an answer says of an object and its parts     pure
//! ```
//!
//! Nothing is retried here: only the caller knows what may be done twice. Not here: HTTP/2, cookies,
//! content codings, which would hide how long an object is.

pub mod answer;
pub mod client;
pub mod connect;
mod reply;
pub mod trust;

pub use reply::Reply;

use crate::error::{Error, Kind, Result};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// What we call ourselves.
pub const AGENT: &str = concat!("diskferry/", env!("CARGO_PKG_VERSION"));

/// `doing`, unless it takes longer than `patience`.
///
/// # Errors
/// It does, or fails by itself.
pub(crate) async fn within<T>(
    patience: Duration,
    what: &str,
    authority: &str,
    doing: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(patience, doing).await {
        Ok(done) => done,
        Err(_) => {
            let seconds = patience.as_secs();
            let what = format!("wait for {what} from {authority}: nothing for {seconds} s");
            Err(Error::new(Kind::Transient, what))
        }
    }
}
