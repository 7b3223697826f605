//! A disk in a container image: pulled from a registry, layer by layer, and never unpacked to files.
//!
//! ```text
//!  reference.rs  which image of which registry             pure
//!  answers.rs    what a registry answers                   pure
//!  pass.rs       what lets us in: a password or a token, asked for anew before it ends
//!  promises.rs   what the parsers promise, for fuzz targets
//!  mod.rs        the image, found; its layers are objects on a web server
//! ```
//!
//! Follows the OCI distribution specification, pulling only. All that is read has the digest by which
//! it was named: manifests and the config here, layers as they come.
//!
//! Not here: archives of images (`oci-archive:`), and what is above one layer or below it, as a
//! container would see it: a disk is in one layer, whole.

mod answers;
mod pass;
#[cfg(feature = "testkit")]
pub mod promises;
mod reference;

use crate::digest::checksum::Checksum;
use crate::error::{Error, Kind, Result};
use crate::http::Reply;
use crate::http::answer::refusal;
use crate::http::client::{Client, Manners};
use crate::http::connect::NoTls;
use crate::http::trust::Trust;
use crate::secret::Secret;
use crate::source::http::{Sign, Signed};
use answers::{ACCEPT, Challenge, Manifest};
use bytes::Bytes;
use hyper::header::{ACCEPT as ACCEPT_HEADER, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use pass::Pass;
use reference::Reference;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Manifests and configs are at most this long, as registries have it.
const LONGEST: usize = 4 << 20;

/// Lists of lists of images: nobody has more than one.
const DEPTH_MAX: usize = 2;

/// How a registry is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who asks, and the secret that goes with it.
    pub login: Option<(String, Secret)>,
    /// Whose certificate is believed.
    pub trust: Trust,
    /// The registry may also be one without TLS.
    pub plain: bool,
    /// How long it may say nothing.
    pub patience: Duration,
    /// The architecture that is wanted and no other, `amd64`; without it, that of this machine where
    /// there are several, and any where there is one.
    pub architecture: Option<String>,
}

/// An image that was found.
#[derive(Clone, Debug)]
pub struct ContainerImage {
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// `NAME=VALUE` of its processes.
    pub environment: Vec<String>,
}

/// A layer: where it is, and what its bytes add up to.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Knows where it is, and how to be let in.
    pub sign: Arc<dyn Sign>,
    /// Of its bytes as they are sent.
    pub checksum: Checksum,
}

struct Blob {
    url: Url,
    pass: Arc<Pass>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", self.url)
    }
}

impl Sign for Blob {
    fn sign(&self) -> Result<Signed> {
        let mut headers = HeaderMap::new();
        self.pass.show(&mut headers);
        let url = self.url.clone();
        Ok(Signed { url, headers })
    }
}

/// Finds the image that `text` names: `docker://HOST/NAME:TAG`.
///
/// # Errors
/// The registry cannot be reached, is not believed, or does not give the image (`Refused`); there is
/// none, or none for the architecture; or what it sends is not what it was asked for.
pub async fn pull(text: &str, asking: &Asking) -> Result<ContainerImage> {
    let reference = Reference::parse(text)?;
    let found = image(&reference, "https", asking).await;
    match found {
        Err(error) if asking.plain && error.caused_by::<NoTls>().is_some() => {
            tracing::warn!("{} has no TLS", reference.host);
            image(&reference, "http", asking).await
        }
        found => found,
    }
}

async fn image(reference: &Reference, scheme: &str, asking: &Asking) -> Result<ContainerImage> {
    let shown = format!("{}/{}", reference.host, reference.name);
    let found = async {
        let registry = Registry::new(reference, scheme, asking)?;
        let (layers, config) = registry.image(&reference.version, asking).await?;
        let text = registry.checked("blobs", &config.to_string()).await?;
        let (architecture, environment) = answers::config(&text)?;
        if let (Some(wanted), Some(other)) = (&asking.architecture, architecture)
            && *wanted != other
        {
            let what = format!("the image is for {other}, and {wanted} is wanted");
            return Err(Error::new(Kind::Refused, what));
        }
        let layer = |checksum: Checksum| {
            Ok(Layer {
                sign: Arc::new(Blob {
                    url: registry.url("blobs", &checksum.to_string())?,
                    pass: Arc::clone(&registry.pass),
                }),
                checksum,
            })
        };
        Ok(ContainerImage {
            layers: layers.into_iter().map(layer).collect::<Result<_>>()?,
            environment,
        })
    };
    found
        .await
        .map_err(|error: Error| error.context(format!("pull {shown} {}", reference.version)))
}

struct Registry {
    client: Client,
    base: Url,
    name: String,
    pass: Arc<Pass>,
}

impl Registry {
    fn new(reference: &Reference, scheme: &str, asking: &Asking) -> Result<Self> {
        let base = Url::parse(&format!("{scheme}://{}/", reference.host));
        let base = base.map_err(|error| {
            let what = format!("{:?} is no registry", reference.host);
            Error::new(Kind::Usage, what).because(error)
        })?;
        let manners = Manners {
            trust: asking.trust.clone(),
            own: HeaderMap::new(),
            patience: asking.patience,
        };
        Ok(Self {
            client: Client::new(&base, manners)?,
            base,
            name: reference.name.clone(),
            pass: Arc::new(Pass::new(asking)),
        })
    }

    fn url(&self, kind: &str, version: &str) -> Result<Url> {
        let url = self
            .base
            .join(&format!("v2/{}/{kind}/{version}", self.name));
        url.map_err(|error| Error::new(Kind::Usage, "name what is asked for").because(error))
    }

    /// The layers and the config of the image of that tag or digest.
    async fn image(&self, version: &str, asking: &Asking) -> Result<(Vec<Checksum>, Checksum)> {
        let mut version = version.to_owned();
        let architecture = match &asking.architecture {
            Some(wanted) => wanted,
            None => answers::here(),
        };
        for _ in 0..DEPTH_MAX {
            let text = self.checked("manifests", &version).await?;
            match answers::manifest(&text, architecture)? {
                Manifest::Image { layers, config } => return Ok((layers, config)),
                Manifest::Index(digest) => version = digest,
            }
        }
        Err(Error::new(
            Kind::Refused,
            "lists of images are in each other",
        ))
    }

    /// Something small, whose bytes have the digest that it is named by.
    async fn checked(&self, kind: &str, version: &str) -> Result<Bytes> {
        let reply = self.ask(kind, version).await?;
        let text = reply.whole(LONGEST).await?;
        if version.contains(':') {
            let mut summer = answers::sha(version)?.summer();
            summer.add(&text);
            summer.check(&format!("{kind}/{version}"))?;
        }
        Ok(text)
    }

    /// Asks; once more if the registry says how it wants to be asked.
    async fn ask(&self, kind: &str, version: &str) -> Result<Reply> {
        let url = self.url(kind, version)?;
        let mut is_new = true;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_HEADER, HeaderValue::from_static(ACCEPT));
            self.pass.show(&mut headers);
            let (_, reply) = self.client.follow(&url, &headers).await?;
            match reply.status {
                StatusCode::OK => return Ok(reply),
                StatusCode::UNAUTHORIZED if is_new => {
                    // There may be others that we do not speak.
                    let challenges = reply.headers.get_all(WWW_AUTHENTICATE).iter();
                    let mut challenges = challenges.filter_map(|value| value.to_str().ok());
                    let Some(challenge) = challenges.find_map(Challenge::parse) else {
                        return Err(self.pass.refused(reply.status));
                    };
                    reply.pass_over().await;
                    let is_plain = self.base.scheme() == "http";
                    self.pass.obtain(challenge, is_plain).await?;
                    is_new = false;
                }
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(self.pass.refused(status));
                }
                status => return Err(refusal(status)),
            }
        }
    }
}
