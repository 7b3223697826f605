//! Any text that a server may send: an answer that is read as whatever it might be, or an error.

#![no_main]

use diskferry::extent::ByteRange;
use diskferry::vsphere::changes::{Areas, Known, page as changes_page};
use diskferry::vsphere::disk::disks;
use diskferry::vsphere::soap::answer::{Answer, page, parse, reference};
use diskferry::vsphere::soap::xml;
use diskferry::vsphere::tree::snapshots;
use libfuzzer_sys::fuzz_target;

const METHODS: [&str; 4] = [
    "RetrievePropertiesEx",
    "QueryChangedDiskAreas",
    "RetrieveServiceContent",
    "FindByUuid",
];

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = xml::parse(text);
    for method in METHODS {
        let values = match parse(method, text) {
            Ok(Answer::Done(values)) => values,
            Ok(Answer::Fault(fault)) => {
                assert!(!fault.clone().into_error("ask").line().contains('\n'));
                continue;
            }
            Err(_) => continue,
        };
        for value in &values {
            let _ = reference(value);
        }
        if let Ok(page) = page(&values) {
            for (_, properties) in page.objects {
                let _ = properties.get("config.hardware.device").map(disks);
                let _ = snapshots(properties.get("snapshot"));
            }
        }
        if let Ok(page) = changes_page(&values) {
            let mut areas = Areas::new(1 << 30);
            if areas.take(page.start, &page).is_ok() {
                let window = ByteRange::new(page.start, 1 << 30);
                let Known::Changes { known, changed } = areas.look(window) else {
                    panic!("a page that was taken in is not known");
                };
                assert!(window.covers(known));
                assert!(
                    changed
                        .iter()
                        .all(|area| known.covers(*area) && !area.is_empty())
                );
            }
        }
    }
});
