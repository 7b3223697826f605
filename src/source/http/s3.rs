//! An object of an S3 service: each request is signed anew (AWS Signature Version 4, in the query).
//!
//! Only the URL and the host are signed, so ranges and conditions need no signature of their own.

use super::sign::{Sign, Signed};
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use hyper::HeaderMap;
use percent_encoding::percent_decode_str;
use rusty_s3::actions::GetObject;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use std::fmt;
use std::time::Duration;
use url::Url;

/// How long a signature is good: longer than any request, and much shorter than what a key is.
const VALID: Duration = Duration::from_secs(900);

/// An object in a bucket.
pub struct S3 {
    bucket: Bucket,
    object: String,
    credentials: Option<Credentials>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({}/{})", self.bucket.name(), self.object)
    }
}

impl S3 {
    /// The object at `SCHEME://HOST/BUCKET/OBJECT`: whatever is not `http` is over TLS, and the
    /// region is in the name of the host, as for Amazon's.
    ///
    /// # Errors
    /// The text names no host, bucket or object.
    pub fn parse(text: &str, login: Option<(&str, &Secret)>) -> Result<Self> {
        let bad = |why: String| {
            let error = Error::new(Kind::Usage, "read the address of an object").because(why);
            error.hint("https://HOST/BUCKET/OBJECT")
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it is no URL".to_owned()))?;
        let scheme = if scheme == "http" { "http" } else { "https" };
        let url = Url::parse(&format!("{scheme}://{rest}"));
        let url = url.map_err(|error| bad(error.to_string()))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let path = percent_decode_str(url.path().trim_matches('/'));
        let path = path.decode_utf8().map_err(|error| bad(error.to_string()))?;
        let Some((bucket, object)) = path.split_once('/') else {
            return Err(bad("it names no object in a bucket".to_owned()));
        };
        let mut endpoint = url.clone();
        endpoint.set_path("/");
        endpoint.set_query(None);
        let region = region(&host);
        let bucket = Bucket::new(endpoint, UrlStyle::Path, bucket.to_owned(), region);
        Ok(Self {
            bucket: bucket.map_err(|error| bad(error.to_string()))?,
            object: object.to_owned(),
            credentials: login.map(|(key, secret)| Credentials::new(key, secret.reveal())),
        })
    }
}

/// `s3.REGION.amazonaws.com`; elsewhere the first label.
fn region(host: &str) -> String {
    let amazon = host
        .split_once("s3.")
        .and_then(|(_, rest)| rest.strip_suffix(".amazonaws.com"));
    let first = host.split('.').next().unwrap_or_default();
    amazon.unwrap_or(first).to_owned()
}

impl Sign for S3 {
    fn sign(&self) -> Result<Signed> {
        let get = GetObject::new(&self.bucket, self.credentials.as_ref(), &self.object);
        Ok(Signed {
            url: get.sign(VALID),
            headers: HeaderMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{S3, region};
    use crate::http::client::shown;
    use crate::secret::Secret;
    use crate::source::http::Sign;

    #[test]
    fn an_object_is_found_and_signed_and_its_key_is_shown_nowhere() {
        let secret = Secret::new("hunter2".to_owned());
        let login = Some(("AKIA", &secret));
        let s3 = S3::parse("s3://s3.eu-west-1.amazonaws.com/b/dir/disk 1.img", login).unwrap();
        let url = s3.sign().unwrap().url;
        assert_eq!(
            shown(&url),
            "https://s3.eu-west-1.amazonaws.com/b/dir/disk%201.img"
        );
        let query = url.query().unwrap();
        for part in [
            "X-Amz-Signature=",
            "AKIA%2F",
            "eu-west-1%2Fs3",
            "X-Amz-SignedHeaders=host",
        ] {
            assert!(query.contains(part), "{query}");
        }
        assert!(!format!("{s3:?}{url}").contains("hunter2"));
        let open = S3::parse("http://minio.local:9000/b/disk", None).unwrap();
        let url = open.sign().unwrap().url;
        assert_eq!(url.as_str(), "http://minio.local:9000/b/disk");
    }

    #[test]
    fn a_region_is_where_amazon_writes_it_or_the_first_label() {
        for (host, found) in [
            ("s3.us-east-1.amazonaws.com", "us-east-1"),
            ("minio.example.com", "minio"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(region(host), found);
        }
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for text in [
            "",
            "b/o",
            "https://host",
            "https://host/bucket",
            "https://host/bucket/",
        ] {
            assert!(S3::parse(text, None).is_err(), "{text}");
        }
    }
}
