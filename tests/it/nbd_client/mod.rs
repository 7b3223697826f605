//! The NBD client against servers that others wrote, and against one that lies.
//!
//! ```text
//!  peers.rs    what honest servers say is understood, whoever wrote them
//!  limits.rs   block sizes, odd sizes, what a server lacks
//!  parts.rs    long reads in parts
//!  flags.rs    durable writes, zeroes that keep their space or must be fast
//!  faults.rs   errors, silence, restarts: what is tried again and what is not
//!  halves.rs   our own server
//!  child.rs    servers that are started for one job
//!  lies.rs     a server that breaks the protocol on purpose
//!  tls.rs      certificates good, bad and missing
//! ```

mod child;
mod faults;
mod flags;
mod halves;
mod lies;
mod limits;
mod parts;
mod peers;
mod tls;

use diskferry::buffer::Buffer;
use diskferry::error::Result;
use diskferry::nbd::client::{Client, Endpoint, Options, Retry};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Nothing is tried again.
fn once() -> Options {
    Options {
        retry: Retry::never(),
        ..Options::default()
    }
}

/// Tries again, quickly, for some seconds.
fn patient() -> Options {
    Options {
        retry: Retry {
            deadline: Duration::from_secs(10),
            first: Duration::from_millis(10),
            longest: Duration::from_millis(50),
        },
        ..Options::default()
    }
}

fn endpoint(uri: &str) -> Endpoint {
    Endpoint::Uri(uri.parse().expect("a URI"))
}

async fn connect(uri: &str, options: Options) -> Result<Client> {
    Client::connect(endpoint(uri), options).await
}

async fn read(client: &Client, offset: u64, length: usize) -> Vec<u8> {
    client
        .read(offset, Buffer::unbudgeted(length))
        .await
        .expect("a read")
        .to_vec()
}

/// What the pattern plugin of nbdkit holds: each eight bytes are their own offset.
fn assert_pattern(bytes: &[u8], offset: u64) {
    for (word, at) in bytes.chunks_exact(8).zip((offset..).step_by(8)) {
        assert_eq!(word, at.to_be_bytes(), "at {at:#x}");
    }
}
