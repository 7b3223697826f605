//! From when on changes count, as a user writes it.

use crate::error::{Error, Kind, Result};
use crate::vsphere::changes::ChangeId;
use std::fmt;
use std::str::FromStr;

/// From when on changes count, and who tracks them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Baseline {
    /// `nbd-bitmap:NAME`: the source's meta context `qemu:dirty-bitmap:NAME`.
    NbdBitmap(String),
    /// `cbt:CHANGEID`: VMware's changed block tracking, up to the snapshot that is read.
    Cbt(ChangeId),
    /// `digest`: nothing tracks changes. The source is read, and what differs from the manifest is
    /// written.
    Digest,
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NbdBitmap(name) => write!(f, "nbd-bitmap:{name}"),
            Self::Cbt(id) => write!(f, "cbt:{id}"),
            Self::Digest => f.write_str("digest"),
        }
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("nbd-bitmap", name)) if !name.is_empty() => Ok(Self::NbdBitmap(name.to_owned())),
            Some(("cbt", id)) if *id != *"*" => match ChangeId::new(id.to_owned()) {
                Some(id) => Ok(Self::Cbt(id)),
                None => Err(Error::new(
                    Kind::Usage,
                    format!("{id:?} is not a change id"),
                )),
            },
            None if text == "digest" => Ok(Self::Digest),
            _ => Err(
                Error::new(Kind::Usage, format!("unknown baseline {text:?}"))
                    .hint("write nbd-bitmap:NAME, cbt:CHANGEID or digest"),
            ),
        }
    }
}
