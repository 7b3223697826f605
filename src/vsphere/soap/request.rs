//! A call, as text.

use super::Moref;
use crate::secret::Secret;
use crate::vsphere::limits::Wait;
use bytes::Bytes;
use quick_xml::escape::escape;
use std::fmt;
use zeroize::Zeroizing;

const BEGIN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
    <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
    xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>";
const END: &str = "</soapenv:Body></soapenv:Envelope>";

/// A call that is ready to be sent, and what is known about it.
#[derive(Clone)]
pub struct Request {
    method: &'static str,
    on: Moref,
    text: Zeroizing<String>,
    wait: Wait,
    repeatable: bool,
}

impl Request {
    /// Begins a call of `method` on an object.
    #[must_use]
    pub fn new(method: &'static str, on: &Moref) -> Self {
        let mut request = Self {
            method,
            on: on.clone(),
            text: Zeroizing::new(format!("{BEGIN}<{method} xmlns=\"urn:vim25\">")),
            wait: Wait::Answer,
            repeatable: false,
        };
        request.push_reference("_this", on);
        request
    }

    /// Says that it may be sent again when nobody knows whether it arrived.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Sets how long it may take, if not as long as most calls.
    #[must_use]
    pub fn within(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Adds a value.
    #[must_use]
    pub fn value(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.push_value(name, &value.to_string());
        self
    }

    /// Adds a value that must not be seen.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &Secret) -> Self {
        self.push_value(name, value.reveal());
        self
    }

    /// Adds a reference.
    #[must_use]
    pub fn reference(mut self, name: &str, value: &Moref) -> Self {
        self.push_reference(name, value);
        self
    }

    /// Adds an element that holds what `inside` adds.
    #[must_use]
    pub fn nested(mut self, name: &str, inside: impl FnOnce(Self) -> Self) -> Self {
        self.push(&["<", name, ">"]);
        let mut request = inside(self);
        request.push(&["</", name, ">"]);
        request
    }

    fn push_value(&mut self, name: &str, value: &str) {
        let value = Zeroizing::new(escape(value).into_owned());
        self.push(&["<", name, ">", &value, "</", name, ">"]);
    }

    fn push_reference(&mut self, name: &str, value: &Moref) {
        let (kind, value) = (escape(&value.kind), escape(&value.value));
        self.push(&["<", name, " type=\"", &kind, "\">", &value, "</", name, ">"]);
    }

    fn push(&mut self, pieces: &[&str]) {
        for piece in pieces {
            self.text.push_str(piece);
        }
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}</{}>{END}", *self.text, self.method))
    }

    /// The whole text as it is sent; wiped from memory when it was.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(Zeroizing::new(self.text().as_bytes().to_vec()))
    }

    /// What is called.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// How long it may take.
    #[must_use]
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// Whether it may be sent again when nobody knows whether it arrived.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }
}

/// What is called on what; never the arguments, which may hold a password.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.method, self.on)
    }
}

#[cfg(test)]
mod tests {
    use super::Request;
    use crate::secret::Secret;
    use crate::vsphere::soap::{Moref, xml};

    #[test]
    fn what_is_written_is_read_back_whatever_is_in_it() {
        let hostile = "</password><x y=\"'&amp;]]>\u{e9}";
        let request = Request::new("Login", &Moref::new("SessionManager", "S<M>"))
            .secret("password", &Secret::new(hostile.to_owned()))
            .nested("spec", |request| request.value("n", 3));
        let read = xml::parse(&request.text()).unwrap();
        let call = read.at(&["Body", "Login"]).unwrap();
        assert_eq!(call.text_of("password"), Some(hostile));
        assert_eq!(call.text_of("_this"), Some("S<M>"));
        assert_eq!(call.at(&["spec", "n"]).unwrap().text, "3");
    }

    #[test]
    fn a_request_shows_what_is_called_and_no_arguments() {
        let on = Moref::new("SessionManager", "SM");
        let request = Request::new("Login", &on).secret("password", &Secret::new("x1y2".into()));
        assert_eq!(format!("{request:?}"), "Login on SM");
        assert!(request.text().contains("x1y2"), "or the test shows nothing");
    }
}
