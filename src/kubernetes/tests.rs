//! Jobs for plans: what is in them, and what is refused.

use super::{Migration, Wish, render};
use crate::error::Kind;
use crate::migrate::plan::Plan;
use serde_json::Value;

fn plan(vm: &str, host: &str, targets: &[&str]) -> Migration {
    let disks: String = targets
        .iter()
        .enumerate()
        .map(|(at, target)| format!("  - {{name: d{at}, source: '{at}', target: {target}}}\n"))
        .collect();
    let text = format!(
        "vm: {vm}\nguest:\n  vsphere:\n    address: vsphere://u@{host}/moref=vm-1?password-file=/run/secrets/vcenter/password\n    \
         vddk: {{libdir: /opt/vmware-vix-disklib-distrib}}\ndisks:\n{disks}"
    );
    let plan = Plan::parse(&text).unwrap();
    let sizes = vec![(10 << 30) + 1; targets.len()];
    Migration {
        plan,
        sizes,
        host: None,
    }
}

fn wish() -> Wish {
    Wish {
        image: "i:1".to_owned(),
        vddk_image: Some("v:1".to_owned()),
        secret: "vcenter".to_owned(),
        ..Wish::default()
    }
}

fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("---\n").filter(|text| !text.is_empty());
    documents
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect()
}

#[test]
fn a_vm_is_a_job_whose_disks_are_block_volumes_where_its_plan_has_them() {
    let migration = plan("Web_01", "vc", &["/dev/disk/a", "nbd://h/x", "/dev/disk/b"]);
    let plain = objects(&render(std::slice::from_ref(&migration), &wish()).unwrap());
    assert_eq!(kinds(&plain), ["ConfigMap", "Job"]);
    assert_eq!(plain[0]["data"]["plan.yaml"], *migration.plan.text);
    let pod = &plain[1]["spec"]["template"]["spec"];
    let devices = &pod["containers"][0]["volumeDevices"];
    assert_eq!(devices[0]["devicePath"], "/dev/disk/a");
    assert_eq!(devices[1]["devicePath"], "/dev/disk/b");
    let text = pod["volumes"].to_string();
    for claim in ["web-01-d0", "web-01-d2", "web-01-state"] {
        assert!(text.contains(claim), "{text}");
    }
    assert!(!text.contains("web-01-d1"), "{text}");

    let classy = Wish {
        storage_class: Some("san".to_owned()),
        ..wish()
    };
    let all = objects(&render(&[migration], &classy).unwrap());
    let claim = "PersistentVolumeClaim";
    assert_eq!(kinds(&all), ["ConfigMap", claim, claim, claim, "Job"]);
    assert_eq!(all[1]["spec"]["volumeMode"], "Block");
    assert_eq!(
        all[1]["spec"]["resources"]["requests"]["storage"], "10241Mi",
        "a byte more is a whole unit more"
    );
}

#[test]
fn one_indexed_job_has_the_vms_of_one_server_and_no_more_at_once_than_allowed() {
    let migrations = [
        plan("a", "esx1", &["/images/a.img"]),
        plan("b", "esx2", &["/images/b/root.img", "/images/b/data.img"]),
        plan("c", "esx1", &["/images/c.img"]),
        plan("d", "esx1", &["/images/d.img"]),
    ];
    let wish = Wish {
        indexed: true,
        files: Some("images".to_owned()),
        ..wish()
    };
    let all = objects(&render(&migrations, &wish).unwrap());
    assert_eq!(kinds(&all), ["ConfigMap", "Job", "ConfigMap", "Job"]);
    assert_eq!(all[0]["data"]["2.yaml"], *migrations[3].plan.text);
    let spec = &all[1]["spec"];
    assert_eq!(
        (&spec["completions"], &spec["parallelism"]),
        (&3.into(), &2.into())
    );
    assert_eq!(all[3]["spec"]["parallelism"], 1);
    let mounts = &spec["template"]["spec"]["containers"][0]["volumeMounts"];
    assert!(mounts.to_string().contains("\"/images\""), "{mounts}");
    let wish = Wish {
        per_host: Some(9),
        ..wish
    };
    let all = objects(&render(&migrations, &wish).unwrap());
    assert_eq!(all[1]["spec"]["parallelism"], 3, "no more than there are");
}

#[test]
fn vms_of_one_vcenter_are_counted_by_their_hosts_if_those_were_asked_for() {
    let on = |vm: &str, host: &str| Migration {
        host: Some(host.to_owned()),
        ..plan(vm, "vc", &["/images/a"])
    };
    let migrations = [on("a", "ESX1.x"), on("b", "esx2.x"), on("c", "esx1.x")];
    let wish = Wish {
        indexed: true,
        files: Some("images".to_owned()),
        per_host: Some(1),
        ..wish()
    };
    let all = objects(&render(&migrations, &wish).unwrap());
    let told = |at: usize| {
        (
            &all[at]["metadata"]["name"],
            &all[at]["spec"]["completions"],
        )
    };
    assert_eq!(kinds(&all), ["ConfigMap", "Job", "ConfigMap", "Job"]);
    assert_eq!(told(1), (&"esx1-x".into(), &2.into()));
    assert_eq!(told(3), (&"esx2-x".into(), &1.into()));
}

#[test]
fn a_quota_counts_the_pods_of_each_host_and_no_others() {
    let migrations = [
        plan("a", "esx1", &["/dev/a"]),
        plan("b", "esx2", &["/dev/b"]),
        plan("c", "esx1:443", &["/dev/c"]),
    ];
    let wish = Wish {
        per_host: Some(2),
        namespace: Some("moves".to_owned()),
        ..wish()
    };
    let all = objects(&render(&migrations, &wish).unwrap());
    let (class, quota) = ("PriorityClass", "ResourceQuota");
    assert_eq!(kinds(&all)[..5], [class, quota, class, quota, "ConfigMap"]);
    assert_eq!(all[0]["metadata"]["name"], "diskferry-esx1");
    assert!(all[0]["metadata"]["namespace"].is_null(), "it has none");
    assert_eq!(
        (&all[0]["value"], &all[0]["preemptionPolicy"]),
        (&0.into(), &"Never".into())
    );
    assert_eq!(all[1]["metadata"]["namespace"], "moves");
    assert_eq!(all[1]["spec"]["hard"]["pods"], "2");
    let counted = &all[1]["spec"]["scopeSelector"]["matchExpressions"][0];
    assert_eq!(counted["scopeName"], "PriorityClass");
    assert_eq!(counted["values"][0], "diskferry-esx1");
    let jobs = all.iter().filter(|object| object["kind"] == "Job");
    let classes = jobs.map(|job| job["spec"]["template"]["spec"]["priorityClassName"].as_str());
    let expected = ["diskferry-esx1", "diskferry-esx2", "diskferry-esx1"];
    assert_eq!(classes.collect::<Vec<_>>(), expected.map(Some));
    let free = render(&migrations, &super::tests::wish()).unwrap();
    assert!(!free.contains("priorityClassName"), "{free}");
}

#[test]
fn no_two_disks_are_on_one_claim() {
    let named = |vm: &str, disk: &str| {
        let mut migration = plan(vm, "h", &["/dev/a"]);
        migration.plan.disks[0].name = disk.to_owned();
        migration
    };
    for (one, other) in [
        (named("a-b", "c"), named("a", "b-c")),
        (named("a", "d"), named("a-d", "state")),
        (named("a", "b-state"), named("a-b", "c")),
    ] {
        let error = render(&[one, other], &wish()).unwrap_err();
        assert!(error.line().contains("on the claim a-"), "{}", error.line());
    }
    let long = plan(&"v".repeat(63), "h", &["/dev/a", "/dev/b"]);
    let text = render(&[long], &wish()).unwrap();
    let claim = |disk: &str| text.contains(&format!("{}-{disk}", "v".repeat(63)));
    assert!(claim("d0") && claim("d1"), "{text}");
}

#[test]
fn what_a_pod_cannot_have_is_refused_and_named() {
    let indexed = Wish {
        indexed: true,
        files: Some("images".to_owned()),
        ..wish()
    };
    let qemu = "vm: q\nguest: {qmp: {socket: /q, scratch: /s}}\ndisks: [{name: a, source: d, target: /dev/x}]\n";
    let qemu = Migration {
        plan: Plan::parse(qemu).unwrap(),
        sizes: Vec::new(),
        host: None,
    };
    let cases = [
        (vec![qemu], wish(), "is not reached over a network"),
        (
            vec![plan("a", "h", &["/images/a"])],
            wish(),
            "--files CLAIM",
        ),
        (
            vec![plan("a", "h", &["/dev/a"])],
            indexed.clone(),
            "same volumes",
        ),
        (
            vec![plan("a", "h", &["nbd://x/y"])],
            indexed,
            "leave out --indexed",
        ),
        (
            vec![plan("a", "h", &["/dev/a"]), plan("A", "h", &["/dev/b"])],
            wish(),
            "two VMs",
        ),
        (
            vec![plan("a", "h", &["[nbdkit, memory]"])],
            wish(),
            "a server that is started",
        ),
    ];
    for (migrations, wish, part) in cases {
        let error = render(&migrations, &wish).unwrap_err();
        assert!(error.line().contains(part), "{part}: {}", error.line());
        assert!([Kind::Usage, Kind::Unsupported].contains(&error.kind()));
    }
}
