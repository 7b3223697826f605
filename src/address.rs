//! Where a disk is, as a user writes it. Words to a type; nothing is opened here.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a disk is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A file or a block device; which one is seen when it is opened.
    Path(PathBuf),
    /// An NBD URI: `nbd://`, `nbds://`, `nbd+unix://`, `nbds+unix://`; parsed by `nbd::uri`.
    Nbd(String),
    /// `[ CMD ARGS… ]`: a server that is started for this job and handed a socket.
    Child(Vec<String>),
    /// `vddk://`: a virtual disk of vSphere; parsed by `source::vddk`.
    Vddk(String),
    /// `http://` or `https://`: a disk image on a web server; parsed by `source::http`.
    Http(String),
    /// `-`: standard input or output.
    Stdio,
    /// `null:`: nowhere.
    Null,
}

/// Schemes of NBD URIs, those of the specification that cannot work here included.
const NBD_SCHEMES: [&str; 6] = [
    "nbd",
    "nbds",
    "nbd+unix",
    "nbds+unix",
    "nbd+vsock",
    "nbds+vsock",
];

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Kind::Usage, "the address of a disk is empty"));
        }
        match text {
            "-" => return Ok(Self::Stdio),
            "null:" => return Ok(Self::Null),
            _ => {}
        }
        match text.split_once(':') {
            Some((scheme, _)) if NBD_SCHEMES.contains(&scheme) => Ok(Self::Nbd(text.to_owned())),
            Some(("vddk", rest)) if rest.starts_with("//") => Ok(Self::Vddk(text.to_owned())),
            Some(("http" | "https", rest)) if rest.starts_with("//") => {
                Ok(Self::Http(text.to_owned()))
            }
            Some(("vsphere", rest)) if rest.starts_with("//") => {
                let what = "vsphere:// is a VM; one disk of it is vddk://USER@HOST/VM?disk=FILE";
                Err(Error::new(Kind::Usage, what).hint("diskferry inspect lists its disks"))
            }
            Some((scheme, rest)) if rest.starts_with("//") && is_scheme(scheme) => Err(Error::new(
                Kind::Usage,
                format!("unknown scheme {scheme}:// in {text:?}"),
            )
            .hint("a file of that name is ./ followed by it")),
            _ => Ok(Self::Path(PathBuf::from(text))),
        }
    }
}

/// Takes addresses off a list of words, in which `[ CMD ARGS… ]` is one address.
///
/// # Errors
/// A bracket is not closed or holds nothing, or an address makes no sense.
pub fn split_words(words: &[String]) -> Result<Vec<Address>> {
    let mut found = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word != "[" {
            found.push(word.parse()?);
            continue;
        }
        let command: Vec<String> = rest
            .by_ref()
            .take_while(|word| *word != "]")
            .cloned()
            .collect();
        let closed = words.len().saturating_sub(rest.len());
        if words.get(closed.saturating_sub(1)).map(String::as_str) != Some("]") {
            return Err(Error::new(Kind::Usage, "missing \"]\" after \"[\""));
        }
        if command.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                "no command between \"[\" and \"]\"",
            ));
        }
        found.push(Address::Child(command));
    }
    Ok(found)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// A URL without what may be a key: its query, and whoever stands before the host.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("//").unwrap_or(("", url));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}//{host}{path}")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Nbd(uri) | Self::Vddk(uri) => f.write_str(uri),
            Self::Http(url) => f.write_str(without_secrets(url).as_ref()),
            Self::Child(command) => write!(f, "[ {} ]", command.join(" ")),
            Self::Stdio => f.write_str("-"),
            Self::Null => f.write_str("null:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, split_words};
    use crate::error::Kind;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_colon_alone_does_not_make_a_uri() {
        assert_eq!(
            "a:b".parse::<Address>().unwrap(),
            Address::Path("a:b".into())
        );
        assert_eq!(
            "null".parse::<Address>().unwrap(),
            Address::Path("null".into())
        );
        assert_eq!(
            "nbd:x".parse::<Address>().unwrap(),
            Address::Nbd("nbd:x".into())
        );
    }

    #[test]
    fn an_unknown_scheme_is_not_taken_for_a_file() {
        assert_eq!(
            "ndb://host".parse::<Address>().unwrap_err().kind(),
            Kind::Usage
        );
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_key() {
        let shown = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(
            shown("https://u:p@h:8443/a/b@c?X-Amz-Signature=00#x"),
            "https://h:8443/a/b@c"
        );
        assert_eq!(shown("http://h?x@y"), "http://h");
    }

    #[test]
    fn a_bracket_is_one_address_wherever_it_stands() {
        let found = split_words(&words("[ nbdkit memory 1M ] null:")).unwrap();
        assert_eq!(
            found,
            [Address::Child(words("nbdkit memory 1M")), Address::Null]
        );
        assert_eq!(split_words(&words("a [ b ]")).unwrap().len(), 2);
    }

    #[test]
    fn an_open_or_empty_bracket_is_an_error() {
        for text in ["[", "[ a", "a [", "[ ]", "[ a ] ["] {
            assert_eq!(
                split_words(&words(text)).unwrap_err().kind(),
                Kind::Usage,
                "{text}"
            );
        }
    }
}
