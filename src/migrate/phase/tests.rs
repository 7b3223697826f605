//! The machine against every order of events, crashes included.

use super::{Action, Changed, Event, FINALS_MAX, Hook, PassKind, Phase, Rules, State, Step};
use crate::changes::guest::{Quiet, Shutdown};

mod model;

/// Answers each action as a world without trouble does.
fn answer(action: &Action) -> Event {
    match action {
        Action::Inspect => Event::Inspected,
        Action::RunHook(_) => Event::HookDone,
        Action::Snapshot { .. } => Event::Snapshotted(Changed::Something),
        Action::Last { .. } => Event::Snapshotted(Changed::Nothing),
        Action::Pass { .. } => Event::PassDone,
        Action::Release { .. } => Event::Released,
        Action::ForgetBefore { .. } => Event::Forgotten,
        Action::Wait => Event::Arm,
        Action::Prove { .. } => Event::Proven,
        Action::Quiesce | Action::CheckQuiet => Event::Quiet(quiet()),
        Action::WriteCertificate => Event::Certified,
        Action::Clean => Event::Cleaned,
        Action::Wake => Event::Woken,
        Action::LabelIncomplete => Event::Labelled,
        Action::Hold => Event::Resume,
        Action::Stop => Event::Started,
        Action::Finish => panic!("it is over"),
    }
}

fn quiet() -> Quiet {
    Quiet {
        how: Shutdown::Pause,
        evidence: "query-status: paused".to_owned(),
    }
}

fn every_hook() -> Vec<Hook> {
    vec![
        Hook::BeforeSnapshot,
        Hook::AfterSnapshot,
        Hook::BeforeCutover,
        Hook::AfterCutover,
        Hook::Done,
    ]
}

#[test]
fn the_shortest_way_is_full_final_proof() {
    let rules = Rules {
        hooks: every_hook(),
        ..Rules::default()
    };
    let mut state = State::default();
    let mut seen = Vec::new();
    while !state.is_over() {
        if seen.last() != Some(&state.phase()) {
            seen.push(state.phase());
        }
        let event = answer(&state.action(&rules));
        state = state.on(&rules, event).unwrap();
    }
    let expected = [
        Phase::Preflight,
        Phase::Full,
        Phase::Wait,
        Phase::Armed,
        Phase::Quiesce,
        Phase::Final,
        Phase::Verify,
        Phase::Final,
        Phase::Verify,
        Phase::Done,
    ];
    assert_eq!(seen, expected);
    assert_eq!((state.point, state.durable), (3, 2));
}

#[test]
fn a_cutover_after_a_point_that_was_lost_on_hold_begins_with_a_pass() {
    let rules = Rules::default();
    let lost = State {
        step: Step::Wait,
        kind: PassKind::Delta,
        point: 3,
        durable: 2,
        inspect: false,
        ..State::default()
    };
    let armed = lost.on(&rules, Event::Arm).unwrap();
    assert_eq!((armed.step, armed.point), (Step::Snapshot, 4));
    let whole = State { durable: 3, ..lost };
    let armed = whole.on(&rules, Event::Arm).unwrap();
    assert_eq!(armed.step, Step::ProveEarly);
}

#[test]
fn a_source_that_differs_in_every_final_pass_stops_and_says_whether_its_list_or_its_loss_told() {
    let rules = Rules::default();
    let last = State {
        step: Step::Last,
        kind: PassKind::Final,
        point: 9,
        durable: 8,
        quiet: Some(quiet()),
        finals: FINALS_MAX,
        inspect: false,
        ..State::default()
    };
    for (changed, told) in [
        (Changed::Something, "still changes"),
        (Changed::Lost, "tracking is lost"),
    ] {
        let state = last.on(&rules, Event::Snapshotted(changed)).unwrap();
        let why = state.stopped.unwrap();
        assert!(why.contains(told), "{why}");
    }
    let state = last
        .on(&rules, Event::Snapshotted(Changed::Unknown))
        .unwrap();
    assert_eq!(state.step, Step::Certify);
}

#[test]
fn what_is_recorded_is_small_and_reads_back_the_same() {
    let state = State {
        quiet: Some(quiet()),
        distrust: Some("the bitmap is inconsistent".to_owned()),
        ..State::default()
    };
    let text = serde_json::to_string(&state).unwrap();
    assert!(text.len() < 1024, "{text}");
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}
