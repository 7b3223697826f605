//! Which disk of which VM, as a user writes it. Words to a type; nothing is contacted here.
//!
//! ```text
//! vddk://USER@HOST[:PORT]/moref=MOREF?disk=[DATASTORE] DIR/NAME.vmdk[&KEY=VALUE…]
//!
//! snapshot=snapshot-7   the disk as it was then; without it, the VM must be off
//! thumbprint=HEX        the certificate's SHA-1, which is what VDDK compares
//! password-file=FILE, password-fd=N, password-env=NAME     where the password is
//! libdir=DIR            the VDDK, if not where nbdkit looks
//! config=FILE           VDDK's own settings        transports=LIST   such as nbdssl:nbd
//! compression=zlib|fastlz|skipz                    unbuffered=true
//! sessions=N            NFC sessions at once, 1 to 16
//! timeout=SECONDS       how long an answer of the vCenter may take, where it is asked, too
//! nbdkit=FILE, plugin=FILE    the server and its vddk plugin, if not those of the system
//! ```
//!
//! A password is refused here: addresses are seen by every user of the machine.

use crate::authority;
use crate::error::{Error, Kind, Result};
use crate::secret::Place;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The scheme, and what divides it from the rest.
pub const SCHEME: &str = "vddk://";

/// Sessions of one disk at most.
const MOST_SESSIONS: usize = 16;

/// A disk that VDDK can read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VddkAddress {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Another port than 443.
    pub port: Option<u16>,
    /// Who logs in.
    pub user: String,
    /// Where the password is.
    pub password: Place,
    /// The VM's managed object: `vm-42`, or a number on a host.
    pub vm: String,
    /// `[DATASTORE] DIR/NAME.vmdk`.
    pub file: String,
    /// The snapshot's managed object.
    pub snapshot: Option<String>,
    /// The certificate's SHA-1, as VMware writes it.
    pub thumbprint: Option<String>,
    /// Where VDDK is.
    pub libdir: Option<PathBuf>,
    /// VDDK's own settings.
    pub config: Option<PathBuf>,
    /// Transport modes, in the order in which they are tried.
    pub transports: Option<String>,
    /// What is compressed on the wire.
    pub compression: Option<String>,
    /// Past the host's buffers.
    pub unbuffered: bool,
    /// NFC sessions at once.
    pub sessions: Option<usize>,
    /// Seconds that an answer of the vCenter may take, if that was said. VDDK has limits of its own.
    pub timeout: Option<u64>,
    /// The server.
    pub nbdkit: PathBuf,
    /// Its plugin, by name or by file.
    pub plugin: PathBuf,
}

impl VddkAddress {
    /// A disk, with everything else as it is by default.
    #[must_use]
    pub fn new(host: &str, user: &str, vm: &str, file: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: None,
            user: user.to_owned(),
            password: Place::default(),
            vm: vm.to_owned(),
            file: file.to_owned(),
            snapshot: None,
            thumbprint: None,
            libdir: None,
            config: None,
            transports: None,
            compression: None,
            unbuffered: false,
            sessions: None,
            timeout: None,
            nbdkit: PathBuf::from("nbdkit"),
            plugin: PathBuf::from("vddk"),
        }
    }

    /// The same for every snapshot of the disk, and for the delta that the VM writes to while one
    /// stands: `NAME-000001.vmdk` is `NAME.vmdk`.
    #[must_use]
    pub fn disk(&self) -> String {
        let base = self.file.strip_suffix(".vmdk").unwrap_or(&self.file);
        let base = match base.rsplit_once('-') {
            Some((stem, digits))
                if digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                stem
            }
            _ => base,
        };
        format!("vddk:{}/{}/{base}.vmdk", self.host, self.vm)
    }

    fn set(&mut self, key: &str, value: String) -> Result<()> {
        match key {
            "disk" => self.file = value,
            // Whom the vCenter is believed to be is of no concern to VDDK, which has the thumbprint.
            "cacert" => {}
            "snapshot" => self.snapshot = Some(value),
            "thumbprint" => self.thumbprint = Some(thumbprint(&value)?),
            "password-file" => self.password = Place::File(value.into()),
            "password-env" => self.password = Place::Environment(value),
            "password-fd" => {
                self.password = Place::Descriptor(number(key, &value)?);
            }
            "libdir" => self.libdir = Some(value.into()),
            "config" => self.config = Some(value.into()),
            "transports" => self.transports = Some(value),
            "compression" => {
                self.compression = Some(one_of(key, value, &["zlib", "fastlz", "skipz"])?);
            }
            "unbuffered" => self.unbuffered = one_of(key, value, &["true", "false"])? == "true",
            "sessions" => self.sessions = Some(sessions(number(key, &value)?)?),
            "timeout" => self.timeout = Some(number(key, &value)?),
            "nbdkit" => self.nbdkit = value.into(),
            "plugin" => self.plugin = value.into(),
            "password" => {
                return Err(usage("a password stands in an address")
                    .hint("use password-file, password-fd or password-env"));
            }
            _ => {
                return Err(usage(format!("unknown key {key:?} in a vddk:// address"))
                    .hint("docs/vmware.md lists them"));
            }
        }
        Ok(())
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what.into())
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|_| usage(format!("{key}={value} is no number that fits")))
}

fn sessions(number: usize) -> Result<usize> {
    match number {
        1..=MOST_SESSIONS => Ok(number),
        _ => Err(usage(format!(
            "sessions={number} is not between 1 and {MOST_SESSIONS}"
        ))),
    }
}

fn one_of(key: &str, value: String, words: &[&str]) -> Result<String> {
    match words.contains(&value.as_str()) {
        true => Ok(value),
        false => Err(usage(format!(
            "{key}={value} is none of {}",
            words.join(", ")
        ))),
    }
}

/// Twenty pairs of hexadecimal digits, with colons or without.
///
/// # Errors
/// It is no SHA-1.
pub fn thumbprint(text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(
            usage(format!("the thumbprint {text:?} is no SHA-1 of 20 pairs"))
                .hint("VDDK compares the certificate's SHA-1, never its SHA-256"),
        );
    }
    let digits = digits.to_ascii_uppercase();
    let pairs: Vec<String> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into_owned())
        .collect();
    Ok(pairs.join(":"))
}

impl FromStr for VddkAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            usage(format!("{why} in a vddk:// address")).hint(
                "write vddk://USER@HOST/vm-42?disk=[DATASTORE] DIR/NAME.vmdk&snapshot=snapshot-7",
            )
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("no vddk://"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vm) = place.split_once('/').ok_or_else(|| wrong("no VM"))?;
        // A user such as administrator@vsphere.local may stand bare: the last `@` divides.
        let (user, host) = authority.rsplit_once('@').ok_or_else(|| wrong("no user"))?;
        if user.contains(':') {
            return Err(wrong("a password stands"));
        }
        let place = authority::parse(host)
            .and_then(|(host, port)| Some((decoded(host).filter(|host| !host.is_empty())?, port)));
        let (host, port) = place.ok_or_else(|| wrong("no good host or port"))?;
        let vm = vm.strip_prefix("moref=").unwrap_or(vm);
        let vm = decoded(vm)
            .filter(|vm| !vm.is_empty())
            .ok_or_else(|| wrong("no VM"))?;
        let user = decoded(user)
            .filter(|user| !user.is_empty())
            .ok_or_else(|| wrong("no user"))?;
        if vm.contains(['/', '=']) {
            return Err(wrong("the VM is no managed object"));
        }
        let mut address = Self::new(&host, &user, &vm, "");
        address.port = port;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| wrong("a key without a value"))?;
            let value = decoded(value)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| wrong("an empty value"))?;
            address.set(key, value)?;
        }
        if address.file.is_empty() {
            return Err(wrong("no disk="));
        }
        Ok(address)
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    // A line break would end a word of nbdkit's own settings.
    (!text.contains(char::is_control)).then(|| text.into_owned())
}

impl fmt::Display for VddkAddress {
    /// For people: where, which VM, which disk, as of when.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vddk://{}/{} {}", self.host, self.vm, self.file)?;
        match &self.snapshot {
            Some(snapshot) => write!(f, " at {snapshot}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VddkAddress;
    use crate::error::Kind;
    use crate::secret::Place;

    const GOOD: &str = "vddk://administrator@vsphere.local@vc.example.com:8443/moref=vm-42\
                        ?disk=[ds 1] web/web-000002.vmdk&snapshot=snapshot-7&password-fd=5";

    #[test]
    fn an_address_names_host_vm_disk_and_snapshot() {
        let address: VddkAddress = GOOD.parse().unwrap();
        assert_eq!(address.user, "administrator@vsphere.local");
        assert_eq!(
            (address.host.as_str(), address.port),
            ("vc.example.com", Some(8443))
        );
        assert_eq!(address.vm, "vm-42");
        assert_eq!(address.file, "[ds 1] web/web-000002.vmdk");
        assert_eq!(address.password, Place::Descriptor(5));
        assert_eq!(
            address.to_string(),
            "vddk://vc.example.com/vm-42 [ds 1] web/web-000002.vmdk at snapshot-7"
        );
    }

    #[test]
    fn a_disk_is_the_same_disk_whatever_snapshot_stands() {
        let disk = |file: &str| VddkAddress::new("h", "u", "vm-1", file).disk();
        assert_eq!(disk("[d] a/a.vmdk"), disk("[d] a/a-000012.vmdk"));
        assert_ne!(disk("[d] a/a.vmdk"), disk("[d] a/a_1.vmdk"));
        assert_ne!(disk("[d] a/a.vmdk"), disk("[d] a/a-12.vmdk"));
    }

    #[test]
    fn percent_signs_write_what_cannot_stand_bare() {
        let address: VddkAddress = "vddk://u@[fe80::1]/7?disk=[d]%20a%26b/c.vmdk"
            .parse()
            .unwrap();
        assert_eq!(address.file, "[d] a&b/c.vmdk");
        assert_eq!((address.host.as_str(), address.port), ("fe80::1", None));
    }

    #[test]
    fn a_thumbprint_is_a_sha_1_in_any_dress() {
        let with = |text: &str| format!("{GOOD}&thumbprint={text}").parse::<VddkAddress>();
        let bare = "0a".repeat(20);
        let pairs = vec!["0A"; 20].join(":");
        assert_eq!(with(&bare).unwrap().thumbprint, Some(pairs.clone()));
        assert_eq!(with(&pairs).unwrap().thumbprint, Some(pairs));
        assert!(with(&"0a".repeat(32)).unwrap_err().line().contains("SHA-1"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_showing_a_password() {
        for text in [
            "vddk://h/vm-1?disk=x",
            "vddk://u@h/?disk=x",
            "vddk://u@h/DC/vm/web?disk=x",
            "vddk://u@h/uuid=4210?disk=x",
            "vddk://u@h?disk=x",
            "vddk://u@/vm-1?disk=x",
            "vddk://u@h:0/vm-1?disk=x",
            "vddk://u@h:x/vm-1?disk=x",
            "vddk://u@h/vm-1",
            "vddk://u@h/vm-1?disk=",
            "vddk://u@h/vm-1?disk=a%0ab",
            "vddk://u@h/vm-1?disk=x&sessions=0",
            "vddk://u@h/vm-1?disk=x&sessions=17",
            "vddk://u@h/vm-1?disk=x&compression=zip",
            "vddk://u@h/vm-1?disk=x&nonsense=1",
            "vddk://u@h/vm-1?disk=x&password=hunter2",
            "vddk://u:hunter2@h/vm-1?disk=x",
        ] {
            let error = text.parse::<VddkAddress>().unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert!(!error.line().contains("hunter2"), "{}", error.line());
        }
    }
}
