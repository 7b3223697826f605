//! NBD, both halves: a client with many requests in flight, and a server.
//!
//! Follows the [specification]. What is not spoken: oldstyle negotiation and `EXPORT_NAME`
//! without fixed newstyle, both refused by name.
//!
//! ```text
//!  wire.rs   bytes as the specification draws them    no logic
//!  server/   exports disks to clients of any make
//! ```
//!
//! [specification]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

pub mod server;
pub mod wire;
