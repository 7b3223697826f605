//! NBD, both halves: a client with many requests in flight, and a server.
//!
//! Follows the [specification]. What is not spoken: oldstyle negotiation and `EXPORT_NAME`
//! without fixed newstyle, both refused by name.
//!
//! ```text
//!  wire.rs     bytes as the specification draws them           no logic
//!  uri.rs      words to a server and an export                  pure
//!  handshake/  the client's half of negotiation                 pure
//!  export.rs   what a negotiation tells, checked                pure
//!  lie.rs      what a server must not do
//!  client/     one export over several connections
//!  tls.rs      certificates; who the server is
//!  child.rs    a server that is started for one job
//!  server/     exports disks to clients of any make
//! ```
//!
//! [specification]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

pub mod child;
pub mod client;
pub mod export;
pub mod handshake;
pub mod lie;
pub mod server;
pub mod tls;
pub mod uri;
pub mod wire;
