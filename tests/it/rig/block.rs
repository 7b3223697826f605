//! Raw block devices: loop devices, and a LUN whose every byte crosses iSCSI.

use super::server::{Server, free_port, run, socket_dir};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A loop device over a file, with direct I/O where the file system has it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    backing: PathBuf,
    _dir: Option<TempDir>,
}

impl LoopDevice {
    /// A device of `size` bytes with logical blocks of `sector` bytes, all holes.
    #[track_caller]
    pub(crate) fn new(size: u64, sector: u32) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let backing = dir.path().join("backing");
        File::create(&backing)
            .and_then(|file| file.set_len(size))
            .expect("make a backing file");
        let mut device = Self::over(&backing, sector);
        device._dir = Some(dir);
        device
    }

    /// A device over a file that exists and stays.
    #[track_caller]
    pub(crate) fn over(backing: &Path, sector: u32) -> Self {
        Self::attach(backing, sector, "on")
            .or_else(|_| Self::attach(backing, sector, "off"))
            .unwrap_or_else(|error| panic!("{error} (tests make loop devices as root)"))
    }

    fn attach(backing: &Path, sector: u32, direct: &str) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["-f", "--show", "-b", &sector.to_string()])
            .arg(format!("--direct-io={direct}"))
            .arg(backing)
            .output()
            .expect("start losetup");
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("losetup {}: {why}", backing.display()));
        }
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Self {
            path,
            backing: backing.to_owned(),
            _dir: None,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the device's bytes.
    pub(crate) fn backing(&self) -> &Path {
        &self.backing
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // The node outlives what is attached to it, and a test may have given it to somebody.
        let _ = chown(&self.path, Some(0), None);
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
        // Detaching is done in the background; the next device may want the file.
        let name = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let attached = format!("/sys/block/{name}/loop/backing_file");
        let deadline = Instant::now() + Duration::from_secs(2);
        while Path::new(&attached).exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A LUN of 4096-byte sectors: a loop device over a FUSE export over iSCSI over `tgtd`.
///
/// Slow to start and slow to write (about 100 MB/s), and as real as it gets without a kernel
/// initiator. Fields are dropped top down, which takes it apart from the device inwards.
#[derive(Debug)]
pub(crate) struct IscsiLun {
    device: LoopDevice,
    _initiator: Server,
    _target: Killed,
    dir: TempDir,
}

/// tgtd ignores SIGTERM while it has targets, and leaves its control socket behind.
#[derive(Debug)]
struct Killed {
    server: Server,
    control: String,
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.server.signal(Signal::KILL);
        for suffix in ["", ".lock"] {
            let _ = fs::remove_file(format!("/run/tgtd/socket.{}{suffix}", self.control));
        }
    }
}

const SECTOR: u32 = 4096;
const TARGET_NAME: &str = "iqn.2000-01.test.diskferry:lun";
const INITIATOR_NAME: &str = "iqn.2000-01.test.diskferry:rig";

impl IscsiLun {
    #[track_caller]
    pub(crate) fn new(size: u64) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let backing = dir.path().join("backing");
        File::create(&backing)
            .and_then(|file| file.set_len(size))
            .expect("make a backing file");
        let (target, port) = start_target(&backing);
        let mountpoint = dir.path().join("lun");
        File::create(&mountpoint).expect("make a mount point");
        let initiator = start_initiator(port, &mountpoint, size);
        // Without direct I/O the loop driver writes one request after the other. With it, several
        // reach the FUSE export of qemu 7.2 at once, which mixes up their buffers.
        let device = LoopDevice::attach(&mountpoint, SECTOR, "off").expect("a loop device");
        Self {
            device,
            _initiator: initiator,
            _target: target,
            dir,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.device.path()
    }

    /// The file in which the iSCSI target keeps the bytes.
    pub(crate) fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }
}

/// Starts `tgtd` on a loopback port that was free a moment ago, with one thin LUN over `backing`.
fn start_target(backing: &Path) -> (Killed, u16) {
    let port = free_port();
    // Instances of tgtd on one machine are told apart by a number of their own, below 32768.
    let control = (port / 2).to_string();
    let portal = format!("portal=127.0.0.1:{port}");
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "tgtd", "-f", "-C", &control])
        .args(["--iscsi", &portal])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut server = Server::spawn(&mut command);
    let admin = |words: &str| {
        Command::new("tgtadm")
            .args(["-C", &control, "--lld", "iscsi"])
            .args(words.split(' '))
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    server.wait_until(|| admin(&format!("--op new --mode target --tid 1 -T {TARGET_NAME}")));
    for words in [
        format!(
            "--op new --mode logicalunit --tid 1 --lun 1 --blocksize {SECTOR} -b {}",
            backing.display()
        ),
        "--op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1".to_owned(),
        "--op bind --mode target --tid 1 -I ALL".to_owned(),
    ] {
        assert!(admin(&words), "tgtadm {words}");
    }
    (Killed { server, control }, port)
}

/// Starts qemu-storage-daemon as the initiator: the LUN appears as the file `mountpoint`.
fn start_initiator(port: u16, mountpoint: &Path, size: u64) -> Server {
    let mut server = Server::start(
        "qemu-storage-daemon",
        [
            "--blockdev",
            &format!(
                "driver=iscsi,node-name=i0,transport=tcp,portal=127.0.0.1:{port},\
                 target={TARGET_NAME},lun=1,initiator-name={INITIATOR_NAME}"
            ),
            "--blockdev",
            "driver=raw,node-name=r0,file=i0",
            "--export",
            &format!(
                "type=fuse,id=f0,node-name=r0,mountpoint={},writable=on",
                mountpoint.display()
            ),
        ],
    );
    server.wait_until(|| fs::metadata(mountpoint).is_ok_and(|meta| meta.len() == size));
    server
}
