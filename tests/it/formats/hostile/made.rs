//! Small images of every format, in all the forms that there are makers of.

use crate::formats::{convert, mixed_disk};
use crate::rig::Room;
use diskferry::testkit::vmdk::{Grain, cowd, descriptor, se_sparse};
use diskferry::testkit::{ova, vdi, vhd, vhdx};
use std::fs;

/// The files of an image.
type Files = Vec<(&'static str, Vec<u8>)>;

/// An image that is sound.
pub(super) struct Sound {
    pub(super) format: &'static str,
    pub(super) name: &'static str,
    /// The one that is opened, and those that it names. One of them is damaged.
    pub(super) files: Files,
    pub(super) damaged: &'static str,
}

fn sound(format: &'static str, name: &'static str, bytes: Vec<u8>) -> Sound {
    let files = vec![("image", bytes)];
    let damaged = "image";
    Sound {
        format,
        name,
        files,
        damaged,
    }
}

/// All of them.
pub(super) fn all(room: &Room) -> Vec<Sound> {
    mixed_disk(&room.path("disk"), 300 << 10, 5);
    let disk = fs::read(room.path("disk")).unwrap();
    let mut found = vec![sound("raw", "raw", disk.clone())];
    found.extend(by_qemu_img(room));
    found.extend(esx());
    found.push(differencing(&disk));
    found.push(logged());
    found.push(difference());
    let stream = found.iter().find(|sound| sound.name == "stream").unwrap();
    let vmdk = stream.files[0].1.clone();
    let ovf = ova::descriptor(&[("disk.vmdk", 300 << 10)]);
    let members = [("a.ovf", ovf.as_bytes()), ("disk.vmdk", &vmdk)];
    found.push(sound("ova", "ova", ova::tar(&members)));
    found
}

fn by_qemu_img(room: &Room) -> Vec<Sound> {
    let kinds: [(_, _, _, &[&str]); 10] = [
        (
            "vmdk",
            "vmdk",
            "sparse",
            &["-o", "subformat=monolithicSparse"],
        ),
        (
            "vmdk",
            "vmdk",
            "stream",
            &["-o", "subformat=streamOptimized"],
        ),
        (
            "vhdx",
            "vhdx",
            "dynamic_vhdx",
            &["-o", "subformat=dynamic,block_size=1M,log_size=1M"],
        ),
        (
            "vhd",
            "vpc",
            "dynamic_vhd",
            &["-o", "subformat=dynamic,force_size=on"],
        ),
        (
            "vhd",
            "vpc",
            "fixed_vhd",
            &["-o", "subformat=fixed,force_size=on"],
        ),
        ("vdi", "vdi", "vdi", &["-o", "static=off"]),
        (
            "qcow2",
            "qcow2",
            "qcow2",
            &["-o", "cluster_size=4k,compat=1.1"],
        ),
        (
            "qcow2",
            "qcow2",
            "subclusters",
            &["-o", "cluster_size=16k,extended_l2=on"],
        ),
        ("qcow2", "qcow2", "zlib", &["-c", "-o", "cluster_size=4k"]),
        (
            "qcow2",
            "qcow2",
            "zstd",
            &["-c", "-o", "compression_type=zstd"],
        ),
    ];
    let made = kinds.into_iter().map(|(format, theirs, name, options)| {
        convert(room, theirs, options, "disk", "image");
        sound(format, name, fs::read(room.path("image")).unwrap())
    });
    made.collect()
}

/// A difference of VirtualBox, which finds its parent by what is in it.
fn difference() -> Sound {
    let blocks = |seed: u8| -> Vec<_> {
        let block = |number: u8| (number % 3 == seed).then(|| vec![number + 1; 4096]);
        (0..40).map(block).collect()
    };
    let made = |kind, ids| vdi::Made {
        size: 40 * 4096,
        block: 4096,
        kind,
        ids,
        ..vdi::Made::default()
    };
    let top = vdi::image(&blocks(1), &made(4, [2, 22, 1, 11]));
    let base = vdi::image(&blocks(0), &made(1, [1, 11, 0, 0]));
    Sound {
        format: "vdi",
        name: "difference",
        files: vec![("top.vdi", top), ("base.vdi", base)],
        damaged: "top.vdi",
    }
}

/// Redo logs of ESX, which are parts of a disk that a descriptor names.
fn esx() -> [Sound; 2] {
    let grains: Vec<_> = (0..40u8)
        .map(|number| match number % 3 {
            0 => Grain::Data(vec![number; 4096]),
            _ => Grain::Below,
        })
        .collect();
    let disk = |name, kind: &str, extent: &str, bytes: Vec<u8>| {
        let text = descriptor(kind, 1, None, &[&format!("RW 320 {extent} \"extent\"")]);
        Sound {
            format: "vmdk",
            name,
            files: vec![("disk", text.into_bytes()), ("extent", bytes)],
            damaged: "extent",
        }
    };
    [
        disk("cowd", "vmfsSparse", "VMFSSPARSE", cowd(&grains, 320, 8)),
        disk("se", "seSparse", "SESPARSE", se_sparse(&grains, 320)),
    ]
}

fn differencing(disk: &[u8]) -> Sound {
    let sectors: Vec<_> = (0..600usize)
        .map(|at| (at % 5 < 2).then_some([at.to_le_bytes()[0]; 512]))
        .collect();
    let made = vhd::Made {
        size: 600 * 512,
        parent: Some((2, "base")),
        ..vhd::Made::default()
    };
    let base = vhd::Made {
        id: 2,
        parent: None,
        ..made.clone()
    };
    let base = vhd::fixed(disk, &base);
    Sound {
        format: "vhd",
        name: "differencing_vhd",
        files: vec![("top", vhd::dynamic(&sectors, &made)), ("base", base)],
        damaged: "top",
    }
}

/// A file that was not closed.
fn logged() -> Sound {
    let blocks = vec![vhdx::Block::Data(vec![7; 1 << 20]), vhdx::Block::Below];
    let made = vhdx::Made {
        size: 2 << 20,
        ..vhdx::Made::default()
    };
    let mut bytes = vhdx::file(&blocks, &made);
    let change = vhdx::Change::Data(4 << 20, vec![9; 4096]);
    vhdx::write_log(&mut bytes, &[vec![change]], 0, 1);
    sound("vhdx", "logged_vhdx", bytes)
}
