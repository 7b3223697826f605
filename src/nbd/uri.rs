//! NBD URIs: words to a type. Pure, nothing is opened here.
//!
//! Follows the [NBD URI specification] with the extensions of libnbd (`tls-…` keys):
//!
//! ```text
//! nbd://HOST[:PORT]/EXPORT            nbds://…            TCP, plain or under TLS
//! nbd+unix:///EXPORT?socket=PATH      nbds+unix://…       Unix socket
//! ```
//!
//! Not spoken, and refused by name: vsock, TLS with pre-shared keys.
//!
//! [NBD URI specification]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md

use crate::error::{Error, Kind, Result};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port that IANA gave to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// What must not stand bare in a path or a query.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?');

/// What must not stand bare in a host. A colon may: it stands in brackets.
const HOST: &AsciiSet = &RESERVED.add(b'/').add(b'@').add(b'[').add(b']');

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// A name or an address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host} port {port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How TLS is done, if it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsParameters {
    /// Directory with `ca-cert.pem`, and `client-cert.pem` and `client-key.pem` if the server
    /// wants to know the client. `None` searches the places where libnbd looks.
    pub certificates: Option<PathBuf>,
    /// Whether the server's certificate is checked. Only a user can say no.
    pub verify_peer: bool,
    /// The name that the server's certificate must have.
    pub hostname: String,
    /// Only pre-shared keys use this; kept so that a URI made for them still parses.
    pub username: Option<String>,
}

/// An NBD URI, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uri {
    place: Place,
    export: String,
    tls: Option<TlsParameters>,
}

impl Uri {
    /// A plain export behind a Unix socket, for servers that were started for this job.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self {
            place: Place::Unix(socket.into()),
            export: export.into(),
            tls: None,
        }
    }

    /// Where the server listens.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Name of the export; empty is the server's default export.
    #[must_use]
    pub fn export(&self) -> &str {
        &self.export
    }

    /// How TLS is done; `None` for the plain schemes.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsParameters> {
        self.tls.as_ref()
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text)
            .map_err(|error| error.context(format!("parse the NBD URI {:?}", redacted(text))))
    }
}

/// The text without what stands before an `@`: someone may have put a password there.
fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}{after}"),
        None => text.to_owned(),
    }
}

/// A URI cut at its delimiters, nothing decoded.
struct Parts<'a> {
    authority: &'a str,
    path: &'a str,
    query: &'a str,
}

fn cut(rest: &str) -> Parts<'_> {
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    Parts {
        authority,
        path: path.strip_prefix('/').unwrap_or(path),
        query,
    }
}

fn parse(text: &str) -> Result<Uri> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| usage("it has no ://").hint("such as nbd://localhost/export"))?;
    let (tls, unix) = match scheme {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        "nbd+vsock" | "nbds+vsock" => {
            return Err(Error::new(
                Kind::Unsupported,
                "vsock is not built in; use TCP or a Unix socket",
            ));
        }
        other => return Err(usage(format!("{other:?} is not a scheme of NBD"))),
    };
    let parts = cut(rest);
    let export = decode_text(parts.path, "the export name")?;
    let query = Query::parse(parts.query)?;
    let (user, host) = match parts.authority.rsplit_once('@') {
        Some((user, host)) => (Some(decode_text(user, "the user")?), host),
        None => (None, parts.authority),
    };
    if user.as_deref().is_some_and(|user| user.contains(':')) {
        return Err(usage("NBD has no passwords, and a URI is no place for one"));
    }
    let place = if unix {
        unix_place(host, query.socket.clone())?
    } else {
        if query.socket.is_some() {
            return Err(usage("socket= belongs to nbd+unix:// only"));
        }
        tcp_place(host)?
    };
    let tls = query.tls(tls, &place, user)?;
    Ok(Uri { place, export, tls })
}

fn unix_place(host: &str, socket: Option<PathBuf>) -> Result<Place> {
    if !host.is_empty() {
        return Err(usage(format!("a Unix socket has no host, found {host:?}"))
            .hint("write three slashes: nbd+unix:///export?socket=PATH"));
    }
    socket
        .filter(|path| !path.as_os_str().is_empty())
        .map(Place::Unix)
        .ok_or_else(|| usage("a Unix socket needs ?socket=PATH"))
}

fn tcp_place(authority: &str) -> Result<Place> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| usage("\"[\" of an IPv6 address without \"]\""))?;
            if !after.is_empty() && !after.starts_with(':') {
                return Err(usage(format!("{after:?} after an IPv6 address")));
            }
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = decode_text(host, "the host")?;
    let port = match port.filter(|port| !port.is_empty()) {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|&port| port > 0)
            .ok_or_else(|| usage(format!("{port:?} is not a port")))?,
    };
    Ok(Place::Tcp {
        host: if host.is_empty() {
            "localhost".to_owned()
        } else {
            host
        },
        port,
    })
}

/// The keys after `?`, decoded.
#[derive(Default)]
struct Query {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    verify_peer: Option<bool>,
    hostname: Option<String>,
    username: Option<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self> {
        let mut query = Self::default();
        for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let path = || decode_path(value, key);
            let word = || decode_text(value, key);
            match key {
                "socket" => query.socket = Some(path()?),
                "tls-certificates" => query.certificates = Some(path()?),
                "tls-verify-peer" => query.verify_peer = Some(boolean(key, value)?),
                "tls-hostname" => query.hostname = Some(word()?),
                "tls-username" => query.username = Some(word()?),
                "tls-psk-file" => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        "TLS with pre-shared keys (tls-psk-file) is not supported",
                    )
                    .hint("use certificates: tls-certificates=DIR"));
                }
                _ => return Err(usage(format!("unknown key {key:?}"))),
            }
        }
        Ok(query)
    }

    fn tls(self, tls: bool, place: &Place, user: Option<String>) -> Result<Option<TlsParameters>> {
        if !tls {
            let given = self.certificates.is_some()
                || self.verify_peer.is_some()
                || self.hostname.is_some()
                || self.username.is_some();
            return if given {
                Err(usage("a tls- key in a URI without TLS")
                    .hint("the scheme is nbds or nbds+unix"))
            } else {
                Ok(None)
            };
        }
        let hostname = self.hostname.unwrap_or_else(|| match place {
            Place::Tcp { host, .. } => host.clone(),
            // No name is known for a socket file; this is the one that libnbd takes.
            Place::Unix(_) => "localhost".to_owned(),
        });
        Ok(Some(TlsParameters {
            certificates: self.certificates,
            verify_peer: self.verify_peer.unwrap_or(true),
            hostname,
            username: self.username.or(user),
        }))
    }
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(usage(format!("{key}={value:?} is neither true nor false"))),
    }
}

fn decode_bytes(text: &str, what: &str) -> Result<Vec<u8>> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        let hex = rest.get(at.saturating_add(1)..at.saturating_add(3));
        if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
            return Err(usage(format!("{what} has a % without two hex digits")));
        }
        rest = rest.get(at.saturating_add(3)..).unwrap_or(&[]);
    }
    Ok(percent_decode_str(text).collect())
}

fn decode_text(text: &str, what: &str) -> Result<String> {
    String::from_utf8(decode_bytes(text, what)?).map_err(|_| usage(format!("{what} is not UTF-8")))
}

fn decode_path(text: &str, what: &str) -> Result<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(decode_bytes(text, what)?));
    Ok(path)
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what.into())
}

/// The canonical form, without the `tls-` keys: enough to know the disk, nothing to hide.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "nbds" } else { "nbd" };
        let export = utf8_percent_encode(&self.export, RESERVED);
        match &self.place {
            Place::Tcp { host, port } => {
                write!(f, "{scheme}://{}", bracketed(host))?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            Place::Unix(path) => {
                write!(f, "{scheme}+unix:///{export}?socket={}", encoded(path))
            }
        }
    }
}

/// A host as it stands in a URI: an IPv6 address in brackets, delimiters encoded.
fn bracketed(host: &str) -> String {
    let encoded = utf8_percent_encode(host, HOST);
    if host.contains(':') {
        format!("[{encoded}]")
    } else {
        encoded.to_string()
    }
}

fn encoded(path: &Path) -> String {
    percent_encoding::percent_encode(path.as_os_str().as_bytes(), RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Place, Uri};
    use crate::error::{Kind, Result};
    use proptest::prelude::{prop_assert_eq, proptest};
    use std::path::{Path, PathBuf};

    fn parsed(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn the_printed_form_means_the_same_whatever_the_host() {
        for text in [
            "nbd://[fe80::1%25eth0]:1/a",
            "nbd://[[]:1",
            "nbd://a%2Fb%40c/",
        ] {
            let uri = parsed(text);
            assert_eq!(parsed(&uri.to_string()), uri, "{text}");
        }
    }

    #[test]
    fn the_forms_of_the_specification_parse() {
        for (text, place, export) in [
            ("nbd://example.com", tcp("example.com", 10809), ""),
            ("nbd://example.com/", tcp("example.com", 10809), ""),
            ("nbd://example.com:99/a", tcp("example.com", 99), "a"),
            ("nbd://host/a/b%20c", tcp("host", 10809), "a/b c"),
            ("nbd://host//abs", tcp("host", 10809), "/abs"),
            ("nbd://[::1]:7/x", tcp("::1", 7), "x"),
            ("nbd://[fe80::1]/x", tcp("fe80::1", 10809), "x"),
            ("nbd:///x", tcp("localhost", 10809), "x"),
            (
                "nbd+unix:///x?socket=/run/a%20b",
                Place::Unix(PathBuf::from("/run/a b")),
                "x",
            ),
            ("nbd+unix://?socket=s", Place::Unix(PathBuf::from("s")), ""),
        ] {
            let uri = parsed(text);
            assert_eq!((uri.place(), uri.export()), (&place, export), "{text}");
            assert!(uri.tls().is_none(), "{text}");
        }
    }

    #[test]
    fn tls_checks_the_server_by_the_hosts_name_unless_told_otherwise() {
        let uri = parsed("nbds://alice@host/x?tls-certificates=/pki");
        let tls = uri.tls().unwrap();
        assert!(tls.verify_peer);
        assert_eq!(tls.hostname, "host");
        assert_eq!(tls.username.as_deref(), Some("alice"));
        assert_eq!(tls.certificates.as_deref(), Some(Path::new("/pki")));
        let uri = parsed("nbds+unix:///?socket=s&tls-hostname=h&tls-verify-peer=false");
        let tls = uri.tls().unwrap();
        assert_eq!((tls.hostname.as_str(), tls.verify_peer), ("h", false));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        for (text, kind, word) in [
            ("nbd:localhost:10809", Kind::Usage, "://"),
            ("nbd+vsock://2/x", Kind::Unsupported, "vsock"),
            (
                "nbds://h/?tls-psk-file=/k",
                Kind::Unsupported,
                "tls-psk-file",
            ),
            ("nbd://h/?colour=red", Kind::Usage, "colour"),
            ("nbd://h/?tls-hostname=x", Kind::Usage, "nbds"),
            ("nbd://h/?socket=s", Kind::Usage, "nbd+unix"),
            ("nbd+unix:///x", Kind::Usage, "socket"),
            ("nbd+unix://host/x?socket=s", Kind::Usage, "host"),
            ("nbd://h:0/", Kind::Usage, "port"),
            ("nbd://h:70000/", Kind::Usage, "port"),
            ("nbd://[::1/", Kind::Usage, "]"),
            ("nbd://h/%zz", Kind::Usage, "hex"),
            ("nbd://h/%ff", Kind::Usage, "UTF-8"),
            ("nbd://u:secret@h/", Kind::Usage, "password"),
            ("nbds://h/?tls-verify-peer=maybe", Kind::Usage, "maybe"),
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert_eq!(error.kind(), kind, "{text}: {error:?}");
            assert!(error.line().contains(word), "{text}: {error:?}");
            assert!(!error.line().contains("secret"), "{text}: {error:?}");
        }
    }

    proptest! {
        /// What is printed is read back as the same place and export.
        #[test]
        fn the_canonical_form_is_read_back(export in "\\PC{0,20}", path in "\\PC{1,20}", port in 1u16..) {
            let unix = Uri::unix(path, export.clone());
            prop_assert_eq!(&parsed(&unix.to_string()), &unix);
            let tcp = Uri { place: tcp("h", port), export, tls: None };
            prop_assert_eq!(&parsed(&tcp.to_string()), &tcp);
        }

        /// Arbitrary words never panic.
        #[test]
        fn any_text_is_a_uri_or_an_error(text in "nbds?(\\+unix)?://\\PC{0,40}") {
            let _: Result<Uri> = text.parse();
        }
    }
}
