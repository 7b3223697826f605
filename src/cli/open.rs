//! An address → a disk that is open.

use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::job::options::Tuning;
use crate::source::{Source, open_path};
use std::sync::Arc;

/// Opens a disk to be read.
pub(super) async fn source(address: &Address, _tuning: &Tuning) -> Result<Arc<dyn Source>> {
    match address {
        Address::Path(path) => open_path(path).await,
        _ => Err(Error::new(Kind::Unsupported, format!("open {address}"))),
    }
}
