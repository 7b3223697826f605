//! Extents ∩ changes − done → steps. Pure: values in, values out.
//!
//! ```text
//!  window.rs     cuts a disk into windows, so that no whole-disk list ever exists
//!  steps.rs      one window: what is known of it → the ordered work in it
//!  ask.rs        where to ask the source what is zero
//!  runs.rs       runs of blocks that something is true of
//!  sample.rs     which blocks are looked at although nothing says that they changed
//!  frontier.rs   which steps are out, and up to where everything is done
//! ```

mod ask;
mod frontier;
mod runs;
mod sample;
mod steps;
mod window;

pub use ask::worth_asking;
pub use frontier::{Done, Frontier};
pub use runs::runs;
pub use sample::Sample;
pub use steps::{Step, steps};
pub use window::windows;

use crate::extent::ByteRange;

/// How a disk is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Steps start and end on multiples of this, save at the end of the disk: a unit that holds
    /// any data is read whole. The digest block, so that every digest is of a whole block.
    pub grain: u64,
    /// The planner looks at this much of the disk at a time; no step crosses a window.
    pub window: u64,
    /// Two changed ranges this close are read as one: cheaper than another round trip.
    pub coalesce: u64,
}

impl Shape {
    /// The whole disk.
    #[must_use]
    pub fn disk(&self) -> ByteRange {
        ByteRange::new(0, self.size)
    }
}
