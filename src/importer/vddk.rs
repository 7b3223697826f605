//! A disk of a VM in vSphere: found, copied, and told of.

use super::find::{Found, find};
use super::message::{Message, VddkInfo, failure};
use super::metrics::Gauge;
use super::patience::patiently;
use super::place::Place;
use super::settings::{Checkpoint, PASSWORD, Settings, VmDisk};
use super::teller::Teller;
use super::wishes::options;
use super::{End, log};
use crate::authority;
use crate::changes::Baseline;
use crate::changes::vsphere::unbelieved;
use crate::error::{Error, Kind, Result};
use crate::job::options::{CopyOptions, JournalPlace, Pass, Zeroes};
use crate::job::{self, Context};
use crate::pipeline::Stop;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

/// Where CDI's side car puts VMware's library.
const LIBDIR: &str = "opt/vmware-vix-disklib-distrib";

/// A plugin that a VDDK image may bring instead of the vddk plugin.
const TEST_PLUGIN: &str = "opt/testing/libvddk-test-plugin.so";

/// VDDK's own settings, if somebody has any.
const CONFIG: &str = "vddk-args/vddk-config-file";

/// With a snapshot; `san` crashes some VDDKs where there is no SCSI disk.
const TRANSPORTS: &str = "file:nbdssl:nbd";

/// Copies the disk, or what changed of it.
pub(super) async fn import(
    settings: &Settings,
    disk: &VmDisk,
    root: &Path,
    gauge: &Arc<Gauge>,
    stop: Stop,
) -> End {
    let import = Import {
        settings,
        disk,
        root,
        gauge,
    };
    match import.all(stop).await {
        Ok(message) => End::Done(Some(message)),
        Err((doing, error)) => End::Failed(failure(doing, &error)),
    }
}

const CONNECTING: &str = "Unable to connect to vddk data source";
const COPYING: &str = "Unable to process data: Unable to transfer source data to target file";

/// How a disk is copied.
#[derive(Clone, Debug)]
struct Way {
    /// Since when changes count.
    since: Option<Baseline>,
    journal: Option<PathBuf>,
    /// The journal was begun anew.
    anew: bool,
}

struct Import<'a> {
    settings: &'a Settings,
    disk: &'a VmDisk,
    root: &'a Path,
    gauge: &'a Arc<Gauge>,
}

impl Import<'_> {
    async fn all(&self, stop: Stop) -> Result<Message, (&'static str, Error)> {
        let connecting = |error| (CONNECTING, error);
        let place = Place::find(self.settings, self.root).map_err(connecting)?;
        // The session that is given up here logs out as it is dropped.
        let found = patiently(self.settings.retry, stop.clone(), || find(self.disk));
        let found = stop.clone().interrupts(found).await.map_err(connecting)?;
        log(&format!("Data transfer size: {}", found.size));
        self.gauge.size(found.size);
        let copying = |error| (COPYING, error);
        place.check(found.size).map_err(copying)?;
        let is_delta = found.since.is_some();
        if is_delta && !place.path.exists() {
            let what = "Disk image does not exist, cannot apply deltas for warm migration";
            return Err(copying(Error::new(Kind::Refused, what)));
        }
        let teller = Arc::new(Teller::new(self.gauge));
        self.copy(&found, &place, &teller, stop)
            .await
            .map_err(copying)?;
        if !is_delta && !place.is_block {
            let size = place.grown(self.settings.image_size, found.size);
            place
                .grow(size, self.settings.preallocation)
                .map_err(copying)?;
        }
        self.gauge.complete();
        let served = teller.served();
        Ok(Message {
            scratch_space_required: Some(false),
            vddk_info: Some(VddkInfo {
                version: served.version,
                host: served.host,
            }),
            ..Message::complete(!is_delta && self.settings.preallocation)
        })
    }

    /// Copies. Where nobody can tell what changed, all is compared; where a journal has nothing to
    /// say about this copy, without what it says.
    async fn copy(
        &self,
        found: &Found,
        place: &Place,
        teller: &Arc<Teller>,
        stop: Stop,
    ) -> Result<()> {
        let context = Context {
            counters: self.gauge.counters.clone(),
            ..Context::new(teller.clone(), stop.clone())
        };
        let mut plan = self.way(found)?;
        loop {
            let options = self.options(found, place, &plan)?;
            let copy = || {
                let (options, context) = (options.clone(), context.clone());
                async move { job::copy(&options, context).await.map(drop) }
            };
            let error = match patiently(self.settings.retry, stop.clone(), copy).await {
                Err(error) => error,
                Ok(()) => break,
            };
            let told = matches!(plan.since, Some(Baseline::Cbt(_)));
            if told && unbelieved(&error) {
                log(&format!(
                    "{}; all of the disk is read and compared",
                    error.line()
                ));
                plan = self.compared(plan)?;
            } else if let (false, Kind::Refused, Some(journal)) =
                (plan.anew, error.kind(), &self.settings.journal)
            {
                // It is about another copy: what it knows of this volume is not true any more.
                log(&format!("{}; beginning without the journal", error.line()));
                forget(journal)?;
                plan.anew = true;
            } else {
                return Err(error);
            }
        }
        match (&plan.journal, &self.settings.journal) {
            (Some(own), None) => forget(own),
            _ => Ok(()),
        }
    }

    /// How it is tried first.
    fn way(&self, found: &Found) -> Result<Way> {
        let way = Way {
            since: found.since.clone(),
            journal: self.settings.journal.clone(),
            anew: false,
        };
        let Some(why) = &found.lost else {
            return Ok(way);
        };
        log(&format!("{why}; all of the disk is read and compared"));
        self.compared(way)
    }

    /// The same by comparing, which needs a journal, if only for as long as it takes. What an
    /// earlier container left of such a one is not true any more.
    fn compared(&self, way: Way) -> Result<Way> {
        let journal = match way.journal {
            Some(journal) => journal,
            None => {
                let name = format!("diskferry-import-{}.journal", process::id());
                let own = env::temp_dir().join(name);
                forget(&own)?;
                own
            }
        };
        Ok(Way {
            since: Some(Baseline::Digest),
            journal: Some(journal),
            anew: way.anew,
        })
    }

    fn options(&self, found: &Found, place: &Place, way: &Way) -> Result<CopyOptions> {
        let is_delta = way.since.is_some();
        let is_final = self.disk.is_final || self.disk.checkpoint == Checkpoint::Cold;
        let journal = match &way.journal {
            Some(path) => JournalPlace::Path(path.clone()),
            None => JournalPlace::None,
        };
        let proof = match (&journal, is_delta) {
            // The digests of the blocks that did not change are nowhere.
            (JournalPlace::None, true) => Some(false),
            // The digests of a whole disk would need a place of their own.
            (JournalPlace::None, false) => Some(self.settings.verify.unwrap_or(false)),
            _ => self.settings.verify,
        };
        let source = self.address(found).parse()?;
        let engine = options(self.settings, source, place, journal);
        Ok(CopyOptions {
            pass: Pass {
                changes_since: way.since.clone(),
                is_final,
            },
            // A disk that a delta is for was copied by somebody: by storage offload, or by a pod that
            // kept no journal.
            adopt: true,
            verify: proof,
            zeroes: Zeroes {
                allocated: self.settings.preallocation && !is_delta,
                ..Zeroes::default()
            },
            ..engine
        })
    }

    /// The disk's address. The password is named by its variable.
    fn address(&self, found: &Found) -> String {
        let path = |name: &str| Some(self.root.join(name)).filter(|path| path.exists());
        let shown = |path: PathBuf| path.display().to_string();
        let keys = [
            ("disk", Some(found.file.clone())),
            ("snapshot", found.snapshot.clone()),
            ("thumbprint", Some(self.disk.thumbprint.clone())),
            ("libdir", Some(shown(self.root.join(LIBDIR)))),
            ("plugin", path(TEST_PLUGIN).map(shown)),
            ("config", path(CONFIG).map(shown)),
            (
                "transports",
                found.snapshot.as_ref().map(|_| TRANSPORTS.to_owned()),
            ),
            ("timeout", Some(self.disk.limits.seconds().to_string())),
            ("password-env", Some(PASSWORD.to_owned())),
        ];
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let keys: Vec<String> = keys
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)))
            .map(|(key, value)| format!("{key}={}", encoded(&value)))
            .collect();
        format!(
            "vddk://{}@{}/moref={}?{}",
            encoded(&self.disk.user),
            authority::show(&self.disk.host, Some(self.disk.port)),
            encoded(&found.vm),
            keys.join("&")
        )
    }
}

/// Removes a journal and what belongs to it.
fn forget(journal: &Path) -> Result<()> {
    let mut manifest = journal.as_os_str().to_owned();
    manifest.push(".manifest");
    for path in [journal, Path::new(&manifest)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}
