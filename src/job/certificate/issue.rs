//! A journal and its manifest → what is certified of a disk.

use super::{DiskCertificate, PassCertificate};
use crate::address::Address;
use crate::digest::{Algorithm, BLOCK, Content, Digest};
use crate::error::{Error, Kind, Result};
use crate::job::copy::open_manifest;
use crate::job::options::JournalPlace;
use crate::job::verify::{complete_pass, journal_of};
use crate::journal::{Manifest, Mark, PassSummary};
use crate::plan::{Shape, windows};
use std::fs;

/// The manifest is read for so many bytes of the disk at a time.
const WINDOW: u64 = 1 << 30;

/// Certifies what `target` holds by the journal of the passes that wrote it. Blocks for as long as
/// it takes to read the manifest.
///
/// # Errors
/// `Refused` if the last pass is not complete, the target was given up, or a block is not sure.
pub fn certify(name: &str, target: &Address, place: &JournalPlace) -> Result<DiskCertificate> {
    let (journal, id) = journal_of(target, place)?;
    let manifest = open_manifest(&journal)?;
    let (begin, pass) = complete_pass(&journal, &id)?;
    let (digest, proven) = whole(&manifest, begin.size)?;
    let mut found = begin.target;
    if let Address::Path(path) = target {
        // Where it can be found from elsewhere, too.
        let whole = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        found.name = whole.display().to_string();
    }
    let passes = journal.history().passes.iter().map(pass_of).collect();
    Ok(DiskCertificate {
        name: name.to_owned(),
        source: pass.begin.source,
        target: found,
        size: begin.size,
        algorithm: begin.digest,
        digest: written(begin.digest, digest),
        proven,
        passes,
    })
}

/// The digest of all that the target must hold, and whether every block was proven to be so.
fn whole(manifest: &Manifest, size: u64) -> Result<(Digest, bool)> {
    let shape = Shape {
        size,
        grain: BLOCK,
        window: WINDOW,
        coalesce: 0,
    };
    let mut content = Content::new(manifest.algorithm());
    let mut proven = true;
    for window in windows(shape) {
        let marks = manifest.marks().of(window)?;
        if marks.contains(&Mark::Unsure) {
            let what = "a block of the target is not what was copied, or that is not known";
            return Err(Error::new(Kind::Refused, what)
                .at(window.start)
                .hint("copy it again with --changes-since digest"));
        }
        proven &= marks.iter().all(|mark| *mark == Mark::Proven);
        for digest in manifest.digests(window)? {
            content.block(digest);
        }
    }
    Ok((content.finish(size), proven))
}

/// As `diskferry checksum` prints it.
pub(super) fn written(algorithm: Algorithm, digest: Digest) -> String {
    let name = match algorithm {
        Algorithm::Xxh3 => "xxh3",
        Algorithm::Blake3 => "blake3",
    };
    format!("{name}:{digest}")
}

fn pass_of(pass: &PassSummary) -> PassCertificate {
    PassCertificate {
        number: pass.begin.number,
        pass: pass.begin.pass.clone(),
        since: pass.begin.since.clone(),
        source: pass.begin.source.name.clone(),
        began: pass.begin.at,
        ended: pass.ended,
        distrusted: pass.distrusted,
    }
}
