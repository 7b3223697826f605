//! The world of the model: a VM with its tracking, a target and a journal, and what each action
//! does to them.

use super::super::super::{Action, Changed, Event, PassKind};
use super::quiet;
use std::collections::BTreeMap;

pub(super) const BLOCKS: usize = 2;
pub(super) const ALL: u8 = (1 << BLOCKS) - 1;

/// What a point can be read as.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Frozen {
    pub(super) number: u32,
    /// As it was; `None` is the disk itself.
    pub(super) disk: Option<[u8; BLOCKS]>,
    /// Blocks changed since the point before, or that may have.
    pub(super) list: u8,
    /// A block that changed is not in it.
    pub(super) left_out: bool,
    /// There was none.
    pub(super) lost: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct World {
    pub(super) disk: [u8; BLOCKS],
    pub(super) quiet: bool,
    /// `quiet` was confirmed to the process that runs, and not denied since.
    pub(super) confirmed: bool,
    /// The point that the process that runs was given. A new one knows none, and would copy nothing.
    pub(super) given: Option<u32>,
    /// Blocks changed since each point.
    pub(super) tracked: BTreeMap<u32, u8>,
    pub(super) frozen: Option<Frozen>,
    pub(super) target: [u8; BLOCKS],
    /// Blocks of the target that are not what was written there.
    pub(super) rotten: u8,
    /// The pass under way in the journal, and its blocks that are durable.
    pub(super) pass: Option<(u32, u8)>,
    /// The newest pass that the journal calls complete.
    pub(super) complete: u32,
    /// Lists leave out the first block, if it changed.
    pub(super) lies: bool,
    /// It was found out, and all is compared ever after.
    pub(super) distrusted: bool,
    /// Every list is lost.
    pub(super) forgets: bool,
    /// The pass under way wrote something, or a process died in it.
    pub(super) wrote: bool,
    /// The pass, if it was the last one, that compared all and wrote nothing.
    pub(super) same: Option<u32>,
    pub(super) certified: bool,
    pub(super) labelled: bool,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            disk: [1; BLOCKS],
            quiet: false,
            confirmed: false,
            given: None,
            tracked: BTreeMap::new(),
            frozen: None,
            target: [0; BLOCKS],
            rotten: 0,
            pass: None,
            complete: 0,
            lies: false,
            distrusted: false,
            forgets: false,
            wrote: false,
            same: None,
            certified: false,
            labelled: false,
        }
    }

    pub(super) fn freeze(
        &mut self,
        number: u32,
        since: Option<u32>,
        again: bool,
        live: bool,
    ) -> Event {
        if let Some(frozen) = &self.frozen {
            assert_eq!(frozen.number, number, "two snapshots overlap");
        } else if again {
            return Event::PointLost("gone".to_owned());
        } else {
            let known = since.filter(|_| !self.forgets);
            let known = known.and_then(|since| self.tracked.get(&since)).copied();
            let list = known.unwrap_or(ALL);
            let lied = self.lies && known.is_some();
            let told = if lied { list & !1 } else { list };
            self.frozen = Some(Frozen {
                number,
                disk: (!live).then_some(self.disk),
                list: if self.distrusted { ALL } else { told },
                left_out: told != list,
                lost: since.is_some() && known.is_none(),
            });
            self.tracked.insert(number, 0);
            self.wrote = false;
        }
        self.given = Some(number);
        let lost = self.frozen.as_ref().is_some_and(|frozen| frozen.lost);
        Event::Snapshotted(match self.frozen.as_ref().map(|frozen| frozen.list) {
            _ if self.distrusted => Changed::Unknown,
            _ if lost && live && since == self.same => Changed::Unknown,
            _ if lost => Changed::Lost,
            Some(0) => Changed::Nothing,
            _ => Changed::Something,
        })
    }

    /// Copies at most `most` blocks; whether the pass is complete.
    pub(super) fn copy(&mut self, number: u32, digest: bool, most: usize) -> Option<bool> {
        let frozen = self
            .frozen
            .clone()
            .filter(|frozen| frozen.number == number)?;
        let list = if digest { ALL } else { frozen.list };
        let mut done = match self.pass {
            Some((pass, done)) if pass == number => done,
            _ => 0,
        };
        let source = frozen.disk.unwrap_or(self.disk);
        let mut copied = 0;
        for (block, byte) in source.iter().enumerate() {
            let bit = 1 << block;
            if list & bit != 0 && done & bit == 0 && copied < most {
                self.wrote |= self.target[block] != *byte;
                self.target[block] = *byte;
                self.rotten &= !bit;
                done |= bit;
                copied += 1;
            }
        }
        self.pass = Some((number, done));
        Some(list & !done == 0)
    }

    /// Does what is asked, and answers.
    #[allow(clippy::too_many_lines, reason = "one arm an action")]
    pub(super) fn act(&mut self, action: &Action, durable: u32) -> Event {
        match *action {
            Action::Inspect => Event::Inspected,
            Action::RunHook(_) => Event::HookDone,
            Action::Snapshot {
                number,
                since,
                again,
            } => self.freeze(number, since, again, false),
            Action::Last {
                number,
                since,
                again,
            } => {
                assert!(self.confirmed, "the end is read before it is quiet");
                if !self.quiet {
                    return Event::NotQuiet("it runs".to_owned());
                }
                self.freeze(number, since, again, true)
            }
            Action::Pass {
                number,
                kind,
                digest,
            } => {
                assert_eq!(self.given, Some(number), "a pass up to a point nobody gave");
                if kind == PassKind::Final {
                    assert!(self.confirmed, "a final pass before it is quiet");
                }
                let Some(complete) = self.copy(number, digest, BLOCKS) else {
                    return Event::PointLost("gone".to_owned());
                };
                // Every block that the list does not name is looked at.
                if !digest && self.frozen.as_ref().is_some_and(|frozen| frozen.left_out) {
                    self.distrusted = true;
                    return Event::TrackingLost("a change was left out".to_owned());
                }
                assert!(complete);
                self.complete = number;
                let compared = self.frozen.as_ref().is_some_and(|frozen| frozen.lost);
                let same = kind == PassKind::Final && compared && !self.wrote;
                self.same = same.then_some(number);
                Event::PassDone
            }
            Action::Release { number } => {
                self.frozen = self.frozen.take().filter(|frozen| frozen.number != number);
                Event::Released
            }
            Action::ForgetBefore { number } => {
                assert!(self.complete >= number, "a baseline is dropped too early");
                assert!(durable >= number, "dropped before it is recorded");
                self.tracked.retain(|point, _| *point >= number);
                Event::Forgotten
            }
            Action::Wait => panic!("policy answers"),
            Action::Hold => Event::Resume,
            Action::Prove { .. } => {
                let whole = self.pass.is_none_or(|(number, _)| number <= self.complete);
                assert!(whole, "a pass that is half way is proven");
                match self.rotten {
                    0 => Event::Proven,
                    _ => Event::Unproven("a write was lost".to_owned()),
                }
            }
            Action::Quiesce => {
                self.quiet = true;
                Event::Quiet(quiet())
            }
            Action::CheckQuiet => {
                self.confirmed = self.quiet;
                match self.quiet {
                    true => Event::Quiet(quiet()),
                    false => Event::NotQuiet("it runs".to_owned()),
                }
            }
            Action::WriteCertificate => {
                assert_eq!(self.target, self.disk, "certified, and not the same");
                assert!(self.quiet, "certified, and not quiet");
                self.certified = true;
                Event::Certified
            }
            Action::Clean => {
                self.frozen = None;
                self.tracked.clear();
                Event::Cleaned
            }
            Action::Wake => {
                self.quiet = false;
                Event::Woken
            }
            Action::LabelIncomplete => {
                self.labelled = true;
                Event::Labelled
            }
            Action::Stop => Event::Started,
            Action::Finish => panic!("it is over"),
        }
    }
}
