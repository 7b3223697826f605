//! The durable record of what is on the target; makes a pass resumable.
//!
//! Two files: the journal, a log of small records that is only appended to, and beside it the
//! manifest, a digest for each block. A barrier record says "what is named here is on the target
//! for good": it is appended after the target's flush succeeded and after the manifest was
//! synced, never before (guarantee 2).
//!
//! ```text
//!  record.rs     what is recorded                       no I/O
//!  frame.rs      records ↔ bytes, the torn tail          no I/O
//!  history.rs    records → what they mean                no I/O
//!  hold.rs       the file: found or made, and locked
//!  log.rs        the whole: recover, append
//!  manifest.rs   the other file: digests by block
//!  marks.rs      how far each digest can be relied on
//!  view.rs       what is known for good while a pass changes it
//! ```

mod frame;
mod history;
mod hold;
mod log;
mod manifest;
mod marks;
mod record;
mod view;

pub use frame::{Recovered, recover};
pub use history::{History, PassState, PassSummary};
pub use log::{Journal, unique_id};
pub use manifest::{Checkpoint, Manifest};
pub use marks::{Mark, Marks};
pub use record::{Begin, PassBegin, Record, VERSION};
pub use view::View;
