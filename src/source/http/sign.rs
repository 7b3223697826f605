//! How a request is made one that the server lets in.

use crate::error::Result;
use hyper::HeaderMap;
use std::fmt;
use url::Url;

/// Where a request goes, and what goes with it.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The URL, which may hold a signature.
    pub url: Url,
    /// Headers, which may hold a token.
    pub headers: HeaderMap,
}

/// Knows where an object is, and signs a request for it that is good for a while.
pub trait Sign: fmt::Debug + Send + Sync {
    /// A request for the object.
    ///
    /// # Errors
    /// It cannot be signed.
    fn sign(&self) -> Result<Signed>;
}

/// An object whose URL is good as it is.
#[derive(Debug)]
pub struct AsItIs(pub Url);

impl Sign for AsItIs {
    fn sign(&self) -> Result<Signed> {
        Ok(Signed {
            url: self.0.clone(),
            headers: HeaderMap::new(),
        })
    }
}
