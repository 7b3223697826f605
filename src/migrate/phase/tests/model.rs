//! A small model of a VM, its tracking, a target and a journal, driven through every order of
//! writes, crashes, losses and users' wishes.
//!
//! The model asserts at each action what must hold there, and at the end that nothing was lost.

use super::super::{Action, Event, Refusal, Rules, State, Step};
use super::quiet;

mod runs;
mod world;

use world::{BLOCKS, World};

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
