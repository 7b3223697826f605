//! From the first pass to the certificate, and steering on the way.

use super::{Stage, until};
use crate::rig::free_port;
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

const SIZE: u64 = 32 << 20;

#[test]
fn two_disks_that_are_written_all_the_while_arrive_proven_and_nothing_is_left_behind() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 300ms");
    let run = stage.migrate();
    stage.until_durable(3);
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let passes: Vec<_> = outcome
        .events()
        .into_iter()
        .filter(|event| event["event"] == "pass")
        .collect();
    let kinds: Vec<_> = passes
        .iter()
        .map(|pass| pass["pass"].as_str().unwrap())
        .collect();
    assert_eq!((kinds[0], kinds[1]), ("full", "delta"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"final"));
    assert!(passes[1]["changed"].as_u64().unwrap() > 0, "{}", passes[1]);
    let last = passes.last().unwrap();
    assert!(
        last["read"].as_u64().unwrap() < SIZE,
        "the final pass read everything: {last}"
    );
    let migrated = outcome.event("migrated");
    assert!(migrated["outage"].as_f64().unwrap() > 0.0, "{migrated}");
    let status = stage.status();
    assert_eq!(
        (&status["phase"], &status["running"]),
        (&"done".into(), &false.into())
    );
    // The same command again has nothing left to do, and says so.
    stage.migrate().wait().ok();
    stage.steer("cancel").exits(4);
}

#[test]
fn a_downtime_that_fits_cuts_over_by_itself() {
    let more = "precopy-interval: 1h\ncutover: {when: {downtime-below: 20s}}";
    let mut stage = Stage::new(SIZE, more);
    let run = stage.migrate();
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn sigusr1_is_a_cutover_and_sigterm_an_end_that_goes_on() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 300ms\nlimits: {rate: 20M}");
    let run = stage.migrate();
    until("a first pass", || stage.status()["phase"] == "full");
    run.signal(Signal::TERM);
    run.wait().exits(5);
    assert_eq!(stage.status()["running"], false);
    let run = stage.migrate();
    stage.until_durable(1);
    run.signal(Signal::USR1);
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn what_is_held_begins_no_pass_until_it_is_resumed() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 200ms");
    let run = stage.migrate();
    stage.until_durable(1);
    stage.steer("hold").ok();
    until("hold", || stage.status()["phase"] == "hold");
    let held = stage.status()["point"].as_u64().unwrap();
    sleep(Duration::from_millis(1200));
    assert_eq!(stage.status()["point"].as_u64(), Some(held));
    stage.steer("cutover").ok();
    assert_eq!(stage.status()["phase"], "hold", "a hold is a hold");
    stage.steer("resume").ok();
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn what_is_cancelled_leaves_the_vm_as_it_was_and_the_targets_labelled() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let run = stage.migrate();
    stage.until_durable(1);
    stage.steer("cancel").ok();
    stage.finish(run).ok();
    stage.assert_clean();
    assert!(stage.directory().join("INCOMPLETE").exists());
    assert!(!stage.directory().join("certificate.json").exists());
    assert_eq!(stage.status()["phase"], "cancelled");
    stage.migrate().wait().exits(4);
    let journal = stage.directory().join("disks/system.journal");
    let (target, journal) = (stage.devices[0].path(), journal.to_str().unwrap());
    let about = |command| [command, target.to_str().unwrap(), "--journal", journal];
    let shown = stage.room.diskferry(about("inspect")).ok().stdout;
    assert!(shown.contains("INCOMPLETE, the migration"), "{shown}");
    let refused = ["labelled incomplete"];
    stage.room.diskferry(about("verify")).fails(4, &refused);
}

#[test]
fn a_cancel_without_a_process_does_it_itself() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h\nlimits: {rate: 8M}");
    let run = stage.migrate();
    until("a first pass", || stage.record()["disks"][0]["begun"] == 1);
    run.kill();
    let told = stage.steer("status").ok().stdout;
    assert!(told.contains("snapshot   of point 1 may stand"), "{told}");
    stage.steer("cancel").ok();
    stage.assert_clean();
    assert_eq!(stage.status()["snapshot_stands"], false);
    let label = fs::read_to_string(stage.directory().join("INCOMPLETE")).unwrap();
    assert!(label.contains("(disk system)"), "{label}");
}

#[test]
fn metrics_are_there_while_it_runs_and_show_where_it_is() {
    let port = free_port();
    let more = format!("precopy-interval: 1h\nmetrics: '127.0.0.1:{port}'");
    let mut stage = Stage::new(SIZE, &more);
    let run = stage.migrate();
    stage.until_durable(1);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut page = String::new();
    client.read_to_string(&mut page).unwrap();
    assert!(page.contains("diskferry_durable_point 1"), "{page}");
    let written = |line: &&str| line.contains("disk=\"system\",kind=\"written\"");
    let written = page.lines().find(written).unwrap();
    assert!(!written.ends_with(" 0.0"), "{written}");
    stage.steer("cancel").ok();
    stage.finish(run).ok();
    stage.assert_clean();
}

#[test]
fn a_plan_is_checked_and_nothing_is_done() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let plan = stage.plan.to_str().unwrap().to_owned();
    let outcome = stage.room.diskferry(["migrate", "--check", &plan]).ok();
    assert!(
        outcome.stdout.contains("dirty bitmap of node disk0"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("full pass: at most 64.0 MiB"),
        "{}",
        outcome.stdout
    );
    stage.assert_clean();
    assert!(!stage.directory().exists());
    let text = fs::read_to_string(&plan).unwrap();
    fs::write(&plan, text.replace("source: disk1", "source: disk9")).unwrap();
    let check = || stage.room.diskferry(["migrate", "--check", &plan]);
    check().fails(4, &["disk9"]);
    fs::write(&plan, text.replace("how: external", "how: guest")).unwrap();
    check().fails(4, &["has no VM that could be stopped"]);
}

#[test]
fn a_target_that_holds_something_else_is_refused_before_anything_is_made() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let plan = stage.plan.to_str().unwrap().to_owned();
    let check = |stage: &Stage| stage.room.diskferry(["migrate", "--check", &plan]);
    let device = stage.devices[1].path().to_str().unwrap().to_owned();
    let file = stage.room.path("there");
    fs::write(&file, "something").unwrap();
    stage.replan(&device, file.to_str().unwrap());
    check(&stage).fails(
        4,
        &["disk data", "there exists", "`overwrite: true` in a plan"],
    );
    let told = stage.migrate().wait().exits(4).stdout;
    assert!(told.contains("there exists"), "{told}");
    assert_eq!(stage.status()["reached"], "preflight");
    // Nothing was begun by it, so that another target may be named.
    stage.replan(file.to_str().unwrap(), &device);
    let opened = OpenOptions::new().write(true).open(&device).unwrap();
    // The magic number of an ext file system.
    opened.write_all_at(b"\x53\xef", 0x438).unwrap();
    opened.sync_all().unwrap();
    let why = ["disk data", "holds an ext", "`overwrite: true` in a plan"];
    check(&stage).fails(4, &why);
    let told = stage.migrate().wait().exits(4).stdout;
    assert!(why.iter().all(|word| told.contains(word)), "{told}");
    stage.assert_clean();
    // The migration's own bytes are no reason to refuse.
    stage.replan("precopy-interval", "overwrite: true\nprecopy-interval");
    let run = stage.migrate();
    stage.until_durable(1);
    run.signal(Signal::TERM);
    run.wait().exits(5);
    stage.replan("overwrite: true\n", "");
    check(&stage).ok();
    stage.steer("cancel").ok();
    stage.assert_clean();
}
