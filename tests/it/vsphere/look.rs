//! `inspect`: how a VM is named, whose certificate is believed, where the password goes.

use super::address;
use crate::rig::{Outcome, PASSWORD, Room, USER, Vcenter};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

/// `inspect` of `vm` at the vCenter, with further keys; the password in the environment.
fn inspect(room: &Room, vcenter: &Vcenter, vm: &str, keys: &str, args: &[&str]) -> Outcome {
    let address = format!("vsphere://{USER}@{}/{vm}?{keys}", vcenter.address());
    let mut command = room.command(["inspect", &address]);
    command
        .args(args)
        .env("DISKFERRY_VSPHERE_PASSWORD", PASSWORD);
    crate::rig::Running::start(command).wait()
}

fn pinned(vcenter: &Vcenter) -> String {
    format!("thumbprint={}", vcenter.thumbprint())
}

#[test]
fn a_vm_is_found_by_each_of_its_names() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    for vm in [
        format!("DC0/vm/{}", vcenter.name()),
        format!("moref={}", vcenter.moref()),
        format!("uuid={}", vcenter.instance_uuid()),
        format!("uuid={}", vcenter.bios_uuid()),
    ] {
        let told = inspect(&room, &vcenter, &vm, &pinned(&vcenter), &["--json"]).ok();
        let found: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(found["moref"], vcenter.moref(), "{vm}");
        assert_eq!(found["warm"], true, "{found}");
        let disk = &found["disks"][0];
        assert_eq!(disk["file"], vcenter.disks()[0].file);
        assert_eq!(disk["capacity"], 1 << 20);
        assert_eq!(disk["object_id"], vcenter.disks()[0].object_id);
    }
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn a_bios_uuid_that_two_vms_have_is_refused_and_both_are_named() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    vcenter.tell(&format!("twin {} DC0_H0_VM1", vcenter.name()));
    let vm = format!("uuid={}", vcenter.bios_uuid());
    let outcome = inspect(&room, &vcenter, &vm, &pinned(&vcenter), &[]);
    outcome.fails(4, &["2 VMs", "BIOS UUID", vcenter.moref()]);
    let vm = format!("uuid={}", vcenter.instance_uuid());
    inspect(&room, &vcenter, &vm, &pinned(&vcenter), &[]).ok();
    assert_eq!(vcenter.tell("sessions"), "0", "also after a failure");
}

#[test]
fn a_vm_that_is_not_there_is_said_to_be_not_there() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    for vm in [
        "DC0/vm/none",
        "moref=vm-99999",
        "uuid=01234567-89ab-cdef-0123-456789abcdef",
    ] {
        let outcome = inspect(&room, &vcenter, vm, &pinned(&vcenter), &[]);
        outcome.fails(4, &["there is no VM", vcenter.address()]);
    }
    let outcome = inspect(&room, &vcenter, "DC0/vm", &pinned(&vcenter), &[]);
    outcome.fails(4, &["is a Folder, not a VM"]);
}

#[test]
fn a_host_without_a_vcenter_will_do() {
    let (room, host) = (Room::new(), Vcenter::esx(&["1M"]));
    let vm = format!("ha-datacenter/vm/{}", host.name());
    let told = inspect(&room, &host, &vm, &pinned(&host), &[]).ok();
    assert!(told.stdout.contains("VMware ESXi"), "{}", told.stdout);
}

#[test]
fn a_certificate_is_believed_for_its_authority_or_its_thumbprint_and_for_nothing_else() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    let vm = format!("moref={}", vcenter.moref());
    for keys in [
        format!("cacert={}", vcenter.ca().display()),
        format!("thumbprint={}", vcenter.sha256()),
        pinned(&vcenter),
    ] {
        inspect(&room, &vcenter, &vm, &keys, &[]).ok();
    }
    let outcome = inspect(&room, &vcenter, &vm, "", &[]);
    outcome.fails(4, &["start TLS with", "certificate", "cacert=FILE"]);
    for right in [vcenter.thumbprint(), vcenter.sha256()] {
        // As long, and another only at its end.
        let wrong = match right.strip_suffix("00") {
            Some(start) => format!("{start}01"),
            None => format!("{}00", &right[..right.len() - 2]),
        };
        let keys = format!("thumbprint={wrong}");
        let outcome = inspect(&room, &vcenter, &vm, &keys, &[]);
        outcome.fails(4, &["the server's thumbprint is", right]);
    }
    assert_eq!(
        vcenter.tell("calls Login"),
        "4",
        "three of ours and the rig's, none untrusted"
    );
}

#[test]
fn a_wrong_password_is_told_and_no_password_is_ever_shown() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    let vm = format!("moref={}", vcenter.moref());
    let address =
        |user: &str, keys: &str| format!("vsphere://{user}@{}/{vm}?{keys}", vcenter.address());
    let pinned = pinned(&vcenter);
    let runs = [
        (address(USER, &pinned), PASSWORD, 0),
        (address(USER, &pinned), "wr0ng-h1dden-$ecret", 4),
        (address("nobody", &pinned), PASSWORD, 4),
        (address(USER, ""), PASSWORD, 4),
        (address(&format!("{USER}:h1dden-$ecret"), &pinned), "", 2),
        (address(USER, &format!("password={PASSWORD}")), "", 2),
    ];
    for (address, password, code) in runs {
        let mut command = room.command(["-vv", "inspect", &address]);
        command.env("DISKFERRY_VSPHERE_PASSWORD", password);
        command.env("DISKFERRY_LOG", "trace");
        let outcome = crate::rig::Running::start(command).wait().exits(code);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!said.is_empty());
        // What the user wrote into the command line is clap's to quote; all else is ours.
        if !address.contains("h1dden") {
            for secret in ["h1dden", "vmware_soap_session="] {
                assert!(!said.contains(secret), "{said}");
            }
        }
        if code == 4 && password.starts_with("wr0ng") {
            assert!(said.contains("InvalidLogin"), "{said}");
        }
    }
}

#[test]
fn snapshots_are_told_apart_and_what_stands_in_the_way_is_named() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    vcenter.snapshot("before the upgrade");
    vcenter.snapshot("diskferry m7 point 2");
    let dir = tempfile::tempdir().unwrap();
    let told = room
        .diskferry(["inspect", &address(&vcenter, dir.path())])
        .ok()
        .stdout;
    assert!(told.contains("\"before the upgrade\""), "{told}");
    assert!(
        told.contains("it has snapshots of others (before the upgrade)"),
        "{told}"
    );
    assert!(
        told.contains("it has a snapshot of the migration m7"),
        "{told}"
    );
    assert!(told.contains("warm       will work"), "{told}");

    vcenter.python("wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))");
    let told = room
        .diskferry(["inspect", &address(&vcenter, dir.path())])
        .ok()
        .stdout;
    assert!(told.contains("warm       will not work"), "{told}");
    assert!(told.contains("changed block tracking is off"), "{told}");
}

/// A proxy that speaks CONNECT, wants a password, and tells what it was asked.
fn proxy() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let (told, asked) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let told = told.clone();
            thread::spawn(move || tunnel(client, &told));
        }
    });
    (port, asked)
}

fn tunnel(mut client: TcpStream, told: &mpsc::Sender<String>) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?).lines();
    let head: Vec<String> = lines
        .by_ref()
        .map_while(Result::ok)
        .take_while(|l| !l.is_empty())
        .collect();
    let to = head.first()?.split(' ').nth(1)?.to_owned();
    let may = head.iter().any(|line| {
        line.to_lowercase()
            .starts_with("proxy-authorization: basic ")
    });
    let _ = told.send(head.first()?.clone());
    if !may {
        let _ = client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
        return None;
    }
    let mut server = TcpStream::connect(to).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut up, mut down) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = io::copy(&mut down, &mut up);
        let _ = up.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    Some(())
}

#[test]
fn a_proxy_is_gone_through_unless_the_server_is_excepted() {
    let (room, vcenter) = (Room::new(), Vcenter::new(&["1M"]));
    let (port, asked) = proxy();
    let dir = tempfile::tempdir().unwrap();
    let address = address(&vcenter, dir.path());
    let run = |proxy: String, except: &str| {
        let mut command = room.command(["inspect", &address]);
        command.env("https_proxy", proxy).env("no_proxy", except);
        crate::rig::Running::start(command).wait()
    };
    run(format!("http://me:pr0xy@127.0.0.1:{port}"), "").ok();
    let line = asked.try_iter().next().expect("the proxy was asked");
    assert_eq!(line, format!("CONNECT {} HTTP/1.1", vcenter.address()));

    let refused = run(format!("http://127.0.0.1:{port}"), "");
    refused.fails(4, &["the proxy", "407"]);
    assert!(asked.try_iter().count() > 0);

    run(format!("http://127.0.0.1:{port}"), "127.0.0.1").ok();
    assert_eq!(asked.try_iter().count(), 0);
    let wrong = run("socks5://127.0.0.1:1".to_owned(), "");
    wrong.fails(1, &["proxy", "http://"]);
}
