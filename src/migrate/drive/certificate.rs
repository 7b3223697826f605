//! The certificate: what was proven, of what, and how it is known. Documented in `docs/migrate.md`.

use super::scene::Scene;
use crate::changes::guest::Quiet;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Journal, Manifest};
use crate::migrate::book;
use crate::migrate::phase::{Event, Prove};
use crate::migrate::record::{DiskRecord, Outage, PassRecord, Record};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;

/// Digests are read for so many bytes of a disk at a time.
const WINDOW: u64 = 1 << 30;

/// The file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Certificate {
    version: u32,
    diskferry: &'static str,
    vm: String,
    id: String,
    began: u64,
    certified: u64,
    quiet: Option<Quiet>,
    outage: Option<Outage>,
    proven: Prove,
    disks: Vec<DiskProof>,
    passes: Vec<PassRecord>,
}

/// What is certified of a disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct DiskProof {
    name: String,
    source: String,
    target: String,
    size: u64,
    point: u32,
    algorithm: String,
    root: String,
    journal: PathBuf,
}

/// Writes the certificate, durably.
///
/// # Errors
/// A manifest cannot be read, or the file is not durable.
pub(super) async fn write(scene: &Scene) -> Result<Event> {
    let record = scene.book.record();
    let mut disks = Vec::new();
    for disk in &record.disks {
        let (journal, disk) = (scene.book.store.journal(&disk.name), disk.clone());
        let proof = spawn_blocking(move || certify(disk, journal)).await;
        disks.push(proof.map_err(|error| Error::new(Kind::Io, "read a manifest").because(error))??);
    }
    let certificate = certificate(record, scene.plan.prove, disks);
    let text = serde_json::to_vec_pretty(&certificate)
        .map_err(|error| Error::new(Kind::Io, "write the certificate").because(error))?;
    scene.book.store.replace("certificate.json", &text)?;
    Ok(Event::Certified)
}

fn certificate(record: Record, proven: Prove, disks: Vec<DiskProof>) -> Certificate {
    Certificate {
        version: 1,
        diskferry: env!("CARGO_PKG_VERSION"),
        vm: record.vm,
        id: record.id,
        began: record.began,
        certified: book::now(),
        quiet: record.state.quiet,
        outage: record.outage,
        proven,
        disks,
        passes: record.passes,
    }
}

fn certify(disk: DiskRecord, path: PathBuf) -> Result<DiskProof> {
    let doing = || format!("certify disk {}", disk.name);
    let (algorithm, root) = root(&path).map_err(|error| error.context(doing()))?;
    Ok(DiskProof {
        name: disk.name,
        source: disk.source,
        target: disk.target,
        size: disk.size,
        point: disk.complete,
        algorithm,
        root,
        journal: path,
    })
}

/// BLAKE3 over the digests of all blocks, in order, as the manifest has them.
fn root(path: &Path) -> Result<(String, String)> {
    let journal = Journal::open(path)?;
    let nothing = || Error::new(Kind::Refused, "nothing was copied");
    let begin = journal.history().begin.clone().ok_or_else(nothing)?;
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".manifest");
    let manifest = Manifest::open(Path::new(&name), &begin.id, begin.digest, begin.size)?;
    let mut hash = blake3::Hasher::new();
    let mut rest = ByteRange::new(0, begin.size);
    while !rest.is_empty() {
        let (window, after) = rest.split(WINDOW);
        for digest in manifest.digests(window)? {
            hash.update(&digest.0);
        }
        rest = after;
    }
    let algorithm = format!("{:?}", begin.digest).to_lowercase();
    Ok((algorithm, hash.finalize().to_hex().to_string()))
}
