//! What nbdkit is called with. Pure.
//!
//! No `retry` filter: it serialises a connection, and whoever uses this tries again anyhow. The
//! password goes by descriptor. Nothing here is secret.

use super::address::VddkAddress;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The descriptor that the password is read from.
const PASSWORD_FD: &str = "password=-4";

/// What of our own environment VDDK and nbdkit may see.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The words of the server that reads `address`.
#[must_use]
pub(super) fn words(address: &VddkAddress) -> Vec<String> {
    let mut words = vec![address.nbdkit.display().to_string()];
    words.extend(
        [
            "--exit-with-parent",
            "--readonly",
            "--newstyle",
            // Versions, hosts and causes are told to nobody else.
            "--verbose",
            "-D",
            "nbdkit.backend.datapath=0",
            "-D",
            "vddk.datapath=0",
        ]
        .map(str::to_owned),
    );
    words.push(address.plugin.display().to_string());
    let mut set = |key: &str, value: &str| words.push(format!("{key}={value}"));
    set("server", &address.host);
    if let Some(port) = address.port {
        set("port", &port.to_string());
    }
    set("user", &address.user);
    set("vm", &format!("moref={}", address.vm));
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    for (key, value) in [
        ("libdir", path(&address.libdir)),
        ("config", path(&address.config)),
        ("snapshot", address.snapshot.clone()),
        ("thumbprint", address.thumbprint.clone()),
        ("transports", address.transports.clone()),
        ("compression", address.compression.clone()),
        ("unbuffered", address.unbuffered.then(|| "true".to_owned())),
    ] {
        if let Some(value) = value {
            set(key, &value);
        }
    }
    words.push(PASSWORD_FD.to_owned());
    words.push(format!("file={}", address.file));
    words
}

/// The words that ask the plugin what it is.
#[must_use]
pub(super) fn question(address: &VddkAddress) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--dump-plugin".into(), address.plugin.clone().into()];
    if let Some(libdir) = &address.libdir {
        let mut word = OsString::from("libdir=");
        word.push(libdir);
        words.push(word);
    }
    words
}

/// The environment of the server: little of `ours`, and the way to VDDK's own libraries, given
/// where its directory really is.
///
/// The plugin wants exactly that way set before anything is loaded, and would start nbdkit over to
/// have it, which loses the socket that it was given.
pub(super) fn environment(
    libdir: Option<&Path>,
    ours: impl Iterator<Item = (OsString, OsString)>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<(OsString, OsString)> {
    let mut all: Vec<_> = ours
        .filter(|(name, _)| PASSED_ON.iter().any(|passed| name == passed))
        .collect();
    if let Some(libdir) = libdir {
        let below = libdir.join("lib64");
        let libraries = if exists(&below) {
            below
        } else {
            libdir.to_owned()
        };
        all.push(("LD_LIBRARY_PATH".into(), libraries.into()));
    }
    all
}

/// The oldest plugin that reads every disk right: before it, the end of a disk that is not a
/// multiple of 64 KiB is lost.
const OLDEST: (u32, u32) = (1, 42);

/// Whether a plugin of the version in `dump`, the answer to [`question`], is good enough; the
/// version, if it is not.
///
/// # Errors
/// The version, or nothing if none is told.
pub(super) fn new_enough(dump: &str) -> Result<(), Option<&str>> {
    let version = dump
        .lines()
        .find_map(|line| line.strip_prefix("version="))
        .ok_or(None)?;
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST {
        Ok(())
    } else {
        Err(Some(version))
    }
}

#[cfg(test)]
mod tests {
    use super::{environment, new_enough, words};
    use crate::source::vddk::address::VddkAddress;
    use std::path::Path;

    fn address() -> VddkAddress {
        "vddk://u@h:444/vm-1?disk=[d] a/a.vmdk&snapshot=snapshot-7&libdir=/opt/v&compression=fastlz\
         &password-env=HIDDEN"
            .parse()
            .unwrap()
    }

    #[test]
    fn the_words_say_all_but_the_password_and_have_no_retry_filter() {
        let words = words(&address());
        let plugin = words.iter().position(|word| word == "vddk").unwrap();
        assert_eq!(
            words[plugin + 1..],
            [
                "server=h",
                "port=444",
                "user=u",
                "vm=moref=vm-1",
                "libdir=/opt/v",
                "snapshot=snapshot-7",
                "compression=fastlz",
                "password=-4",
                "file=[d] a/a.vmdk",
            ]
        );
        assert!(
            !words.iter().any(|word| word.contains("filter")),
            "{words:?}"
        );
    }

    #[test]
    fn the_environment_has_nothing_that_could_be_a_secret() {
        let ours = [
            ("PATH", "/bin"),
            ("HIDDEN", "hunter2"),
            ("IMPORTER_SECRET_KEY", "x"),
        ];
        let ours = ours.map(|(name, value)| (name.into(), value.into()));
        let all = environment(Some(Path::new("/opt/v")), ours.into_iter(), |_| true);
        let expected = [("PATH", "/bin"), ("LD_LIBRARY_PATH", "/opt/v/lib64")];
        assert_eq!(
            all,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn a_plugin_that_loses_the_end_of_a_disk_is_too_old() {
        for (version, good) in [
            ("1.42.0", true),
            ("1.48.1", true),
            ("2.0", true),
            ("1.38.5", false),
        ] {
            assert_eq!(
                new_enough(&format!("name=vddk\nversion={version}\n")).is_ok(),
                good
            );
        }
        assert_eq!(new_enough("version=1.32.5\n"), Err(Some("1.32.5")));
        assert_eq!(new_enough("name=vddk\n"), Err(None));
    }
}
