//! VDIs made by hand, in memory.

use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::testkit::check_image;
use crate::testkit::image::{MemFiles, content, open, wander};
use crate::testkit::vdi::{Made, image};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Kinds 0 (free), 1 (zero) and 2 (data) → blocks; and what the disk holds.
fn blocks(kinds: &[u8], made: &Made) -> (Vec<Option<Vec<u8>>>, Vec<u8>) {
    let byte = |number: usize, at: usize| ((at / 9 + number * 7) % 250).to_le_bytes()[0] + 1;
    let block = |(number, kind): (usize, &u8)| {
        (*kind == 2).then(|| {
            (0..made.block)
                .map(|at| byte(number, at))
                .collect::<Vec<u8>>()
        })
    };
    let blocks: Vec<_> = kinds.iter().enumerate().map(block).collect();
    let zero = vec![0; made.block];
    let mut bytes: Vec<u8> = blocks
        .iter()
        .flat_map(|block| block.as_ref().unwrap_or(&zero).clone())
        .collect();
    bytes.truncate(usize::try_from(made.size).unwrap());
    (blocks, bytes)
}

fn made(blocks: usize) -> Made {
    Made {
        size: blocks as u64 * 8192 - 777,
        ..Made::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_disk_reads_as_its_blocks_whatever_is_before_them(
        kinds in vec(0u8..3, 1..30), extra in 0usize..3, mixed in any::<bool>(),
    ) {
        let made = Made { extra: extra * 512, backwards: mixed, ..made(kinds.len()) };
        let (blocks, bytes) = blocks(&kinds, &made);
        let image = wait(open("vdi", &image(&blocks, &made))).unwrap();
        prop_assert_eq!(wait(check_image(image.as_ref(), &bytes)), Ok(()));
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error() {
    let made = made(3);
    let bytes = image(&blocks(&[2, 0, 2], &made).0, &made);
    let read = |bytes: &[u8]| -> Result<Vec<u8>, Error> {
        let image = wait(open("vdi", bytes))?;
        wait(content(image.as_ref(), ByteRange::new(0, image.size())))
    };
    read(&bytes).unwrap();
    // The last block reaches 777 bytes beyond the disk.
    for end in (0..1100).chain((1100..bytes.len() - 777).step_by(97)) {
        assert!(read(&bytes[..end]).is_err(), "{end}");
    }
}

/// Three layers whose blocks are free (0), zero (1) or data (2) → what the top shows, and its error.
fn stack(kinds: &[[u8; 3]], ids: [[u8; 4]; 3]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let made = |layer: usize| Made {
        kind: if layer == 0 { 1 } else { 4 },
        ids: ids[layer],
        block: 512,
        size: kinds.len() as u64 * 512 - 77,
        ..Made::default()
    };
    let block = |layer: usize, number: usize, kind: u8| match kind {
        2 => Some(vec![(layer * 80 + number % 70 + 1).to_le_bytes()[0]; 512]),
        _ => None,
    };
    let mut expected = Vec::new();
    let mut files = MemFiles::default();
    for layer in 0..3 {
        let blocks: Vec<_> = (kinds.iter().enumerate())
            .map(|(number, kinds)| block(layer, number, kinds[layer]))
            .collect();
        // What is not there is free in each first place, and zero in each second.
        files = files.with(&format!("layer{layer}.vdi"), &image(&blocks, &made(layer)));
    }
    for (number, kinds) in kinds.iter().enumerate() {
        let layers = (0..3).rev();
        let mut shown = layers.map_while(|layer| match kinds[layer] {
            2 => Some(block(layer, number, 2)),
            _ if number % 2 == 1 => None,
            _ => Some(None),
        });
        let here = shown.find_map(|block| block);
        expected.extend(here.unwrap_or(vec![0; 512]));
    }
    expected.truncate(kinds.len() * 512 - 77);
    let top = wait(files.with("noise.vdi", b"none").image("vdi", "layer2.vdi"))?;
    let read = wait(content(top.as_ref(), ByteRange::new(0, top.size())))?;
    wait(check_image(top.as_ref(), &expected)).unwrap();
    Ok((read, expected))
}

/// UUID, state, and those of the parent, of three layers.
const IDS: [[u8; 4]; 3] = [[1, 11, 0, 0], [2, 22, 1, 11], [3, 33, 2, 22]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_difference_shows_its_parents_where_it_has_nothing(
        kinds in vec([0u8..3, 0u8..3, 0u8..3], 1..40),
    ) {
        let (read, expected) = stack(&kinds, IDS).unwrap();
        prop_assert!(read == expected);
    }
}

#[test]
fn a_parent_that_is_gone_or_changed_or_comes_back_to_its_child_is_an_error() {
    let failed = |ids| {
        let error = stack(&[[2, 0, 2]], ids).unwrap_err();
        (error.kind(), error.line())
    };
    let (kind, line) = failed([IDS[0], [2, 22, 9, 11], IDS[2]]);
    assert_eq!(kind, Kind::Io);
    assert!(
        line.contains("09090909-0909-0909-0909-090909090909"),
        "{line}"
    );
    let (kind, line) = failed([[1, 12, 0, 0], IDS[1], IDS[2]]);
    assert_eq!(kind, Kind::Corrupt);
    assert!(
        line.contains("layer0.vdi") && line.contains("written to"),
        "{line}"
    );
    assert_eq!(
        failed([IDS[0], [2, 22, 3, 33], IDS[2]]).0,
        Kind::Io,
        "a circle"
    );
    assert_eq!(
        failed([IDS[0], IDS[1], [3, 33, 3, 33]]).0,
        Kind::Io,
        "itself"
    );
    assert_eq!(
        failed([[2, 22, 0, 0], IDS[1], IDS[2]]).0,
        Kind::Refused,
        "two of them"
    );
    // Nobody noted in which state the parent was.
    stack(&[[2, 0, 2]], [[1, 12, 0, 0], [2, 22, 1, 0], [3, 33, 2, 22]]).unwrap();
    let made = Made { kind: 4, ..made(1) };
    let alone = wait(open("vdi", &image(&[None], &made))).unwrap_err();
    assert!(
        alone.line().contains("--allow-backing DIR"),
        "{}",
        alone.line()
    );
    let made = Made { kind: 3, ..made };
    let undo = wait(open("vdi", &image(&[None], &made))).unwrap_err();
    assert_eq!(undo.kind(), Kind::Unsupported);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_damaged_image_neither_panics_nor_grows(
        flips in vec((64usize..700, any::<u8>()), 1..6),
    ) {
        let made = made(20);
        let mut bytes = image(&blocks(&[2; 20], &made).0, &made);
        for (at, value) in flips {
            bytes[at] = value;
        }
        let broken = wait(wander("vdi", &bytes)).err();
        prop_assert!(broken.is_none_or(|error| error.kind() != Kind::Mismatch));
    }
}
