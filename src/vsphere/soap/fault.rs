//! What a server says no with: a type for control flow, a sentence and a hint for people.
//!
//! The type stands in `xsi:type` of the detail, not in the text: `NotAuthenticated` comes with an
//! empty one. A fault comes either in place of an answer or as the error of a task.

use super::xml::Node;
use crate::error::{Error, Kind};
use std::borrow::Cow;
use std::fmt;

/// A text that a server sent, as long as a person would read.
const TEXT_MAX: usize = 300;

/// A fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Its type, as the API reference has it: `NoPermission`.
    pub name: String,
    /// What the server says for people; may be empty.
    pub message: String,
    /// The privilege that is missing, the file that is broken…: what the hint needs.
    pub detail: Detail,
}

/// The properties of faults that are told to people.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Detail {
    /// `NoPermission`: the privilege.
    pub privilege: Option<String>,
    /// `NoPermission`, `ManagedObjectNotFound`: the object.
    pub object: Option<String>,
    /// `FileFault`: the file.
    pub file: Option<String>,
    /// `InvalidArgument`: the parameter.
    pub parameter: Option<String>,
    /// `InvalidPowerState`: the state that the VM is in.
    pub state: Option<String>,
    /// `MethodNotFound`: the method.
    pub method: Option<String>,
    /// What a general fault says of itself: `msg.snapshot.error-QUIESCINGERROR`.
    pub reason: Option<String>,
}

impl Fault {
    /// `<soapenv:Fault>`.
    #[must_use]
    pub fn of_envelope(fault: &Node) -> Self {
        let message = fault.text_of("faultstring").unwrap_or_default();
        let detail = fault.child("detail").and_then(|node| node.children.first());
        Self::new(detail, message)
    }

    /// `info.error` of a task: a `LocalizedMethodFault`.
    #[must_use]
    pub fn of_task(error: &Node) -> Self {
        let message = error.text_of("localizedMessage").unwrap_or_default();
        Self::new(error.child("fault"), message)
    }

    fn new(detail: Option<&Node>, message: &str) -> Self {
        // Without xsi:type the element is named after the type: FileFaultFault.
        let name = detail.map_or("unknown fault", |node| match &node.kind {
            Some(kind) => kind,
            None => node.name.strip_suffix("Fault").unwrap_or(&node.name),
        });
        let text = |field: &str| {
            let text = detail.and_then(|node| node.text_of(field));
            text.filter(|text| !text.is_empty()).map(short)
        };
        Self {
            name: short(name),
            message: short(message),
            detail: Detail {
                privilege: text("privilegeId"),
                object: text("object").or_else(|| text("obj")),
                file: text("file"),
                parameter: text("invalidProperty"),
                state: text("existingState"),
                method: text("method"),
                reason: text("reason"),
            },
        }
    }

    /// Whether it is of that type.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// The session has ended, or never began.
    #[must_use]
    pub fn not_authenticated(&self) -> bool {
        self.is("NotAuthenticated")
    }

    /// The object is not there, or not any more.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.is("ManagedObjectNotFound")
    }

    /// The guest could not be made to write out its caches; a snapshot without that may work.
    #[must_use]
    pub fn quiesce_failed(&self) -> bool {
        matches!(
            self.name.as_str(),
            "ApplicationQuiesceFault"
                | "FilesystemQuiesceFault"
                | "QuiesceDatastoreIOForHAFailed"
                | "ToolsUnavailable"
        ) || self
            .detail
            .reason
            .as_ref()
            .is_some_and(|reason| reason.contains("QUIESC"))
    }

    /// Another task works on the object, or a host is away for a moment.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self.name.as_str(),
            "TaskInProgress"
                | "ConcurrentAccess"
                | "ResourceInUse"
                | "FileLocked"
                | "HostCommunication"
                | "HostNotConnected"
                | "HostNotReachable"
                | "Timedout"
                | "NotAuthenticated"
        )
    }

    fn kind(&self) -> Kind {
        match self.name.as_str() {
            _ if self.may_pass() => Kind::Transient,
            "MethodNotFound" | "NotSupported" | "RestrictedVersion" => Kind::Unsupported,
            "NoPermission"
            | "InvalidLogin"
            | "PasswordExpired"
            | "NoSubjectName"
            | "ManagedObjectNotFound"
            | "TooManySnapshotLevels"
            | "InvalidPowerState"
            | "MemorySnapshotOnIndependentDisk"
            | "InvalidDiskMode"
            | "ToolsUnavailable"
            | "InvalidArgument" => Kind::Refused,
            _ => Kind::Io,
        }
    }

    /// This fault as an error while `doing` something.
    #[must_use]
    pub fn into_error(self, doing: impl Into<Cow<'static, str>>) -> Error {
        let error = Error::new(self.kind(), doing);
        let error = match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        };
        error.because(self)
    }

    /// What a person can do about it.
    fn hint(&self) -> Option<Cow<'static, str>> {
        let known: &'static str = match self.name.as_str() {
            "NoPermission" => {
                let privilege = self.detail.privilege.as_deref().unwrap_or("for it");
                let hint = format!(
                    "give the user the privilege {privilege}; docs/vsphere.md lists all that are needed"
                );
                return Some(hint.into());
            }
            "InvalidLogin" | "NoSubjectName" => {
                "check user and password; a domain is written USER@DOMAIN"
            }
            "PasswordExpired" => "the password has expired: set a new one",
            "NotAuthenticated" => {
                "the session was ended by the server, and logging in again did not help"
            }
            "TaskInProgress" | "ConcurrentAccess" => {
                "another task is working on the VM: a backup, perhaps; try again when it is done"
            }
            "TooManySnapshotLevels" => "the VM has as many snapshots as it can have: remove some",
            "FileFault" => {
                "a change id that the host does not know any more, or a damaged change file: what changed cannot be told, and the disk is to be compared instead: --changes-since digest"
            }
            "FileLocked" => "another VM or a backup has the disk open",
            "FileNotFound" | "CannotAccessFile" => {
                "the host does not reach the datastore, or the file is gone"
            }
            "NoDiskSpace" => {
                "the datastore is full: a snapshot needs room for what the VM writes meanwhile"
            }
            "ApplicationQuiesceFault" | "FilesystemQuiesceFault" => {
                "the guest could not write out its caches; see its VSS or VMware Tools log, or use quiesce=prefer or never"
            }
            "ToolsUnavailable" => "VMware Tools do not run in the guest: install or start them",
            "InvalidPowerState" => "the VM is in another power state than this needs",
            "ManagedObjectNotFound" => "it was removed, or never was on this server",
            "MemorySnapshotOnIndependentDisk" | "InvalidDiskMode" => {
                "a disk is independent: snapshots do not cover it, so it can only be copied while the VM is off"
            }
            "RestrictedVersion" => "the host's license does not allow this over the API",
            "InvalidSnapshotFormat" => {
                "the snapshot chain is damaged: consolidate the disks of the VM first"
            }
            "HostNotConnected" | "HostCommunication" | "HostNotReachable" => {
                "vCenter does not reach the host that runs the VM"
            }
            _ => return None,
        };
        Some(known.into())
    }
}

/// `NoPermission of System.View on vm-42: Permission to perform this operation was denied.`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let detail = &self.detail;
        let facts = [
            (" of ", &detail.privilege),
            (" on ", &detail.object),
            (" of ", &detail.file),
            (" of ", &detail.parameter),
            (" of ", &detail.method),
            (" for ", &detail.reason),
            (", it is ", &detail.state),
        ];
        for (word, fact) in facts {
            if let Some(fact) = fact {
                write!(f, "{word}{fact}")?;
            }
        }
        match self.message.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.message),
        }
    }
}

impl std::error::Error for Fault {}

/// The beginning of `text`, control characters apart.
fn short(text: &str) -> String {
    let clean = text.trim().chars().filter(|c| !c.is_control());
    clean.take(TEXT_MAX).collect()
}

/// The fault at the bottom of an error, if a server sent one.
#[must_use]
pub fn of(error: &Error) -> Option<&Fault> {
    error.caused_by()
}

#[cfg(test)]
mod tests {
    use super::{Fault, of};
    use crate::error::Kind;
    use crate::vsphere::soap::xml::parse;

    fn task_fault(kind: &str, inside: &str) -> Fault {
        let text = format!(
            "<error xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <fault xsi:type=\"{kind}\">{inside}</fault>\
             <localizedMessage>No.</localizedMessage></error>"
        );
        Fault::of_task(&parse(&text).unwrap())
    }

    #[test]
    fn a_missing_privilege_is_named() {
        let inside = "<object type=\"VirtualMachine\">vm-42</object>\
                      <privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId>";
        let error = task_fault("NoPermission", inside).into_error("make a snapshot");
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(
            error.line(),
            "make a snapshot: NoPermission of VirtualMachine.State.CreateSnapshot on vm-42: No. \
             (give the user the privilege VirtualMachine.State.CreateSnapshot; docs/vsphere.md \
             lists all that are needed)"
        );
    }

    #[test]
    fn a_task_in_progress_may_pass_and_a_missing_method_may_not() {
        let kind = |name| task_fault(name, "").into_error("x").kind();
        assert_eq!(kind("TaskInProgress"), Kind::Transient);
        assert_eq!(kind("MethodNotFound"), Kind::Unsupported);
        assert_eq!(kind("InvalidLogin"), Kind::Refused);
        assert_eq!(kind("SomethingNew"), Kind::Io);
    }

    #[test]
    fn a_fault_is_found_again_under_any_context() {
        let error = task_fault("FileFault", "<file>a.vmdk</file>").into_error("x");
        let error = error.context("y").context("z");
        assert_eq!(of(&error).unwrap().detail.file.as_deref(), Some("a.vmdk"));
    }

    #[test]
    fn what_a_server_says_is_cut_short_and_stays_on_one_line() {
        let fault = task_fault("SystemError", "<file>x\n\u{1b}[2Jy</file>");
        assert_eq!(fault.detail.file.as_deref(), Some("x[2Jy"));
        let long = format!("<file>{}</file>", "z".repeat(5000));
        let fault = task_fault("SystemError", &long);
        assert_eq!(fault.detail.file.unwrap().len(), 300);
    }
}
