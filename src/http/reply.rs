//! An answer whose body comes piece by piece.

use super::client::Server;
use super::connect::Sender;
use super::within;
use crate::error::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Response, StatusCode};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An answer. Its connection is used again once the body was read to its end.
pub struct Reply {
    /// Whether it is one to what was asked for.
    pub status: StatusCode,
    /// What it says of itself.
    pub headers: HeaderMap,
    body: Incoming,
    sender: Option<Sender>,
    server: Arc<Server>,
    patience: Duration,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} of {})", self.status, self.server.authority())
    }
}

impl Reply {
    pub(super) fn new(
        response: Response<Incoming>,
        sender: Sender,
        server: Arc<Server>,
        patience: Duration,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            sender: Some(sender),
            server,
            patience,
        }
    }

    /// The next piece of the body; `None` after the last one.
    ///
    /// # Errors
    /// The connection is lost before the body ends, or nothing comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = async { Ok(self.body.frame().await) };
            let authority = self.server.authority();
            let frame = within(self.patience, "the rest of an answer", &authority, frame).await?;
            let Some(frame) = frame else {
                if let Some(sender) = self.sender.take() {
                    self.server.keep(sender);
                }
                return Ok(None);
            };
            let frame = frame.map_err(|error| self.server.failed(error))?;
            // What is no data is a trailer, which says nothing about an object.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, which has `most` bytes at most.
    ///
    /// # Errors
    /// It is longer (`Corrupt`), or cannot be read to its end.
    pub async fn whole(mut self, most: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len().saturating_add(piece.len()) > most {
                let authority = self.server.authority();
                let what = format!("the answer of {authority} is longer than {most} bytes");
                return Err(Error::new(Kind::Corrupt, what));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Passes over a short body, so that the connection can be used again.
    pub async fn pass_over(self) {
        const SHORT: usize = 64 << 10;
        let _ = self.whole(SHORT).await;
    }
}
