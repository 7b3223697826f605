//! Answers as servers send them: those in `fuzz/seeds/soap_answer` were recorded from one.

use super::{Answer, BadAnswer, page, parse, reference};
use crate::vsphere::{changes, disk, tree};
use std::fs;
use std::path::Path;

fn seed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/soap_answer");
    fs::read_to_string(path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_recorded_answer_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/soap_answer");
    let mut read = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let error = parse("NoSuchMethod", &text);
        // A fault is one whatever was called; anything else answers another call.
        match error {
            Ok(Answer::Fault(fault)) => assert!(!fault.name.contains("unknown"), "{fault:?}"),
            Err(BadAnswer::Other { .. }) => {}
            other => panic!("{other:?}: {text}"),
        }
        read += 1;
    }
    assert!(read > 20, "{read}");
}

#[test]
fn a_fault_is_known_by_its_type_even_without_a_text() {
    let Answer::Fault(fault) = parse("FindByUuid", &seed("fault-not-authenticated")).unwrap()
    else {
        panic!("not a fault");
    };
    assert!(fault.not_authenticated());
    assert_eq!(fault.message, "");
    assert_eq!(fault.detail.privilege.as_deref(), Some("System.View"));
}

#[test]
fn an_answer_to_another_call_is_not_taken_for_ours() {
    let text = seed("find-by-uuid");
    assert!(matches!(parse("FindByUuid", &text), Ok(Answer::Done(_))));
    let other = parse("FindAllByUuid", &text);
    assert!(matches!(other, Err(BadAnswer::Other { .. })), "{other:?}");
    let html = parse("Login", "<html><body>proxy login</body></html>");
    assert_eq!(html, Err(BadAnswer::NotSoap("html".to_owned())));
}

#[test]
fn properties_are_read_by_path_and_what_is_not_there_is_not() {
    let Answer::Done(values) = parse("RetrievePropertiesEx", &seed("vm-properties")).unwrap()
    else {
        panic!("a fault");
    };
    let page = page(&values).unwrap();
    let (on, properties) = &page.objects[0];
    assert_eq!(
        (on.kind.as_str(), on.value.as_str()),
        ("VirtualMachine", "vm-63")
    );
    assert_eq!(properties.text("name"), Some("DC0_C0_RP0_VM0"));
    assert_eq!(properties.text("config.changeTrackingEnabled"), None);
    assert_eq!(page.token, None);
}

#[test]
fn a_reference_needs_to_say_what_it_refers_to() {
    let Answer::Done(values) = parse("FindByUuid", &seed("find-by-uuid")).unwrap() else {
        panic!("a fault");
    };
    assert_eq!(reference(&values[0]).unwrap().kind, "VirtualMachine");
    let mut bare = values[0].clone();
    bare.refers_to = None;
    assert!(reference(&bare).is_err());
}

/// Reads a text as everything that it might be.
fn read_all(text: &str) {
    for method in [
        "RetrievePropertiesEx",
        "QueryChangedDiskAreas",
        "FindByUuid",
    ] {
        let Ok(Answer::Done(values)) = parse(method, text) else {
            continue;
        };
        let _ = values.iter().map(reference).count();
        let _ = changes::page(&values);
        for (_, properties) in page(&values).map_or(Vec::new(), |page| page.objects) {
            let _ = properties.get("config.hardware.device").map(disk::disks);
            let _ = tree::snapshots(properties.get("snapshot"));
        }
    }
}

#[test]
fn no_damage_to_a_recorded_answer_is_worse_than_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/soap_answer");
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    let pieces = [
        "<",
        ">",
        "\"",
        "/",
        "&",
        "-1",
        "99999999999999999999",
        "</val>",
        "type=",
        "\u{0}",
    ];
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for _ in 0..60 {
            let mut bytes = text.clone().into_bytes();
            let (at, length) = (random(bytes.len()), random(40));
            let end = bytes.len().min(at + length);
            bytes.splice(at..end, pieces[random(pieces.len())].bytes());
            read_all(&String::from_utf8_lossy(&bytes));
        }
    }
}
