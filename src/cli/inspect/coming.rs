//! What can be told of a disk that can only be read forward.

use super::{Found, allocated, partitions};
use crate::address::Address;
use crate::cli::sequence;
use crate::error::Result;
use crate::format::Facts;
use crate::source::stream::Laid;
use crate::target::signature;
use std::path::Path;

/// What its start shows.
pub(super) async fn found(address: &Address, mut laid: Laid) -> Result<Found> {
    let image = laid.size().map(|size| Facts {
        format: "vmdk",
        file: laid.name().to_owned(),
        virtual_size: size,
        ..Facts::default()
    });
    let head = sequence::head(&mut laid, signature::HEAD).await?;
    // A short disk has ended already.
    let whole = (head.len() < signature::HEAD).then_some(head.len() as u64);
    let size = laid.size().or(whole);
    let mut warnings = Vec::new();
    let path = match address {
        Address::Path(path) => Some(path.as_path()),
        _ => None,
    };
    Ok(Found {
        address: address.to_string(),
        kind: match (address, path.is_some_and(Path::is_file)) {
            (Address::Http(_), _) => "object on a web server, read forward",
            (_, true) => "compressed file, read forward",
            (_, false) => "stream, read forward",
        },
        size,
        allocated: path.and_then(allocated),
        identity: None,
        requests: None,
        image,
        device: None,
        export: None,
        exports: Vec::new(),
        content: signature::find(&head, &[], size.unwrap_or(0)),
        gpt_sector: signature::gpt_sector(&head),
        partitions: partitions(&head, size.unwrap_or(u64::MAX), &mut warnings),
        copy: None,
        trackers: Vec::new(),
        warnings,
    })
}
