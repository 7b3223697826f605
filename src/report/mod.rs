//! What a job tells: events, for people or as JSON.

mod event;

pub use event::{Event, Reporter};
