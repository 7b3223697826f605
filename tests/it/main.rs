//! Tests of the whole program against real peers: one binary, so that it is linked once.
//!
//! A peer that is missing fails the test that needs it; `tests/run peers` installs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test crate: a panic is how a test fails"
)]

mod alike;
mod badinput;
mod badjournal;
mod badtarget;
mod certificate;
mod cli;
mod ending;
mod engine;
mod delta;
mod depth;
mod digest;
mod demo;
mod faults;
mod formats;
mod issued;
mod jobs;
mod lost;
mod migrate;
mod nvme;
mod pod;
mod nbd_client;
mod nbdcopy;
mod nbd_server;
mod importer;
mod importer_lost;
mod importer_pod;
mod importer_table;
mod powercut;
mod qcow2;
mod qmp;
mod resume;
mod rig;
mod same;
mod scratch;
mod scripts;
mod sources;
mod stopped;
mod streams;
mod targets;
mod vddk;
mod vhd_write;
mod vhdx_write;
mod vm;
mod vmdk_write;
mod vmware;
mod vsphere;
mod warm;
mod web;
mod wrapped;
