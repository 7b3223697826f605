//! Runs the steps of a pass with bounded memory and bounded in-flight requests.
//!
//! One task drives all requests of a job as a set of futures: steps go out in order, come back in
//! any order, and from time to time a barrier makes what came back durable and records it. Reads
//! of some requests overlap writes of others; that is where the speed comes from.
//!
//! ```text
//!  run.rs       the loop: dispatch, settle, barrier, stop
//!  request.rs   one request: read, digest, find zeroes, write
//!  known.rs     what the target holds already
//!  pieces.rs    data and zeroes within a buffer           pure
//!  rate.rs      bytes per second, shared by jobs
//!  team.rs      request slots, so that jobs end together   pure
//!  depth.rs     how much a source should be asked for   pure, but told by requests
//!  flight.rs    what is under way, and room for more    pure
//!  pace.rs      when a barrier is due, and the end near   pure
//!  sizer.rs     how long a request should be              pure
//!  ledger.rs    who records what is done
//!  stop.rs      a signal asks for an orderly end
//! ```

pub mod counters;
mod depth;
mod flight;
mod known;
mod ledger;
mod pace;
mod pieces;
mod rate;
mod request;
mod run;
mod sizer;
mod stop;
mod team;

pub use known::Known;
pub use ledger::{Commit, Ledger};
pub use pace::ends_soon;
pub use pieces::{Piece, pieces};
pub use rate::RateLimit;
pub use run::{Planned, Setup, run};
pub use sizer::RequestSize;
pub use stop::{Stop, Stopper};
pub use team::{Allowance, Share, Team, shares};
