//! From an address to a connection that is ready for transmission: connect, handshake, TLS.
//!
//! Everything here is under one deadline. What is said is decided by
//! [`Handshake`](crate::nbd::handshake::Handshake); this file moves the bytes.

use super::stream::{Socket, Stream};
use crate::error::{Error, Kind, Result};
use crate::nbd::handshake::{Action, Agreed, Handshake, Listing, Wants};
use crate::nbd::tls::Tls;
use crate::nbd::uri::{Place, Uri};
use rustix::net::sockopt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Idle time after which the kernel asks a TCP peer whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How to make one more connection to the same export.
#[derive(Debug)]
pub(super) struct Dialer {
    place: Place,
    tls: Option<Tls>,
    wants: Wants,
    patience: Duration,
    /// Connections so far, to tell them apart in the log.
    made: AtomicU64,
}

impl Dialer {
    /// Reads the certificates, connects to nothing yet.
    pub(super) fn new(uri: &Uri, contexts: Vec<String>, patience: Duration) -> Result<Self> {
        Ok(Self {
            place: uri.place().clone(),
            tls: uri.tls().map(Tls::load).transpose()?,
            wants: Wants {
                export: uri.export().to_owned(),
                tls: uri.tls().is_some(),
                contexts,
                list: false,
            },
            patience,
            made: AtomicU64::new(0),
        })
    }

    /// Makes one connection and opens the export on it.
    pub(super) async fn dial(&self) -> Result<(Stream, Agreed)> {
        self.in_time(self.open()).await
    }

    /// Makes one connection and lists what the server has.
    pub(super) async fn list(&self) -> Result<Vec<Listing>> {
        self.in_time(self.ask_list()).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(self.patience, work).await.unwrap_or_else(|_| {
            let seconds = self.patience.as_secs_f32();
            let what = format!("no connection after {seconds} s");
            Err(Error::io(
                "connect",
                io::Error::new(io::ErrorKind::TimedOut, what),
            ))
        })
    }

    async fn open(&self) -> Result<(Stream, Agreed)> {
        let (stream, end) = self.shake_hands(self.wants.clone()).await?;
        match end {
            Action::Ready(agreed) => Ok((stream, *agreed)),
            _ => Err(Error::new(
                Kind::Corrupt,
                "the handshake did not open the export",
            )),
        }
    }

    async fn ask_list(&self) -> Result<Vec<Listing>> {
        let wants = Wants {
            list: true,
            ..self.wants.clone()
        };
        // The goodbye is a courtesy: hanging up says the same.
        match self.shake_hands(wants).await?.1 {
            Action::Listed(list, _) => Ok(list),
            _ => Err(Error::new(
                Kind::Corrupt,
                "the handshake did not list the exports",
            )),
        }
    }

    async fn shake_hands(&self, wants: Wants) -> Result<(Stream, Action)> {
        let number = self.made.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let label = format!("{} connection {number}", self.place);
        tracing::debug!("{label}: connect");
        let mut socket = self.connect().await?;
        let mut handshake = Handshake::new(wants);
        let action = talk(&mut socket, &mut handshake, Action::Read, &label).await?;
        let (Action::StartTls, Some(tls)) = (&action, &self.tls) else {
            return Ok((Stream::Plain(socket), action));
        };
        tracing::debug!("{label}: TLS handshake");
        let mut stream = tls.wrap(socket).await?;
        let first = handshake.tls_started()?;
        let action = talk(&mut stream, &mut handshake, first, &label).await?;
        Ok((Stream::Tls(Box::new(stream)), action))
    }

    async fn connect(&self) -> Result<Socket> {
        match &self.place {
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| unreachable(&self.place, error))?;
                tune(&stream).map_err(|error| Error::io("set up the socket", error))?;
                Ok(Socket::Tcp(stream))
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|error| unreachable(&self.place, error))?;
                Ok(Socket::Unix(stream))
            }
        }
    }
}

/// A server that cannot be reached may be starting, whatever the reason: without its socket file,
/// without its name in the DNS. Only a lack of permission will not pass.
fn unreachable(place: &Place, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => Kind::Io,
        _ => Kind::Transient,
    };
    Error::io(format!("connect to {place}"), error).with_kind(kind)
}

/// Requests are small and must leave at once; a peer that vanished must be noticed. The receive
/// buffer is left to the kernel, whose tuning goes further than a fixed size may.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    Ok(())
}

/// What was agreed on, for the log.
fn tell(label: &str, end: &Action) {
    match end {
        Action::Ready(agreed) => {
            let Agreed {
                export,
                style,
                contexts,
            } = &**agreed;
            let sizes = export.block_size;
            tracing::debug!(
                "{label}: export {:?}: size {}, flags {:#06x}, block sizes {}, {}, {}, {style:?} \
                 replies, contexts {contexts:?}",
                export.name,
                export.size,
                export.flags.bits(),
                sizes.minimum,
                sizes.preferred,
                sizes.maximum,
            );
        }
        Action::Listed(list, _) => tracing::debug!("{label}: {} exports", list.len()),
        Action::Read | Action::Write(_) | Action::StartTls => {}
    }
}

/// Moves bytes until the handshake wants something else.
async fn talk<S>(
    stream: &mut S,
    handshake: &mut Handshake,
    first: Action,
    label: &str,
) -> Result<Action>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut action = first;
    let mut bytes = Vec::new();
    loop {
        match action {
            Action::Read => {}
            Action::Write(said) => {
                tracing::debug!("{label}: {}", handshake.doing());
                let sent = async {
                    stream.write_all(&said).await?;
                    stream.flush().await
                };
                sent.await
                    .map_err(|error| Error::io("talk to the NBD server", error))?;
            }
            end => {
                tell(label, &end);
                return Ok(end);
            }
        }
        bytes.resize(handshake.need(), 0);
        stream.read_exact(&mut bytes).await.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::new(Kind::Transient, "the server hung up during the handshake")
            } else {
                Error::io("listen to the NBD server", error)
            }
        })?;
        action = handshake.step(&bytes)?;
    }
}
