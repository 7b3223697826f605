//! Which VM of which vCenter, as a user writes it. Words to a type; nothing is contacted here.
//!
//! ```text
//! vsphere://USER@HOST[:PORT]/VM[?KEY=VALUE[&…]]
//!
//! VM    DC/vm/FOLDER/NAME          its path in the inventory
//!       moref=vm-42                its managed object
//!       uuid=UUID                  its instance UUID, else its BIOS UUID if only one VM has it
//!
//! thumbprint=HEX   the certificate's SHA-1 or SHA-256, instead of an authority
//! cacert=FILE      the authority, instead of the system's
//! password-file=FILE, password-fd=N, password-env=NAME    where the password is
//! timeout=SECONDS  how long an answer may take, instead of 120
//! ```
//!
//! A user such as `administrator@vsphere.local` may stand bare: the last `@` divides. A password
//! is refused here: addresses are seen by every user of the machine.

use super::limits::TimeLimits;
use crate::authority;
use crate::error::{Error, Kind, Result};
use crate::http::trust::{Thumbprint, Trust};
use crate::secret::{Place, VARIABLE};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::fmt;
use std::str::FromStr;

/// The scheme, and what divides it from the rest.
pub const SCHEME: &str = "vsphere://";

/// The port if none is said.
const HTTPS: u16 = 443;

const OTHER_PLACES: &str =
    "take it out: set DISKFERRY_VSPHERE_PASSWORD, or add ?password-file=PATH or ?password-fd=N";

/// What must not stand bare in the user, the VM or a value.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'>')
    .add(b'?');

/// As a user has it: `/` and `:` would end it.
const USER: &AsciiSet = &RESERVED.add(b'/').add(b':');

/// A vCenter or ESXi host, and how to be let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port, 443 if none was said.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// Where the password is.
    pub password: Place,
    /// Whose certificate is believed.
    pub trust: Trust,
    /// How long calls may take.
    pub limits: TimeLimits,
}

impl Server {
    /// `HOST:PORT`, brackets around IPv6.
    #[must_use]
    pub fn authority(&self) -> String {
        authority::show(&self.host, Some(self.port))
    }
}

/// How a VM is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// A managed object reference: `vm-42`, or a number on a host.
    Moref(String),
    /// An instance UUID, else a BIOS UUID that only one VM has.
    Uuid(String),
    /// An inventory path: `DC/vm/FOLDER/NAME`.
    Path(String),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moref(value) => write!(f, "moref={value}"),
            Self::Uuid(value) => write!(f, "uuid={value}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// A VM of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Locator {
    /// Where it is.
    pub server: Server,
    /// Which one it is.
    pub vm: Wanted,
}

impl FromStr for Locator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(
                Kind::Usage,
                format!("{why} in {:?}", without_password(text)),
            )
            .hint("write vsphere://USER@HOST/DC/vm/NAME, or /moref=vm-42, or /uuid=UUID")
        };
        let rest = text.strip_prefix(SCHEME);
        let rest = rest.ok_or_else(|| wrong("no vsphere://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A bare user may hold an `@` but no `/`, an inventory path may hold both.
        let (authority, vm) = rest.split_once('/').ok_or_else(|| wrong("no VM"))?;
        let (user, place) = authority.rsplit_once('@').ok_or_else(|| wrong("no user"))?;
        if user.contains(':') {
            return Err(wrong("a password").hint(OTHER_PLACES));
        }
        let place = authority::parse(place);
        let (host, port) = place.ok_or_else(|| wrong("no good host or port"))?;
        let user = decoded(user).ok_or_else(|| wrong("no good user"))?;
        let vm = decoded(vm).ok_or_else(|| wrong("no good VM"))?;
        if user.is_empty() || vm.is_empty() {
            return Err(wrong("no user or no VM"));
        }
        let mut server = Server {
            host: host.to_owned(),
            port: port.unwrap_or(HTTPS),
            user,
            password: Place::default(),
            trust: Trust::System,
            limits: TimeLimits::default(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let pair = pair.split_once('=');
            let (key, value) = pair.ok_or_else(|| wrong("a key without a value"))?;
            let value = decoded(value).ok_or_else(|| wrong("no good value"))?;
            parameter(&mut server, key, &value)?;
        }
        let vm = wanted(vm);
        Ok(Self { server, vm })
    }
}

/// Sets what `KEY=VALUE` says of a server.
fn parameter(server: &mut Server, key: &str, value: &str) -> Result<()> {
    let trusted = server.trust != Trust::System;
    match key {
        "thumbprint" | "cacert" if trusted => {
            let what = "thumbprint and cacert exclude each other";
            return Err(Error::new(Kind::Usage, what));
        }
        "thumbprint" => server.trust = Trust::Pinned(value.parse::<Thumbprint>()?),
        "cacert" => server.trust = Trust::Authority(value.into()),
        "password-file" => server.password = Place::File(value.into()),
        "password-env" => server.password = Place::Environment(value.to_owned()),
        "password-fd" => {
            let number = value.parse().map_err(|error| {
                Error::new(Kind::Usage, format!("password-fd={value}")).because(error)
            })?;
            server.password = Place::Descriptor(number);
        }
        "timeout" => {
            server.limits = TimeLimits::parse(value).ok_or_else(|| {
                let what = format!("timeout={value} is no number of seconds from 1 to 3600");
                Error::new(Kind::Usage, what)
            })?;
        }
        "password" => {
            let what = "a password stands in an address";
            return Err(Error::new(Kind::Usage, what).hint(OTHER_PLACES));
        }
        _ => {
            let what = format!("unknown key {key:?} in the address of a VM");
            return Err(Error::new(Kind::Usage, what).hint(
                "there are thumbprint, cacert, password-file, password-fd, password-env and timeout",
            ));
        }
    }
    Ok(())
}

/// An address as far as it may be shown: what stands between `:` and `@` is left out.
fn without_password(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at.saturating_add(3));
    let (scheme, rest) = text.split_at(start);
    match (rest.split_once(':'), rest.rsplit_once('@')) {
        (Some((user, _)), Some((before, host))) if user.len() < before.len() => {
            format!("{scheme}{user}:…@{host}")
        }
        _ => text.to_owned(),
    }
}

fn wanted(vm: String) -> Wanted {
    if let Some(value) = vm.strip_prefix("moref=") {
        return Wanted::Moref(value.to_owned());
    }
    match vm.strip_prefix("uuid=") {
        Some(value) => Wanted::Uuid(value.to_owned()),
        None => Wanted::Path(vm),
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.contains(char::is_control)).then(|| text.into_owned())
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server {
            host,
            port,
            user,
            password,
            trust,
            limits,
        } = &self.server;
        write!(f, "{SCHEME}{}@", utf8_percent_encode(user, USER))?;
        let port = Some(*port).filter(|port| *port != HTTPS);
        f.write_str(&authority::show(host, port))?;
        let vm = self.vm.to_string();
        write!(f, "/{}", utf8_percent_encode(&vm, RESERVED))?;
        let trust = match trust {
            // No address of vSphere says so.
            Trust::System | Trust::Directories(_) | Trust::Anybody => None,
            Trust::Pinned(thumbprint) => Some(("thumbprint", thumbprint.to_string())),
            Trust::Authority(path) => Some(("cacert", path.display().to_string())),
        };
        let password = match password {
            Place::Environment(name) if name == VARIABLE => None,
            Place::Environment(name) => Some(("password-env", name.clone())),
            Place::File(path) => Some(("password-file", path.display().to_string())),
            Place::Descriptor(number) => Some(("password-fd", number.to_string())),
        };
        let mut mark = '?';
        let limits = Some(*limits).filter(|limits| *limits != TimeLimits::default());
        let limits = limits.map(|limits| ("timeout", limits.seconds().to_string()));
        for (key, value) in trust.into_iter().chain(password).chain(limits) {
            write!(f, "{mark}{key}={}", utf8_percent_encode(&value, RESERVED))?;
            mark = '&';
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Locator, Wanted};
    use crate::error::Kind;
    use crate::secret::Place;

    fn parse(text: &str) -> Locator {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn a_user_may_hold_an_at_sign_and_a_path_slashes_and_spaces() {
        let found = parse("vsphere://administrator@vsphere.local@vc.example/DC%200/vm/a/b");
        assert_eq!(found.server.user, "administrator@vsphere.local");
        assert_eq!(found.server.authority(), "vc.example:443");
        assert_eq!(found.vm, Wanted::Path("DC 0/vm/a/b".to_owned()));
    }

    #[test]
    fn every_address_says_again_what_it_was_read_from() {
        for text in [
            "vsphere://root@[fe80::1]:8989/moref=vm-42",
            "vsphere://u@h/x?password-env=VC",
            "vsphere://u@h/x?timeout=7",
            "vsphere://u@h/uuid=4210ffff-0000-1111-2222-333344445555?password-fd=7",
            "vsphere://a%2Fb@h/DC/vm/n%25?cacert=/ca.pem&password-file=/run/a%20b",
            "vsphere://u@h/x?thumbprint=00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33",
        ] {
            let found = parse(text);
            assert_eq!(parse(&found.to_string()), found);
            assert_eq!(found.to_string(), text);
        }
        let file = parse("vsphere://u@h/x?password-file=/p").server.password;
        assert_eq!(file, Place::File("/p".into()));
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in [
            "vsphere://root:hunter2@host/vm",
            "vsphere://host/vm?password=hunter2",
            "vsphere://root@host/vm?password=hunter2",
        ] {
            let error = text.parse::<Locator>().unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            if text.contains("root") {
                assert!(!error.line().contains("hunter2"), "{}", error.line());
                assert!(error.line().contains("password"), "{}", error.line());
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "vsphere://",
            "vsphere://h/vm",
            "vsphere://u@/vm",
            "vsphere://u@h",
            "vsphere://u@h/",
            "vsphere://u@h:x/vm",
            "vsphere://u@h:0/vm",
            "vsphere://u@[::1/vm",
            "vsphere://u@h/vm?x",
            "vsphere://u@h/vm?x=1",
            "vsphere://u@h/vm?thumbprint=00",
            "vsphere://u@h/%ff",
            "vsphere://u@h/vm?password-fd=x",
            "vsphere://u@h/vm?timeout=0",
            "vsphere://u@h/a%0ab",
        ] {
            assert_eq!(
                text.parse::<Locator>().unwrap_err().kind(),
                Kind::Usage,
                "{text}"
            );
        }
    }
}
