//! `diskferry migrate` against a running storage daemon whose disks are written all the while.
//!
//! ```text
//!  stage.rs     the VM, its writers, the targets, the plan
//!  whole.rs     from the first pass to the certificate; steering on the way
//!  kills.rs     killed at any moment, again and again
//!  trouble.rs   sockets lost, targets full, disks that are not those of the plan
//!  share.rs     one rate for all disks, by the clock
//!  trust.rs     trackers that leave out changes, or were reset
//!  network.rs   ways that are cut: to the disks, to QMP, to a target
//!  faults.rs    servers that start anew, targets that are full or slow, clocks that are set
//!  commanded.rs  bitmaps that somebody else prepares, behind a command
//!  machine.rs   a real guest, moved to a LUN and a namespace, where it boots again
//!  converge.rs  writers below, near and above what gets through
//! ```

mod commanded;
mod converge;
mod faults;
mod kills;
mod machine;
mod network;
mod share;
mod stage;
mod trouble;
mod trust;
mod whole;

use stage::{Stage, until};
