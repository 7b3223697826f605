//! Compressed runs: where they are, and how they are unpacked. Pure; reads nothing.
//!
//! Unpacking is bounded by what the map says comes out: a run that wants to become longer is an
//! error, so no input can make it grow.

use super::Storage;
use crate::error::{Error, Kind, Result};
use libdeflater::Decompressor;
use std::cell::RefCell;
use std::sync::Arc;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name};

/// How a run is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Codec {
    /// RFC 1951, without a header.
    Deflate,
    /// RFC 1950.
    Zlib,
    /// RFC 8878, one frame or several.
    Zstd,
    /// A VMDK grain: a marker with the guest sector and the length, then RFC 1950.
    Grain {
        /// The guest sector that the marker must name.
        sector: u64,
        /// Bytes that must come out: the last grain of a disk may end early.
        least: u32,
    },
}

/// A compressed run in a storage.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What holds it.
    pub storage: Arc<dyn Storage>,
    /// Where it begins.
    pub offset: u64,
    /// Bytes that it takes at most; it may end earlier, and other data follow.
    pub len: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// Bytes that come out.
    pub unpacked: u32,
}

/// Bytes of the marker before a compressed VMDK grain.
const GRAIN_MARKER: usize = 12;

impl Codec {
    /// Unpacks the run at the start of `packed` so that it fills `out` exactly.
    ///
    /// # Errors
    /// `Corrupt`: what is packed is damaged, or unpacks to another length.
    pub fn unpack(self, packed: &[u8], out: &mut [u8]) -> Result<()> {
        match self {
            Self::Deflate => exactly(inflate(packed, out, false)?, out.len()),
            Self::Zlib => exactly(inflate(packed, out, true)?, out.len()),
            Self::Zstd => zstd(packed, out),
            Self::Grain { sector, least } => grain(packed, sector, least, out),
        }
    }
}

fn corrupt(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Corrupt, "unpack compressed data").because(why)
}

thread_local! {
    /// Their tables are worth keeping.
    static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static ZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Bytes that came out.
fn inflate(packed: &[u8], out: &mut [u8], zlib: bool) -> Result<usize> {
    let done = INFLATE.with_borrow_mut(|decompressor| {
        if zlib {
            decompressor.zlib_decompress(packed, out)
        } else {
            decompressor.deflate_decompress(packed, out)
        }
    });
    done.map_err(corrupt)
}

fn zstd(packed: &[u8], out: &mut [u8]) -> Result<()> {
    let wanted = out.len();
    let done = ZSTD.with_borrow_mut(|context| {
        let failed = |code| corrupt(get_error_name(code));
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        let mut input = InBuffer::around(packed);
        let mut output = OutBuffer::around(out);
        // A run may be several frames; it ends when enough came out, or no more goes in.
        while output.pos() < wanted {
            let before = (input.pos(), output.pos());
            context
                .decompress_stream(&mut output, &mut input)
                .map_err(failed)?;
            if before == (input.pos(), output.pos()) {
                break;
            }
        }
        Ok::<_, Error>(output.pos())
    })?;
    exactly(done, wanted)
}

fn grain(packed: &[u8], sector: u64, least: u32, out: &mut [u8]) -> Result<()> {
    let short = || corrupt("a grain is cut off");
    let (marker, data) = packed.split_at_checked(GRAIN_MARKER).ok_or_else(short)?;
    let (lba, size) = marker.split_at_checked(8).ok_or_else(short)?;
    let lba = u64::from_le_bytes(lba.try_into().map_err(corrupt)?);
    let size = u32::from_le_bytes(size.try_into().map_err(corrupt)?);
    if lba != sector {
        let why = format!("the grain of sector {sector:#x} is marked {lba:#x}");
        return Err(corrupt(why));
    }
    let size = usize::try_from(size).map_err(corrupt)?;
    let data = data.get(..size).ok_or_else(|| {
        let room = data.len();
        corrupt(format!("a grain of {size} bytes has room for {room} only"))
    })?;
    let done = inflate(data, out, true)?;
    match usize::try_from(least) {
        Ok(least) if done >= least => Ok(()),
        _ => exactly(done, out.len()),
    }
}

fn exactly(done: usize, wanted: usize) -> Result<()> {
    if done == wanted {
        return Ok(());
    }
    let why = format!("it holds {done} bytes where {wanted} belong");
    Err(corrupt(why))
}

#[cfg(test)]
mod tests {
    use super::Codec;
    use crate::error::Kind;
    use libdeflater::{CompressionLvl, Compressor};

    const GRAIN: Codec = Codec::Grain {
        sector: 7,
        least: 4096,
    };

    fn text() -> Vec<u8> {
        b"grain after grain "
            .iter()
            .copied()
            .cycle()
            .take(4096)
            .collect()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut packer = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; packer.zlib_compress_bound(bytes.len())];
        let len = packer.zlib_compress(bytes, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packer = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; packer.deflate_compress_bound(bytes.len())];
        let len = packer.deflate_compress(bytes, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    fn marked(sector: u64, data: &[u8]) -> Vec<u8> {
        let mut all = sector.to_le_bytes().to_vec();
        all.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        all.extend(data);
        all
    }

    fn each() -> [(Codec, Vec<u8>); 5] {
        let text = text();
        let (first, second) = text.split_at(1000);
        let two_frames = [zstd(first), zstd(second)].concat();
        [
            (Codec::Deflate, deflate(&text)),
            (Codec::Zlib, zlib(&text)),
            (Codec::Zstd, zstd(&text)),
            (Codec::Zstd, two_frames),
            (GRAIN, marked(7, &zlib(&text))),
        ]
    }

    #[test]
    fn a_run_is_unpacked_whatever_follows_it() {
        for (codec, mut packed) in each() {
            packed.extend([0xa5; 600]);
            let mut out = vec![0; 4096];
            codec.unpack(&packed, &mut out).unwrap();
            assert_eq!(out, text(), "{codec:?}");
        }
    }

    #[test]
    fn a_run_of_another_length_or_cut_off_anywhere_is_corrupt() {
        for (codec, packed) in each() {
            for len in [4095, 4097] {
                let found = codec.unpack(&packed, &mut vec![0; len]);
                // A zstd stream is read as far as it is wanted, as QEMU does; a grain is at least as
                // long as it must be.
                if (codec != Codec::Zstd || len > 4096) && (codec != GRAIN || len < 4096) {
                    assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{codec:?} {len}");
                }
            }
            for end in 0..packed.len() {
                let found = codec.unpack(&packed[..end], &mut vec![0; 4096]);
                if codec != Codec::Zstd || end < packed.len() - 8 {
                    assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{codec:?} {end}");
                }
            }
        }
    }

    #[test]
    fn the_last_grain_may_end_early_but_not_before_the_disk_does() {
        let packed = marked(7, &zlib(&text()[..1024]));
        let unpack = |least| {
            let grain = Codec::Grain { sector: 7, least };
            grain.unpack(&packed, &mut [0; 4096]).is_ok()
        };
        assert!(unpack(512) && unpack(1024) && !unpack(1025));
    }

    #[test]
    fn a_grain_of_another_place_is_corrupt() {
        let packed = marked(8, &zlib(&text()));
        let found = GRAIN.unpack(&packed, &mut vec![0; 4096]);
        assert!(found.unwrap_err().line().contains("marked 0x8"));
    }
}
