//! The contract on block devices, every way to zero them, without rights, and when they fail.

use super::{DEVICE, MIB, MIB_LEN, Mounted, ODD, empty, filled, open, sh};
use crate::rig::LoopDevice;
use diskferry::error::Kind;
use diskferry::extent::ByteRange;
use diskferry::target::block::{BlockOptions, BlockTarget};
use diskferry::target::preflight::Intent;
use diskferry::target::zeroing::Method;
use diskferry::target::{Target, Zeroing};
use diskferry::testkit::{Fault, Faults, FaultyTarget, MemTarget, Op, check_target};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

fn held_bytes(file: &Path) -> u64 {
    File::open(file).unwrap().sync_all().unwrap();
    fs::metadata(file).unwrap().blocks() * 512
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_device_keeps_the_contract_with_both_sector_sizes() {
    for sector in [512, 4096] {
        for page_cache in [false, true] {
            let device = LoopDevice::new(DEVICE, sector);
            for size in [DEVICE, ODD] {
                let options = BlockOptions {
                    page_cache,
                    intent: Intent {
                        overwrite: true,
                        ..Intent::default()
                    },
                    ..BlockOptions::default()
                };
                let target = open(&device, options).await;
                assert_eq!(target.is_direct(), !page_cache);
                assert_eq!(target.limits().align, sector);
                let verdict = check_target(&target, size).await;
                assert_eq!(verdict, Ok(()), "{sector} {page_cache} {size}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_zero_really_zeroes_with_both_sector_sizes() {
    let ways = [
        Method::PunchHole,
        Method::ZeroRange,
        Method::Zeroout,
        Method::Write,
    ];
    for sector in [512, 4096] {
        for only in ways {
            let device = LoopDevice::new(DEVICE, sector);
            let options = BlockOptions {
                zero_method: Some(only),
                ..BlockOptions::default()
            };
            let target = open(&device, options).await;
            assert_eq!(check_target(&target, ODD).await, Ok(()), "{only} {sector}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract_and_the_check_catches_what_does_not() {
    assert_eq!(check_target(&MemTarget::new(ODD), ODD).await, Ok(()));
    for op in [Op::Write, Op::Zero, Op::ReadBack] {
        let faults = Faults::default();
        faults.on(op, 2, Fault::Lie);
        let liar = FaultyTarget::new(MemTarget::new(ODD), faults);
        assert!(check_target(&liar, ODD).await.is_err(), "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unmapping_gives_space_back_and_allocating_keeps_it() {
    let device = LoopDevice::new(DEVICE, 4096);
    let target = open(&device, BlockOptions::default()).await;
    let whole = ByteRange::new(0, DEVICE);
    target.write(0, filled(7, DEVICE).into()).await.unwrap();
    target.flush().await.unwrap();
    assert!(held_bytes(device.backing()) >= DEVICE);
    target.zero(whole, Zeroing::Allocate).await.unwrap();
    assert!(held_bytes(device.backing()) >= DEVICE);
    target.zero(whole, Zeroing::Unmap).await.unwrap();
    assert_eq!(held_bytes(device.backing()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_runs_only_where_zeroes_were_asked_for_and_reports_what_it_saw() {
    let device = LoopDevice::new(DEVICE, 512);
    let target = open(&device, BlockOptions::default()).await;
    target.write(0, filled(9, DEVICE).into()).await.unwrap();
    target
        .zero(ByteRange::at(MIB, MIB - 512), Zeroing::Unmap)
        .await
        .unwrap();
    assert!(target.report().is_none(), "too small to try");
    let range = ByteRange::at(5 * MIB + 512, 3 * MIB);
    target.zero(range, Zeroing::Unmap).await.unwrap();
    let report = target.report().unwrap().clone();
    assert!(report.proves(Method::PunchHole) && !report.disproves(Method::Write));
    assert_eq!(report.logical_block, 512);
    assert!(report.discard_max_bytes.unwrap() > 0);
    let bytes = target.read_back(0, empty(DEVICE)).await.unwrap();
    for (at, byte) in (0u64..).zip(bytes.iter()) {
        let one = ByteRange::at(at, 1);
        let zeroed = range.covers(one) || ByteRange::at(MIB, MIB - 512).covers(one);
        assert_eq!(*byte == 0, zeroed, "byte {at:#x}");
    }
    drop(target);
    // What was found survives as JSON, and a device that has it is not probed again.
    let kept = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    let options = BlockOptions {
        probe: Some(kept),
        ..BlockOptions::default()
    };
    assert_eq!(open(&device, options).await.report(), Some(&report));
}

/// A loop device over tmpfs makes holes until it is asked for ZERO_RANGE, which the kernel then
/// takes as the end of both.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_does_not_take_away_what_it_proves() {
    let tmpfs = Mounted::new(&["-t", "tmpfs", "tmpfs"]);
    let backing = tmpfs.path("backing");
    fs::write(&backing, filled(0x5a, DEVICE)).unwrap();
    let device = LoopDevice::over(&backing, 512);
    let target = open(&device, BlockOptions::default()).await;
    let whole = ByteRange::new(0, DEVICE);
    assert!(
        target
            .probe(whole)
            .await
            .unwrap()
            .unwrap()
            .proves(Method::PunchHole)
    );
    target.zero(whole, Zeroing::Unmap).await.unwrap();
    target.flush().await.unwrap();
    assert_eq!(held_bytes(&backing), 0, "the device is not thin any more");
}

/// A loop device over ramfs knows neither discard nor write-zeroes.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_zero_is_zeroed_all_the_same() {
    let ramfs = Mounted::new(&["-t", "ramfs", "ramfs"]);
    let backing = ramfs.path("backing");
    fs::write(&backing, filled(0x5a, DEVICE)).unwrap();
    let device = LoopDevice::over(&backing, 4096);
    for forced in [Method::PunchHole, Method::Discard] {
        let options = BlockOptions {
            zero_method: Some(forced),
            ..BlockOptions::default()
        };
        let target = open(&device, options).await;
        let refused = target.zero(ByteRange::new(0, MIB), Zeroing::Unmap).await;
        assert!(refused.is_err(), "{forced}: else this test shows nothing");
    }
    let target = open(&device, BlockOptions::default()).await;
    let range = ByteRange::new(0, DEVICE - 4096);
    target.zero(range, Zeroing::Unmap).await.unwrap();
    let report = target.report().unwrap();
    assert!(!report.proves(Method::PunchHole) && !report.proves(Method::Discard));
    target.flush().await.unwrap();
    let bytes = fs::read(&backing).unwrap();
    let first = bytes.iter().position(|&byte| byte != 0).unwrap();
    assert_eq!(first as u64, range.end);
    assert!(bytes[first..].iter().all(|&byte| byte == 0x5a));
}

const UNPRIVILEGED: &str = "DISKFERRY_TEST_UNPRIVILEGED_DEVICE";

/// The importer pod: uid 107, no capabilities, no way to gain any, a device node that it owns.
#[test]
fn a_block_device_needs_no_capability() {
    let device = LoopDevice::new(DEVICE, 512);
    chown(device.path(), Some(107), Some(107)).unwrap();
    // Where this test runs from may be closed to others.
    let open_to_all = tempfile::tempdir().unwrap();
    fs::set_permissions(open_to_all.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = open_to_all.path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args([
            "--reuid=107",
            "--regid=107",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .args(["--bounding-set=-all", "--no-new-privs"])
        .arg(&program)
        .args([
            "--exact",
            "targets::block::child_of_the_unprivileged_test",
            "--nocapture",
        ])
        .env(UNPRIVILEGED, device.path())
        .current_dir("/")
        .output()
        .unwrap();
    sh("chown", &["root:disk", device.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("all was done by uid 107"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn child_of_the_unprivileged_test() {
    let Some(device) = std::env::var_os(UNPRIVILEGED).map(PathBuf::from) else {
        return;
    };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let target = BlockTarget::open(&device, BlockOptions::default())
        .await
        .unwrap();
    assert!(target.is_direct());
    assert_eq!(check_target(&target, ODD).await, Ok(()));
    let whole = ByteRange::new(0, DEVICE);
    let report = target.probe(whole).await.unwrap().unwrap();
    assert!(report.proves(Method::PunchHole), "{report:?}");
    drop(target);
    for method in [Method::ZeroRange, Method::Zeroout, Method::Discard] {
        let options = BlockOptions {
            zero_method: Some(method),
            ..BlockOptions::default()
        };
        let target = BlockTarget::open(&device, options).await.unwrap();
        target.write(0, filled(3, MIB).into()).await.unwrap();
        let range = ByteRange::new(0, MIB);
        target.zero(range, Zeroing::Unmap).await.unwrap();
        let bytes = target.read_back(0, empty(MIB)).await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "{method}");
    }
    let uid = rustix::process::geteuid().as_raw();
    writeln!(std::io::stdout(), "all was done by uid {uid}").unwrap();
}

/// A device that breaks: its backing file system has no more room.
fn failing_device(tmpfs: &Mounted) -> LoopDevice {
    let backing = tmpfs.path("backing");
    File::create(&backing).unwrap().set_len(DEVICE).unwrap();
    LoopDevice::over(&backing, 4096)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_is_an_error_that_names_device_and_offset() {
    let tmpfs = Mounted::tmpfs(4 * MIB);
    let device = failing_device(&tmpfs);
    let target = open(&device, BlockOptions::default()).await;
    let mut failure = None;
    for offset in (0..DEVICE).step_by(MIB_LEN) {
        if let Err(error) = target.write(offset, filled(1, MIB).into()).await {
            failure = Some((offset, error));
            break;
        }
    }
    let (offset, error) = failure.expect("the device has room for 4 MiB only");
    assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(offset)));
    assert!(
        error.line().contains(device.path().to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_failed_stays_failed() {
    let tmpfs = Mounted::tmpfs(4 * MIB);
    let device = failing_device(&tmpfs);
    let options = BlockOptions {
        page_cache: true,
        ..BlockOptions::default()
    };
    let target = open(&device, options).await;
    for offset in (0..DEVICE).step_by(MIB_LEN) {
        // Into the page cache: nobody notices yet.
        target.write(offset, filled(1, MIB).into()).await.unwrap();
    }
    assert_eq!(target.flush().await.unwrap_err().kind(), Kind::Io);
    // The kernel has told once and would now say that all is well.
    for _ in 0..2 {
        assert_eq!(target.flush().await.unwrap_err().kind(), Kind::Io);
    }
    assert!(
        target.finalize().await.is_ok(),
        "a device has no name to gain"
    );
}
