//! The importer pod for images on servers: what CDI's controllers get to see of it.

use super::{SIZE, web};
use crate::rig::{
    Limits, LoopDevice, Outcome, Room, Running, Web, assert_same_bytes, give_to_pod, run,
    scrambled_disk,
};
use diskferry::testkit::ova;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

pub(super) const DONE: &str =
    r#"{"scratchSpaceRequired":false,"preallocationApplied":false,"message":"Import Complete"}"#;

/// A pod's file system, environment and limits. The room is where the container's root would be.
pub(super) struct Pod {
    pub(super) room: Room,
    device: Option<LoopDevice>,
    limits: Limits,
}

impl Pod {
    pub(super) fn new() -> Self {
        let room = Room::new();
        fs::set_permissions(room.path(""), Permissions::from_mode(0o755)).unwrap();
        for name in ["dev", "data", "extraheaders", "proxycerts"] {
            fs::create_dir(room.path(name)).unwrap();
        }
        give_to_pod(&room.path("dev"));
        give_to_pod(&room.path("data"));
        symlink(env!("CARGO_BIN_EXE_diskferry"), room.path("cdi-importer")).unwrap();
        Self {
            room,
            device: None,
            limits: Limits::new(),
        }
    }

    /// With a block volume that holds something already.
    pub(super) fn with_device(size: u64) -> Self {
        let mut pod = Self::new();
        let device = LoopDevice::new(size, 512);
        symlink(device.path(), pod.room.path("dev/cdi-block-volume")).unwrap();
        fs::write(device.path(), vec![0xee; usize::try_from(size).unwrap()]).unwrap();
        give_to_pod(device.path());
        pod.device = Some(device);
        pod
    }

    pub(super) fn command(&self, source: &str, endpoint: &str, more: &[(&str, &str)]) -> Command {
        let mut command = self.limits.importer(&self.room.path(""));
        command
            .env("DISKFERRY_METRICS", "127.0.0.1:0")
            .env("DISKFERRY_RETRY", "1")
            .env("IMPORTER_SOURCE", source)
            .env("IMPORTER_ENDPOINT", endpoint)
            .env("IMPORTER_CONTENTTYPE", "kubevirt")
            .env("IMPORTER_IMAGE_SIZE", "24Mi")
            .env("OWNER_UID", "u")
            .env("FILESYSTEM_OVERHEAD", "0.06")
            .env("INSECURE_TLS", "false")
            .env("PREALLOCATION", "false")
            .envs(more.iter().copied());
        command
    }

    /// Runs the pod to its end, which must be `code`; gives its termination message.
    #[track_caller]
    pub(super) fn import(
        &self,
        code: i32,
        source: &str,
        endpoint: &str,
        more: &[(&str, &str)],
    ) -> String {
        let _ = fs::remove_file(self.room.path("dev/termination-log"));
        let ended: Outcome = Running::start(self.command(source, endpoint, more)).wait();
        let ended = ended.exits(code);
        let message = fs::read_to_string(self.room.path("dev/termination-log")).unwrap_or_default();
        for secret in ["s3cret", "t0ken"] {
            assert!(!ended.stderr.contains(secret) && !message.contains(secret));
        }
        message
    }

    pub(super) fn disk(&self) -> PathBuf {
        match &self.device {
            Some(device) => device.path().to_owned(),
            None => self.room.path("data/disk.img"),
        }
    }
}

#[test]
fn an_image_of_any_format_goes_straight_onto_the_volume() {
    let (room, web) = (Room::new(), Web::new());
    scrambled_disk(&room.path("raw"), SIZE);
    let raw = room.path("raw").display().to_string();
    fs::copy(room.path("raw"), web.file("disk.img")).unwrap();
    for (name, more) in [
        ("disk.qcow2", &["-c", "-O", "qcow2"][..]),
        (
            "disk.vmdk",
            &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        ),
    ] {
        let file = web.file(name).display().to_string();
        run(
            "qemu-img",
            [&["convert", "-f", "raw"], more, &[&raw, &file]].concat(),
        );
    }
    for name in ["disk.img", "disk.qcow2", "disk.vmdk"] {
        for pod in [Pod::new(), Pod::with_device(SIZE)] {
            let message = pod.import(0, "http", &web.url(name), &[]);
            assert_eq!(message, DONE, "{name}");
            assert_same_bytes(&room.path("raw"), &pod.disk());
            assert!(!pod.room.path("scratch").exists());
        }
    }
}

#[test]
fn a_file_grows_to_what_was_asked_for_and_a_volume_that_is_too_small_is_told_of() {
    let (_room, web) = web("");
    let pod = Pod::new();
    let more = [("IMPORTER_IMAGE_SIZE", "40Mi"), ("PREALLOCATION", "true")];
    let message = pod.import(0, "http", &web.url("disk"), &more);
    assert!(
        message.contains(r#""preallocationApplied":true"#),
        "{message}"
    );
    assert_eq!(fs::metadata(pod.disk()).unwrap().len(), 40 << 20);
    let small = Pod::with_device(SIZE - (1 << 20));
    let message = small.import(1, "http", &web.url("disk"), &[]);
    let line = format!(
        "Unable to process data: virtual image size {SIZE} is larger than the reported available storage {}. A larger PVC is required",
        SIZE - (1 << 20)
    );
    assert_eq!(message, line);
    assert_eq!(
        fs::read(small.disk()).unwrap()[..4],
        [0xee; 4],
        "it was written to"
    );
}

#[test]
fn who_asks_and_whom_it_believes_comes_from_the_pod() {
    let rules = r#"location = /disk {
        auth_basic "images"; auth_basic_user_file $DIR/users;
        if ($http_x_token != "t0ken") { return 418; }
        if ($http_x_plain != "1") { return 418; }
    }"#;
    let (_room, web) = web(rules);
    fs::write(web.file("../users"), "me:{PLAIN}s3cret\n").unwrap();
    let pod = Pod::new();
    let secret = pod.room.path("extraheaders/0");
    fs::create_dir_all(secret.join("..data")).unwrap();
    fs::write(secret.join("..data/secretHeader"), "X-Token: wrong").unwrap();
    fs::write(secret.join("secretHeader"), "X-Token: t0ken\n").unwrap();
    let url = web.https("disk");
    let certificates = web.cert_dir();
    let login = [
        ("IMPORTER_ACCESS_KEY_ID", "me"),
        ("IMPORTER_SECRET_KEY", "s3cret"),
        ("IMPORTER_EXTRA_HEADER_0", "X-Plain: 1"),
    ];
    let message = pod.import(1, "http", &url, &login);
    let start = "Unable to connect to http data source: ";
    assert!(
        message.starts_with(start) && message.contains("TLS"),
        "{message}"
    );
    fs::copy(web.cacert(), pod.room.path("proxycerts/proxy.pem")).unwrap();
    assert_eq!(
        pod.import(0, "http", &url, &login),
        DONE,
        "by the proxy's authority"
    );
    fs::remove_file(pod.room.path("proxycerts/proxy.pem")).unwrap();
    let insecure = [&login[..], &[("INSECURE_TLS", "true")]].concat();
    assert_eq!(pod.import(0, "http", &url, &insecure), DONE);
    // Where a pod has it: below its root.
    fs::create_dir(pod.room.path("certs")).unwrap();
    fs::copy(
        format!("{certificates}/ca.pem"),
        pod.room.path("certs/ca.pem"),
    )
    .unwrap();
    let known = [&login[..], &[("IMPORTER_CERT_DIR", "/certs")]].concat();
    assert_eq!(pod.import(0, "http", &url, &known), DONE);
    assert_same_bytes(&web.file("disk"), &pod.disk());
    let nobody = pod.import(1, "http", &url, &known[2..]);
    assert!(nobody.contains("401"), "{nobody}");
}

#[test]
fn a_checksum_that_is_wrong_is_told_as_a_success_that_is_none() {
    let (_room, web) = web("");
    let pod = Pod::new();
    let line = run("sha256sum", [web.file("disk")]);
    let right = format!("sha256:{}", line.split(' ').next().unwrap());
    let wrong = format!("sha256:{}", "0".repeat(64));
    let message = pod.import(
        0,
        "http",
        &web.url("disk"),
        &[("IMPORTER_CHECKSUM", &wrong)],
    );
    let start = r#"{"message":"Unable to process data: "#;
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains("checksum mismatch: expected"), "{message}");
    assert!(!pod.disk().exists(), "what is not what was published stays");
    let message = pod.import(
        0,
        "http",
        &web.url("disk"),
        &[("IMPORTER_CHECKSUM", &right)],
    );
    assert_eq!(message, DONE);
    assert_same_bytes(&web.file("disk"), &pod.disk());
    let message = pod.import(
        1,
        "http",
        &web.url("disk"),
        &[("IMPORTER_CHECKSUM", "crc:1")],
    );
    assert!(
        message.starts_with("Unable to connect to http data source: invalid checksum"),
        "{message}"
    );
}

#[test]
fn what_goes_wrong_is_one_line_of_the_original() {
    let (_room, web) = web("");
    let pod = Pod::new();
    for (source, endpoint, part) in [
        ("http", web.url("nothing"), "404"),
        ("s3", web.url("images/nothing"), "404"),
        ("s3", "https://host".to_owned(), "no object"),
        ("gcs", "gs://bucket".to_owned(), "no object"),
    ] {
        let message = pod.import(1, source, &endpoint, &[]);
        let start = format!("Unable to connect to {source} data source: ");
        assert!(
            message.starts_with(&start) && message.contains(part),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1);
    }
    for source in ["imageio", "glance"] {
        let message = pod.import(1, source, "x", &[]);
        assert_eq!(message, format!("Unknown data source: {source}"));
    }
}

#[test]
fn an_image_that_another_container_of_the_pod_serves_is_waited_for() {
    let (_room, web) = web("");
    let pod = Pod::new();
    fs::create_dir(pod.room.path("shared")).unwrap();
    give_to_pod(&pod.room.path("shared"));
    fs::write(pod.room.path("shared/ready"), "disk").unwrap();
    let more = [
        ("IMPORTER_READY_FILE", "/shared/ready"),
        ("IMPORTER_DONE_FILE", "/shared/done"),
        ("IMPORTER_PULL_METHOD", "node"),
    ];
    assert_eq!(pod.import(0, "http", &web.url("disk.img"), &more), DONE);
    assert!(pod.room.path("shared/done").exists());
    assert_same_bytes(&web.file("disk"), &pod.disk());
}

#[test]
fn a_service_account_of_the_pod_shows_a_token_to_google_and_its_key_to_nobody() {
    let rules = r#"location = /bucket/disk {
        if ($http_authorization !~ "^Bearer [^.]+[.][^.]+[.][^.]+$") { return 401; }
        alias $DIR/files/disk;
    }"#;
    let (_room, web) = web(rules);
    let pod = Pod::with_device(SIZE);
    let url = web.url("bucket/disk");
    let nobody = pod.import(1, "gcs", &url, &[]);
    assert!(nobody.contains("401"), "{nobody}");
    let key = run(
        "openssl",
        [
            "genpkey",
            "-quiet",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ],
    );
    let file = json!({
        "type": "service_account", "client_email": "me@x.iam", "private_key_id": "k1",
        "private_key": key,
    });
    fs::create_dir(pod.room.path("google")).unwrap();
    fs::write(pod.room.path("google/credentials.json"), file.to_string()).unwrap();
    let more = [("GOOGLE_APPLICATION_CREDENTIALS", "/google/credentials.json")];
    assert_eq!(pod.import(0, "gcs", &url, &more), DONE);
    assert_same_bytes(&web.file("disk"), &pod.disk());
}

#[test]
fn an_image_that_is_compressed_as_a_whole_needs_no_scratch_space() {
    let (_room, web) = web("location = /whole { max_ranges 0; alias $DIR/files/disk; }");
    run(
        "gzip",
        ["-1", "-k", &web.file("disk").display().to_string()],
    );
    for name in ["disk.gz", "whole"] {
        for pod in [Pod::new(), Pod::with_device(SIZE)] {
            assert_eq!(pod.import(0, "http", &web.url(name), &[]), DONE, "{name}");
            assert_same_bytes(&web.file("disk"), &pod.disk());
        }
        let small = Pod::with_device(SIZE - (1 << 20));
        let message = small.import(1, "http", &web.url(name), &[]);
        assert!(
            message.contains("is larger than the reported available"),
            "{message}"
        );
    }
}

/// An archive of a directory with all that has a place in one, made by GNU tar, as `name`.
fn archive(room: &Room, web: &Web, name: &str, how: &str) {
    let script = format!(
        "mkdir -p in/closed in/deep/er && printf disk > in/disk.img && printf x > in/closed/x && \
         head -c 3000000 /dev/urandom > in/deep/er/large && ln -s ../disk.img in/deep/link && \
         ln in/disk.img in/hard && chmod 640 in/disk.img && chmod 500 in/closed && \
         truncate -s 8M in/sparse && tar -S -C in -c{how}f - . > {}",
        web.file(name).display()
    );
    let mut shell = Command::new("bash");
    shell.args(["-ec", &script]).current_dir(room.path("."));
    Running::start(shell).wait().ok();
}

#[test]
fn an_archive_is_unpacked_into_the_volume_with_its_modes_and_links() {
    let web = Web::new();
    for how in ["", "z", "J"] {
        let room = Room::new();
        archive(&room, &web, "files", how);
        let pod = Pod::new();
        let more = [("IMPORTER_CONTENTTYPE", "archive")];
        assert_eq!(
            pod.import(0, "http", &web.url("files"), &more),
            DONE,
            "{how:?}"
        );
        let list = |root: PathBuf| {
            // A directory is as large as its file system wants it.
            let script = "find . ! -type d -printf '%P %y %m %s %n %l\\n' | sort; \
                          find . -mindepth 1 -type d -printf '%P %m\\n' | sort; diff -r . \"$0\"";
            let mut shell = Command::new("bash");
            let original = room.path("in").display().to_string();
            shell.args(["-c", script, &original]).current_dir(root);
            Running::start(shell).wait().ok().stdout
        };
        assert_eq!(
            list(pod.room.path("data")),
            list(room.path("in")),
            "{how:?}"
        );
    }
}

#[test]
fn an_archive_that_leads_out_or_is_cut_off_or_has_no_file_system_is_an_error() {
    let (room, web) = (Room::new(), Web::new());
    archive(&room, &web, "files.gz", "z");
    let bytes = fs::read(web.file("files.gz")).unwrap();
    fs::write(web.file("cut"), &bytes[..bytes.len() / 2]).unwrap();
    let more = [("IMPORTER_CONTENTTYPE", "archive")];
    let message = Pod::new().import(1, "http", &web.url("cut"), &more);
    assert!(
        message.contains("Unable to process data") && message.contains("cut off"),
        "{message}"
    );
    let message = Pod::with_device(1 << 20).import(1, "http", &web.url("files.gz"), &more);
    assert!(
        message.contains("needs a volume with a file system"),
        "{message}"
    );
    let message = Pod::new().import(1, "s3", &web.url("b/files.gz"), &more);
    assert!(message.contains("from web servers only"), "{message}");
    let up = ova::tar(&[("fine", b"x"), ("../out", b"x")]);
    let mut pipe = ova::header("fifo", b'6', 0);
    pipe.extend([0; 1024]);
    for (name, bytes, why) in [("up", up, "leads out"), ("pipe", pipe, "is no file")] {
        fs::write(web.file(name), bytes).unwrap();
        let pod = Pod::new();
        let message = pod.import(1, "http", &web.url(name), &more);
        assert!(message.contains(why), "{message}");
        assert!(!pod.room.path("out").exists());
    }
    let sum = format!("sha256:{}", "0".repeat(64));
    let more = [more[0], ("IMPORTER_CHECKSUM", sum.as_str())];
    let message = Pod::new().import(0, "http", &web.url("files.gz"), &more);
    assert!(message.contains("checksum mismatch"), "{message}");
}
