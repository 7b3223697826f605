//! Whole clusters of data to what is stored of them. Pure; done by the processors for computing.

use crate::digest::is_zero;
use crate::format::qcow2::header::Compression;
use libdeflater::{CompressionLvl, Compressor};
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use zstd::zstd_safe::{CCtx, get_error_name};

/// zstd's own default, and qemu's.
const ZSTD_LEVEL: i32 = 3;

/// Smaller than what qemu's level 6 makes of programs and of text, as that looks back 4 KiB only,
/// in a third of its time; level 6 of this library takes half as long again for 2 % less.
const DEFLATE_LEVEL: i32 = 4;

/// What becomes of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Cell {
    /// It is zero and takes no space.
    Zero,
    /// It does not get smaller, and is stored as it is.
    Stored,
    /// It is this part of [`Cells::bytes`].
    Packed(Range<usize>),
}

/// What becomes of a request.
#[derive(Debug, Default)]
pub(super) struct Cells {
    /// One for each cluster, in order.
    pub(super) cells: Vec<Cell>,
    /// The compressed clusters, one after the other.
    pub(super) bytes: Vec<u8>,
}

thread_local! {
    /// Their tables are worth keeping.
    static DEFLATE: RefCell<Compressor> = {
        let level = CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default();
        RefCell::new(Compressor::new(level))
    };
    static ZSTD: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

/// Compresses the clusters of `cluster` bytes that `data` are; the last one may be short, and is
/// filled up with zeroes.
///
/// # Errors
/// The library fails, which it does only without memory.
pub(super) fn pack(data: &[u8], cluster: usize, how: Compression) -> io::Result<Cells> {
    let mut found = Cells::default();
    let mut room = vec![0; cluster];
    for part in data.chunks(cluster) {
        let filled;
        let part = if part.len() < cluster {
            let mut whole = part.to_vec();
            whole.resize(cluster, 0);
            filled = whole;
            &filled
        } else {
            part
        };
        found.cells.push(if is_zero(part) {
            Cell::Zero
        } else {
            match compress(part, &mut room, how)? {
                None => Cell::Stored,
                Some(len) => {
                    let start = found.bytes.len();
                    found.bytes.extend(room.iter().take(len));
                    Cell::Packed(start..found.bytes.len())
                }
            }
        });
    }
    Ok(found)
}

/// Compresses `part` into `room`, which is as long; `None` if it does not get shorter.
fn compress(part: &[u8], room: &mut [u8], how: Compression) -> io::Result<Option<usize>> {
    let len = match how {
        Compression::Zlib => DEFLATE.with_borrow_mut(|c| c.deflate_compress(part, room).ok()),
        Compression::Zstd => ZSTD.with_borrow_mut(|context| {
            match context.compress(room, part, ZSTD_LEVEL) {
                Ok(len) => Ok(Some(len)),
                // The destination is too small.
                Err(code) if get_error_name(code).contains("too small") => Ok(None),
                Err(code) => Err(io::Error::other(get_error_name(code))),
            }
        })?,
    };
    Ok(len.filter(|len| *len < part.len()))
}

#[cfg(test)]
mod tests {
    use super::{Cell, Compression, pack};
    use crate::format::Codec;

    #[test]
    fn clusters_are_left_out_compressed_or_stored() {
        let mut noise = vec![0; 4096];
        let mut state = 1_u64;
        for byte in &mut noise {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        let data = [vec![0; 4096], vec![7; 4096], noise, vec![9; 100]].concat();
        for (how, codec) in [
            (Compression::Zlib, Codec::Deflate),
            (Compression::Zstd, Codec::Zstd),
        ] {
            let found = pack(&data, 4096, how).unwrap();
            let [
                Cell::Zero,
                Cell::Packed(first),
                Cell::Stored,
                Cell::Packed(last),
            ] = found.cells.as_slice()
            else {
                panic!("{how:?}: {:?}", found.cells);
            };
            let mut out = vec![1; 4096];
            codec.unpack(&found.bytes[first.clone()], &mut out).unwrap();
            assert_eq!(out, vec![7; 4096]);
            codec.unpack(&found.bytes[last.clone()], &mut out).unwrap();
            assert_eq!(out, [vec![9; 100], vec![0; 3996]].concat());
        }
    }
}
