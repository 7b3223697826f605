//! What the target must hold: a digest for each block, in a file beside the journal.
//!
//! A header of one page, then 16 bytes per 64 KiB block in order, then a byte per block that says
//! how far its digest can be relied on ([`Marks`]). Blocks of zeroes have an all-zero digest, so the
//! manifest of a sparse disk is a sparse file. Changed pages stay in memory until the next barrier:
//! [`Manifest::checkpoint`] hands them over to be written by another thread while the pass goes on.

use super::marks::Marks;
use super::view::View;
use crate::digest::{Algorithm, BLOCK, Digest, LEN};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: &[u8; 16] = b"diskferry map 2\n";

/// Bytes of the header, and of each page that is kept in memory.
const PAGE: usize = 4096;

/// The same, as an offset.
const PAGE_BYTES: u64 = 4096;

/// Digests in a page.
pub(super) const PER_PAGE: u64 = 256;

/// Bytes of disk under a page.
const PAGE_SPAN: u64 = PER_PAGE * BLOCK;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 16],
    /// The journal that this belongs to.
    id: [u8; 36],
    algorithm: U32,
    block: U64,
    size: U64,
}
const _: () = assert!(size_of::<Header>() == 72);

type Page = Box<[u8; PAGE]>;
type Pages = BTreeMap<u64, Page>;

/// The digests of all blocks of a disk.
#[derive(Debug)]
pub struct Manifest {
    file: Arc<File>,
    algorithm: Algorithm,
    size: u64,
    /// Nothing was in the file when it was opened: what is not written is [`Digest::ZERO`].
    fresh: bool,
    /// A checkpoint handed over pages: a page may be in the file, also of a fresh manifest.
    filled: bool,
    changed: Pages,
    /// Handed over by the last checkpoint and perhaps not in the file yet.
    handed: Arc<Pages>,
}

/// Changed pages on their way to the file.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<File>,
    pages: Arc<Pages>,
}

impl Checkpoint {
    /// Writes the pages; returns when they are durable. Blocks.
    ///
    /// # Errors
    /// They are not durable.
    pub fn write(&self) -> Result<()> {
        for (&page, bytes) in self.pages.iter() {
            self.file
                .write_all_at(&bytes[..], file_offset(page))
                .map_err(failed)?;
        }
        self.file.sync_data().map_err(failed)
    }
}

impl Manifest {
    /// Creates the manifest of a disk of `size` bytes, replacing what was at `path`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, id: &str, algorithm: Algorithm, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(path).map_err(failed)?;
        let manifest = Self::begin(file, id, algorithm, size)?;
        super::log::sync_parent(path)?;
        Ok(manifest)
    }

    /// A manifest that nobody else sees and that is gone with this process.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn temporary(algorithm: Algorithm, size: u64) -> Result<Self> {
        let name = format!(".diskferry-manifest-{}", super::log::unique_id());
        let path = std::env::temp_dir().join(name);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        Self::begin(file, "", algorithm, size)
    }

    fn begin(file: File, id: &str, algorithm: Algorithm, size: u64) -> Result<Self> {
        let header = Header {
            magic: *MAGIC,
            id: padded(id),
            algorithm: U32::new(code(algorithm)),
            block: U64::new(BLOCK),
            size: U64::new(size),
        };
        file.set_len(file_length(size)).map_err(failed)?;
        file.write_all_at(header.as_bytes(), 0).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(Self::over(file, algorithm, size, true))
    }

    /// Opens the manifest that belongs to the journal `id`.
    ///
    /// # Errors
    /// It is missing, damaged, or belongs to another journal.
    pub fn open(path: &Path, id: &str, algorithm: Algorithm, size: u64) -> Result<Self> {
        let doing = || format!("open the manifest {}", path.display());
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| Error::io(doing(), error))?;
        let mut header = Header::new_zeroed();
        file.read_exact_at(header.as_mut_bytes(), 0)
            .map_err(|error| Error::io(doing(), error))?;
        let wanted = Header {
            magic: *MAGIC,
            id: padded(id),
            algorithm: U32::new(code(algorithm)),
            block: U64::new(BLOCK),
            size: U64::new(size),
        };
        let length = file
            .metadata()
            .map_err(|error| Error::io(doing(), error))?
            .len();
        if header.as_bytes() != wanted.as_bytes() || length != file_length(size) {
            return Err(Error::new(Kind::Corrupt, doing())
                .because("it does not belong to this journal")
                .hint("copy again from the start with --restart"));
        }
        Ok(Self::over(file, algorithm, size, false))
    }

    fn over(file: File, algorithm: Algorithm, size: u64, fresh: bool) -> Self {
        let (changed, handed) = (Pages::new(), Arc::default());
        Self {
            file: Arc::new(file),
            algorithm,
            size,
            fresh,
            filled: !fresh,
            changed,
            handed,
        }
    }

    /// How blocks are digested.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How far the digests can be relied on.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks::new(self.file.clone(), first_mark(self.size))
    }

    /// What is in the file now, without what waits for the next checkpoint.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            file: self.file.clone(),
            algorithm: self.algorithm,
            size: self.size,
            marks: self.marks(),
        }
    }

    /// Pages that wait for the next checkpoint: what this costs in memory, times 4 KiB.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.changed.len()
    }

    /// Notes the digests of consecutive blocks from `offset`, a multiple of [`BLOCK`].
    ///
    /// # Errors
    /// The part that is already in the file cannot be read.
    pub fn record(&mut self, offset: u64, digests: &[Digest]) -> Result<()> {
        let first = offset / BLOCK;
        for (block, digest) in (first..).zip(digests) {
            let slot = slot(block);
            let page = self.page(block / PER_PAGE)?;
            if let Some(place) = page.get_mut(slot..slot.saturating_add(LEN)) {
                place.copy_from_slice(&digest.0);
            }
        }
        Ok(())
    }

    /// Notes that all blocks of `range` hold zeroes. `range` starts and ends on blocks, or at the
    /// end of the disk.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn zero(&mut self, range: ByteRange) -> Result<()> {
        if self.fresh {
            // Each block is dealt with once in a pass, so nothing is there to be undone.
            return Ok(());
        }
        let whole = range.align_in(PAGE_SPAN);
        if whole.is_empty() {
            return self.zero_blocks(range);
        }
        self.zero_blocks(ByteRange::new(range.start, whole.start))?;
        let pages = whole.start / PAGE_SPAN..whole.end / PAGE_SPAN;
        self.changed.retain(|page, _| !pages.contains(page));
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = whole.len() / BLOCK * LEN as u64;
        let punched = fallocate(&*self.file, mode, file_offset(pages.start), length).is_ok();
        for page in pages {
            // A page that was handed over may be written after the hole was made.
            if !punched || self.handed.contains_key(&page) {
                self.changed.insert(page, Box::new([0; PAGE]));
            }
        }
        self.zero_blocks(ByteRange::new(whole.end, range.end))
    }

    fn zero_blocks(&mut self, range: ByteRange) -> Result<()> {
        let blocks = range.len().div_ceil(BLOCK);
        self.record(
            range.start,
            &vec![Digest::ZERO; usize::try_from(blocks).unwrap_or(0)],
        )
    }

    /// Hands over everything noted so far, to be made durable by [`Checkpoint::write`]. The one
    /// before must have been written by then.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.handed = Arc::new(std::mem::take(&mut self.changed));
        // For good: a later one may have nothing to hand over.
        self.filled |= !self.handed.is_empty();
        Checkpoint {
            file: self.file.clone(),
            pages: self.handed.clone(),
        }
    }

    /// The digests of the blocks of `range`, which starts on a block and lies on the disk.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digests(&self, range: ByteRange) -> Result<Vec<Digest>> {
        let blocks = range.start / BLOCK..range.end.min(self.size).div_ceil(BLOCK);
        let mut found = Vec::new();
        let mut page = (u64::MAX, Box::new([0; PAGE]));
        for block in blocks {
            let number = block / PER_PAGE;
            if page.0 != number {
                page = (number, self.load(number)?);
            }
            let slot = slot(block);
            let bytes = page.1.get(slot..slot.saturating_add(LEN));
            found.push(
                bytes
                    .and_then(|b| b.try_into().ok())
                    .map_or(Digest::ZERO, Digest),
            );
        }
        Ok(found)
    }

    fn page(&mut self, number: u64) -> Result<&mut Page> {
        if !self.changed.contains_key(&number) {
            let page = self.load(number)?;
            self.changed.insert(number, page);
        }
        Ok(self
            .changed
            .entry(number)
            .or_insert_with(|| Box::new([0; PAGE])))
    }

    /// A copy of a page, from wherever it is newest.
    fn load(&self, number: u64) -> Result<Page> {
        if let Some(page) = self
            .changed
            .get(&number)
            .or_else(|| self.handed.get(&number))
        {
            return Ok(page.clone());
        }
        let mut page = Box::new([0; PAGE]);
        if self.filled {
            self.file
                .read_exact_at(&mut page[..], file_offset(number))
                .map_err(failed)?;
        }
        Ok(page)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("write the manifest", error)
}

fn slot(block: u64) -> usize {
    usize::try_from(block % PER_PAGE)
        .unwrap_or(0)
        .saturating_mul(LEN)
}

fn file_offset(page: u64) -> u64 {
    page.saturating_add(1).saturating_mul(PAGE_BYTES)
}

/// Where the digest of a block is.
pub(super) fn first_digest(block: u64) -> u64 {
    file_offset(0).saturating_add(block.saturating_mul(LEN as u64))
}

/// Behind the digests, of which there are whole pages, so that a page can always be read.
fn first_mark(size: u64) -> u64 {
    file_offset(size.div_ceil(PAGE_SPAN))
}

fn file_length(size: u64) -> u64 {
    first_mark(size).saturating_add(size.div_ceil(BLOCK))
}

fn code(algorithm: Algorithm) -> u32 {
    match algorithm {
        Algorithm::Xxh3 => 1,
        Algorithm::Blake3 => 2,
    }
}

fn padded(id: &str) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes
        .iter_mut()
        .zip(id.bytes())
        .for_each(|(place, byte)| *place = byte);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Manifest, PAGE_SPAN};
    use crate::digest::{Algorithm, BLOCK, Digest};
    use crate::error::Kind;
    use crate::extent::ByteRange;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const SIZE: u64 = 3 * PAGE_SPAN + 5 * BLOCK + 100;

    #[test]
    fn another_journals_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        Manifest::create(&path, "one", Algorithm::Xxh3, SIZE).unwrap();
        Manifest::open(&path, "one", Algorithm::Xxh3, SIZE).unwrap();
        for (id, algorithm, size) in [
            ("two", Algorithm::Xxh3, SIZE),
            ("one", Algorithm::Blake3, SIZE),
            ("one", Algorithm::Xxh3, SIZE + 1),
        ] {
            let error = Manifest::open(&path, id, algorithm, size).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn the_manifest_of_a_sparse_tebibyte_takes_no_space() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut manifest = Manifest::create(&path, "one", Algorithm::Xxh3, 1 << 40).unwrap();
        manifest.zero(ByteRange::new(0, 1 << 40)).unwrap();
        manifest.record(1 << 39, &[Digest([7; 16])]).unwrap();
        manifest.checkpoint().write().unwrap();
        assert!(path.metadata().unwrap().blocks() * 512 < 64 << 10);
    }

    #[test]
    fn a_checkpoint_without_anything_to_write_forgets_nothing() {
        let mut manifest = Manifest::temporary(Algorithm::Xxh3, SIZE).unwrap();
        let of = |block: u8| Digest([block + 1; 16]);
        manifest.record(0, &[of(0)]).unwrap();
        manifest.checkpoint().write().unwrap();
        // What is zeroed is not noted in a fresh manifest.
        manifest.zero(ByteRange::at(2 * BLOCK, BLOCK)).unwrap();
        manifest.checkpoint().write().unwrap();
        manifest.record(BLOCK, &[of(1)]).unwrap();
        manifest.checkpoint().write().unwrap();
        let found = manifest.digests(ByteRange::new(0, 3 * BLOCK)).unwrap();
        assert_eq!(found, [of(0), of(1), Digest::ZERO]);
    }

    proptest! {
        /// Oracle: one digest per block in a plain array. Checkpoints and reopening in between
        /// must not show.
        #[test]
        fn remembers_the_last_digest_of_each_block(
            steps in vec((0u64..773, 1u64..400, any::<u8>(), 0u8..4), 1..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("m");
            let mut manifest = Manifest::create(&path, "one", Algorithm::Xxh3, SIZE).unwrap();
            manifest = { drop(manifest); Manifest::open(&path, "one", Algorithm::Xxh3, SIZE).unwrap() };
            let blocks = usize::try_from(SIZE.div_ceil(BLOCK)).unwrap();
            let mut oracle = vec![Digest::ZERO; blocks];
            for (first, count, value, what) in steps {
                let (from, to) = (usize::try_from(first).unwrap(), usize::try_from(first + count).unwrap().min(blocks));
                let range = ByteRange::new(first * BLOCK, ((first + count) * BLOCK).min(SIZE));
                match what {
                    0 => {
                        manifest.zero(range).unwrap();
                        oracle[from..to].fill(Digest::ZERO);
                    }
                    1 => manifest.checkpoint().write().unwrap(),
                    2 => {
                        manifest.checkpoint().write().unwrap();
                        drop(manifest);
                        manifest = Manifest::open(&path, "one", Algorithm::Xxh3, SIZE).unwrap();
                    }
                    _ => {
                        manifest.record(range.start, &vec![Digest([value; 16]); to - from]).unwrap();
                        oracle[from..to].fill(Digest([value; 16]));
                    }
                }
                let differs = manifest.digests(ByteRange::new(0, SIZE)).unwrap().iter().zip(&oracle).position(|(a, b)| a != b);
                prop_assert_eq!(differs, None);
            }
        }
    }
}
