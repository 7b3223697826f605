//! Plans that make sense, and every way in which one may not.

use super::{Command, Cutover, HourOfDay, Plan};
use crate::address::Address;
use crate::changes::guest::Shutdown;
use crate::digest::Algorithm;
use crate::error::Kind;
use crate::migrate::phase::{Hook, Prove};
use std::time::Duration;

const SMALL: &str = "
vm: web01
guest: {nbd: {command: [points], bitmap: 'p{since}'}}
disks:
  - {name: system, source: 'nbd://h/{point}', target: /dev/sdb}
";

const LARGE: &str = "
vm: web01
guest:
  nbd: {command: [points, --vm, web01]}
disks:
  - {name: system, source: disk0, target: /dev/sdb}
  - {name: data, source: disk1, target: 'nbd://host/data', tracker: digest}
  - {name: more, source: disk2, target: [nbdkit, memory, 1G]}
precopy-interval: 30m
cutover: {when: {downtime-below: 30s}}
shutdown: {how: guest, timeout: 5m, otherwise: power-off}
limits:
  memory: 128M
  connections: 2
  connections-per-host: 2
  requests: 32
  rate: 100M
  rate-per-host: 50M
  windows: [{from: '22:00', to: '06:00', rate: 0}]
prove: at-cutover
hooks:
  before-cutover: {command: [notify, soon], timeout: 10s}
workers: 2
metrics: 127.0.0.1:9464
overwrite: true
digest: blake3
retry: 1m
distrust-tracking: 0.5
";

/// `SMALL` with one line more, or one thing else.
fn complaint(text: &str) -> String {
    let error = Plan::parse(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{text}");
    error.line()
}

#[test]
fn a_plan_of_a_vm_and_its_disks_is_enough() {
    let plan = Plan::parse(SMALL).unwrap();
    assert_eq!((plan.vm.as_str(), plan.disks.len()), ("web01", 1));
    assert_eq!(plan.precopy_interval, Duration::from_secs(3600));
    assert_eq!(plan.cutover, Cutover::Manual);
    assert_eq!(plan.prove, Prove::BeforeCutover);
    assert_eq!(
        (plan.shutdown.how, plan.shutdown.otherwise),
        (Shutdown::Guest, None)
    );
    assert_eq!(plan.limits.memory, 64 << 20);
    assert!(!plan.overwrite && plan.metrics.is_none() && plan.hooks.is_empty());
}

#[test]
fn every_key_reaches_the_plan() {
    let plan = Plan::parse(LARGE).unwrap();
    assert_eq!(
        plan.cutover,
        Cutover::DowntimeBelow(Duration::from_secs(30))
    );
    assert_eq!(plan.shutdown.otherwise, Some(Shutdown::PowerOff));
    assert_eq!(plan.distrust_ppm, 5000);
    assert_eq!(plan.limits.rate, Some(100 << 20));
    assert_eq!(plan.limits.rate_per_host, Some(50 << 20));
    assert_eq!(
        (plan.limits.connections, plan.limits.requests),
        (Some(2), 32)
    );
    assert_eq!((plan.prove, plan.workers), (Prove::AtCutover, 2));
    assert_eq!(plan.digest, Algorithm::Blake3);
    assert!(plan.disks[1].digest_only && !plan.disks[0].digest_only);
    assert!(matches!(&plan.disks[2].target, Address::Child(words) if words.len() == 3));
    let notify = Command {
        words: vec!["notify".into(), "soon".into()],
        timeout: Duration::from_secs(10),
    };
    assert_eq!(plan.command(Hook::BeforeCutover), Some(&notify));
    assert_eq!(plan.rules().hooks, [Hook::BeforeCutover]);
}

#[test]
fn a_window_may_go_over_midnight_and_the_rest_of_the_day_has_the_usual_rate() {
    let limits = Plan::parse(LARGE).unwrap().limits;
    let at = |hour| limits.rate_at(HourOfDay::parse(hour).unwrap());
    assert_eq!((at("23:00"), at("05:59:59")), (None, None));
    assert_eq!(
        (at("06:00"), at("12:00")),
        (Some(100 << 20), Some(100 << 20))
    );
}

#[test]
fn every_complaint_names_its_place_and_all_are_told_at_once() {
    let text = "
vm: a/b
guest: {carrier-pigeon: {}}
disks:
  - {name: a, source: d, target: /dev/sdb}
  - {name: a, source: d, target: relative}
  - {name: c, source: e, target: /dev/sdb, tracker: magic}
precopy-interval: soon
cutover: {at: tomorrow}
shutdown: {otherwise: guest}
limits: {memory: 1k, requests: 0, connections: 1, rate: fast, windows: [{from: '9', to: '10:00', rate: 1}]}
hooks: {done: {command: []}}
metrics: here
digest: md5
distrust-tracking: some
";
    let line = complaint(text);
    for place in [
        "vm: ",
        "guest.carrier-pigeon: no such kind",
        "disks[1].name: ",
        "disks[1].source: ",
        "disks[1].target: relative is not an absolute path",
        "disks[2].target: ",
        "disks[2].tracker: ",
        "precopy-interval: ",
        "cutover.at: ",
        "shutdown.otherwise: ",
        "limits.memory: 4M at least",
        "limits.requests: ",
        "limits.connections: 2 at least",
        "limits.rate: ",
        "limits.windows[0].from: ",
        "hooks.done.command: ",
        "metrics: ",
        "digest: ",
        "distrust-tracking: ",
    ] {
        assert!(line.contains(place), "{place:?} is not in {line}");
    }
}

#[test]
fn what_has_another_shape_is_told_with_its_line() {
    for (more, told) in [
        ("tagret: x", "tagret"),
        ("limits: 5", "line 6"),
        ("cutover: {at: x, when: {downtime-below: 1s}}", "cutover: "),
        ("cutover: later", "cutover: manual"),
        ("vm: again", "line 6"),
        ("prove: sometimes", "sometimes"),
        ("a: &a [*a]", "line"),
    ] {
        let line = complaint(&format!("{SMALL}{more}\n"));
        assert!(line.contains(told), "{told:?} is not in {line}");
    }
    let line = complaint(&SMALL.replace("bitmap", "bitmpa"));
    assert!(line.contains("guest.nbd: unknown field `bitmpa`"), "{line}");
}

#[test]
fn a_target_that_cannot_be_read_back_needs_a_plan_that_proves_nothing() {
    let text = SMALL.replace("/dev/sdb", "'null:'");
    assert!(complaint(&text).contains("disks[0].target: null: cannot be read back"));
    assert!(Plan::parse(&format!("{text}prove: none\n")).is_ok());
}
