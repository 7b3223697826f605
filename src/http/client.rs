//! Requests to any server: connections that are kept, one request at a time each; redirects.
//!
//! Headers that let us in are for the host that they were given for and no other, wherever a server
//! sends us; and what began with TLS does not go on without.

use super::AGENT;
use super::connect::{Connector, Origin, Sender};
use super::reply::Reply;
use super::trust::Trust;
use super::within;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::{Error as HyperError, HeaderMap, Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use url::{Host, Url};

/// Servers that send us on before it counts as endless.
const REDIRECTS: usize = 10;

/// A connection takes no longer than this to come about, however long a server may say nothing.
const CONNECTING: Duration = Duration::from_secs(30);

/// Idle connections to one server that are kept.
const KEPT: usize = 16;

/// What to do about a certificate that is not believed.
const NAME_THE_AUTHORITY: &str =
    "name the authority that signed the server's certificate: --cacert FILE";

/// What all requests have in common.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Whose certificate is believed.
    pub trust: Trust,
    /// Headers for the server of the first URL, port and all, and no other.
    pub own: HeaderMap,
    /// How long a server may say nothing.
    pub patience: Duration,
}

/// Sends requests. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manners: Manners,
    home: Origin,
    servers: Mutex<BTreeMap<Origin, Arc<Server>>>,
}

/// One server, and the connections to it that are idle.
#[derive(Debug)]
pub(super) struct Server {
    connector: Connector,
    idle: Mutex<Vec<Sender>>,
}

impl Server {
    pub(super) fn authority(&self) -> String {
        self.connector.origin().authority()
    }

    pub(super) fn failed(&self, error: HyperError) -> Error {
        self.connector.failed(error)
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < KEPT {
            idle.push(sender);
        }
    }

    /// An idle connection that still stands.
    async fn reuse(&self) -> Option<Sender> {
        loop {
            let last = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let mut sender = last?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }
}

/// Where a URL leads.
///
/// # Errors
/// It is neither `http://` nor `https://`, or names no host.
pub fn origin(url: &Url) -> Result<Origin> {
    let tls = match url.scheme() {
        "https" => true,
        "http" => false,
        other => {
            let what = format!("{other}:// is not read here");
            return Err(Error::new(Kind::Refused, what));
        }
    };
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => return Err(Error::new(Kind::Usage, "a URL names no host")),
    };
    let port = url.port_or_known_default().unwrap_or(0);
    Ok(Origin { tls, host, port })
}

/// A URL without its query, which may be a key, and without a password.
#[must_use]
pub fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}"));
    let port = port.unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

impl Client {
    /// Prepares to talk to the host of `home`, and wherever it sends us.
    ///
    /// # Errors
    /// The URL is not one of a server.
    pub fn new(home: &Url, manners: Manners) -> Result<Self> {
        let shared = Shared {
            manners,
            home: origin(home)?,
            servers: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Sends one request without a body and reads the head of the answer, whatever its status.
    ///
    /// # Errors
    /// The server cannot be reached, is not trusted (`Refused`), or answers what is not HTTP.
    pub async fn send(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Result<Reply> {
        let server = self.server(origin(url)?)?;
        // One that was kept may have been closed meanwhile; that says nothing about the server.
        if let Some(sender) = server.reuse().await {
            let request = self.request(&server, method, url, headers)?;
            match self.exchange(&server, sender, request).await {
                Err(error) if error.kind() == Kind::Transient => {
                    tracing::debug!("a kept connection was closed: {}", error.line());
                }
                done => return done,
            }
        }
        let sender = server.connector.connect(self.connecting()).await?.sender;
        let request = self.request(&server, method, url, headers)?;
        self.exchange(&server, sender, request).await
    }

    /// The same for an object that may have gone elsewhere; also tells where it was found.
    ///
    /// # Errors
    /// As for [`send`](Self::send); or servers send us on without end, or to where it is not safe
    /// (`Refused`).
    pub async fn follow(&self, url: &Url, headers: &HeaderMap) -> Result<(Url, Reply)> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let reply = self.send(&Method::GET, &at, headers).await?;
            let Some(next) = next(&at, reply.status, &reply.headers)? else {
                return Ok((at, reply));
            };
            tracing::debug!("{} is at {} now", shown(&at), shown(&next));
            reply.pass_over().await;
            at = next;
        }
        let what = format!("{} leads from one address to the next", shown(url));
        let why = format!("more than {REDIRECTS} redirects");
        Err(Error::new(Kind::Io, what).because(why))
    }

    fn connecting(&self) -> Duration {
        self.shared.manners.patience.min(CONNECTING)
    }

    fn server(&self, origin: Origin) -> Result<Arc<Server>> {
        let servers = &self.shared.servers;
        let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&origin) {
            return Ok(Arc::clone(server));
        }
        let trust = &self.shared.manners.trust;
        let connector = Connector::new(origin.clone(), trust, NAME_THE_AUTHORITY)?;
        let server = Arc::new(Server {
            connector,
            idle: Mutex::default(),
        });
        servers.insert(origin, Arc::clone(&server));
        Ok(server)
    }

    fn request(
        &self,
        server: &Server,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Request<Full<Bytes>>> {
        let proxy = server.connector.asks_proxy();
        let target = match proxy {
            Some(_) => {
                let mut whole = url.clone();
                whole.set_fragment(None);
                whole.to_string()
            }
            None => match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            },
        };
        let host = url.host_str().unwrap_or_default();
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT_ENCODING, "identity");
        let is_home = *server.connector.origin() == self.shared.home;
        if let Some(all) = request.headers_mut() {
            if is_home {
                put(all, &self.shared.manners.own);
            }
            put(all, &meant_for(headers, is_home));
            if let Some(login) = proxy.and_then(|proxy| proxy.basic_auth()) {
                all.insert(PROXY_AUTHORIZATION, login.clone());
            }
        }
        let request = request.body(Full::new(Bytes::new()));
        request.map_err(|error| {
            Error::new(Kind::Usage, format!("ask for {}", shown(url))).because(error)
        })
    }

    async fn exchange(
        &self,
        server: &Arc<Server>,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<Reply> {
        let patience = self.shared.manners.patience;
        let exchange = async {
            let answer = sender.send_request(request).await;
            answer.map_err(|error| server.failed(error))
        };
        let response: Response<Incoming> =
            within(patience, "an answer", &server.authority(), exchange).await?;
        let server = Arc::clone(server);
        Ok(Reply::new(response, sender, server, patience))
    }
}

/// Where an answer sends us on to, if it does.
fn next(at: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Option<Url>> {
    let goes_on = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = headers.get(LOCATION).filter(|_| goes_on) else {
        return Ok(None);
    };
    let nonsense = || {
        let what = format!("{} sends us to where no URL leads", shown(at));
        Error::new(Kind::Corrupt, what)
    };
    let text = location.to_str().map_err(|_| nonsense())?;
    let next = at.join(text).map_err(|error| nonsense().because(error))?;
    let refused = |why: &'static str| {
        let what = format!("{} sends us to {}", shown(at), shown(&next));
        Err(Error::new(Kind::Refused, what).because(why))
    };
    match (at.scheme(), next.scheme()) {
        ("https", "http") => refused("that is without TLS"),
        (_, "http" | "https") => Ok(Some(next)),
        _ => refused("that is no web server"),
    }
}

/// Those of `headers` that a server may see. A secret, such as a token, is for the one at home only:
/// another port may be another's.
fn meant_for(headers: &HeaderMap, is_home: bool) -> HeaderMap {
    let may = |value: &HeaderValue| is_home || !value.is_sensitive();
    let seen = headers.iter().filter(|(_, value)| may(value));
    seen.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Puts headers over those of the same name.
fn put(all: &mut HeaderMap, more: &HeaderMap) {
    for name in more.keys() {
        all.remove(name);
        let values: Vec<HeaderValue> = more.get_all(name).iter().cloned().collect();
        for value in values {
            all.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{meant_for, next, shown};
    use crate::error::Kind;
    use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION, RANGE};
    use hyper::{HeaderMap, StatusCode};
    use url::Url;

    fn to(location: &str) -> HeaderMap {
        [(LOCATION, location.parse().unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_redirect_is_read_from_where_it_was_given() {
        let at = Url::parse("https://a.example/images/disk?key=1").unwrap();
        let found = |location| {
            let next = next(&at, StatusCode::FOUND, &to(location)).unwrap();
            next.unwrap().to_string()
        };
        assert_eq!(found("other"), "https://a.example/images/other");
        assert_eq!(found("/x"), "https://a.example/x");
        assert_eq!(found("//b.example/x"), "https://b.example/x");
        assert_eq!(found("https://c.example/?k"), "https://c.example/?k");
        assert!(next(&at, StatusCode::OK, &to("/x")).unwrap().is_none());
        assert!(
            next(&at, StatusCode::FOUND, &HeaderMap::new())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_redirect_away_from_tls_or_out_of_the_web_is_refused() {
        let at = Url::parse("https://a.example/").unwrap();
        for location in [
            "http://a.example/",
            "file:///etc/passwd",
            "ftp://a.example/",
        ] {
            let error = next(&at, StatusCode::FOUND, &to(location)).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{location}");
        }
    }

    #[test]
    fn a_token_does_not_go_where_a_server_sends_us() {
        let mut token = HeaderValue::from_static("Bearer t0ken");
        token.set_sensitive(true);
        let range = HeaderValue::from_static("bytes=0-0");
        let all = HeaderMap::from_iter([(AUTHORIZATION, token), (RANGE, range)]);
        assert_eq!(meant_for(&all, true), all);
        let elsewhere = meant_for(&all, false);
        assert!(elsewhere.contains_key(RANGE) && !elsewhere.contains_key(AUTHORIZATION));
    }

    #[test]
    fn a_query_which_may_be_a_key_is_not_shown() {
        let url = Url::parse("https://user:pw@a.example:8443/d?X-Amz-Signature=00").unwrap();
        assert_eq!(shown(&url), "https://a.example:8443/d");
    }
}
