//! The environment of the pod, checked. Pure.
//!
//! What the controller sets is refused or accepted exactly as the original does; the names that
//! begin with `DISKFERRY_` are ours, and every one may be left out.

use super::Env;
use super::flags::Flags;
use super::image::{Image, Store};
use super::quantity;
use crate::authority;
use crate::vsphere::limits::TimeLimits;
use std::path::PathBuf;
use std::time::Duration;

/// Where metrics are served if nobody says otherwise; the controllers know the port.
const LISTEN: &str = "0.0.0.0:8443";

/// How long what may pass is tried again: a vCenter that restarts takes minutes, and whoever
/// migrates gives up after three restarts of the pod.
const RETRY: Duration = Duration::from_secs(600);

/// What an import does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) source: SourceKind,
    /// Whom progress is counted for.
    pub(super) owner: String,
    /// Bytes that the volume was asked to have, if that is known.
    pub(super) image_size: Option<u64>,
    /// Of a file system, millionths that are not for the image.
    pub(super) overhead_ppm: u64,
    /// All of the disk takes up space.
    pub(super) preallocation: bool,
    /// An archive of files instead of a disk.
    pub(super) is_archive: bool,
    /// Where the volume is, if not where CDI puts it.
    pub(super) volume: Option<PathBuf>,
    /// Where metrics are served.
    pub(super) listen: String,
    /// Where the journal is; without one a restarted container begins again.
    pub(super) journal: Option<PathBuf>,
    /// Read the target back; by default where that is possible at the end of a migration.
    pub(super) verify: Option<bool>,
    /// Sessions of one disk.
    pub(super) sessions: Option<usize>,
    /// How long what may pass is tried again.
    pub(super) retry: Duration,
}

/// What is imported.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SourceKind {
    /// A disk of a VM in vSphere.
    Vddk(Box<VmDisk>),
    /// A disk image on a server.
    Image(Box<Image>),
    /// Nothing: an empty disk.
    Blank,
    /// Something that is not built here.
    Unknown(String),
}

/// Which disk of which VM, and as of when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VmDisk {
    pub(super) host: String,
    pub(super) port: u16,
    /// Who logs in. The password stays in the environment until it is needed.
    pub(super) user: String,
    pub(super) uuid: String,
    pub(super) backing_file: String,
    pub(super) thumbprint: String,
    pub(super) checkpoint: Checkpoint,
    /// The last one: the VM is off.
    pub(super) is_final: bool,
    /// PEM files of authorities.
    pub(super) certificates: Option<PathBuf>,
    /// How long the vCenter may take to answer.
    pub(super) limits: TimeLimits,
}

/// Which part of the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Checkpoint {
    /// All of it, as it is now.
    Cold,
    /// All of it, as it was in a snapshot.
    First { current: String },
    /// What changed between a change id or an earlier snapshot and a snapshot.
    Delta { current: String, previous: String },
}

/// The variable that holds the password.
pub(super) const PASSWORD: &str = "IMPORTER_SECRET_KEY";

/// Why the pod does not even begin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) line: String,
    /// Left in the termination message, too; else only logged, as the original has it.
    pub(super) is_told: bool,
}

impl Settings {
    /// Checks the environment.
    ///
    /// # Errors
    /// What the original refuses, and what of ours makes no sense.
    pub(super) fn read(env: &Env, flags: &Flags) -> Result<Self, Refusal> {
        let get = |name: &str| env.get(name).map_or("", String::as_str);
        let some = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        let preallocation = truth(get("PREALLOCATION")).ok_or_else(|| {
            let line = format!(
                "PREALLOCATION={:?} is neither true nor false",
                get("PREALLOCATION")
            );
            Refusal {
                line,
                is_told: false,
            }
        })?;
        let source = match get("IMPORTER_SOURCE") {
            "vddk" => SourceKind::Vddk(Box::new(VmDisk::read(env)?)),
            "http" => SourceKind::Image(Box::new(Image::read(Store::Http, env)?)),
            "s3" => SourceKind::Image(Box::new(Image::read(Store::S3, env)?)),
            "gcs" => SourceKind::Image(Box::new(Image::read(Store::Gcs, env)?)),
            "registry" => SourceKind::Image(Box::new(Image::read(Store::Registry, env)?)),
            "none" => SourceKind::Blank,
            other => SourceKind::Unknown(other.to_owned()),
        };
        Ok(Self {
            source,
            owner: owner(flags.owner_uid.clone().or_else(|| some("OWNER_UID"))),
            image_size: flags
                .pvc_size
                .or_else(|| quantity::bytes(get("IMPORTER_IMAGE_SIZE"))),
            overhead_ppm: millionths(get("FILESYSTEM_OVERHEAD")).unwrap_or(0),
            preallocation,
            is_archive: get("IMPORTER_CONTENTTYPE") == "archive",
            volume: flags.volume_path.clone(),
            listen: some("DISKFERRY_METRICS").unwrap_or_else(|| LISTEN.to_owned()),
            journal: some("DISKFERRY_JOURNAL").map(PathBuf::from),
            verify: optional(env, "DISKFERRY_VERIFY", truth)?,
            sessions: optional(env, "DISKFERRY_SESSIONS", |text| {
                text.parse().ok().filter(|n| (1..=16).contains(n))
            })?,
            retry: optional(env, "DISKFERRY_RETRY", |text| {
                text.parse().ok().map(Duration::from_secs)
            })?
            .unwrap_or(RETRY),
        })
    }
}

impl VmDisk {
    fn read(env: &Env) -> Result<Self, Refusal> {
        let get = |name: &str| env.get(name).cloned().unwrap_or_default();
        let (host, port) = endpoint(&get("IMPORTER_ENDPOINT")).map_err(unconnected)?;
        let checkpoint = checkpoint(
            get("IMPORTER_CURRENT_CHECKPOINT"),
            get("IMPORTER_PREVIOUS_CHECKPOINT"),
        )
        .map_err(unconnected)?;
        let needed = |name: &str| match get(name) {
            value if value.is_empty() => Err(unconnected(format!("{name} is not set"))),
            value => Ok(value),
        };
        needed(PASSWORD)?;
        Ok(Self {
            host,
            port,
            user: needed("IMPORTER_ACCESS_KEY_ID")?,
            uuid: needed("IMPORTER_UUID")?,
            backing_file: needed("IMPORTER_BACKING_FILE")?,
            thumbprint: get("IMPORTER_THUMBPRINT"),
            checkpoint,
            is_final: truth(&get("IMPORTER_FINAL_CHECKPOINT")).unwrap_or(false),
            certificates: env
                .get("IMPORTER_CERT_DIR")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            limits: optional(env, "DISKFERRY_TIMEOUT", TimeLimits::parse)?.unwrap_or_default(),
        })
    }
}

fn unconnected(why: impl AsRef<str>) -> Refusal {
    Refusal {
        line: format!("Unable to connect to vddk data source: {}", why.as_ref()),
        is_told: true,
    }
}

fn checkpoint(current: String, previous: String) -> Result<Checkpoint, &'static str> {
    match (current.is_empty(), previous.is_empty()) {
        (true, true) => Ok(Checkpoint::Cold),
        (false, true) => Ok(Checkpoint::First { current }),
        (false, false) => Ok(Checkpoint::Delta { current, previous }),
        (true, false) => Err("previous checkpoint set without current"),
    }
}

/// Host and port of a URL. Only those count: the path is always `/sdk`.
fn endpoint(url: &str) -> Result<(String, u16), String> {
    let bad = || format!("IMPORTER_ENDPOINT {url:?} is not the https URL of a server");
    let rest = url.strip_prefix("https://").ok_or_else(bad)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let (host, port) = authority::parse(authority).ok_or_else(bad)?;
    Ok((host.to_owned(), port.unwrap_or(443)))
}

/// As Go's `strconv.ParseBool`.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Millionths of a decimal such as `0.06`; none if it is no such thing.
fn millionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let part = format!("{part:0<6}");
    let whole: u64 = whole.parse().ok()?;
    whole
        .checked_mul(1_000_000)?
        .checked_add(part.get(..6)?.parse().ok()?)
}

/// The owner, as far as it can stand in a label.
fn owner(uid: Option<String>) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-._:".contains(*c);
    uid.unwrap_or_default().chars().filter(fits).collect()
}

fn optional<T>(
    env: &Env,
    name: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Refusal> {
    match env.get(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| Refusal {
            line: format!("{name}={value:?} makes no sense"),
            is_told: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, Env, Flags, Settings, SourceKind, VmDisk, endpoint, millionths};

    const GOOD: &[(&str, &str)] = &[
        ("IMPORTER_SOURCE", "vddk"),
        ("IMPORTER_ENDPOINT", "https://vc.example.com/sdk"),
        ("IMPORTER_CONTENTTYPE", "kubevirt"),
        ("IMPORTER_IMAGE_SIZE", "10Gi"),
        ("OWNER_UID", "1b9e"),
        ("FILESYSTEM_OVERHEAD", "0.06"),
        ("INSECURE_TLS", "false"),
        ("IMPORTER_UUID", "4210"),
        ("IMPORTER_BACKING_FILE", "[ds] web/web.vmdk"),
        ("IMPORTER_THUMBPRINT", "00:11"),
        ("IMPORTER_CURRENT_CHECKPOINT", ""),
        ("IMPORTER_PREVIOUS_CHECKPOINT", ""),
        ("IMPORTER_FINAL_CHECKPOINT", ""),
        ("IMPORTER_ACCESS_KEY_ID", "user"),
        ("IMPORTER_SECRET_KEY", "hunter2"),
        ("PREALLOCATION", "false"),
    ];

    /// The good environment with some variables set or, by `-`, left out.
    fn with(changes: &[(&str, &str)]) -> Result<Settings, (String, bool)> {
        let mut env: Env = GOOD
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        for (name, value) in changes {
            match *value {
                "-" => drop(env.remove(*name)),
                value => drop(env.insert((*name).to_owned(), value.to_owned())),
            }
        }
        Settings::read(&env, &Flags::default()).map_err(|refusal| (refusal.line, refusal.is_told))
    }

    fn disk(changes: &[(&str, &str)]) -> VmDisk {
        match with(changes).unwrap().source {
            SourceKind::Vddk(disk) => *disk,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_four_combinations_of_checkpoints_mean_what_they_mean() {
        let (current, previous) = (
            "IMPORTER_CURRENT_CHECKPOINT",
            "IMPORTER_PREVIOUS_CHECKPOINT",
        );
        let id = "52 de c0-61 d5/81".to_owned();
        for empty in ["", "-"] {
            let of = |a: &str, b: &str| disk(&[(current, a), (previous, b)]).checkpoint;
            assert_eq!(of(empty, empty), Checkpoint::Cold);
            let snapshot = "snapshot-7".to_owned();
            assert_eq!(
                of("snapshot-7", empty),
                Checkpoint::First {
                    current: snapshot.clone()
                }
            );
            let delta = Checkpoint::Delta {
                current: snapshot,
                previous: id.clone(),
            };
            assert_eq!(of("snapshot-7", &id), delta);
            let told = with(&[(current, empty), (previous, &id)]).unwrap_err();
            let line =
                "Unable to connect to vddk data source: previous checkpoint set without current";
            assert_eq!(told, (line.to_owned(), true));
        }
    }

    #[test]
    fn preallocation_is_mandatory_and_its_refusal_leaves_no_message() {
        for (text, expected) in [("true", true), ("1", true), ("F", false), ("False", false)] {
            assert_eq!(
                with(&[("PREALLOCATION", text)]).unwrap().preallocation,
                expected
            );
        }
        for text in ["-", "", "yes", "tRUE"] {
            let (line, is_told) = with(&[("PREALLOCATION", text)]).unwrap_err();
            assert!(line.contains("PREALLOCATION") && !is_told, "{line}");
        }
    }

    #[test]
    fn a_source_that_is_not_built_is_unknown() {
        for name in ["imageio", "glance", ""] {
            let settings = with(&[("IMPORTER_SOURCE", name), ("IMPORTER_ENDPOINT", "-")]).unwrap();
            assert_eq!(settings.source, SourceKind::Unknown(name.to_owned()));
        }
        assert_eq!(
            with(&[("IMPORTER_SOURCE", "none")]).unwrap().source,
            SourceKind::Blank
        );
    }

    #[test]
    fn what_a_vm_is_found_by_must_be_there_and_the_password_is_not_shown() {
        for name in [
            "IMPORTER_ENDPOINT",
            "IMPORTER_UUID",
            "IMPORTER_BACKING_FILE",
            "IMPORTER_ACCESS_KEY_ID",
            "IMPORTER_SECRET_KEY",
        ] {
            for value in ["", "-"] {
                let (line, is_told) = with(&[(name, value)]).unwrap_err();
                assert!(is_told && line.contains(name), "{line}");
                assert!(!line.contains("hunter2"), "{line}");
            }
        }
        let settings = format!("{:?}", with(&[]).unwrap());
        assert!(!settings.contains("hunter2"), "{settings}");
        for name in [
            "IMPORTER_THUMBPRINT",
            "IMPORTER_CERT_DIR",
            "OWNER_UID",
            "INSECURE_TLS",
        ] {
            assert!(with(&[(name, "-")]).is_ok(), "{name} may be missing");
        }
    }

    #[test]
    fn only_host_and_port_of_an_endpoint_count() {
        for (url, host, port) in [
            ("https://vc.example.com", "vc.example.com", 443),
            ("https://vc.example.com/sdk", "vc.example.com", 443),
            ("https://10.0.0.1:8989/sdk?x", "10.0.0.1", 8989),
            ("https://u:p@[fe80::1]:444/", "fe80::1", 444),
        ] {
            assert_eq!(endpoint(url), Ok((host.to_owned(), port)), "{url}");
        }
        for url in [
            "",
            "vc",
            "http://vc/sdk",
            "https://",
            "https://h:0",
            "https://h:x",
            "https://[::1",
        ] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_overhead_that_is_no_number_is_none() {
        assert_eq!(millionths("0.06"), Some(60_000));
        assert_eq!(millionths("0"), Some(0));
        assert_eq!(millionths("1.5"), Some(1_500_000));
        assert_eq!(millionths("0.12345678"), Some(123_456));
        for text in ["", "x", "-1", ".5", "1e-2"] {
            assert_eq!(millionths(text), None, "{text}");
        }
        assert_eq!(
            with(&[("FILESYSTEM_OVERHEAD", "x")]).unwrap().overhead_ppm,
            0
        );
    }

    #[test]
    fn ours_may_be_left_out_and_must_make_sense() {
        let settings = with(&[("DISKFERRY_JOURNAL", "/j"), ("DISKFERRY_SESSIONS", "2")]).unwrap();
        assert_eq!(settings.journal, Some("/j".into()));
        assert_eq!(settings.sessions, Some(2));
        for (name, value) in [
            ("DISKFERRY_SESSIONS", "0"),
            ("DISKFERRY_SESSIONS", "17"),
            ("DISKFERRY_RETRY", "-1"),
            ("DISKFERRY_VERIFY", "maybe"),
        ] {
            assert!(with(&[(name, value)]).unwrap_err().1, "{name}={value}");
        }
    }

    #[test]
    fn a_populators_flags_come_before_the_environment() {
        let flags = Flags {
            pvc_size: Some(5),
            owner_uid: Some("o\"}".to_owned()),
            volume_path: Some("/dev/block".into()),
            ..Flags::default()
        };
        let env = GOOD
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let settings = Settings::read(&env, &flags).unwrap();
        assert_eq!(settings.image_size, Some(5));
        assert_eq!(settings.owner, "o", "what would end the label is left out");
        assert_eq!(settings.volume, Some("/dev/block".into()));
    }
}
