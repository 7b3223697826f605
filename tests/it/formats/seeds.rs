//! What fuzzing of parsers begins with: parts of images that the makers of the test kit make.

use diskferry::testkit::vhdx::{BLOCK_TABLE, Block, Change, write_log};
use diskferry::testkit::vmdk::{Grain, Hosted};
use diskferry::testkit::{ova, vdi, vhd, vhdx, vmdk};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use std::io::Write;

/// A fuzz target, a name, and the bytes.
pub(crate) type Seed = (&'static str, &'static str, Vec<u8>);

/// All of them.
pub(crate) fn seeds() -> Vec<Seed> {
    [
        vmdks(),
        others(),
        vhdxs(),
        qcow2s(),
        ovas(),
        packed(),
        texts(),
        heads(),
    ]
    .concat()
}

fn vmdks() -> Vec<Seed> {
    let grains = [
        Grain::Data(vec![7; 8192]),
        Grain::Below,
        Grain::Zero,
        Grain::Data(vec![9; 4096]),
    ];
    let text = vmdk::descriptor("monolithicSparse", 7, None, &["RW 56 SPARSE \"d.vmdk\""]);
    let stream = Hosted {
        stream: true,
        version: 3,
        ..Hosted::default()
    };
    let lines = [
        "RW 100 FLAT \"a b-flat.vmdk\" 8",
        "RDONLY 100 ZERO",
        "NOACCESS 8 VMFS \"c\"",
        "RW 8 VMFSSPARSE \"d-delta.vmdk\"",
        "RW 8 SESPARSE \"e\"",
        "RW 8 VMFSRDM \"f\"",
    ];
    let mixed = vmdk::descriptor("custom", 0xfeed, Some((7, "base.vmdk")), &lines);
    let mixed = format!("{mixed}encoding=\"Shift_JIS\"\nchangeTrackPath=\"d-ctk.vmdk\"\n");
    vec![
        (
            "vmdk_parts",
            "sparse",
            vmdk::hosted(&grains, 56, &text, Hosted::default()),
        ),
        (
            "vmdk_parts",
            "stream",
            vmdk::hosted(&grains, 56, &text, stream),
        ),
        (
            "vmdk_parts",
            "cowd",
            vmdk::cowd(&grains, 56, 16)[..4096].to_vec(),
        ),
        (
            "vmdk_parts",
            "sesparse",
            vmdk::se_sparse(&grains, 32)[..5120].to_vec(),
        ),
        ("vmdk_parts", "descriptor", mixed.into_bytes()),
    ]
}

fn others() -> Vec<Seed> {
    let sectors = vec![Some([5; 512]); 16];
    let made = vhd::Made {
        size: 8192,
        block: 4096,
        ..vhd::Made::default()
    };
    let child = vhd::Made {
        parent: Some((2, "base.vhd")),
        ..made.clone()
    };
    let old = vhd::Made {
        creator: *b"vpc ",
        ..made.clone()
    };
    let blocks = [Some(vec![1; 8192]), None, Some(vec![2; 8192]), None];
    let image = vdi::Made {
        size: 32768,
        extra: 512,
        ..vdi::Made::default()
    };
    let difference = vdi::Made {
        kind: 4,
        ids: [3, 33, 2, 22],
        ..image.clone()
    };
    vec![
        (
            "vdi_parts",
            "difference",
            vdi::image(&blocks, &difference)[..1024].to_vec(),
        ),
        (
            "vhd_parts",
            "dynamic",
            vhd::dynamic(&sectors, &made)[..3072].to_vec(),
        ),
        (
            "vhd_parts",
            "differencing",
            vhd::dynamic(&sectors, &child)[..3072].to_vec(),
        ),
        ("vhd_parts", "fixed", vhd::fixed(&[], &made)),
        ("vhd_parts", "geometry", vhd::fixed(&[], &old)),
        (
            "vdi_parts",
            "dynamic",
            vdi::image(&blocks, &image)[..1024].to_vec(),
        ),
    ]
}

fn vhdxs() -> Vec<Seed> {
    const MIB: usize = 1 << 20;
    let made = vhdx::Made {
        size: 3 << 20,
        parent: Some((2, "base.vhdx")),
        ..vhdx::Made::default()
    };
    let mut file = vhdx::file(
        &[Block::Data(vec![7; MIB]), Block::Below, Block::Zero(2)],
        &made,
    );
    let table = file[BLOCK_TABLE..][..4096].to_vec();
    let changes = vec![
        Change::Data(BLOCK_TABLE as u64, table),
        Change::Zero(5 << 20, 8192),
    ];
    write_log(
        &mut file,
        &[changes, vec![Change::Zero(6 << 20, 4096)]],
        0,
        5,
    );
    let part = |choice: u8, at: usize, len: usize| {
        let mut seed = vec![choice];
        seed.extend(&file[at..at + len]);
        seed
    };
    let headers = [part(0, 64 << 10, 4096), file[128 << 10..][..4096].to_vec()].concat();
    let metadata = [
        part(2, 3 * MIB, 4096),
        file[3 * MIB + (64 << 10)..][..1024].to_vec(),
    ]
    .concat();
    vec![
        ("vhdx_parts", "headers", headers),
        ("vhdx_parts", "regions", part(1, 192 << 10, 1024)),
        ("vhdx_parts", "metadata", metadata),
        ("vhdx_parts", "log", part(3, MIB, 16384)),
    ]
}

/// Tables, and an entry of each list. Whole headers are seeds of the target `qcow2`.
fn qcow2s() -> Vec<Seed> {
    let table = |choice: [u8; 2], entries: &[u64]| {
        let entries = entries.iter().flat_map(|entry| entry.to_be_bytes());
        choice.into_iter().chain(entries).collect::<Vec<u8>>()
    };
    let plain = [
        1 << 63 | 0x50000,
        0,
        1,
        0x60000,
        1 << 62 | 1 << 54 | 0x50100,
    ];
    let partly = [
        1 << 63 | 0x50000,
        0x0000_ff00_0000_00ff,
        0,
        0xffff_0000_0000,
    ];
    let mut snapshot = vec![7, 0, 0, 0, 0, 0, 0, 5, 0, 0];
    snapshot.extend([0, 0, 0, 1, 0, 1, 0, 4]);
    snapshot.resize(2 + 36, 0);
    snapshot.extend(16u32.to_be_bytes());
    snapshot.extend(0u64.to_be_bytes());
    snapshot.extend((1u64 << 20).to_be_bytes());
    snapshot.extend(b"1name\0\0\0\0\0\0\0");
    let mut bitmap = vec![7, 0, 1];
    bitmap.extend(0x50000u64.to_be_bytes());
    bitmap.extend([0, 0, 0, 1, 0, 0, 0, 2, 1, 16, 0, 4, 0, 0, 0, 0]);
    bitmap.extend(b"bits\0\0\0\0");
    vec![
        ("qcow2_parts", "table", table([7, 1], &plain)),
        ("qcow2_parts", "old_table", table([7, 0], &plain[..2])),
        ("qcow2_parts", "subclusters", table([16 + 7, 1], &partly)),
        ("qcow2_parts", "snapshot", snapshot),
        ("qcow2_parts", "bitmap", bitmap),
    ]
}

fn ovas() -> Vec<Seed> {
    let text = ova::descriptor(&[("a&b.vmdk", 1 << 20), ("c.vmdk", 512)]);
    let sums = format!(
        "SHA256(a.ovf)= {}\nSHA1(c.vmdk)= {}\n",
        "0f".repeat(32),
        "a0".repeat(20)
    );
    let name = "12 path=pax\n14 size=00003\n".as_bytes();
    let mut long = ova::header("x", b'x', name.len() as u64);
    long.extend(name);
    long.resize(1024, 0);
    long.extend(ova::tar(&[("short", b"abc")]));
    let tar = ova::tar(&[
        ("a.ovf", text.as_bytes()),
        ("a.mf", sums.as_bytes()),
        ("c.vmdk", b"c"),
    ]);
    vec![
        ("ova_parts", "tar", tar),
        ("ova_parts", "pax", long),
        ("ova_parts", "descriptor", text.into_bytes()),
        ("ova_parts", "manifest", sums.into_bytes()),
    ]
}

fn packed() -> Vec<Seed> {
    let text = b"disk after disk ".repeat(64);
    let run = |packed: &[u8]| [&[4, 0], packed].concat();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    let writers: [&mut dyn Write; 4] = [&mut gzip, &mut deflate, &mut zlib, &mut xz];
    for writer in writers {
        writer.write_all(&text).unwrap();
    }
    let zlib = zlib.finish().unwrap();
    let zstd = zstd::bulk::compress(&text, 3).unwrap();
    let size = u32::try_from(zlib.len()).unwrap();
    let grain = [&7u64.to_le_bytes()[..], &size.to_le_bytes(), &zlib].concat();
    vec![
        ("unpack", "gz", gzip.finish().unwrap()),
        ("unpack", "xz", xz.finish().unwrap()),
        ("unpack", "zst", zstd.clone()),
        ("unpack", "deflate", run(&deflate.finish().unwrap())),
        ("unpack", "zlib", run(&zlib)),
        ("unpack", "zstd", run(&zstd)),
        ("unpack", "grain", run(&grain)),
    ]
}

fn texts() -> Vec<Seed> {
    let texts = [
        (
            "words",
            "sha1",
            "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
        ),
        ("words", "md5", "MD5:900150983cd24fb0d6963f7d28e17f72"),
        (
            "words",
            "s3",
            "s3://s3.eu-west-1.amazonaws.com/b/dir/disk 1.img",
        ),
        ("words", "gcs", "gs://bucket/dir/disk.img"),
        ("words", "web", "http://user@[::1]:9000/b/o?x=y#z"),
        (
            "registry",
            "name",
            "docker://quay.io/containerdisks/fedora:40",
        ),
        (
            "registry",
            "digest",
            "docker://h.x/a@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            "registry",
            "challenge",
            "Bearer realm=\"https://a.x/token\",service=\"r\",scope=\"repository:a:pull\"",
        ),
        (
            "registry",
            "list",
            r#"{"manifests":[{"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","platform":{"os":"linux","architecture":"amd64"}}]}"#,
        ),
        (
            "registry",
            "image",
            r#"{"config":{"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},"layers":[{"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]}"#,
        ),
        (
            "registry",
            "config",
            r#"{"architecture":"amd64","config":{"Env":["A=b"]}}"#,
        ),
        ("names", "plain", "below/../base"),
        ("names", "link", "good"),
    ];
    let texts = texts.map(|(target, name, text)| (target, name, text.as_bytes().to_vec()));
    texts.to_vec()
}

fn heads() -> Vec<Seed> {
    let mut dos = vec![0; 512];
    dos[446 + 4] = 0x83;
    dos[446 + 8] = 1;
    dos[446 + 12] = 9;
    dos[510..].copy_from_slice(b"\x55\xaa");
    let mut gpt = vec![0; 1536];
    gpt[512..520].copy_from_slice(b"EFI PART");
    for (at, value) in [
        (512 + 72, 2),
        (512 + 80, 4),
        (512 + 84, 128),
        (1024, 9),
        (1024 + 40, 99),
    ] {
        gpt[at] = value;
    }
    gpt[1024 + 56] = b'E';
    vec![("disk_head", "dos", dos), ("disk_head", "gpt", gpt)]
}
