//! Where a migration is, for people. Pure.

use super::{PassKind, State, Step};
use serde::Serialize;

/// Where a migration is, for people: a row of the status table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Checks; nothing is made yet.
    Preflight,
    /// The first pass.
    Full,
    /// Between passes.
    Wait,
    /// A pass over what changed.
    Delta,
    /// The cutover has begun; the VM still runs.
    Armed,
    /// The VM is made quiet: the outage begins.
    Quiesce,
    /// The last pass.
    Final,
    /// The proof.
    Verify,
    /// All is done.
    Done,
    /// Between passes, until told to go on.
    Hold,
    /// It is being undone.
    Cancelling,
    /// It was undone.
    Cancelled,
    /// It stopped, and can be resumed.
    Failed,
}

impl State {
    /// Where it is, for people.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.stopped.is_some() {
            return Phase::Failed;
        }
        self.reached()
    }

    /// Where it is, or was when it stopped.
    #[must_use]
    pub fn reached(&self) -> Phase {
        match self.step {
            Step::Preflight => Phase::Preflight,
            Step::Wait if self.hold => Phase::Hold,
            Step::Wait => Phase::Wait,
            Step::BeforeCutover | Step::ProveEarly => Phase::Armed,
            Step::Quiesce => Phase::Quiesce,
            Step::Prove | Step::Certify => Phase::Verify,
            Step::AfterCutover | Step::Clean | Step::AfterAll | Step::Done => Phase::Done,
            Step::CancelWake | Step::CancelLabel | Step::CancelClean => Phase::Cancelling,
            Step::Cancelled => Phase::Cancelled,
            _ => match self.kind {
                PassKind::Full => Phase::Full,
                PassKind::Delta => Phase::Delta,
                PassKind::Final => Phase::Final,
            },
        }
    }

    /// Whether a snapshot of a VM that runs may stand: what the VM overwrites is kept for it, and
    /// grows.
    #[must_use]
    pub fn may_be_frozen(&self) -> bool {
        let steps = [
            Step::Snapshot,
            Step::AfterSnapshot,
            Step::Pass,
            Step::Release,
        ];
        let given_back = self.stopped.is_some() && self.step == Step::Snapshot && !self.begun;
        steps.contains(&self.step) && self.kind != PassKind::Final && !given_back
    }

    /// Whether the snapshot of a VM that runs had better be given back than stand while nobody
    /// watches how it grows. That of a first pass that has begun is worth more: what was copied from it
    /// is of no use without it.
    #[must_use]
    pub fn may_be_given_back(&self) -> bool {
        let cheap = match self.kind {
            PassKind::Full => !self.begun,
            PassKind::Delta => true,
            PassKind::Final => false,
        };
        cheap && !self.inspect && matches!(self.step, Step::Snapshot | Step::Pass)
    }
}
