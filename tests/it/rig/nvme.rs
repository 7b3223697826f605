//! A host with an NVMe namespace over TCP, and the program run in it.
//!
//! The kernel here has no NVMe over fabrics, so a virtual machine does: its kernel exports a disk in
//! memory as an NVMe/TCP target, and connects to it as a host. Whatever `/dev/nvme0n1` is told
//! crosses the protocol. A network card leads to the loopback ports of this machine.

use super::initramfs::{Initramfs, Kernel};
use super::machine::Machine;
use super::server::run;
use serde_json::Value;
use std::cell::OnceCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the guest may be silent about what it was asked.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of the machine besides the disk in it.
const MEBIBYTES: u32 = 384;

/// The namespace, as commands of the guest call it.
pub(crate) const NAMESPACE: &str = "/dev/nvme0n1";
/// This machine's loopback, seen from the guest.
pub(crate) const GATEWAY: &str = "10.0.2.2";

/// Makes the namespace and connects to it, then does what it is told, line by line.
const CONNECT: &str = "
ip addr add 127.0.0.1/8 dev lo; ip link set lo up
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
mkdir /tmp/c; mount -t configfs none /tmp/c
s=/tmp/c/nvmet/subsystems/diskferry; mkdir $s; echo 1 >$s/attr_allow_any_host
mkdir $s/namespaces/1; echo -n /dev/ram0 >$s/namespaces/1/device_path
echo 1 >$s/namespaces/1/enable
p=/tmp/c/nvmet/ports/1; mkdir $p
echo 127.0.0.1 >$p/addr_traddr; echo tcp >$p/addr_trtype
echo 4420 >$p/addr_trsvcid; echo ipv4 >$p/addr_adrfam
ln -s $s $p/subsystems/diskferry
n=transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=diskferry,nr_io_queues=2
echo $n >/dev/nvme-fabrics
while [ ! -b /dev/nvme0n1 ]; do sleep 0.1; done
exec 3</dev/ttyS2
echo READY $(cat /sys/class/nvme/nvme0/transport)
while read -r line <&3; do
    eval \"$line\"
    echo \"EXIT $?\"
done
";

/// The host. Killed when dropped.
#[derive(Debug)]
pub(crate) struct NvmeHost {
    machine: Machine,
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
        let kernel = Kernel::new();
        let disk = format!("brd rd_nr=1 rd_size={}", mebibytes * 1024);
        let modules = ["virtio_pci", "virtio_net", &disk, "nvmet_tcp", "nvme_tcp"];
        let mut initramfs = Initramfs::new(&kernel, &modules, CONNECT);
        let dir = Machine::directory();
        // Without the names of its functions it is a fifth as long, and all of it is in memory.
        let stripped = dir.path().join("diskferry");
        let program = Path::new(env!("CARGO_BIN_EXE_diskferry"));
        let words = ["-o".as_ref(), stripped.as_os_str(), program.as_os_str()];
        run("strip", words);
        initramfs.program("diskferry", &stripped);
        let ear = dir.path().join("ear");
        let args = [
            "-serial",
            &format!("unix:{},server=on,wait=off", ear.display()),
            "-netdev",
            "user,id=net0",
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
        ]
        .map(str::to_owned);
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
        }
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
