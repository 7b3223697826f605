//! What a job tells: events, for people or as JSON.
//!
//! ```text
//!  event.rs    what happens, as values           ticker.rs   a progress event twice a second
//!  human.rs    for people, on stderr             pace.rs     throughput and time left; pure
//!  json.rs     one object per line, on stdout    amount.rs   bytes and times in words; pure
//! ```
//!
//! A job knows only [`Reporter`]; which one it got, and where that writes, is up to the command.

mod amount;
mod event;
mod human;
mod json;
mod pace;
mod ticker;

pub use amount::{bytes, seconds};
pub use event::{Event, Reporter};
pub use human::{Human, Progress, Show};
pub use json::Json;
pub use pace::{Meter, Pace};
pub use ticker::Ticker;
