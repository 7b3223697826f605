//! `diskferry plan jobs`: what Kubernetes is given, by Kubernetes' own schemas.

use crate::rig::{PASSWORD, Room, USER, Vcenter, run};
use std::fs;
use std::path::{Path, PathBuf};

/// Words after `plan jobs`, and the manifest of docs/deploy that they print.
const KEPT: [(&str, &str); 3] = [
    (
        "--image registry.example.com/diskferry:0.1.0 --vddk-image registry.example.com/vddk:8 \
         plans/web01.plan",
        "migrate-job.yaml",
    ),
    (
        "--image registry.example.com/diskferry:0.1.0 --vddk-image registry.example.com/vddk:8 \
         --secret esx1 --files images --indexed --per-host 2 plans/esx1.plans",
        "indexed-job.yaml",
    ),
    (
        "--image registry.example.com/diskferry:0.1.0 --vddk-image registry.example.com/vddk:8 \
         --per-host 2 plans/vc.plans",
        "limited-jobs.yaml",
    ),
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy")
}

fn jobs(room: &Room, words: &str) -> String {
    let mut command = room.command(["plan", "jobs"].into_iter().chain(words.split_whitespace()));
    let output = command.current_dir(deploy()).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {why}");
    String::from_utf8(output.stdout).unwrap()
}

/// By Kubernetes' schemas, and for restricted pods.
fn validate(file: &Path) {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = python.join("venv/bin/python3");
    let words = [deploy().join("validate"), file.to_path_buf()];
    let said = run(&python.display().to_string(), words);
    assert!(said.contains("1 files are sound"), "{said}");
}

#[test]
fn the_manifests_of_the_documentation_are_what_is_printed() {
    let room = Room::new();
    for (words, name) in KEPT {
        let kept = deploy().join(name);
        let printed = jobs(&room, words);
        if std::env::var_os("DISKFERRY_BLESS").is_some() {
            fs::write(&kept, &printed).unwrap();
        }
        assert_eq!(printed, fs::read_to_string(&kept).unwrap(), "{name}");
        validate(&kept);
    }
}

/// Two VMs of one vCenter, on two hosts of it.
#[test]
fn vms_are_counted_by_the_hosts_that_they_are_on() {
    let (vcenter, room) = (Vcenter::new(&["1M"]), Room::new());
    let password = room.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let plan = |vm: &str| {
        format!(
            "---\nvm: {vm}\nguest:\n  vsphere:\n    address: 'vsphere://{USER}@{}/DC0/vm/{vm}?thumbprint={}&password-file={}'\n\
             \x20   vddk: {{libdir: /opt/vmware-vix-disklib-distrib}}\n\
             disks:\n  - {{name: root, source: 'scsi0:0', target: /dev/disks/{vm}}}\n",
            vcenter.address(),
            vcenter.thumbprint(),
            password.display(),
        )
    };
    let file = room.path("two.plans");
    fs::write(&file, plan("DC0_H0_VM0") + &plan("DC0_H1_VM0")).unwrap();
    let words = format!("--image i:1 --per-host 1 --ask-hosts {}", file.display());
    let printed = jobs(&room, &words);
    for host in ["dc0-h0", "dc0-h1"] {
        for part in ["priorityClassName: diskferry-", "  - diskferry-"] {
            assert!(printed.contains(&format!("{part}{host}\n")), "{printed}");
        }
    }
    assert_eq!(
        printed.matches("kind: ResourceQuota").count(),
        2,
        "{printed}"
    );
    let manifest = room.path("jobs.yaml");
    fs::write(&manifest, printed).unwrap();
    validate(&manifest);
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn claims_are_as_large_as_the_disks_that_the_vm_has() {
    let (vcenter, room) = (Vcenter::new(&["5M", "3M"]), Room::new());
    let password = room.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let plan = format!(
        "vm: web01\nguest:\n  vsphere:\n    address: 'vsphere://{USER}@{}/moref={}?thumbprint={}&password-file={}'\n\
         \x20   vddk: {{libdir: /opt/vmware-vix-disklib-distrib}}\n\
         disks:\n  - {{name: root, source: '{}', target: /dev/disks/root}}\n\
         \x20 - {{name: data, source: '{}', target: /dev/disks/data}}\n",
        vcenter.address(),
        vcenter.moref(),
        vcenter.thumbprint(),
        password.display(),
        vcenter.disks()[0].file,
        vcenter.disks()[1].key,
    );
    let file = room.path("web01.plan");
    fs::write(&file, plan).unwrap();
    let words = format!(
        "--image i:1 --storage-class san -n moves {}",
        file.display()
    );
    let printed = jobs(&room, &words);
    for size in ["storage: 5Mi", "storage: 3Mi", "storage: 1Gi"] {
        assert!(printed.contains(size), "{size}: {printed}");
    }
    let manifest = room.path("jobs.yaml");
    fs::write(&manifest, printed).unwrap();
    validate(&manifest);
    assert_eq!(vcenter.tell("sessions"), "0");
}
