//! A connection to one server: straight or through a proxy, with TLS or without.
//!
//! The environment says which proxy, if any: `https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`.
//! What has TLS goes through a tunnel; what has none is asked of the proxy by its whole URL.

use super::trust::Trust;
use super::within;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::upgrade::Upgraded;
use hyper::{Error as HyperError, Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::Error as TlsError;
use rustls::pki_types::{CertificateDer, ServerName};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Sends one request after the other over a connection.
pub type Sender = SendRequest<Full<Bytes>>;

/// Anything that TLS can run over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where requests go.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Origin {
    /// Over TLS.
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// `HOST:PORT`, brackets around IPv6.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What answers where TLS was begun speaks something else, or hangs up: it may be a server without.
/// Found in the chain of causes of what connecting ended with.
#[derive(Debug)]
pub struct NoTls(io::Error);

impl NoTls {
    /// What began TLS and failed with `error`, if that is no doubt about a certificate.
    fn of(error: io::Error) -> Result<Self, io::Error> {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let is_other = match inner {
            Some(TlsError::InvalidMessage(_)) => true,
            Some(_) => false,
            None => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ),
        };
        if is_other {
            Ok(Self(error))
        } else {
            Err(error)
        }
    }

    /// It answered, and that is no TLS; else it hung up, which TLS servers do, too, that start.
    fn has_answered(&self) -> bool {
        self.0.get_ref().is_some_and(|inner| inner.is::<TlsError>())
    }
}

impl fmt::Display for NoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.has_answered() {
            true => "what answers speaks no TLS",
            false => "it hung up",
        })
    }
}

impl StdError for NoTls {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// A connection that has just come about.
pub struct Connected {
    /// Sends requests over it.
    pub sender: Sender,
    /// The certificate that was believed, if there is one.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Connects to one server.
#[derive(Clone)]
pub struct Connector {
    origin: Origin,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<Intercept>,
    advice: &'static str,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.origin.authority())
    }
}

impl Connector {
    /// Prepares to talk to `origin`, through the proxy that the environment names for it, if any.
    /// `advice` is what to do about a certificate that is not believed.
    ///
    /// # Errors
    /// The name cannot be one of a server, or the authorities cannot be read.
    pub fn new(origin: Origin, trust: &Trust, advice: &'static str) -> Result<Self> {
        let authority = origin.authority();
        let bad = || Error::new(Kind::Usage, format!("{authority:?} is not a server"));
        let scheme = if origin.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{authority}/").parse::<Uri>();
        let uri = uri.map_err(|error| bad().because(error))?;
        let tls = match origin.tls {
            false => None,
            true => {
                let name = ServerName::try_from(origin.host.clone());
                let name = name.map_err(|error| bad().because(error))?;
                Some((TlsConnector::from(trust.config()?), name))
            }
        };
        Ok(Self {
            proxy: Matcher::from_env().intercept(&uri),
            origin,
            tls,
            advice,
        })
    }

    /// Where it goes.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The proxy that is asked by whole URLs, if there is one and no TLS.
    #[must_use]
    pub fn asks_proxy(&self) -> Option<&Intercept> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    /// Makes a connection, TLS and proxy included, within `patience`.
    ///
    /// # Errors
    /// The server cannot be reached or takes too long, or its certificate is not believed
    /// (`Refused`).
    pub async fn connect(&self, patience: Duration) -> Result<Connected> {
        let authority = self.origin.authority();
        within(patience, "a connection", &authority, async {
            let stream = self.stream().await?;
            let Some((tls, name)) = &self.tls else {
                let sender = self.speak(stream).await?;
                let certificate = None;
                return Ok(Connected {
                    sender,
                    certificate,
                });
            };
            let stream = tls.connect(name.clone(), stream).await;
            let stream = stream.map_err(|error| self.tls_failed(error))?;
            let shown = stream.get_ref().1.peer_certificates();
            let certificate = shown
                .and_then(<[_]>::first)
                .map(|it| it.clone().into_owned());
            let sender = self.speak(Box::new(stream)).await?;
            Ok(Connected {
                sender,
                certificate,
            })
        })
        .await
    }

    async fn speak(&self, stream: Box<dyn Stream>) -> Result<Sender> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(error))?;
        // It ends with its sender; what it has to say, the sender says too.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Bytes to the server or to the proxy that asks it, else a tunnel.
    async fn stream(&self) -> Result<Box<dyn Stream>> {
        let Some(proxy) = &self.proxy else {
            return Ok(Box::new(tcp(&self.origin.host, self.origin.port).await?));
        };
        let uri = proxy.uri();
        if uri.scheme_str() != Some("http") {
            let what = format!("the proxy {uri} is not one of http://");
            let hint = "set https_proxy=http://HOST:PORT, or name the server in no_proxy";
            return Err(Error::new(Kind::Unsupported, what).hint(hint));
        }
        let stream = tcp(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        let stream = stream.await.map_err(|error| {
            error.context(format!("ask the proxy for {}", self.origin.authority()))
        })?;
        if self.tls.is_none() {
            return Ok(Box::new(stream));
        }
        let authority = self.origin.authority();
        let tunnel = self.tunnel(stream, proxy).await.map_err(|error| {
            let what = format!("connect to {authority} through {uri}");
            Error::new(Kind::Transient, what).because(error)
        })?;
        let tunnel = tunnel.map_err(|status| {
            let what = format!("the proxy {uri} refused {authority}: {status}");
            Error::new(Kind::Refused, what)
        })?;
        Ok(Box::new(TokioIo::new(tunnel)))
    }

    /// A tunnel through an HTTP proxy; the status that it refused with.
    async fn tunnel(
        &self,
        stream: TcpStream,
        proxy: &Intercept,
    ) -> Result<Result<Upgraded, StatusCode>, HyperError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let authority = self.origin.authority();
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(&authority) {
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
        let doing = format!("start TLS with {}", self.origin.authority());
        let error = match NoTls::of(error) {
            Ok(no_tls) => {
                let kind = match no_tls.has_answered() {
                    true => Kind::Refused,
                    false => Kind::Transient,
                };
                return Error::new(kind, doing).because(no_tls);
            }
            Err(error) => error,
        };
        let refused = error.get_ref().is_some_and(|inner| inner.is::<TlsError>());
        let error = Error::io(doing, error);
        match refused {
            true => error.with_kind(Kind::Refused).hint(self.advice),
            false => error,
        }
    }

    /// The failure of an exchange, for people.
    #[must_use]
    pub fn failed(&self, error: HyperError) -> Error {
        let kind = match error.is_parse() || error.is_user() {
            true => Kind::Corrupt,
            false => Kind::Transient,
        };
        Error::new(kind, format!("ask {}", self.origin.authority())).because(error)
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let failed = |error| Error::io(format!("connect to {host}:{port}"), error);
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::{Connector, NoTls, Origin};
    use crate::error::{Error, Kind};
    use crate::http::trust::Trust;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What connecting with TLS ends with, where somebody says `answer` and hangs up.
    async fn begun_with(answer: &[u8]) -> Error {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin {
            tls: true,
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let connector = Connector::new(origin, &Trust::Anybody, "advice").unwrap();
        let serve = async {
            let (mut client, _) = listener.accept().await.unwrap();
            client.readable().await.unwrap();
            client.write_all(answer).await.unwrap();
        };
        let (connected, ()) = tokio::join!(connector.connect(Duration::from_secs(20)), serve);
        connected.err().unwrap()
    }

    #[tokio::test]
    async fn a_server_without_tls_is_told_from_one_that_is_not_believed() {
        let error = begun_with(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let found = error.caused_by::<NoTls>().unwrap();
        assert!(found.has_answered() && error.kind() == Kind::Refused);
        assert!(!error.line().contains("advice"), "{}", error.line());
        let error = begun_with(b"").await;
        let found = error.caused_by::<NoTls>().unwrap();
        assert!(!found.has_answered() && error.kind() == Kind::Transient);
        // TLS that says no: an alert, "handshake failure".
        let error = begun_with(&[21, 3, 3, 0, 2, 2, 40]).await;
        assert!(error.caused_by::<NoTls>().is_none(), "{}", error.line());
        assert_eq!(error.kind(), Kind::Refused);
    }
}
