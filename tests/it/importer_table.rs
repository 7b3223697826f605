//! The importer over every combination of what a controller sets for a disk of a VM.

use crate::importer::source;
use crate::importer_pod::Pod;
use crate::rig::Vcenter;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// What is set, and how the message tells of preallocation.
struct Row {
    env: Vec<(&'static str, String)>,
    preallocated: bool,
    is_delta: bool,
}

/// Cold, first, delta by change id and delta by a snapshot's name; final or not or not said;
/// preallocated or not.
fn rows(vcenter: &Vcenter) -> Vec<Row> {
    let base = vcenter.snapshot("base");
    vcenter.write(0, 70_000, 1000, 5);
    let now = vcenter.snapshot("now");
    let id = base.change_ids[0].clone();
    let checkpoints = [
        (String::new(), String::new()),
        (now.moref.clone(), String::new()),
        (now.moref.clone(), id),
        (now.moref, base.moref),
    ];
    let mut rows = Vec::new();
    for (current, previous) in checkpoints {
        for last in ["", "false", "true"] {
            for preallocation in ["false", "true"] {
                let is_delta = !previous.is_empty();
                rows.push(Row {
                    env: vec![
                        ("IMPORTER_CURRENT_CHECKPOINT", current.clone()),
                        ("IMPORTER_PREVIOUS_CHECKPOINT", previous.clone()),
                        ("IMPORTER_FINAL_CHECKPOINT", last.to_owned()),
                        ("PREALLOCATION", preallocation.to_owned()),
                    ],
                    preallocated: preallocation == "true" && !is_delta,
                    is_delta,
                });
            }
        }
    }
    rows
}

fn golden(preallocated: bool) -> String {
    format!(
        r#"{{"scratchSpaceRequired":false,"preallocationApplied":{preallocated},"vddkInfo":{{"Version":"8.0.2","Host":"esx.example.com"}},"message":"Import Complete"}}"#
    )
}

/// Every row, onto a volume that holds what was at the base where a delta follows, else rubbish.
fn import_all(vcenter: &Vcenter, pod: &Pod<'_>, base: &[u8]) {
    for row in rows(vcenter) {
        let held = match row.is_delta {
            true => base.to_vec(),
            false => vec![0xee; base.len()],
        };
        let file = pod.room.path("data/disk.img");
        pod.hold(&held);
        let env = row.env.iter().map(|(name, value)| (*name, value.as_str()));
        let env: Vec<_> = env.collect();
        assert_eq!(pod.import(0, &env), golden(row.preallocated), "{env:?}");
        assert!(
            pod.content() == source(vcenter),
            "the bytes differ: {env:?}"
        );
        if row.preallocated && pod.device.is_none() {
            let meta = fs::metadata(&file).unwrap();
            let space = meta.blocks() * 512;
            assert!(space >= meta.len(), "{space} of {} bytes", meta.len());
        }
    }
    vcenter.remove_snapshot("base");
    vcenter.remove_snapshot("now");
}

#[test]
fn every_combination_for_a_disk_ends_with_its_bytes_and_the_golden_message() {
    let vcenter = Vcenter::new(&["1M"]);
    vcenter.write(0, 0, 100_000, 1);
    vcenter.write(0, 700_000, 1000, 2);
    let base = source(&vcenter);
    let block = Pod::with_device(&vcenter, 2 << 20);
    import_all(&vcenter, &block, &base);
    let base = source(&vcenter);
    let file = Pod::new(&vcenter);
    import_all(&vcenter, &file, &base);
    assert_eq!(vcenter.tell("sessions"), "0");
}
