//! What a job tells: events, for people or as JSON.
//!
//! ```text
//!  event.rs    what happens, as values           ticker.rs   a progress event twice a second
//!  human.rs    for people, on stderr             pace.rs     throughput and time left; pure
//!  disk.rs     those of one disk among several
//!  story.rs    those of a migration, in sentences; pure
//!  flight.rs   the last seconds of the log
//!  exposition.rs  a page of metrics for Prometheus
//!  json.rs     one object per line, on stdout    amount.rs   bytes and times in words; pure
//! ```
//!
//! A job knows only [`Reporter`]; which one it got, and where that writes, is up to the command.

mod amount;
mod disk;
mod event;
mod exposition;
mod flight;
mod human;
mod json;
mod pace;
mod story;
mod ticker;

pub use amount::{bytes, parse_bytes, parse_ppm, seconds};
pub use disk::OfDisk;
pub use event::{Event, Reporter};
pub use exposition::serve_metrics;
pub use flight::Flight;
pub use human::{Human, Progress, Show};
pub use json::Json;
pub use pace::{Meter, Pace};
pub use ticker::Ticker;
