//! Where a server listens: a Unix socket, or a TCP port that only this machine reaches.

use crate::error::{Error, Kind, Result};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Where a server shall listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listen {
    /// A socket that is made at this path, and removed in the end.
    Unix(PathBuf),
    /// A loopback address; port zero lets the system choose.
    Tcp(SocketAddr),
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A socket at this path.
    Unix(PathBuf),
    /// A port on the loopback device.
    Tcp(SocketAddr),
}

/// What an export name or a path may not hold as it is, in a URI.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

impl Place {
    /// The NBD URI of the export called `name`; `nbds` if clients must use TLS.
    #[must_use]
    pub fn uri(&self, name: &str, tls: bool) -> String {
        let scheme = if tls { "nbds" } else { "nbd" };
        let name = utf8_percent_encode(name, ESCAPED);
        match self {
            Self::Unix(path) => {
                let path = path.to_string_lossy();
                let path = utf8_percent_encode(&path, ESCAPED);
                format!("{scheme}+unix:///{name}?socket={path}")
            }
            Self::Tcp(address) => format!("{scheme}://{address}/{name}"),
        }
    }

    /// Removes the socket, if it is one. It may be gone already.
    pub(super) fn remove(&self) {
        if let Self::Unix(path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Lets clients in.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A client that was let in.
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Starts to listen.
    pub(super) async fn bind(listen: &Listen) -> Result<(Self, Place)> {
        match listen {
            Listen::Unix(path) => {
                let listener = UnixListener::bind(path).map_err(|error| {
                    let taken = error.kind() == io::ErrorKind::AddrInUse;
                    let error = Error::io(format!("listen on socket {}", path.display()), error);
                    match taken {
                        true => error.hint("something is there already; remove it if it is stale"),
                        false => error,
                    }
                })?;
                Ok((Self::Unix(listener), Place::Unix(path.clone())))
            }
            Listen::Tcp(address) if !address.ip().is_loopback() => Err(Error::new(
                Kind::Refused,
                format!("listen on {address}: other machines could reach it"),
            )
            .hint("use 127.0.0.1, [::1] or a Unix socket, and a tunnel from elsewhere")),
            Listen::Tcp(address) => {
                let failed = |error| Error::io(format!("listen on {address}"), error);
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                Ok((Self::Tcp(listener), Place::Tcp(bound)))
            }
        }
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Listen, Listener, Place};
    use crate::error::Kind;

    #[test]
    fn a_uri_escapes_what_would_end_it() {
        let place = Place::Unix("/run/a b&c.sock".into());
        assert_eq!(
            place.uri("disk 1?", false),
            "nbd+unix:///disk%201%3F?socket=/run/a%20b%26c.sock"
        );
        let place = Place::Tcp("[::1]:10809".parse().unwrap());
        assert_eq!(place.uri("x", true), "nbds://[::1]:10809/x");
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused() {
        let listen = Listen::Tcp("0.0.0.0:0".parse().unwrap());
        let error = Listener::bind(&listen).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
    }
}
