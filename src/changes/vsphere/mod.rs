//! What changes on the disks of a VM in vSphere.
//!
//! ```text
//!  tracker.rs   changes of one disk up to a snapshot, by changed block tracking
//!  written.rs   the holes of one disk of a snapshot, by the same
//!  guest.rs     a VM that is migrated: snapshots are its points
//!  memory.rs    change ids, durable before the snapshot that they belong to is removed
//!  judge.rs     whether changes since a point can be believed                   pure
//! ```

mod guest;
mod judge;
mod memory;
mod tracker;
mod written;

pub use guest::{Options, VsphereGuest};
pub use judge::{lost, unbelieved};
pub use tracker::Cbt;
pub use written::Written;
