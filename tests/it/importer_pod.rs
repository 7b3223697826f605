//! The importer's pod: a file system, an environment and limits as CDI's controller makes them.

use crate::rig::{
    Limits, LoopDevice, PASSWORD, Room, Running, USER, Vcenter, free_port, give_to_pod, run,
};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) const UID: &str = "0d2a4c1e-1b9e-4a57-8f0e-6a2b8c1d3e4f";

/// The controllers' own regular expressions, what a scrape of theirs does, and the page with every
/// number a `#`.
const SCRAPE: &str = r#"
import re, ssl, sys, urllib.request
context = ssl._create_unverified_context()
page = urllib.request.urlopen(f"https://127.0.0.1:{sys.argv[1]}/metrics", context=context, timeout=2)
page = page.read().decode()
uid = sys.argv[2]
cdi = re.compile(r'(kubevirt_cdi_import_progress_total|kubevirt_cdi_clone_progress_total)\{ownerUID\="'
                 + uid + r'"\} (\d{1,3}\.?\d*)').search(page)
populator = re.compile(r'progress\{ownerUID="' + uid + r'"\} (\d+\.?\d*)').search(page)
print(cdi.group(2), populator.group(1))
print(re.sub(r" [0-9.]+$", " #", page, flags=re.M), end="")
"#;

/// All that a scrape gets.
const PAGE: &str = r##"# HELP kubevirt_cdi_import_progress_total The import progress in percentage
# TYPE kubevirt_cdi_import_progress_total counter
kubevirt_cdi_import_progress_total{ownerUID="0d2a4c1e-1b9e-4a57-8f0e-6a2b8c1d3e4f"} #
# HELP diskferry_populator_progress The same, for volume populators
# TYPE diskferry_populator_progress gauge
diskferry_populator_progress{ownerUID="0d2a4c1e-1b9e-4a57-8f0e-6a2b8c1d3e4f"} #
# HELP diskferry_bytes_total Bytes of this pass by what was done with them
# TYPE diskferry_bytes_total counter
diskferry_bytes_total{kind="read"} #
diskferry_bytes_total{kind="written"} #
diskferry_bytes_total{kind="zeroed"} #
diskferry_bytes_total{kind="skipped"} #
diskferry_bytes_total{kind="verified"} #
# HELP diskferry_retries_total Requests that were repeated
# TYPE diskferry_retries_total counter
diskferry_retries_total #
# HELP diskferry_disk_size_bytes Size of the disk
# TYPE diskferry_disk_size_bytes gauge
diskferry_disk_size_bytes #
"##;

/// A pod's file system, environment and limits. The room is where the container's root would be.
pub(crate) struct Pod<'a> {
    pub(crate) room: Room,
    vcenter: &'a Vcenter,
    pub(crate) device: Option<LoopDevice>,
    port: u16,
    limits: Limits,
}

impl<'a> Pod<'a> {
    pub(crate) fn new(vcenter: &'a Vcenter) -> Self {
        let room = Room::new();
        vcenter.open_to_all();
        fs::set_permissions(room.path(""), Permissions::from_mode(0o755)).unwrap();
        give_to_pod(&room.path(""));
        for name in ["dev", "data", "opt"] {
            fs::create_dir(room.path(name)).unwrap();
            give_to_pod(&room.path(name));
        }
        symlink(
            vcenter.libdir(),
            room.path("opt/vmware-vix-disklib-distrib"),
        )
        .unwrap();
        fs::create_dir(room.path("opt/testing")).unwrap();
        let plugin = room.path("opt/testing/libvddk-test-plugin.so");
        symlink(Vcenter::plugin(), plugin).unwrap();
        symlink(env!("CARGO_BIN_EXE_diskferry"), room.path("cdi-importer")).unwrap();
        let port = free_port();
        Self {
            room,
            vcenter,
            device: None,
            port,
            limits: Limits::new(),
        }
    }

    /// With a block volume of `size` bytes that holds something already.
    pub(crate) fn with_device(vcenter: &'a Vcenter, size: u64) -> Self {
        let mut pod = Self::new(vcenter);
        let device = LoopDevice::new(size, 512);
        symlink(device.path(), pod.room.path("dev/cdi-block-volume")).unwrap();
        let old = vec![0xee; usize::try_from(size).unwrap()];
        fs::write(device.path(), old).unwrap();
        give_to_pod(device.path());
        pod.device = Some(device);
        pod
    }

    /// Makes the volume hold `bytes`, by somebody else's hand.
    pub(crate) fn hold(&self, bytes: &[u8]) {
        match &self.device {
            Some(device) => fs::write(device.path(), bytes).unwrap(),
            None => {
                fs::write(self.room.path("data/disk.img"), bytes).unwrap();
                give_to_pod(&self.room.path("data/disk.img"));
            }
        }
    }

    pub(crate) fn command(&self, changes: &[(&str, &str)]) -> Command {
        let mut command = self.limits.importer(&self.room.path(""));
        command
            .env("DISKFERRY_METRICS", format!("127.0.0.1:{}", self.port))
            .env("DISKFERRY_RETRY", "20")
            .env("IMPORTER_SOURCE", "vddk")
            .env(
                "IMPORTER_ENDPOINT",
                format!("https://{}/sdk", self.vcenter.address()),
            )
            .env("IMPORTER_CONTENTTYPE", "kubevirt")
            .env("IMPORTER_IMAGE_SIZE", "24Mi")
            .env("OWNER_UID", UID)
            .env("FILESYSTEM_OVERHEAD", "0.06")
            .env("INSECURE_TLS", "false")
            .env("IMPORTER_UUID", self.vcenter.instance_uuid())
            .env("IMPORTER_BACKING_FILE", &self.vcenter.disks()[0].file)
            .env("IMPORTER_THUMBPRINT", self.vcenter.thumbprint())
            .env("IMPORTER_CURRENT_CHECKPOINT", "")
            .env("IMPORTER_PREVIOUS_CHECKPOINT", "")
            .env("IMPORTER_FINAL_CHECKPOINT", "")
            .env("IMPORTER_ACCESS_KEY_ID", USER)
            .env("IMPORTER_SECRET_KEY", PASSWORD)
            .env("PREALLOCATION", "false");
        for (name, value) in changes {
            command.env(name, value);
        }
        command
    }

    pub(crate) fn start(&self, changes: &[(&str, &str)]) -> Running {
        let _ = fs::remove_file(self.room.path("dev/termination-log"));
        Running::start(self.command(changes))
    }

    /// Starts the pod, and kills it once something of its work is recorded in `journal`.
    pub(crate) fn kill_after_a_barrier(&self, changes: &[(&str, &str)], journal: &str) {
        let running = self.start(changes);
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::metadata(journal).map_or(0, |meta| meta.len()) < 700 {
            assert!(Instant::now() < deadline, "no barrier");
            sleep(Duration::from_millis(20));
        }
        running.kill();
    }

    /// Runs the pod to its end, which must be `code`; gives its termination message.
    #[track_caller]
    pub(crate) fn import(&self, code: i32, changes: &[(&str, &str)]) -> String {
        let ended = self.start(changes).wait().exits(code);
        assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
        let message = self.message();
        assert!(!message.contains(PASSWORD), "{message}");
        assert_eq!(
            self.vcenter.tell("sessions"),
            "0",
            "it logs out, whatever happens"
        );
        message
    }

    pub(crate) fn message(&self) -> String {
        fs::read_to_string(self.room.path("dev/termination-log")).unwrap_or_default()
    }

    /// What the volume holds, as far as the disk goes.
    pub(crate) fn content(&self) -> Vec<u8> {
        let path: PathBuf = match &self.device {
            Some(device) => device.path().to_owned(),
            None => self.room.path("data/disk.img"),
        };
        let mut bytes = vec![0; usize::try_from(self.vcenter.disks()[0].size).unwrap()];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut bytes, 0)
            .unwrap();
        bytes
    }

    /// What both controllers would read of a scrape, whose page is as it must be.
    #[track_caller]
    pub(crate) fn scrape(&self) -> f64 {
        scrape_at(self.port, UID)
    }
}

/// The same of a pod that listens at `port`, for the owner `uid`.
#[track_caller]
pub(crate) fn scrape_at(port: u16, uid: &str) -> f64 {
    let told = run("python3", ["-c", SCRAPE, &port.to_string(), uid]);
    let (progress, page) = told.split_once('\n').unwrap();
    assert_eq!(page, PAGE.replace(UID, uid));
    let (cdi, populator) = progress.split_once(' ').unwrap();
    assert_eq!(cdi, populator);
    cdi.parse().unwrap()
}
