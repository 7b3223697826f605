//! Images whose parts are made up, read as a source.

use super::ImageSource;
use crate::endpoint::Limits;
use crate::error::{Kind, Result};
use crate::extent::{ByteRange, ExtentKind};
use crate::format::{Codec, Facts, Image, Mapped, Packed, Storage, To};
use crate::source::Source;
use crate::testkit::image::over;
use crate::testkit::{Call, MemSource, check_image, check_source};
use async_trait::async_trait;
use libdeflater::{CompressionLvl, Compressor};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use std::sync::Arc;

const UNIT: u64 = 4096;

/// Units that are zero, raw or packed, wherever the test put them.
#[derive(Debug)]
struct Made {
    parts: Vec<Mapped>,
    size: u64,
}

#[async_trait]
impl Image for Made {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        UNIT
    }

    fn facts(&self) -> Facts {
        Facts {
            format: "made",
            virtual_size: self.size,
            ..Facts::default()
        }
    }

    /// Three parts at a time, so that whoever reads must ask on.
    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let parts = self.parts.iter().map(|part| part.within(range));
        Ok(parts
            .filter(|part| !part.range.is_empty())
            .take(3)
            .collect())
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut packer = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; packer.deflate_compress_bound(bytes.len())];
    let len = packer.deflate_compress(bytes, &mut out).unwrap();
    out.truncate(len);
    out
}

fn byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// A storage whose requests are multiples of `align`; for threads, too, if it is `near`.
fn disk(align: u32, near: bool) -> MemSource {
    let limits = Limits {
        align,
        ..Limits::NONE
    };
    let disk = MemSource::new(8 << 20).with_limits(limits);
    if near { disk.at_hand() } else { disk }
}

/// An image of units of kind 0 (zero), 1 (raw) or 2 (packed), each placed after a gap of so many
/// bytes in the storage; what it holds; and the storage.
fn made(kinds: &[(u8, u64)], tail: u64, disk: MemSource) -> (Made, Vec<u8>, MemSource) {
    let storage: Arc<dyn Storage> = over(disk.clone());
    let size = kinds.len() as u64 * UNIT - tail;
    let (mut bytes, mut parts, mut place) = (Vec::new(), Vec::new(), 0u64);
    for (unit, (kind, gap)) in (0u64..).zip(kinds) {
        place += gap;
        let content: Vec<u8> = (0..UNIT)
            .map(|at| {
                if *kind == 0 {
                    0
                } else {
                    byte(at / 7 + unit) | 1
                }
            })
            .collect();
        let to = match kind {
            0 => To::Zero,
            1 => {
                disk.put(place, &content);
                let offset = place;
                place += UNIT;
                let storage = Arc::clone(&storage);
                To::Raw { storage, offset }
            }
            _ => {
                let packed = deflate(&content);
                disk.put(place, &packed);
                let run = Packed {
                    storage: Arc::clone(&storage),
                    offset: place,
                    // What follows is none of its business.
                    len: u32::try_from(packed.len()).unwrap() + 100,
                    codec: Codec::Deflate,
                    unpacked: 4096,
                };
                place += packed.len() as u64;
                To::Packed { run, skip: 0 }
            }
        };
        bytes.extend(content);
        let range = ByteRange::at(unit * UNIT, UNIT).intersect(ByteRange::new(0, size));
        parts.push(Mapped { range, to });
    }
    bytes.truncate(usize::try_from(size).unwrap());
    (Made { parts, size }, bytes, disk)
}

fn source(image: Made, disk: &MemSource) -> ImageSource {
    ImageSource::new(Arc::new(image), disk.identity())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The oracle is the list of bytes that the image was made from.
    #[test]
    fn an_image_reads_as_what_it_was_made_from(
        kinds in vec((0u8..3, 0u64..3), 1..40),
        far in 0usize..40,
        tail in 0u64..UNIT,
        align in 0u32..2,
        near in any::<bool>(),
    ) {
        let mut kinds: Vec<_> = kinds.iter().map(|(kind, gap)| (*kind, gap * 512)).collect();
        if let Some(unit) = kinds.get_mut(far) {
            unit.1 += 300 << 10;
        }
        let (image, bytes, disk) = made(&kinds, tail, disk(1 + align * 4095, near));
        if align == 0 {
            prop_assert_eq!(wait(check_image(&image, &bytes)), Ok(()));
        }
        prop_assert_eq!(wait(check_source(&source(image, &disk), &bytes)), Ok(()));
    }
}

#[test]
fn one_raw_run_is_read_straight_and_a_crowd_of_parts_in_one_request() {
    let (image, _, disk) = made(&[(1, 0); 16], 0, disk(1, false));
    let source = source(image, &disk);
    let reads = |disk: &MemSource| {
        let calls = disk.calls();
        calls
            .iter()
            .filter(|call| matches!(call, Call::Read(_)))
            .count()
    };
    let buffer = || crate::buffer::Buffer::unbudgeted(4096);
    wait(source.read(4096, buffer())).unwrap();
    assert_eq!(disk.calls(), [Call::Read(ByteRange::at(4096, 4096))]);
    wait(source.read(0, crate::buffer::Buffer::unbudgeted(65536))).unwrap();
    assert_eq!(reads(&disk), 2);
}

#[test]
fn a_unit_that_is_wanted_in_parts_is_read_and_unpacked_once() {
    let (image, bytes, disk) = made(&[(2, 0); 4], 0, disk(1, false));
    let source = source(image, &disk);
    for start in (0..16384).step_by(512) {
        let read = wait(source.read(start, crate::buffer::Buffer::unbudgeted(512)));
        let start = usize::try_from(start).unwrap();
        assert_eq!(*read.unwrap(), bytes[start..start + 512]);
    }
    assert_eq!(disk.calls().len(), 4);
}

#[test]
fn a_damaged_unit_is_corrupt_and_says_where() {
    for (near, start, len) in [
        (false, 4096, 4096),
        (false, 4096, 512),
        (false, 0, 8192),
        (true, 0, 8192),
    ] {
        let (image, _, disk) = made(&[(1, 0), (2, 0)], 0, disk(1, near));
        disk.put(4096, &[0xff; 64]);
        let source = source(image, &disk);
        let read = wait(source.read(start, crate::buffer::Buffer::unbudgeted(len)));
        let error = read.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(
            error
                .line()
                .contains("unpack compressed data at offset 0x1000"),
            "{error:?}"
        );
    }
}

#[test]
fn of_what_is_at_hand_long_parts_are_read_one_by_one_and_short_ones_together() {
    let (image, bytes, disk) = made(&[(1, 512), (2, 512), (0, 0), (1, 512)], 0, disk(1, true));
    let all = crate::buffer::Buffer::unbudgeted(bytes.len());
    let read = wait(source(image, &disk).read(0, all)).unwrap();
    assert_eq!(*read, bytes);
    assert_eq!(disk.calls().len(), 1, "{:?}", disk.calls());

    let disk = MemSource::new(1 << 20).at_hand();
    disk.put(1 << 16, &[7; 32768]);
    let part = |number: u64| Mapped {
        range: ByteRange::at(number * 16384, 16384),
        to: To::Raw {
            storage: over(disk.clone()),
            offset: (1 << 16) + (1 - number) * 16384,
        },
    };
    let image = Made {
        parts: vec![part(0), part(1)],
        size: 32768,
    };
    let all = crate::buffer::Buffer::unbudgeted(32768);
    let read = wait(source(image, &disk).read(0, all)).unwrap();
    assert_eq!(*read, [7; 32768]);
    let places = [(1 << 16) + 16384, 1 << 16];
    let expected = places.map(|at| Call::Read(ByteRange::at(at, 16384)));
    assert_eq!(disk.calls(), expected);
}

#[test]
fn zeroes_and_holes_in_long_raw_runs_are_told() {
    let disk = MemSource::new(128 << 20);
    disk.put(80 << 20, &[1; 4096]);
    let part = |start: u64, to| Mapped {
        range: ByteRange::at(start, 64 << 20),
        to,
    };
    let raw = To::Raw {
        storage: over(disk.clone()),
        offset: 64 << 20,
    };
    let image = Made {
        parts: vec![part(0, To::Zero), part(64 << 20, raw)],
        size: 128 << 20,
    };
    let found = wait(source(image, &disk).extents(ByteRange::new(0, 128 << 20))).unwrap();
    let kinds: Vec<_> = found
        .iter()
        .map(|extent| (extent.range.start, extent.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (0, ExtentKind::Zero),
            (80 << 20, ExtentKind::Data),
            ((80 << 20) + 4096, ExtentKind::Zero)
        ]
    );
}
