//! Which devices are refused, in what words, and that a refusal changes nothing.

use super::{DEVICE, Mounted, open, room, sh};
use crate::rig::LoopDevice;
use diskferry::error::Kind;
use diskferry::target::block::{BlockOptions, BlockTarget};
use diskferry::target::preflight::Intent;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Why the device is refused with these intentions.
async fn refusal(path: &Path, intent: Intent) -> String {
    let options = BlockOptions {
        intent,
        ..BlockOptions::default()
    };
    let error = BlockTarget::open(path, options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.line());
    assert!(error.line().contains(path.to_str().unwrap()), "{error}");
    error.line()
}

/// Even if what is on it may be lost.
async fn is_refused_as_mounted(device: &Path, mounted: &Mounted) {
    let overwrite = Intent {
        overwrite: true,
        ..Intent::default()
    };
    let line = refusal(device, overwrite).await;
    let point = format!("mounted on {}", mounted.path("").display());
    assert!(line.contains(point.trim_end_matches('/')), "{line}");
}

/// The partitions of a loop device, which outlive it unless they are taken away.
struct Partitions(String);

impl Partitions {
    #[track_caller]
    fn of(node: &str) -> Self {
        sh("partx", &["-a", node]);
        Self(node.to_owned())
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["-d", &self.0]).status();
    }
}

#[tokio::test]
async fn a_mounted_device_is_refused() {
    let device = LoopDevice::new(DEVICE, 512);
    let node = device.path().to_str().unwrap();
    sh("mkfs.ext4", &["-q", node]);
    let mounted = Mounted::new(&["-t", "ext4", node]);
    is_refused_as_mounted(device.path(), &mounted).await;
}

#[tokio::test]
async fn a_device_with_a_mounted_partition_is_refused() {
    let device = LoopDevice::new(DEVICE, 512);
    let node = device.path().to_str().unwrap();
    // One Linux partition from sector 2048 to the end.
    let mut table = [0; 512];
    table[446 + 4] = 0x83;
    table[446 + 8..][..4].copy_from_slice(&2048u32.to_le_bytes());
    let sectors = u32::try_from(DEVICE / 512 - 2048).unwrap();
    table[446 + 12..][..4].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(device.path(), table).unwrap();
    let partitions = Partitions::of(node);
    let partition = format!("{node}p1");
    sh("mkfs.ext4", &["-q", &partition]);
    let mounted = Mounted::new(&["-t", "ext4", &partition]);
    is_refused_as_mounted(device.path(), &mounted).await;
    drop(mounted);
    drop(partitions);
    let line = refusal(device.path(), Intent::default()).await;
    assert!(line.contains("holds a DOS partition table"), "{line}");
}

#[tokio::test]
async fn a_device_that_another_process_holds_is_refused() {
    let device = LoopDevice::new(DEVICE, 512);
    let holder = open(&device, BlockOptions::default()).await;
    let line = refusal(device.path(), Intent::default()).await;
    assert!(line.contains("in use"), "{line}");
    drop(holder);
    open(&device, BlockOptions::default()).await;
}

#[tokio::test]
async fn a_smaller_device_is_refused_with_both_sizes_and_an_equal_one_is_not() {
    let device = LoopDevice::new(DEVICE, 512);
    let need = |size| Intent {
        source_size: Some(size),
        ..Intent::default()
    };
    let line = refusal(device.path(), need(DEVICE + 1)).await;
    assert!(line.contains(&DEVICE.to_string()), "{line}");
    assert!(line.contains(&(DEVICE + 1).to_string()), "{line}");
    let options = BlockOptions {
        intent: need(DEVICE),
        ..BlockOptions::default()
    };
    open(&device, options).await;
}

#[tokio::test]
async fn a_read_only_device_is_refused() {
    let device = LoopDevice::new(DEVICE, 512);
    let node = device.path().to_str().unwrap();
    sh("blockdev", &["--setro", node]);
    let line = refusal(device.path(), Intent::default()).await;
    // A loop device stays read-only when it gets another file.
    sh("blockdev", &["--setrw", node]);
    assert!(line.contains("read-only"), "{line}");
}

#[tokio::test]
async fn a_file_is_not_a_block_device() {
    let dir = room();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let line = refusal(&path, Intent::default()).await;
    assert!(line.contains("not a block device"), "{line}");
    let gone = BlockTarget::open(&dir.path().join("gone"), BlockOptions::default()).await;
    assert!(gone.unwrap_err().line().contains("No such file"));
}

#[tokio::test]
async fn a_disk_with_a_file_system_needs_leave_to_be_overwritten() {
    for (program, args, name) in [
        ("mkfs.ext4", &["-q"][..], "ext file system"),
        ("mkswap", &[], "swap space"),
    ] {
        let device = LoopDevice::new(DEVICE, 4096);
        sh(
            program,
            &[args, &[device.path().to_str().unwrap()]].concat(),
        );
        let before = fs::read(device.backing()).unwrap();
        let line = refusal(device.path(), Intent::default()).await;
        assert!(
            line.contains(name) && line.contains("--overwrite"),
            "{line}"
        );
        assert!(
            fs::read(device.backing()).unwrap() == before,
            "something was written"
        );
        for intent in [
            Intent {
                overwrite: true,
                ..Intent::default()
            },
            Intent {
                resuming: true,
                ..Intent::default()
            },
        ] {
            open(
                &device,
                BlockOptions {
                    intent,
                    ..BlockOptions::default()
                },
            )
            .await;
        }
    }
}
