//! A fixed VHD as target: the bytes of the disk, and a footer that says so.
//!
//! "Virtual Hard Disk Image Format Specification", Microsoft, 2006. The size is that of the footer
//! and not of the geometry, which cannot tell every size; some readers go by the geometry unless it
//! is the largest, or whoever made the disk is one of those who do not. So it is both: as
//! `qemu-img -o force_size` has it. The footer comes last, and the file gets its name after it.

use super::Zeroing;
use super::draft::Draft;
use super::drafted::Drafted;
use super::zeroing::{Method, Zeroer};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::vhd::{SECTOR, fixed_footer};
use crate::sys::{blocking, random};
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The largest disk that every reader takes, in bytes: 2040 GiB.
const SIZE_MAX: u64 = 2040 << 30;

/// Seconds from 1970 to the beginning of 2000, from which VHDs count.
const EPOCH: u64 = 946_684_800;

/// What the image will be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct VhdOptions {
    /// Bytes of the disk. It is made of whole sectors.
    pub size: u64,
    /// A file of that name may be replaced.
    pub overwrite: bool,
}

/// A fixed VHD that is written. See the [module](self).
#[derive(Debug)]
pub struct VhdTarget {
    draft: Draft,
    size: u64,
    zeroer: Zeroer,
}

impl VhdTarget {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced; the disk is larger than
    /// a VHD can be; or the file cannot be made.
    pub async fn create(path: &Path, options: VhdOptions) -> Result<Self> {
        let (name, size) = (path.display(), options.size);
        if size > SIZE_MAX {
            let what =
                format!("{name}: a VHD holds 2040 GiB at most, and the disk has {size} bytes");
            return Err(Error::new(Kind::Unsupported, what).hint("-O vhdx"));
        }
        let draft = Draft::create(path, size, options.overwrite, true).await?;
        let target = Self {
            draft,
            size,
            zeroer: Zeroer::new(),
        };
        let sized = target.draft.set_length(target.end()).await;
        sized.map_err(|error| target.draft.failed("create", 0, error))?;
        Ok(target)
    }

    /// Where the footer is.
    fn end(&self) -> u64 {
        self.size.next_multiple_of(SECTOR)
    }
}

impl Drafted for VhdTarget {
    fn draft(&self) -> &Draft {
        &self.draft
    }

    async fn store(&self, range: ByteRange, data: Bytes) -> io::Result<()> {
        self.draft.queue().write(range.start, data).await
    }

    async fn clear(&self, range: ByteRange, zeroing: Zeroing) -> io::Result<()> {
        let (queue, methods) = (self.draft.queue(), Method::of_file(zeroing));
        self.zeroer.zero(queue, range, &methods).await
    }

    async fn load(&self, range: ByteRange, buffer: Buffer) -> Result<Buffer> {
        let read = super::read_back(self.draft.queue(), range, buffer).await;
        read.map_err(|error| self.draft.failed("read back", range.start, error))
    }

    /// The data first, the footer when they are durable.
    async fn complete(&self) -> Result<()> {
        let failed = |error| self.draft.unfinished(error);
        let end = self.end();
        self.draft.set_length(end).await.map_err(failed)?;
        self.draft.flush().await?;
        let id = blocking(random).await.map_err(failed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs().saturating_sub(EPOCH));
        let footer = fixed_footer(end, u32::try_from(now).unwrap_or(u32::MAX), id);
        let written = self.draft.queue().write(end, Bytes::from(footer)).await;
        written.map_err(failed)?;
        self.draft.flush().await
    }
}
