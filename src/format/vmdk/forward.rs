//! A stream-optimized extent that is read once, from its first byte to its last. Pure.
//!
//! Such an extent is made to be sent: each grain has a marker with its place and its length, and
//! the tables come last, for those who can seek. Here nobody can, so the tables are passed over.
//! Bytes go in as they come; grains come out, and in the end the knowledge that it was the end.

use super::fault::Fault;
use super::header::{self, First, Hosted, Kind, Packing};
use super::layout::{DIRECTORY_AT_END, HostedHeader, Marker, SECTOR, marker};
use super::sparse::longest;
use super::{Vmdk, descriptor, layout};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use crate::format::{Codec, Ends, Format};
use bytes::{Buf, Bytes, BytesMut};
use zerocopy::FromBytes;

/// Sectors of the longest overhead before the first grain: 8 MiB.
const OVERHEAD_MAX: u64 = 1 << 14;

/// What was found in the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// The size of the disk, in bytes. Always first.
    Disk(u64),
    /// A grain, compressed.
    Grain(Grain),
}

/// A grain on its way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grain {
    /// Where it belongs on the disk.
    pub offset: u64,
    /// Bytes of it that are on the disk.
    pub len: u32,
    /// Bytes that come out at most.
    pub unpacked: u32,
    /// How it is packed.
    pub codec: Codec,
    /// The run, its marker included.
    pub packed: Bytes,
}

/// A stream that is being read.
#[derive(Debug)]
pub struct Forward {
    /// What came in and was not used.
    pending: BytesMut,
    /// Bytes to pass over.
    skip: u64,
    state: State,
    /// Offset in the stream of what is pending.
    at: u64,
}

#[derive(Debug)]
enum State {
    Header,
    /// The descriptor and whatever else is before the first grain.
    Overhead(Disk),
    Markers(Disk),
    End,
}

#[derive(Clone, Debug)]
struct Disk {
    capacity: u64,
    grain: u64,
    overhead: u64,
    /// Where the descriptor is, in bytes of the overhead.
    descriptor: (u64, u64),
    /// The stream must say where it ends.
    at_end: bool,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            pending: BytesMut::new(),
            skip: 0,
            state: State::Header,
            at: 0,
        }
    }
}

impl Forward {
    /// Takes the next bytes of the stream; gives what is complete now.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`: they are not those of a stream-optimized extent.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Piece>> {
        self.pending.extend_from_slice(bytes);
        let mut found = Vec::new();
        loop {
            let passed = self.skip.min(length(self.pending.len()));
            self.advance(passed);
            self.skip = self.skip.saturating_sub(passed);
            let step = self.step();
            match step.map_err(|fault| self.failed(fault))? {
                Step::Found(piece) => found.push(piece),
                Step::On => {}
                Step::More => return Ok(found),
            }
        }
    }

    /// The stream has ended; the disk must be complete.
    ///
    /// # Errors
    /// `Corrupt`: it is not.
    pub fn finish(&self) -> Result<()> {
        match &self.state {
            State::End => Ok(()),
            // Those who write the tables first need not say that they are done.
            State::Markers(disk) if !disk.at_end && self.pending.is_empty() && self.skip == 0 => {
                Ok(())
            }
            _ => Err(self.failed(Fault::Footer)),
        }
    }

    fn failed(&self, fault: Fault) -> Error {
        fault
            .while_doing("read the VMDK stream".to_owned())
            .at(self.at)
    }

    fn advance(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(self.pending.len());
        self.pending.advance(bytes);
        self.at = self.at.saturating_add(length(bytes));
    }

    fn step(&mut self) -> Result<Step, Fault> {
        let have = length(self.pending.len());
        if self.skip > 0 {
            return Ok(Step::More);
        }
        match &self.state {
            State::End => {
                self.advance(have);
                Ok(Step::More)
            }
            _ if have < SECTOR => Ok(Step::More),
            State::Header => {
                let disk = first(&self.pending)?;
                self.state = State::Overhead(disk);
                Ok(Step::On)
            }
            State::Overhead(disk) if have < disk.overhead => Ok(Step::More),
            State::Overhead(disk) => {
                let disk = disk.clone();
                let overhead = usize::try_from(disk.overhead).unwrap_or(usize::MAX);
                let overhead = self.pending.get(..overhead).unwrap_or_default();
                check_descriptor(overhead, disk.descriptor)?;
                let size = disk.capacity;
                self.advance(disk.overhead);
                self.state = State::Markers(disk);
                Ok(Step::Found(Piece::Disk(size)))
            }
            State::Markers(disk) => {
                let disk = disk.clone();
                self.marker(&disk)
            }
        }
    }

    fn marker(&mut self, disk: &Disk) -> Result<Step, Fault> {
        let found = Marker::read_from_prefix(&self.pending);
        let (marker, _) = found.map_err(|_| Fault::Short)?;
        let size = u64::from(marker.size.get());
        if size > 0 {
            return self.grain(disk, marker.value.get(), size);
        }
        match marker.kind.get() {
            marker::END_OF_STREAM => self.state = State::End,
            marker::GRAIN_TABLE | marker::GRAIN_DIRECTORY | marker::FOOTER => {
                let sectors = header::bytes(marker.value.get(), "metadata length")?;
                self.skip = sectors.saturating_add(SECTOR);
            }
            found => {
                let (name, found) = ("marker", found.into());
                return Err(Fault::Number { name, found });
            }
        }
        Ok(Step::On)
    }

    fn grain(&mut self, disk: &Disk, sector: u64, size: u64) -> Result<Step, Fault> {
        let offset = header::bytes(sector, "grain")?;
        let number = |name, found| Fault::Number { name, found };
        if offset >= disk.capacity || !offset.is_multiple_of(disk.grain) {
            return Err(number("grain", sector));
        }
        if size > longest(disk.grain) {
            return Err(number("grain length", size));
        }
        let whole = size.saturating_add(12);
        let padded = whole.next_multiple_of(SECTOR);
        if length(self.pending.len()) < padded {
            return Ok(Step::More);
        }
        let len = disk.grain.min(disk.capacity.saturating_sub(offset));
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let packed = usize::try_from(whole).unwrap_or(0).min(self.pending.len());
        let packed = self.pending.get(..packed).unwrap_or_default();
        let grain = Grain {
            offset,
            len: small(len),
            unpacked: small(disk.grain),
            codec: Codec::Grain {
                sector,
                least: small(len),
            },
            packed: Bytes::copy_from_slice(packed),
        };
        self.advance(padded);
        Ok(Step::Found(Piece::Grain(grain)))
    }
}

/// Whether a VMDK that begins with `head` is none that can be read forward: its tables come first, or
/// it is a descriptor. What is no VMDK is found out by who reads it.
#[must_use]
pub fn must_seek(head: &[u8]) -> bool {
    let ends = Ends {
        head,
        tail: &[],
        size: length(head.len()),
    };
    match first(head) {
        Err(Fault::NoStream) => true,
        Err(Fault::Magic | Fault::Short) => Vmdk.probe(&ends),
        _ => false,
    }
}

/// What a look at what is pending came to.
enum Step {
    Found(Piece),
    /// Something was used, and more may be.
    On,
    /// Nothing can be done with what there is.
    More,
}

/// The header of a stream. Its tables lie anywhere: nobody looks for them.
fn first(sector: &[u8]) -> Result<Disk, Fault> {
    let found = HostedHeader::read_from_prefix(sector);
    let (header, _) = found.map_err(|_| Fault::Short)?;
    let at_end = header.gd_offset.get() == DIRECTORY_AT_END;
    let Hosted { tables, .. } = match at_end {
        true => header::streamed(&header)?,
        false => match header::hosted(sector, u64::MAX)? {
            First::Header(hosted) => hosted,
            First::Footer | First::Empty => return Err(Fault::Magic),
        },
    };
    let Kind::Hosted {
        packing: Packing::Marked,
        ..
    } = tables.kind
    else {
        return Err(Fault::NoStream);
    };
    let overhead = header.overhead.get();
    if overhead == 0 || overhead > OVERHEAD_MAX {
        let (name, found) = ("overhead", overhead);
        return Err(Fault::Number { name, found });
    }
    let bytes = |sectors: u64| sectors.saturating_mul(layout::SECTOR);
    Ok(Disk {
        capacity: tables.capacity,
        grain: tables.grain,
        overhead: bytes(overhead),
        descriptor: (
            bytes(header.descriptor_offset.get()),
            bytes(header.descriptor_size.get()),
        ),
        at_end,
    })
}

/// A difference is not the disk, even if it comes as a stream.
fn check_descriptor(overhead: &[u8], (at, len): (u64, u64)) -> Result<(), Fault> {
    if at == 0 || len == 0 {
        return Ok(());
    }
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let text = overhead.get(index(at)..index(at.saturating_add(len)));
    let text = text.ok_or(Fault::Outside {
        what: "descriptor",
        range: ByteRange::at(at, len),
        size: length(overhead.len()),
    })?;
    if text.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    match descriptor::parse(text)?.parent_cid {
        None => Ok(()),
        Some(_) => Err(Fault::Difference),
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
