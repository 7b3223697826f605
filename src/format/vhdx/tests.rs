//! VHDX files made by hand, in memory.

use super::log;
use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::format::Image;
use crate::testkit::image::{content, open, wander};
use crate::testkit::vhdx::{BLOCK_TABLE, Block, Change, Made, file, header, seal, write_log};
use crate::testkit::{MemFiles, check_image};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn block(number: usize, layer: usize) -> Vec<u8> {
    let byte = |at: usize| ((at / 100 + number * 7 + layer * 31) % 250).to_le_bytes()[0] + 1;
    (0..MIB).map(byte).collect()
}

/// Kinds 0 (below), 1 to 3 (zero), 4 (data) and 5 (partly) → blocks.
fn blocks(kinds: &[u8], layer: usize, sector: usize) -> Vec<Block> {
    let block = |(number, kind): (usize, &u8)| match kind {
        0 => Block::Below,
        1..=3 => Block::Zero(*kind),
        4 => Block::Data(block(number, layer)),
        _ => {
            let here = (0..MIB / sector).map(|at| at / 3 * 7 % 5 < 2 || at == 99);
            Block::Partly(block(number, layer), here.collect())
        }
    };
    kinds.iter().enumerate().map(block).collect()
}

fn over(blocks: &[Block], made: &Made, below: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; blocks.len() * MIB];
    bytes[..below.len()].copy_from_slice(below);
    for (to, block) in bytes.chunks_mut(MIB).zip(blocks) {
        match block {
            Block::Below => {}
            Block::Zero(_) => to.fill(0),
            Block::Data(data) => to.copy_from_slice(data),
            Block::Partly(data, here) => {
                let sectors = to.chunks_mut(made.sector).zip(data.chunks(made.sector));
                for ((to, from), _) in sectors.zip(here).filter(|(_, here)| **here) {
                    to.copy_from_slice(from);
                }
            }
        }
    }
    bytes.truncate(usize::try_from(made.size).unwrap());
    bytes
}

fn made(blocks: usize, sector: usize) -> Made {
    Made {
        // The last block is not full.
        size: (blocks * MIB - 8192) as u64,
        sector,
        ..Made::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_dynamic_disk_reads_as_its_blocks(kinds in vec(0u8..5, 1..6), large in any::<bool>()) {
        let made = made(kinds.len(), if large { 4096 } else { 512 });
        let blocks = blocks(&kinds, 1, made.sector);
        let image = wait(open("vhdx", &file(&blocks, &made))).unwrap();
        prop_assert_eq!(wait(check_image(image.as_ref(), &over(&blocks, &made, &[]))), Ok(()));
    }

    /// Sector by sector, from three layers of which the lowest is shorter.
    #[test]
    fn a_chain_reads_as_its_layers_over_each_other(
        top in vec(0u8..6, 4), middle in vec(0u8..6, 4), base in vec(0u8..5, 3),
        large in any::<bool>(),
    ) {
        let sector = if large { 4096 } else { 512 };
        let base_made = Made { id: 3, ..made(3, sector) };
        let middle_made = Made { id: 2, parent: Some((3, "base.vhdx")), ..made(4, sector) };
        let top_made = Made { id: 1, parent: Some((2, "middle.vhdx")), ..made(4, sector) };
        let (bases, middles, tops) =
            (blocks(&base, 3, sector), blocks(&middle, 2, sector), blocks(&top, 1, sector));
        let files = MemFiles::default()
            .with("base.vhdx", &file(&bases, &base_made))
            .with("middle.vhdx", &file(&middles, &middle_made))
            .with("top.vhdx", &file(&tops, &top_made));
        let image = wait(files.image("vhdx", "top.vhdx")).unwrap();
        let expected = over(&bases, &base_made, &[]);
        let expected = over(&tops, &top_made, &over(&middles, &middle_made, &expected));
        let whole = ByteRange::new(0, image.size());
        let found = wait(content(image.as_ref(), whole)).unwrap();
        prop_assert!(found == expected, "top {:?} middle {:?} base {:?}", top, middle, base);
        prop_assert_eq!(wait(check_image(image.as_ref(), &expected)), Ok(()));
    }
}

fn small() -> (Vec<u8>, Vec<u8>) {
    let made = made(2, 512);
    let blocks = blocks(&[4, 0], 1, 512);
    (file(&blocks, &made), over(&blocks, &made, &[]))
}

fn read(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let image: Arc<dyn Image> = wait(open("vhdx", bytes))?;
    wait(content(image.as_ref(), ByteRange::new(0, image.size())))
}

#[test]
fn one_torn_header_or_region_table_is_survivable_and_two_are_not() {
    let (bytes, expected) = small();
    for (one, two, what) in [
        (64 << 10, 128 << 10, "header"),
        (192 << 10, 256 << 10, "region table"),
    ] {
        for at in [one, two] {
            let mut torn = bytes.clone();
            torn[at + 4000] ^= 1; // the checksum covers all of it, not just the fields
            assert_eq!(read(&torn).unwrap(), expected, "{what} {at:#x}");
        }
        let mut torn = bytes.clone();
        torn[one + 4000] ^= 1;
        torn[two + 4000] ^= 1;
        let line = read(&torn).unwrap_err().line();
        assert!(
            line.contains(&format!("neither copy of its {what}")),
            "{line}"
        );
    }
}

#[test]
fn the_newer_header_counts_wherever_it_is() {
    let (mut bytes, _) = small();
    let unknown_log = header(100, 1, 0x55);
    bytes[64 << 10..][..4096].copy_from_slice(&unknown_log);
    let line = read(&bytes).unwrap_err().line();
    assert!(line.contains("no valid sequence"), "{line}");
}

/// The table of blocks as the log has it: what is in the file is stale.
fn logged(bytes: &[u8]) -> Change {
    Change::Data(BLOCK_TABLE as u64, bytes[BLOCK_TABLE..][..4096].to_vec())
}

#[test]
fn a_file_that_was_not_closed_reads_as_its_log_leaves_it() {
    let (bytes, expected) = small();
    let junk = Change::Data(BLOCK_TABLE as u64, vec![0xff; 4096]);
    let zero = Change::Zero(BLOCK_TABLE as u64, 8192);
    // In the middle of the ring, around its end, and after what is stale.
    for start in [0, 100, 253, 255] {
        let mut dirty = bytes.clone();
        write_log(
            &mut dirty,
            &[vec![junk.clone(), junk.clone()], vec![junk.clone()]],
            40,
            1000,
        );
        let entries = [
            vec![junk.clone(), zero.clone()],
            vec![zero.clone(), logged(&bytes)],
        ];
        write_log(&mut dirty, &entries, start, 2000);
        dirty[BLOCK_TABLE..BLOCK_TABLE + 4096].fill(0xee);
        assert_eq!(read(&dirty).unwrap(), expected, "{start}");
        let image = wait(open("vhdx", &dirty)).unwrap();
        assert!(image.facts().warnings[0].contains("2 entries of its log"));
    }
}

#[test]
fn a_log_that_cannot_be_replayed_is_an_error_and_not_left_out() {
    let (bytes, _) = small();
    let mut dirty = bytes.clone();
    write_log(&mut dirty, &[vec![logged(&bytes)]], 9, 7);
    let at = MIB + 9 * 4096;
    for (place, value) in [(at + 100, 1), (at + 4096 + 5000 - 4096, 1), (at, b'x')] {
        let mut damaged = dirty.clone();
        damaged[place] ^= value;
        let error = read(&damaged).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(
            error.line().contains("its log cannot be replayed"),
            "{error:?}"
        );
    }
    // It was longer when the log was written.
    let mut short = dirty.clone();
    short.truncate(dirty.len() - MIB);
    let line = read(&short).unwrap_err().line();
    assert!(line.contains("shorter than it was"), "{line}");
}

#[test]
fn a_log_of_entries_that_claim_each_other_ends() {
    let mut ring = vec![0; 16 << 20];
    for sector in ring.chunks_mut(4096) {
        sector[..4].copy_from_slice(b"loge");
        sector[8..12].copy_from_slice(&(16u32 << 20).to_le_bytes());
        sector[16] = 1;
        sector[32] = 0x1a;
    }
    let mut guid = [0; 16];
    guid[0] = 0x1a;
    let fault = log::replay(&ring, &guid, 1 << 30).unwrap_err();
    assert!(fault.to_string().contains("overlap"), "{fault}");
}

#[test]
fn a_parent_that_was_written_since_is_refused() {
    let child = Made {
        parent: Some((9, "base.vhdx")),
        ..made(1, 512)
    };
    let base = Made {
        id: 8,
        ..made(1, 512)
    };
    let files = MemFiles::default()
        .with("base.vhdx", &file(&[Block::Below], &base))
        .with("top.vhdx", &file(&[Block::Below], &child));
    let error = wait(files.image("vhdx", "top.vhdx")).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        error.line().contains("last written as 00000008"),
        "{error:?}"
    );
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error() {
    let (bytes, _) = small();
    let near = |at: usize| at.saturating_sub(40)..at + 40;
    let starts = [
        0,
        520,
        64 << 10,
        128 << 10,
        192 << 10,
        256 << 10,
        2 * MIB,
        3 * MIB,
    ];
    let steps = (0..bytes.len()).step_by(50_000);
    for end in starts.into_iter().flat_map(near).chain(steps) {
        assert!(read(&bytes[..end]).is_err(), "{end}");
    }
    assert!(read(&bytes[..bytes.len() - 1]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_damaged_image_neither_panics_nor_grows(
        flips in vec((0usize..8, 0usize..4200, any::<u8>()), 1..5),
    ) {
        let made = made(2, 512);
        let mut bytes = file(&blocks(&[4, 2], 1, 512), &made);
        write_log(&mut bytes, &[vec![Change::Data(BLOCK_TABLE as u64, vec![0; 4096])]], 3, 5);
        let places = [64 << 10, 128 << 10, 192 << 10, 3 * MIB, 3 * MIB + (64 << 10), 2 * MIB,
            MIB + 3 * 4096, 0];
        for (place, at, value) in flips {
            bytes[places[place] + at] = value;
        }
        // A checksum keeps nobody out who wants in.
        for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (MIB + 12288, 8192)] {
            seal(&mut bytes, at..at + len);
        }
        let broken = wait(wander("vhdx", &bytes)).err();
        prop_assert!(broken.is_none_or(|error| error.kind() != Kind::Mismatch));
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_ends() {
    let names = [(1, "./a.vhdx", "b.vhdx"), (2, "./b.vhdx", "a.vhdx")];
    let files = names
        .into_iter()
        .fold(MemFiles::default(), |files, (id, name, parent)| {
            let child = Made {
                id,
                parent: Some((3 - id, parent)),
                ..made(1, 512)
            };
            files.with(name, &file(&[Block::Below], &child))
        });
    let error = wait(files.image("vhdx", "./a.vhdx")).unwrap_err();
    assert!(error.line().contains("comes back to it"), "{error:?}");
}
