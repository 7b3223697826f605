//! What lets us into a registry: nothing, a user and a password, or a token that somebody else gives
//! for them and that is good for minutes. Layers take longer, so it is asked for anew before it ends.

use super::Asking;
use super::answers::{Challenge, Token};
use crate::error::{Error, Kind, Result};
use crate::http::answer::refusal;
use crate::http::client::{Client, Manners, shown};
use crate::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::sleep;
use url::Url;
use zeroize::Zeroizing;

/// The longest answer with a token.
const LONGEST: usize = 1 << 20;

/// Time before a token that could not be had is asked for again.
const PAUSE: Duration = Duration::from_secs(5);

/// What lets us in, once the registry has said what that is.
pub(super) struct Pass {
    asking: Asking,
    shown: Mutex<Option<HeaderValue>>,
}

impl Pass {
    pub(super) fn new(asking: &Asking) -> Self {
        Self {
            asking: asking.clone(),
            shown: Mutex::default(),
        }
    }

    /// Adds it to the headers of a request.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*shown {
            headers.insert(AUTHORIZATION, value.clone());
        }
    }

    fn set(&self, scheme: &str, secret: &str) -> Result<()> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(header(scheme, secret)?);
        Ok(())
    }

    /// What a registry means that does not let us in.
    pub(super) fn refused(&self, status: StatusCode) -> Error {
        let who = match &self.asking.login {
            Some((user, _)) => format!("{user:?}"),
            None => "whom it does not know".to_owned(),
        };
        let what = format!("the registry does not give it to {who}: {status}");
        Error::new(Kind::Refused, what)
            .hint("check the user and the secret, and the name of the image")
    }

    /// Gets what the registry wants to see.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        challenge: Challenge,
        is_plain: bool,
    ) -> Result<()> {
        let login = self.asking.login.as_ref();
        let Challenge::Bearer { realm, query } = challenge else {
            let login = login.ok_or_else(|| self.refused(StatusCode::UNAUTHORIZED))?;
            return self.set("Basic", &basic(login));
        };
        let mut url = Url::parse(&realm).map_err(|error| {
            let what = "the registry names nobody who gives a token";
            Error::new(Kind::Corrupt, what).because(error)
        })?;
        if url.scheme() != "https" && !is_plain {
            let what = format!("the registry wants a token from {}", shown(&url));
            return Err(Error::new(Kind::Refused, what).because("that is without TLS"));
        }
        url.query_pairs_mut().extend_pairs(&query);
        let mut own = HeaderMap::new();
        if let Some(login) = login {
            own.insert(AUTHORIZATION, header("Basic", &basic(login))?);
        }
        let manners = Manners {
            trust: self.asking.trust.clone(),
            own,
            patience: self.asking.patience,
        };
        let source = TokenSource {
            client: Client::new(&url, manners)?,
            url,
        };
        let seconds = source.give(self).await?;
        tokio::spawn(source.renew(Arc::downgrade(self), seconds));
        Ok(())
    }
}

/// Who gives tokens.
struct TokenSource {
    client: Client,
    url: Url,
}

impl TokenSource {
    /// Gets a token; for how many seconds it is good.
    async fn give(&self, pass: &Pass) -> Result<u64> {
        let doing = || format!("ask {} for a token", shown(&self.url));
        let (_, reply) = self.client.follow(&self.url, &HeaderMap::new()).await?;
        match reply.status {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(pass.refused(status).context(doing()));
            }
            status => return Err(refusal(status).context(doing())),
        }
        let text = Zeroizing::new(reply.whole(LONGEST).await?.to_vec());
        let nonsense = || Error::new(Kind::Corrupt, doing()).because("it gives none");
        let token: Token = serde_json::from_slice(&text).map_err(|_| nonsense())?;
        pass.set("Bearer", token.text().ok_or_else(nonsense)?)?;
        Ok(token.seconds())
    }

    /// Gets the next one while the last one is still good, for as long as anybody needs it.
    async fn renew(self, pass: Weak<Pass>, mut seconds: u64) {
        loop {
            sleep(Duration::from_secs(seconds).mul_f64(0.6)).await;
            loop {
                let Some(pass) = pass.upgrade() else { return };
                match self.give(&pass).await {
                    Ok(good) => {
                        seconds = good;
                        break;
                    }
                    Err(error) => tracing::debug!("{}; asking again", error.line()),
                }
                drop(pass);
                sleep(PAUSE).await;
            }
        }
    }
}

fn basic((user, secret): &(String, Secret)) -> Zeroizing<String> {
    let plain = Zeroizing::new(format!("{user}:{}", secret.reveal()));
    Zeroizing::new(BASE64_STANDARD.encode(plain.as_bytes()))
}

fn header(scheme: &str, secret: &str) -> Result<HeaderValue> {
    let line = Zeroizing::new(format!("{scheme} {secret}"));
    let value = HeaderValue::from_str(&line);
    let mut value = value.map_err(|_| Error::new(Kind::Usage, "send what lets us in"))?;
    value.set_sensitive(true);
    Ok(value)
}
