//! vSphere: the few calls that a migration needs, 6.5 to 9, vCenter or a single ESXi host.
//!
//! ```text
//!  locator.rs    vsphere://USER@HOST/VM, as a user writes it                 pure
//!  limits.rs     how long calls may take                                     pure
//!  http.rs       one POST: bounded answers
//!  soap/         requests to text, text to values and typed faults           pure
//!  session.rs    logged in, kept alive, logged in again once, logged out always
//!  farewell.rs   the last logout of a session that was given up
//!  objects.rs    properties of an object, and tasks waited for
//!  inventory.rs  a VM and its disks, found and identified
//!  disk.rs       what a virtual disk is, out of a device list                pure
//!  changes.rs    QueryChangedDiskAreas, page by page to the end              pure but one call
//!  snapshots.rs  snapshots with our tag: made, found, removed, merged
//!  tree.rs       whose snapshot is which                                     pure
//!  tracking.rs   changed block tracking: looked at, and turned on
//!  power.rs      a VM that is shut down, and confirmed to be
//! ```
//!
//! Parsers read what a peer sent, so every number from it is checked and every text bounded.
//! Not here: reading a disk (`source`), and what a migration does with all this (`changes`,
//! `migrate`).

pub mod changes;
pub mod disk;
mod farewell;
mod http;
pub mod inventory;
pub mod limits;
pub mod locator;
pub mod objects;
pub mod power;
pub mod session;
pub mod snapshots;
pub mod soap;
pub mod tracking;
pub mod tree;
