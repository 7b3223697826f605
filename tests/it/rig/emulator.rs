//! QEMU with disks that can be tracked: a storage daemon, or a machine that has no guest.
//!
//! Under `changes::qmp` there is one socket for the program under test and one for the rig.

use super::qsd::{Guest, Qmp};
use super::server::{Server, socket_dir, uri};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct Emulator {
    control: Qmp,
    server: Server,
    program: &'static str,
    args: Vec<String>,
    dir: TempDir,
}

/// The rig's way to QMP: [`Qmp::line`].
const LINE: &str = "socket,id=rig,fd=0";

impl Emulator {
    /// A storage daemon with nodes `disk0`…, that guests write to through [`Emulator::guest`].
    #[track_caller]
    pub(crate) fn daemon(disks: &[PathBuf]) -> Self {
        Self::daemon_of(disks, "raw")
    }

    /// Likewise, with images of `format`.
    #[track_caller]
    pub(crate) fn daemon_of(disks: &[PathBuf], format: &str) -> Self {
        let dir = socket_dir();
        let mut args = vec![
            "--nbd-server".to_owned(),
            format!(
                "addr.type=unix,addr.path={},max-connections=0",
                path(&dir, "nbd")
            ),
        ];
        for (index, disk) in disks.iter().enumerate() {
            args.push("--blockdev".to_owned());
            args.push(blockdev(index, disk, format));
            args.push("--export".to_owned());
            args.push(format!(
                "type=nbd,id=guest{index},node-name=disk{index},name=guest{index},writable=on"
            ));
        }
        // The rig's comes last: once it answers, the other one listens.
        let listen = format!(
            "socket,id=qmp,path={},server=on,wait=off",
            path(&dir, "qmp")
        );
        for (name, chardev) in [("qmp", &*listen), ("rig", LINE)] {
            args.extend(["--chardev", chardev, "--monitor"].map(str::to_owned));
            args.push(format!("chardev={name}"));
        }
        Self::start("qemu-storage-daemon", args, dir)
    }

    /// A machine with devices `device0`… on nodes `disk0`…. It stands still until told to go on, and
    /// then finds nothing to boot.
    #[track_caller]
    pub(crate) fn machine(disks: &[PathBuf]) -> Self {
        Self::machine_with(disks, None)
    }

    /// Likewise, with disk 0 in an I/O thread of this name.
    #[track_caller]
    pub(crate) fn machine_with(disks: &[PathBuf], thread: Option<&str>) -> Self {
        let dir = socket_dir();
        let fixed = "-accel tcg -nodefaults -display none -m 32 -S";
        let mut args: Vec<_> = fixed.split(' ').map(str::to_owned).collect();
        if let Some(thread) = thread {
            args.extend(["-object".to_owned(), format!("iothread,id={thread}")]);
        }
        args.push("-qmp".to_owned());
        args.push(format!("unix:{},server=on,wait=off", path(&dir, "qmp")));
        args.extend(["-chardev", LINE, "-mon", "chardev=rig,mode=control"].map(str::to_owned));
        for (index, disk) in disks.iter().enumerate() {
            args.push("-blockdev".to_owned());
            args.push(blockdev(index, disk, "raw"));
            let thread = thread.filter(|_| index == 0);
            let thread = thread.map_or_else(String::new, |name| format!(",iothread={name}"));
            args.push("-device".to_owned());
            args.push(format!(
                "virtio-blk-pci,id=device{index},drive=disk{index}{thread}"
            ));
        }
        Self::start("qemu-system-x86_64", args, dir)
    }

    #[track_caller]
    fn start(program: &'static str, args: Vec<String>, dir: TempDir) -> Self {
        let (control, server) = Self::run(program, &args);
        Self {
            control,
            server,
            program,
            args,
            dir,
        }
    }

    #[track_caller]
    fn run(program: &str, args: &[String]) -> (Qmp, Server) {
        let (ours, theirs) = Qmp::line();
        let server = Server::start_with(theirs, program, args);
        (Qmp::greeted(ours), server)
    }

    /// Ends at once, and begins anew with the same disks and sockets, and with nothing of what it had
    /// in memory.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        (self.control, self.server) = Self::run(self.program, &self.args);
    }

    /// The QMP socket for the program under test.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.dir.path().join("qmp")
    }

    /// The NBD server of a daemon.
    pub(crate) fn nbd(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }

    /// A file beside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command over the rig's own socket; its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.control.execute(command, arguments)
    }

    /// A guest of a daemon, that writes to disk `index`.
    pub(crate) fn guest(&self, index: usize) -> Guest {
        Guest::new(&uri(&self.nbd(), &format!("guest{index}")))
    }

    /// The guests of a daemon are gone.
    #[track_caller]
    pub(crate) fn drop_guests(&mut self) {
        // Told to go only as long as it was not: whether it is there, and whether it is ending, must
        // come from one look.
        while let Some((id, ending)) = self.a_guest() {
            if ending {
                thread::yield_now();
            } else {
                self.ask("block-export-del", &json!({"id": id, "mode": "hard"}));
            }
        }
    }

    /// The export of some guest, and whether it is ending.
    fn a_guest(&mut self) -> Option<(String, bool)> {
        let exports = self.ask("query-block-exports", &json!({}));
        exports.as_array().unwrap().iter().find_map(|export| {
            let id = export["id"].as_str().unwrap();
            let ending = export["shutting-down"] == true;
            id.starts_with("guest").then(|| (id.to_owned(), ending))
        })
    }

    /// Writes through the device of a machine, as its guest would.
    #[track_caller]
    pub(crate) fn write(&mut self, index: usize, pattern: u8, offset: u64, length: u64) {
        let device = format!("/machine/peripheral/device{index}/virtio-backend");
        let line = format!("qemu-io -d {device} \"write -P {pattern} {offset} {length}\"");
        // It answers nothing: whoever reads the disk sees whether it was written.
        self.ask("human-monitor-command", &json!({"command-line": line}));
    }

    /// `query-status`.
    #[track_caller]
    pub(crate) fn status(&mut self) -> String {
        let status = self.ask("query-status", &json!({}));
        status["status"].as_str().unwrap().to_owned()
    }

    fn ids(&mut self, query: &str) -> impl Iterator<Item = String> + use<> {
        let found = self.ask(query, &json!({}));
        let found = found.as_array().unwrap().clone();
        found
            .into_iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
    }

    /// Every named thing in it: nodes, bitmaps, jobs, exports.
    #[track_caller]
    pub(crate) fn inventory(&mut self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let nodes = self.ask("query-named-block-nodes", &json!({"flat": true}));
        for node in nodes.as_array().unwrap() {
            let name = node["node-name"].as_str().unwrap();
            // What nobody named lies below what somebody did, and is called otherwise every time.
            if name.starts_with('#') {
                continue;
            }
            found.insert(format!("node {name}"));
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                let known = bitmap["name"].as_str();
                found.extend(known.map(|bitmap| format!("bitmap {bitmap} of {name}")));
            }
        }
        found.extend(self.ids("query-jobs").map(|id| format!("job {id}")));
        found.extend(
            self.ids("query-block-exports")
                .map(|id| format!("export {id}")),
        );
        found
    }

    /// Ends at once.
    pub(crate) fn kill(&mut self) {
        self.server.signal(rustix::process::Signal::KILL);
        let _ = self.server.child().wait();
    }
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn blockdev(index: usize, disk: &Path, format: &str) -> String {
    let file = json!({"driver": "file", "filename": disk, "discard": "unmap"});
    json!({"driver": format, "node-name": format!("disk{index}"), "discard": "unmap", "file": file})
        .to_string()
}

/// A way to a QMP socket that is cut after a number of commands that change something.
#[derive(Debug)]
pub(crate) struct Gate {
    socket: PathBuf,
    passed: Arc<AtomicUsize>,
    _dir: TempDir,
}

impl Gate {
    /// Lets `commands` pass to `target`, then is cut: before the next one is delivered, or, if
    /// `delivered`, after that and before it is answered. It is `mended` after that, or for good.
    pub(crate) fn new(target: PathBuf, commands: usize, delivered: bool, mended: bool) -> Self {
        let dir = socket_dir();
        let socket = dir.path().join("gate");
        let listener = UnixListener::bind(&socket).expect("listen");
        let passed = Arc::new(AtomicUsize::new(0));
        let count = passed.clone();
        // It ends with the test's process, or when it was cut for good.
        thread::spawn(move || {
            let mut left = commands;
            for client in listener.incoming() {
                let client = client.expect("accept");
                let server = UnixStream::connect(&target).expect("connect to QEMU");
                let cut = pass(&client, &server, &mut left, delivered, &count);
                for end in [&client, &server] {
                    let _ = end.shutdown(std::net::Shutdown::Both);
                }
                match (cut, mended) {
                    (true, true) => left = usize::MAX,
                    (true, false) => return,
                    (false, _) => {}
                }
            }
        });
        Self {
            socket,
            passed,
            _dir: dir,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Commands that changed something and were delivered.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Passes on what both say, until one of them ends or it is cut; whether it was cut.
fn pass(
    client: &UnixStream,
    server: &UnixStream,
    left: &mut usize,
    delivered: bool,
    count: &AtomicUsize,
) -> bool {
    thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let (mut from, mut to) = (server, client);
            let _ = std::io::copy(&mut from, &mut to);
            let _ = client.shutdown(std::net::Shutdown::Both);
        });
        let mut to = server;
        let mut was_cut = false;
        for line in BufReader::new(client).lines() {
            let Ok(line) = line else { break };
            let changes = !line.contains("\"query-") && !line.contains("qmp_capabilities");
            if changes && *left == 0 {
                was_cut = true;
                if delivered {
                    // The answer must not get through, but the command must be carried out.
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = to.write_all(format!("{line}\n").as_bytes());
                    thread::sleep(std::time::Duration::from_millis(100));
                }
                break;
            }
            if changes {
                *left -= 1;
                count.fetch_add(1, Ordering::SeqCst);
            }
            if to.write_all(format!("{line}\n").as_bytes()).is_err() {
                break;
            }
        }
        for end in [client, server] {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
        let _ = answers.join();
        was_cut
    })
}

/// A file system in memory of that many MiB, in the room that `path` is in. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    #[track_caller]
    pub(crate) fn new(path: PathBuf, mebibytes: u32) -> Self {
        fs::create_dir(&path).expect("make a directory");
        let size = format!("size={mebibytes}m");
        let args = ["-t", "tmpfs", "-o", &size, "none"].map(OsStr::new);
        super::server::run("mount", args.into_iter().chain([path.as_os_str()]));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}
