//! One connection from its first byte to its last: handshake, TLS if asked for, transmission.

use super::export::Export;
use super::negotiate::{Negotiation, Next};
use super::session::Session;
use super::{Shared, menu::Menu, stopped};
use crate::buffer::Budget;
use crate::error::{Error, Kind, Result};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take from connecting to its first request.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// A stream that comes apart into halves that do not wait for each other.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    type Reader: AsyncRead + Unpin + Send + 'static;
    type Writer: AsyncWrite + Unpin + Send + 'static;
    fn halves(self) -> (Self::Reader, Self::Writer);
}

impl Duplex for TcpStream {
    type Reader = tcp::OwnedReadHalf;
    type Writer = tcp::OwnedWriteHalf;
    fn halves(self) -> (Self::Reader, Self::Writer) {
        self.into_split()
    }
}

impl Duplex for UnixStream {
    type Reader = unix::OwnedReadHalf;
    type Writer = unix::OwnedWriteHalf;
    fn halves(self) -> (Self::Reader, Self::Writer) {
        self.into_split()
    }
}

impl<S: Duplex> Duplex for TlsStream<S> {
    type Reader = ReadHalf<Self>;
    type Writer = WriteHalf<Self>;
    fn halves(self) -> (Self::Reader, Self::Writer) {
        tokio::io::split(self)
    }
}

/// What one client was shown, and how it is told to leave.
struct Client {
    menu: Menu,
    exports: Vec<Arc<dyn Export>>,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
}

/// Serves one client to its end, or until `stop` says so.
///
/// # Errors
/// What the client did wrong. Leaving early is not wrong.
pub(super) async fn serve<S: Duplex>(
    mut stream: S,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let (menu, exports) = shared.menu();
    let mut talk = Negotiation::new(menu.clone());
    let client = Client {
        menu,
        exports,
        shared,
        stop,
    };
    let opening = client.hurry(async {
        stream.write_all(&Negotiation::greeting()).await?;
        converse(&mut stream, &mut talk).await
    });
    match (opening.await?, &client.shared.settings.tls) {
        (Some(Next::StartTls), Some(tls)) => {
            let acceptor = TlsAcceptor::from(tls.config.clone());
            let opening = client.hurry(async {
                let mut stream = acceptor.accept(stream).await?;
                let next = converse(&mut stream, &mut talk).await?;
                Ok((stream, next))
            });
            match opening.await? {
                Some((stream, next)) => client.transmit(stream, next).await,
                None => Ok(()),
            }
        }
        (Some(next), _) => client.transmit(stream, next).await,
        (None, _) => Ok(()),
    }
}

impl Client {
    /// Lets `handshake` have its time. `None` if the client, or this server, left before its end.
    async fn hurry<T>(&self, handshake: impl Future<Output = io::Result<T>>) -> Result<Option<T>> {
        let slow = || Error::new(Kind::Refused, "an NBD client did not finish its handshake");
        tokio::select! {
            done = timeout(HANDSHAKE_TIME, handshake) => match done.map_err(|_| slow())? {
                Ok(done) => Ok(Some(done)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(Error::io("handshake with an NBD client", error)),
            },
            () = stopped(self.stop.clone()) => Ok(None),
        }
    }

    async fn transmit<S: Duplex>(&self, stream: S, next: Next) -> Result<()> {
        let terms = match next {
            Next::Transmit(terms) => terms,
            Next::Close(Some(why)) => {
                return Err(Error::new(Kind::Corrupt, "an NBD client was sent away").because(why));
            }
            Next::Close(None) | Next::Continue | Next::StartTls => return Ok(()),
        };
        let chosen = self.exports.get(terms.offer);
        let Some((export, offer)) = chosen.zip(self.menu.offers.get(terms.offer)) else {
            return Ok(());
        };
        let settings = &self.shared.settings;
        let session = Arc::new(Session {
            export: export.clone(),
            offer: offer.clone(),
            terms,
            slots: Arc::new(Semaphore::new(settings.requests.max(1))),
            budget: Budget::new(settings.memory, settings.requests),
        });
        let (reader, writer) = stream.halves();
        session
            .run(reader, writer, stopped(self.stop.clone()))
            .await
    }
}

/// Carries bytes between the client and the handshake until that is over or wants TLS.
async fn converse<S>(stream: &mut S, talk: &mut Negotiation) -> io::Result<Next>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let mut input = vec![0; talk.wants()];
        // Exactly what the step takes: what follows may belong to TLS or to the transmission.
        stream.read_exact(&mut input).await?;
        let step = talk.step(&input);
        if !step.output.is_empty() {
            stream.write_all(&step.output).await?;
            stream.flush().await?;
        }
        if step.next != Next::Continue {
            return Ok(step.next);
        }
    }
}
