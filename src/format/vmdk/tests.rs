//! VMDKs made by hand, in memory.

use super::{Forward, Piece, Vmdk};
use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::format::{Ends, Format, Image, To};
use crate::testkit::image::{content, open, wander};
use crate::testkit::vmdk::{Grain, Hosted, cowd, descriptor, hosted, se_sparse};
use crate::testkit::{MemFiles, MemSource, check_image};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use std::sync::Arc;

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Kinds 0 (below), 1 (zero) and 2 (data) → grains of `len` bytes, of which the disk has `size`.
fn grains(kinds: &[u8], len: usize, size: usize) -> Vec<Grain> {
    let grain = |(number, kind): (usize, &u8)| match kind {
        0 => Grain::Below,
        1 => Grain::Zero,
        _ => {
            let there = len.min(size - number * len);
            let byte = |at: usize| ((at / 5 + number * 7) % 250).to_le_bytes()[0] + 1;
            Grain::Data((0..there).map(byte).collect())
        }
    };
    kinds.iter().enumerate().map(grain).collect()
}

/// What a disk of these grains holds over `below`.
fn expected(grains: &[Grain], len: usize, below: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let kept = below.len().min(size);
    bytes[..kept].copy_from_slice(&below[..kept]);
    for (number, grain) in grains.iter().enumerate() {
        let at = number * len;
        let to = &mut bytes[at..size.min(at + len)];
        match grain {
            Grain::Below => {}
            Grain::Zero => to.fill(0),
            Grain::Data(data) => to.copy_from_slice(&data[..to.len()]),
        }
    }
    bytes
}

fn alone(kind: &str, sectors: u64) -> String {
    let line = format!("RW {sectors} SPARSE \"it.vmdk\"");
    descriptor(kind, 7, None, &[&line])
}

/// A disk of `sectors` in extents of its own, behind a descriptor.
fn behind(line: &str, extent: &[u8]) -> MemFiles {
    let text = descriptor("custom", 7, None, &[line]);
    let files = MemFiles::default();
    files
        .with("d.vmdk", text.as_bytes())
        .with("it.vmdk", extent)
}

fn disk(files: &MemFiles) -> Result<Arc<dyn Image>, Error> {
    wait(files.image("vmdk", "d.vmdk"))
}

/// The sectors of a disk of so many grains, the last of which lacks `short` sectors.
fn sectors(kinds: &[u8], grain: usize, short: usize) -> u64 {
    (kinds.len() * grain - short) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The oracle is the list of bytes that the grains were made from.
    #[test]
    fn a_hosted_extent_reads_as_its_grains(
        kinds in vec(0u8..3, 1..40), short in 0usize..16, stream in 0u8..2, version in 1u32..4,
        few in 0u8..2,
    ) {
        let how = Hosted {
            stream: stream == 1,
            version,
            entries: if few == 1 { 8 } else { 512 },
            ..Hosted::default()
        };
        let sectors = sectors(&kinds, 16, short);
        let size = usize::try_from(sectors).unwrap() * 512;
        let grains = grains(&kinds, 8192, size);
        let text = alone("monolithicSparse", sectors);
        let bytes = hosted(&grains, sectors, &text, how);
        let image = wait(open("vmdk", &bytes)).unwrap();
        let verdict = wait(check_image(image.as_ref(), &expected(&grains, 8192, &[], size)));
        prop_assert_eq!(verdict, Ok(()));
    }

    #[test]
    fn a_redo_log_and_a_sesparse_extent_read_as_their_grains(
        kinds in vec(0u8..3, 1..40), short in 0usize..8,
    ) {
        let sectors = sectors(&kinds, 8, short);
        let size = usize::try_from(sectors).unwrap() * 512;
        let all = grains(&kinds, 4096, size);
        let line = format!("RW {sectors} SESPARSE \"it.vmdk\"");
        let image = disk(&behind(&line, &se_sparse(&all, sectors))).unwrap();
        let verdict = wait(check_image(image.as_ref(), &expected(&all, 4096, &[], size)));
        prop_assert_eq!(verdict, Ok(()), "seSparse");

        // A redo log has no entry for zeroes.
        let kinds: Vec<u8> = kinds.iter().map(|kind| kind & 2).collect();
        let all = grains(&kinds, 4096, size);
        let line = format!("RW {sectors} VMFSSPARSE \"it.vmdk\"");
        let log = cowd(&all, u32::try_from(sectors).unwrap(), 8);
        let image = disk(&behind(&line, &log)).unwrap();
        let verdict = wait(check_image(image.as_ref(), &expected(&all, 4096, &[], size)));
        prop_assert_eq!(verdict, Ok(()), "COWD");
    }

    /// Three layers of different kinds and grain sizes, the lowest of them shorter.
    #[test]
    fn a_chain_reads_as_its_layers_over_each_other(
        top in vec(0u8..3, 8), middle in vec(0u8..3, 16), base in vec(0u8..3, 3),
    ) {
        let size = 65536;
        let (tops, middles, bases) = (
            grains(&top, 8192, size),
            grains(&middle.iter().map(|kind| kind & 2).collect::<Vec<_>>(), 4096, size),
            grains(&base, 8192, 20480),
        );
        let parent = descriptor("vmfs", 1, None, &["RW 40 SPARSE \"base.bin\""]);
        let child = descriptor("x", 2, Some((1, "/vmfs/x/base.vmdk")), &["RW 128 VMFSSPARSE \"m.bin\""]);
        let text = descriptor("monolithicSparse", 3, Some((2, "m.vmdk")), &["RW 128 SPARSE \"t\""]);
        let files = MemFiles::default()
            .with("base.bin", &hosted(&bases, 40, "", Hosted::default()))
            .with("base.vmdk", parent.as_bytes())
            .with("m.bin", &cowd(&middles, 128, 8))
            .with("m.vmdk", child.as_bytes())
            .with("d.vmdk", &hosted(&tops, 128, &text, Hosted::default()));
        let image = disk(&files).unwrap();
        let under = expected(&bases, 8192, &[], 20480);
        let under = expected(&middles, 4096, &under, size);
        let verdict = wait(check_image(image.as_ref(), &expected(&tops, 8192, &under, size)));
        prop_assert_eq!(verdict, Ok(()));
        prop_assert_eq!(image.facts().backing.unwrap().backing.unwrap().virtual_size, 20480);
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error() {
    let se = se_sparse(&grains(&[2, 0, 2], 4096, 3 * 4096), 24);
    let grains = grains(&[2, 0, 2], 8192, 3 * 8192);
    for stream in [false, true] {
        let how = Hosted {
            stream,
            ..Hosted::default()
        };
        let bytes = hosted(&grains, 48, &alone("x", 48), how);
        for end in (0..2048).chain((2048..bytes.len()).step_by(512)) {
            assert!(
                wait(wander("vmdk", &bytes[..end])).is_err(),
                "{stream} {end}"
            );
        }
        wait(wander("vmdk", &bytes)).unwrap();
    }
    let log = cowd(&grains, 48, 16);
    for (line, bytes) in [
        ("RW 48 VMFSSPARSE \"it.vmdk\"", log),
        ("RW 24 SESPARSE \"it.vmdk\"", se),
    ] {
        for end in (0..1100).chain((1100..bytes.len()).step_by(512)) {
            let opened = disk(&behind(line, &bytes[..end]));
            let read = opened
                .and_then(|image| wait(content(image.as_ref(), ByteRange::new(0, image.size()))));
            assert!(read.is_err(), "{line} {end}");
        }
    }
}

#[test]
fn extents_of_every_kind_keep_their_places() {
    let data = vec![5; 4096];
    let sparse = hosted(&[Grain::Data(vec![6; 8192])], 16, "", Hosted::default());
    let text = descriptor(
        "custom",
        7,
        None,
        &[
            "RW 4 FLAT \"flat one.bin\" 2",
            "RW 3 ZERO",
            "RDONLY 2 VMFS \"flat one.bin\"",
            "NOACCESS 5 FLAT \"/dev/sdz\" 0",
            "rw 16 sparse \"s.bin\"",
        ],
    );
    let files = MemFiles::default()
        .with("d.vmdk", text.as_bytes())
        .with("flat one.bin", &data)
        .with("s.bin", &sparse);
    let image = disk(&files).unwrap();
    let mut bytes = vec![5; 4 * 512];
    bytes.resize(7 * 512, 0);
    bytes.resize(9 * 512, 5);
    bytes.resize(14 * 512, 0);
    bytes.resize(30 * 512, 6);
    assert_eq!(wait(check_image(image.as_ref(), &bytes)), Ok(()));
    let facts = image.facts();
    assert!(facts.warnings[0].contains("NOACCESS"), "{facts:?}");
}

#[test]
fn a_parent_that_changed_since_is_refused() {
    let flat = "RW 8 FLAT \"f\" 0";
    let base = descriptor("monolithicFlat", 0x11, None, &[flat]);
    let child = descriptor("monolithicFlat", 2, Some((0x12, "base")), &[flat]);
    let files = MemFiles::default()
        .with("f", &[0; 4096])
        .with("base", base.as_bytes())
        .with("d.vmdk", child.as_bytes());
    let error = disk(&files).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.line().contains("CID 00000011"), "{error:?}");
    assert!(error.line().contains("made on 00000012"), "{error:?}");
}

#[test]
fn a_chain_that_comes_back_to_itself_ends() {
    let text = descriptor("x", 2, Some((2, "d.vmdk")), &["RW 8 ZERO"]);
    let error = disk(&MemFiles::default().with("d.vmdk", text.as_bytes())).unwrap_err();
    assert!(error.line().contains("comes back to it"), "{error:?}");
}

#[test]
fn what_cannot_be_read_is_said_and_not_guessed() {
    let rdm = behind("RW 8 VMFSRDM \"it.vmdk\"", &[0; 4096]);
    let error = disk(&rdm).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.line().contains("maps a physical disk"), "{error:?}");

    let part = hosted(&[Grain::Below], 16, "", Hosted::default());
    let error = wait(open("vmdk", &part)).unwrap_err();
    assert!(error.line().contains("one extent of a disk"), "{error:?}");
    let error = wait(open("vmdk", &cowd(&[Grain::Below], 16, 16))).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);

    let mut dirty = se_sparse(&[Grain::Below], 8);
    dirty[512 + 24] = 1;
    let error = disk(&behind("RW 8 SESPARSE \"it.vmdk\"", &dirty)).unwrap_err();
    assert!(
        error.line().contains("journal must be replayed"),
        "{error:?}"
    );

    let mut text_mode = hosted(&[Grain::Below], 16, &alone("x", 16), Hosted::default());
    text_mode[73] = b'\r';
    let error = wait(open("vmdk", &text_mode)).unwrap_err();
    assert!(error.line().contains("as binary"), "{error:?}");

    let how = Hosted {
        stream: true,
        ..Hosted::default()
    };
    let mut unmarked = hosted(&[Grain::Below], 16, &alone("x", 16), how);
    let footer = unmarked.len() - 1024;
    unmarked[footer + 10] = 1;
    let error = wait(open("vmdk", &unmarked)).unwrap_err();
    assert!(error.line().contains("no markers"), "{error:?}");

    for version in [0, 4] {
        let how = Hosted {
            version,
            ..Hosted::default()
        };
        let bytes = hosted(&[Grain::Below], 16, &alone("x", 16), how);
        assert_eq!(
            wait(open("vmdk", &bytes)).unwrap_err().kind(),
            Kind::Unsupported
        );
    }
    let error = disk(&behind("RW 32 SPARSE \"it.vmdk\"", &part)).unwrap_err();
    assert!(
        error.line().contains("8192 bytes, not the 16384"),
        "{error:?}"
    );
}

#[test]
fn lines_that_make_no_sense_are_errors_and_never_dropped() {
    for line in [
        "RW 8 FLAT",
        "RW 8 FLAT \"f",
        "RW x FLAT \"f\" 0",
        "RW 8 FLAT \"f\" x",
        "RW 8 STRANGE \"f\"",
        "RO 8 FLAT \"f\" 0",
        "RW 99999999999999999 ZERO",
        "RW",
    ] {
        let error = disk(&behind(line, &[0; 4096])).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{line}: {error:?}");
    }
}

#[test]
fn names_are_in_the_encoding_that_the_descriptor_tells() {
    let text = "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n";
    for (encoding, name) in [
        ("windows-1252", &b"Gr\xf6\xdfe.bin"[..]),
        ("UTF-8", "Größe.bin".as_bytes()),
    ] {
        let mut text = text.as_bytes().to_vec();
        text.extend(format!("encoding=\"{encoding}\"\nRW 8 FLAT \"").bytes());
        text.extend(name);
        text.extend(b"\" 0\n");
        let files = MemFiles::default()
            .with("d.vmdk", &text)
            .with("Größe.bin", &[9; 4096]);
        let image = disk(&files).unwrap();
        assert_eq!(wait(check_image(image.as_ref(), &[9; 4096])), Ok(()));
    }
    let mut text = text.as_bytes().to_vec();
    text.extend(b"encoding=\"klingon\"\nRW 8 FLAT \"\xf6\" 0\n");
    let error = disk(&MemFiles::default().with("d.vmdk", &text)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
}

#[test]
fn an_image_is_known_by_its_first_bytes() {
    let probe = |head: &[u8]| {
        Vmdk.probe(&Ends {
            head,
            tail: &[],
            size: 1 << 20,
        })
    };
    assert!(probe(b"KDMV") && probe(b"COWD") && probe(b"\n\n# Disk DescriptorFile \r\nversion=1"));
    assert!(probe(&0xcafe_babe_u64.to_le_bytes()));
    assert!(!probe(b"") && !probe(b"# something else") && !probe(&[0; 4096]));
}

/// 4 TiB, of which one grain is there: the tables are never read as a whole.
#[test]
fn a_large_empty_disk_is_opened_and_mapped_with_few_reads() {
    let sectors = 4u64 << 31;
    let how = Hosted {
        grain: 128,
        ..Hosted::default()
    };
    let small = hosted(
        &[Grain::Data(vec![1; 65536])],
        sectors,
        &alone("x", sectors),
        how,
    );
    let directory = u64::from_le_bytes(small[56..64].try_into().unwrap());
    let file = MemSource::new((directory + 2048) * 512);
    file.put(0, &small);
    let files = MemFiles::default().and("d.vmdk", file.clone());
    let image = disk(&files).unwrap();
    let opened = file.calls().len();
    assert!(opened < 10, "{opened}");
    let mut rest = ByteRange::new(0, image.size());
    let (mut data, mut answers) = (0, 0);
    while !rest.is_empty() {
        for part in wait(image.map(rest)).unwrap() {
            rest.start = part.range.end;
            data += if matches!(part.to, To::Zero) {
                0
            } else {
                part.range.len()
            };
        }
        answers += 1;
    }
    assert_eq!(data, 65536);
    assert!(
        answers < 64 && file.calls().len() < 32,
        "{answers} {}",
        file.calls().len()
    );
}

/// The grains of a stream that comes in pieces of `chunk` bytes, and where the disk is not written.
fn forward(bytes: &[u8], chunk: usize) -> Result<Vec<u8>, Error> {
    let (mut forward, mut disk) = (Forward::default(), Vec::new());
    for bytes in bytes.chunks(chunk) {
        for piece in forward.push(bytes)? {
            match piece {
                Piece::Disk(size) => disk.resize(usize::try_from(size).unwrap(), 0),
                Piece::Grain(grain) => {
                    let mut out = vec![0; usize::try_from(grain.unpacked).unwrap()];
                    grain.codec.unpack(&grain.packed, &mut out)?;
                    let (at, len) = (grain.offset, grain.len);
                    let at = usize::try_from(at).unwrap();
                    let len = usize::try_from(len).unwrap();
                    disk[at..at + len].copy_from_slice(&out[..len]);
                }
            }
        }
    }
    forward.finish().map(|()| disk)
}

const STREAM: Hosted = Hosted {
    version: 3,
    entries: 8,
    grain: 16,
    stream: true,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_stream_reads_forward_as_its_grains_however_it_comes(
        kinds in vec(0u8..3, 1..40), short in 0usize..16, chunk in 1usize..20000,
    ) {
        let sectors = sectors(&kinds, 16, short);
        let size = usize::try_from(sectors).unwrap() * 512;
        let grains = grains(&kinds, 8192, size);
        let bytes = hosted(&grains, sectors, &alone("streamOptimized", sectors), STREAM);
        let found = forward(&bytes, chunk).unwrap();
        prop_assert!(found == expected(&grains, 8192, &[], size));
    }
}

#[test]
fn a_stream_that_ends_anywhere_too_early_is_an_error() {
    let grains = grains(&[2, 0, 2], 8192, 3 * 8192);
    let bytes = hosted(&grains, 48, &alone("streamOptimized", 48), STREAM);
    // The last sector says that it is the end.
    for end in (0..bytes.len() - 512).step_by(31) {
        assert!(forward(&bytes[..end], 4096).is_err(), "{end}");
    }
    forward(&bytes, 4096).unwrap();
}

#[test]
fn what_cannot_be_read_forward_is_refused() {
    let grains = [Grain::Data(vec![1; 8192])];
    let plain = hosted(&grains, 16, &alone("x", 16), Hosted::default());
    let error = forward(&plain, 4096).unwrap_err();
    assert!(error.line().contains("not stream-optimized"), "{error:?}");
    let text = descriptor("x", 2, Some((1, "p")), &["RW 16 SPARSE \"s\""]);
    let error = forward(&hosted(&grains, 16, &text, STREAM), 4096).unwrap_err();
    assert!(
        error.line().contains("a difference to another disk"),
        "{error:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is damaged, an image answers or fails, and answers no more than it may.
    #[test]
    fn a_damaged_image_neither_panics_nor_grows(
        flips in vec((0usize..9000, 0u8..=255), 1..6), stream in 0u8..2,
    ) {
        let how = Hosted { stream: stream == 1, entries: 8, ..Hosted::default() };
        let grains = grains(&[2, 1, 0, 2, 2, 0, 0, 0, 0, 2], 8192, 81920);
        let mut bytes = hosted(&grains, 160, &alone("streamOptimized", 160), how);
        let end = bytes.len();
        for (at, value) in flips {
            // The tables of a stream are at its end.
            let at = if at < 4500 { at } else { end.saturating_sub(at - 4000) };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let verdict = wait(wander("vmdk", &bytes));
        let broken = verdict.err().filter(|error| error.kind() == Kind::Mismatch);
        prop_assert!(broken.is_none(), "{:?}", broken);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_damaged_stream_neither_panics_nor_grows(
        flips in vec((0usize..6000, 0u8..=255), 1..6), chunk in 1usize..9000,
    ) {
        let grains = grains(&[2, 1, 0, 2], 8192, 32768);
        let mut bytes = hosted(&grains, 64, &alone("streamOptimized", 64), STREAM);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        // A header may promise a disk of any size; nobody has to fill it.
        let mut forward = Forward::default();
        let _ = bytes.chunks(chunk).try_for_each(|bytes| forward.push(bytes).map(drop));
    }
}
