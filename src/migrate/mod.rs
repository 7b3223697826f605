//! Warm migration of a VM: passes over all its disks until cutover, then the proof.
//!
//! ```text
//!  phase/           what may happen next, crash-safe by construction: a pure state machine
//! ```
//!
//! Everything here is pure: no I/O and no clock. What is asked of the VM is
//! [`Guest`](crate::changes::guest::Guest).

pub mod phase;
