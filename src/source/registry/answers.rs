//! What a registry answers: who may ask, which image there is, what it is made of. Pure.
//!
//! Follows the OCI image and distribution specifications, and Docker's of which they came.

use crate::digest::checksum::Checksum;
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::env::consts::ARCH;

/// Layers of an image. Those that are known have some hundred at most.
pub(super) const LAYERS_MAX: usize = 1000;

/// What is asked for: manifests and lists of them, of both kinds.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// The architecture of this machine, as images call it.
pub(super) fn here() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How a registry wants to be asked.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token, which somebody else gives.
    Bearer {
        /// Who.
        realm: String,
        /// For what: `service` and `scope`.
        query: Vec<(&'static str, String)>,
    },
}

impl Challenge {
    /// Reads `WWW-Authenticate`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut query) = (None, Vec::new());
        let mut rest = rest;
        while let Some((key, after)) = rest.split_once('=') {
            // A scope holds commas, so its quotes count.
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match &*key.trim().to_ascii_lowercase() {
                "realm" => realm = Some(value.to_owned()),
                "service" => query.push(("service", value.to_owned())),
                "scope" => query.push(("scope", value.to_owned())),
                _ => {}
            }
            rest = next.trim_start_matches([',', ' ']);
        }
        let realm = realm?;
        Some(Self::Bearer { realm, query })
    }
}

/// A token, and for how long it is good.
#[derive(Deserialize)]
pub(super) struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Token {
    /// The token itself, by either of its names.
    pub(super) fn text(&self) -> Option<&str> {
        self.token.as_deref().or(self.access_token.as_deref())
    }

    /// Seconds; what is not said is a minute.
    pub(super) fn seconds(&self) -> u64 {
        self.expires_in.unwrap_or(60).max(10)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<Described>,
    #[serde(default)]
    layers: Vec<Described>,
    config: Option<Described>,
}

#[derive(Clone, Debug, Deserialize)]
struct Described {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// What a manifest turns out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Manifest {
    /// One of several images: this is the digest of the wanted one.
    Index(String),
    /// An image.
    Image {
        /// Its layers, lowest first.
        layers: Vec<Checksum>,
        /// What describes it.
        config: Checksum,
    },
}

/// Reads a manifest, or a list of them of which that for `architecture` is wanted.
///
/// # Errors
/// It makes no sense, or has no image for that architecture.
pub(super) fn manifest(text: &[u8], architecture: &str) -> Result<Manifest> {
    let bad = |why: String| Error::new(Kind::Corrupt, "read the manifest").because(why);
    let document: Document =
        serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    if !document.manifests.is_empty() {
        let fits = |one: &&Described| {
            let platform = one.platform.as_ref();
            platform.is_some_and(|it| it.architecture == architecture && it.os == "linux")
        };
        let all = || document.manifests.iter();
        // One that says nothing may be it, and is not if its config says so.
        let any = || all().find(|one| one.platform.is_none());
        let found = all().find(fits).or_else(any);
        let found = found.ok_or_else(|| {
            let what = format!("the image is not there for the architecture {architecture}");
            Error::new(Kind::Refused, what)
        })?;
        sha(&found.digest)?;
        return Ok(Manifest::Index(found.digest.clone()));
    }
    let config = document
        .config
        .ok_or_else(|| bad("it has no config".to_owned()))?;
    if document.layers.is_empty() || document.layers.len() > LAYERS_MAX {
        return Err(bad(format!("it has {} layers", document.layers.len())));
    }
    let layers = document.layers.iter().map(|layer| sha(&layer.digest));
    Ok(Manifest::Image {
        layers: layers.collect::<Result<_>>()?,
        config: sha(&config.digest)?,
    })
}

/// A digest that content is named by: nothing weaker than SHA-256.
pub(super) fn sha(text: &str) -> Result<Checksum> {
    let strong = text.starts_with("sha256:") || text.starts_with("sha512:");
    match text.parse() {
        Ok(sum) if strong => Ok(sum),
        _ => Err(Error::new(
            Kind::Corrupt,
            format!(
                "{:?} is no digest of anything",
                text.chars().take(80).collect::<String>()
            ),
        )),
    }
}

#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
    config: Option<Process>,
}

#[derive(Deserialize)]
struct Process {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
}

/// What an image says of itself: its architecture, and the environment of its processes.
///
/// # Errors
/// It makes no sense.
pub(super) fn config(text: &[u8]) -> Result<(Option<String>, Vec<String>)> {
    let config: Config = serde_json::from_slice(text).map_err(|error| {
        Error::new(Kind::Corrupt, "read the config of the image").because(error)
    })?;
    let env = config.config.and_then(|process| process.env);
    Ok((config.architecture, env.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::{Challenge, Manifest, manifest};
    use crate::error::Kind;
    use serde_json::json;

    #[test]
    fn a_challenge_is_read_with_commas_in_its_scope() {
        let text =
            r#"Bearer realm="https://a.x/token",service="r.x",scope="repository:a/b:pull,push""#;
        let query = vec![
            ("service", "r.x".to_owned()),
            ("scope", "repository:a/b:pull,push".to_owned()),
        ];
        let realm = "https://a.x/token".to_owned();
        assert_eq!(
            Challenge::parse(text),
            Some(Challenge::Bearer { realm, query })
        );
        let shouted = text.replace("realm", "Realm").replace("scope", "SCOPE");
        assert_eq!(Challenge::parse(&shouted), Challenge::parse(text));
        assert_eq!(
            Challenge::parse(r#"Basic realm="x""#),
            Some(Challenge::Basic)
        );
        for text in ["", "Bearer", "Digest x=y", r#"Bearer realm="x"#] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_leads_to_the_image_of_an_architecture_and_no_other() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let one = |os: &str, arch: &str, digest: &str| json!({"digest": digest, "platform": {"os": os, "architecture": arch}});
        let list = json!({"manifests": [
            one("windows", "amd64", "sha256:b"), one("linux", "arm64", "sha256:c"),
            one("linux", "amd64", &digest),
        ]});
        let text = list.to_string();
        let found = manifest(text.as_bytes(), "amd64").unwrap();
        assert_eq!(found, Manifest::Index(digest));
        let error = manifest(text.as_bytes(), "s390x").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(manifest(text.as_bytes(), "arm64").is_err(), "no digest");
        let any = format!("sha256:{}", "b".repeat(64));
        let list = json!({"manifests": [
            {"digest": any}, one("linux", "amd64", &format!("sha256:{}", "a".repeat(64))),
        ]});
        let found = |arch| manifest(list.to_string().as_bytes(), arch).unwrap();
        assert_ne!(found("amd64"), Manifest::Index(any.clone()));
        assert_eq!(found("s390x"), Manifest::Index(any.clone()));
    }

    #[test]
    fn an_image_has_layers_that_are_named_by_what_they_hold() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let good = json!({"config": {"digest": digest("1")}, "layers": [{"digest": digest("2")}]});
        assert!(manifest(good.to_string().as_bytes(), "amd64").is_ok());
        let weak = "md5:900150983cd24fb0d6963f7d28e17f72";
        for bad in [
            json!({}),
            json!([]),
            json!({"config": {"digest": digest("1")}, "layers": []}),
            json!({"layers": [{"digest": digest("2")}]}),
            json!({"config": {"digest": digest("1")}, "layers": [{"digest": weak}]}),
            json!({"config": {"digest": digest("1")}, "layers": [{"digest": "sha256:../x"}]}),
        ] {
            assert!(
                manifest(bad.to_string().as_bytes(), "amd64").is_err(),
                "{bad}"
            );
        }
    }
}
