//! The importer pod of KubeVirt's CDI: environment in, metrics and a termination message out.
//!
//! CDI starts a pod for each disk and each checkpoint of a warm migration, and judges it by three
//! things: its exit code, its termination message, and one line of its metrics. All that a
//! controller reads is as the original writes it; where the contract is silent, this is stricter:
//! the message is written after the data is durable, failures that may pass are tried again inside,
//! zeroes are written where they are not known to be, the vCenter's certificate is checked, and its
//! session is ended.
//!
//! ```text
//!  flags.rs      klog's flags, and a populator's                      pure
//!  quantity.rs   sizes as Kubernetes writes them                      pure
//!  settings.rs   the environment, checked                             pure
//!  message.rs    what is left in the termination message              pure
//!  metrics.rs    what a scrape gets                                   pure
//!  serve.rs      the metrics, over TLS
//!  place.rs      the volume that is written
//!  find.rs       the VM, the disk and the snapshot that are meant
//!  vddk.rs       a disk of a VM           blank.rs   an empty disk
//!  image.rs      which image is imported  web.rs     an image on a server
//!  pulled.rs     a disk in a container image
//!  wishes.rs     what every import asks of the engine                pure
//!  archive.rs    files in a tar archive
//!  teller.rs     what the engine tells, in the log
//!  patience.rs   the same again, while it fails for a moment
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```
//!
//! Not built: `imageio`. It is answered as the original answers a source that it does not know.

mod archive;
mod blank;
mod find;
mod flags;
mod image;
mod message;
mod metrics;
mod patience;
mod place;
#[cfg(feature = "testkit")]
pub mod promises;
mod pulled;
mod quantity;
mod serve;
mod settings;
mod teller;
mod vddk;
mod web;
mod wishes;

use crate::pipeline::Stop;
use message::Message;
use metrics::Gauge;
use settings::{Settings, SourceKind};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The environment, by name.
pub type Env = BTreeMap<String, String>;

/// How an import ended.
#[derive(Debug)]
enum End {
    /// Exit code 0, and what the controller is told; nothing for a disk that was empty already.
    Done(Option<Message>),
    /// Exit code 1, and the line that people are told.
    Failed(String),
}

/// Does what the words and the environment say, and gives the exit code.
pub async fn run(words: &[String], env: &Env, stop: Stop) -> u8 {
    let flags = match flags::parse(words) {
        Ok(flags) => flags,
        Err(why) => {
            log(&why);
            return 2;
        }
    };
    let root = PathBuf::from(env.get("DISKFERRY_ROOT").map_or("/", String::as_str));
    let settings = match Settings::read(env, &flags) {
        Ok(settings) => settings,
        Err(refusal) => {
            log(&refusal.line);
            if refusal.is_told {
                leave(&root, &refusal.line);
            }
            return 1;
        }
    };
    let gauge = Arc::new(Gauge::new(&settings.owner));
    if let Err(error) = serve::start(&settings.listen, gauge.clone()).await {
        // A scraper tolerates a refused connection; a disk is worth more than its progress.
        log(&format!("no metrics: {}", error.line()));
    }
    match import(&settings, &root, &gauge, stop).await {
        End::Done(None) => 0,
        End::Done(Some(message)) => match leave(&root, &message.text()) {
            true => 0,
            false => 1,
        },
        End::Failed(line) => {
            log(&line);
            leave(&root, &message::cut(&line));
            1
        }
    }
}

async fn import(settings: &Settings, root: &Path, gauge: &Arc<Gauge>, stop: Stop) -> End {
    match &settings.source {
        SourceKind::Vddk(disk) => vddk::import(settings, disk, root, gauge, stop).await,
        SourceKind::Image(image) => web::import(settings, image, root, gauge, stop).await,
        SourceKind::Blank => blank::import(settings, root, stop).await,
        SourceKind::Unknown(name) => End::Failed(format!("Unknown data source: {name}")),
    }
}

/// Writes the termination message; `false` if that failed.
fn leave(root: &Path, text: &str) -> bool {
    let path = root.join("dev/termination-log");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => true,
        Err(error) => {
            log(&format!("write {}: {error}", path.display()));
            false
        }
    }
}

/// One line for whoever reads the pod's log.
fn log(line: &str) {
    // Nobody to tell if nobody listens.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
