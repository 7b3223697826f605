//! Local targets against real loop devices and file systems: the contract, every refusal, every
//! way to zero, and what happens when space or the device gives out.

use crate::rig::LoopDevice;
use diskferry::buffer::Buffer;
use diskferry::error::Kind;
use diskferry::extent::ByteRange;
use diskferry::target::block::{BlockOptions, BlockTarget};
use diskferry::target::file::{FileOptions, FileTarget, partial_path};
use diskferry::target::preflight::Intent;
use diskferry::target::stdout::StreamTarget;
use diskferry::target::zeroing::Method;
use diskferry::target::{Target, Untouched, Zeroing};
use diskferry::testkit::{Fault, Faults, FaultyTarget, MemTarget, Op, check_target};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const MIB_LEN: usize = 1 << 20;
const DEVICE: u64 = 10 * MIB;
/// A disk that ends in the middle of everything.
const ODD: u64 = 4 * MIB + 4096 + 1000;

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

fn filled(byte: u8, bytes: u64) -> Vec<u8> {
    vec![byte; length(bytes)]
}

fn empty(bytes: u64) -> Buffer {
    Buffer::unbudgeted(length(bytes))
}

fn room() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[track_caller]
fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("start {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// A file system that is gone when dropped.
struct Mounted(TempDir);

impl Mounted {
    #[track_caller]
    fn new(args: &[&str]) -> Self {
        let dir = room();
        let point = dir.path().to_str().unwrap();
        sh("mount", &[args, &[point]].concat());
        Self(dir)
    }

    fn tmpfs(size: u64) -> Self {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn open(device: &LoopDevice, options: BlockOptions) -> BlockTarget {
    BlockTarget::open(device.path(), options).await.unwrap()
}

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

fn held_bytes(file: &Path) -> u64 {
    File::open(file).unwrap().sync_all().unwrap();
    fs::metadata(file).unwrap().blocks() * 512
}

// --- the contract -----------------------------------------------------------------------------

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
async fn a_file_keeps_the_contract_wherever_it_is() {
    let tmpfs = Mounted::tmpfs(64 * MIB);
    let disk = room();
    for folder in [disk.path(), tmpfs.0.path()] {
        for (index, (page_cache, in_place)) in [(false, false), (true, false), (false, true)]
            .into_iter()
            .enumerate()
        {
            for size in [8 * MIB, ODD] {
                let path = folder.join(format!("{index}-{size}"));
                let options = FileOptions {
                    size,
                    page_cache,
                    in_place,
                    ..FileOptions::default()
                };
                let target = FileTarget::open(&path, options).await.unwrap();
                assert_eq!(target.untouched(), Untouched::Zero);
                assert_eq!(check_target(&target, size).await, Ok(()), "{path:?}");
                target.finalize().await.unwrap();
                assert_eq!(fs::metadata(&path).unwrap().len(), size);
            }
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

// --- zeroing ----------------------------------------------------------------------------------

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
    assert!(report.proves(Method::PunchHole) && report.proves(Method::Write));
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

// --- preflight --------------------------------------------------------------------------------

#[tokio::test]
async fn a_mounted_device_and_a_device_with_a_mounted_partition_are_refused() {
    let device = LoopDevice::new(DEVICE, 512);
    let node = device.path().to_str().unwrap();
    sh("mkfs.ext4", &["-q", node]);
    let mounted = Mounted::new(&["-t", "ext4", node]);
    let overwrite = Intent {
        overwrite: true,
        ..Intent::default()
    };
    let line = refusal(device.path(), overwrite).await;
    let point = mounted.0.path().to_str().unwrap();
    assert!(
        line.contains("mounted on") && line.contains(point),
        "{line}"
    );
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

// --- rights -----------------------------------------------------------------------------------

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
            "targets::child_of_the_unprivileged_test",
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
    for method in [Method::PunchHole, Method::ZeroRange, Method::Zeroout] {
        assert!(report.proves(method), "{report:?}");
    }
    let uid = rustix::process::geteuid().as_raw();
    writeln!(std::io::stdout(), "all was done by uid {uid}").unwrap();
}

// --- failures ---------------------------------------------------------------------------------

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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_is_named_and_leaves_nothing_under_the_final_name() {
    for page_cache in [false, true] {
        let tmpfs = Mounted::tmpfs(4 * MIB);
        let path = tmpfs.path("disk");
        let options = FileOptions {
            size: DEVICE,
            page_cache,
            ..FileOptions::default()
        };
        let target = FileTarget::open(&path, options).await.unwrap();
        let written = target.write(MIB, filled(1, 8 * MIB).into()).await;
        let line = written.unwrap_err().line();
        for part in ["No space left", "make room", path.to_str().unwrap()] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!path.exists());
    }
}

// --- files ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_partial_file_never_has_the_final_name() {
    let dir = room();
    let path = dir.path().join("disk");
    let options = FileOptions {
        size: MIB,
        ..FileOptions::default()
    };
    let target = FileTarget::open(&path, options).await.unwrap();
    let identity = target.identity();
    target.write(0, vec![1; 4096].into()).await.unwrap();
    target.flush().await.unwrap();
    assert!(!path.exists() && partial_path(&path).exists());
    drop(target);
    let resumed = FileOptions {
        resuming: true,
        ..options
    };
    let target = FileTarget::open(&path, resumed).await.unwrap();
    assert_eq!(target.identity(), identity, "the journal knows it again");
    assert_eq!(target.untouched(), Untouched::Unknown);
    target.finalize().await.unwrap();
    assert!(path.exists() && !partial_path(&path).exists());
    assert_eq!(fs::read(&path).unwrap()[..4096], [1; 4096]);
    drop(target);
    // Cut off after the rename: the same command finds the file whole.
    let target = FileTarget::open(&path, resumed).await.unwrap();
    assert_eq!(target.identity(), identity);
    target.finalize().await.unwrap();
}

#[tokio::test]
async fn a_file_that_exists_is_replaced_only_with_leave_and_only_at_the_end() {
    let dir = room();
    let path = dir.path().join("disk");
    fs::write(&path, "precious").unwrap();
    let options = FileOptions {
        size: MIB,
        ..FileOptions::default()
    };
    let error = FileTarget::open(&path, options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("--overwrite"), "{}", error.line());
    let options = FileOptions {
        overwrite: true,
        ..options
    };
    let target = FileTarget::open(&path, options).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    target.finalize().await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
}

#[tokio::test]
async fn a_file_that_appears_during_the_copy_is_not_replaced() {
    let dir = room();
    let path = dir.path().join("disk");
    let options = FileOptions {
        size: MIB,
        ..FileOptions::default()
    };
    let target = FileTarget::open(&path, options).await.unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(target.finalize().await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn two_copies_cannot_write_one_file_and_a_leftover_is_replaced() {
    let dir = room();
    let path = dir.path().join("disk");
    let options = FileOptions {
        size: MIB,
        ..FileOptions::default()
    };
    let first = FileTarget::open(&path, options).await.unwrap();
    first.write(0, vec![1; 4096].into()).await.unwrap();
    let second = FileTarget::open(&path, options).await.unwrap_err();
    assert_eq!(second.kind(), Kind::Refused);
    assert!(
        second.line().contains("another process"),
        "{}",
        second.line()
    );
    drop(first);
    let target = FileTarget::open(&path, options).await.unwrap();
    let bytes = target.read_back(0, Buffer::unbudgeted(4096)).await.unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0), "bytes of the leftover");
}

#[tokio::test]
async fn in_place_keeps_what_is_not_written_and_never_shrinks() {
    let dir = room();
    let path = dir.path().join("disk");
    fs::write(&path, filled(3, 2 * MIB)).unwrap();
    let options = FileOptions {
        size: MIB,
        in_place: true,
        ..FileOptions::default()
    };
    let target = FileTarget::open(&path, options).await.unwrap();
    assert_eq!(target.untouched(), Untouched::Unknown);
    assert_eq!(target.capacity(), Some(2 * MIB));
    target.write(4096, vec![4; 4096].into()).await.unwrap();
    target.finalize().await.unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, 2 * MIB);
    assert!(
        (0..)
            .zip(&bytes)
            .all(|(at, &byte)| byte == if at / 4096 == 1 { 4 } else { 3 })
    );
}

#[tokio::test]
async fn a_name_that_is_a_link_or_a_folder_is_handled_as_what_it_is() {
    let dir = room();
    let (link, real) = (dir.path().join("link"), dir.path().join("real"));
    fs::write(&real, "old").unwrap();
    symlink(&real, &link).unwrap();
    let options = FileOptions {
        size: MIB,
        overwrite: true,
        ..FileOptions::default()
    };
    let target = FileTarget::open(&link, options).await.unwrap();
    target.finalize().await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().len(), MIB);
    let folder = FileTarget::open(dir.path(), options).await.unwrap_err();
    assert_eq!(folder.kind(), Kind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_through_the_page_cache_does_not_stay_in_it() {
    let dir = room();
    let path = dir.path().join("disk");
    let size = 96 * MIB;
    let options = FileOptions {
        size,
        page_cache: true,
        in_place: true,
        ..FileOptions::default()
    };
    let target = FileTarget::open(&path, options).await.unwrap();
    for offset in (0..size).step_by(MIB_LEN) {
        target.write(offset, filled(1, MIB).into()).await.unwrap();
    }
    target.finalize().await.unwrap();
    let cached = Command::new("fincore")
        .args(["-bnro", "RES"])
        .arg(&path)
        .output()
        .unwrap();
    let cached: u64 = String::from_utf8_lossy(&cached.stdout)
        .trim()
        .parse()
        .unwrap();
    assert!(
        cached <= size / 2,
        "{cached} of {size} bytes stay in the cache"
    );
}

// --- streams ----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_written_in_order_whatever_order_the_writes_come_in() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let target = StreamTarget::new(writer.into(), "a pipe");
    let collected = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (third, first, second) = tokio::join!(
        target.write(300_003, b"ccc".as_slice().into()),
        target.write(0, b"aaa".as_slice().into()),
        target.zero(ByteRange::new(3, 300_003), Zeroing::Unmap),
    );
    first.and(second).and(third).unwrap();
    target.flush().await.unwrap();
    assert!(target.write(0, b"a".as_slice().into()).await.is_err());
    drop(target);
    let bytes = collected.join().unwrap();
    assert_eq!(bytes.len(), 300_006);
    assert_eq!((&bytes[..3], &bytes[300_003..]), (&b"aaa"[..], &b"ccc"[..]));
    assert!(bytes[3..300_003].iter().all(|&byte| byte == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_wakes_those_who_wait_for_their_turn() {
    let (reader, writer) = std::io::pipe().unwrap();
    let target = StreamTarget::new(writer.into(), "a pipe");
    drop(reader);
    let (later, first) = tokio::join!(
        target.write(3, b"bbb".as_slice().into()),
        target.write(0, b"aaa".as_slice().into()),
    );
    assert_eq!(first.unwrap_err().kind(), Kind::Io, "never to be repeated");
    assert!(later.unwrap_err().line().contains("earlier write failed"));
}

#[tokio::test]
async fn standard_output_to_a_file_is_made_durable() {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(b"head").unwrap();
    let target = StreamTarget::new(file.try_clone().unwrap().into(), "a file");
    target.write(0, b"tail".as_slice().into()).await.unwrap();
    target.flush().await.unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(
        &bytes, b"headtail",
        "it goes on where the descriptor stands"
    );
}
