//! A vCenter with a VM whose disks can be read through nbdkit's real vddk plugin.
//!
//! The vCenter is govmomi's simulator with tests/vcsim laid over it; the plugin loads
//! tests/vddk/vixdisklib.c, which reads the very files that the simulator keeps. Both come from
//! `tests/run peers`. pyVmomi is the other client: what a test does to the VM in somebody else's
//! name, it does through that.

use super::server::Server;
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use tempfile::TempDir;

/// Who may log in, and with what.
pub(crate) const USER: &str = "administrator@vsphere.local";
pub(crate) const PASSWORD: &str = "h1dden-$ecret";

/// Connects `vm`, the first VM, for a script.
const PRELUDE: &str = r#"
import ssl, sys, time
from pyVim.connect import SmartConnect, Disconnect
from pyVmomi import vim
host, port = sys.argv[1].split(":")
si = SmartConnect(host=host, port=int(port), user=sys.argv[2], pwd=sys.stdin.readline().strip(),
                  sslContext=ssl._create_unverified_context())
vm = si.content.searchIndex.FindByUuid(None, sys.argv[3], True, True)
def wait(task):
    while task.info.state not in ("success", "error"):
        time.sleep(0.005)
    if task.info.state == "error":
        raise task.info.error
    return task.info.result
def disks(where):
    return [d for d in where.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
def snapshot(name):
    made = wait(vm.CreateSnapshot_Task(name, "", False, False))
    print(made._moId, *[d.backing.changeId or "-" for d in disks(made)], sep="\t")
def find(name, trees):
    for tree in trees:
        if tree.name == name:
            return tree.snapshot
        found = find(name, tree.childSnapshotList)
        if found:
            return found
"#;

/// The simulator, stopped when dropped, and its disks.
#[derive(Debug)]
pub(crate) struct Vcenter {
    server: Server,
    /// The simulator ends when this is closed.
    _stdin: ChildStdin,
    dir: TempDir,
    told: Value,
}

/// A disk of the VM, as the vCenter told of it at the start.
#[derive(Clone, Debug)]
pub(crate) struct VmDisk {
    pub(crate) key: i64,
    /// `[LocalDS_0] DC0_H0_VM0/disk1.vmdk`.
    pub(crate) file: String,
    /// What the guest writes to.
    pub(crate) flat: PathBuf,
    pub(crate) size: u64,
    pub(crate) object_id: String,
}

/// A snapshot that was made by somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) moref: String,
    /// The change id of each disk.
    pub(crate) change_ids: Vec<String>,
}

/// Where `tests/run peers` put what stands in for VMware.
fn built(name: &str) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = tmp
        .parent()
        .expect("the build directory")
        .join("vmware")
        .join(name);
    assert!(
        path.exists(),
        "{} is not there (tests/run peers)",
        path.display()
    );
    path
}

impl Vcenter {
    /// A vCenter whose first VM has disks of `sizes`, such as `64M`, tracked and powered on.
    #[track_caller]
    pub(crate) fn new(sizes: &[&str]) -> Self {
        Self::start(sizes, &[])
    }

    /// A single ESXi host.
    #[track_caller]
    pub(crate) fn esx(sizes: &[&str]) -> Self {
        Self::start(sizes, &["-esx"])
    }

    #[track_caller]
    fn start(sizes: &[&str], args: &[&str]) -> Self {
        let vcenter = Self::launch("vcsim", sizes, args);
        vcenter.make_libdir();
        vcenter.python("wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))");
        vcenter
    }

    /// The simulator as its authors made it: nothing of ours is in it, and nothing can be told to it.
    #[track_caller]
    pub(crate) fn plain() -> Self {
        Self::launch("vcsim-plain", &[], &[])
    }

    #[track_caller]
    fn launch(program: &str, sizes: &[&str], args: &[&str]) -> Self {
        // On the disk of the build: snapshots are whole copies.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let mut command = Command::new(built(program));
        command
            .arg("-root")
            .arg(dir.path())
            .args(["-user", USER, "-password", PASSWORD])
            .args(["-disks", &sizes.join(",")])
            .args(args)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("vcsim.log")).expect("make a log"));
        let mut server = Server::spawn(&mut command);
        let child = server.child();
        let stdin = child.stdin.take().expect("its standard input");
        let stdout = child.stdout.take().expect("its standard output");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("read from the simulator");
        let told = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = fs::read_to_string(dir.path().join("vcsim.log")).unwrap_or_default();
            panic!("the simulator said {line:?}: {error}\n{log}")
        });
        Self {
            server,
            _stdin: stdin,
            dir,
            told,
        }
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        self.told["address"].as_str().expect("an address")
    }

    /// The certificate's SHA-1, as VMware writes it.
    pub(crate) fn thumbprint(&self) -> &str {
        self.told["sha1"].as_str().expect("a thumbprint")
    }

    /// The certificate's SHA-256.
    pub(crate) fn sha256(&self) -> &str {
        self.told["sha256"].as_str().expect("a thumbprint")
    }

    /// The certificate itself.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn vm(&self, key: &str) -> &str {
        self.told["vms"][0][key].as_str().expect("a VM")
    }

    /// The VM's managed object.
    pub(crate) fn moref(&self) -> &str {
        self.vm("moref")
    }

    /// The VM's instance UUID.
    pub(crate) fn instance_uuid(&self) -> &str {
        self.vm("instance_uuid")
    }

    /// The VM's BIOS UUID.
    pub(crate) fn bios_uuid(&self) -> &str {
        self.vm("uuid")
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &str {
        self.vm("name")
    }

    /// The VM's disks.
    pub(crate) fn disks(&self) -> Vec<VmDisk> {
        let disks = self.told["vms"][0]["disks"].as_array().expect("disks");
        let text = |disk: &Value, key: &str| disk[key].as_str().expect(key).to_owned();
        let disk = |disk: &Value| VmDisk {
            key: disk["key"].as_i64().expect("a key"),
            file: text(disk, "file"),
            flat: text(disk, "flat").into(),
            size: disk["capacity"].as_u64().expect("a size"),
            object_id: text(disk, "object_id"),
        };
        disks.iter().map(disk).collect()
    }

    /// Asks the simulator for something: see tests/vcsim/simulator/rig_control.go.
    #[track_caller]
    pub(crate) fn tell(&self, words: &str) -> String {
        let mut stream =
            UnixStream::connect(self.dir.path().join("control")).expect("connect to the simulator");
        writeln!(stream, "{words}").expect("write to the simulator");
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .expect("hear from the simulator");
        assert!(!answer.starts_with("error"), "{words}: {answer}");
        answer.trim_end().to_owned()
    }

    /// Runs a script of pyVmomi, with `vm`, `wait`, `disks` and `snapshot`; gives what it printed.
    #[track_caller]
    pub(crate) fn python(&self, script: &str) -> String {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let python = tmp
            .parent()
            .expect("the build directory")
            .join("venv/bin/python3");
        let mut child = Command::new(&python)
            .args(["-c", &format!("{PRELUDE}\n{script}\nDisconnect(si)")])
            .args([self.address(), USER, self.instance_uuid()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (tests/run peers)", python.display()));
        let mut stdin = child.stdin.take().expect("its standard input");
        writeln!(stdin, "{PASSWORD}").expect("write to Python");
        drop(stdin);
        let output = child.wait_with_output().expect("run Python");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{why}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Somebody makes a snapshot.
    #[track_caller]
    pub(crate) fn snapshot(&self, name: &str) -> Taken {
        let line = self.python(&format!("snapshot({name:?})"));
        let mut words = line.trim_end().split('\t').map(str::to_owned);
        Taken {
            moref: words.next().expect("a snapshot"),
            change_ids: words.collect(),
        }
    }

    /// Somebody removes a snapshot.
    #[track_caller]
    pub(crate) fn remove_snapshot(&self, name: &str) {
        self.python(&format!(
            "wait(find({name:?}, vm.snapshot.rootSnapshotList).RemoveSnapshot_Task(False, True))"
        ));
    }

    /// The guest writes `len` bytes that `seed` determines to a disk, at `offset`.
    pub(crate) fn write(&self, disk: usize, offset: u64, len: usize, seed: u8) {
        let file = File::options()
            .write(true)
            .open(&self.disks()[disk].flat)
            .expect("open the guest's disk");
        let bytes: Vec<u8> = (0..251u8)
            .cycle()
            .map(|at| seed.wrapping_add(at) | 1)
            .take(len)
            .collect();
        file.write_all_at(&bytes, offset)
            .expect("write as the guest");
    }

    // --- VDDK ---------------------------------------------------------------------------------

    /// The VDDK that reads this vCenter's disks, as `libdir`.
    pub(crate) fn libdir(&self) -> PathBuf {
        self.dir.path().join("vddk")
    }

    fn make_libdir(&self) {
        fs::create_dir(self.libdir()).expect("make a directory");
        symlink(built("lib64"), self.libdir().join("lib64")).expect("link the library");
        self.vddk(&[]);
    }

    /// Sets what the stand-in for VDDK does besides: see tests/vddk/vixdisklib.c.
    pub(crate) fn vddk(&self, settings: &[(&str, &str)]) {
        let mut text = format!(
            "root={}\nlog={}\nuser={USER}\npassword={PASSWORD}\nthumbprint={}\n",
            self.dir.path().display(),
            self.libdir().join("log").display(),
            self.thumbprint()
        );
        for (key, value) in settings {
            text.push_str(&format!("{key}={value}\n"));
        }
        let new = self.libdir().join("standin.conf.new");
        fs::write(&new, text).expect("write the settings");
        fs::rename(&new, self.libdir().join("standin.conf")).expect("set the settings");
    }

    /// Lets somebody who is not root read its disks, and log that.
    pub(crate) fn open_to_all(&self) {
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for disk in self.disks() {
            let above = disk.flat.ancestors().skip(1);
            let above = above.take_while(|path| path.starts_with(self.dir.path()));
            above.for_each(|path| open(path, 0o755).expect("open a directory"));
            open(&disk.flat, 0o644).expect("open a disk");
        }
        let log = self.libdir().join("log");
        let file = File::options().create(true).append(true).open(&log);
        drop(file.expect("make a log"));
        open(&log, 0o666).expect("open the log");
    }

    /// The address of a disk, of now or of a snapshot; the password is in a file.
    pub(crate) fn vddk_address(&self, disk: usize, snapshot: Option<&str>) -> String {
        let password = self.dir.path().join("password");
        fs::write(&password, PASSWORD).expect("write the password");
        let snapshot = snapshot.map_or(String::new(), |moref| format!("&snapshot={moref}"));
        format!(
            "vddk://{USER}@{}/moref={}?disk={}&thumbprint={}&libdir={}&plugin={}&password-file={}{snapshot}",
            self.address(),
            self.moref(),
            self.disks()[disk].file,
            self.thumbprint(),
            self.libdir().display(),
            Self::plugin().display(),
            password.display(),
        )
    }

    /// What the stand-in for VDDK was asked to do so far, one line a call.
    pub(crate) fn vddk_log(&self) -> String {
        fs::read_to_string(self.libdir().join("log")).unwrap_or_default()
    }

    /// nbdkit's vddk plugin.
    pub(crate) fn plugin() -> PathBuf {
        built("nbdkit-vddk-plugin.so")
    }
}

/// All that the processes below `pid`, and it itself, were started with: words and environments.
pub(crate) fn words_of(pid: u32) -> String {
    let mut told = String::new();
    let mut pids = vec![pid];
    while let Some(pid) = pids.pop() {
        for name in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            told.push_str(&String::from_utf8_lossy(&bytes));
            told.push('\n');
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    told
}
