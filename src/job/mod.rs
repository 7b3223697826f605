//! One disk, one pass: open, check, plan, copy, record, finalize, prove.
//!
//! ```text
//!  options.rs     what a user can ask for                   no I/O
//!  decide.rs      begin, continue, or nothing left to do    pure
//!  place.rs       which disk a target is, and where its journal lives
//!  open/          addresses to open endpoints
//!  web.rs         images on web servers
//!  recognize.rs   is this the disk that was copied before?
//!  alike.rs       is it the disk that this pass began with?
//!  feed.rs        asks source and tracker, and plans
//!  doubts.rs      does the tracker tell all?
//!  untracked.rs   a tracker that is no use, told to a caller that knows what to do instead
//!  claims.rs      says durably which blocks are about to be written
//!  learn.rs       what a target holds that somebody else copied
//!  ledger.rs      records progress in journal and manifest
//!  sectors.rs     will the guest find its partitions?
//!  prepare.rs     opens both ends and the journal, and decides
//!  copy.rs        one pass, from its first record to its last
//!  sweep.rs       what feeds the pipeline in a pass, and what it runs on
//!  persist.rs     the same again, when what failed may pass
//!  patience.rs    for how long                             pure
//!  incoming.rs    sources that are read once, in order
//!  stream.rs      the same for a stream
//!  throttle.rs    what is read so keeps to the limits on bytes per second, and so does a disk that is
//!                 read and not copied
//!  forward.rs     the same for a VMDK that comes as a stream
//!  laid.rs        the same into a new image, which must know the size
//!  prove.rs       the target, read back, against its manifest
//!  verify.rs      a proof by itself
//!  standing.rs    what a journal says of a target, and that nobody goes on with it
//!  certificate/   what was moved and how that is known, in a file
//!  serve.rs       a source over NBD
//! ```

mod alike;
pub mod certificate;
mod claims;
mod context;
mod copy;
mod decide;
mod doubts;
mod feed;
mod forward;
mod learn;
mod incoming;
mod laid;
mod ledger;
mod open;
pub mod options;
mod place;
mod prove;
mod prepare;
mod patience;
mod persist;
mod recognize;
mod sectors;
pub mod serve;
mod standing;
mod stream;
mod sweep;
mod throttle;
mod untracked;
mod verify;
mod web;

#[cfg(test)]
mod tests;

pub use context::{Context, Shared};
pub use copy::Outcome;
pub use incoming::in_order;
pub use open::{Disk, any_source, host_of};
pub use persist::copy;
pub use place::{is_journaled, state_directory};
pub use prepare::size;
pub use prove::Scope;
pub use standing::{Standing, label_incomplete, standing};
pub use stream::{Landing, TooLong, copy as copy_stream};
pub use throttle::Throttle;
pub use untracked::Untracked;
pub use verify::{VerifyOptions, prove, verify};
pub use web::unpacked;
