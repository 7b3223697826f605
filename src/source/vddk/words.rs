//! What nbdkit, its vddk plugin and VDDK say on standard error: lines to facts. Pure.
//!
//! With `--verbose` there are hundreds of lines for one connection, and NBD itself tells a client
//! nothing but "no export named ''". Of a failure, one line matters: the one that names the cause,
//! which is hardly ever the last. Versions and hosts are wanted by CDI's controllers.

use std::collections::VecDeque;

/// Lines that tell of a failure and are kept.
const KEPT: usize = 16;

/// What one line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    /// VDDK's version: `8.0.2`.
    Version(String),
    /// The ESXi host that a disk was opened on.
    Host(String),
    /// The server has no memory for a request of so many bytes.
    TooLong(u64),
    /// Something failed; what, without the prefixes.
    Failure(String),
    /// Anything else.
    Nothing,
}

/// What `line` says. Any text is allowed.
#[must_use]
pub fn hear(line: &str) -> Said {
    let told = without_prefix(line);
    if let Some(version) = version(told.text) {
        return Said::Version(version);
    }
    if let Some(host) = host(told.text) {
        return Said::Host(host);
    }
    if let Some(bytes) = too_long(told.text) {
        return Said::TooLong(bytes);
    }
    match told.is_error && !told.text.is_empty() {
        true => Said::Failure(told.text.to_owned()),
        false => Said::Nothing,
    }
}

struct Told<'a> {
    text: &'a str,
    is_error: bool,
}

/// Takes off `nbdkit: `, `vddk[1]: ` and `error: `.
fn without_prefix(line: &str) -> Told<'_> {
    let mut text = line.trim();
    text = text.strip_prefix("nbdkit: ").unwrap_or(text);
    if let Some((name, rest)) = text.split_once(": ")
        && name.ends_with(']')
        && name.contains('[')
        && !name.contains(' ')
    {
        text = rest;
    }
    match text.strip_prefix("error: ") {
        Some(text) => Told {
            text: text.trim(),
            is_error: true,
        },
        None => {
            let text = text.strip_prefix("debug: ").unwrap_or(text);
            Told {
                text: text.trim(),
                is_error: false,
            }
        }
    }
}

/// `VMware VixDiskLib (8.0.2) Release build-22388865`.
fn version(text: &str) -> Option<String> {
    let rest = text.strip_prefix("VMware VixDiskLib")?;
    let (_, rest) = rest.split_once('(')?;
    let (version, after) = rest.split_once(')')?;
    let plain = version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (plain && !version.is_empty() && after.contains("build-")).then(|| version.to_owned())
}

/// `DISKLIB-LINK  : Opened 'vpxa-nfcssl://[ds] vm/vm.vmdk@esx1.example.com:902' (0xa): …`.
fn host(text: &str) -> Option<String> {
    let rest = text.strip_prefix("DISKLIB-LINK")?;
    let (_, rest) = rest.split_once("Opened '")?;
    let (link, _) = rest.split_once("' (0x")?;
    let (_, place) = link.rsplit_once('@')?;
    let (host, port) = place.rsplit_once(':')?;
    (!host.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then(|| host.to_owned())
}

/// `… Failed to allocate the requested 24117272 bytes`.
fn too_long(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("Failed to allocate the requested ")?;
    let (number, _) = rest.split_once(" bytes")?;
    number.parse().ok()
}

/// Causes that are known, with what to do about them. Earlier ones explain later ones.
const CAUSES: &[(&str, &str, bool)] = &[
    (
        "thumbprint mismatch",
        "compare the thumbprint with the server's certificate",
        false,
    ),
    (
        "SSL certificate",
        "compare the thumbprint with the server's certificate",
        false,
    ),
    (
        "Incorrect user name or password",
        "check the user and the password",
        false,
    ),
    (
        "Insufficient permissions",
        "the user needs VirtualMachine.Provisioning.DiskRandomRead",
        false,
    ),
    (
        "cannot open shared object file",
        "name the VDDK with libdir=",
        false,
    ),
    ("could not find VDDK", "name the VDDK with libdir=", false),
    ("Failed to open '", "", false),
    ("A file was not found", "check disk= and snapshot=", false),
    (
        "NfcFssrvrClientOpen",
        "the host has no session left; use fewer sessions",
        true,
    ),
    ("server refused connection", "", true),
];

/// A failure in one line, and what may be done about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// The line that matters.
    pub line: String,
    /// What to do; empty if nothing is known.
    pub hint: &'static str,
    /// Whether the same may work later.
    pub may_pass: bool,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Heard {
    /// VDDK's version.
    pub version: Option<String>,
    /// The ESXi host.
    pub host: Option<String>,
    /// How often the server had no memory for a request.
    pub too_long: u64,
    failures: VecDeque<String>,
}

impl Heard {
    /// Takes note of one line.
    pub fn hear(&mut self, line: &str) {
        match hear(line) {
            Said::Version(version) => self.version = Some(version),
            Said::Host(host) => self.host = Some(host),
            // Not kept: it is dealt with, and would be taken for the cause of what comes later.
            Said::TooLong(_) => self.too_long = self.too_long.saturating_add(1),
            Said::Failure(text) => self.keep(&text),
            Said::Nothing => {}
        }
    }

    fn keep(&mut self, text: &str) {
        if self.failures.len() >= KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back(text.to_owned());
    }

    /// The line that matters most, if anything failed.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        for (words, hint, may_pass) in CAUSES {
            if let Some(line) = self.failures.iter().rev().find(|line| line.contains(words)) {
                return Some(Cause {
                    line: line.clone(),
                    hint,
                    may_pass: *may_pass,
                });
            }
        }
        // What VDDK itself returned says more than what nbdkit makes of it.
        let returned = self
            .failures
            .iter()
            .rev()
            .find(|line| line.starts_with("VixDiskLib_"));
        let line = returned.or_else(|| self.failures.back())?;
        Some(Cause {
            line: line.clone(),
            hint: "",
            may_pass: true,
        })
    }

    /// Forgets failures: what comes next is about something else.
    pub fn forget(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, Said, hear};

    #[test]
    fn version_and_host_are_found_where_vddk_says_them() {
        assert_eq!(
            hear("nbdkit: debug: VMware VixDiskLib (8.0.2) Release build-22388865"),
            Said::Version("8.0.2".to_owned())
        );
        assert_eq!(
            hear(
                "nbdkit: vddk[1]: debug: DISKLIB-LINK  : Opened 'vpxa-nfcssl://[ds] a@b/a.vmdk\
                 @esx1.example.com:902' (0xa): custom, 4194304 sectors / 2 GB."
            ),
            Said::Host("esx1.example.com".to_owned())
        );
    }

    #[test]
    fn a_request_that_was_too_long_is_told_with_its_length() {
        let line = "nbdkit: vddk[3]: error: [NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error \
                    5 from server: Failed to allocate the requested 24117272 bytes";
        assert_eq!(hear(line), Said::TooLong(24_117_272));
    }

    #[test]
    fn chatter_is_no_failure() {
        for line in [
            "",
            "nbdkit: debug: vddk: config key=password, value=-4",
            "nbdkit: vddk[1]: debug: VixDiskLib: error happened long ago",
            "nbdkit: debug: VMware VixDiskLib (x",
            "DISKLIB-LINK  : Opened 'a' (0x",
            "error:",
        ] {
            assert_eq!(hear(line), Said::Nothing, "{line}");
        }
    }

    fn cause(lines: &[&str]) -> Option<(String, bool)> {
        let mut heard = Heard::default();
        lines.iter().for_each(|line| heard.hear(line));
        heard.cause().map(|cause| (cause.line, cause.may_pass))
    }

    #[test]
    fn the_cause_is_told_and_not_what_followed_from_it() {
        let told = cause(&[
            "nbdkit: vddk[1]: error: SSLVerifyIsEnabled: thumbprint mismatch, peer has 00:11",
            "nbdkit: vddk[1]: error: VixDiskLib_ConnectEx: Unknown error",
            "nbdkit: vddk[1]: error: could not open",
        ]);
        let line = "SSLVerifyIsEnabled: thumbprint mismatch, peer has 00:11".to_owned();
        assert_eq!(told, Some((line, false)));
        let told = cause(&[
            "nbdkit: vddk[1]: error: VixDiskLib_Open: Unknown error",
            "nbdkit: vddk[1]: error: something that follows",
        ]);
        assert_eq!(
            told,
            Some(("VixDiskLib_Open: Unknown error".to_owned(), true))
        );
        assert_eq!(cause(&["nbdkit: debug: all is well"]), None);
    }
}
