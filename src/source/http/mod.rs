//! A disk image on a web server, read by ranges.
//!
//! One version of one object: what the first answer says of it (RFC 9110, validators) is compared
//! with every answer after that, so that bytes of two versions never mix. Reads go over several
//! connections at once; what fails for a moment is tried again within a deadline, from the byte that
//! came last.
//!
//! ```text
//!  access.rs  who asks, and whom we believe: files and the environment, never the URL
//!  sign.rs    how a request is made one that the server lets in: s3.rs, gcs.rs
//!  mod.rs     the object in parts, as a Source
//!  whole.rs   the object as it comes once, in order: no Source
//! ```

mod access;
mod gcs;
mod s3;
mod sign;
mod whole;

pub use access::{Access, Login, PASSWORD};
pub use gcs::Gcs;
pub use s3::S3;
pub use sign::{AsItIs, Sign, Signed};
pub use whole::{BrokenOff, Whole};

use super::Source;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::http::Reply;
use crate::http::answer::{Found, Version, check_part, look, pause};
use crate::http::client::{Client, Manners, shown};
use crate::nbd::client::Retry;
use async_trait::async_trait;
use hyper::header::{HeaderValue, IF_RANGE, RANGE};
use hyper::{HeaderMap, StatusCode};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use url::Url;

/// Connections to a server, if nobody says otherwise.
pub const CONNECTIONS: usize = 8;

/// How an object is read.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Who asks, and whom we believe.
    pub access: Access,
    /// Connections at once.
    pub connections: usize,
    /// What fails for a moment.
    pub retry: Retry,
    /// Is told how many requests were repeated.
    pub retried: Arc<AtomicU64>,
}

/// An object that was found.
#[derive(Debug)]
pub enum Opened {
    /// It can be read anywhere.
    InParts(HttpSource),
    /// It comes once, in order.
    Whole(Whole),
}

/// An object on a web server that is read by ranges. See the [module](self).
pub struct HttpSource {
    place: Place,
    version: Version,
    identity: Identity,
    connections: Arc<Semaphore>,
    limits: Limits,
    retry: Retry,
    retried: Arc<AtomicU64>,
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpSource({}, {})", self.identity, self.version)
    }
}

/// Where an object is: what was asked for, and where that led to.
struct Place {
    client: Client,
    sign: Arc<dyn Sign>,
    name: String,
    led_to: Mutex<Option<Url>>,
}

impl Place {
    /// Asks for the object, or for part of it.
    async fn ask(&self, headers: &HeaderMap) -> Result<Reply> {
        let led_to = self.led_to().clone();
        if let Some(url) = led_to {
            let (_, reply) = self.client.follow(&url, headers).await?;
            // Addresses that objects lead to are often good for a while only.
            let gone = [
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::NOT_FOUND,
                StatusCode::GONE,
            ];
            if !gone.contains(&reply.status) {
                return Ok(reply);
            }
            *self.led_to() = None;
            tracing::debug!("{}: {}; asking again", shown(&url), reply.status);
        }
        let Signed {
            url,
            headers: mut all,
        } = self.sign.sign()?;
        all.extend(headers.clone());
        let (at, reply) = self.client.follow(&url, &all).await?;
        if at != url {
            *self.led_to() = Some(at);
        }
        Ok(reply)
    }

    fn led_to(&self) -> MutexGuard<'_, Option<Url>> {
        self.led_to.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the URL of an object.
///
/// # Errors
/// It is none, or holds a password, which every user of the machine could see.
pub fn parse_url(text: &str) -> Result<Url> {
    let bad = |why: String| Error::new(Kind::Usage, "read the URL of the source").because(why);
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "take it out: --http-user NAME and --http-password-file FILE, or DISKFERRY_HTTP_PASSWORD in the environment";
        return Err(bad("a user or password does not belong there".to_owned()).hint(hint));
    }
    Ok(url)
}

/// Looks at the object that `sign` leads to, with retries.
///
/// # Errors
/// It is not there, is not given, or cannot be read as it is sent; or the server is not believed.
pub async fn open(sign: Arc<dyn Sign>, options: &HttpOptions) -> Result<Opened> {
    let url = sign.sign()?.url;
    let name = shown(&url);
    let manners = Manners {
        trust: options.access.trust.clone(),
        own: options.access.headers()?,
        patience: options.access.patience,
    };
    let place = Place {
        client: Client::new(&url, manners)?,
        sign,
        name: name.clone(),
        led_to: Mutex::default(),
    };
    let first = range_header(ByteRange::new(0, 1), None)?;
    let mut failures = Failures::new(&options.retry, &options.retried);
    let (reply, found) = loop {
        let looked = async {
            let reply = place.ask(&first).await.map_err(|error| (error, None))?;
            let found = look(reply.status, &reply.headers);
            let wait = pause(&reply.headers);
            found
                .map(|found| (reply, found))
                .map_err(|error| (error, wait))
        };
        match looked.await {
            Ok(found) => break found,
            Err((error, wait)) => {
                let error = error.context(format!("open {name}"));
                failures.next(error, wait, &name).await?;
            }
        }
    };
    let (size, version) = match found {
        Found::InParts { size, version } => (size, version),
        Found::Whole { size, .. } => return Ok(Opened::Whole(Whole::new(reply, size, name))),
    };
    reply.pass_over().await;
    Ok(Opened::InParts(HttpSource::new(
        place, &url, size, version, options,
    )))
}

impl HttpSource {
    fn new(place: Place, url: &Url, size: u64, version: Version, options: &HttpOptions) -> Self {
        let connections = options.connections.max(1);
        let identity = Identity {
            id: identify(url, &version),
            size,
            name: place.name.clone(),
        };
        if !version.is_known() {
            tracing::warn!(
                "{} has neither ETag nor Last-Modified: a change during the copy is not seen",
                place.name
            );
        }
        Self {
            place,
            version,
            identity,
            connections: Arc::new(Semaphore::new(connections)),
            limits: Limits {
                align: 1,
                preferred: 1 << 20,
                max: 8 << 20,
                in_flight: connections,
            },
            retry: options.retry,
            retried: Arc::clone(&options.retried),
        }
    }

    /// Fills `buffer` from byte `done` on, counting it up. One request.
    async fn part(
        &self,
        range: ByteRange,
        buffer: &mut [u8],
        done: &mut usize,
    ) -> Result<(), (Error, Option<Duration>)> {
        let failed = |error| (error, None);
        let start = range.start.saturating_add(*done as u64);
        let rest = ByteRange::new(start, range.end);
        let headers = range_header(rest, self.version.validator()).map_err(failed)?;
        let _connection = self.connections.acquire().await;
        let mut reply = self.place.ask(&headers).await.map_err(failed)?;
        let size = self.identity.size;
        let is_it = check_part(reply.status, &reply.headers, rest, size, &self.version);
        is_it.map_err(|error| (error, pause(&reply.headers)))?;
        while let Some(piece) = reply.next().await.map_err(failed)? {
            let room = buffer.get_mut(*done..).unwrap_or_default();
            let Some(room) = room.get_mut(..piece.len()) else {
                let what = "the server sends more bytes than it said";
                return Err(failed(Error::new(Kind::Corrupt, what)));
            };
            room.copy_from_slice(&piece);
            *done = done.saturating_add(piece.len());
        }
        if *done < buffer.len() {
            let what = "the server sends fewer bytes than it said";
            return Err(failed(Error::new(Kind::Transient, what)));
        }
        Ok(())
    }
}

/// Which object it is, for a journal: without the query, which may be a signature that is new each
/// time; with what tells versions apart.
fn identify(url: &Url, version: &Version) -> String {
    let name = shown(url);
    if version.is_known() {
        return format!("{name} {version}");
    }
    let query = blake3::hash(url.query().unwrap_or_default().as_bytes());
    let query = query.to_hex();
    format!("{name} {}", query.get(..16).unwrap_or_default())
}

fn range_header(range: ByteRange, validator: Option<&str>) -> Result<HeaderMap> {
    let last = range.end.saturating_sub(1);
    let mut headers = HeaderMap::new();
    let bad = |_| Error::new(Kind::Corrupt, "the server's ETag cannot be sent back");
    let value = HeaderValue::from_str(&format!("bytes={}-{last}", range.start));
    headers.insert(RANGE, value.map_err(bad)?);
    if let Some(validator) = validator {
        headers.insert(IF_RANGE, HeaderValue::from_str(validator).map_err(bad)?);
    }
    Ok(headers)
}

/// How often and since when something has failed.
struct Failures<'a> {
    retry: &'a Retry,
    retried: &'a AtomicU64,
    attempts: u32,
    since: Option<Instant>,
}

impl<'a> Failures<'a> {
    fn new(retry: &'a Retry, retried: &'a AtomicU64) -> Self {
        Self {
            retry,
            retried,
            attempts: 0,
            since: None,
        }
    }

    /// Waits before the next attempt, if there is one: as long as the server asks for, if it does.
    async fn next(&mut self, error: Error, asked: Option<Duration>, name: &str) -> Result<()> {
        if error.kind() != Kind::Transient {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(pause) = self.retry.pause(self.attempts, since.elapsed()) else {
            return Err(error);
        };
        let left = self.retry.deadline.saturating_sub(since.elapsed());
        let pause = pause.max(asked.unwrap_or_default()).min(left);
        self.attempts = self.attempts.saturating_add(1);
        self.retried.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            "{name} is tried again in {} ms: {}",
            pause.as_millis(),
            error.line()
        );
        sleep(pause).await;
        Ok(())
    }
}

#[async_trait]
impl Source for HttpSource {
    fn size(&self) -> u64 {
        self.identity.size
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read", &self.identity.name, range, self.size())?;
        let mut done = 0;
        let mut failures = Failures::new(&self.retry, &self.retried);
        while done < buffer.len() {
            let before = done;
            let Err((error, wait)) = self.part(range, &mut buffer, &mut done).await else {
                break;
            };
            if done > before {
                // Something moves: patience begins anew.
                failures = Failures::new(&self.retry, &self.retried);
            }
            let at = offset.saturating_add(done as u64);
            let error = error.context(format!("read {}", self.identity)).at(at);
            failures.next(error, wait, &self.identity.name).await?;
        }
        Ok(buffer)
    }
}
