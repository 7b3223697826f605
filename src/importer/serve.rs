//! The metrics, over TLS: one page whatever is asked for.
//!
//! Controllers scrape `https://POD:8443/metrics` and do not look at the certificate, so it is made
//! here and now. Not a web server: one request a connection, nothing that is sent is believed.

use super::metrics::Gauge;
use crate::error::{Error, Kind, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// The name in the certificate, as the original has it.
const NAME: &str = "cloner_target";

/// Scrapes at once.
const MOST: usize = 16;

/// A scrape takes at most this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request that are read.
const LONGEST: usize = 8 << 10;

/// Listens at `address`, and serves until the runtime ends.
///
/// # Errors
/// It cannot be listened there.
pub(super) async fn start(address: &str, gauge: Arc<Gauge>) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config()?));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Error::io(format!("listen at {address}"), error))?;
    let room = Arc::new(Semaphore::new(MOST));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PATIENCE / 100).await;
                continue;
            };
            let Ok(room) = room.clone().try_acquire_owned() else {
                continue;
            };
            let (acceptor, gauge) = (acceptor.clone(), gauge.clone());
            tokio::spawn(async move {
                // A scraper that goes away is no concern of ours.
                let _ = timeout(PATIENCE, answer(acceptor, stream, &gauge)).await;
                drop(room);
            });
        }
    });
    Ok(())
}

fn config() -> Result<ServerConfig> {
    let failed = |error: &dyn ToString| {
        Error::new(Kind::Unsupported, "set up TLS for metrics").because(error.to_string())
    };
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![NAME.to_owned()]).map_err(|error| failed(&error))?;
    let key =
        PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(|error| failed(&error))?;
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .map_err(|error| failed(&error))
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream, gauge: &Gauge) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let n = stream.read(&mut part).await?;
        request.extend_from_slice(part.get(..n).unwrap_or_default());
        if n == 0 || request.len() > LONGEST {
            return Ok(());
        }
    }
    let page = gauge.page();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}
