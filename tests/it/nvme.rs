//! A running disk drained onto an NVMe/TCP namespace, by a host that has one.

use crate::rig::{GATEWAY, NAMESPACE, NvmeHost, Proxy, Qsd, Room, To, run, sparse_disk};
use serde_json::Value;
use std::path::Path;

const MEBIBYTES: u32 = 32;
const SIZE: u64 = (MEBIBYTES as u64) << 20;

/// How the host reaches what is here at `uri`, through the `network`.
fn seen_from_host(uri: &str, network: &Proxy) -> String {
    let export = uri.strip_prefix("nbd+unix:///").unwrap();
    let export = export.split('?').next().unwrap();
    format!("nbd://{GATEWAY}:{}/{export}", network.port())
}

/// The namespace holds the bytes of `disk`: told by programs that know nothing of each other.
#[track_caller]
fn assert_holds(host: &mut NvmeHost, disk: &Path) {
    let ours = run("sha256sum", [disk]);
    let theirs = host.run(&format!("busybox sha256sum {NAMESPACE}")).lines;
    let digest = |line: &str| line.split_whitespace().next().map(str::to_owned);
    assert_eq!(digest(&theirs[0]), digest(&ours), "{theirs:?}");
}

/// What the namespace was seen to do when it is asked to zero.
fn assert_probed(report: &Value) {
    assert_eq!(report["logical_block"], 512, "{report}");
    for limit in ["write_zeroes_max_bytes", "discard_max_bytes"] {
        assert!(report[limit].as_u64().unwrap() >= 1 << 20, "{report}");
    }
    let methods = report["methods"].as_array().unwrap();
    let method = |name: &str| methods.iter().find(|one| one["method"] == name).unwrap();
    let hole = method("punch-hole");
    assert_eq!(hole["supported"], true, "{report}");
    assert_eq!(hole["reads_back_zero"], true, "{report}");
    // Taken, and nothing done about it, by the disk in memory of Linux 6.1 behind NVMe: whoever
    // believed it would keep what was there before. A later kernel may do it; ask it nothing.
    assert_eq!(method("discard")["supported"], true, "{report}");
}

#[test]
fn a_running_disk_is_drained_warm_onto_an_nvme_tcp_namespace_and_proven() {
    let room = Room::new();
    let disk = room.path("disk");
    sparse_disk(&disk, SIZE, 40, 31);
    let mut host = NvmeHost::new(MEBIBYTES);
    let mut qsd = Qsd::new(&disk);
    let network = Proxy::tcp(To::Unix(qsd.socket()));
    let mut guest = qsd.guest();
    // What was on the namespace before must not show through.
    host.run(&format!(
        "busybox yes | dd of={NAMESPACE} bs=1048576 count={MEBIBYTES} iflag=fullblock conv=fsync"
    ));

    let view = qsd.freeze("b1", None);
    let source = seen_from_host(&view.uri, &network);
    let full = host.run(&format!(
        "diskferry copy --json --overwrite {source} {NAMESPACE}"
    ));
    assert_eq!(full.event("done")["pass"], "full");
    assert_probed(&full.event("probe")["report"]);
    qsd.thaw(view);

    guest.write(7, 1 << 20, 3 << 20);
    guest.zero(6 << 20, 1 << 20);
    let view = qsd.freeze("b2", Some("b1"));
    let source = seen_from_host(&view.uri, &network);
    network.cut_after(1 << 20);
    host.tell(&format!(
        "diskferry copy --json --changes-since nbd-bitmap:b1 {source} {NAMESPACE}"
    ));
    network.wait_until_cut();
    network.mend();
    let delta = host.hear();
    assert_eq!(delta.code, 0, "{:#?}", delta.lines);
    let done = delta.event("done");
    assert_eq!(done["pass"], "delta");
    assert!(done["retries"].as_u64().unwrap() > 0, "{done}");
    assert!(done["read"].as_u64().unwrap() < SIZE / 4, "{done}");
    qsd.thaw(view);

    guest.write(9, 20 << 20, 1 << 20);
    drop(guest);
    let last = seen_from_host(&qsd.cut_over("b2"), &network);
    let proven = host.run(&format!(
        "diskferry copy --json --changes-since nbd-bitmap:b2 --final {last} {NAMESPACE}"
    ));
    let done = proven.event("done");
    assert_eq!(done["pass"], "final");
    assert_eq!(done["proven"], true);
    assert_holds(&mut host, &disk);
    host.run(&format!("diskferry verify {NAMESPACE}"));
    host.run(&format!("diskferry compare --strict {last} {NAMESPACE}"));

    // And all of them would have noticed.
    host.run(&format!(
        "echo x | dd of={NAMESPACE} bs=1 seek=5000000 count=1 conv=fsync"
    ));
    for command in [
        format!("diskferry verify {NAMESPACE}"),
        format!("diskferry compare {last} {NAMESPACE}"),
    ] {
        host.tell(&command);
        let told = host.hear();
        assert_eq!(told.code, 3, "{command}: {:#?}", told.lines);
    }
}
