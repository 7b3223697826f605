//! A layout → a plan that makes sense. Pure; every complaint names its place in the file.

use super::layout::{self, Condition, File, Percent, Text, Words};
use super::units::{HourOfDay, moment, time};
use super::{Command, Cutover, Disk, Limits, Plan, Window};
use crate::address::{Address, split_words};
use crate::changes::guest::{Quiesce, Shutdown};
use crate::digest::Algorithm;
use crate::error::{Error, Kind, Result};
use crate::migrate::guests::{self, Reach};
use crate::migrate::phase::{Hook, Prove};
use crate::report::{parse_bytes, parse_ppm};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_hours(1);
const SHUTDOWN: Duration = Duration::from_mins(10);
const HOOK: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_mins(5);
const MEMORY: u64 = 64 << 20;
const REQUESTS: usize = 64;

/// What is wrong, each with its place.
#[derive(Debug, Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, place: impl Display, what: impl Display) {
        self.0.push(format!("{place}: {what}"));
    }

    /// The value, or a complaint and what stands in for it.
    fn take<T>(&mut self, place: impl Display, found: Result<T, String>) -> Option<T> {
        found.map_err(|what| self.add(place, what)).ok()
    }

    /// The time at a place, or the usual one.
    fn time(&mut self, place: impl Display, word: Option<&String>, usual: Duration) -> Duration {
        let found = word.map(|word| time(word));
        found
            .and_then(|found| self.take(place, found))
            .unwrap_or(usual)
    }

    /// Bytes, or bytes per second, at a place.
    fn bytes(&mut self, place: impl Display, text: Option<&Text>) -> Option<u64> {
        let found = match text? {
            Text::Number(number) => Ok(*number),
            Text::Word(word) => parse_bytes(word).map_err(|what| format!("{word:?}: {what}")),
        };
        self.take(place, found)
    }

    /// A number from 1 to 1024 at a place.
    fn count(&mut self, place: impl Display, number: Option<u32>) -> Option<usize> {
        let found = match number? {
            number @ 1..=1024 => usize::try_from(number).map_err(|error| error.to_string()),
            other => Err(format!("{other} is not from 1 to 1024")),
        };
        self.take(place, found)
    }
}

/// Makes sense of a file.
///
/// # Errors
/// `Usage`, with every complaint there is.
pub(super) fn plan(file: File, text: &str) -> Result<Plan> {
    let mut bad = Complaints::default();
    if let Err(what) = name(&file.vm) {
        bad.add("vm", what);
    }
    let prove = file.prove.unwrap_or_default();
    let disks = disks(&file.disks, prove, &mut bad);
    let workers = bad.count("workers", file.workers);
    let guest = guest(&file, &mut bad);
    let plan = Plan {
        precopy_interval: bad.time("precopy-interval", file.precopy_interval.as_ref(), INTERVAL),
        cutover: cutover(file.cutover, &mut bad),
        shutdown: shutdown(&file.shutdown.unwrap_or_default(), &mut bad),
        limits: limits(&file.limits, &mut bad),
        prove,
        hooks: hooks(file.hooks, &mut bad),
        workers: workers.unwrap_or(disks.len()).max(1),
        metrics: file.metrics.and_then(|word| {
            let found = word.parse();
            let found = found.map_err(|_| format!("{word:?} is no address such as 127.0.0.1:9464"));
            bad.take("metrics", found)
        }),
        overwrite: file.overwrite,
        allow_sector_mismatch: file.allow_sector_mismatch,
        digest: digest(file.digest.as_deref(), &mut bad),
        retry: bad.time("retry", file.retry.as_ref(), RETRY),
        distrust_ppm: distrust(file.distrust_tracking.as_ref(), &mut bad),
        text: text.to_owned(),
        vm: file.vm,
        disks,
        guest: match guest {
            Some(guest) => guest,
            None => return Err(complain(&bad)),
        },
    };
    match bad.0.is_empty() {
        true => Ok(plan),
        false => Err(complain(&bad)),
    }
}

fn complain(bad: &Complaints) -> Error {
    Error::new(Kind::Usage, bad.0.join("; ")).hint("docs/plan.md has every key")
}

/// Names become names of files and of what is made on the source.
fn name(name: &str) -> Result<(), String> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match first && name.len() <= 63 && name.chars().all(rest) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name: a letter or digit, then letters, digits, dots, dashes and \
             underscores, 63 at most"
        )),
    }
}

fn disks(found: &[layout::Disk], prove: Prove, bad: &mut Complaints) -> Vec<Disk> {
    if found.is_empty() {
        bad.add("disks", "there is none");
    }
    let mut disks: Vec<Disk> = Vec::new();
    for (i, disk) in found.iter().enumerate() {
        let place = |key: &str| format!("disks[{i}].{key}");
        bad.take(place("name"), name(&disk.name));
        if disks.iter().any(|other| other.name == disk.name) {
            bad.add(
                place("name"),
                format!("{:?} is the name of another disk", disk.name),
            );
        }
        if disks.iter().any(|other| other.source == disk.source) {
            bad.add(
                place("source"),
                format!("{:?} is that of another disk", disk.source),
            );
        }
        if disk.source.is_empty() {
            bad.add(place("source"), "it is empty");
        }
        let target = bad.take(place("target"), target(&disk.target, prove));
        let digest_only = match disk.tracker.as_deref() {
            None => false,
            Some("digest") => true,
            Some(other) => {
                bad.add(
                    place("tracker"),
                    format!("{other:?} is not digest, or left out"),
                );
                false
            }
        };
        let Some(target) = target else { continue };
        if disks.iter().any(|other| other.target == target) {
            bad.add(place("target"), format!("{target} is that of another disk"));
        }
        disks.push(Disk {
            name: disk.name.clone(),
            source: disk.source.clone(),
            target,
            digest_only,
        });
    }
    disks
}

fn target(words: &Words, prove: Prove) -> Result<Address, String> {
    let address = match words {
        Words::One(word) => word.parse(),
        Words::Many(words) => one_of(words),
    };
    let address = address.map_err(|error| error.line())?;
    match address {
        Address::Stdio => Err("- is no disk".to_owned()),
        Address::Null if prove != Prove::None => {
            Err("null: cannot be read back; it needs prove: none".to_owned())
        }
        Address::Path(path) if path.is_relative() => {
            Err(format!("{} is not an absolute path", path.display()))
        }
        address => Ok(address),
    }
}

/// The words of a server, with or without the brackets.
fn one_of(words: &[String]) -> Result<Address> {
    let mut bracketed = words.to_vec();
    if words.first().map(String::as_str) != Some("[") {
        bracketed.insert(0, "[".to_owned());
        bracketed.push("]".to_owned());
    }
    let mut found = split_words(&bracketed)?;
    match (found.pop(), found.is_empty()) {
        (Some(address), true) => Ok(address),
        _ => Err(Error::new(Kind::Usage, "not one address")),
    }
}

fn guest(file: &File, bad: &mut Complaints) -> Option<Arc<dyn Reach>> {
    let mut entries = file.guest.iter();
    let (Some((kind, options)), None) = (entries.next(), entries.next()) else {
        bad.add("guest", format!("one of {}", guests::names()));
        return None;
    };
    let found = guests::reach(kind, options);
    bad.take(format!("guest.{kind}"), found)
}

fn cutover(found: Option<layout::Cutover>, bad: &mut Complaints) -> Cutover {
    let none = || "manual, {at: MOMENT} or {when: {downtime-below: TIME}}".to_owned();
    let parsed = match found {
        None => return Cutover::Manual,
        Some(layout::Cutover::Word(word)) if word == "manual" => return Cutover::Manual,
        Some(layout::Cutover::Condition(Condition {
            at: Some(word),
            when: None,
        })) => {
            let moment = bad.take("cutover.at", moment(&word));
            return moment.map_or(Cutover::Manual, Cutover::At);
        }
        Some(layout::Cutover::Condition(Condition {
            at: None,
            when: Some(when),
        })) => {
            let below = bad.take("cutover.when.downtime-below", time(&when.downtime_below));
            return below.map_or(Cutover::Manual, Cutover::DowntimeBelow);
        }
        Some(_) => Err(none()),
    };
    bad.take::<Cutover>("cutover", parsed)
        .unwrap_or(Cutover::Manual)
}

fn shutdown(found: &layout::Quiesce, bad: &mut Complaints) -> Quiesce {
    let how = found.how.unwrap_or(Shutdown::Guest);
    let otherwise = found.otherwise;
    if otherwise.is_some_and(|other| matches!(other, Shutdown::Guest | Shutdown::External)) {
        bad.add(
            "shutdown.otherwise",
            "pause or power-off: what cannot be refused",
        );
    }
    Quiesce {
        how,
        timeout: bad.time("shutdown.timeout", found.timeout.as_ref(), SHUTDOWN),
        otherwise,
    }
}

fn limits(found: &layout::Limits, bad: &mut Complaints) -> Limits {
    let windows = found.windows.iter().enumerate();
    let windows = windows.filter_map(|(i, window)| {
        let place = |key: &str| format!("limits.windows[{i}].{key}");
        let from = bad.take(place("from"), HourOfDay::parse(&window.from));
        let to = bad.take(place("to"), HourOfDay::parse(&window.to));
        let rate = bad.bytes(place("rate"), Some(&window.rate))?;
        if from.is_some() && from == to {
            bad.add(place("to"), "it is the same as from");
        }
        Some(Window {
            from: from?,
            to: to?,
            rate: Some(rate).filter(|rate| *rate > 0),
        })
    });
    let windows = windows.collect();
    let memory = bad.bytes("limits.memory", found.memory.as_ref());
    if memory.is_some_and(|memory| memory < 4 << 20) {
        bad.add("limits.memory", "4M at least");
    }
    let rate = bad.bytes("limits.rate", found.rate.as_ref());
    let per_host = bad.bytes("limits.rate-per-host", found.rate_per_host.as_ref());
    Limits {
        memory: memory.unwrap_or(MEMORY),
        connections: connections("limits.connections", found.connections, bad),
        connections_per_host: connections(
            "limits.connections-per-host",
            found.connections_per_host,
            bad,
        ),
        requests: bad
            .count("limits.requests", found.requests)
            .unwrap_or(REQUESTS),
        rate: rate.filter(|rate| *rate > 0),
        rate_per_host: per_host.filter(|rate| *rate > 0),
        windows,
    }
}

/// A disk has two ends.
fn connections(place: &str, number: Option<u32>, bad: &mut Complaints) -> Option<usize> {
    let count = bad.count(place, number)?;
    if count < 2 {
        bad.add(place, "2 at least: a disk may need one at each end");
    }
    Some(count)
}

fn hooks(found: layout::Hooks, bad: &mut Complaints) -> Vec<(Hook, Command)> {
    let all = [
        (
            "before-snapshot",
            Hook::BeforeSnapshot,
            found.before_snapshot,
        ),
        ("after-snapshot", Hook::AfterSnapshot, found.after_snapshot),
        ("before-cutover", Hook::BeforeCutover, found.before_cutover),
        ("after-cutover", Hook::AfterCutover, found.after_cutover),
        ("done", Hook::Done, found.done),
    ];
    let there = all.into_iter().filter_map(|(name, hook, command)| {
        let command = command?;
        if command.command.first().is_none_or(String::is_empty) {
            bad.add(format!("hooks.{name}.command"), "it is empty");
        }
        let place = format!("hooks.{name}.timeout");
        let timeout = bad.time(place, command.timeout.as_ref(), HOOK);
        let words = command.command;
        Some((hook, Command { words, timeout }))
    });
    there.collect()
}

fn distrust(found: Option<&Percent>, bad: &mut Complaints) -> u32 {
    let word = match found {
        None => return 0,
        Some(Percent::Number(number)) => number.to_string(),
        Some(Percent::Word(word)) => word.clone(),
    };
    let share = parse_ppm(&word).map_err(|what| format!("{word:?}: {what}"));
    bad.take("distrust-tracking", share).unwrap_or(0)
}

fn digest(found: Option<&str>, bad: &mut Complaints) -> Algorithm {
    match found {
        None | Some("xxh3") => Algorithm::Xxh3,
        Some("blake3") => Algorithm::Blake3,
        Some(other) => {
            bad.add("digest", format!("{other:?} is neither xxh3 nor blake3"));
            Algorithm::Xxh3
        }
    }
}
