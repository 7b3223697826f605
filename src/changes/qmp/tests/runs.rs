//! Migrations that are interrupted, meddled with and given up, on the model.

use super::super::goal::{Goal, Known, Next, next};
use super::super::step::Step;
use super::super::survey::Site;
use super::{Model, tag};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use std::collections::BTreeSet;

/// Moves after which a goal is not reached any more.
const MOVES: usize = 60;

/// What happens to a VM and to its migration.
#[derive(Clone, Debug)]
enum Happens {
    /// The guest writes.
    Write(usize, u8),
    /// A process goes on towards the goal for this many steps, then dies; its successor goes on.
    Die(usize),
    /// Somebody ends the jobs.
    Meddle,
    /// It is carried on until the pass is durable.
    Pass,
    /// Likewise, with the VM quiet.
    Last,
    /// The snapshot is found to be lost, and the point is given up.
    GiveUp,
}

/// A migration as the state machine drives it.
#[derive(Debug)]
struct Migration {
    model: Model,
    durable: u32,
    point: u32,
    foreign: BTreeSet<String>,
}

impl Migration {
    /// Goes towards a goal for at most `steps` single steps; whether it got there.
    fn go(&mut self, goal: Goal, steps: usize, writes: &[(usize, u8)]) -> bool {
        let mut known = Known::default();
        let mut left = steps;
        let mut writes = writes.iter();
        for _ in 0..MOVES {
            let disks = self.model.disks();
            let tag = tag();
            let site = Site {
                world: &self.model.world,
                tag: &tag,
                disks: &disks,
            };
            let moves = match next(site, &known, goal) {
                Next::Done => return true,
                Next::Wait(_) => Vec::new(),
                Next::Do(moves) => moves,
            };
            if moves.is_empty() {
                self.model.tick();
            }
            for step in moves {
                if left == 0 {
                    return false;
                }
                left -= 1;
                if self.model.take(&step).is_ok() {
                    match &step {
                        Step::Overlay { name, .. } => drop(known.fresh.insert(name.clone())),
                        Step::Serve => known.served = true,
                        _ => {}
                    }
                } else {
                    assert!(step.removes(), "{step:?} was refused");
                }
                if let Some((disk, block)) = writes
                    .next()
                    .filter(|_| !matches!(goal, Goal::Still { .. }))
                {
                    self.model.write(*disk, *block);
                }
                assert_eq!(
                    self.model.foreign(),
                    self.foreign,
                    "{step:?} touches what is not ours"
                );
            }
        }
        panic!("{goal:?} is never reached: {:#?}", self.model.world);
    }

    fn since(&self) -> Option<u32> {
        (self.durable > 0).then_some(self.durable)
    }

    /// Every change between the two points is in the list.
    fn check_list(&self) {
        let disks = self.model.disks();
        let tag = tag();
        let site = Site {
            world: &self.model.world,
            tag: &tag,
            disks: &disks,
        };
        let Some(since) = self.since() else { return };
        for (index, disk) in disks.iter().enumerate() {
            let name = site.tracked_since(disk, since);
            let name = name.unwrap_or_else(|why| panic!("lost without a reason: {why}"));
            let listed = self.model.marks.get(&(disk.node.clone(), name)).cloned();
            let listed = listed.unwrap_or_default();
            let written = self.model.written(index, since, self.point);
            assert!(
                listed.is_superset(&written),
                "{listed:?} lacks some of {written:?}"
            );
        }
    }

    fn pass(&mut self, quiet: bool, writes: &[(usize, u8)]) {
        let (number, since) = (self.point, self.since());
        let goal = match quiet {
            true => Goal::Still { number, since },
            false => Goal::Frozen { number, since },
        };
        assert!(self.go(goal, usize::MAX, writes));
        self.check_list();
        let disks = self.model.disks();
        let tag = tag();
        let site = Site {
            world: &self.model.world,
            tag: &tag,
            disks: &disks,
        };
        let standing = site.standing();
        let this = standing.iter().find(|s| s.number == number).unwrap();
        assert!(this.readable && this.tracked, "{standing:?}");
        self.durable = number;
        self.go(Goal::Released { number }, usize::MAX, writes);
        self.go(Goal::Forgotten { before: number }, usize::MAX, writes);
        self.point += 1;
    }
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        4 => (0usize..2, any::<u8>()).prop_map(|(disk, block)| Happens::Write(disk, block)),
        4 => (0usize..14).prop_map(Happens::Die),
        1 => Just(Happens::Meddle),
        2 => Just(Happens::Pass),
        1 => Just(Happens::Last),
        1 => Just(Happens::GiveUp),
    ];
    prop::collection::vec(one, 0..24)
}

proptest! {
    /// Whatever is written, interrupted, meddled with and given up: each list holds every change
    /// since the point before, and in the end nothing of ours is left and all of others is.
    #[test]
    fn no_change_is_left_out_and_nothing_of_others_is_touched(
        happens in happenings(),
        writes in prop::collection::vec((0usize..2, any::<u8>()), 0..8),
        cleaned in 0usize..20,
    ) {
        let model = Model::new();
        let foreign = model.foreign();
        let mut migration = Migration { model, durable: 0, point: 1, foreign };
        for what in happens {
            match what {
                Happens::Write(disk, block) => migration.model.write(disk, block),
                Happens::Die(steps) => {
                    let (number, since) = (migration.point, migration.since());
                    migration.go(Goal::Frozen { number, since }, steps, &writes);
                }
                Happens::Meddle => {
                    let ours = |id: &String| id.starts_with(&format!("{}-", tag()));
                    migration.model.world.jobs.retain(|id, _| !ours(id));
                }
                Happens::Pass => migration.pass(false, &writes),
                Happens::Last => migration.pass(true, &[]),
                Happens::GiveUp => {
                    let number = migration.point;
                    migration.go(Goal::Released { number }, usize::MAX, &writes);
                    migration.point += 1;
                }
            }
        }
        migration.pass(false, &writes);
        migration.pass(true, &[]);
        migration.go(Goal::Nothing, cleaned, &[]);
        assert!(migration.go(Goal::Nothing, usize::MAX, &[]));
        assert_eq!(migration.model.left(), Vec::<String>::new());
    }
}
