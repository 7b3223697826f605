//! How to get from what is to what is wanted: one move at a time. Pure.
//!
//! A method of [`Qmp`](super::Qmp) names a [`Goal`]; what to do next follows from what exists
//! ([`World`](super::world::World)) alone. So it does not matter who began, how far they came, or
//! which command was the last that they sent: whoever looks next goes on.
//!
//! # The bitmaps
//!
//! The bitmap of point *n* records from *n* on, and is stopped at the moment at which the next point
//! is frozen; what it holds then is the list of that next pass. A point whose pass never became
//! durable must not have been: its bitmap is *folded* into the one before, which then records again
//! as if nothing had stopped it.
//!
//! Within a transaction, new bitmaps record before anything is frozen, and old ones are stopped
//! after: a write between the two is in both lists, never in none.

use super::step::{Act, Step};
use super::survey::{Disk, Ours, Site};
use std::collections::BTreeSet;

/// What is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Goal {
    /// Point `number` is frozen and served, with what changed since `since`; no other is.
    Frozen {
        /// The point.
        number: u32,
        /// The point before.
        since: Option<u32>,
    },
    /// The disks, which are quiet, are point `number` themselves, and are served as such.
    Still {
        /// The point.
        number: u32,
        /// The point before.
        since: Option<u32>,
    },
    /// Nothing is held or served as it was at point `number`.
    Released {
        /// The point.
        number: u32,
    },
    /// No changes are recorded since points before this one.
    Forgotten {
        /// The first point that is kept.
        before: u32,
    },
    /// Nothing of this migration is left.
    Nothing,
}

/// What comes next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// All of this, then look again.
    Do(Vec<Step>),
    /// Something ends by itself: look again soon. What it is, for people.
    Wait(String),
    /// It is as wanted.
    Done,
}

/// What cannot be seen by looking at the VM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known {
    /// Overlays that were made on the way to this goal. All others are of a job that ended, and
    /// hold what is not true of a new point.
    pub fresh: BTreeSet<String>,
    /// The NBD server was seen to.
    pub served: bool,
    /// This QEMU can spare the guest when a copy fails.
    pub spares_guest: bool,
}

/// The next move towards `goal`.
#[must_use]
pub fn next(site: Site<'_>, known: &Known, goal: Goal) -> Next {
    let moves = match goal {
        Goal::Frozen { number, since } => frozen(site, known, number, since),
        Goal::Still { number, since } => still(site, known, number, since),
        Goal::Released { number } => tear_down(site, &|n| n == number),
        Goal::Forgotten { before } => forgotten(site, &|n| n < before),
        Goal::Nothing => nothing(site),
    };
    moves.unwrap_or(Next::Done)
}

type Move = Option<Next>;

fn frozen(site: Site<'_>, known: &Known, number: u32, since: Option<u32>) -> Move {
    let disks = site.disks;
    let all_frozen = disks.iter().all(|disk| site.is_frozen(disk, number));
    let other = tear_down(site, &|n| n != number);
    let freeze = || {
        // Of a point that is not whole nothing can be kept.
        views_end(site, &|n| n == number)
            .or_else(|| fold(site, number, since))
            .or_else(|| stale_overlays(site, known, number))
            .or_else(|| overlays(site, number))
            .or_else(|| some(vec![Step::Transact(freeze_all(site, known, number, since))]))
    };
    let serve = || {
        let view = |disk: &Disk| site.tag.view(number, &disk.key);
        serve(site, known, (number, since), &view)
    };
    // Before anything is held: where the one server of QEMU is somebody else's, nothing can be read.
    other
        .or_else(|| server(known))
        .or_else(|| if all_frozen { None } else { freeze() })
        .or_else(serve)
}

fn server(known: &Known) -> Move {
    match known.served {
        true => None,
        false => some(vec![Step::Serve]),
    }
}

fn still(site: Site<'_>, known: &Known, number: u32, since: Option<u32>) -> Move {
    let is_still = || site.disks.iter().all(|disk| site.is_still(disk, number));
    let held = |disk: &Disk| {
        let view = site.tag.view(number, &disk.key);
        site.job(disk, number).is_some() || site.world.nodes.contains_key(&view)
    };
    // What was frozen under that number while the VM still ran is not this point.
    let whole = is_still() && !site.disks.iter().any(held);
    let begin = || {
        tear_down(site, &|n| n == number)
            .or_else(|| fold(site, number, since))
            .or_else(|| some(vec![Step::Transact(mark_all(site, number, since))]))
    };
    let serve = || serve(site, known, (number, since), &|disk| disk.node.clone());
    tear_down(site, &|n| n != number)
        .or_else(|| if whole { None } else { begin() })
        .or_else(serve)
}

fn forgotten(site: Site<'_>, old: &dyn Fn(u32) -> bool) -> Move {
    let mut doomed = site.bitmaps().filter(|ours| old(ours.number)).peekable();
    doomed.peek()?;
    let (busy, idle): (Vec<_>, Vec<_>) = doomed.partition(|ours| ours.bitmap.busy);
    let drop = |ours: Ours<'_>| Step::DropBitmap {
        node: ours.node.to_owned(),
        name: ours.name.to_owned(),
    };
    some(idle.into_iter().map(drop).collect()).or_else(|| {
        Some(Next::Wait(format!(
            "bitmap {} is in use",
            busy.first()?.name
        )))
    })
}

fn nothing(site: Site<'_>) -> Move {
    let stop = || {
        let foreign = |kind: &str| kind == "nbd";
        let used = site
            .world
            .exports
            .values()
            .any(|export| foreign(&export.kind));
        let socket = site.tag.socket();
        match (site.world.serving, used) {
            (true, false) => some(vec![Step::StopServing]),
            // Whose exports these are must live with it: the server is left to them.
            (true, true) => None,
            (false, _) if site.world.files.contains(&socket) => some(vec![Step::Unlink(socket)]),
            (false, _) => None,
        }
    };
    tear_down(site, &|_| true)
        .or_else(|| forgotten(site, &|_| true))
        .or_else(stop)
}

/// Ends what is held and served of the points that `which` names: exports first, because what they
/// serve is wrong as soon as its job is gone.
fn tear_down(site: Site<'_>, which: &dyn Fn(u32) -> bool) -> Move {
    let is_ours = |name: &String| site.tag.view_number(name).is_some_and(which);
    let nodes = || {
        let names = site.world.nodes.keys().filter(|name| is_ours(name));
        some(names.cloned().map(Step::DropNode).collect())
    };
    let files = || {
        let names = site.world.files.iter().filter(|name| is_ours(name));
        some(names.cloned().map(Step::Unlink).collect())
    };
    views_end(site, which).or_else(nodes).or_else(files)
}

/// Ends the exports, then the jobs, of the points that `which` names.
fn views_end(site: Site<'_>, which: &dyn Fn(u32) -> bool) -> Move {
    let is_ours = |name: &str| site.tag.view_number(name).is_some_and(which);
    let exports = site.world.exports.iter().filter(|(id, _)| is_ours(id));
    let (ending, standing): (Vec<_>, Vec<_>) = exports.partition(|(_, export)| export.ending);
    let drop = standing
        .into_iter()
        .map(|(id, _)| Step::DropExport(id.clone()));
    if let Some(next) = some(drop.collect()) {
        return Some(next);
    }
    if let Some((id, _)) = ending.first() {
        return Some(Next::Wait(format!("export {id} is ending")));
    }
    let jobs = || site.world.jobs.iter().filter(|(id, _)| is_ours(id));
    let end = jobs().filter_map(|(id, job)| match job.status.as_str() {
        "concluded" => Some(Step::Dismiss(id.clone())),
        "aborting" | "null" => None,
        _ => Some(Step::Cancel(id.clone())),
    });
    some(end.collect()).or_else(|| {
        let (id, _) = jobs().next()?;
        Some(Next::Wait(format!("job {id} is ending")))
    })
}

/// Makes it so that no point after `since` has been: see the [module](self).
fn fold(site: Site<'_>, number: u32, since: Option<u32>) -> Move {
    let since = since.filter(|since| *since != number);
    let after = |ours: &Ours<'_>| since.is_none_or(|since| ours.number > since);
    let mut acts = Vec::new();
    for disk in site.disks {
        let bitmaps = site.bitmaps_of(disk);
        let stale: Vec<_> = bitmaps.into_iter().filter(after).collect();
        if let Some(busy) = stale.iter().find(|ours| ours.bitmap.busy) {
            return Some(Next::Wait(format!("bitmap {} is in use", busy.name)));
        }
        let node = || disk.node.clone();
        let base = since.and_then(|since| site.tracked_since(disk, since).ok());
        // Only with something to fold can it be known that nothing was missed meanwhile.
        if let Some(to) = base.filter(|_| !stale.is_empty()) {
            acts.push(Act::Resume {
                node: node(),
                name: to.clone(),
            });
            acts.extend(stale.iter().map(|ours| Act::Merge {
                node: node(),
                from: ours.name.to_owned(),
                to: to.clone(),
            }));
        }
        acts.extend(stale.iter().map(|ours| Act::Forget {
            node: node(),
            name: ours.name.to_owned(),
        }));
    }
    if acts.is_empty() {
        None
    } else {
        some(vec![Step::Transact(acts)])
    }
}

fn stale_overlays(site: Site<'_>, known: &Known, number: u32) -> Move {
    let names = site.world.nodes.keys();
    let stale = names
        .filter(|name| site.tag.view_number(name) == Some(number) && !known.fresh.contains(*name));
    some(stale.cloned().map(Step::DropNode).collect())
}

fn overlays(site: Site<'_>, number: u32) -> Move {
    let missing = site.disks.iter().filter_map(|disk| {
        let name = site.tag.view(number, &disk.key);
        let there = site.world.nodes.contains_key(&name);
        (!there).then(|| Step::Overlay {
            name,
            disk: disk.clone(),
        })
    });
    some(missing.collect())
}

/// All disks at one instant. The order matters: see the [module](self).
fn freeze_all(site: Site<'_>, known: &Known, number: u32, since: Option<u32>) -> Vec<Act> {
    let (record, stop) = turn_over(site, number, since);
    let keep = site.disks.iter().map(|disk| Act::Keep {
        node: disk.node.clone(),
        view: site.tag.view(number, &disk.key),
        filter: site.tag.filter(number, &disk.key),
        spare_guest: known.spares_guest,
    });
    record.into_iter().chain(keep).chain(stop).collect()
}

fn mark_all(site: Site<'_>, number: u32, since: Option<u32>) -> Vec<Act> {
    let (record, stop) = turn_over(site, number, since);
    record.into_iter().chain(stop).collect()
}

/// New bitmaps on all disks, and an end to those of the point before.
fn turn_over(site: Site<'_>, number: u32, since: Option<u32>) -> (Vec<Act>, Vec<Act>) {
    let record = site.disks.iter().map(|disk| Act::Record {
        node: disk.node.clone(),
        name: site.tag.bitmap(number, disk.size),
    });
    let stop = site.disks.iter().filter_map(|disk| {
        let name = site.tracked_since(disk, since?).ok()?;
        Some(Act::Stop {
            node: disk.node.clone(),
            name,
        })
    });
    (record.collect(), stop.collect())
}

/// Exports what `node` gives for each disk, with the bitmap of the point before if it can be told.
fn serve(
    site: Site<'_>,
    known: &Known,
    (number, since): (u32, Option<u32>),
    node: &dyn Fn(&Disk) -> String,
) -> Move {
    let mut wrong = Vec::new();
    let mut missing = Vec::new();
    for disk in site.disks {
        let name = site.tag.view(number, &disk.key);
        let bitmap = since.and_then(|since| site.tracked_since(disk, since).ok());
        let Some(export) = site.export(disk, number) else {
            missing.push(Step::Export {
                name,
                node: node(disk),
                bitmap,
            });
            continue;
        };
        if export.ending {
            return Some(Next::Wait(format!("export {name} is ending")));
        }
        // QEMU does not tell which bitmaps an export has, but that they are in use.
        let used = since
            .and_then(|since| site.bitmap(disk, since))
            .is_some_and(|b| b.busy);
        if export.node != node(disk) || used != bitmap.is_some() {
            wrong.push(Step::DropExport(name));
        }
    }
    some(wrong)
        .or_else(|| server(known))
        .or_else(|| some(missing))
}

fn some(steps: Vec<Step>) -> Move {
    if steps.is_empty() {
        None
    } else {
        Some(Next::Do(steps))
    }
}
