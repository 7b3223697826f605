//! Clients that others wrote.

use super::served::{SIZE, Served};
use crate::rig::{LoopDevice, assert_same_bytes, random_disk, run, sparse_disk};
use async_trait::async_trait;
use bytes::Bytes;
use diskferry::buffer::Buffer;
use diskferry::error::{Error, Result};
use diskferry::extent::ByteRange;
use diskferry::nbd::server::{Export, Listen, Server, Settings, TlsSetup, ZeroHow};
use diskferry::source::export::SourceExport;
use diskferry::source::open_path;
use diskferry::target::block::{BlockOptions, BlockTarget};
use diskferry::target::export::TargetExport;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// (offset, length, type) of each line of a map.
fn map(context: &str, uri: &str) -> Vec<(u64, u64, u64)> {
    let text = run("nbdinfo", ["--json", &format!("--map={context}"), uri]);
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap();
    list.iter()
        .map(|e| (number(e, "offset"), number(e, "length"), number(e, "type")))
        .collect()
}

#[test]
fn nbdinfo_lists_every_export_with_its_contexts() {
    let served = Served::filled();
    served.disk.start_bitmap("a");
    served.add(
        "view of it",
        served.disk.checkpoint(Some("a"), None).unwrap(),
    );
    let text = run("nbdinfo", ["--list", "--json", &served.uri("")]);
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let exports = info["exports"].as_array().unwrap();
    let of = |name: &str| exports.iter().find(|e| e["export-name"] == name).unwrap();
    let (disk, view) = (of("disk"), of("view of it"));
    for export in [disk, view] {
        assert_eq!(export["export-size"], SIZE);
        assert_eq!(export["can_multi_conn"], true);
    }
    assert_eq!(
        (&disk["is_read_only"], &view["is_read_only"]),
        (&false.into(), &true.into())
    );
    assert_eq!(disk["can_zero"], true);
    assert_eq!(view["contexts"][0], "base:allocation");
    assert_eq!(view["contexts"][1], "qemu:dirty-bitmap:a");
    assert_eq!(view["description"], "a snapshot of a disk");
}

#[test]
fn nbdinfo_sees_holes_and_the_bitmap_of_a_snapshot() {
    let served = Served::filled();
    served.disk.start_bitmap("since");
    served.disk.write_at((3 << 20) - 1, &[1; 2]).unwrap();
    served.add("pass", served.disk.checkpoint(Some("since"), None).unwrap());
    served.disk.write_at(20 << 20, &[1]).unwrap();
    let uri = served.uri("pass");
    let grain = 64 << 10;
    assert_eq!(
        map("qemu:dirty-bitmap:since", &uri),
        [
            (0, (3 << 20) - grain, 0),
            ((3 << 20) - grain, 2 * grain, 1),
            ((3 << 20) + grain, SIZE - (3 << 20) - grain, 0),
        ]
    );
    let (data, hole) = (0, 3);
    let found = map("base:allocation", &uri);
    assert_eq!(found[0], (0, 1 << 20, data));
    assert_eq!(found[1], (1 << 20, (2 << 20) - grain, hole));
    assert_eq!(*found.last().unwrap(), (32 << 20, 512, data));
    // What was written after the snapshot may be called data, but never the other way round.
    let covered: u64 = found.iter().map(|(_, len, _)| len).sum();
    assert_eq!(covered, SIZE);
}

#[test]
fn nbdcopy_reads_and_writes_over_several_connections() {
    let served = Served::new();
    let (image, back) = (served.path("image"), served.path("back"));
    sparse_disk(&image, SIZE, 40, 7);
    let uri = served.uri("disk");
    let four = "--connections=4";
    run("nbdcopy", [four, "--flush", image.to_str().unwrap(), &uri]);
    assert!(fs::read(&image).unwrap() == served.content());
    run("nbdcopy", [four, &uri, back.to_str().unwrap()]);
    assert_same_bytes(&image, &back);
}

#[test]
fn qemu_img_converts_both_ways_compares_and_maps() {
    let served = Served::filled();
    let uri = served.uri("disk");
    let out = served.path("out");
    let out = out.to_str().unwrap();
    run("qemu-img", ["convert", "-f", "raw", "-O", "raw", &uri, out]);
    run("qemu-img", ["compare", "-f", "raw", "-F", "raw", out, &uri]);
    assert!(fs::read(out).unwrap() == served.content());

    let text = run("qemu-img", ["map", "-f", "raw", "--output=json", &uri]);
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&list[0]["length"], &list[0]["data"]),
        (&(1 << 20).into(), &true.into())
    );
    assert_eq!(list[1]["zero"], true);

    let image = served.path("image");
    random_disk(&image, SIZE, 3);
    let image = image.to_str().unwrap();
    run(
        "qemu-img",
        [
            "convert", "-n", "-W", "-m16", "-f", "raw", "-O", "raw", image, &uri,
        ],
    );
    assert!(fs::read(image).unwrap() == served.content());
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back_off_any_boundary() {
    let served = Served::filled();
    let uri = served.uri("disk");
    let commands = [
        "write -P 0xa5 1000 70000",
        "read -P 0xa5 1000 70000",
        "write -z 2000 65536",
        "read -P 0 2000 65536",
        "write -z -u 100000 300000",
        "read -P 0 100000 300000",
        "discard 1048576 131072",
        "write -f -P 0x11 1048575 3",
        "read -P 0x11 1048575 3",
        "flush",
    ];
    let mut words = vec!["-f", "raw"];
    words.extend(commands.iter().flat_map(|command| ["-c", command]));
    words.push(&uri);
    let text = run("qemu-io", words);
    assert!(!text.contains("failed"), "{text}");
    let content = served.content();
    assert_eq!(content[1000..2000], [0xa5; 1000]);
    assert_eq!(content[1_048_575..1_048_578], [0x11; 3]);
}

/// Sends what fails on and what does not, and never mixes them up.
#[derive(Debug)]
struct Failing;

#[async_trait]
impl Export for Failing {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        if offset >= 65536 {
            return Err(Error::io("read", io::Error::from_raw_os_error(5)));
        }
        buffer.fill(b'x');
        Ok(buffer)
    }
    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        Err(Error::io("write", io::Error::from_raw_os_error(28)))
    }
    async fn zero(&self, _range: ByteRange, _how: ZeroHow) -> Result<()> {
        Err(Error::io("zero", io::Error::from_raw_os_error(30)))
    }
    async fn trim(&self, _range: ByteRange) -> Result<()> {
        Ok(())
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_failed_request_says_why_and_the_connection_goes_on() {
    let served = Served::new();
    served.add("bad", Failing);
    let uri = served.uri("bad");
    let output = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "read 65536 512", "-c", "write 0 512"])
        .args(["-c", "write -z 0 512", "-c", "read -P 0x78 0 512", &uri])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("read failed: Input/output error"), "{text}");
    assert!(
        text.contains("write failed: No space left on device"),
        "{text}"
    );
    assert!(
        text.contains("write failed: Operation not permitted"),
        "{text}"
    );
    assert!(text.contains("read 512/512 bytes at offset 0"), "{text}");
}

#[test]
fn any_source_is_served_read_only() {
    let served = Served::new();
    // Where direct I/O works, which is where unaligned reads are work.
    let room = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = room.path().join("image");
    sparse_disk(&image, SIZE, 30, 11);
    let source = served.runtime.block_on(open_path(&image)).unwrap();
    let export = SourceExport::new(source);
    served.add("image", export.clone());
    let content = fs::read(&image).unwrap();
    let uri = served.uri("image");
    let raw = ["-f", "raw", "-F", "raw"];
    run(
        "qemu-img",
        [&["compare"][..], &raw, &[image.to_str().unwrap(), &uri]].concat(),
    );
    let refused = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 0 512", &uri])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    // Off every boundary that direct I/O has, the tail included.
    let end = SIZE - 700;
    for (offset, len) in [(1, 1_000_000), (4095, 2), (end, 700), (SIZE - 1, 1)] {
        let buffer = Buffer::unbudgeted(usize::try_from(len).unwrap());
        let read = served.runtime.block_on(export.read(offset, buffer));
        let part = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
        assert!(read.unwrap()[..] == content[part], "{len} at {offset}");
    }
    let holes = map("base:allocation", &uri);
    assert!(holes.iter().any(|(_, _, kind)| *kind == 3), "{holes:?}");
}

/// The server passes the device's sector size on, and clients obey it.
#[test]
fn a_block_device_of_4096_byte_sectors_is_served_read_write() {
    let served = Served::new();
    let device = LoopDevice::new(16 << 20, 4096);
    let open = BlockTarget::open(device.path(), BlockOptions::default());
    let target = served.runtime.block_on(open).unwrap();
    served.add("lun", TargetExport::new(Arc::new(target)).unwrap());
    let uri = served.uri("lun");
    let info: Value = serde_json::from_str(&run("nbdinfo", ["--json", &uri])).unwrap();
    assert_eq!(info["exports"][0]["block_size_minimum"], 4096);
    let image = served.path("image");
    random_disk(&image, 16 << 20, 5);
    let raw = ["-n", "-f", "raw", "-O", "raw"];
    let image = image.to_str().unwrap();
    run(
        "qemu-img",
        [&["convert"][..], &raw, &[image, &uri]].concat(),
    );
    // qemu does the read, the change and the write that a sector is too coarse for.
    run("qemu-io", ["-f", "raw", "-c", "write -P 0 1000 10", &uri]);
    let back = served.path("back");
    run("nbdcopy", [&uri, back.to_str().unwrap()]);
    let mut expected = fs::read(image).unwrap();
    expected[1000..1010].fill(0);
    assert!(expected == fs::read(back).unwrap());
}

#[test]
fn a_loopback_port_serves_as_well_as_a_socket() {
    let served = Served::filled();
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let start = Server::start(&listen, Settings::default());
    let server = served.runtime.block_on(start).unwrap();
    server.add("tcp", Arc::new(served.disk.clone())).unwrap();
    let back = served.path("back");
    run(
        "nbdcopy",
        [&server.place().uri("tcp", false), back.to_str().unwrap()],
    );
    assert!(fs::read(back).unwrap() == served.content());
}

/// A certificate authority in `dir` as libnbd looks for it, and a certificate for `localhost`.
fn certificates(dir: &Path) -> Arc<ServerConfig> {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    fs::write(dir.join("ca-cert.pem"), ca_cert.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn with_tls_required_nbdcopy_gets_the_disk_only_under_tls() {
    let served = Served::filled();
    let certs = served.path("certs");
    fs::create_dir(&certs).unwrap();
    let settings = Settings {
        tls: Some(TlsSetup {
            config: certificates(&certs),
            required: true,
        }),
        ..Settings::default()
    };
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let start = Server::start(&listen, settings);
    let server = served.runtime.block_on(start).unwrap();
    server.add("disk", Arc::new(served.disk.clone())).unwrap();
    let at = |tls| server.place().uri("disk", tls);

    let plain = Command::new("nbdinfo").arg(at(false)).output().unwrap();
    assert!(!plain.status.success());
    let secure = at(true).replace("127.0.0.1", "localhost");
    let secure = format!("{secure}?tls-certificates={}", certs.display());
    let back = served.path("back");
    run("nbdcopy", [&secure, back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == served.content());
}
