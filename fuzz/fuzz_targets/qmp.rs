//! QMP: any bytes are cut into messages and read, or refused; any answers lead to moves that touch
//! nothing but what bears the migration's name.
//!
//! Input that begins with `[` is taken for the answers to the five queries.

#![no_main]

use diskferry::changes::qmp::DiskAt;
use diskferry::changes::qmp::goal::{Goal, Known, Next, next};
use diskferry::changes::qmp::names::Tag;
use diskferry::changes::qmp::step::{Act, Step};
use diskferry::changes::qmp::survey::{Site, find};
use diskferry::changes::qmp::wire::{Framer, parse};
use diskferry::changes::qmp::world::{World, backup_spares_the_guest};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const MIGRATION: &str = "m";

fn stream(input: &[u8]) {
    let mut whole = Framer::default();
    whole.push(input);
    let mut parts = Framer::default();
    for chunk in input.chunks(7) {
        parts.push(chunk);
    }
    loop {
        let (one, other) = (whole.cut(), parts.cut());
        assert_eq!(one, other);
        match one {
            Ok(Some(message)) => drop(parse(&message)),
            _ => return,
        }
    }
}

fn check(tag: &Tag, disks: &[String], step: &Step) {
    let view = |name: &str| tag.view_number(name).is_some();
    let bitmap = |name: &str| tag.bitmap_parts(name).is_some();
    let disk = |node: &str| disks.iter().any(|name| name == node);
    let ours = match step {
        Step::DropExport(name)
        | Step::Cancel(name)
        | Step::Dismiss(name)
        | Step::DropNode(name) => view(name),
        Step::Unlink(name) => tag.owns_file(name),
        Step::DropBitmap { name, .. } => bitmap(name),
        Step::Overlay { name, disk: of } => view(name) && disk(&of.node),
        Step::Export { name, .. } => view(name),
        Step::Transact(acts) => acts.iter().all(|act| match act {
            Act::Keep {
                node, view: name, ..
            } => disk(node) && view(name),
            Act::Record { node, name }
            | Act::Stop { node, name }
            | Act::Resume { node, name }
            | Act::Forget { node, name } => disk(node) && bitmap(name),
            Act::Merge { node, from, to } => disk(node) && bitmap(from) && bitmap(to),
        }),
        Step::Serve | Step::StopServing => true,
    };
    assert!(ours, "{step:?} touches what is not ours");
}

fn answers(input: &[u8]) {
    let Ok(answers) = serde_json::from_slice::<Vec<Value>>(input) else {
        return;
    };
    for answer in &answers {
        let _ = backup_spares_the_guest(answer);
    }
    let Ok(answers) = <[Value; 5]>::try_from(answers) else {
        return;
    };
    let Ok(world) = World::read(answers) else {
        return;
    };
    let tag = Tag::of(MIGRATION);
    let wanted = [DiskAt::node("a", "disk0"), DiskAt::device("b", "v1")];
    for wanted in [&wanted[..], &wanted[..1], &wanted[1..]] {
        let Ok(disks) = find(&world, wanted) else {
            continue;
        };
        let nodes: Vec<_> = disks.iter().map(|disk| disk.node.clone()).collect();
        let site = Site {
            world: &world,
            tag: &tag,
            disks: &disks,
        };
        let _ = (site.standing(), site.foreign_export());
        for goal in [
            Goal::Frozen {
                number: 2,
                since: Some(1),
            },
            Goal::Frozen {
                number: 2,
                since: None,
            },
            Goal::Still {
                number: 2,
                since: Some(1),
            },
            Goal::Released { number: 2 },
            Goal::Forgotten { before: 2 },
            Goal::Nothing,
        ] {
            if let Next::Do(steps) = next(site, &Known::default(), goal) {
                assert!(!steps.is_empty());
                steps.iter().for_each(|step| check(&tag, &nodes, step));
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    stream(input);
    if input.first() == Some(&b'[') {
        answers(input);
    }
});
