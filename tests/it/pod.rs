//! The whole program as a pod runs it: uid 107, no capability, io_uring forbidden, little memory.

use crate::rig::{
    Limits, LoopDevice, Nbdkit, PASSWORD, USER, Vcenter, assert_same_bytes, first_difference,
    random_disk, run,
};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const SIZE: u64 = 48 << 20;

/// Installs a seccomp filter that refuses io_uring_setup, _enter and _register, proves that it
/// works, limits the address space, and becomes the program that it is given.
const LAUNCH: &str = r#"
import ctypes, errno, os, resource, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def op(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
program = (op(0x20, 0, 0, 0)            # load the number of the system call
           + op(0x35, 0, 2, 425)        # below io_uring_setup: allow
           + op(0x25, 1, 0, 427)        # above io_uring_register: allow
           + op(0x06, 0, 0, 0x00050001) # refuse with EPERM
           + op(0x06, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(program)
class Prog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
prog = Prog(len(program) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
assert libc.prctl(22, 2, ctypes.byref(prog), 0, 0) == 0, "seccomp"
assert libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == errno.EPERM, "filter is not there"
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Runs diskferry as the pod would; `home` is the only place that it may write to.
fn in_pod(home: &Path, args: &[&str]) -> Output {
    let program = home.join("diskferry");
    fs::copy(env!("CARGO_BIN_EXE_diskferry"), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    Command::new("setpriv")
        .args([
            "--reuid=107",
            "--regid=107",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .args([
            "--bounding-set=-all",
            "--no-new-privs",
            "/usr/bin/python3",
            "-c",
            LAUNCH,
        ])
        .arg(&program)
        .args(args)
        .env("HOME", home)
        .env_remove("XDG_STATE_HOME")
        .current_dir("/")
        .output()
        .unwrap()
}

#[test]
fn a_pod_without_capabilities_and_io_uring_copies_and_proves() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    chown(home.path(), Some(107), Some(107)).unwrap();
    let disk = home.path().join("disk");
    random_disk(&disk, SIZE, 7);
    let server = Nbdkit::new(["-r".as_ref(), "file".as_ref(), disk.as_os_str()]);
    let socket = server.socket();
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let device = LoopDevice::new(SIZE, 4096);
    chown(device.path(), Some(107), Some(107)).unwrap();

    let target = device.path().to_str().unwrap();
    let output = in_pod(
        home.path(),
        &["copy", "--verify", "--json", &server.uri(), target],
    );

    chown(device.path(), Some(0), Some(0)).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(r#""proven":true"#), "{said}");
    assert_same_bytes(&disk, device.path());
}

// --- the image, without a container engine -------------------------------------------------------

/// Joins control groups, makes a root file system read-only but for what Kubernetes mounts, gives up
/// everything that a restricted pod does not have, and becomes the program that it is given.
const CONTAIN: &str = r#"
import ctypes, errno, os, resource, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
root, log, groups, words = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4:]
def must(failed, what):
    if failed:
        raise OSError(ctypes.get_errno(), what)
def mount(source, at, kind, flags, data=None):
    must(libc.mount(source.encode(), at.encode(), kind, flags, data), "mount " + at)
for group in filter(None, groups):
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
RDONLY, REMOUNT, BIND, REC, PRIVATE = 1, 32, 4096, 16384, 1 << 18
must(libc.unshare(0x20000), "unshare")
mount("none", "/", None, REC | PRIVATE)
mount(root, root, None, BIND)
mount("tmpfs", root + "/tmp", b"tmpfs", 0, b"mode=1777,size=64m")
mount("proc", root + "/proc", b"proc", 0)
mount(log, root + "/dev/termination-log", None, BIND)
mount("none", root, None, REMOUNT | BIND | RDONLY)
for capability in range(64):
    libc.prctl(24, capability, 0, 0, 0)
os.chroot(root)
os.chdir("/")
os.setgroups([])
os.setgid(107)
os.setuid(107)
"#;

/// What `tests/image` made, as CDI's pod has it: with VDDK, a volume, and what the kubelet mounts.
struct Container {
    root: TempDir,
    groups: Limits,
}

impl Container {
    fn new(vcenter: &Vcenter, device: &Path) -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let image = tmp.parent().unwrap().join("image");
        assert!(image.exists(), "there is no image (tests/run image)");
        let made = tempfile::tempdir_in(tmp).unwrap();
        let root = made.path();
        run(
            "cp",
            ["-a".as_ref(), image.join(".").as_os_str(), root.as_os_str()],
        );
        let vddk = root.join("opt/vmware-vix-disklib-distrib");
        fs::create_dir_all(vddk.join("lib64")).unwrap();
        let library = "lib64/libvixDiskLib.so.8";
        fs::copy(vcenter.libdir().join(library), vddk.join(library)).unwrap();
        let settings = format!(
            "root=/disks\nuser={USER}\npassword={PASSWORD}\nthumbprint={}\n",
            vcenter.thumbprint()
        );
        fs::write(vddk.join("standin.conf"), settings).unwrap();
        let disk = root.join("disks/LocalDS_0/DC0_H0_VM0/disk1-flat.vmdk");
        fs::create_dir_all(disk.parent().unwrap()).unwrap();
        fs::copy(&vcenter.disks()[0].flat, disk).unwrap();
        node(
            &root.join("dev/cdi-block-volume"),
            "b",
            fs::metadata(device).unwrap().rdev(),
        );
        node(&root.join("dev/null"), "c", rustix::fs::makedev(1, 3));
        chown(root.join("dev/cdi-block-volume"), Some(107), Some(107)).unwrap();
        fs::set_permissions(root.join("dev/null"), Permissions::from_mode(0o666)).unwrap();
        File::create(root.join("dev/termination-log")).unwrap();
        symlink("/proc/self/fd", root.join("dev/fd")).unwrap();
        fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
        let container = Self {
            root: made,
            groups: Limits::new(),
        };
        File::create(container.log()).unwrap();
        chown(container.log(), Some(107), Some(107)).unwrap();
        container
    }

    /// The termination message, which is a mount of its own.
    fn log(&self) -> PathBuf {
        self.root.path().with_extension("log")
    }

    fn run(&self, words: &[&str], env: &[(&str, &str)]) -> Output {
        // The filter is laid last: what goes before it is not what a pod may do.
        let (filter, _) = LAUNCH.split_once("resource.setrlimit").unwrap();
        let script = format!("{CONTAIN}\n{filter}\nos.execv(words[0], words)");
        Command::new("/usr/bin/python3")
            .args(["-c", &script])
            .args([self.root.path(), &self.log()])
            .arg(self.groups.words())
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.log());
    }
}

/// Makes a device node.
fn node(path: &Path, kind: &str, number: u64) {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let numbers = [major.to_string(), minor.to_string()];
    let words = [path.display().to_string(), kind.to_owned()];
    run("mknod", words.iter().chain(&numbers));
}

/// A shell's own words only: there is nothing else in the image.
const LOOK: &str = r#"
while read -r name value; do
    case $name in Uid:|CapPrm:|CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) echo "$name $value" ;; esac
done </proc/self/status
(echo x >/x) 2>/dev/null && echo "the root can be written"
(echo x >/tmp/x) && echo "the place for temporary files can be written"
"#;

#[test]
fn the_image_runs_as_nobody_on_a_root_that_cannot_be_written_and_fills_its_volume() {
    let vcenter = Vcenter::new(&["16M"]);
    for at in [0, 5, 15] {
        vcenter.write(0, at << 20, 900_000, u8::try_from(at).unwrap());
    }
    let device = LoopDevice::new(SIZE, 512);
    let container = Container::new(&vcenter, device.path());

    let output = container.run(&["/bin/sh", "-c", LOOK], &[]);
    let told = String::from_utf8_lossy(&output.stdout).replace('\t', " ");
    for line in [
        "Uid: 107 107 107 107",
        "CapPrm: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "the place for temporary files can be written",
    ] {
        assert!(
            told.contains(line),
            "{line}: {told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(!told.contains("the root can be written"), "{told}");

    let endpoint = format!("https://{}/sdk", vcenter.address());
    let env = [
        ("DISKFERRY_METRICS", "127.0.0.1:0"),
        ("DISKFERRY_RETRY", "20"),
        ("IMPORTER_SOURCE", "vddk"),
        ("IMPORTER_ENDPOINT", &*endpoint),
        ("IMPORTER_UUID", vcenter.instance_uuid()),
        ("IMPORTER_BACKING_FILE", &vcenter.disks()[0].file),
        ("IMPORTER_THUMBPRINT", vcenter.thumbprint()),
        ("IMPORTER_ACCESS_KEY_ID", USER),
        ("IMPORTER_SECRET_KEY", PASSWORD),
        ("PREALLOCATION", "false"),
    ];
    let words = ["/usr/bin/cdi-importer", "-alsologtostderr", "-v=1"];
    let output = container.run(&words, &env);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let message = fs::read_to_string(container.log()).unwrap();
    assert!(
        message.ends_with(r#""message":"Import Complete"}"#),
        "{message}"
    );
    let source = &vcenter.disks()[0];
    assert_eq!(
        first_difference(&source.flat, device.path(), source.size),
        None
    );
    if let Some(peak) = container.groups.peak() {
        assert!((1 << 20..=600_000_000).contains(&peak), "{peak} bytes");
    }
    assert_eq!(vcenter.tell("sessions"), "0");
}
