//! A running virtual machine whose disks are to be migrated, and the check of what arrived.
//!
//! A real QEMU with a real Linux guest that keeps a [`diary`](super::diary) on its disks. The QMP
//! socket is for the program under test; the rig talks to the machine through one of its own.

use super::diary;
use super::initramfs::{Initramfs, Kernel};
use super::machine::Machine;
use super::nvme::{GATEWAY, NVME_TCP, SUBSYSTEM, network};
use super::qsd::Qmp;
use super::server::run;
use serde_json::{Value, json};
use std::collections::hash_map::DefaultHasher;
use std::fmt::{Display, Write as _};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a boot may take, on a machine that builds something else meanwhile.
const BOOT: Duration = Duration::from_secs(100);
/// What the guest needs to see its disks and its power button.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "button", "evdev"];
const MEBIBYTES: u32 = 256;

/// What the machine does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Entries written a second; 0 as fast as it goes.
    pub(crate) rate: u32,
    /// The emulator stays, with its QMP socket, when the guest has turned the machine off, as
    /// libvirt has it.
    pub(crate) stays: bool,
}

/// A machine that writes. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Vm {
    machine: Machine,
    control: Qmp,
    stays: bool,
    /// The entry that it found last.
    found: u64,
}

impl Vm {
    /// Boots a machine with `disks` (paths, addresses of NBD exports on unix sockets, or
    /// [NVMe/TCP namespaces](super::NvmeHost::namespace)), on which there is a diary ([`diary::begin`]), and waits until it writes.
    #[track_caller]
    pub(crate) fn start<A: AsRef<str>>(disks: &[A], habits: Habits) -> Self {
        let kernel = Kernel::new();
        let initramfs = keeper(&kernel, &format!("write {}", habits.rate), disks);
        let dir = Machine::directory();
        let mut args = devices(disks, false);
        let qmp = dir.path().join("qmp");
        args.push("-qmp".to_owned());
        args.push(format!("unix:{},server=on,wait=off", qmp.display()));
        let rig = [
            "-chardev",
            "socket,id=rig,fd=0",
            "-mon",
            "chardev=rig,mode=control",
        ];
        args.extend(rig.map(str::to_owned));
        if habits.stays {
            args.push("-no-shutdown".to_owned());
        }
        let (ours, theirs) = Qmp::line();
        let mut machine = Machine::boot_with(theirs, dir, &kernel, initramfs, MEBIBYTES, &args);
        let control = Qmp::greeted(ours);
        let found = machine.wait_for(BOOT, "READY");
        Self {
            machine,
            control,
            stays: habits.stays,
            found: found.parse().expect("a number"),
        }
    }

    /// The last entry that was there when it began, on disks that it found to be right.
    pub(crate) fn found(&self) -> u64 {
        self.found
    }

    /// The QMP socket for the program under test.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.machine.path("qmp")
    }

    /// The name of the block node of disk `index`.
    pub(crate) fn node(index: usize) -> String {
        format!("disk{index}")
    }

    /// The last entry of which the guest knows that all its disks hold it.
    pub(crate) fn acknowledged(&self) -> u64 {
        last_number(&self.machine.said(), "ACK ").unwrap_or(0)
    }

    /// Waits until entry `number` is acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_entry(&mut self, number: u64) {
        let what = format!("entry {number}");
        self.machine.wait_until(BOOT, &what, |said| {
            last_number(said, "ACK ").filter(|last| *last >= number)
        });
    }

    /// A QMP command over the rig's own socket; its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.control.execute(command, arguments)
    }

    /// Presses the power button.
    #[track_caller]
    pub(crate) fn press_power_button(&mut self) {
        self.ask("system_powerdown", &json!({}));
    }

    /// Waits until the guest has turned the machine off, and gives the last entry it wrote.
    #[track_caller]
    pub(crate) fn wait_off(&mut self) -> u64 {
        let last = self.machine.wait_for(BOOT, "BYE");
        if self.stays {
            self.control.wait_for("SHUTDOWN");
        } else {
            let status = self.machine.server().child().wait().expect("wait");
            assert!(status.success(), "{status}");
        }
        last.parse().expect("a number")
    }

    /// Pulls the plug.
    pub(crate) fn kill(mut self) -> u64 {
        let child = self.machine.server().child();
        let _ = child.kill();
        let _ = child.wait();
        self.acknowledged()
    }

    /// Boots a machine from `disks`, read-only, and has it read everything on them.
    ///
    /// Gives the last entry that all of them hold, or what is wrong. [`diary::check`] does the same
    /// from outside, for disks that are files or devices here.
    #[track_caller]
    pub(crate) fn check<A: AsRef<str>>(disks: &[A]) -> Result<u64, String> {
        let kernel = Kernel::new();
        let initramfs = keeper(&kernel, "check", disks);
        let dir = Machine::directory();
        let args = devices(disks, true);
        let mut machine = Machine::boot(dir, &kernel, initramfs, MEBIBYTES, &args);
        let verdict = machine.wait_for(BOOT, "VERDICT");
        match verdict.split_once(' ') {
            Some(("ok", number)) => Ok(number.parse().expect("a number")),
            _ => Err(verdict),
        }
    }
}

/// An address as [`Vm`] takes it.
pub(crate) fn address(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().expect("a plain path").to_owned()
}

fn last_number(said: &[String], word: &str) -> Option<u64> {
    let found = said.iter().rev().find_map(|line| line.strip_prefix(word));
    found.and_then(|number| number.parse().ok())
}

/// What a machine boots that keeps a diary on `disks`, or checks one.
fn keeper<A: AsRef<str>>(kernel: &Kernel, command: &str, disks: &[A]) -> Initramfs {
    let mut modules = MODULES.to_vec();
    let (mut script, mut names) = (String::new(), String::new());
    let (mut local, mut remote) = ('a'..='z', 0..);
    for disk in disks {
        let Some(port) = disk.as_ref().strip_prefix(NVME_TCP) else {
            let letter = local.next().expect("few disks");
            let _ = write!(names, " /dev/vd{letter}");
            continue;
        };
        let index = remote.next().unwrap_or(0);
        if index == 0 {
            modules.extend(["virtio_net", "nvme_tcp"]);
            script.push_str("ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up\n");
        }
        let _ = write!(
            script,
            "echo transport=tcp,traddr={GATEWAY},trsvcid={port},nqn={SUBSYSTEM} >/dev/nvme-fabrics\n\
             while [ ! -b /dev/nvme{index}n1 ]; do sleep 0.1; done\n"
        );
        let _ = write!(names, " /dev/nvme{index}n1");
    }
    let script = format!("{script}diary {command}{names}");
    let mut initramfs = Initramfs::new(kernel, &modules, &script);
    initramfs.program("diary", &diary_program());
    initramfs
}

fn is_remote(address: &str) -> bool {
    address.starts_with(NVME_TCP)
}

/// The options for each disk: a block node with a name, and a device on it.
fn devices<A: AsRef<str>>(disks: &[A], read_only: bool) -> Vec<String> {
    let mut args = Vec::new();
    if disks.iter().any(|disk| is_remote(disk.as_ref())) {
        args.extend(network(""));
    }
    for (index, address) in disks.iter().enumerate() {
        if is_remote(address.as_ref()) {
            continue;
        }
        let node = Vm::node(index);
        let below = json!({
            "driver": "raw", "node-name": node, "discard": "unmap", "read-only": read_only,
            "file": protocol(address.as_ref(), read_only),
        });
        args.extend(["-blockdev".to_owned(), below.to_string()]);
        let device = format!("virtio-blk-pci,id=device{index},drive={node},serial={node}");
        args.extend(["-device".to_owned(), device]);
    }
    args
}

/// The node that reaches what is at `address`.
#[track_caller]
fn protocol(address: &str, read_only: bool) -> Value {
    if let Some(rest) = address.strip_prefix("nbd+unix:///") {
        let (export, socket) = rest.split_once("?socket=").expect("a socket");
        return json!({
            "driver": "nbd", "export": export, "read-only": read_only,
            "server": {"type": "unix", "path": socket},
        });
    }
    let kind = fs::metadata(address).unwrap_or_else(|error| fail(address, error));
    let driver = if kind.file_type().is_block_device() {
        "host_device"
    } else {
        "file"
    };
    json!({
        "driver": driver, "filename": address, "discard": "unmap", "read-only": read_only,
    })
}

#[track_caller]
fn fail(what: &str, why: impl Display) -> ! {
    panic!("{what}: {why}")
}

/// The guest's program, compiled from the tests' own module on its own, optimised: it is emulated.
fn diary_program() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/rig/diary.rs");
    let text = fs::read(source).unwrap_or_else(|error| fail(source, error));
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("diary-{:016x}", hasher.finish()));
    if !program.exists() {
        // Tests run side by side: whoever comes first leaves it whole.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let fresh = dir.path().join("diary");
        run(
            "rustc",
            [
                "--edition=2024".as_ref(),
                "-O".as_ref(),
                "-Cstrip=symbols".as_ref(),
                "-Adead_code".as_ref(),
                "-o".as_ref(),
                fresh.as_os_str(),
                source.as_ref(),
            ],
        );
        fs::rename(&fresh, &program).expect("keep the guest's program");
    }
    program
}
