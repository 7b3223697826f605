//! A small model of a VM, its tracking, a target and a journal, driven through every order of
//! writes, crashes, losses and users' wishes.
//!
//! The model asserts at each action what must hold there, and at the end that nothing was lost.

use super::super::{Action, Changed, Event, PassKind, Refusal, Rules, State, Step};
use super::quiet;
use std::collections::BTreeMap;

mod runs;

const BLOCKS: usize = 2;
const ALL: u8 = (1 << BLOCKS) - 1;

/// What a point can be read as.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Frozen {
    number: u32,
    /// As it was; `None` is the disk itself.
    disk: Option<[u8; BLOCKS]>,
    /// Blocks changed since the point before, or that may have.
    list: u8,
    /// A block that changed is not in it.
    left_out: bool,
    /// There was none.
    lost: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct World {
    disk: [u8; BLOCKS],
    quiet: bool,
    /// `quiet` was confirmed to the process that runs, and not denied since.
    confirmed: bool,
    /// The point that the process that runs was given. A new one knows none, and would copy nothing.
    given: Option<u32>,
    /// Blocks changed since each point.
    tracked: BTreeMap<u32, u8>,
    frozen: Option<Frozen>,
    target: [u8; BLOCKS],
    /// Blocks of the target that are not what was written there.
    rotten: u8,
    /// The pass under way in the journal, and its blocks that are durable.
    pass: Option<(u32, u8)>,
    /// The newest pass that the journal calls complete.
    complete: u32,
    /// Lists leave out the first block, if it changed.
    lies: bool,
    /// It was found out, and all is compared ever after.
    distrusted: bool,
    /// Every list is lost.
    forgets: bool,
    /// The pass under way wrote something, or a process died in it.
    wrote: bool,
    /// The pass, if it was the last one, that compared all and wrote nothing.
    same: Option<u32>,
    certified: bool,
    labelled: bool,
}

/// What may still go wrong or be wished.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Budget {
    writes: u8,
    crashes: u8,
    losses: u8,
    wakes: u8,
    wishes: u8,
    points: u32,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Run {
    /// What is recorded, which is all that a new process knows.
    state: State,
    world: World,
    budget: Budget,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Move {
    /// The action under way ends as it should.
    Act,
    /// It ends, and the process dies before that is recorded.
    ActThenCrash,
    /// The process dies before the action does anything.
    Crash,
    /// A pass writes one block, which is durable, and the process dies.
    HalfThenCrash,
    /// The action fails for good.
    Fail,
    /// The list of changes turns out wrong.
    Distrust,
    /// From now on lists leave out changes.
    Lie,
    /// From now on every list is lost.
    Forget,
    /// The target turns out to have lost a write.
    Rot,
    /// The guest writes.
    Write(usize),
    /// The VM's process ends and begins anew: its snapshot and tracking are gone.
    Lose,
    /// Somebody wakes the quiet VM.
    Wake,
    /// Somebody begins the quiet VM's process anew, lets it write, and makes it quiet.
    Relapse,
    /// The VM does not get quiet.
    Refuse,
    Wish(Event),
}

impl World {
    fn new() -> Self {
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

    fn freeze(&mut self, number: u32, since: Option<u32>, again: bool, live: bool) -> Event {
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
    fn copy(&mut self, number: u32, digest: bool, most: usize) -> Option<bool> {
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
    fn act(&mut self, action: &Action, durable: u32) -> Event {
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

impl Run {
    fn new(budget: Budget) -> Self {
        Self {
            state: State::default(),
            world: World::new(),
            budget,
        }
    }

    fn action(&self, rules: &Rules) -> Action {
        self.state.action(rules)
    }

    /// The answer of a world without trouble, policy's included.
    fn act(&mut self, rules: &Rules) -> Event {
        let action = self.action(rules);
        match action {
            Action::Wait if self.state.durable == 0 => Event::Due,
            Action::Wait if self.state.cutover || self.budget.points <= self.state.point => {
                Event::Arm
            }
            Action::Wait => Event::Due,
            _ => self.world.act(&action, self.state.durable),
        }
    }

    fn crash(&mut self, rules: &Rules) {
        let text = serde_json::to_string(&self.state).unwrap();
        self.state = serde_json::from_str(&text).unwrap();
        self.world.confirmed = false;
        self.world.given = None;
        self.world.wrote = true;
        self.world.same = None;
        self.state = self.state.on(rules, Event::Started).unwrap();
    }

    fn moves(&self, rules: &Rules) -> Vec<Move> {
        let mut moves = vec![Move::Act];
        let action = self.action(rules);
        let budget = self.budget;
        if budget.crashes > 0 {
            moves.extend([Move::Crash, Move::Fail]);
            if action != Action::Wait {
                moves.push(Move::ActThenCrash);
            }
            if matches!(action, Action::Pass { .. }) {
                moves.push(Move::HalfThenCrash);
            }
        }
        if budget.writes > 0 && !self.world.quiet {
            moves.extend((0..BLOCKS).map(Move::Write));
        }
        let decided = matches!(
            self.state.step,
            Step::Certify | Step::AfterCutover | Step::Clean | Step::AfterAll
        );
        if budget.losses > 0 && !decided {
            if matches!(action, Action::Pass { .. }) {
                moves.push(Move::Distrust);
            }
            moves.push(Move::Lose);
            if matches!(action, Action::Prove { .. }) && self.world.rotten == 0 {
                moves.push(Move::Rot);
            }
            if !self.world.lies {
                moves.push(Move::Lie);
            }
            if !self.world.forgets {
                moves.push(Move::Forget);
            }
        }
        if budget.wakes > 0 && self.world.quiet && !decided {
            moves.push(Move::Wake);
            // Without lists, and after a pass that found all the same, only the VM itself tells.
            if self.world.same.is_none() && !self.world.distrusted {
                moves.push(Move::Relapse);
            }
        }
        if budget.wakes > 0 && action == Action::Quiesce {
            moves.push(Move::Refuse);
        }
        if budget.wishes > 0 && action == Action::Wait {
            moves.push(Move::Wish(Event::ProveDue));
        }
        if budget.wishes > 0 {
            for wish in [Event::Cutover, Event::Hold, Event::Resume, Event::Cancel] {
                moves.push(Move::Wish(wish));
            }
        }
        moves
    }

    #[allow(clippy::too_many_lines, reason = "one arm a move")]
    fn make(&mut self, rules: &Rules, step: &Move) {
        let spend = |left: &mut u8| *left = left.saturating_sub(1);
        match step {
            Move::Act => {
                let event = self.act(rules);
                self.state = self.state.on(rules, event).unwrap();
                return;
            }
            Move::ActThenCrash => {
                self.act(rules);
                self.crash(rules);
            }
            Move::Crash => self.crash(rules),
            Move::HalfThenCrash => {
                if let Action::Pass { number, digest, .. } = self.action(rules) {
                    self.world.copy(number, digest, 1);
                }
                self.crash(rules);
            }
            Move::Fail => self.tell(rules, Event::Failed("no".to_owned())),
            Move::Distrust => self.tell(rules, Event::TrackingLost("no".to_owned())),
            Move::Rot => {
                self.world.target[0] ^= 0x80;
                self.world.rotten = 1;
                return spend(&mut self.budget.losses);
            }
            Move::Lie => {
                self.world.lies = true;
                return spend(&mut self.budget.losses);
            }
            Move::Forget => {
                self.world.forgets = true;
                return spend(&mut self.budget.losses);
            }
            Move::Relapse => {
                self.world.disk[0] = self.world.disk[0].wrapping_add(1);
                self.world.frozen = None;
                self.world.tracked.clear();
                return spend(&mut self.budget.wakes);
            }
            Move::Write(block) => {
                let disk = &mut self.world.disk[*block];
                *disk = disk.wrapping_add(1);
                for dirty in self.world.tracked.values_mut() {
                    *dirty |= 1 << block;
                }
                return spend(&mut self.budget.writes);
            }
            Move::Lose => {
                self.world.frozen = None;
                self.world.tracked.clear();
                return spend(&mut self.budget.losses);
            }
            Move::Wake => {
                self.world.quiet = false;
                return spend(&mut self.budget.wakes);
            }
            Move::Refuse => {
                self.tell(rules, Event::NotQuiet("no".to_owned()));
                return spend(&mut self.budget.wakes);
            }
            Move::Wish(wish) => {
                self.tell(rules, wish.clone());
                return spend(&mut self.budget.wishes);
            }
        }
        match step {
            Move::Distrust => spend(&mut self.budget.losses),
            _ => spend(&mut self.budget.crashes),
        }
    }

    /// An event that may be refused.
    fn tell(&mut self, rules: &Rules, event: Event) {
        match self.state.on(rules, event) {
            Ok(state) => self.state = state,
            Err(Refusal::Stale | Refusal::NotNow(_)) => {}
        }
    }

    /// What must hold in every state, whatever is under way.
    fn check(&self) {
        let state = &self.state;
        assert!(state.durable <= state.point);
        assert!(
            self.world.complete >= state.durable,
            "recorded as durable, and is not"
        );
        if state.step == Step::Done {
            assert!(self.world.certified);
            assert_eq!(self.world.target, self.world.disk, "writes were lost");
        }
        if state.step == Step::Cancelled {
            assert!(self.world.labelled && !self.world.certified);
        }
        if state.is_over() {
            assert!(self.world.frozen.is_none() && self.world.tracked.is_empty());
        }
    }

    /// Without further trouble it comes to its end.
    fn drain(mut self, rules: &Rules) {
        self.budget.points = 0;
        for _ in 0..100 {
            if self.state.is_over() {
                return;
            }
            self.make(rules, &Move::Act);
            self.check();
        }
        panic!("it does not end: {self:?}");
    }
}
