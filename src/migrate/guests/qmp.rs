//! A running QEMU, or `qemu-storage-daemon`, over its QMP socket.

use super::Reach;
use crate::changes::guest::Guest;
use crate::changes::qmp::{DiskAt, Place, Qmp, QmpOptions};
use crate::error::Result;
use crate::migrate::plan::{Disk, Plan};
use crate::report::parse_bytes;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the plan says of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Layout {
    socket: PathBuf,
    scratch: PathBuf,
    nbd: Option<String>,
    keep_free: Option<String>,
    overlay_max: Option<String>,
}

/// What of it makes sense.
#[derive(Debug)]
struct Socket {
    socket: PathBuf,
    scratch: PathBuf,
    nbd: Option<Place>,
    keep_free: Option<u64>,
    overlay_max: Option<u64>,
}

pub(super) fn read(options: &Value) -> Result<Arc<dyn Reach>, String> {
    let layout: Layout = super::options(options)?;
    let size = |key: &str, word: Option<String>| {
        let size = word.map(|word| parse_bytes(&word)).transpose();
        size.map_err(|what| format!("{key}: {what}"))
    };
    for (key, path) in [("socket", &layout.socket), ("scratch", &layout.scratch)] {
        if path.is_relative() {
            return Err(format!("{key}: {} is not an absolute path", path.display()));
        }
    }
    Ok(Arc::new(Socket {
        nbd: layout.nbd.map(|word| place(&word)).transpose()?,
        keep_free: size("keep-free", layout.keep_free)?,
        overlay_max: size("overlay-max", layout.overlay_max)?,
        socket: layout.socket,
        scratch: layout.scratch,
    }))
}

/// The path of a unix socket, or `HOST:PORT`.
fn place(word: &str) -> Result<Place, String> {
    if word.starts_with('/') {
        return Ok(Place::Unix(PathBuf::from(word)));
    }
    let split = word.rsplit_once(':');
    let tcp = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = tcp.ok_or_else(|| {
        format!("nbd: {word:?} is neither the path of a unix socket nor HOST:PORT")
    })?;
    Ok(Place::Tcp {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
    })
}

/// `device:ID`, or the name of a node.
fn disk(disk: &Disk) -> DiskAt {
    match disk.source.strip_prefix("device:") {
        Some(device) => DiskAt::device(&disk.name, device),
        None => DiskAt::node(&disk.name, &disk.source),
    }
}

#[async_trait]
impl Reach for Socket {
    fn describe(&self) -> String {
        format!("QMP at {}", self.socket.display())
    }

    async fn connect(
        &self,
        plan: &Plan,
        id: &str,
        _directory: Option<&Path>,
    ) -> Result<Arc<dyn Guest>> {
        let disks = plan.disks.iter().map(disk).collect();
        let mut options = QmpOptions::new(&self.socket, id, &self.scratch, disks);
        options.nbd = self.nbd.clone();
        options.overlay_max = self.overlay_max;
        if let Some(keep_free) = self.keep_free {
            options.keep_free = keep_free;
        }
        Ok(Arc::new(Qmp::new(options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, place, read};
    use serde_json::json;

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        let all =
            json!({"socket": "/run/q", "scratch": "/var/tmp", "nbd": "/run/n", "keep-free": "1G"});
        assert!(read(&all).is_ok());
        for (key, value, told) in [
            ("socket", json!("q"), "socket: q is not an absolute path"),
            ("nbd", json!("here"), "nbd: \"here\""),
            ("keep-free", json!("much"), "keep-free: "),
            ("more", json!(1), "unknown field `more`"),
        ] {
            let mut options = all.clone();
            options[key] = value;
            let error = read(&options).unwrap_err();
            assert!(error.contains(told), "{told:?} is not in {error}");
        }
    }

    #[test]
    fn a_server_is_a_socket_or_a_host_and_a_port() {
        let host = "::1".to_owned();
        assert_eq!(place("[::1]:10809"), Ok(Place::Tcp { host, port: 10809 }));
        assert!(matches!(place("/run/nbd"), Ok(Place::Unix(_))));
        assert!(place("host:many").is_err());
    }
}
