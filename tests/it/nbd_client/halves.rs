//! Our client and our server: the only peers at hand that speak extended headers.

use super::{MIB, connect, endpoint, once, read};
use bytes::Bytes;
use diskferry::demo::LiveDisk;
use diskferry::extent::{ByteRange, ExtentKind};
use diskferry::nbd::client::{Options, Timeouts, list};
use diskferry::nbd::server::{Listen, Server, Settings};
use diskferry::source::Source;
use diskferry::source::nbd::NbdSource;
use diskferry::target::nbd::NbdTarget;
use diskferry::testkit::{check_source, check_target};
use std::sync::Arc;
use tempfile::TempDir;

const SIZE: u64 = 8 * MIB + 512;

async fn serve() -> (TempDir, LiveDisk, Server, String) {
    let dir = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(dir.path().join("s"));
    let server = Server::start(&listen, Settings::default()).await.unwrap();
    let disk = LiveDisk::create(dir.path(), SIZE).unwrap();
    server.add("disk", Arc::new(disk.clone())).unwrap();
    let uri = server.place().uri("disk", false);
    (dir, disk, server, uri)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_and_target_keep_their_contracts_over_our_own_server() {
    let (_dir, _disk, _server, uri) = serve().await;
    let options = || Options {
        connections: 3,
        ..once()
    };
    let target = NbdTarget::open(endpoint(&uri), options()).await.unwrap();
    assert_eq!(target.client().connections(), 3);
    check_target(&target, SIZE).await.unwrap();
    let bytes = read(target.client(), 0, usize::try_from(SIZE).unwrap()).await;
    let source = NbdSource::open(endpoint(&uri), options()).await.unwrap();
    check_source(&source, &bytes).await.unwrap();
    assert_eq!(source.client().retries(), 0);
}

#[tokio::test]
async fn holes_and_bitmaps_come_through_and_both_halves_fit_one_thread() {
    let (_dir, disk, server, uri) = serve().await;
    disk.start_bitmap("b");
    let writer = connect(&uri, once()).await.unwrap();
    let data = Bytes::from(vec![7; 1 << 20]);
    writer.write(3 * MIB, data).await.unwrap();
    writer.flush().await.unwrap();
    let view = disk.checkpoint(Some("b"), None).unwrap();
    server.add("view", Arc::new(view)).unwrap();
    let names: Vec<_> = list(endpoint(&uri), Timeouts::default())
        .await
        .unwrap()
        .into_iter()
        .map(|listing| (listing.listed.name, listing.export.unwrap().size))
        .collect();
    assert_eq!(
        names,
        [("disk".to_owned(), SIZE), ("view".to_owned(), SIZE)]
    );
    let context = "qemu:dirty-bitmap:b";
    let options = Options {
        contexts: vec![context.to_owned()],
        ..once()
    };
    let uri = server.place().uri("view", false);
    let source = NbdSource::open(endpoint(&uri), options).await.unwrap();
    let all = ByteRange::at(0, SIZE);
    let written = ByteRange::at(3 * MIB, MIB);
    let dirty = source.client().status(context, all).await.unwrap();
    assert_eq!(dirty[1], (written, 1));
    let extents = source.extents(all).await.unwrap();
    let kinds: Vec<_> = extents.iter().map(|e| (e.range, e.kind)).collect();
    assert_eq!(kinds[0], (ByteRange::new(0, 3 * MIB), ExtentKind::Zero));
    assert_eq!(kinds[1], (written, ExtentKind::Data));
    assert_eq!(
        read(source.client(), 4 * MIB - 4, 8).await,
        [7, 7, 7, 7, 0, 0, 0, 0]
    );
    source.client().close().await;
    writer.close().await;
}
