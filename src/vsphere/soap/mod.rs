//! The text of requests and answers. Pure: no I/O, no clock.
//!
//! ```text
//!  xml.rs       text → a small tree, bounded in depth and size
//!  request.rs   a call → text
//!  answer.rs    a tree → what was answered, or a fault
//!  fault.rs     what a server says no with, for control flow and for people
//!  calls.rs     every call that is made, with its arguments
//! ```
//!
//! Follows the vSphere Web Services API (`urn:vim25`) over SOAP 1.1, document/literal.

pub mod answer;
pub mod calls;
pub mod fault;
pub mod request;
pub mod xml;

use std::fmt;

/// A reference to a managed object: what it is, and its name on this server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Moref {
    /// `VirtualMachine`, `Task`…
    pub kind: String,
    /// `vm-42`, `task-7`…
    pub value: String,
}

impl Moref {
    /// A reference.
    #[must_use]
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            value: value.into(),
        }
    }
}

impl fmt::Display for Moref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)
    }
}
