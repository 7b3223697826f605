//! The whole program as a pod runs it: uid 107, no capability, io_uring forbidden, little memory.

use crate::rig::{LoopDevice, Nbdkit, assert_same_bytes, random_disk};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
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
