//! An object of Google Cloud Storage, through its XML API: anonymous, or with the key of a service
//! account, which signs its own tokens (AIP-4111, RFC 7523), so no other server is asked for one.

use super::sign::{Sign, Signed};
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use url::Url;
use zeroize::Zeroizing;

/// What a token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

/// How long a token is good, which is the most that is allowed, and how long one is used.
const VALID: Duration = Duration::from_secs(3600);
const USED: Duration = Duration::from_secs(3000);

/// The longest file of a key.
const LONGEST: u64 = 64 << 10;

/// An object in a bucket.
pub struct Gcs {
    url: Url,
    account: Option<Account>,
    token: Mutex<Option<(SystemTime, Secret)>>,
}

impl fmt::Debug for Gcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gcs({})", self.url)
    }
}

/// Who signs.
struct Account {
    email: String,
    key_id: String,
    key: RsaKeyPair,
}

/// The file of a key, as Google hands it out.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: String,
}

impl Gcs {
    /// The object at `gs://BUCKET/OBJECT` or `https://HOST/BUCKET/OBJECT`, for who `key_file` says.
    ///
    /// # Errors
    /// The text names no object, or the file is not the key of a service account.
    pub fn parse(text: &str, key_file: Option<&Path>) -> Result<Self> {
        let bad = || {
            let error = Error::new(Kind::Usage, "read the address of an object");
            error.hint("gs://BUCKET/OBJECT or https://HOST/BUCKET/OBJECT")
        };
        let whole = match text.strip_prefix("gs://") {
            Some(rest) => format!("https://storage.googleapis.com/{rest}"),
            None => text.to_owned(),
        };
        let url = Url::parse(&whole).map_err(|error| bad().because(error))?;
        let mut parts = url.path().trim_start_matches('/').splitn(2, '/');
        let named = |part: Option<&str>| part.is_some_and(|part| !part.is_empty());
        let is_web = matches!(url.scheme(), "http" | "https");
        if !is_web || !named(parts.next()) || !named(parts.next()) {
            return Err(bad().because("it names no object in a bucket"));
        }
        Ok(Self {
            url,
            account: key_file.map(Account::read).transpose()?,
            token: Mutex::default(),
        })
    }
}

impl Account {
    fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| {
            let what = format!("read the key of a service account from {}", path.display());
            Error::new(Kind::Usage, what).because(why)
        };
        let text = read(path).map_err(|error| bad(error.line()))?;
        // What a parser says of a file repeats some of it: only where, not what.
        let file: KeyFile = serde_json::from_str(text.reveal())
            .map_err(|error| bad(format!("line {} is not as it should be", error.line())))?;
        if file.kind != "service_account" {
            return Err(
                bad(format!("it is of the type {:?}", file.kind)).with_kind(Kind::Unsupported)
            );
        }
        let key = Secret::new(file.private_key);
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.reveal().as_bytes());
        let der = der.map_err(|_| bad("its private_key is none".to_owned()))?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der());
        Ok(Self {
            email: file.client_email,
            key_id: file.private_key_id,
            key: key.map_err(|error| bad(error.to_string()))?,
        })
    }

    /// A token that is good from `now` on.
    fn token(&self, now: SystemTime) -> Result<Secret> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key_id });
        let claims = json!({
            "iss": self.email,
            "sub": self.email,
            "scope": SCOPE,
            "iat": seconds,
            "exp": seconds.saturating_add(VALID.as_secs()),
        });
        let coded = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = format!(
            "{}.{}",
            coded(header.to_string()),
            coded(claims.to_string())
        );
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|_| Error::new(Kind::Io, "sign a token"))?;
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        Ok(Secret::new(format!("Bearer {signed}.{signature}")))
    }
}

fn read(path: &Path) -> Result<Secret> {
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(Secret::new(text.to_string()))
}

impl Sign for Gcs {
    fn sign(&self) -> Result<Signed> {
        let mut headers = HeaderMap::new();
        if let Some(account) = &self.account {
            let now = SystemTime::now();
            let mut known = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            let young = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < USED);
            let token = match known.as_ref().filter(|(at, _)| young(at)) {
                Some((_, token)) => token.clone(),
                None => account.token(now)?,
            };
            let value = HeaderValue::from_str(token.reveal());
            let mut value = value.map_err(|_| Error::new(Kind::Usage, "send a token"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
            if !known.as_ref().is_some_and(|(at, _)| young(at)) {
                *known = Some((now, token));
            }
        }
        Ok(Signed {
            url: self.url.clone(),
            headers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Gcs;
    use crate::source::http::Sign;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::{Value, json};
    use std::fs;
    use std::process::Command;

    #[test]
    fn an_object_is_where_google_or_the_url_says() {
        for (text, url) in [
            ("gs://b/dir/o", "https://storage.googleapis.com/b/dir/o"),
            ("http://127.0.0.1:9023/b/o", "http://127.0.0.1:9023/b/o"),
        ] {
            let signed = Gcs::parse(text, None).unwrap().sign().unwrap();
            assert_eq!(signed.url.as_str(), url);
            assert!(signed.headers.is_empty());
        }
        for text in ["", "gs://b", "gs://b/", "ftp://h/b/o", "https://h/"] {
            assert!(Gcs::parse(text, None).is_err(), "{text}");
        }
    }

    /// The signature is checked by openssl, with the public half of the key.
    #[test]
    fn a_service_account_signs_its_own_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let openssl = |words: &[&str]| {
            let output = Command::new("openssl").args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let bits = "rsa_keygen_bits:2048";
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            bits,
            "-out",
            &path("key"),
        ]);
        openssl(&[
            "pkey",
            "-in",
            &path("key"),
            "-pubout",
            "-out",
            &path("public"),
        ]);
        let key = fs::read_to_string(path("key")).unwrap();
        let file = json!({
            "type": "service_account", "client_email": "me@x.iam", "private_key_id": "k1",
            "private_key": key, "token_uri": "https://oauth2.googleapis.com/token",
        });
        fs::write(path("file"), file.to_string()).unwrap();
        let gcs = Gcs::parse("gs://b/o", Some(path("file").as_ref())).unwrap();
        let signed = gcs.sign().unwrap();
        let token = signed.headers["authorization"].to_str().unwrap().to_owned();
        let parts: Vec<&str> = token.strip_prefix("Bearer ").unwrap().split('.').collect();
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(claims["iss"], "me@x.iam");
        fs::write(path("signed"), format!("{}.{}", parts[0], parts[1])).unwrap();
        fs::write(path("signature"), decode(parts[2])).unwrap();
        let said = openssl(&[
            "dgst",
            "-sha256",
            "-verify",
            &path("public"),
            "-signature",
            &path("signature"),
            &path("signed"),
        ]);
        assert_eq!(said.trim(), "Verified OK");
        assert!(
            !format!("{gcs:?} {signed:?}").contains(parts[2]),
            "a token shows"
        );

        fs::write(path("file"), r#"{"type": "authorized_user"}"#).unwrap();
        let error = Gcs::parse("gs://b/o", Some(path("file").as_ref())).unwrap_err();
        assert!(error.line().contains("authorized_user"), "{error:?}");
    }
}
