//! A real guest, moved while it writes: from a QEMU here, by a host that has a LUN and a namespace,
//! to where it boots again and finds every entry of its diary.
//!
//! ```text
//!  this machine: QEMU with the guest, its QMP, its NBD server;  tgtd, the LUN
//!       │ QMP and NBD over the network, overlays in a directory that both have
//!  the host: diskferry;  /dev/vda, the LUN over iSCSI;  /dev/nvme0n1, the namespace over NVMe/TCP
//! ```

#![allow(
    clippy::print_stdout,
    reason = "what was measured is part of what the test says"
)]

use super::until;
use crate::rig::{
    Equipment, GATEWAY, Habits, IscsiLun, NAMESPACE, NvmeHost, Proxy, Room, To, Vm, address, diary,
};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const MEBIBYTES: u32 = 16;
const SIZE: u64 = (MEBIBYTES as u64) << 20;

/// Two disks with a diary.
fn disks(room: &Room) -> [PathBuf; 2] {
    let disks = ["log", "table"].map(|name| room.path(name));
    for disk in &disks {
        File::create(disk).unwrap().set_len(SIZE).unwrap();
    }
    diary::begin(&disks, 11, 8192, 600).unwrap();
    disks
}

/// The plan for the host, in the directory that both have.
fn plan(share: &Path, nbd: &Proxy) -> String {
    let text = format!(
        "vm: diarist\n\
         guest: {{qmp: {{socket: /tmp/qmp, scratch: '{}', nbd: '{GATEWAY}:{}', keep-free: 1M}}}}\n\
         disks:\n\
         - {{name: log, source: 'device:device0', target: /dev/vda}}\n\
         - {{name: table, source: 'device:device1', target: {NAMESPACE}}}\n\
         precopy-interval: 1s\n\
         shutdown: {{how: guest, timeout: 60s}}\n",
        share.display(),
        nbd.port()
    );
    let plan = share.join("plan.yaml");
    fs::write(&plan, text).unwrap();
    address(plan)
}

/// Starts the program in the host, and waits until `point` is durable.
fn migrate(host: &mut NvmeHost, plan: &str, point: u64) {
    host.run(&format!(
        "diskferry migrate --json {plan} >/tmp/out 2>&1 & echo $! >/tmp/pid; sleep 1"
    ));
    until("a durable point", || {
        host.tell(&format!("diskferry status --json {plan}"));
        let told = host.hear();
        let status: Option<Value> = told
            .lines
            .first()
            .and_then(|line| serde_json::from_str(line).ok());
        assert!(told.code != 0 || status.is_some(), "{told:?}");
        status.is_some_and(|status| {
            assert_eq!(status["running"], true, "{status}");
            status["durable"].as_u64() >= Some(point)
        })
    });
}

#[test]
fn a_guest_is_drained_while_it_writes_onto_an_iscsi_lun_and_an_nvme_tcp_namespace() {
    let room = Room::new();
    let share = room.path("share");
    fs::create_dir(&share).unwrap();
    let lun = IscsiLun::new(SIZE);
    let mut host = NvmeHost::with(
        MEBIBYTES,
        Equipment {
            disks: &[lun.path()],
            share: Some(&share),
            programs: &["socat"],
        },
    );
    let habits = Habits {
        rate: 20,
        stays: true,
    };
    let mut vm = Vm::start(&disks(&room).map(address), habits);
    let socket = room.path("nbd");
    let server = json!({"type": "unix", "data": {"path": socket}});
    vm.ask("nbd-server-start", &json!({ "addr": server }));
    let (qmp, nbd) = (Proxy::tcp(To::Unix(vm.qmp())), Proxy::tcp(To::Unix(socket)));
    let plan = plan(&share, &nbd);
    let port = qmp.port();
    host.run(&format!(
        "socat UNIX-LISTEN:/tmp/qmp,fork TCP:{GATEWAY}:{port} &"
    ));

    migrate(&mut host, &plan, 2);
    host.run("kill -9 $(cat /tmp/pid)");
    let entry = vm.acknowledged();
    migrate(&mut host, &plan, 3);
    vm.wait_for_entry(entry + 20);
    host.run(&format!("diskferry cutover {plan}"));
    // If that takes too long, it says where it is.
    host.tell(
        "(sleep 100; tail -n 20 /tmp/out) & \
         wait $(cat /tmp/pid); code=$?; kill $!; cat /tmp/out; (exit $code)",
    );
    let told = host.hear();
    assert_eq!(told.code, 0, "{}", told.lines.join("\n"));
    let migrated = told.event("migrated");
    println!(
        "outage {} s, forecast {} s",
        migrated["outage"], migrated["expected_outage"]
    );
    let last = vm.wait_off();
    assert!(last > entry, "it wrote while it was moved");
    assert_nothing_left(&mut vm);
    drop(vm);
    let left = fs::read_dir(&share).unwrap().count();
    assert_eq!(left, 1, "besides the plan");
    host.run(&format!(
        "diskferry verify --certificate {}",
        migrated["certificate"]
    ));

    boots_again(&[address(lun.path()), host.namespace()], habits, last);
}

#[track_caller]
fn assert_nothing_left(vm: &mut Vm) {
    let nodes = vm.ask("query-named-block-nodes", &json!({"flat": true}));
    let nodes = nodes.to_string();
    assert!(!nodes.contains("\"df-"), "left on the VM: {nodes}");
    assert_eq!(vm.ask("query-block-exports", &json!({})), json!([]));
}

/// The guest finds its last entry and all before it, and goes on from there.
#[track_caller]
fn boots_again(disks: &[String], habits: Habits, last: u64) {
    let mut vm = Vm::start(disks, habits);
    assert_eq!(vm.found(), last);
    vm.wait_for_entry(last + 10);
    vm.press_power_button();
    vm.wait_off();
}
