//! All extents of a range, from a source that answers as much as it likes at a time.

use super::Source;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, push_merged};

/// Asks `source` on and on until all of `range` is known, and checks what it says.
///
/// A source that cannot tell is to be read instead: what follows the last extent that comes back
/// is unknown, and so data.
///
/// # Errors
/// `Corrupt`: the source breaks the contract of [`Source::extents`].
pub async fn all_extents(source: &dyn Source, range: ByteRange) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut rest = range;
    while !rest.is_empty() {
        let answer = match source.extents(rest).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(
                    "what is zero is not known, so all is read: {}",
                    error.line()
                );
                return Ok(found);
            }
        };
        if answer.is_empty() {
            return Err(Error::new(Kind::Corrupt, "the source told no extents").at(rest.start));
        }
        for extent in answer {
            let told = extent.range;
            if told.start != rest.start || told.is_empty() || !rest.covers(told) {
                let what = format!("the source told an extent {told} of {rest}");
                return Err(Error::new(Kind::Corrupt, what));
            }
            push_merged(&mut found, extent);
            rest = ByteRange::new(told.end, rest.end);
        }
    }
    Ok(found)
}
