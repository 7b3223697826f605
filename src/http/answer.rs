//! What the head of an answer says of an object and its parts. Pure.
//!
//! RFC 9110: ranges in section 14, validators in 8.8, codings in 8.4. A server that says one thing
//! and does another must not make a disk of bytes that do not belong together, so every answer is
//! compared with the first one.

use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use hyper::{HeaderMap, StatusCode};
use std::fmt;
use std::time::Duration;

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest validator that is believed.
const LONGEST_VALIDATOR: usize = 1024;

/// What `Content-Range` says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Which bytes of the object follow; none if none could.
    pub range: Option<ByteRange>,
    /// Bytes of the whole object, if the server knows.
    pub total: Option<u64>,
}

impl Part {
    /// Reads `bytes FIRST-LAST/TOTAL`, in which `*` stands for what is not known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        if range == "*" {
            let range = None;
            return total.map(|_| Self { range, total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let end = last.checked_add(1)?;
        if first > last || total.is_some_and(|total| end > total) {
            return None;
        }
        let range = Some(ByteRange::new(first, end));
        Some(Self { range, total })
    }
}

/// A number of nothing but digits.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Which version of an object it is, as far as a server says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Version {
    /// The entity tag, quotes and all.
    pub etag: Option<String>,
    /// When it was changed last, as the server writes it.
    pub modified: Option<String>,
}

impl Version {
    /// That of the object whose answer has these headers.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            let fits = !value.is_empty() && value.len() <= LONGEST_VALIDATOR;
            fits.then(|| value.to_owned())
        };
        Self {
            etag: text(ETAG),
            modified: text(LAST_MODIFIED),
        }
    }

    /// What to send as `If-Range`: only a strong tag may, or else a date.
    #[must_use]
    pub fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.modified.as_deref())
    }

    /// Whether `other` is another version than this, as far as both tell.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && a != b;
        match self.etag.is_some() {
            true => differ(&self.etag, &other.etag),
            false => differ(&self.modified, &other.modified),
        }
    }

    /// Whether the server told any.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.etag, &self.modified) {
            (Some(etag), _) => write!(f, "ETag {etag}"),
            (None, Some(modified)) => write!(f, "of {modified}"),
            (None, None) => f.write_str("of no version"),
        }
    }
}

/// An object as the first answer shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// Any part of it can be asked for.
    InParts {
        /// Its bytes.
        size: u64,
        /// Which one it is.
        version: Version,
    },
    /// Only all of it: the answer's body is the object.
    Whole {
        /// Its bytes, if the server says.
        size: Option<u64>,
        /// Which one it is.
        version: Version,
    },
}

/// What the answer to a request for the first byte of an object shows.
///
/// # Errors
/// The server has no such object or does not give it, or what it says makes no sense.
pub fn look(status: StatusCode, headers: &HeaderMap) -> Result<Found> {
    let version = Version::of(headers);
    match status {
        StatusCode::OK => {
            plain(headers)?;
            let size = length(headers)?;
            Ok(match size {
                Some(0) => Found::InParts { size: 0, version },
                size => Found::Whole { size, version },
            })
        }
        StatusCode::PARTIAL_CONTENT => {
            plain(headers)?;
            let part = part(headers)?;
            if part.range != Some(ByteRange::new(0, 1)) {
                return Err(nonsense("other bytes than were asked for"));
            }
            let size = part.total.ok_or_else(|| {
                let what = "the server does not say how long the object is";
                Error::new(Kind::Unsupported, what)
            })?;
            Ok(Found::InParts { size, version })
        }
        // An empty object has no first byte.
        StatusCode::RANGE_NOT_SATISFIABLE if total(headers) == Some(0) => {
            Ok(Found::InParts { size: 0, version })
        }
        status => Err(refusal(status)),
    }
}

/// Checks that an answer holds just `wanted`, out of the object that was found.
///
/// # Errors
/// The object changed (`Io`), the server may do better the next time (`Transient`), or what it
/// says makes no sense.
pub fn check_part(
    status: StatusCode,
    headers: &HeaderMap,
    wanted: ByteRange,
    size: u64,
    version: &Version,
) -> Result<()> {
    match status {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => return Err(whole_instead(headers, size, version)),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(match total(headers) {
                Some(total) if total != size => resized(size, total),
                _ => nonsense("that the range is not there"),
            });
        }
        StatusCode::PRECONDITION_FAILED => return Err(changed("the server says so")),
        status => return Err(refusal(status)),
    }
    plain(headers)?;
    let now = Version::of(headers);
    if version.differs(&now) {
        return Err(changed(format!("it was {version} and is {now}")));
    }
    let part = part(headers)?;
    if let Some(total) = part.total.filter(|total| *total != size) {
        return Err(resized(size, total));
    }
    if part.range != Some(wanted) {
        return Err(nonsense("other bytes than were asked for"));
    }
    match length(headers)? {
        Some(length) if length != wanted.len() => {
            Err(nonsense("a length that is not that of the range"))
        }
        _ => Ok(()),
    }
}

/// All of the object although a part was asked for: `If-Range` did not hold.
fn whole_instead(headers: &HeaderMap, size: u64, version: &Version) -> Error {
    let now = Version::of(headers);
    if version.differs(&now) {
        return changed(format!("it was {version} and is {now}"));
    }
    match length(headers) {
        Ok(Some(length)) if length != size => resized(size, length),
        _ => Error::new(
            Kind::Transient,
            "the server gives all of the object where a part was asked for",
        ),
    }
}

fn resized(before: u64, now: u64) -> Error {
    changed(format!("it had {before} bytes and has {now}"))
}

fn changed(why: impl Into<String>) -> Error {
    Error::new(Kind::Io, "the object changed while it was read")
        .because(why.into())
        .hint(
            "what was copied is of no version; copy it anew with --restart once it stays as it is",
        )
}

fn nonsense(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the server says {what}"))
}

fn part(headers: &HeaderMap) -> Result<Part> {
    let text = headers.get(CONTENT_RANGE);
    let text = text.map_or("", |value| value.to_str().unwrap_or_default());
    Part::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        nonsense(&format!("Content-Range {shown:?}, which makes no sense"))
    })
}

fn total(headers: &HeaderMap) -> Option<u64> {
    part(headers).ok()?.total
}

/// What `Content-Length` says.
fn length(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(number);
    length
        .map(Some)
        .ok_or_else(|| nonsense("a Content-Length that is no number"))
}

/// Refuses what was packed on its way: its length is not that of the object.
fn plain(headers: &HeaderMap) -> Result<()> {
    let codings = headers.get_all(CONTENT_ENCODING);
    for coding in codings {
        let coding = coding.to_str().unwrap_or("?").trim();
        if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
            let what = format!("the server packs the object on its way ({coding})");
            return Err(Error::new(Kind::Unsupported, what)
                .hint("turn Content-Encoding off for disk images on the server"));
        }
    }
    Ok(())
}

/// What a status that gives no object means.
#[must_use]
pub fn refusal(status: StatusCode) -> Error {
    let kind = match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => Kind::Refused,
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Kind::Transient,
        _ => Kind::Io,
    };
    let error = Error::new(kind, format!("the server answers {status}"));
    match status {
        StatusCode::UNAUTHORIZED => {
            error.hint("say who asks: --http-user NAME and a password, or --http-header-file FILE")
        }
        _ => error,
    }
}

/// How long a server that is busy asks us to wait.
#[must_use]
pub fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = number(headers.get(RETRY_AFTER)?.to_str().ok()?.trim())?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests;
