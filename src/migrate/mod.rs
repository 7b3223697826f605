//! Warm migration of a VM: passes over all its disks until cutover, then the proof.
//!
//! ```text
//!  plan/         what a user wants: the plan file → a plan that makes sense
//!  guests/       kinds of guests, by their names in a plan
//!  phase/        what may happen next, crash-safe by construction: a pure state machine
//!  forecast.rs   what the next pass and the outage will take          pure
//!  policy.rs     when a pass is due, when the VM may be made quiet    pure
//!  record.rs     what is remembered from one process to the next      pure
//!  store.rs      the job directory: what outlives a process
//!  claim.rs      targets that are this migration's, also between passes
//!  book.rs       the record in memory and on disk, always the same
//!  drive/        does what the machine says
//!  board.rs      live numbers          status.rs   what is shown of them and of the record; pure
//!  metrics.rs    the same for Prometheus
//!  control/      steering from outside, over a socket
//!  run.rs        all of it in one process
//!  preview.rs    what a plan would do
//!  command.rs    a command of the user: run, waited for, its output kept
//! ```
//!
//! What is asked of the VM is [`Guest`](crate::changes::guest::Guest).

mod board;
mod book;
mod claim;
mod command;
pub mod control;
mod drive;
pub mod forecast;
pub mod guests;
mod metrics;
pub mod phase;
pub mod plan;
pub mod policy;
pub mod preview;
pub mod record;
mod run;
pub mod status;
pub mod store;

pub use run::{RunOptions, record_wish, run};
