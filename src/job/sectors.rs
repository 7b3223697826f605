//! Will the guest find its partitions? A GPT counts in sectors of the disk that it was made on.
//!
//! Copied onto a LUN with sectors of another size it is all there and cannot be found: the guest
//! does not boot, and nobody says why (guarantee 7).

use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::source::Source;
use crate::target::Target;
use crate::target::signature::gpt_sector;
use std::sync::Arc;

/// The GPT header is in the second sector, which ends here at the latest.
const HEAD: u64 = 8192;

/// Compares the sectors of the source's GPT with those of the target, where both have any.
///
/// # Errors
/// `Refused` if they differ; or the source cannot be read.
pub(super) async fn check(source: &Arc<dyn Source>, target: &Arc<dyn Target>) -> Result<()> {
    let Some(ours) = target.sector() else {
        return Ok(());
    };
    let length = usize::try_from(source.size().min(HEAD)).unwrap_or(0);
    let head = source.read(0, Buffer::unbudgeted(length)).await?;
    match gpt_sector(&head) {
        Some(theirs) if theirs != ours => {
            let what = format!(
                "the source's partition table counts in sectors of {theirs} bytes, and the \
                 target has sectors of {ours}: the guest would not find its partitions"
            );
            Err(Error::new(Kind::Refused, what).hint(format!(
                "use a LUN with sectors of {theirs} bytes, or add --allow-sector-mismatch if the \
                 guest will be shown such sectors"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::error::Kind;
    use crate::source::Source;
    use crate::target::Target;
    use crate::testkit::{MemSource, MemTarget};
    use futures_util::FutureExt;
    use std::sync::Arc;

    #[test]
    fn a_gpt_is_refused_on_other_sectors_and_only_there() {
        for (at, sector, fine) in [(512, 512, true), (512, 4096, false), (4096, 512, false)] {
            let disk = MemSource::new(1 << 20);
            disk.put(at, b"EFI PART");
            let source: Arc<dyn Source> = Arc::new(disk);
            let target: Arc<dyn Target> = Arc::new(MemTarget::new(1 << 20).with_sector(sector));
            let outcome = check(&source, &target).now_or_never().unwrap();
            let outcome = outcome.map_err(|error| error.kind());
            assert_eq!(
                outcome,
                if fine { Ok(()) } else { Err(Kind::Refused) },
                "{at} {sector}"
            );
        }
    }
}
