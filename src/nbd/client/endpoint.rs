//! Which server to speak to, and what to call it.

use crate::digest::Algorithm;
use crate::error::Result;
use crate::nbd::child::Child;
use crate::nbd::uri::Uri;

/// Which server to speak to.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// One that runs already.
    Uri(Uri),
    /// One that is started for this, with the command's words.
    Child(Vec<String>),
}

/// An endpoint that can be connected to.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) uri: Uri,
    /// The server, if it was started for this.
    pub(super) child: Option<Child>,
    /// For messages: no secrets.
    pub(super) name: String,
    /// Tells disks apart: the same words are the same disk.
    pub(super) id: String,
}

impl Endpoint {
    /// Starts the child, if it is one.
    pub(super) fn resolve(self) -> Result<Resolved> {
        match self {
            Self::Uri(uri) => {
                let name = uri.to_string();
                Ok(Resolved {
                    uri,
                    child: None,
                    id: format!("nbd:{name}"),
                    name,
                })
            }
            Self::Child(command) => {
                let child = Child::start(&command)?;
                // Only the first word is shown, and a digest kept: the others may hold secrets.
                let words = command.join("\0");
                let digest = Algorithm::Blake3.digest(words.as_bytes());
                Ok(Resolved {
                    uri: Uri::unix(child.socket(), ""),
                    name: format!("[ {} … ]", child.name()),
                    id: format!("child:{digest}"),
                    child: Some(child),
                })
            }
        }
    }
}
