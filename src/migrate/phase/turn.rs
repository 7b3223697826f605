//! From one state to the next.

use super::{Changed, Event, FINALS_MAX, Hook, PassKind, Prove, Refusal, Rules, State, Step};
use crate::changes::guest::Quiet;

type Turn = Result<State, Refusal>;

const IN_OUTAGE: Refusal =
    Refusal::NotNow("the source is being made quiet or is quiet: let it end, or cancel");
const CUT_OVER: Refusal = Refusal::NotNow("the cutover is over");
const CANCELLED: Refusal = Refusal::NotNow("it is cancelled");

impl State {
    /// The state after `event`. It must be durable before its [action](Self::action) begins.
    ///
    /// # Errors
    /// The event changes nothing: it is stale, or a user wants what cannot be now.
    pub fn on(&self, rules: &Rules, event: Event) -> Turn {
        let next = self.clone();
        match event {
            Event::Started => Ok(next.started()),
            Event::Cutover => next.want_cutover(),
            Event::Hold => next.want_hold(),
            Event::Resume => next.want_resume(),
            Event::Cancel => next.want_cancel(),
            _ if self.stopped.is_some() || self.is_over() => Err(Refusal::Stale),
            Event::Failed(why) => Ok(next.stop(why)),
            Event::Unproven(why) => Ok(next.unproven(why)),
            Event::Inspected if self.inspect => Ok(next.inspected(rules)),
            _ if self.inspect => Err(Refusal::Stale),
            other => next.turn(rules, other),
        }
    }

    /// An answer to the action under way.
    fn turn(mut self, rules: &Rules, event: Event) -> Turn {
        self.step = match (self.step, event) {
            (Step::BeforeSnapshot, Event::HookDone) => Step::Snapshot,
            (Step::Snapshot, Event::Snapshotted(_)) => {
                return Ok(match rules.has(Hook::AfterSnapshot) {
                    true => self.at(Step::AfterSnapshot),
                    false => self.begin_copy(),
                });
            }
            (Step::AfterSnapshot, Event::HookDone) => return Ok(self.begin_copy()),
            (Step::Last, Event::Snapshotted(changed)) => return Ok(self.listed(changed)),
            (Step::Pass, Event::PassDone) => return Ok(self.pass_done()),
            (Step::Snapshot | Step::Last | Step::Pass, Event::PointLost(_)) => Step::Release,
            (Step::Pass, Event::TrackingLost(why)) => {
                self.distrust = Some(why);
                Step::Pass
            }
            (Step::Release, Event::Released) => return Ok(self.released(rules)),
            (Step::Forget, Event::Forgotten) => return Ok(self.forgotten(rules)),
            (Step::Prove, Event::Proven) => match self.kind {
                PassKind::Final => return Ok(self.begin_pass(rules)),
                PassKind::Full | PassKind::Delta => Step::Wait,
            },
            (Step::Wait, Event::Due) if !self.hold => return Ok(self.begin_pass(rules)),
            (Step::Wait, Event::ProveDue) if !self.hold && self.point == self.durable => {
                Step::Prove
            }
            // A point that was lost while it was on hold has left its pass half way on the targets:
            // another one comes first.
            (Step::Wait, Event::Arm) if !self.hold && self.point > self.durable => {
                return Ok(self.begin_pass(rules));
            }
            // Nothing may be quiesced before one pass of everything is on the target.
            (Step::Wait, Event::Arm) if !self.hold && self.durable > 0 => {
                self.called_off = None;
                match rules.has(Hook::BeforeCutover) {
                    true => Step::BeforeCutover,
                    false => after_hook(rules),
                }
            }
            (Step::BeforeCutover, Event::HookDone) => after_hook(rules),
            (Step::ProveEarly, Event::Proven) => Step::Quiesce,
            (Step::Quiesce, Event::Quiet(quiet)) => return Ok(self.became_quiet(rules, quiet)),
            (Step::CheckQuiet, Event::Quiet(quiet)) => {
                self.quiet = Some(quiet);
                Step::Last
            }
            (Step::Quiesce | Step::CheckQuiet | Step::Last, Event::NotQuiet(why)) => {
                return Ok(self.call_off(why));
            }
            (Step::Pass, Event::NotQuiet(why)) if self.kind == PassKind::Final => {
                return Ok(self.call_off(why));
            }
            (step, event) => ending(rules, step, &event).ok_or(Refusal::Stale)?,
        };
        Ok(self)
    }

    fn at(mut self, step: Step) -> Self {
        self.step = step;
        self
    }

    fn stop(mut self, why: String) -> Self {
        self.stopped = Some(why);
        self
    }

    fn unproven(mut self, why: String) -> Self {
        if matches!(self.step, Step::Prove | Step::ProveEarly) {
            self.distrust = Some(why.clone());
        }
        self.stop(why)
    }

    /// Whoever drove it before may have died in the middle of the step.
    fn started(mut self) -> Self {
        self.stopped = None;
        self.inspect = self.step.needs_guest();
        // Nobody watched the quiet source meanwhile: only another final pass shows that nothing
        // was written. It has nothing to copy if that is so.
        self.finals = 0;
        self
    }

    /// The process before this one took with it where the point can be read: it is asked for again.
    fn inspected(mut self, rules: &Rules) -> Self {
        self.inspect = false;
        self.step = match (self.step, self.kind) {
            (Step::Preflight, _) => return self.begin_pass(rules),
            (Step::Pass | Step::Last, PassKind::Final) => Step::CheckQuiet,
            (Step::AfterSnapshot | Step::Pass, _) => Step::Snapshot,
            (Step::Prove | Step::ProveEarly, _) if self.distrust.is_some() => {
                return self.begin_pass(rules);
            }
            (step, _) => step,
        };
        self
    }

    /// A new point.
    fn begin_pass(mut self, rules: &Rules) -> Self {
        self.point = self.point.saturating_add(1);
        self.begun = false;
        self.kind = match (&self.quiet, self.durable) {
            (Some(_), _) => PassKind::Final,
            (None, 0) => PassKind::Full,
            (None, _) => PassKind::Delta,
        };
        self.step = match self.kind {
            PassKind::Final => Step::CheckQuiet,
            _ if rules.has(Hook::BeforeSnapshot) => Step::BeforeSnapshot,
            _ => Step::Snapshot,
        };
        self
    }

    fn begin_copy(mut self) -> Self {
        self.begun = true;
        self.at(Step::Pass)
    }

    /// The list up to the end is there: it is the proof if it is empty, else the next work.
    fn listed(self, changed: Changed) -> Self {
        match changed {
            // One final pass at least: it is what the journal and the proof call final.
            Changed::Nothing | Changed::Unknown
                if self.finals > 0 && !self.begun && self.distrust.is_none() =>
            {
                self.at(Step::Certify)
            }
            Changed::Lost if self.finals >= FINALS_MAX => {
                let finals = self.finals;
                self.stop(format!(
                    "tracking is lost again after {finals} final passes, and the last of them still \
                     found something to write: whether the source is quiet cannot be told"
                ))
            }
            _ if self.finals >= FINALS_MAX => {
                let finals = self.finals;
                self.stop(format!(
                    "the source still changes after {finals} final passes: it is not quiet"
                ))
            }
            _ => self.begin_copy(),
        }
    }

    fn pass_done(mut self) -> Self {
        self.durable = self.point;
        self.begun = false;
        self.distrust = None;
        if self.kind == PassKind::Final {
            self.finals = self.finals.saturating_add(1);
        }
        self.at(Step::Release)
    }

    fn released(self, rules: &Rules) -> Self {
        if self.durable == self.point {
            self.at(Step::Forget)
        } else if self.hold && self.quiet.is_none() {
            self.at(Step::Wait)
        } else {
            self.begin_pass(rules)
        }
    }

    fn forgotten(self, rules: &Rules) -> Self {
        match (self.kind, rules.prove) {
            (PassKind::Final, Prove::None) => self.begin_pass(rules),
            (PassKind::Final, _) | (_, Prove::EachPass) => self.at(Step::Prove),
            _ => self.at(Step::Wait),
        }
    }

    fn became_quiet(mut self, rules: &Rules, quiet: Quiet) -> Self {
        self.quiet = Some(quiet);
        self.finals = 0;
        self.begin_pass(rules)
    }

    /// The VM runs: back to passes, and nobody cuts over until told to again.
    fn call_off(mut self, why: String) -> Self {
        self.quiet = None;
        self.cutover = false;
        self.called_off = Some(why);
        let step = match self.step {
            Step::Quiesce => Step::Wait,
            _ => Step::Release,
        };
        self.at(step)
    }

    fn want_cutover(mut self) -> Turn {
        self.may_change()?;
        if self.in_outage() {
            return Err(IN_OUTAGE);
        }
        self.cutover = true;
        self.called_off = None;
        Ok(self)
    }

    fn want_hold(mut self) -> Turn {
        self.may_change()?;
        if self.in_outage() {
            return Err(IN_OUTAGE);
        }
        self.hold = true;
        if matches!(self.step, Step::BeforeCutover | Step::ProveEarly) {
            self.step = Step::Wait;
        }
        Ok(self)
    }

    fn want_resume(mut self) -> Turn {
        if self.stopped.is_none() && !self.hold {
            return Err(Refusal::NotNow("it is neither on hold nor stopped"));
        }
        self.hold = false;
        Ok(match self.stopped {
            Some(_) => self.started(),
            None => self,
        })
    }

    fn want_cancel(mut self) -> Turn {
        self.may_change()?;
        self.step = match self.in_outage() {
            true => Step::CancelWake,
            false => Step::CancelLabel,
        };
        self.stopped = None;
        self.inspect = false;
        self.hold = false;
        self.cutover = false;
        Ok(self)
    }

    /// Whether a user may still change the course.
    fn may_change(&self) -> Result<(), Refusal> {
        match self.step {
            Step::Certify | Step::AfterCutover | Step::Clean | Step::AfterAll | Step::Done => {
                Err(CUT_OVER)
            }
            Step::CancelWake | Step::CancelLabel | Step::CancelClean | Step::Cancelled => {
                Err(CANCELLED)
            }
            _ => Ok(()),
        }
    }
}

/// The steps that lead to the end, one way or the other.
fn ending(rules: &Rules, step: Step, event: &Event) -> Option<Step> {
    Some(match (step, event) {
        (Step::Certify, Event::Certified) if rules.has(Hook::AfterCutover) => Step::AfterCutover,
        (Step::Certify, Event::Certified) | (Step::AfterCutover, Event::HookDone) => Step::Clean,
        (Step::Clean, Event::Cleaned) if rules.has(Hook::Done) => Step::AfterAll,
        (Step::Clean, Event::Cleaned) | (Step::AfterAll, Event::HookDone) => Step::Done,
        (Step::CancelWake, Event::Woken) => Step::CancelLabel,
        (Step::CancelLabel, Event::Labelled) => Step::CancelClean,
        (Step::CancelClean, Event::Cleaned) => Step::Cancelled,
        _ => return None,
    })
}

fn after_hook(rules: &Rules) -> Step {
    match rules.prove {
        Prove::EachPass | Prove::BeforeCutover => Step::ProveEarly,
        Prove::AtCutover | Prove::None => Step::Quiesce,
    }
}

impl Step {
    /// Whether the step depends on what stands on the VM.
    fn needs_guest(self) -> bool {
        !matches!(
            self,
            Self::Certify
                | Self::AfterCutover
                | Self::Clean
                | Self::AfterAll
                | Self::Done
                | Self::CancelWake
                | Self::CancelLabel
                | Self::CancelClean
                | Self::Cancelled
        )
    }
}

impl Rules {
    fn has(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }
}
