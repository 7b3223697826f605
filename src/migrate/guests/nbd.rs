//! Points in time that a command of the user makes and serves over NBD.
//!
//! For whatever has snapshots and dirty bitmaps, and no kind of guest of its own here. The command
//! is called with the name of a method of [`Guest`] and its numbers; `docs/plan.md` has the table.

use super::Reach;
use crate::address::Address;
use crate::changes::Baseline;
use crate::changes::guest::{DiskFacts, Guest, Point, Quiesce, Quiet, Shutdown, Standing};
use crate::error::{Error, Kind, Result};
use crate::migrate::command::{self, Said};
use crate::migrate::plan::{Disk, Plan};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the command may take, apart from making the VM quiet.
const LIMIT: Duration = Duration::from_mins(2);

/// The exit code of a command that says: not now, ask again.
const TRY_AGAIN: i32 = 75;

/// What the plan says of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Nbd {
    /// Makes points, and all else.
    command: Vec<String>,
    /// The name of the dirty bitmap; `{since}` is the point it begins with. Without one, nothing
    /// tells what changed.
    bitmap: Option<String>,
}

pub(super) fn read(options: &Value) -> Result<Arc<dyn Reach>, String> {
    let nbd: Nbd = super::options(options)?;
    match nbd.command.first().is_none_or(String::is_empty) {
        true => Err("command: it is empty".to_owned()),
        false => Ok(Arc::new(nbd)),
    }
}

#[async_trait]
impl Reach for Nbd {
    fn describe(&self) -> String {
        format!("command {}", self.command.join(" "))
    }

    async fn connect(
        &self,
        plan: &Plan,
        id: &str,
        _directory: Option<&Path>,
    ) -> Result<Arc<dyn Guest>> {
        Ok(Arc::new(Commanded {
            nbd: self.clone(),
            disks: plan.disks.clone(),
            id: id.to_owned(),
            mute: AtomicBool::new(false),
        }))
    }
}

/// A VM behind a command.
#[derive(Debug)]
struct Commanded {
    nbd: Nbd,
    disks: Vec<Disk>,
    id: String,
    /// It cannot tell what has changed between two points.
    mute: AtomicBool,
}

impl Commanded {
    async fn ask(&self, words: &[String], limit: Duration) -> Result<Said> {
        let all: Vec<String> = [&self.nbd.command, words].concat();
        let env = [("DISKFERRY_ID", self.id.clone())];
        command::run(&all, &env, limit).await
    }

    async fn call(&self, words: &[String], limit: Duration) -> Result<String> {
        let said = self.ask(words, limit).await?;
        let kind = match said.code {
            Some(0) => return Ok(said.stdout),
            Some(TRY_AGAIN) => Kind::Transient,
            _ => Kind::Io,
        };
        let what = format!("{} {}", self.nbd.command.join(" "), words.join(" "));
        Err(Error::new(kind, what).because(said.complaint().to_owned()))
    }

    async fn point(&self, method: &str, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        let sizes = sizes(&self.call(&words(&["disks"]), LIMIT).await?)?;
        let numbers = [Some(number), since].into_iter().flatten();
        let numbers = numbers.map(|number| number.to_string());
        let call: Vec<String> = [method.to_owned()].into_iter().chain(numbers).collect();
        let lost = lost(&self.call(&call, LIMIT).await?);
        let point = |disk: &Disk| -> Result<Point> {
            let size = sizes.get(&disk.name).copied();
            Ok(Point {
                address: self.address(disk, number)?,
                size: size.ok_or_else(|| unnamed(&disk.name))?,
                since: since.map(|since| match (&self.nbd.bitmap, lost.get(&disk.name)) {
                    (Some(bitmap), None) if !disk.digest_only => {
                        Baseline::NbdBitmap(bitmap.replace("{since}", &since.to_string()))
                    }
                    _ => Baseline::Digest,
                }),
                lost: lost.get(&disk.name).cloned(),
                name: disk.name.clone(),
            })
        };
        self.disks.iter().map(point).collect()
    }

    fn address(&self, disk: &Disk, number: u32) -> Result<Address> {
        let address = disk.source.replace("{point}", &number.to_string());
        address.parse()
    }
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

fn unnamed(name: &str) -> Error {
    Error::new(Kind::Refused, format!("the guest has no disk {name}"))
}

/// `NAME BYTES`, a line each.
fn sizes(text: &str) -> Result<BTreeMap<String, u64>> {
    let line = |line: &str| {
        let (name, size) = line.split_once(' ')?;
        Some((name.to_owned(), size.trim().parse().ok()?))
    };
    let lines = text.lines().map(|text| {
        let what = || Error::new(Kind::Corrupt, format!("{text:?} is no disk and its size"));
        line(text).ok_or_else(what)
    });
    lines.collect()
}

/// `lost NAME WHY`, a line each, among others.
fn lost(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("lost "));
    let lines = lines.map(|line| line.split_once(' ').unwrap_or((line, "it did not say why")));
    lines
        .map(|(name, why)| (name.to_owned(), why.to_owned()))
        .collect()
}

fn quiet(how: Shutdown, evidence: &str) -> Quiet {
    Quiet {
        how,
        evidence: evidence
            .lines()
            .next()
            .unwrap_or("its command says so")
            .to_owned(),
    }
}

fn word(how: Shutdown) -> &'static str {
    match how {
        Shutdown::Guest => "guest",
        Shutdown::Pause => "pause",
        Shutdown::PowerOff => "power-off",
        Shutdown::External => "external",
    }
}

#[async_trait]
impl Guest for Commanded {
    async fn disks(&self) -> Result<Vec<DiskFacts>> {
        let sizes = sizes(&self.call(&words(&["disks"]), LIMIT).await?)?;
        let tracking = match &self.nbd.bitmap {
            Some(bitmap) => format!("dirty bitmap {bitmap}"),
            None => "none: every pass reads all of it".to_owned(),
        };
        let facts = self.disks.iter().map(|disk| {
            let size = sizes.get(&disk.name).copied();
            Ok(DiskFacts {
                name: disk.name.clone(),
                size: size.ok_or_else(|| unnamed(&disk.name))?,
                tracking: tracking.clone(),
            })
        });
        facts.collect()
    }

    async fn points(&self) -> Result<Vec<Standing>> {
        let text = self.call(&words(&["points"]), LIMIT).await?;
        let line = |line: &str| {
            let mut parts = line.split_whitespace();
            let number = parts.next()?.parse().ok()?;
            let rest: Vec<&str> = parts.collect();
            Some(Standing {
                number,
                readable: rest.contains(&"readable"),
                tracked: rest.contains(&"tracked"),
            })
        };
        let lines = text.lines().map(|text| {
            let what = || Error::new(Kind::Corrupt, format!("{text:?} is no point"));
            line(text).ok_or_else(what)
        });
        lines.collect()
    }

    async fn snapshot(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        self.point("snapshot", number, since).await
    }

    async fn release(&self, number: u32) -> Result<()> {
        let call = words(&["release", &number.to_string()]);
        self.call(&call, LIMIT).await.map(|_| ())
    }

    async fn forget_before(&self, number: u32) -> Result<()> {
        let call = words(&["forget-before", &number.to_string()]);
        self.call(&call, LIMIT).await.map(|_| ())
    }

    async fn changed_since(&self, point: u32) -> Result<Option<Vec<Option<u64>>>> {
        if self.nbd.bitmap.is_none() || self.mute.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let said = self
            .ask(&words(&["changed", &point.to_string()]), LIMIT)
            .await?;
        if said.code == Some(0) {
            let changed = sizes(&said.stdout)?;
            let disks = self.disks.iter();
            return Ok(Some(
                disks.map(|disk| changed.get(&disk.name).copied()).collect(),
            ));
        }
        if said.code != Some(TRY_AGAIN) {
            tracing::info!("the guest's command cannot tell: {}", said.complaint());
            self.mute.store(true, Ordering::Relaxed);
        }
        Ok(None)
    }

    async fn quiesce(&self, how: &Quiesce) -> Result<Quiet> {
        let seconds = how.timeout.as_secs().to_string();
        let first = words(&["quiesce", word(how.how), &seconds]);
        let limit = how.timeout.saturating_add(LIMIT);
        match (self.call(&first, limit).await, how.otherwise) {
            (Ok(evidence), _) => Ok(quiet(how.how, &evidence)),
            (Err(error), None) => Err(error),
            (Err(_), Some(other)) => {
                let second = words(&["quiesce", word(other), &seconds]);
                let evidence = self.call(&second, limit).await?;
                Ok(quiet(other, &evidence))
            }
        }
    }

    async fn quiet(&self) -> Result<Option<Quiet>> {
        let said = self.ask(&words(&["quiet"]), LIMIT).await?;
        match said.code {
            Some(0) => Ok(Some(quiet(Shutdown::External, &said.stdout))),
            Some(1) => Ok(None),
            _ => Err(Error::new(Kind::Io, "ask whether the VM is quiet")
                .because(said.complaint().to_owned())),
        }
    }

    async fn last(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        self.point("last", number, since).await
    }

    async fn wake(&self) -> Result<()> {
        self.call(&words(&["wake"]), LIMIT).await.map(|_| ())
    }

    async fn clean(&self) -> Result<Vec<String>> {
        let text = self.call(&words(&["clean"]), LIMIT).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}
