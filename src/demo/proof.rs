//! The demo's own proof: byte for byte, by nothing that the copy used.

use super::View;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

/// Bytes compared at a time.
const PIECE: u64 = 1 << 20;

/// Compares all `size` bytes of `disk` with the first bytes of the file or device `target`.
///
/// # Errors
/// [`Kind::Mismatch`] at the first byte that differs, or a side cannot be read.
pub fn compare(disk: &View, size: u64, target: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("compare with {}", target.display()), error);
    let file = File::open(target).map_err(failed)?;
    let (first, second) = ByteRange::new(0, size).split(size / 2);
    let verdicts = thread::scope(|scope| {
        let file = &file;
        let halves = [first, second];
        let halves = halves.map(|half| scope.spawn(move || differs(disk, file, half)));
        halves.map(thread::ScopedJoinHandle::join)
    });
    for verdict in verdicts {
        let crashed = |_| Error::new(Kind::Io, "compare: a thread crashed");
        if let Some(at) = verdict.map_err(crashed)?.map_err(failed)? {
            let doing = format!("the disk and {} differ", target.display());
            return Err(Error::new(Kind::Mismatch, doing).at(at));
        }
    }
    Ok(())
}

/// The first byte of `range` that differs.
fn differs(disk: &View, file: &File, range: ByteRange) -> std::io::Result<Option<u64>> {
    let mut rest = range;
    let piece = usize::try_from(PIECE).unwrap_or(0);
    let (mut ours, mut theirs) = (vec![0; piece], vec![0; piece]);
    while !rest.is_empty() {
        let (part, after) = rest.split(PIECE);
        let len = usize::try_from(part.len()).unwrap_or(0);
        ours.resize(len, 0);
        theirs.resize(len, 0);
        disk.read_at(part.start, &mut ours)?;
        file.read_exact_at(&mut theirs, part.start)?;
        if ours != theirs {
            let equal = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            let at = u64::try_from(equal).unwrap_or(0);
            return Ok(Some(part.start.saturating_add(at)));
        }
        rest = after;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{Kind, compare};
    use crate::demo::LiveDisk;

    #[test]
    fn one_byte_that_differs_is_found_wherever_it_is() {
        const SIZE: u64 = (3 << 20) + 1;
        let directory = tempfile::tempdir().unwrap();
        let disk = LiveDisk::create(directory.path(), SIZE).unwrap();
        disk.write_at(1 << 20, b"x").unwrap();
        let view = disk.checkpoint(None, None).unwrap();
        let target = directory.path().join("target");
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        bytes[1 << 20] = b'x';
        std::fs::write(&target, &bytes).unwrap();
        compare(&view, SIZE, &target).unwrap();
        for at in [0, 1 << 20, (1 << 20) + 1, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            std::fs::write(&target, &bytes).unwrap();
            let error = compare(&view, SIZE, &target).unwrap_err();
            assert_eq!(error.kind(), Kind::Mismatch);
            assert_eq!(error.offset(), u64::try_from(at).ok());
        }
        std::fs::write(&target, &bytes[1..]).unwrap();
        assert!(compare(&view, SIZE, &target).is_err(), "too short");
    }
}
