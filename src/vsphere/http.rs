//! One POST over HTTP/1.1 and TLS: an answer of bounded size.
//!
//! Connections are kept and used again, one request at a time each. Nothing is retried here, and only
//! connecting has a time limit: the caller knows what may be done twice, and how long all of it may
//! take. What may not gets a connection of its own: one that was kept may end just now, and then
//! nobody knows whether the call arrived.

use super::locator::Server;
use super::soap::request::Request as Call;
use crate::error::{Error, Kind, Result};
use crate::http::AGENT;
use crate::http::connect::{Connector, Origin, Sender};
use crate::http::trust::Thumbprint;
use crate::secret::Secret;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, HeaderValue, SET_COOKIE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The largest answer. A page of 2,000 areas has 200 KB, a VM with 60 disks 100 KB.
const ANSWER_MAX: usize = 16 << 20;

/// Idle connections that are kept.
const KEPT: usize = 4;

/// Marks requests as those of the VIM API, of a version that every server since 6.5 speaks.
const ACTION: &str = "\"urn:vim25/6.5\"";

/// The cookie that a session is known by; load balancers add others.
const COOKIE_NAME: &str = "vmware_soap_session=";

/// What to do about a certificate that is not believed.
const COMPARE: &str = "compare with the server's certificate; pin it with thumbprint=HEX, or name its authority with cacert=FILE";

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `NAME=VALUE`, if the server set one.
    pub(super) cookie: Option<Secret>,
    pub(super) body: String,
}

/// Talks to one server.
pub(super) struct Http {
    /// `HOST:PORT`.
    authority: String,
    connector: Connector,
    /// How long a connection may take to come about.
    connecting: Duration,
    idle: Mutex<Vec<Sender>>,
    /// Of the certificate that was believed last.
    shown: Mutex<Option<Thumbprint>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.authority)
    }
}

impl Http {
    /// Prepares to talk to `server`, through the proxy that the environment names for it, if any.
    ///
    /// # Errors
    /// The name cannot be one of a server.
    pub(super) fn new(server: &Server) -> Result<Self> {
        let origin = Origin {
            tls: true,
            host: server.host.clone(),
            port: server.port,
        };
        Ok(Self {
            connector: Connector::new(origin, &server.trust, COMPARE)?,
            connecting: server.limits.connection(),
            idle: Mutex::default(),
            shown: Mutex::default(),
            authority: server.authority(),
        })
    }

    /// The same server, with no connection: for another runtime.
    pub(super) fn detached(&self) -> Self {
        Self {
            authority: self.authority.clone(),
            connector: self.connector.clone(),
            connecting: self.connecting,
            idle: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// `HOST:PORT`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// SHA-1 of the certificate that was believed, once there was a connection.
    pub(super) fn thumbprint(&self) -> Option<Thumbprint> {
        let shown = self.shown.lock();
        shown.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `call` and reads the answer, however long that takes. Given up, its connection ends.
    ///
    /// # Errors
    /// The server cannot be reached, is not trusted (`Refused`), or answers what is not HTTP or far
    /// too large.
    pub(super) async fn post(&self, call: &Call, cookie: Option<&Secret>) -> Result<Answer> {
        let kept = call.is_repeatable().then(|| self.reuse()).flatten();
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = self.request(call.bytes(), cookie)?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| self.connector.failed(error))?;
        let answer = read(response, &self.authority).await?;
        if !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < KEPT {
                idle.push(sender);
            }
        }
        Ok(answer)
    }

    fn reuse(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(SendRequest::is_ready);
        idle.pop()
    }

    fn request(&self, body: Bytes, cookie: Option<&Secret>) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/sdk")
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header(ACCEPT, "text/xml")
            .header("SOAPAction", ACTION)
            .header(USER_AGENT, AGENT);
        if let Some(cookie) = cookie {
            let value = HeaderValue::from_str(cookie.reveal());
            let mut value =
                value.map_err(|_| self.nonsense("a cookie that cannot be sent back"))?;
            value.set_sensitive(true);
            request = request.header(COOKIE, value);
        }
        let request = request.body(Full::new(body));
        request.map_err(|error| Error::new(Kind::Usage, "make a request").because(error))
    }

    async fn connect(&self) -> Result<Sender> {
        let connected = self.connector.connect(self.connecting).await?;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = connected
            .certificate
            .map(|certificate| Thumbprint::sha1_of(&certificate));
        Ok(connected.sender)
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("{} sent {what}", self.authority))
    }
}

async fn read(response: Response<Incoming>, authority: &str) -> Result<Answer> {
    let status = response.status();
    let cookies = response.headers().get_all(SET_COOKIE).into_iter();
    let cookie = cookies
        .filter_map(|value| value.to_str().ok())
        .find_map(|text| {
            let pair = text.split(';').next().unwrap_or_default().trim();
            pair.starts_with(COOKIE_NAME)
                .then(|| Secret::new(pair.to_owned()))
        });
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| {
        let kind = match error.is::<hyper::Error>() {
            true => Kind::Transient,
            false => Kind::Corrupt,
        };
        Error::new(kind, format!("read the answer of {authority}")).because(error)
    })?;
    let body = String::from_utf8(body.to_bytes().into()).map_err(|error| {
        let what = format!("the answer of {authority} is not UTF-8");
        Error::new(Kind::Corrupt, what).because(error)
    })?;
    Ok(Answer {
        status,
        cookie,
        body,
    })
}
