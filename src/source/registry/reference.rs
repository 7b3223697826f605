//! Which image of which registry, as a user writes it. Pure.
//!
//! `docker://[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, as containers/image reads it: a first part without a
//! dot, a colon and other than `localhost` is no host, and means Docker Hub.

use crate::error::{Error, Kind, Result};

/// What the Hub is called, and where it answers.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// An image in a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reference {
    /// `HOST[:PORT]`.
    pub(super) host: String,
    /// Its repository.
    pub(super) name: String,
    /// A tag, or a digest, which counts for more.
    pub(super) version: String,
}

impl Reference {
    /// Reads `docker://…`.
    ///
    /// # Errors
    /// It is something else, or not the name of an image.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            let error = Error::new(
                Kind::Usage,
                format!("read the address of an image {text:?}"),
            );
            error.because(why.to_owned())
        };
        let Some(rest) = text.strip_prefix("docker://") else {
            let error = bad("only docker:// is pulled");
            return Err(error.with_kind(Kind::Unsupported));
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (host, name) = match rest.split_once('/') {
            Some((first, name)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, name)
            }
            _ => (HUB, rest),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) => (name, tag),
            None => (name, "latest"),
        };
        let host = if host == HUB { HUB_HOST } else { host };
        let name = match host == HUB_HOST && !name.contains('/') {
            true => format!("library/{name}"),
            false => name.to_owned(),
        };
        let version = digest.unwrap_or(tag);
        let plain = |text: &str, more: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.chars().all(fits)
        };
        let parts = name.split('/').all(|part| {
            plain(part, "._-") && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        });
        if !parts || !plain(host, ".-:[]") || !plain(version, "._-:") {
            return Err(bad("it is no HOST/NAME:TAG"));
        }
        Ok(Self {
            host: host.to_owned(),
            name,
            version: version.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Reference;

    fn read(text: &str) -> [String; 3] {
        let Reference {
            host,
            name,
            version,
        } = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        [host, name, version]
    }

    #[test]
    fn an_image_is_named_as_container_tools_name_it() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, parts) in [
            (
                "docker://quay.io/containerdisks/fedora:40",
                ["quay.io", "containerdisks/fedora", "40"],
            ),
            ("docker://registry:5000/a", ["registry:5000", "a", "latest"]),
            (
                "docker://kubevirt/cirros",
                ["registry-1.docker.io", "kubevirt/cirros", "latest"],
            ),
            (
                "docker://alpine:3",
                ["registry-1.docker.io", "library/alpine", "3"],
            ),
            ("docker://localhost/a/b:c", ["localhost", "a/b", "c"]),
            (&format!("docker://h.x/a:t@{digest}"), ["h.x", "a", &digest]),
        ] {
            assert_eq!(read(text), parts, "{text}");
        }
    }

    #[test]
    fn what_names_no_image_or_leads_elsewhere_is_refused() {
        for text in [
            "",
            "quay.io/a",
            "oci-archive:/a.tar",
            "docker://",
            "docker://h.x/",
            "docker://h.x/../a",
            "docker://h.x/a b",
            "docker://h.x/a?b",
            "docker://h.x/a:",
            "docker://u:p@h.x/a",
            "docker://h.x/a@sha256:../..",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
