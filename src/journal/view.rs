//! What the target holds for good, block by block: a manifest as it was when a pass began, seen
//! while that pass changes it.
//!
//! Right for every block that the pass has not dealt with yet, which is all that anybody asks for.

use super::manifest::{PER_PAGE, first_digest};
use super::marks::{Mark, Marks};
use crate::digest::{Algorithm, BLOCK, Digest, LEN};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Digests that can be relied on. Cloning shares the file.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) file: Arc<File>,
    pub(super) algorithm: Algorithm,
    pub(super) size: u64,
    pub(super) marks: Marks,
}

impl View {
    /// How blocks are digested.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How far the digests can be relied on.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The digest of each block that `range` touches; `None` where the target may hold anything.
    ///
    /// # Errors
    /// The manifest cannot be read.
    pub fn digests(&self, range: ByteRange) -> Result<Vec<Option<Digest>>> {
        let range = range.intersect(ByteRange::new(0, self.size));
        let marks = self.marks.of(range)?;
        let mut bytes = vec![0; marks.len().saturating_mul(LEN)];
        self.file
            .read_exact_at(&mut bytes, first_digest(range.start / BLOCK))
            .map_err(|error| Error::io("read the manifest", error))?;
        let (digests, _) = bytes.as_chunks::<LEN>();
        let known = |(digest, mark): (&[u8; LEN], Mark)| match mark {
            Mark::Unsure => None,
            Mark::Known | Mark::Proven => Some(Digest(*digest)),
        };
        Ok(digests.iter().zip(marks).map(known).collect())
    }
}

// Digests lie without gaps from page to page, so that a range of them is one read.
const _: () = assert!(PER_PAGE * LEN as u64 == 4096);

#[cfg(test)]
mod tests {
    use crate::digest::{Algorithm, BLOCK, Digest};
    use crate::extent::ByteRange;
    use crate::journal::{Manifest, Mark};

    #[test]
    fn a_view_tells_what_is_in_the_file_and_not_what_is_unsure() {
        let size = 600 * BLOCK + 7;
        let mut manifest = Manifest::temporary(Algorithm::Xxh3, size).unwrap();
        let view = manifest.view();
        let places = ByteRange::new(254 * BLOCK, 258 * BLOCK);
        manifest
            .record(
                places.start,
                &[Digest([1; 16]), Digest([2; 16]), Digest([3; 16])],
            )
            .unwrap();
        assert_eq!(view.digests(places).unwrap(), [Some(Digest::ZERO); 4]);
        manifest.checkpoint().write().unwrap();
        let unsure = ByteRange::at(255 * BLOCK, 1);
        view.marks().put(unsure, Mark::Unsure).unwrap();
        view.marks()
            .put(ByteRange::at(256 * BLOCK, BLOCK), Mark::Proven)
            .unwrap();
        let found = view.digests(places).unwrap();
        let known = |byte| Some(Digest([byte; 16]));
        assert_eq!(found, [known(1), None, known(3), known(0)]);
        let tail = view.digests(ByteRange::new(600 * BLOCK, u64::MAX)).unwrap();
        assert_eq!(tail.len(), 1, "nothing is known behind the end");
    }
}
