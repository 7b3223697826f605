//! What is remembered of a migration from one process to the next. Pure.
//!
//! One small file, replaced as a whole before each action: where the machine is ([`State`]), how far
//! the pass under way is on each disk, and what every pass before it took, for the forecast.

use super::phase::{PassKind, State, Step};
use super::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::pipeline::counters::{Bottleneck, Totals};
use serde::{Deserialize, Serialize};

/// The version of the file that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Passes that are remembered; the forecast looks at fewer.
const PASSES: usize = 100;

/// All that a new process knows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Tags what is made on the VM.
    pub id: String,
    /// The VM, as in the plan.
    pub vm: String,
    /// When the migration began, in milliseconds since 1970, as all moments here.
    pub began: u64,
    /// The disks of the plan, in its order.
    pub disks: Vec<DiskRecord>,
    /// Where the machine is.
    pub state: State,
    /// The pass under way, or the last one.
    pub pass: PassRecord,
    /// The passes that are durable, oldest first.
    pub passes: Vec<PassRecord>,
    /// The outage, once it has begun.
    pub outage: Option<Outage>,
    /// How fast targets are read back, in bytes per second, once that was seen.
    #[serde(default)]
    pub proof_speed: Option<u64>,
}

/// A disk, from one process to the next.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskRecord {
    /// As in the plan.
    pub name: String,
    /// As in the plan.
    pub source: String,
    /// As in the plan.
    pub target: String,
    /// Bytes; 0 until the VM was asked.
    pub size: u64,
    /// The point that its journal's last pass copies, or copied; 0 before the first.
    pub begun: u32,
    /// The newest point that is complete on it.
    pub complete: u32,
    /// Why what tells its changes cannot be relied on, if so: all of it is compared.
    #[serde(default)]
    pub untracked: Option<Untracked>,
    /// Bytes that were written since it was proven.
    #[serde(default)]
    pub unproven: u64,
}

/// Why what tells a disk's changes cannot be relied on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Untracked {
    /// For people.
    pub why: String,
    /// It left out a change, and is never believed again. Else: until a pass of the disk is
    /// complete, which tracking begins anew with.
    pub for_good: bool,
}

/// A pass over all disks.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PassRecord {
    /// The point that it copies.
    pub point: u32,
    /// `full`, `delta` or `final`; empty before the first.
    pub kind: String,
    /// When the disks were frozen.
    pub frozen: u64,
    /// Milliseconds from the point before to this one; `None` if that is not known.
    pub interval: Option<u64>,
    /// Milliseconds that copying took, over all processes.
    pub copying: u64,
    /// Milliseconds from the beginning of the freeze to the end of all that belongs to the pass.
    pub cycle: u64,
    /// Milliseconds of that in which it was proven.
    #[serde(default)]
    pub proving: u64,
    /// What was expected of it.
    pub expected: Option<Expected>,
    /// What it did on each disk, in the order of the plan.
    pub disks: Vec<DiskPass>,
    /// What it mostly waited for.
    pub waited_for: String,
    /// Another process had a part in it: how long it took in all is not known.
    pub resumed: bool,
}

/// What the forecast said before a pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expected {
    /// Bytes that will have changed.
    pub bytes: u64,
    /// Milliseconds that copying them takes.
    pub copying: u64,
}

/// What a pass did on one disk.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskPass {
    /// The disk.
    pub name: String,
    /// Its bytes; 0 if that was not recorded.
    #[serde(default)]
    pub size: u64,
    /// Bytes that the tracker called changed; `None` if it was not asked or cannot tell.
    pub changed: Option<u64>,
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written as data.
    pub written: u64,
    /// Bytes zeroed.
    pub zeroed: u64,
    /// It is durable.
    pub complete: bool,
}

/// From the beginning of quiesce to the certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Outage {
    /// When quiesce began.
    pub began: u64,
    /// When the source was quiet.
    pub quiet: Option<u64>,
    /// When the certificate was written.
    pub ended: Option<u64>,
    /// Milliseconds from quiet to the end, as they were forecast.
    pub expected: Option<u64>,
}

impl Record {
    /// Whether a pass was begun on any disk: what is on the targets may be its.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.disks.iter().any(|disk| disk.begun > 0)
    }

    /// Whether it has done no more than to look: nothing is made on the VM or written to a target, and
    /// another plan does for it as well.
    #[must_use]
    pub fn has_made_nothing(&self) -> bool {
        self.state.step == Step::Preflight && self.state.point == 0
    }

    /// A migration that begins now.
    #[must_use]
    pub fn new(plan: &Plan, id: String, now: u64) -> Self {
        let disks = plan.disks.iter().map(|disk| DiskRecord {
            name: disk.name.clone(),
            source: disk.source.clone(),
            target: disk.target.to_string(),
            size: 0,
            begun: 0,
            complete: 0,
            untracked: None,
            unproven: 0,
        });
        Self {
            version: VERSION,
            id,
            vm: plan.vm.clone(),
            began: now,
            disks: disks.collect(),
            state: State::default(),
            pass: PassRecord::default(),
            passes: Vec::new(),
            outage: None,
            proof_speed: None,
        }
    }

    /// Reads what was recorded.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |error| Error::new(Kind::Corrupt, "the record is damaged").because(error);
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            let what = format!("the record is of version {version}");
            return Err(Error::new(Kind::Unsupported, what)
                .hint("go on with the version of diskferry that began the migration"));
        }
        serde_json::from_str(text).map_err(damaged)
    }

    /// Whether a plan is about the same VM and the same disks.
    ///
    /// # Errors
    /// `Refused`: what differs. All else in a plan may change while a migration is under way.
    pub fn fits(&self, plan: &Plan) -> Result<()> {
        let refused = |what: String| {
            Err(Error::new(Kind::Refused, what).hint(
                "finish the migration that was begun, or cancel it and begin another with --restart",
            ))
        };
        if self.vm != plan.vm {
            return refused(format!("it migrates {}, not {}", self.vm, plan.vm));
        }
        if self.disks.len() != plan.disks.len() {
            let (ours, theirs) = (self.disks.len(), plan.disks.len());
            return refused(format!(
                "it was begun with {ours} disks; the plan has {theirs}"
            ));
        }
        for (ours, theirs) in self.disks.iter().zip(&plan.disks) {
            let same = ours.name == theirs.name
                && ours.source == theirs.source
                && ours.target == theirs.target.to_string();
            if !same {
                return refused(format!(
                    "it was begun with the disk {} from {} to {}; the plan has {} from {} to {}",
                    ours.name, ours.source, ours.target, theirs.name, theirs.source, theirs.target
                ));
            }
        }
        Ok(())
    }

    /// The disks were frozen for the pass of `point`, or read again as they were frozen.
    pub fn freeze(&mut self, point: u32, kind: PassKind, now: u64, expected: Option<Expected>) {
        if self.pass.point == point {
            return;
        }
        let before = (self.state.durable > 0).then(|| self.frozen_at(self.state.durable));
        // A clock that was turned back tells nothing.
        let interval = before.flatten().and_then(|before| now.checked_sub(before));
        self.pass = PassRecord {
            point,
            kind: kind.name().to_owned(),
            frozen: now,
            interval,
            expected,
            disks: self.disks.iter().map(DiskPass::of).collect(),
            ..PassRecord::default()
        };
    }

    /// When a durable point was frozen, if it is remembered.
    #[must_use]
    pub fn frozen_at(&self, point: u32) -> Option<u64> {
        let found = self.passes.iter().rev().find(|pass| pass.point == point);
        found.map(|pass| pass.frozen)
    }

    /// Whether the pass up to the point `since` was a final one, compared all of a disk, and found
    /// nothing to write: the target held what the source did.
    #[must_use]
    pub fn found_same(&self, disk: usize, since: Option<u32>) -> bool {
        let pass = self.passes.last().filter(|pass| {
            // What a process wrote that died on the way is not known.
            Some(pass.point) == since && pass.kind == PassKind::Final.name() && !pass.resumed
        });
        let disk = pass.and_then(|pass| pass.disks.get(disk));
        disk.is_some_and(|disk| disk.complete && disk.changed.is_none() && disk.differed() == 0)
    }

    /// The machine turned to another state, at `now`.
    pub fn turn(&mut self, next: State, now: u64) {
        let (before, after) = (self.state.step, next.step);
        if before == Step::Pass && next.durable == self.pass.point && after == Step::Release {
            self.pass_done();
        }
        let ended = matches!(before, Step::Forget | Step::Prove);
        // A proof between two passes belongs to none.
        let open = self.pass.cycle == 0;
        if ended && open && !matches!(after, Step::Forget | Step::Prove) {
            self.cycle_done(now);
        }
        if after == Step::Quiesce && before != after {
            self.outage = Some(Outage {
                began: now,
                ..Outage::default()
            });
        }
        let called_off = next.called_off.is_some() && self.state.called_off.is_none();
        if called_off {
            self.outage = None;
        }
        if let Some(outage) = &mut self.outage {
            if next.quiet.is_some() && outage.quiet.is_none() {
                outage.quiet = Some(now);
            }
            if before == Step::Certify && after != before && next.stopped.is_none() {
                outage.ended = Some(now);
            }
        }
        self.state = next;
    }

    /// What tells the changes of a disk cannot be relied on. Says whether that was not known.
    pub fn lose_tracking(&mut self, disk: usize, why: &str, for_good: bool) -> bool {
        let Some(disk) = self.disks.get_mut(disk) else {
            return false;
        };
        let known = disk.untracked.as_ref();
        if known.is_some_and(|known| known.for_good || !for_good) {
            return false;
        }
        disk.untracked = Some(Untracked {
            why: why.to_owned(),
            for_good,
        });
        true
    }

    /// So many bytes were read back in so many milliseconds, and all is proven.
    pub fn proven(&mut self, bytes: u64, millis: u64) {
        for disk in &mut self.disks {
            disk.unproven = 0;
        }
        // From less nothing can be told.
        if bytes >= 1 << 20 {
            self.proof_speed = bytes.saturating_mul(1000).checked_div(millis.max(1));
        }
        if self.state.step == Step::Prove && self.pass.cycle == 0 {
            self.pass.proving = self.pass.proving.saturating_add(millis);
            if let Some(last) = self.passes.last_mut()
                && last.point == self.pass.point
            {
                last.proving = self.pass.proving;
            }
        }
    }

    /// A run wrote so many bytes to a disk.
    pub fn written(&mut self, disk: usize, bytes: u64) {
        if let Some(disk) = self.disks.get_mut(disk) {
            disk.unproven = disk.unproven.saturating_add(bytes).min(disk.size);
        }
    }

    /// A disk is complete up to a point.
    pub fn complete(&mut self, disk: usize, point: u32) {
        if let Some(disk) = self.disks.get_mut(disk) {
            disk.complete = point;
            // All of it was compared, and what tells changes from this point on is another bitmap,
            // or another id.
            disk.untracked = disk.untracked.take().filter(|untracked| untracked.for_good);
        }
    }

    /// Another process takes over.
    pub fn taken_over(&mut self) {
        self.pass.resumed = true;
    }

    fn pass_done(&mut self) {
        if self
            .passes
            .last()
            .is_none_or(|last| last.point != self.pass.point)
        {
            self.passes.push(self.pass.clone());
        }
        let surplus = self.passes.len().saturating_sub(PASSES);
        self.passes.drain(..surplus);
    }

    /// All that belongs to the last pass has ended.
    fn cycle_done(&mut self, now: u64) {
        self.pass.cycle = match self.pass.resumed {
            true => self.pass.copying,
            false => now.saturating_sub(self.pass.frozen),
        };
        if let Some(last) = self.passes.last_mut()
            && last.point == self.pass.point
        {
            last.cycle = self.pass.cycle;
        }
    }
}

impl DiskPass {
    fn of(disk: &DiskRecord) -> Self {
        Self {
            name: disk.name.clone(),
            size: disk.size,
            ..Self::default()
        }
    }

    /// What a run of it did, on top of what runs before it did.
    pub fn add(&mut self, totals: &Totals) {
        self.read = self.read.saturating_add(totals.read);
        self.written = self.written.saturating_add(totals.written);
        self.zeroed = self.zeroed.saturating_add(totals.zeroed);
    }

    /// Bytes that were not as they had been: as its tracker told, or as was found by comparing.
    #[must_use]
    pub fn differed(&self) -> u64 {
        self.changed
            .unwrap_or_else(|| self.written.saturating_add(self.zeroed))
    }

    /// Bytes that it dealt with. Where nothing told what changed, those that were moved: what a disk
    /// does not hold costs next to nothing, and would make the rest look fast.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.changed.unwrap_or_else(|| self.read.max(self.written))
    }
}

impl PassRecord {
    /// Bytes that it dealt with, over all disks.
    #[must_use]
    pub fn moved(&self) -> u64 {
        let each = self.disks.iter().map(DiskPass::moved);
        each.fold(0, u64::saturating_add)
    }

    /// Whether it copied everything.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.kind == PassKind::Full.name()
    }
}

/// What a pass waited for, in words for people.
#[must_use]
pub fn waited_for(bottleneck: Bottleneck) -> &'static str {
    match bottleneck {
        Bottleneck::None => "",
        Bottleneck::Source => "source",
        Bottleneck::Target => "target",
        Bottleneck::Cpu => "cpu",
        Bottleneck::Limit => "limit",
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, Record};
    use crate::error::Kind;
    use crate::migrate::phase::{PassKind, State, Step};

    const PLAN: &str = "
vm: v
guest: {nbd: {command: [x]}}
disks: [{name: a, source: s, target: /dev/a}, {name: b, source: t, target: /dev/b}]
";

    fn record() -> (Plan, Record) {
        let plan = Plan::parse(PLAN).unwrap();
        let record = Record::new(&plan, "id".to_owned(), 1000);
        (plan, record)
    }

    #[test]
    fn a_record_reads_back_the_same_and_one_of_another_version_is_not_read() {
        let (plan, mut record) = record();
        record.freeze(1, PassKind::Full, 2000, None);
        record.pass_done();
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(Record::parse(&text).unwrap(), record);
        assert!(record.fits(&plan).is_ok());
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert_eq!(Record::parse(&newer).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(Record::parse("{").unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn the_disks_of_a_plan_may_not_change_under_way_and_all_else_may() {
        let (_, record) = record();
        let fits = |text: &str| record.fits(&Plan::parse(text).unwrap());
        assert!(fits(&format!("{PLAN}precopy-interval: 5m\noverwrite: true\n")).is_ok());
        for (old, new) in [
            ("vm: v", "vm: w"),
            ("/dev/b", "/dev/c"),
            ("source: s", "source: u"),
        ] {
            let error = fits(&PLAN.replace(old, new)).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{old} {new}");
        }
    }

    #[test]
    fn nothing_is_made_until_the_first_point_is_begun() {
        let (_, mut record) = record();
        assert!(record.has_made_nothing());
        record.state.stopped = Some("a target is mounted".to_owned());
        assert!(record.has_made_nothing());
        record.state.step = Step::CancelLabel;
        assert!(!record.has_made_nothing());
        record.state = State {
            step: Step::Snapshot,
            point: 1,
            ..State::default()
        };
        assert!(!record.has_made_nothing());
    }

    #[test]
    fn only_a_whole_final_pass_that_compared_and_wrote_nothing_found_a_disk_the_same() {
        let same = |kind, change: fn(&mut Record)| {
            let (_, mut record) = record();
            record.freeze(4, kind, 2000, None);
            record.pass.disks[0].complete = true;
            change(&mut record);
            record.pass_done();
            record.found_same(0, Some(4))
        };
        assert!(same(PassKind::Final, |_| {}));
        assert!(!same(PassKind::Delta, |_| {}));
        assert!(!same(PassKind::Final, |record| record.pass.disks[0].written = 1));
        assert!(!same(PassKind::Final, |record| record.pass.disks[0].zeroed = 1));
        assert!(!same(PassKind::Final, |record| record.pass.disks[0]
            .changed = Some(0)));
        assert!(!same(PassKind::Final, |record| record.pass.disks[0]
            .complete = false));
        assert!(!same(PassKind::Final, |record| record.pass.point = 3));
        assert!(!same(PassKind::Final, Record::taken_over));
    }

    #[test]
    fn an_interval_is_between_points_that_are_durable_and_a_clock_turned_back_gives_none() {
        let (_, mut record) = record();
        record.freeze(1, PassKind::Full, 2000, None);
        assert_eq!(record.pass.interval, None);
        record.pass_done();
        record.state.durable = 1;
        record.freeze(2, PassKind::Delta, 5000, None);
        record.freeze(2, PassKind::Delta, 9000, None);
        assert_eq!(record.pass.interval, Some(3000), "the same point again");
        record.freeze(3, PassKind::Delta, 1500, None);
        assert_eq!(record.pass.interval, None);
    }
}
