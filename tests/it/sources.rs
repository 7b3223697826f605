//! Local sources against real files, devices and pipes.

use crate::rig::LoopDevice;
use diskferry::buffer::Buffer;
use diskferry::digest::checksum::Checksum;
use diskferry::error::Kind;
use diskferry::extent::{ByteRange, ExtentKind};
use diskferry::source::checked::Checked;
use diskferry::source::file::{FileSource, FileSourceOptions};
use diskferry::source::stdin::StreamSource;
use diskferry::source::stream::ByteStream;
use diskferry::source::{Source, open_path};
use diskferry::sys::disk::{Disk, Open};
use diskferry::sys::queue::Queue;
use diskferry::testkit::{Fault, Faults, FaultySource, MemSource, Op, check_source};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const MIB_LEN: usize = 1 << 20;

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

/// Data at the start, in the middle and at the end, holes between.
fn sparse_bytes(size: u64) -> Vec<u8> {
    let mut bytes = filled(0, size);
    for start in [0, size / 2, size - 5000] {
        let part = bytes.iter_mut().skip(length(start)).take(4500);
        (0u64..)
            .zip(part)
            .for_each(|(at, byte)| *byte = (at % 255).to_le_bytes()[0] + 1);
    }
    bytes
}

/// Writes only what is not zero, so that holes stay holes.
fn make_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, chunk) in bytes.chunks(4096).enumerate() {
        if chunk.iter().any(|&byte| byte != 0) {
            file.write_all_at(chunk, index as u64 * 4096).unwrap();
        }
    }
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_the_contract_wherever_it_is_and_whatever_its_size() {
    let (disk, memory) = (room(), tempfile::tempdir_in("/dev/shm").unwrap());
    for folder in [disk.path(), memory.path()] {
        for size in [4 * MIB, 3 * MIB + 512, 2 * MIB + 4096 + 1000, 5001] {
            let path = folder.join(size.to_string());
            let bytes = sparse_bytes(size);
            make_sparse(&path, &bytes);
            for page_cache in [false, true] {
                let options = FileSourceOptions { page_cache };
                let source = FileSource::open(&path, options).await.unwrap();
                let verdict = check_source(&source, &bytes).await;
                assert_eq!(verdict, Ok(()), "{path:?} {page_cache}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_device_keeps_the_contract_with_both_sector_sizes() {
    for sector in [512, 4096] {
        let device = LoopDevice::new(4 * MIB, sector);
        let bytes = sparse_bytes(4 * MIB);
        fs::write(device.path(), &bytes).unwrap();
        File::open(device.path()).unwrap().sync_all().unwrap();
        let options = FileSourceOptions::default();
        let source = FileSource::open(device.path(), options).await.unwrap();
        assert!(source.is_direct());
        assert_eq!(source.limits().align, sector);
        assert_eq!(check_source(&source, &bytes).await, Ok(()), "{sector}");
        assert!(
            source.identity().id.starts_with("loop:"),
            "{:?}",
            source.identity()
        );
    }
}

#[tokio::test]
async fn memory_keeps_the_contract_and_the_check_catches_what_does_not() {
    let bytes = sparse_bytes(MIB + 777);
    let source = MemSource::holding(&[]);
    assert_eq!(check_source(&source, &[]).await, Ok(()));
    let source = MemSource::new(MIB + 777);
    for (at, chunk) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
        if chunk.iter().any(|&byte| byte != 0) {
            source.put(at, chunk);
        }
    }
    assert_eq!(check_source(&source, &bytes).await, Ok(()));
    for op in [Op::Read, Op::Extents] {
        let faults = Faults::default();
        faults.on(op, 1, Fault::Lie);
        let liar = FaultySource::new(source.clone(), faults);
        assert!(check_source(&liar, &bytes).await.is_err(), "{op:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_added_up_keep_the_contract_and_count_once() {
    let dir = room();
    let path = dir.path().join("disk");
    let bytes = sparse_bytes(3 * MIB + 777);
    make_sparse(&path, &bytes);
    let told = Command::new("sha256sum").arg(&path).output().unwrap();
    let sum = String::from_utf8_lossy(&told.stdout[..64]).into_owned();
    let checksum: Checksum = format!("sha256:{sum}").parse().unwrap();
    let source = Checked::new(open_path(&path).await.unwrap(), &checksum);
    assert_eq!(check_source(&source, &bytes).await, Ok(()));
    source.finish().await.unwrap();
}

#[tokio::test]
async fn the_holes_of_a_sparse_file_are_told_and_need_not_be_read() {
    let dir = room();
    let path = dir.path().join("disk");
    make_sparse(&path, &sparse_bytes(64 * MIB));
    let source = open_path(&path).await.unwrap();
    let extents = source
        .extents(ByteRange::new(0, source.size()))
        .await
        .unwrap();
    let data = extents
        .iter()
        .filter(|extent| extent.kind == ExtentKind::Data);
    let data: u64 = data.map(|extent| extent.range.len()).sum();
    assert!(data < MIB, "{data} bytes of data in {extents:?}");
    let hole = ByteRange::at(10 * MIB, MIB);
    let inside = source.extents(hole).await.unwrap();
    assert_eq!(inside, [diskferry::extent::Extent::zero(hole)]);
}

#[tokio::test]
async fn a_source_that_shrinks_is_an_error_and_never_zeroes() {
    let dir = room();
    for page_cache in [false, true] {
        let path = dir.path().join("disk");
        fs::write(&path, filled(1, 2 * MIB)).unwrap();
        let options = FileSourceOptions { page_cache };
        let source = FileSource::open(&path, options).await.unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(MIB + 512)
            .unwrap();
        let ok = source.read(0, empty(MIB)).await.unwrap();
        assert!(ok.iter().all(|&byte| byte == 1));
        for offset in [MIB, MIB + 4096] {
            let read = source.read(offset, Buffer::unbudgeted(8192)).await;
            let error = read.unwrap_err();
            assert_eq!(error.kind(), Kind::Io);
            let line = error.line();
            assert!(
                line.contains("the source shrank to 1049088 bytes"),
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_disk_is_refused_without_being_opened() {
    let dir = room();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for path in [fifo.as_path(), dir.path(), Path::new("/dev/null")] {
        assert_eq!(
            open_path(path).await.unwrap_err().kind(),
            Kind::Usage,
            "{path:?}"
        );
    }
    let gone = open_path(&dir.path().join("gone")).await.unwrap_err();
    assert!(gone.line().contains("No such file"), "{}", gone.line());
}

#[tokio::test]
async fn a_file_keeps_its_identity_and_its_replacement_has_another() {
    let dir = room();
    let path = dir.path().join("disk");
    fs::write(&path, "12345").unwrap();
    let first = open_path(&path).await.unwrap().identity();
    assert_eq!(open_path(&path).await.unwrap().identity(), first);
    assert_eq!(first.size, 5);
    let other = dir.path().join("other");
    fs::write(&other, "12345").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_ne!(open_path(&path).await.unwrap().identity().id, first.id);
}

#[tokio::test]
async fn a_file_that_is_read_does_not_stay_in_the_page_cache() {
    let dir = room();
    let path = dir.path().join("disk");
    let size = 16 * MIB;
    let options = FileSourceOptions { page_cache: true };
    fs::write(&path, filled(1, size)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let source = FileSource::open(&path, options).await.unwrap();
    for offset in (0..size).step_by(MIB_LEN) {
        source.read(offset, empty(MIB)).await.unwrap();
    }
    drop(source);
    let cached = Command::new("fincore")
        .args(["-bnro", "RES"])
        .arg(&path)
        .output()
        .unwrap();
    let cached: u64 = String::from_utf8_lossy(&cached.stdout)
        .trim()
        .parse()
        .unwrap();
    assert!(cached <= size / 4, "{cached} bytes stay in the cache");
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_in_full_buffers() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let expected = bytes.clone();
    let feeder = std::thread::spawn(move || {
        for piece in bytes.chunks(777) {
            writer.write_all(piece).unwrap();
        }
    });
    let mut source = StreamSource::new(reader.into(), "a pipe");
    let mut found = Vec::new();
    while let Some(buffer) = source.next(Buffer::unbudgeted(4096)).await.unwrap() {
        assert!(buffer.len() == 4096 || found.len() + buffer.len() == expected.len());
        found.extend_from_slice(&buffer);
    }
    feeder.join().unwrap();
    assert!(found == expected);
    assert!(source.next(Buffer::unbudgeted(1)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_that_somebody_made_non_blocking_is_waited_for() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let feeder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        writer.write_all(b"late").unwrap();
    });
    let mut source = StreamSource::new(reader.into(), "a pipe");
    let buffer = source.next(Buffer::unbudgeted(16)).await.unwrap().unwrap();
    assert_eq!(*buffer, *b"late");
    feeder.join().unwrap();
}

/// Both ways of doing requests, over one file, whose size ends in the middle of a block.
#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_and_threads_do_the_same_requests() {
    let dir = room();
    let path = dir.path().join("disk");
    let size = 8 * MIB + 1234;
    let how = Open {
        write: true,
        exclusive: false,
        direct: true,
    };
    for make in [Queue::new, Queue::with_threads] {
        File::create(&path).unwrap().set_len(size).unwrap();
        let queue = make(Disk::open(&path, how).unwrap());
        assert!(queue.disk().is_direct());
        let bytes = sparse_bytes(size);
        let pieces = (0u64..).step_by(65536).zip(bytes.chunks(65536));
        let writes = pieces.clone().map(|(at, piece)| {
            let mut data = Buffer::unbudgeted(piece.len());
            data.copy_from_slice(piece);
            queue.write(at, data.freeze())
        });
        let written: Result<Vec<()>, _> = join_all(writes).await.into_iter().collect();
        written.unwrap();
        let reads = pieces.map(|(at, piece)| {
            let queue = &queue;
            async move {
                let buffer = Buffer::unbudgeted(piece.len());
                let (buffer, count) = queue.read(at, buffer).await.unwrap();
                assert!(count == piece.len() && *buffer == *piece, "{at:#x}");
            }
        });
        join_all(reads).await;
        let (_, count) = queue.read(size - 234, empty(4096)).await.unwrap();
        assert_eq!(count, 234, "the end of the file");
        let (_, count) = queue.read(8 * MIB, empty(8192)).await.unwrap();
        assert_eq!(count, 1234, "the end of the file");
    }
}

/// The kernel may still be writing when nobody waits any more: memory and file outlive it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_abandoned_with_their_queue_end_by_themselves() {
    let dir = room();
    let path = dir.path().join("disk");
    let bytes = filled(0x6b, 4 * MIB);
    fs::write(&path, &bytes).unwrap();
    let how = Open {
        write: true,
        exclusive: false,
        direct: true,
    };
    for _ in 0..20 {
        let queue = Queue::new(Disk::open(&path, how).unwrap());
        for offset in (0..4 * MIB).step_by(MIB_LEN) {
            let mut data = empty(MIB);
            data.fill(0x6b);
            drop(queue.write(offset, data.freeze()).now_or_never());
            drop(queue.read(offset, empty(MIB)).now_or_never());
        }
    }
    assert!(fs::read(&path).unwrap() == bytes);
}
