//! The importer pod for objects in S3 and in Google Cloud Storage.

use super::SIZE;
use super::pod::{DONE, Pod};
use crate::rig::{ObjectStore, Room, Running, S3_KEY, S3_SECRET, assert_same_bytes, random_disk};
use std::fs;

const KEY: &str = "IMPORTER_ACCESS_KEY_ID";
const SECRET: &str = "IMPORTER_SECRET_KEY";

#[test]
fn an_object_in_s3_is_imported_by_whom_it_is_for_and_by_nobody_else() {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 54);
    let s3 = ObjectStore::s3(&room.path("disk"));
    let pod = Pod::with_device(SIZE);
    let wrong = format!("{S3_SECRET}x");
    let nearly = S3_SECRET.to_uppercase();
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("nobody", &[]),
        ("a wrong secret", &[(KEY, S3_KEY), (SECRET, &wrong)]),
        ("nearly the secret", &[(KEY, S3_KEY), (SECRET, &nearly)]),
        (
            "an unknown key",
            &[(KEY, "AKIAIOSFODNN7NOBODYS"), (SECRET, S3_SECRET)],
        ),
        ("a key without a secret", &[(KEY, S3_KEY)]),
    ];
    for (who, login) in cases {
        let message = pod.import(1, "s3", &s3.url(), login);
        let start = "Unable to connect to s3 data source: ";
        assert!(message.starts_with(start), "{who}: {message}");
        assert!(message.contains("403 Forbidden"), "{who}: {message}");
        assert_eq!(message.lines().count(), 1, "{who}: {message}");
        // What a signature is made of is in the query, and of no use to whoever reads this.
        for never in [S3_SECRET, &wrong, &nearly, "X-Amz", "AKIA"] {
            assert!(!message.contains(never), "{who}: {message}");
        }
        let start = &fs::read(pod.disk()).unwrap()[..4];
        assert_eq!(start, [0xee; 4], "{who}: it was written to");
    }
    let login = [(KEY, S3_KEY), (SECRET, S3_SECRET)];
    let gone = pod.import(1, "s3", &s3.url().replace("disk", "none"), &login);
    assert!(gone.contains("404 Not Found"), "{gone}");
    assert_eq!(pod.import(0, "s3", &s3.url(), &login), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
}

#[test]
fn an_object_in_google_cloud_storage_is_imported() {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 54);
    let gcs = ObjectStore::gcs(&room.path("disk"));
    let pod = Pod::with_device(SIZE);
    assert_eq!(pod.import(0, "gcs", &gcs.url(), &[]), DONE);
    assert_same_bytes(&room.path("disk"), &pod.disk());
    let gone = pod.import(1, "gcs", &gcs.url().replace("disk", "none"), &[]);
    assert!(gone.contains("404"), "{gone}");
}

#[test]
fn neither_a_log_nor_a_journal_has_the_secret_or_what_it_signed() {
    let room = Room::new();
    random_disk(&room.path("disk"), 1 << 20, 55);
    let s3 = ObjectStore::s3(&room.path("disk"));
    let pod = Pod::with_device(1 << 20);
    let journal = pod.room.path("data/journal").display().to_string();
    for (secret, code, word) in [
        (S3_SECRET, 0, "Data transfer size"),
        ("another-s3cret", 1, "403 Forbidden"),
    ] {
        let login = [(KEY, S3_KEY), (SECRET, secret)];
        let loud = [("DISKFERRY_LOG", "trace"), ("DISKFERRY_JOURNAL", &*journal)];
        let env = [login, loud].concat();
        let ended = Running::start(pod.command("s3", &s3.url(), &env)).wait();
        let said = ended.exits(code).stderr;
        assert!(said.contains(word), "{said}");
        let kept = fs::read(&journal).unwrap();
        let kept = String::from_utf8_lossy(&kept);
        assert!(kept.contains("images/dir/disk"), "{kept}");
        for never in ["s3cret", "X-Amz-"] {
            assert!(!said.contains(never), "{said}");
            assert!(!kept.contains(never), "{kept}");
        }
    }
}
