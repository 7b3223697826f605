//! What a plan would do, before anything is done: `migrate --check`, and the checks of the first
//! step.

use super::book;
use super::drive::{Scene, raw};
use super::phase::Prove;
use super::plan::{Cutover, Disk, HourOfDay, Plan, show_moment};
use crate::address::Address;
use crate::changes::guest::{DiskFacts, Guest, Shutdown};
use crate::error::{Error, Kind, Result};
use crate::job::any_source;
use crate::job::options::Tuning;
use crate::journal::unique_id;
use crate::report::{bytes, seconds};
use crate::target::block::{BlockOptions, BlockTarget};
use crate::target::file::exists;
use crate::target::preflight::Intent;
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

/// Bytes per second that are assumed while nothing was measured and no rate is set.
const ASSUMED: u64 = 100 << 20;

/// What would happen.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// The VM.
    pub vm: String,
    /// How it is reached.
    pub guest: String,
    /// Each disk.
    pub disks: Vec<DiskPreview>,
    /// Bytes of all disks.
    pub bytes: u64,
    /// Bytes per second that the times are reckoned with.
    pub rate: u64,
    /// Whether that is only assumed.
    pub assumed: bool,
    /// Seconds of the full pass.
    pub full_pass: u64,
    /// Seconds between the beginnings of two passes after it.
    pub interval: u64,
    /// When it is cut over.
    pub cutover: String,
    /// How the VM is made quiet then.
    pub shutdown: String,
    /// When the targets are read back.
    pub proof: String,
}

/// What would happen to a disk.
#[derive(Debug, Serialize)]
pub struct DiskPreview {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What tells its changes.
    pub tracking: String,
    /// Where it goes.
    pub target: String,
    /// Bytes of the target; `None` if it will be made.
    pub target_size: Option<u64>,
}

/// Looks at the VM and at the targets, and changes nothing. `begun`: what is on the targets may be
/// what the migration has written until now.
///
/// # Errors
/// The VM cannot be reached, a disk is not there, or a target cannot take it.
pub async fn preview(plan: &Plan, begun: bool) -> Result<Preview> {
    let guest = plan.guest.connect(plan, &unique_id(), None).await?;
    let facts = guest.disks().await?;
    check_shutdown(plan, &*guest).await?;
    let mut disks = Vec::new();
    for disk in &plan.disks {
        let fact = facts.iter().find(|fact| fact.name == disk.name);
        let missing = || Error::new(Kind::Refused, format!("the VM has no disk {}", disk.name));
        let fact = fact.ok_or_else(missing)?;
        disks.push(DiskPreview {
            name: disk.name.clone(),
            size: fact.size,
            tracking: tracking(plan, disk, fact),
            target: disk.target.to_string(),
            target_size: check_target(disk, fact.size).await?,
        });
        if !begun {
            check_may_be_written(plan, disk, fact.size).await?;
        }
    }
    let sizes = disks.iter().map(|disk| disk.size);
    let bytes = sizes.fold(0, u64::saturating_add);
    let hour = HourOfDay::at(book::clock() / 1000);
    let set = [plan.limits.rate_at(hour), plan.limits.rate_per_host];
    let set = set.into_iter().flatten().min();
    let rate = set.unwrap_or(ASSUMED);
    Ok(Preview {
        vm: plan.vm.clone(),
        guest: plan.guest.describe(),
        disks,
        bytes,
        rate,
        assumed: set.is_none(),
        full_pass: bytes.checked_div(rate).unwrap_or(0),
        interval: plan.precopy_interval.as_secs(),
        cutover: match plan.cutover {
            Cutover::Manual => "when diskferry cutover says so".to_owned(),
            Cutover::At(moment) => format!("at {}", show_moment(moment)),
            Cutover::DowntimeBelow(time) => {
                format!("when the forecast is below {}", seconds(time))
            }
        },
        shutdown: shutdown(plan),
        proof: proof(plan).to_owned(),
    })
}

fn shutdown(plan: &Plan) -> String {
    let way = |how| match how {
        Shutdown::Guest => "the guest is asked to shut down",
        Shutdown::Pause => "the VM is paused",
        Shutdown::PowerOff => "the VM is powered off",
        Shutdown::External => "somebody else makes it quiet",
    };
    let how = &plan.shutdown;
    let after = how.otherwise.map(way).unwrap_or("it runs on");
    let timeout = seconds(how.timeout);
    format!(
        "{}; if that takes more than {timeout}, {after}",
        way(how.how)
    )
}

fn proof(plan: &Plan) -> &'static str {
    match plan.prove {
        Prove::EachPass => "all that was written is read back, after each pass",
        Prove::BeforeCutover => {
            "all that was written is read back, before the outage but for the last pass"
        }
        Prove::AtCutover => "all of the targets is read back, in the outage",
        Prove::None => "none: nothing is read back",
    }
}

/// Bytes of each disk of a plan, in its order.
///
/// # Errors
/// The VM cannot be reached, or a disk is not there.
pub async fn sizes(plan: &Plan) -> Result<Vec<u64>> {
    let guest = plan.guest.connect(plan, &unique_id(), None).await?;
    let facts = guest.disks().await?;
    let size = |disk: &Disk| {
        let fact = facts.iter().find(|fact| fact.name == disk.name);
        fact.map(|fact| fact.size)
            .ok_or_else(|| Error::new(Kind::Refused, format!("the VM has no disk {}", disk.name)))
    };
    plan.disks.iter().map(size).collect()
}

/// The name of the machine that runs the VM of a plan now.
///
/// # Errors
/// The VM cannot be reached, or nobody can tell.
pub async fn host(plan: &Plan) -> Result<String> {
    let guest = plan.guest.connect(plan, &unique_id(), None).await?;
    guest.host().await?.ok_or_else(|| {
        let what = format!("nobody can tell which host {} is on", plan.vm);
        Error::new(Kind::Unsupported, what)
    })
}

/// Refuses a plan whose ways to make the VM quiet are none for it.
pub(super) async fn check_shutdown(plan: &Plan, guest: &dyn Guest) -> Result<()> {
    let how = &plan.shutdown;
    for how in [Some(how.how), how.otherwise].into_iter().flatten() {
        let checked = guest.check_shutdown(how).await;
        checked.map_err(|error| match error.kind() {
            Kind::Unsupported => error.with_kind(Kind::Refused),
            _ => error,
        })?;
    }
    Ok(())
}

fn tracking(plan: &Plan, disk: &Disk, fact: &DiskFacts) -> String {
    match (disk.digest_only, plan.distrust_ppm) {
        (true, _) => "digests: every pass reads all of it".to_owned(),
        (false, 0) => fact.tracking.clone(),
        (false, ppm) => {
            let percent = f64::from(ppm) / 1e4;
            format!(
                "{}, and {percent} % of what it calls unchanged is compared",
                fact.tracking
            )
        }
    }
}

/// Checks every target of a migration that begins.
pub(super) async fn check_targets(scene: &Scene) -> Result<()> {
    let sizes = scene.book.look(|record| {
        let sizes = record.disks.iter().map(|disk| disk.size);
        sizes.collect::<Vec<_>>()
    });
    for (disk, size) in scene.plan.disks.iter().zip(sizes) {
        check_target(disk, size).await?;
        check_may_be_written(&scene.plan, disk, size).await?;
    }
    Ok(())
}

/// Refuses a target that would be refused when it is opened to be written: one that is mounted or
/// held, or holds something else that the plan does not allow to be lost.
async fn check_may_be_written(plan: &Plan, disk: &Disk, size: u64) -> Result<()> {
    let Address::Path(path) = &disk.target else {
        return Ok(());
    };
    let checked = match fs::metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_block_device() => may_be_written(path, size, plan.overwrite).await,
        Ok(kind) if kind.is_file() && !plan.overwrite => Err(exists(path)),
        _ => Ok(()),
    };
    checked.map_err(|error| error.context(format!("target of disk {}", disk.name)))
}

/// Opens a block device as a pass would, and lets go of it.
async fn may_be_written(path: &Path, size: u64, overwrite: bool) -> Result<()> {
    let options = BlockOptions {
        intent: Intent {
            source_size: Some(size),
            overwrite,
            resuming: false,
        },
        ..BlockOptions::default()
    };
    BlockTarget::open(path, options).await.map(drop)
}

/// Refuses what can be seen to be no place for a disk of `size` bytes; gives the target's size.
async fn check_target(disk: &Disk, size: u64) -> Result<Option<u64>> {
    let place = || format!("target of disk {}", disk.name);
    let refused = |what: String| Err(Error::new(Kind::Refused, what).context(place()));
    match &disk.target {
        Address::Null => return Ok(None),
        Address::Path(path) if !path.exists() => {
            return match path.parent().is_some_and(Path::is_dir) {
                true => Ok(None),
                false => refused(format!("{} is in no directory", path.display())),
            };
        }
        // Started twice, it would not be the same one.
        Address::Child(_) => return Ok(None),
        _ => {}
    }
    let opened = any_source(&disk.target, &raw(), &Tuning::default(), Vec::new()).await;
    let target = opened.map_err(|error| error.context(place()))?;
    let is_file = matches!(&disk.target, Address::Path(path) if path.is_file());
    match target.source.size() {
        room if room < size && !is_file => refused(format!(
            "{} is too small: it has {room} bytes and the disk has {size}",
            disk.target
        )),
        room => Ok(Some(room)),
    }
}

impl Preview {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}, by {}\n", self.vm, self.guest);
        for disk in &self.disks {
            let room = disk.target_size.map(bytes);
            let _ = writeln!(
                text,
                "  {:<12} {:>10}  to {} ({}); changes: {}",
                disk.name,
                bytes(disk.size),
                disk.target,
                room.unwrap_or_else(|| "will be made".to_owned()),
                disk.tracking
            );
        }
        let how = if self.assumed {
            "assumed"
        } else {
            "as limited"
        };
        let _ = writeln!(
            text,
            "full pass: at most {} in {} at {}/s ({how}), less where the disks are empty",
            bytes(self.bytes),
            seconds(Duration::from_secs(self.full_pass)),
            bytes(self.rate)
        );
        let interval = seconds(Duration::from_secs(self.interval));
        let _ = writeln!(text, "then: every {interval} what changed");
        let _ = writeln!(text, "cutover: {}; {}", self.cutover, self.shutdown);
        let _ = writeln!(text, "proof: {}", self.proof);
        text
    }
}
