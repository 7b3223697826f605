//! Every run of the model within a budget, and long ones at random.

use super::super::super::{Hook, Prove, Rules};
use super::super::every_hook;
use super::{Budget, Move, Run};
use proptest::collection::vec as some;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::subsequence;
use std::collections::{HashSet, VecDeque};

/// Every run within the budget; how many situations that were.
fn explore(rules: &Rules, budget: Budget) -> usize {
    let first = Run::new(budget);
    let mut seen = HashSet::from([first.clone()]);
    let mut todo = VecDeque::from([first]);
    while let Some(run) = todo.pop_front() {
        run.check();
        run.clone().drain(rules);
        if run.state.is_over() {
            continue;
        }
        for step in run.moves(rules) {
            let mut next = run.clone();
            next.make(rules, &step);
            if seen.insert(next.clone()) {
                todo.push_back(next);
            }
        }
    }
    seen.len()
}

const SMALL: Budget = Budget {
    writes: 1,
    crashes: 1,
    losses: 1,
    wakes: 0,
    wishes: 0,
    points: 2,
};

#[test]
fn every_run_with_a_write_a_crash_and_a_loss_ends_right() {
    let seen = explore(&Rules::default(), SMALL);
    assert!(seen > 500, "only {seen} situations");
}

#[test]
fn every_run_whose_point_is_lost_while_it_is_on_hold_ends_right() {
    let budget = Budget {
        wishes: 2,
        crashes: 0,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

#[test]
fn every_run_whose_tracker_begins_to_leave_out_changes_ends_right() {
    let budget = Budget {
        writes: 2,
        losses: 2,
        crashes: 0,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

#[test]
fn every_run_whose_tracking_is_lost_in_every_pass_ends_right() {
    let budget = Budget {
        losses: 2,
        crashes: 0,
        wakes: 1,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

#[test]
fn every_run_with_two_crashes_ends_right() {
    let budget = Budget {
        crashes: 2,
        losses: 0,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

#[test]
fn every_run_whose_quiet_source_is_woken_ends_right() {
    let budget = Budget {
        wakes: 1,
        losses: 0,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

#[test]
fn every_run_with_two_wishes_ends_right() {
    let budget = Budget {
        wishes: 2,
        losses: 0,
        ..SMALL
    };
    assert!(explore(&Rules::default(), budget) > 500);
}

fn rules() -> impl Strategy<Value = Rules> {
    let prove = prop_oneof![
        Just(Prove::EachPass),
        Just(Prove::BeforeCutover),
        Just(Prove::AtCutover),
        Just(Prove::None)
    ];
    let hooks = subsequence(every_hook(), 0..=5);
    (prove, hooks).prop_map(|(prove, hooks): (Prove, Vec<Hook>)| Rules { prove, hooks })
}

proptest! {
    #[test]
    fn any_long_run_keeps_what_must_hold_and_ends_right(
        rules in rules(),
        picks in some(any::<u16>(), 0..300),
    ) {
        let mut run = Run::new(Budget {
            writes: 100,
            crashes: 60,
            losses: 6,
            wakes: 6,
            wishes: 8,
            points: 6,
        });
        for pick in picks {
            if run.state.is_over() {
                break;
            }
            let moves = run.moves(&rules);
            // Every other move goes on, or nothing would ever get far.
            let step = match pick % 2 {
                0 => &Move::Act,
                _ => &moves[usize::from(pick / 2) % moves.len()],
            };
            run.make(&rules, step);
            run.check();
        }
        run.drain(&rules);
    }
}
