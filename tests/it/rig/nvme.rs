//! A host with an NVMe namespace over TCP, and the program run in it.
//!
//! The kernel here has no NVMe over fabrics, so a virtual machine does: its kernel exports a disk in
//! memory as an NVMe/TCP target, and connects to it as a host. Whatever `/dev/nvme0n1` is told
//! crosses the protocol. A network card leads to the loopback ports of this machine, and from one of
//! them to the target, so that another machine can use the namespace, too.

use super::initramfs::{Initramfs, Kernel};
use super::machine::Machine;
use super::server::{free_port, run};
use serde_json::Value;
use std::cell::OnceCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// How long the guest may be silent about what it was asked.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of the machine besides the disk in it.
const MEBIBYTES: u32 = 384;

/// The port of the target, in the guest.
const TARGET: u16 = 4420;
/// How the address of a namespace begins, for other machines.
pub(super) const NVME_TCP: &str = "nvme+tcp://127.0.0.1:";
/// What the target is called.
pub(super) const SUBSYSTEM: &str = "diskferry";

/// The namespace, as commands of the guest call it.
pub(crate) const NAMESPACE: &str = "/dev/nvme0n1";
/// This machine's loopback, seen from the guest.
pub(crate) const GATEWAY: &str = "10.0.2.2";

/// Makes the namespace and connects to it, then does what it is told, line by line. Without an echo
/// of it: nobody reads that, and a guest whose echo finds no room hears nothing more.
const CONNECT: &str = "
ip addr add 127.0.0.1/8 dev lo; ip link set lo up
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
mkdir /tmp/c; mount -t configfs none /tmp/c
s=/tmp/c/nvmet/subsystems/diskferry; mkdir $s; echo 1 >$s/attr_allow_any_host
mkdir $s/namespaces/1; echo -n /dev/ram0 >$s/namespaces/1/device_path
echo 1 >$s/namespaces/1/enable
p=/tmp/c/nvmet/ports/1; mkdir $p
echo 0.0.0.0 >$p/addr_traddr; echo tcp >$p/addr_trtype
echo 4420 >$p/addr_trsvcid; echo ipv4 >$p/addr_adrfam
ln -s $s $p/subsystems/diskferry
n=transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=diskferry,nr_io_queues=2
echo $n >/dev/nvme-fabrics
while [ ! -b /dev/nvme0n1 ]; do sleep 0.1; done
exec 3</dev/ttyS2; stty -echo <&3
echo READY $(cat /sys/class/nvme/nvme0/transport)
while read -r line <&3; do
    eval \"$line\"
    echo \"EXIT $?\"
done
";

/// What else the host has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Equipment<'a> {
    /// Disks of 4096-byte sectors, `/dev/vda` and so on in the host: block devices here.
    pub(crate) disks: &'a [&'a Path],
    /// A directory that is the same here and there, by the same path.
    pub(crate) share: Option<&'a Path>,
    /// Programs of this machine.
    pub(crate) programs: &'a [&'a str],
}

/// The host. Killed when dropped.
#[derive(Debug)]
pub(crate) struct NvmeHost {
    machine: Machine,
    /// Of this machine's loopback, where the NVMe/TCP target is.
    port: u16,
    /// Where commands go.
    ear: UnixStream,
    /// Lines that belong to commands before.
    heard: usize,
}

/// What a command in the guest did.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    /// Both of its outputs.
    pub(crate) lines: Vec<String>,
}

impl NvmeHost {
    /// Boots a host with a namespace of `mebibytes`.
    #[track_caller]
    pub(crate) fn new(mebibytes: u32) -> Self {
        Self::with(mebibytes, Equipment::default())
    }

    /// Likewise, with more.
    #[track_caller]
    pub(crate) fn with(mebibytes: u32, equipment: Equipment<'_>) -> Self {
        let kernel = Kernel::new();
        let dir = Machine::directory();
        let initramfs = initramfs(&kernel, &dir, mebibytes, equipment);
        let (ear, port) = (dir.path().join("ear"), free_port());
        let mut args = vec![
            "-serial".to_owned(),
            format!("unix:{},server=on,wait=off", ear.display()),
        ];
        args.extend(network(&format!(",hostfwd=tcp:127.0.0.1:{port}-:{TARGET}")));
        for (index, disk) in equipment.disks.iter().enumerate() {
            // Not locked: whoever boots from the disk later is another QEMU.
            args.push("-drive".to_owned());
            args.push(format!(
                "if=none,id=d{index},format=raw,cache=none,file.locking=off,file={}",
                disk.display()
            ));
            let sectors = "logical_block_size=4096,physical_block_size=4096";
            args.push("-device".to_owned());
            args.push(format!("virtio-blk-pci,drive=d{index},{sectors}"));
        }
        if let Some(share) = equipment.share {
            args.push("-virtfs".to_owned());
            let share = share.display();
            args.push(format!(
                "local,path={share},mount_tag=share,security_model=none"
            ));
        }
        let memory = MEBIBYTES + mebibytes;
        let mut machine = Machine::boot(dir, &kernel, initramfs, memory, &args);
        let found = OnceCell::new();
        let server = machine.server();
        server.wait_until(|| UnixStream::connect(&ear).is_ok_and(|one| found.set(one).is_ok()));
        let transport = machine.wait_for(PATIENCE, "READY");
        assert_eq!(transport, "tcp");
        Self {
            heard: machine.said().len(),
            ear: found.into_inner().expect("connected"),
            machine,
            port,
        }
    }

    /// The namespace, as another machine of the rig reaches it.
    pub(crate) fn namespace(&self) -> String {
        format!("{NVME_TCP}{}", self.port)
    }

    /// Has the guest run `command`, a line of busybox's shell with `diskferry` in reach.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &str) {
        let line = format!("{command}\n");
        self.ear.write_all(line.as_bytes()).expect("tell the guest");
    }

    /// Waits for the end of the command that it was told.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Told {
        let heard = self.heard;
        let (code, lines) = self.machine.wait_until(PATIENCE, "an end", |said| {
            let new = said.get(heard..)?;
            let end = new.iter().position(|line| line.starts_with("EXIT "))?;
            let code = new.get(end)?.strip_prefix("EXIT ")?.parse().ok()?;
            Some((code, new[..end].to_vec()))
        });
        self.heard += lines.len() + 1;
        Told { code, lines }
    }

    /// Runs `command` to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str) -> Told {
        self.tell(command);
        let told = self.hear();
        assert_eq!(told.code, 0, "{command}:\n{}", told.lines.join("\n"));
        told
    }
}

/// What the host boots.
fn initramfs(
    kernel: &Kernel,
    dir: &TempDir,
    mebibytes: u32,
    equipment: Equipment<'_>,
) -> Initramfs {
    let disk = format!("brd rd_nr=1 rd_size={}", mebibytes * 1024);
    let mut modules = vec!["virtio_pci", "virtio_net", &disk, "nvmet_tcp", "nvme_tcp"];
    if !equipment.disks.is_empty() {
        modules.push("virtio_blk");
    }
    let mut script = String::new();
    if let Some(share) = equipment.share {
        modules.extend(["9pnet_virtio", "9p"]);
        let share = share.display();
        let options = "trans=virtio,version=9p2000.L,msize=131072";
        script = format!("busybox mkdir -p {share}; mount -t 9p -o {options} share {share}");
    }
    let mut initramfs = Initramfs::new(kernel, &modules, &format!("{script}{CONNECT}"));
    // Without the names of its functions it is a fifth as long, and all of it is in memory.
    let stripped = dir.path().join("diskferry");
    let program = Path::new(env!("CARGO_BIN_EXE_diskferry"));
    let words = ["-o".as_ref(), stripped.as_os_str(), program.as_os_str()];
    run("strip", words);
    initramfs.program("diskferry", &stripped);
    for name in equipment.programs {
        initramfs.program(name, Path::new(run("which", [name]).trim()));
    }
    initramfs
}

/// A network card, behind which this machine is [`GATEWAY`].
pub(super) fn network(more: &str) -> [String; 4] {
    [
        "-netdev".to_owned(),
        format!("user,id=net0{more}"),
        "-device".to_owned(),
        "virtio-net-pci,netdev=net0,romfile=".to_owned(),
    ]
}

impl Told {
    /// The last event of a kind that a command with `--json` printed.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> Value {
        let events = self.lines.iter().rev();
        events
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|event| event["event"] == kind)
            .unwrap_or_else(|| panic!("no event {kind:?} in:\n{}", self.lines.join("\n")))
    }
}
