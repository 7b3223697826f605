//! `diskferry migrate` against a running storage daemon whose disks are written all the while.
//!
//! ```text
//!  stage.rs     the VM, its writers, the targets, the plan
//!  whole.rs     from the first pass to the certificate; steering on the way
//!  kills.rs     killed at any moment, again and again
//!  trouble.rs   sockets lost, targets full, disks that are not those of the plan
//!  trust.rs     trackers that leave out changes, or were reset
//!  converge.rs  writers below, near and above what gets through
//! ```

mod converge;
mod kills;
mod stage;
mod trouble;
mod trust;
mod whole;

use stage::{Stage, until};
