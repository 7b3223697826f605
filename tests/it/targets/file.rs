//! The contract on files, partial files and their names, and full file systems.

use super::{DEVICE, MIB, MIB_LEN, Mounted, ODD, empty, filled, room};
use diskferry::error::Kind;
use diskferry::target::file::{FileOptions, FileTarget, partial_path};
use diskferry::target::{Target, Untouched};
use diskferry::testkit::check_target;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

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
    let all = FileOptions {
        done: MIB,
        ..resumed
    };
    let target = FileTarget::open(&path, all).await.unwrap();
    assert_eq!(target.identity(), identity);
    target.finalize().await.unwrap();
}

#[tokio::test]
async fn a_partial_file_that_a_power_cut_took_before_the_first_barrier_is_made_anew() {
    let dir = room();
    let path = dir.path().join("disk");
    let begun = FileOptions {
        size: MIB,
        resuming: true,
        ..FileOptions::default()
    };
    for done in [1, MIB] {
        let lost = FileTarget::open(&path, FileOptions { done, ..begun }).await;
        assert_eq!(lost.unwrap_err().kind(), Kind::Refused);
        assert!(!path.exists() && !partial_path(&path).exists());
    }
    let target = FileTarget::open(&path, begun).await.unwrap();
    target.finalize().await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
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
    let bytes = target.read_back(0, empty(4096)).await.unwrap();
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
    // As qemu-img does: the link stays, and what it leads to is made.
    fs::remove_file(&real).unwrap();
    let create = FileOptions {
        overwrite: false,
        ..options
    };
    let target = FileTarget::open(&link, create).await.unwrap();
    target.finalize().await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().len(), MIB);
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
