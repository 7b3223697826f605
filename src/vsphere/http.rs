//! One POST over HTTP/1.1 and TLS: proxy, time limits, an answer of bounded size.
//!
//! Connections are kept and used again, one request at a time each. Nothing is retried here: only
//! the caller knows what may be done twice.

use super::locator::Server;
use super::trust::Thumbprint;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, CONTENT_TYPE, COOKIE, HOST, HeaderValue, PROXY_AUTHORIZATION, SET_COOKIE, USER_AGENT,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error as TlsError};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The largest answer. A page of 2,000 areas has 200 KB, a VM with 60 disks 100 KB.
const ANSWER_MAX: usize = 16 << 20;

/// How long a connection may take to come about, TLS and proxy included.
const CONNECTING: Duration = Duration::from_secs(30);

/// Idle connections that are kept.
const KEPT: usize = 4;

/// Marks requests as those of the VIM API, of a version that every server since 6.5 speaks.
const ACTION: &str = "\"urn:vim25/6.5\"";

/// The cookie that a session is known by; load balancers add others.
const COOKIE_NAME: &str = "vmware_soap_session=";

type Sender = SendRequest<Full<Bytes>>;

/// Anything that TLS can run over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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
    host: String,
    port: u16,
    tls: TlsConnector,
    name: ServerName<'static>,
    proxy: Option<Intercept>,
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
    pub(super) fn new(server: &Server, tls: Arc<ClientConfig>) -> Result<Self> {
        let authority = server.authority();
        let bad = || Error::new(Kind::Usage, format!("{authority:?} is not a server"));
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| bad().because(error))?;
        let uri = format!("https://{authority}/sdk").parse::<Uri>();
        let uri = uri.map_err(|error| bad().because(error))?;
        Ok(Self {
            host: server.host.clone(),
            port: server.port,
            tls: TlsConnector::from(tls),
            name,
            proxy: Matcher::from_env().intercept(&uri),
            idle: Mutex::default(),
            shown: Mutex::default(),
            authority,
        })
    }

    /// The same server, with no connection: for another runtime.
    pub(super) fn detached(&self) -> Self {
        Self {
            authority: self.authority.clone(),
            host: self.host.clone(),
            port: self.port,
            tls: self.tls.clone(),
            name: self.name.clone(),
            proxy: self.proxy.clone(),
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

    /// Sends `body` and reads the answer, within `patience`.
    ///
    /// # Errors
    /// The server cannot be reached, is not trusted (`Refused`), takes too long, or answers what
    /// is not HTTP or far too large.
    pub(super) async fn post(
        &self,
        body: Bytes,
        cookie: Option<&Secret>,
        patience: Duration,
    ) -> Result<Answer> {
        let mut sender = match self.reuse() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = self.request(body, cookie)?;
        let exchange = async {
            let response = sender.send_request(request).await;
            read(
                response.map_err(|error| self.failed(error))?,
                &self.authority,
            )
            .await
        };
        let answer = within(patience, "an answer", &self.authority, exchange).await?;
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
            .header(USER_AGENT, concat!("diskferry/", env!("CARGO_PKG_VERSION")));
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
        within(CONNECTING, "a connection", &self.authority, async {
            let stream = self.stream().await?;
            let stream = self.tls.connect(self.name.clone(), stream).await;
            let stream = stream.map_err(|error| self.tls_failed(error))?;
            let certificates = stream.get_ref().1.peer_certificates();
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = certificates
                .and_then(<[_]>::first)
                .map(|certificate| Thumbprint::sha1_of(certificate));
            let (sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| self.failed(error))?;
            // It ends with its sender; what it has to say, the sender says too.
            tokio::spawn(connection);
            Ok(sender)
        })
        .await
    }

    /// Bytes to the server, straight or through the proxy.
    async fn stream(&self) -> Result<Box<dyn Stream>> {
        let Some(proxy) = &self.proxy else {
            let stream = tcp(&self.host, self.port).await?;
            return Ok(Box::new(stream));
        };
        let uri = proxy.uri();
        if uri.scheme_str() != Some("http") {
            let what = format!("the proxy {uri} is not one of http://");
            return Err(Error::new(Kind::Unsupported, what)
                .hint("set https_proxy=http://HOST:PORT, or name the server in no_proxy"));
        }
        let host = uri.host().unwrap_or_default();
        let stream = tcp(host, uri.port_u16().unwrap_or(80)).await?;
        let through = |error: hyper::Error| {
            let what = format!("connect to {} through {uri}", self.authority);
            Error::new(Kind::Transient, what).because(error)
        };
        Ok(Box::new(TokioIo::new(
            self.tunnel(stream, proxy)
                .await
                .map_err(through)?
                .map_err(|status| {
                    let what = format!("the proxy {uri} refused {}: {status}", self.authority);
                    Error::new(Kind::Refused, what)
                })?,
        )))
    }

    /// A tunnel through an HTTP proxy; the status that it refused with.
    async fn tunnel(
        &self,
        stream: TcpStream,
        proxy: &Intercept,
    ) -> Result<Result<Upgraded, StatusCode>, hyper::Error> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = self.authority.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(&self.authority) {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(login) = proxy.basic_auth() {
            let headers = request.headers_mut();
            headers.insert(PROXY_AUTHORIZATION, login.clone());
        }
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => hyper::upgrade::on(response).await.map(Ok),
            status => Ok(Err(status)),
        }
    }

    fn tls_failed(&self, error: io::Error) -> Error {
        let refused = error.get_ref().is_some_and(|inner| inner.is::<TlsError>());
        let error = Error::io(format!("start TLS with {}", self.authority), error);
        match refused {
            true => error
                .with_kind(Kind::Refused)
                .hint("compare with the server's certificate; pin it with thumbprint=HEX, or name its authority with cacert=FILE"),
            false => error,
        }
    }

    fn failed(&self, error: hyper::Error) -> Error {
        let kind = match error.is_parse() || error.is_user() {
            true => Kind::Corrupt,
            false => Kind::Transient,
        };
        Error::new(kind, format!("ask {}", self.authority)).because(error)
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("{} sent {what}", self.authority))
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let failed = |error| Error::io(format!("connect to {host}:{port}"), error);
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
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

/// `doing`, unless it takes longer than `patience`.
async fn within<T>(
    patience: Duration,
    what: &str,
    authority: &str,
    doing: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(patience, doing).await {
        Ok(done) => done,
        Err(_) => {
            let seconds = patience.as_secs();
            let what = format!("wait for {what} from {authority}: nothing for {seconds} s");
            Err(Error::new(Kind::Transient, what))
        }
    }
}
