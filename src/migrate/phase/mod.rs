//! What a migration does next, and what it must never do: a pure state machine.
//!
//! ```text
//!  Preflight → Full → (Wait → Delta)* → Armed → Quiesce → Final → Verify → Done
//!                       ↑ Hold             any phase: Failed (resumable), Cancelled
//! ```
//!
//! A [`State`] says which one action is under way: [`State::action`]. When that has ended, or a user
//! wants something, [`State::on`] gives the next state. Whoever drives it keeps three rules:
//!
//! 1. **A state is durable before its action begins.** So a process that dies leaves behind what it
//!    was doing, and the next one does it again: every action may be repeated.
//! 2. **One action at a time.** If a user's event makes [`State::action`] another one, the running
//!    action is stopped where it can be, and has ended before the other begins; what it answers is
//!    then stale, and [`State::on`] refuses it.
//! 3. **A new process says [`Event::Started`] first**, and the machine looks at the VM before it
//!    goes on.
//!
//! *When* a pass is due or a cutover may begin is not decided here but in `policy`; here is decided
//! what is safe.

mod shown;
mod turn;

#[cfg(test)]
mod tests;

use crate::changes::guest::Quiet;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use shown::Phase;

/// The version of the recorded [`State`] that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Final passes after which a source that still changes is not called quiet.
pub const FINALS_MAX: u32 = 4;

/// Where a migration is: small, and made durable before each action.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// What is under way.
    pub step: Step,
    /// Which kind of pass `point` is, or was, for.
    pub kind: PassKind,
    /// The point that is worked on, or was last; 0 before the first.
    pub point: u32,
    /// The newest point whose pass is durable on every disk; 0 before the first. Its tracking is
    /// kept until a later one is durable.
    pub durable: u32,
    /// A pass has begun to write what `point` holds: it can only go on from the same snapshot.
    pub begun: bool,
    /// How it is known that the source is quiet, from the end of quiesce on.
    pub quiet: Option<Quiet>,
    /// Final passes that ended since this process took over a quiet source.
    pub finals: u32,
    /// Why this pass, and whatever takes its place, must not rely on the list of changes alone.
    pub distrust: Option<String>,
    /// No new pass and no cutover until told to go on.
    pub hold: bool,
    /// A user asked for the cutover.
    pub cutover: bool,
    /// Why the last attempt at a cutover came to nothing and the VM runs on.
    pub called_off: Option<String>,
    /// The VM must be looked at before anything else.
    pub inspect: bool,
    /// Why it stopped, if it did; everything is kept.
    pub stopped: Option<String>,
}

/// What is under way.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nothing is made yet.
    Preflight,
    /// A hook, before the disks are frozen.
    BeforeSnapshot,
    /// The disks are frozen, and read as they are from then on.
    Snapshot,
    /// A hook, with the disks frozen.
    AfterSnapshot,
    /// The pass over all disks.
    Pass,
    /// The snapshot is given back.
    Release,
    /// What the pass before had tracked is dropped.
    Forget,
    /// What was written is read back.
    Prove,
    /// Between two passes.
    Wait,
    /// A hook, before the cutover begins.
    BeforeCutover,
    /// What was written is read back while the VM still runs.
    ProveEarly,
    /// The VM is made quiet: the outage begins.
    Quiesce,
    /// Whether it is quiet, again.
    CheckQuiet,
    /// What changed up to the end.
    Last,
    /// The certificate is written. From here on nothing is called off.
    Certify,
    /// A hook: the target may be used.
    AfterCutover,
    /// What was made on the source is removed.
    Clean,
    /// A hook, at the very end.
    AfterAll,
    /// All is done.
    Done,
    /// Cancelled: a paused VM runs again.
    CancelWake,
    /// Cancelled: the target is labelled.
    CancelLabel,
    /// Cancelled: what was made on the source is removed.
    CancelClean,
    /// All is cancelled.
    Cancelled,
}

/// A kind of pass.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassKind {
    /// Everything.
    Full,
    /// What changed since the last one, while the VM runs.
    Delta,
    /// What changed since the last one, with the source quiet.
    Final,
}

impl PassKind {
    /// As in the journal: `full`, `delta`, `final`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta => "delta",
            Self::Final => "final",
        }
    }
}

/// What the plan wants of the machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// When what was written is proven.
    pub prove: Prove,
    /// Which hooks there are; a hook that is not there takes no step.
    pub hooks: Vec<Hook>,
}

/// When what was written is read back past the cache and compared.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prove {
    /// After each pass; in the outage what the final pass wrote.
    EachPass,
    /// All of it just before the outage; in the outage what the final pass wrote.
    #[default]
    BeforeCutover,
    /// All of it, in the outage.
    AtCutover,
    /// Never.
    None,
}

/// A moment at which the user's command runs. At least once: after a crash it may run again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before the disks are frozen for a pass of a running VM.
    BeforeSnapshot,
    /// As soon as they are.
    AfterSnapshot,
    /// Before the VM is made quiet.
    BeforeCutover,
    /// The target is complete and proven, and may be used.
    AfterCutover,
    /// The source is clean.
    Done,
}

/// What must be done now. Each may be repeated, also by another process.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Look at the VM and its disks: [`Event::Inspected`].
    Inspect,
    /// Run the user's command: [`Event::HookDone`].
    RunHook(Hook),
    /// `Guest::snapshot`: [`Event::Snapshotted`].
    Snapshot {
        /// The point.
        number: u32,
        /// The point before, whose pass is durable; `None` is everything.
        since: Option<u32>,
        /// A pass has begun to copy this point: if it does not stand any more, it must not be made
        /// anew under the same number, and the answer is [`Event::PointLost`].
        again: bool,
    },
    /// `Guest::last`, on a source that is quiet: [`Event::Snapshotted`], or [`Event::NotQuiet`] if it
    /// is so no more.
    Last {
        /// The point.
        number: u32,
        /// The point before, whose pass is durable; `None` is everything.
        since: Option<u32>,
        /// A pass has begun to copy this point: if it does not stand any more, it must not be made
        /// anew under the same number, and the answer is [`Event::PointLost`].
        again: bool,
    },
    /// Copy all disks: [`Event::PassDone`] once it is durable and recorded on each of them.
    Pass {
        /// The point.
        number: u32,
        /// How it goes into the journal.
        kind: PassKind,
        /// The list of changes is not all: where it was found wanting, all is read, and what differs
        /// from the manifest is written.
        digest: bool,
    },
    /// `Guest::release`: [`Event::Released`].
    Release {
        /// The point.
        number: u32,
    },
    /// `Guest::forget_before`: [`Event::Forgotten`].
    ForgetBefore {
        /// The point whose pass is durable.
        number: u32,
    },
    /// Ask `policy`: [`Event::Due`] or [`Event::Arm`].
    Wait,
    /// Nothing, until a user's event.
    Hold,
    /// Read back what was written and compare: [`Event::Proven`].
    Prove {
        /// Also what an earlier proof has covered.
        all: bool,
    },
    /// `Guest::quiesce`: [`Event::Quiet`] or [`Event::NotQuiet`].
    Quiesce,
    /// `Guest::quiet`: [`Event::Quiet`] or [`Event::NotQuiet`].
    CheckQuiet,
    /// Write the certificate: [`Event::Certified`].
    WriteCertificate,
    /// `Guest::clean`: [`Event::Cleaned`].
    Clean,
    /// `Guest::wake`: [`Event::Woken`].
    Wake,
    /// Label the targets as incomplete: [`Event::Labelled`].
    LabelIncomplete,
    /// Nothing: it failed, and everything is kept. End, or wait for a user's event.
    Stop,
    /// Nothing: it is over.
    Finish,
}

/// What happened, or what a user wants.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    /// A process begins to drive, the first one or another one after a crash.
    Started,
    /// The VM is there, and its disks are those of the plan.
    Inspected,
    /// The hook has run.
    HookDone,
    /// The point stands, and this is known of what changed since the one before.
    Snapshotted(Changed),
    /// The pass is durable on every disk.
    PassDone,
    /// The snapshot of the point is gone: what it held can be read no more.
    PointLost(String),
    /// The list of changes of this point cannot be relied on: the pass goes on from the same point, and
    /// compares what it says nothing of.
    TrackingLost(String),
    /// The snapshot is given back.
    Released,
    /// Older tracking is dropped.
    Forgotten,
    /// Policy: a pass should begin now.
    Due,
    /// Policy: what was written should be read back now, while the VM runs and passes go on.
    ProveDue,
    /// Policy: the cutover should begin now.
    Arm,
    /// What was written is as it must be.
    Proven,
    /// What was written is not there: why. It stops; whoever goes on compares all of the source
    /// with what is known to be there before it is proven again.
    Unproven(String),
    /// The source is quiet.
    Quiet(Quiet),
    /// The source is not quiet, or did not become it; why.
    NotQuiet(String),
    /// The certificate is durable.
    Certified,
    /// Nothing that the migration made is left on the source.
    Cleaned,
    /// The VM runs, if it was only paused.
    Woken,
    /// The targets are labelled.
    Labelled,
    /// The action failed for good, or for too long; why.
    Failed(String),
    /// A user, or the schedule, wants the cutover.
    Cutover,
    /// A user wants no new pass and no cutover.
    Hold,
    /// A user wants it to go on.
    Resume,
    /// A user wants it undone.
    Cancel,
}

/// What is known of the changes since the point before, over all disks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Changed {
    /// Every disk's list is there and is empty.
    Nothing,
    /// Some list names something, or there is nothing yet that it could be about.
    Something,
    /// Nothing is named, but the list of some disk was lost: all of it must be read to tell.
    Lost,
    /// Nothing is named, but some disk never has a list, or lost it after a final pass that compared
    /// all of it and found nothing to write. That the source stayed quiet since is then known from
    /// [`Event::Quiet`] alone.
    Unknown,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It answers an action that is not under way any more.
    Stale,
    /// A user wants what cannot be now; why, for people.
    NotNow(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.write_str("that is not under way any more"),
            Self::NotNow(why) => f.write_str(why),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            step: Step::Preflight,
            kind: PassKind::Full,
            point: 0,
            durable: 0,
            begun: false,
            quiet: None,
            finals: 0,
            distrust: None,
            hold: false,
            cutover: false,
            called_off: None,
            inspect: true,
            stopped: None,
        }
    }
}

impl State {
    /// What must be done now.
    #[must_use]
    pub fn action(&self, rules: &Rules) -> Action {
        if self.stopped.is_some() {
            return Action::Stop;
        }
        if self.inspect {
            return Action::Inspect;
        }
        let (number, since, again) = (self.point, self.since(), self.begun);
        match self.step {
            Step::Preflight => Action::Inspect,
            Step::BeforeSnapshot => Action::RunHook(Hook::BeforeSnapshot),
            Step::Snapshot => Action::Snapshot {
                number,
                since,
                again,
            },
            Step::AfterSnapshot => Action::RunHook(Hook::AfterSnapshot),
            Step::Pass => Action::Pass {
                number,
                kind: self.kind,
                digest: self.distrust.is_some() && since.is_some(),
            },
            Step::Release => Action::Release { number },
            Step::Forget => Action::ForgetBefore { number },
            Step::Prove | Step::ProveEarly => Action::Prove {
                all: rules.prove == Prove::AtCutover,
            },
            Step::Wait if self.hold => Action::Hold,
            Step::Wait => Action::Wait,
            Step::BeforeCutover => Action::RunHook(Hook::BeforeCutover),
            Step::Quiesce => Action::Quiesce,
            Step::CheckQuiet => Action::CheckQuiet,
            Step::Last => Action::Last {
                number,
                since,
                again,
            },
            Step::Certify => Action::WriteCertificate,
            Step::AfterCutover => Action::RunHook(Hook::AfterCutover),
            Step::Clean | Step::CancelClean => Action::Clean,
            Step::AfterAll => Action::RunHook(Hook::Done),
            Step::CancelWake => Action::Wake,
            Step::CancelLabel => Action::LabelIncomplete,
            Step::Done | Step::Cancelled => Action::Finish,
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Done | Step::Cancelled)
    }

    /// Whether the VM is, or is being made, quiet for a cutover that may still be called off.
    #[must_use]
    pub fn in_outage(&self) -> bool {
        self.step == Step::Quiesce || self.quiet.is_some()
    }

    /// The point that changes are counted from.
    #[must_use]
    pub fn since(&self) -> Option<u32> {
        (self.durable > 0).then_some(self.durable)
    }
}
