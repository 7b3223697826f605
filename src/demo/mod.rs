//! The whole story on one machine with nothing to install: a disk that is written while it is
//! copied, passes over its changes, a crash in the middle, cutover, proof.
//!
//! The disk is served by the server of this crate, and the passes are run by executing this very
//! program as a user would. So what is shown is what a user gets.
//!
//! ```text
//!  disk.rs    LiveDisk: written, tracked and snapshotted at once
//!  view.rs    View: the disk as it was at one moment, served to a pass
//!  bitmap.rs  one bit per 64 KiB
//! ```

pub mod bitmap;
pub mod disk;
pub mod view;

pub use disk::LiveDisk;
pub use view::View;
