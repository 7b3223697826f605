//! A process dies between any two commands that change something; another one goes on, or cleans
//! up.

use super::{SIZE, daemon, lists, of_daemon, scratch};
use crate::rig::{Emulator, Gate, Room};
use diskferry::changes::guest::{Guest as _, Point};
use diskferry::changes::qmp::Qmp;
use diskferry::error::{Error, Kind};
use std::collections::BTreeSet;

/// What a migration asks, step by step, with what the guest does in between.
const STEPS: usize = 14;

/// One step. Writes happen once, whoever asks.
async fn step(qmp: &Qmp, emulator: &mut Emulator, number: usize) -> Result<(), Error> {
    const KIB: u64 = 1024;
    let write = |offset: u64| {
        for disk in 0..2 {
            emulator.guest(disk).write(7, offset, 4 * KIB);
        }
    };
    let all_list = |points: &[Point], offsets: &[u64]| {
        for (point, offset) in points
            .iter()
            .flat_map(|p| offsets.iter().map(move |o| (p, *o)))
        {
            assert!(
                lists(point, &(offset..offset + 4 * KIB)),
                "{offset} of {point:?}"
            );
        }
    };
    match number {
        0 => drop(qmp.snapshot(1, None).await?),
        1 => write(0),
        2 => qmp.release(1).await?,
        3 => write(SIZE / 2),
        4 => all_list(&qmp.snapshot(2, Some(1)).await?, &[0, SIZE / 2]),
        5 => write(SIZE / 4),
        // This point is given up: its number is not used again.
        6 => qmp.release(2).await?,
        7 => all_list(&qmp.snapshot(3, Some(1)).await?, &[0, SIZE / 2, SIZE / 4]),
        8 => write(SIZE / 8),
        9 => {
            qmp.release(3).await?;
            qmp.forget_before(3).await?;
            emulator.drop_guests();
        }
        10 => all_list(&qmp.last(4, Some(3)).await?, &[SIZE / 8]),
        11 => qmp.release(4).await?,
        12 => qmp.forget_before(4).await?,
        _ => drop(qmp.clean().await?),
    }
    Ok(())
}

/// A fresh daemon, and a process that dies at its `commands`-th change: at which step.
async fn die(room: &Room, commands: usize) -> (Emulator, BTreeSet<String>, Option<usize>) {
    let disks: Vec<_> = ["a", "b"].map(|name| room.path(name)).to_vec();
    for disk in &disks {
        std::fs::File::create(disk).unwrap().set_len(SIZE).unwrap();
    }
    let mut emulator = Emulator::daemon(&disks);
    let mut before = emulator.inventory();
    before.retain(|name| !name.starts_with("export guest"));
    // Half of them die before the command is delivered, half before it is answered.
    let gate = Gate::new(emulator.qmp(), commands / 2, commands % 2 == 1, false);
    let mut options = of_daemon(room, &emulator, 2);
    options.socket = gate.socket();
    let qmp = Qmp::new(options).unwrap();
    for number in 0..STEPS {
        if let Err(error) = step(&qmp, &mut emulator, number).await {
            assert_eq!(error.kind(), Kind::Transient, "{error:?}");
            return (emulator, before, Some(number));
        }
    }
    assert!(gate.passed() > 30, "only {} commands", gate.passed());
    (emulator, before, None)
}

fn assert_clean(room: &Room, emulator: &mut Emulator, before: &BTreeSet<String>) {
    let mut after = emulator.inventory();
    after.retain(|name| !name.starts_with("export guest"));
    assert_eq!(&after, before);
    assert_eq!(scratch(room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_after_any_command_misses_no_change_and_leaves_nothing() {
    let mut died = BTreeSet::new();
    for commands in 0.. {
        let room = Room::new();
        let (mut emulator, before, at) = die(&room, commands).await;
        let Some(at) = at else { break };
        died.insert(at);
        let qmp = Qmp::new(of_daemon(&room, &emulator, 2)).unwrap();
        for number in at..STEPS {
            let done = step(&qmp, &mut emulator, number).await;
            done.unwrap_or_else(|e| panic!("command {commands}, step {number} after {at}: {e:?}"));
        }
        assert_clean(&room, &mut emulator, &before);
    }
    let asking: BTreeSet<_> = [0, 2, 4, 6, 7, 9, 10, 11, 12, 13].into();
    assert_eq!(died, asking, "some step was never died in");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cleans_up_after_any_command_leaves_nothing() {
    for commands in 0.. {
        let room = Room::new();
        let (mut emulator, before, at) = die(&room, commands).await;
        if at.is_none() {
            break;
        }
        let qmp = Qmp::new(of_daemon(&room, &emulator, 2)).unwrap();
        qmp.clean().await.unwrap();
        assert_clean(&room, &mut emulator, &before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_in_the_middle_is_made_anew_and_the_call_repeated() {
    for commands in 0..12 {
        let room = Room::new();
        let (emulator, _) = daemon(&room, 2);
        let gate = Gate::new(emulator.qmp(), commands / 2, commands % 2 == 1, true);
        let mut options = of_daemon(&room, &emulator, 2);
        options.socket = gate.socket();
        let qmp = Qmp::new(options).unwrap();
        let mut points = qmp.snapshot(1, None).await;
        if let Err(error) = &points {
            assert_eq!(error.kind(), Kind::Transient, "{error:?}");
            points = qmp.snapshot(1, None).await;
        }
        assert_eq!(points.unwrap().len(), 2);
        if let Err(error) = qmp.clean().await {
            assert_eq!(error.kind(), Kind::Transient, "{error:?}");
            qmp.clean().await.unwrap();
        }
        assert_eq!(scratch(&room), Vec::<String>::new());
    }
}
