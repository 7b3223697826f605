//! The whole program as a pod runs it: uid 107, no capability, io_uring forbidden, little memory.

use crate::rig::{
    LoopDevice, Nbdkit, PASSWORD, USER, Vcenter, assert_same_bytes, first_difference, random_disk,
    run,
};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

// --- the importer's image, without a container engine -------------------------------------------

/// Copies `program` and every library that it is linked with into `root`, at the places where they
/// are looked for.
fn install(root: &Path, program: &Path, place: &str) {
    let at = root.join(place.trim_start_matches('/'));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::copy(program, &at).unwrap();
    let linked = run("ldd", [program]);
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in libraries {
        let copy = root.join(library.trim_start_matches('/'));
        if !copy.exists() {
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }
}

fn found(program: &str) -> PathBuf {
    run(
        "sh",
        ["-c", &format!("readlink -f $(command -v {program})")],
    )
    .trim()
    .into()
}

/// What `docs/deploy/importer.Containerfile` makes, and what CDI mounts into it.
fn assemble(root: &Path, vcenter: &Vcenter, device: &Path) {
    install(
        root,
        Path::new(env!("CARGO_BIN_EXE_diskferry")),
        "/usr/bin/cdi-importer",
    );
    install(root, &found("nbdkit"), "/usr/bin/nbdkit");
    install(root, &found("sh"), "/bin/sh");
    install(
        root,
        &Vcenter::plugin(),
        "/opt/testing/libvddk-test-plugin.so",
    );
    let vddk = root.join("opt/vmware-vix-disklib-distrib");
    let library = vcenter.libdir().join("lib64/libvixDiskLib.so.8");
    install(
        root,
        &library,
        "/opt/vmware-vix-disklib-distrib/lib64/libvixDiskLib.so.8",
    );
    let thumbprint = vcenter.thumbprint();
    let settings =
        format!("root=/disks\nuser={USER}\npassword={PASSWORD}\nthumbprint={thumbprint}\n");
    fs::write(vddk.join("standin.conf"), settings).unwrap();
    let disk = root.join("disks/LocalDS_0/DC0_H0_VM0/disk1-flat.vmdk");
    fs::create_dir_all(disk.parent().unwrap()).unwrap();
    fs::copy(&vcenter.disks()[0].flat, disk).unwrap();

    fs::create_dir_all(root.join("dev")).unwrap();
    let number = fs::metadata(device).unwrap().rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let node = root.join("dev/cdi-block-volume");
    run(
        "mknod",
        [
            node.as_os_str(),
            "b".as_ref(),
            major.to_string().as_ref(),
            minor.to_string().as_ref(),
        ],
    );
    run(
        "mknod",
        [
            root.join("dev/null").as_os_str(),
            "c".as_ref(),
            "1".as_ref(),
            "3".as_ref(),
        ],
    );
    fs::set_permissions(root.join("dev/null"), Permissions::from_mode(0o666)).unwrap();
    // All that the container can write to.
    File::create(root.join("dev/termination-log")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    for name in ["dev/cdi-block-volume", "dev/termination-log", "tmp"] {
        chown(root.join(name), Some(107), Some(107)).unwrap();
    }
    symlink("/proc/self/fd", root.join("dev/fd")).unwrap();
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_importers_image_runs_as_nobody_and_fills_its_volume() {
    let vcenter = Vcenter::new(&["16M"]);
    for at in [0, 5, 15] {
        vcenter.write(0, at << 20, 900_000, u8::try_from(at).unwrap());
    }
    let device = LoopDevice::new(SIZE, 512);
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assemble(root.path(), &vcenter, device.path());
    // Address space is no measure for threads with stacks that they hardly use.
    let launch = LAUNCH.replace("600 << 20", "2 << 30");
    let output = Command::new("/usr/bin/python3")
        .args([
            "-c",
            &launch,
            &found("chroot").display().to_string(),
            "--userspec=107:107",
            "--groups=",
        ])
        .arg(root.path())
        .args(["/usr/bin/cdi-importer", "-alsologtostderr", "-v=1"])
        .env_clear()
        .envs([
            ("PATH", "/usr/bin:/bin"),
            ("DISKFERRY_METRICS", "127.0.0.1:0"),
            ("DISKFERRY_RETRY", "20"),
            ("IMPORTER_SOURCE", "vddk"),
            (
                "IMPORTER_ENDPOINT",
                &format!("https://{}/sdk", vcenter.address()),
            ),
            ("IMPORTER_UUID", vcenter.instance_uuid()),
            ("IMPORTER_BACKING_FILE", &vcenter.disks()[0].file),
            ("IMPORTER_THUMBPRINT", vcenter.thumbprint()),
            ("IMPORTER_ACCESS_KEY_ID", USER),
            ("IMPORTER_SECRET_KEY", PASSWORD),
            ("PREALLOCATION", "false"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let message = fs::read_to_string(root.path().join("dev/termination-log")).unwrap();
    assert!(
        message.ends_with(r#""message":"Import Complete"}"#),
        "{message}"
    );
    let source = &vcenter.disks()[0];
    assert_eq!(
        first_difference(&source.flat, device.path(), source.size),
        None
    );
}
