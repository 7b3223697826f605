//! diskferry moves virtual machine disks: a crash-safe, proof-carrying block copier that drains a
//! live disk onto a raw LUN.
//!
//! Modules in the order in which data flows; arrows point down only (`docs/architecture.md`).

pub mod cli;
pub mod demo;
pub mod kubernetes;
pub mod importer;
pub mod migrate;
pub mod job;
pub mod report;
pub mod changes;
pub mod pipeline;
pub mod journal;
pub mod source;
pub mod format;
pub mod target;
pub mod nbd;
pub mod http;
pub mod vsphere;

pub mod plan;
pub mod extent;
pub mod digest;
pub mod buffer;
pub mod endpoint;
pub mod address;
pub mod authority;
pub mod secret;
pub mod tls;
pub mod error;
pub mod sys;

#[cfg(feature = "testkit")]
pub mod testkit;
