//! The rig: real peers and real block devices, each held by a guard that stops it when dropped.
//!
//! ```text
//!  room.rs     a directory for one test, and the program run from it
//!  disk.rs     disks with content that a seed determines, and byte comparison
//!  server.rs   a child process that dies with its test; nbdkit, qemu-nbd
//!  qsd.rs      qemu-storage-daemon: a running disk with dirty bitmaps, and its guest
//!  emulator.rs QEMU with several disks and nobody in it, and a way to its QMP socket that is cut
//!  vm.rs       a virtual machine that writes, and the check of what arrived; diary.rs is what it
//!              writes, machine.rs and initramfs.rs are how it boots
//!  nvme.rs     a host with an NVMe/TCP namespace, in a virtual machine, and the program run there
//!  vmware.rs   a vCenter with changed block tracking, and VDDK behind nbdkit's plugin
//!  slow.rs     a vCenter that is slow, or falls silent
//!  cut.rs      a network that is cut, stalled, delayed and mended
//!  limits.rs   who a pod runs as, and what it may have
//!  web.rs      nginx with a folder of images
//!  registry.rs a container registry, and images in it
//!  store.rs    S3 and Google Cloud Storage, as others stand in for them
//!  block.rs    loop devices, and a LUN behind a real iSCSI target
//! ```
//!
//! Servers listen on unix sockets or loopback only. Nothing here is a mock.

#![allow(
    dead_code,
    reason = "a toolbox: not every tool is in use at every time"
)]
#![allow(unused_imports, reason = "likewise")]

mod block;
mod cut;
pub(crate) mod diary;
mod disk;
mod emulator;
mod initramfs;
mod limits;
mod machine;
mod nvme;
mod qsd;
mod registry;
mod room;
mod server;
mod slow;
mod store;
mod tests;
mod vm;
mod vmware;
mod web;

pub(crate) use block::{IscsiLun, LoopDevice};
pub(crate) use cut::{Proxy, To};
pub(crate) use disk::{
    Rng, assert_same_bytes, first_difference, random_disk, scrambled_disk, sparse_disk,
};
pub(crate) use emulator::{Emulator, Gate, SmallDisk};
pub(crate) use initramfs::{Initramfs, Kernel};
pub(crate) use limits::{Limits, give_to_pod};
pub(crate) use machine::Machine;
pub(crate) use nvme::{Equipment, GATEWAY, NAMESPACE, NvmeHost, Told};
pub(crate) use qsd::{Frozen, Guest, Qsd};
pub(crate) use registry::{PULLER, PULLER_SECRET, Registry};
pub(crate) use room::{Outcome, Room, Running};
pub(crate) use server::{Nbdkit, QemuNbd, Server, free_port, run, socket_dir, uri};
pub(crate) use slow::{How, SlowVcenter};
pub(crate) use store::{ObjectStore, S3_KEY, S3_SECRET};
pub(crate) use vm::{Habits, Vm, address};
pub(crate) use vmware::{PASSWORD, Taken, USER, Vcenter, VmDisk, words_of};
pub(crate) use web::{Served, Web};
