//! An address → a disk that is open.

use crate::address::Address;
use crate::error::Result;
use crate::job::any_source;
use crate::job::options::Tuning;
use crate::nbd::client::Client;
use crate::source::Source;
use std::sync::Arc;

/// Opens a disk to be read.
pub(super) async fn source(address: &Address, tuning: &Tuning) -> Result<Arc<dyn Source>> {
    Ok(with_client(address, tuning).await?.0)
}

/// Opens a disk to be read, and gives the NBD client if it is an export.
pub(super) async fn with_client(
    address: &Address,
    tuning: &Tuning,
) -> Result<(Arc<dyn Source>, Option<Client>)> {
    any_source(address, tuning, Vec::new()).await
}
