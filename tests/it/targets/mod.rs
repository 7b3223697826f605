//! Local targets against real loop devices, file systems and pipes.
//!
//! ```text
//!  block.rs      the contract on devices, ways to zero, rights, devices that fail
//!  preflight.rs  which devices are refused, and that nothing was changed
//!  file.rs       the contract on files, partial files, full file systems
//!  stream.rs     pipes
//! ```

mod block;
mod file;
mod preflight;
mod stream;

use crate::rig::LoopDevice;
use diskferry::buffer::Buffer;
use diskferry::target::block::{BlockOptions, BlockTarget};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const MIB_LEN: usize = 1 << 20;
pub(super) const DEVICE: u64 = 10 * MIB;
/// A disk that ends in the middle of everything.
pub(super) const ODD: u64 = 4 * MIB + 4096 + 1000;

pub(super) fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

pub(super) fn filled(byte: u8, bytes: u64) -> Vec<u8> {
    vec![byte; length(bytes)]
}

pub(super) fn empty(bytes: u64) -> Buffer {
    Buffer::unbudgeted(length(bytes))
}

pub(super) fn room() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[track_caller]
pub(super) fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("start {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// A file system that is gone when dropped.
pub(crate) struct Mounted(TempDir);

impl Mounted {
    #[track_caller]
    pub(crate) fn new(args: &[&str]) -> Self {
        let dir = room();
        let point = dir.path().to_str().unwrap();
        sh("mount", &[args, &[point]].concat());
        Self(dir)
    }

    pub(crate) fn tmpfs(size: u64) -> Self {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

pub(super) async fn open(device: &LoopDevice, options: BlockOptions) -> BlockTarget {
    BlockTarget::open(device.path(), options).await.unwrap()
}
