//! What a client can choose from, as plain values: the exports of one moment.
//!
//! Taken from the exports when a connection comes in, so that the handshake is pure.

use super::MAX_REQUEST;
use super::export::{BASE_ALLOCATION, BlockSizes, Export};
use crate::nbd::wire::export_flag;

/// One export, as the handshake tells of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer {
    /// Its name; may be empty.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// [`export_flag`]s, without those that depend on what else was negotiated.
    pub flags: u16,
    /// Block sizes, made sound.
    pub blocks: BlockSizes,
    /// For people.
    pub description: String,
    /// All contexts; the place in the list is the context's id.
    pub contexts: Vec<String>,
}

impl Offer {
    /// What `export` offers under `name` now.
    #[must_use]
    pub fn of(name: &str, export: &dyn Export) -> Self {
        let mut contexts = vec![BASE_ALLOCATION.to_owned()];
        contexts.extend(export.contexts());
        Self {
            name: name.to_owned(),
            size: export.size(),
            flags: flags_of(export),
            blocks: sound(export.block_sizes()),
            description: export.description(),
            contexts,
        }
    }

    /// Whether `flag` of [`export_flag`] is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

fn flags_of(export: &dyn Export) -> u16 {
    let mut flags = export_flag::HAS_FLAGS | export_flag::SEND_FLUSH | export_flag::SEND_FUA;
    let mut set = |condition: bool, flag: u16| {
        if condition {
            flags |= flag;
        }
    };
    let writable = !export.read_only();
    set(!writable, export_flag::READ_ONLY);
    set(writable, export_flag::SEND_WRITE_ZEROES);
    set(writable && export.can_trim(), export_flag::SEND_TRIM);
    set(
        writable && export.can_zero_fast(),
        export_flag::SEND_FAST_ZERO,
    );
    set(export.multi_conn(), export_flag::CAN_MULTI_CONN);
    flags
}

/// Block sizes that obey the rules of the specification, whatever the export said.
fn sound(asked: BlockSizes) -> BlockSizes {
    let minimum = asked.minimum.clamp(1, 1 << 16).next_power_of_two();
    let maximum = asked.maximum.clamp(minimum, MAX_REQUEST);
    BlockSizes {
        minimum,
        preferred: asked
            .preferred
            .next_power_of_two()
            .clamp(minimum.max(512), MAX_REQUEST),
        maximum: maximum.saturating_sub(maximum.checked_rem(minimum).unwrap_or(0)),
    }
}

/// Whether a client can, or must, go on under TLS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tls {
    /// There is no certificate.
    #[default]
    Unavailable,
    /// As the client likes.
    Offered,
    /// Nothing is told before it.
    Required,
}

/// All that a client can choose from.
#[derive(Clone, Debug, Default)]
pub struct Menu {
    /// The exports. The first one is also the default export, of the empty name.
    pub offers: Vec<Offer>,
    /// Whether the client can, or must, use TLS.
    pub tls: Tls,
}

impl Menu {
    /// The place of the export called `name`; the empty name stands for the first one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        let named = self.offers.iter().position(|offer| offer.name == name);
        named.or((name.is_empty() && !self.offers.is_empty()).then_some(0))
    }
}
