//! A page of metrics for Prometheus: as much HTTP as `GET /metrics` takes.

use crate::error::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Bytes that a request may have.
const LONGEST: usize = 8 << 10;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients that are served at once.
const CLIENTS: usize = 8;

/// The media type of the OpenMetrics text format.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens at `address`; gives where that is, and what serves `page` for as long as it is polled.
///
/// # Errors
/// It cannot be listened there.
pub async fn serve_metrics(
    address: SocketAddr,
    page: impl Fn() -> String + Send + Sync + 'static,
) -> Result<(SocketAddr, impl Future<Output = ()>)> {
    let failed = |error| Error::io(format!("listen for metrics at {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let place = listener.local_addr().map_err(failed)?;
    let page = Arc::new(page);
    let slots = Arc::new(Semaphore::new(CLIENTS));
    let serving = async move {
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let page = page.clone();
            tokio::spawn(async move {
                let _slot = slot;
                // Whoever is slow or goes away gets no page.
                let _ = timeout(PATIENCE, converse(stream, &*page)).await;
            });
        }
    };
    Ok((place, serving))
}

async fn converse(
    mut stream: TcpStream,
    page: &(impl Fn() -> String + Sync),
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match stream.read(&mut piece).await? {
            0 => break,
            length => request.extend(piece.iter().take(length)),
        }
    }
    let answer = answer(&request, page);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The whole answer to a request.
fn answer(request: &[u8], page: &impl Fn() -> String) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", TEXT, page()),
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain", "see /metrics\n".to_owned()),
        _ => ("400 Bad Request", "text/plain", "GET /metrics\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::{answer, serve_metrics};
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[test]
    fn only_a_get_of_the_page_gets_it() {
        let page = || "x 1\n".to_owned();
        let first = |request: &str| {
            answer(request.as_bytes(), &page)
                .lines()
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(first("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(first("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        for request in ["", "POST /metrics HTTP/1.1\r\n\r\n", "\0\r\n\r\n"] {
            assert_eq!(first(request), "HTTP/1.1 400 Bad Request", "{request:?}");
        }
    }

    #[tokio::test]
    async fn a_page_is_as_it_is_when_it_is_asked_for() {
        let here = (Ipv4Addr::LOCALHOST, 0).into();
        let (place, serving) = serve_metrics(here, || "now 5\n".to_owned()).await.unwrap();
        tokio::spawn(serving);
        let mut client = TcpStream::connect(place).await.unwrap();
        client
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("\r\n\r\nnow 5\n"), "{text}");
    }
}
