//! What the journal and the request together mean: begin, continue, or nothing left to do. Pure.

use super::options::{Baseline, Pass};
use crate::digest::Algorithm;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use crate::journal::{History, PassState};
use crate::plan::Done;

/// What a user asks for, and on which disks.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) pass: &'a Pass,
    pub(super) source: &'a Identity,
    pub(super) target: &'a Identity,
    pub(super) digest: Algorithm,
    pub(super) adopt: bool,
}

/// How a pass starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Start {
    /// A full pass onto a target that nothing is known of.
    Fresh,
    /// A delta onto a target that somebody else copied the disk to.
    Adopt,
    /// The next pass onto a target that holds the disk already.
    Next {
        /// Its number.
        number: u32,
    },
    /// An earlier run of this very pass was cut short.
    Resume {
        /// Its number.
        number: u32,
        /// What it made durable.
        done: Done,
    },
    /// An earlier run of this very pass completed.
    Finished,
}

/// Compares what is recorded with what is wanted.
///
/// # Errors
/// `Refused`: the journal is about other disks, or this pass cannot follow what is recorded.
pub(super) fn decide(history: &History, wanted: &Wanted<'_>) -> Result<Start> {
    let Some(begin) = &history.begin else {
        return fresh(wanted);
    };
    if begin.target.id != wanted.target.id {
        return Err(refused(format!(
            "the journal is about the target {}, not {}",
            begin.target.name, wanted.target.name
        )));
    }
    if begin.size != wanted.source.size {
        return Err(refused(format!(
            "the source had {} bytes when it was copied, and has {} now",
            begin.size, wanted.source.size
        )));
    }
    if begin.digest != wanted.digest {
        return Err(refused(
            "the journal's digests are of another algorithm".to_owned(),
        ));
    }
    match &history.last {
        None => fresh(wanted),
        Some(last) if last.complete => after_complete(last, wanted),
        Some(last) => after_incomplete(history, last, wanted),
    }
}

fn fresh(wanted: &Wanted<'_>) -> Result<Start> {
    if wanted.pass.changes_since.is_some() {
        if wanted.adopt {
            return Ok(Start::Adopt);
        }
        return Err(
            Error::new(Kind::Refused, "there is no complete pass to build on")
                .hint("copy the whole disk first, or name the journal of that copy with --journal"),
        );
    }
    Ok(Start::Fresh)
}

fn after_complete(last: &PassState, wanted: &Wanted<'_>) -> Result<Start> {
    let number = last.begin.number.saturating_add(1);
    if wanted.pass.changes_since.is_some() {
        // Also when this very delta completed before: names of bitmaps are used again, and
        // copying what changed once more is always right.
        return Ok(Start::Next { number });
    }
    if !same_source(last, wanted) {
        return Err(another(last, wanted, "the target holds"));
    }
    // A final pass without a baseline reads everything once more: the source was live before.
    if wanted.pass.is_final && last.begin.pass != wanted.pass.name() {
        return Ok(Start::Next { number });
    }
    Ok(Start::Finished)
}

fn after_incomplete(history: &History, last: &PassState, wanted: &Wanted<'_>) -> Result<Start> {
    let number = last.begin.number;
    if history.whole && supersedes(wanted.pass, last) {
        let number = number.saturating_add(1);
        return Ok(Start::Next { number });
    }
    if last.begin.pass != wanted.pass.name() || last.begin.since != wanted.pass.since() {
        let since = last
            .begin
            .since
            .as_deref()
            .map(|s| format!(" since {s}"))
            .unwrap_or_default();
        return Err(refused(format!(
            "the {} pass{since} is not complete",
            last.begin.pass
        ))
        .hint("run that one again first, or begin anew with --restart"));
    }
    if !same_source(last, wanted) {
        if wanted.pass.changes_since.is_some() {
            // Another export of the same disk: perhaps a later point in time, so nothing of this
            // pass counts. The baseline is still the last complete pass.
            return Ok(Start::Resume {
                number,
                done: Done::default(),
            });
        }
        return Err(another(last, wanted, "the journal is about the source"));
    }
    Ok(Start::Resume {
        number,
        done: last.done.clone(),
    })
}

/// Whether a pass deals with all that one of another kind, cut short, may have written.
///
/// By digests it does: what that one was about to write is marked, and written. So it does with
/// the same baseline: what had changed by then has changed by now.
fn supersedes(pass: &Pass, last: &PassState) -> bool {
    // What a distrusted pass wrote, no tracker may know of.
    let tracked = !last.distrusted && last.begin.since == pass.since();
    let another = last.begin.pass != pass.name() || last.begin.since != pass.since();
    let reaches = match &pass.changes_since {
        Some(Baseline::Digest) => true,
        Some(_) => tracked,
        None => false,
    };
    another && reaches
}

fn same_source(last: &PassState, wanted: &Wanted<'_>) -> bool {
    last.begin.source.id == wanted.source.id
}

/// The source is not the one of the last pass: another, or another version of it.
fn another(last: &PassState, wanted: &Wanted<'_>, held: &str) -> Error {
    let (before, now) = (&last.begin.source, wanted.source);
    match before.name == now.name {
        true => refused(format!("{now} changed since it was copied"))
            .because(format!("it was {:?} and is {:?}", before.id, now.id)),
        false => refused(format!("{held} {before}, not {now}")),
    }
}

fn refused(what: String) -> Error {
    Error::new(Kind::Refused, what)
        .hint("to copy anew, add --restart; to use another journal, --journal PATH")
}

#[cfg(test)]
mod tests {
    use super::{Start, Wanted, decide};
    use crate::digest::Algorithm;
    use crate::endpoint::Identity;
    use crate::error::Kind;
    use crate::job::options::{Baseline, Pass};
    use crate::journal::{Begin, History, PassBegin, Record, VERSION};
    use crate::plan::Done;

    fn disk(id: &str) -> Identity {
        Identity {
            id: id.into(),
            size: 100,
            name: id.into(),
        }
    }

    fn full() -> Pass {
        Pass::default()
    }

    fn delta(bitmap: &str) -> Pass {
        Pass {
            changes_since: Some(Baseline::NbdBitmap(bitmap.into())),
            is_final: false,
        }
    }

    fn after(passes: &[(&Pass, bool)]) -> History {
        let digest = Algorithm::Xxh3;
        let begin = Begin {
            version: VERSION,
            id: "j".into(),
            target: disk("t"),
            size: 100,
            digest,
        };
        let mut history = History::of(&[Record::Begin(begin)]).unwrap();
        for (number, (pass, complete)) in (1..).zip(passes) {
            let begin = PassBegin {
                number,
                pass: pass.name().into(),
                since: pass.since(),
                source: disk("s"),
                at: 0,
            };
            history.apply(&Record::Pass(begin)).unwrap();
            history
                .apply(&Record::Barrier {
                    done: Done {
                        below: 40,
                        above: vec![],
                    },
                })
                .unwrap();
            if *complete {
                history
                    .apply(&Record::PassDone {
                        number,
                        proven: false,
                        at: 0,
                    })
                    .unwrap();
            }
        }
        history
    }

    fn ask(history: &History, pass: &Pass, source: &str, target: &str) -> Result<Start, Kind> {
        let (source, target) = (disk(source), disk(target));
        let wanted = Wanted {
            pass,
            source: &source,
            target: &target,
            digest: Algorithm::Xxh3,
            adopt: false,
        };
        decide(history, &wanted).map_err(|error| error.kind())
    }

    #[test]
    fn a_cut_pass_continues_and_a_complete_one_is_finished() {
        let done = Done {
            below: 40,
            above: vec![],
        };
        let cut = after(&[(&full(), false)]);
        assert_eq!(
            ask(&cut, &full(), "s", "t"),
            Ok(Start::Resume { number: 1, done })
        );
        let complete = after(&[(&full(), true)]);
        assert_eq!(ask(&complete, &full(), "s", "t"), Ok(Start::Finished));
    }

    #[test]
    fn a_delta_needs_a_complete_pass_under_it() {
        assert_eq!(
            ask(&History::default(), &delta("b"), "s", "t"),
            Err(Kind::Refused)
        );
        assert_eq!(
            ask(&after(&[(&full(), false)]), &delta("b"), "s", "t"),
            Err(Kind::Refused)
        );
        let complete = after(&[(&full(), true)]);
        assert_eq!(
            ask(&complete, &delta("b"), "snapshot", "t"),
            Ok(Start::Next { number: 2 })
        );
    }

    #[test]
    fn a_complete_delta_is_never_taken_for_the_next_one_of_the_same_name() {
        let history = after(&[(&full(), true), (&delta("b"), true)]);
        assert_eq!(
            ask(&history, &delta("b"), "s", "t"),
            Ok(Start::Next { number: 3 })
        );
    }

    #[test]
    fn a_delta_from_another_export_starts_over_but_keeps_its_baseline() {
        let history = after(&[(&full(), true), (&delta("b"), false)]);
        let over = Start::Resume {
            number: 2,
            done: Done::default(),
        };
        assert_eq!(ask(&history, &delta("b"), "other", "t"), Ok(over));
        assert_eq!(ask(&history, &delta("c"), "s", "t"), Err(Kind::Refused));
    }

    #[test]
    fn a_pass_by_digests_takes_over_from_whatever_was_cut_short_on_a_whole_disk() {
        let digest = Pass {
            changes_since: Some(Baseline::Digest),
            is_final: false,
        };
        for cut in [delta("b"), full(), digest.clone()] {
            let history = after(&[(&full(), true), (&cut, false)]);
            let start = ask(&history, &digest, "s", "t");
            let resumes = matches!(start, Ok(Start::Resume { number: 2, .. }));
            assert_eq!(resumes, cut == digest, "{cut:?}: {start:?}");
            assert!(
                resumes || start == Ok(Start::Next { number: 3 }),
                "{start:?}"
            );
        }
        for nothing_whole in [vec![], vec![(&full(), false)]] {
            let start = ask(&after(&nothing_whole), &digest, "s", "t");
            assert_eq!(start, Err(Kind::Refused), "{nothing_whole:?}");
        }
    }

    #[test]
    fn a_final_pass_takes_over_from_a_delta_since_the_same_baseline_only() {
        let last = |bitmap: &str| Pass {
            is_final: true,
            ..delta(bitmap)
        };
        let history = after(&[(&full(), true), (&delta("b"), false)]);
        let next = Ok(Start::Next { number: 3 });
        assert_eq!(ask(&history, &last("b"), "s", "t"), next);
        assert_eq!(ask(&history, &last("c"), "s", "t"), Err(Kind::Refused));
        let digest = Pass {
            changes_since: Some(Baseline::Digest),
            is_final: false,
        };
        let history = after(&[(&full(), true), (&digest, false)]);
        assert_eq!(ask(&history, &delta("b"), "s", "t"), Err(Kind::Refused));
    }

    #[test]
    fn another_disk_on_either_side_is_refused() {
        for complete in [false, true] {
            let history = after(&[(&full(), complete)]);
            assert_eq!(ask(&history, &full(), "other", "t"), Err(Kind::Refused));
            assert_eq!(ask(&history, &full(), "s", "other"), Err(Kind::Refused));
        }
    }

    #[test]
    fn a_final_pass_without_a_baseline_reads_everything_once_more() {
        let last = Pass {
            changes_since: None,
            is_final: true,
        };
        let history = after(&[(&full(), true)]);
        assert_eq!(
            ask(&history, &last, "s", "t"),
            Ok(Start::Next { number: 2 })
        );
        let history = after(&[(&full(), true), (&last, true)]);
        assert_eq!(ask(&history, &last, "s", "t"), Ok(Start::Finished));
    }
}
