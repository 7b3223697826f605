//! Disk images on web servers: files that cannot be looked at as files.

use super::options::Reading;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{self, Storage};
use crate::nbd::client::Options as ClientOptions;
use crate::source::Source;
use crate::source::http::{self, HttpOptions};
use crate::source::image::SourceStorage;
use std::sync::Arc;

/// What is on a web server is a file: it is what it looks like, unless the user says what it is.
///
/// # Errors
/// It is compressed as a whole, or cannot be read.
pub(super) async fn as_a_file(storage: &Arc<dyn Source>, reading: &Reading) -> Result<Reading> {
    let mut reading = reading.clone();
    if reading.format.is_none() {
        let storage = SourceStorage::new(Arc::clone(storage));
        let head = ByteRange::new(0, storage.size().min(8));
        let head = format::read_range(&storage, "first bytes", head).await?;
        let magics: [(&[u8], &str); 3] = [
            (&[0x1f, 0x8b, 8], "gzip"),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
            (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        ];
        if let Some((_, name)) = magics.iter().find(|(magic, _)| head.starts_with(magic)) {
            let what = format!(
                "{} is {name} data, which can only be read forward",
                storage.identity()
            );
            let hint = "unpack it first, or add -f raw if those are the bytes of the disk";
            return Err(Error::new(Kind::Unsupported, what).hint(hint));
        }
        reading.format = Some(format::probe(&storage).await?.name().to_owned());
    }
    Ok(reading)
}

/// Looks at an object on a web server.
///
/// # Errors
/// As for [`http::open`]; or the URL makes no sense.
pub(super) async fn open(
    url: &str,
    reading: &Reading,
    options: ClientOptions,
) -> Result<http::Opened> {
    let sign: Arc<dyn http::Sign> = match &reading.access.signer {
        Some(signer) => Arc::clone(signer),
        None => Arc::new(http::AsItIs(http::parse_url(url)?)),
    };
    let options = HttpOptions {
        access: reading.access.clone(),
        connections: options.connections,
        retry: options.retry,
        retried: options.retried,
    };
    http::open(sign, &options).await
}

/// An object that cannot be read by ranges where that is needed.
pub(super) fn only_whole(name: &str) -> Error {
    let what =
        format!("{name}: the server gives no parts of it, so it cannot be read in any order");
    Error::new(Kind::Unsupported, what)
        .hint("a server that knows Range requests can; or download it first")
}
