//! VHDs made by hand, in memory.

use super::Vhd;
use crate::error::Kind;
use crate::extent::ByteRange;
use crate::format::{Ends, Format};
use crate::testkit::image::{content, open, wander};
use crate::testkit::vhd::{Made, dynamic, fixed};
use crate::testkit::{MemFiles, check_image};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Sectors that are here (of a byte that tells which and in which layer), and those that are not.
fn sectors(here: &[bool], layer: u8) -> Vec<Option<[u8; 512]>> {
    let sector = |(number, here): (usize, &bool)| {
        let byte = (number % 83).to_le_bytes()[0].wrapping_mul(3) + layer;
        here.then_some([byte; 512])
    };
    here.iter().enumerate().map(sector).collect()
}

/// What these sectors hold over `below`.
fn over(sectors: &[Option<[u8; 512]>], below: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, sector) in sectors.iter().enumerate() {
        let under = below.get(number * 512..).and_then(|rest| rest.get(..512));
        match sector {
            Some(sector) => bytes.extend(sector),
            None => bytes.extend(under.unwrap_or(&[0; 512])),
        }
    }
    bytes
}

fn made(sectors: usize) -> Made {
    Made {
        size: sectors as u64 * 512,
        block: 8192,
        ..Made::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_dynamic_disk_reads_as_its_blocks(here in vec(proptest::bool::weighted(0.2), 1..100)) {
        let sectors = sectors(&here, 1);
        let bytes = dynamic(&sectors, &made(sectors.len()));
        let image = wait(open("vhd", &bytes)).unwrap();
        prop_assert_eq!(wait(check_image(image.as_ref(), &over(&sectors, &[]))), Ok(()));
    }

    /// Sector by sector, from three layers of which the lowest is fixed and shorter.
    #[test]
    fn a_chain_reads_as_its_layers_over_each_other(
        top in vec(proptest::bool::ANY, 70), middle in vec(proptest::bool::ANY, 70),
    ) {
        let base = vec![7; 60 * 512];
        let (tops, middles) = (sectors(&top, 1), sectors(&middle, 2));
        let files = MemFiles::default()
            .with("base.vhd", &fixed(&base, &Made { id: 3, ..made(60) }))
            .with("middle.vhd", &dynamic(&middles, &Made {
                id: 2, parent: Some((3, "base.vhd")), ..made(70)
            }))
            .with("top.vhd", &dynamic(&tops, &Made {
                id: 1, parent: Some((2, "middle.vhd")), ..made(70)
            }));
        let image = wait(files.image("vhd", "top.vhd")).unwrap();
        let expected = over(&tops, &over(&middles, &base));
        prop_assert_eq!(wait(check_image(image.as_ref(), &expected)), Ok(()));
        prop_assert_eq!(image.facts().backing.unwrap().backing.unwrap().virtual_size, 60 * 512);
    }
}

#[test]
fn the_size_is_that_of_the_geometry_only_where_the_maker_had_it_so() {
    let data = vec![1; 100 * 512];
    let geometry = (5, 2, 8);
    for (creator, geometry, sectors) in [
        (b"vpc ", geometry, 80),
        (b"qemu", geometry, 80),
        (b"qem2", geometry, 100),
        (b"win ", geometry, 100),
        (b"vbox", geometry, 100),
        (b"tap\0", geometry, 100),
        (b"vpc ", (65535, 16, 255), 100),
    ] {
        let made = Made {
            creator: *creator,
            geometry,
            ..made(100)
        };
        let image = wait(open("vhd", &fixed(&data, &made))).unwrap();
        assert_eq!(image.size(), sectors * 512, "{creator:?} {geometry:?}");
    }
}

#[test]
fn a_parent_that_is_another_disk_is_refused() {
    let child = Made {
        parent: Some((9, "base.vhd")),
        ..made(16)
    };
    let files = MemFiles::default()
        .with("base.vhd", &fixed(&[0; 8192], &Made { id: 8, ..made(16) }))
        .with("top.vhd", &dynamic(&sectors(&[false; 16], 1), &child));
    let error = wait(files.image("vhd", "top.vhd")).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.line().contains("is disk 08"), "{error:?}");
    let alone = dynamic(&sectors(&[false; 16], 1), &child);
    assert_eq!(wait(open("vhd", &alone)).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error_unless_only_its_second_footer_is_gone() {
    let bytes = dynamic(&sectors(&[true; 40], 1), &made(40));
    let whole = ByteRange::new(0, 40 * 512);
    for end in (0..2600).chain((2600..bytes.len() - 512).step_by(128)) {
        let opened = wait(open("vhd", &bytes[..end]));
        let read = opened.and_then(|image| wait(content(image.as_ref(), whole)));
        // The last block is half empty: what is beyond the disk may be missing.
        assert!(read.is_err() || end + 512 + 4096 >= bytes.len(), "{end}");
    }
    let image = wait(open("vhd", &bytes[..bytes.len() - 512])).unwrap();
    assert!(image.facts().warnings[0].contains("no footer at its end"));
    let whole = fixed(&[1; 8192], &made(16));
    for end in 0..whole.len() {
        assert!(wait(open("vhd", &whole[..end])).is_err(), "{end}");
    }
}

#[test]
fn a_fixed_disk_is_known_by_its_end_and_a_dynamic_one_by_its_start() {
    let probe = |bytes: &[u8]| {
        Vhd.probe(&Ends {
            head: &bytes[..bytes.len().min(4096)],
            tail: &bytes[bytes.len().saturating_sub(1024)..],
            size: bytes.len() as u64,
        })
    };
    let disk = fixed(&[1; 8192], &made(16));
    assert!(probe(&disk));
    assert!(probe(&dynamic(&sectors(&[true; 9], 1), &made(9))));
    let mut damaged = disk.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(!probe(&damaged) && !probe(&disk[..8192]) && !probe(&[]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_damaged_image_neither_panics_nor_grows(
        flips in vec((0usize..4000, 0u8..=255), 1..6), repair in proptest::bool::ANY,
    ) {
        let mut bytes = dynamic(&sectors(&[true; 40], 1), &made(40));
        for (at, value) in flips {
            bytes[at] = value;
        }
        if repair {
            // A checksum keeps nobody out who wants in.
            for (start, len, at) in [(0, 512, 64), (512, 1024, 36)] {
                let part = &mut bytes[start..start + len];
                part[at..at + 4].fill(0);
                let sum: u32 = part.iter().map(|byte| u32::from(*byte)).sum();
                part[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
            }
            let end = bytes.len() - 512;
            bytes[end..].fill(0);
        }
        let broken = wait(wander("vhd", &bytes)).err();
        prop_assert!(broken.is_none_or(|error| error.kind() != Kind::Mismatch));
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_ends() {
    let child = Made {
        parent: Some((1, "a.vhd")),
        ..made(16)
    };
    let bytes = dynamic(&sectors(&[false; 16], 1), &child);
    let files = MemFiles::default().with("./a.vhd", &bytes);
    let error = wait(files.image("vhd", "./a.vhd")).unwrap_err();
    assert!(error.line().contains("comes back to it"), "{error:?}");
}
