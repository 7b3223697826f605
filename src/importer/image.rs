//! Which image is imported, out of the environment. Pure.

use super::Env;
use super::settings::{Refusal, truth};
use crate::digest::checksum::Checksum;
use crate::secret::Secret;
use std::path::PathBuf;

/// The variables that hold who asks, and the secret that goes with it.
const USER: &str = "IMPORTER_ACCESS_KEY_ID";
pub(super) const SECRET: &str = "IMPORTER_SECRET_KEY";

/// Each holds one header.
const HEADER: &str = "IMPORTER_EXTRA_HEADER_";

/// Where an image is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Store {
    Http,
    S3,
    Gcs,
    Registry,
}

impl Store {
    /// As the controller calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Registry => "registry",
        }
    }
}

/// An image on a server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub(super) store: Store,
    pub(super) endpoint: String,
    /// Who asks, and the secret that goes with it.
    pub(super) login: Option<(String, Secret)>,
    pub(super) headers: Vec<Secret>,
    /// What the bytes of the image must add up to.
    pub(super) checksum: Option<Checksum>,
    /// PEM files of authorities.
    pub(super) certificates: Option<PathBuf>,
    /// Any certificate will do.
    pub(super) insecure: bool,
    /// Which of several container images is wanted.
    pub(super) architecture: Option<String>,
    /// The key of a service account.
    pub(super) key_file: Option<PathBuf>,
    /// Written by another container of the pod when it serves the image.
    pub(super) ready: Option<PathBuf>,
    /// To be made when the image is imported.
    pub(super) done: Option<PathBuf>,
}

impl Image {
    /// Checks the environment.
    ///
    /// # Errors
    /// What the original refuses.
    pub(super) fn read(store: Store, env: &Env) -> Result<Self, Refusal> {
        let some = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        let login = some(USER).zip(some(SECRET).map(Secret::new));
        let checksum = some("IMPORTER_CHECKSUM").filter(|_| store == Store::Http);
        let checksum = checksum.map(|text| text.parse::<Checksum>()).transpose();
        let checksum = checksum
            .map_err(|error| refusal(store, &format!("invalid checksum: {}", error.line())))?;
        let headers = env.iter().filter(|(name, _)| name.starts_with(HEADER));
        Ok(Self {
            store,
            endpoint: some("IMPORTER_ENDPOINT").unwrap_or_default(),
            login,
            headers: headers.map(|(_, line)| Secret::new(line.clone())).collect(),
            checksum,
            certificates: some("IMPORTER_CERT_DIR").map(PathBuf::from),
            insecure: matches!(store, Store::Http | Store::Registry)
                && truth(&some("INSECURE_TLS").unwrap_or_default()) == Some(true),
            architecture: some("IMPORTER_REGISTRY_IMAGE_ARCHITECTURE"),
            key_file: some("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
            ready: some("IMPORTER_READY_FILE").map(PathBuf::from),
            done: some("IMPORTER_DONE_FILE").map(PathBuf::from),
        })
    }
}

fn refusal(store: Store, why: &str) -> Refusal {
    Refusal {
        line: format!("Unable to connect to {} data source: {why}", store.name()),
        is_told: true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Env;
    use super::{Image, Store};

    fn env(pairs: &[(&str, &str)]) -> Env {
        let owned = |text: &&str| (*text).to_owned();
        pairs
            .iter()
            .map(|(name, value)| (owned(name), owned(value)))
            .collect()
    }

    #[test]
    fn a_login_is_a_user_and_a_secret_and_not_one_of_them() {
        let both = [
            ("IMPORTER_ACCESS_KEY_ID", "u"),
            ("IMPORTER_SECRET_KEY", "s3cret"),
        ];
        let image = Image::read(Store::S3, &env(&both)).unwrap();
        assert_eq!(image.login.as_ref().unwrap().0, "u");
        assert!(!format!("{image:?}").contains("s3cret"));
        for one in both {
            assert_eq!(Image::read(Store::S3, &env(&[one])).unwrap().login, None);
        }
    }

    #[test]
    fn headers_and_checksums_are_read_and_nonsense_is_told_as_the_original_does() {
        let found = env(&[
            ("IMPORTER_EXTRA_HEADER_0", "X-A: 1"),
            ("IMPORTER_EXTRA_HEADER_1", "X-B: 2"),
            ("INSECURE_TLS", "true"),
            ("IMPORTER_CHECKSUM", "md5:900150983cd24fb0d6963f7d28e17f72"),
        ]);
        let image = Image::read(Store::Http, &found).unwrap();
        assert_eq!((image.headers.len(), image.insecure), (2, true));
        assert!(image.checksum.is_some());
        let elsewhere = Image::read(Store::S3, &found).unwrap();
        assert_eq!((elsewhere.checksum, elsewhere.insecure), (None, false));
        let wrong = env(&[("IMPORTER_CHECKSUM", "md5:9")]);
        let refusal = Image::read(Store::Http, &wrong).unwrap_err();
        assert!(refusal.is_told);
        let start = "Unable to connect to http data source: invalid checksum: ";
        assert!(refusal.line.starts_with(start), "{}", refusal.line);
    }
}
