//! Records → what they mean. Pure.

use super::record::{Begin, PassBegin, Record, VERSION};
use crate::error::{Error, Kind, Result};
use crate::plan::Done;

/// What a journal tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What it is about; `None` in a journal that was created and never begun.
    pub begin: Option<Begin>,
    /// The last pass that began.
    pub last: Option<PassState>,
    /// Every pass that began, the last one included.
    pub passes: Vec<PassSummary>,
    /// Why the target was given up as it is, until a later pass is complete.
    pub incomplete: Option<String>,
    /// Some pass was complete: all of the target was written once.
    pub whole: bool,
    /// Somebody else made the copy that the passes build on, and no pass since then dealt with all of
    /// it: of some blocks nobody knows what they must hold.
    pub adopted: bool,
    /// A proof of everything was begun and is not complete.
    pub proving: bool,
    /// The target's measured zeroing.
    pub probe: Option<serde_json::Value>,
}

/// A pass, and how far it came.
#[derive(Clone, Debug, PartialEq)]
pub struct PassState {
    /// As it began.
    pub begin: PassBegin,
    /// What is on the target for good.
    pub done: Done,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether the target was read back and compared at its end or later, and all was right.
    pub proven: bool,
    /// Its tracker left out a change.
    pub distrusted: bool,
}

impl PassState {
    fn begun(begin: &PassBegin) -> Self {
        Self {
            begin: begin.clone(),
            done: Done::default(),
            complete: false,
            proven: false,
            distrusted: false,
        }
    }

    /// Some of the target is not what it must be.
    fn disproven(&mut self) {
        self.proven = false;
        if !self.complete {
            // What is not on the target was not done.
            self.done = Done::default();
        }
    }

    /// Whether it deals with every block, not only with what a tracker tells.
    fn reaches_all(&self) -> bool {
        let since = self.begin.since.as_deref();
        self.distrusted || since.is_none_or(|since| since == "digest")
    }
}

/// A pass, for people and certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct PassSummary {
    /// As it began.
    pub begin: PassBegin,
    /// When it was complete, in seconds since 1970.
    pub ended: Option<u64>,
    /// Whether all was proven at its end, or later and before the next one.
    pub proven: bool,
    /// Its tracker left out a change, so all was compared.
    pub distrusted: bool,
}

impl PassSummary {
    fn begun(begin: &PassBegin) -> Self {
        Self {
            begin: begin.clone(),
            ended: None,
            proven: false,
            distrusted: false,
        }
    }
}

impl History {
    /// Reads the meaning out of the records.
    ///
    /// # Errors
    /// The records contradict each other, or are of another version.
    pub fn of(records: &[Record]) -> Result<Self> {
        let mut history = Self::default();
        for record in records {
            history.apply(record)?;
        }
        Ok(history)
    }

    /// Takes one more record into account.
    ///
    /// # Errors
    /// The record cannot follow those before it.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        match (record, &mut self.last) {
            (Record::Begin(begin), None) if self.begin.is_none() => {
                if begin.version != VERSION {
                    let text = format!("the journal is of version {}", begin.version);
                    return Err(Error::new(Kind::Unsupported, text));
                }
                self.begin = Some(begin.clone());
            }
            (Record::Adopted { .. }, None) if self.begin.is_some() => {
                (self.whole, self.adopted) = (true, true);
            }
            (Record::Pass(begin), last) if self.begin.is_some() => {
                let next = last
                    .as_ref()
                    .map_or(1, |pass| pass.begin.number.saturating_add(1));
                if begin.number != next {
                    return Err(out_of_order(record));
                }
                *last = Some(PassState::begun(begin));
                self.passes.push(PassSummary::begun(begin));
            }
            (Record::Probe { report }, Some(_)) => self.probe = Some(report.clone()),
            (Record::Barrier { done }, Some(pass)) if !pass.complete => pass.done = done.clone(),
            (Record::Distrust { .. }, Some(pass)) if !pass.complete => {
                pass.distrusted = true;
                pass.done = Done::default();
                self.summary(|pass| pass.distrusted = true);
            }
            (Record::Incomplete { why, .. }, _) if self.begin.is_some() => {
                self.incomplete = Some(why.clone());
            }
            (Record::PassDone { number, proven, at }, Some(pass))
                if *number == pass.begin.number =>
            {
                pass.complete = true;
                pass.proven |= *proven;
                self.whole = true;
                self.adopted &= !pass.reaches_all();
                self.proving &= !*proven;
                self.incomplete = None;
                self.summary(|pass| {
                    pass.ended = Some(*at);
                    pass.proven |= *proven;
                });
            }
            (Record::Prove { .. }, Some(_)) => self.proving = true,
            (Record::Proven { .. }, Some(pass)) if pass.complete => {
                pass.proven = true;
                self.proving = false;
                self.summary(|pass| pass.proven = true);
            }
            (Record::Disproven { .. }, Some(pass)) => {
                pass.disproven();
                self.proving = false;
            }
            _ => return Err(out_of_order(record)),
        }
        Ok(())
    }

    fn summary(&mut self, change: impl FnOnce(&mut PassSummary)) {
        if let Some(pass) = self.passes.last_mut() {
            change(pass);
        }
    }
}

fn out_of_order(record: &Record) -> Error {
    let name = match record {
        Record::Begin(_) => "begin",
        Record::Adopted { .. } => "adopted",
        Record::Pass(_) => "pass",
        Record::Probe { .. } => "probe",
        Record::Barrier { .. } => "barrier",
        Record::Distrust { .. } => "distrust",
        Record::Incomplete { .. } => "incomplete",
        Record::Prove { .. } => "prove",
        Record::Proven { .. } => "proven",
        Record::Disproven { .. } => "disproven",
        Record::PassDone { .. } => "pass-done",
    };
    Error::new(
        Kind::Corrupt,
        format!("the journal has a {name} record out of order"),
    )
    .hint("copy again from the start with --restart")
}

#[cfg(test)]
mod tests {
    use super::{Begin, Done, History, PassBegin, Record, VERSION};
    use crate::digest::Algorithm;
    use crate::endpoint::Identity;
    use crate::error::Kind;

    fn disk(id: &str) -> Identity {
        Identity {
            id: id.into(),
            size: 100,
            name: id.into(),
        }
    }

    fn begin() -> Record {
        let digest = Algorithm::Xxh3;
        let id = "1".into();
        Record::Begin(Begin {
            version: VERSION,
            id,
            target: disk("t"),
            size: 100,
            digest,
        })
    }

    fn pass(number: u32) -> Record {
        let pass = "full".into();
        Record::Pass(PassBegin {
            number,
            pass,
            since: None,
            source: disk("s"),
            at: 0,
        })
    }

    #[test]
    fn the_last_barrier_counts_and_a_new_pass_starts_from_nothing() {
        let at = |below| Record::Barrier {
            done: Done {
                below,
                above: vec![],
            },
        };
        let end = Record::PassDone {
            number: 1,
            proven: true,
            at: 0,
        };
        let mut history = History::of(&[begin(), pass(1), at(10), at(40)]).unwrap();
        let last = history.last.clone().unwrap();
        assert_eq!((last.done.below, last.complete), (40, false));
        history.apply(&end).unwrap();
        assert!(history.last.as_ref().unwrap().complete);
        history.apply(&pass(2)).unwrap();
        let last = history.last.unwrap();
        assert_eq!(
            (last.done, last.complete, last.begin.number),
            (Done::default(), false, 2)
        );
    }

    #[test]
    fn an_adopted_target_is_whole_and_becomes_ours_with_a_pass_over_all_of_it() {
        let since = |number, since: &str| {
            let Record::Pass(mut begin) = pass(number) else {
                unreachable!()
            };
            begin.since = Some(since.to_owned());
            Record::Pass(begin)
        };
        let end = |number| Record::PassDone {
            number,
            proven: false,
            at: 0,
        };
        let adopted = Record::Adopted { at: 0 };
        let mut history = History::of(&[begin(), adopted.clone(), since(1, "cbt:x")]).unwrap();
        assert!(history.whole && history.adopted);
        history.apply(&end(1)).unwrap();
        assert!(history.adopted, "only what changed was written");
        history.apply(&since(2, "digest")).unwrap();
        history.apply(&end(2)).unwrap();
        assert!(!history.adopted);
        assert!(history.apply(&adopted).is_err(), "not after a pass");
    }

    #[test]
    fn a_barrier_after_the_end_or_before_a_pass_is_refused() {
        let barrier = Record::Barrier {
            done: Done::default(),
        };
        let end = Record::PassDone {
            number: 1,
            proven: false,
            at: 0,
        };
        for records in [
            vec![barrier.clone()],
            vec![begin(), barrier.clone()],
            vec![begin(), pass(2)],
            vec![begin(), begin()],
            vec![begin(), pass(1), end, barrier],
        ] {
            assert_eq!(
                History::of(&records).unwrap_err().kind(),
                Kind::Corrupt,
                "{records:?}"
            );
        }
    }

    #[test]
    fn a_proof_that_found_a_difference_has_ended_and_nothing_is_proven_or_done_by_it() {
        let done = Done {
            below: 100,
            above: vec![],
        };
        let (proof, disproven) = (Record::Prove { at: 0 }, Record::Disproven { at: 0 });
        let barrier = Record::Barrier { done };
        let mut history = History::of(&[begin(), pass(1), barrier.clone(), proof.clone()]).unwrap();
        history.apply(&disproven).unwrap();
        assert!(!history.proving);
        assert_eq!(history.last.as_ref().unwrap().done, Done::default());

        let end = Record::PassDone {
            number: 1,
            proven: true,
            at: 0,
        };
        for record in [&barrier, &end, &proof, &disproven] {
            history.apply(record).unwrap();
        }
        let last = history.last.unwrap();
        assert!(last.complete && !last.proven && !history.proving);
        assert!(history.passes[0].proven, "at its end it was");
    }

    #[test]
    fn a_journal_of_a_later_version_is_not_guessed_at() {
        let Record::Begin(mut later) = begin() else {
            unreachable!()
        };
        later.version = VERSION + 1;
        let error = History::of(&[Record::Begin(later)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
