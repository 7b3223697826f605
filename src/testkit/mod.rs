//! Endpoints for tests: they remember, fail, stall and lie, and lose what was not flushed.
//!
//! ```text
//!  store.rs        sparse bytes in memory
//!  memory.rs       MemSource, MemTarget: sound endpoints that record calls
//!  fault.rs        FaultySource, FaultyTarget: any endpoint, with faults on chosen calls
//!  image.rs        what the contract of Image says; images in memory
//!  vdi.rs vhd.rs vhdx.rs  images made by hand
//!  ova.rs          tar files and OVF descriptors made by hand
//!  vmdk.rs         VMDK extents made by hand
//!  promises/       what parsers promise for any bytes
//!  stream.rs       MemStream: what comes once, in order
//!  tracker.rs      MemTracker: tells changes, and keeps some to itself
//!  conformance.rs  what the contracts of Source and Target say, tried on any endpoint
//!  forward.rs      the same for a Target that is written once, in order, and not read back
//! ```
//!
//! Behind the feature `testkit`: for tests, benches and fuzz targets, never in a release.

pub mod conformance;
pub mod fault;
pub mod forward;
pub mod image;
pub mod memory;
pub mod ova;
pub mod promises;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod store;
mod stream;
mod tracker;

pub use conformance::{check_source, check_target};
pub use fault::{Fault, Faults, FaultySource, FaultyTarget, Op};
pub use forward::check_forward;
pub use image::{MemFiles, check_image};
pub use memory::{Call, MemSource, MemTarget};
pub use stream::MemStream;
pub use tracker::MemTracker;
