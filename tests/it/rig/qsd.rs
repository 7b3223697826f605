//! qemu-storage-daemon: a running disk with changed-block tracking, driven over QMP.
//!
//! The commands are those of a real QEMU virtual machine. Whatever writes to the export `guest` is
//! the guest; [`Qsd::freeze`] makes a point-in-time view of the disk, served as an export of its
//! own with the bitmap of what changed before it.

use super::server::{Server, run, socket_dir, uri};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running disk.
#[derive(Debug)]
pub(crate) struct Qsd {
    qmp: Qmp,
    _server: Server,
    dir: TempDir,
    passes: u32,
    size: u64,
}

/// A point-in-time view of the disk, until [`Qsd::thaw`].
#[derive(Debug)]
pub(crate) struct Frozen {
    pass: u32,
    /// The bitmap of what changed before the view, if one was asked for.
    old: Option<String>,
    /// Where the view is served.
    pub(crate) uri: String,
}

impl Qsd {
    /// Serves `disk`, a raw file, which keeps all that the guest writes.
    #[track_caller]
    pub(crate) fn new(disk: &Path) -> Self {
        let dir = socket_dir();
        let nbd = dir.path().join("nbd");
        let (ours, theirs) = Qmp::line();
        let mut server = Server::start_with(
            theirs,
            "qemu-storage-daemon",
            [
                "--blockdev",
                &format!(
                    "driver=file,node-name=f0,discard=unmap,filename={}",
                    disk.display()
                ),
                "--blockdev",
                "driver=raw,node-name=disk0,discard=unmap,file=f0",
                "--nbd-server",
                &format!(
                    "addr.type=unix,addr.path={},max-connections=0",
                    nbd.display()
                ),
                "--export",
                "type=nbd,id=guest,node-name=disk0,name=guest,writable=on",
                "--chardev",
                "socket,id=c0,fd=0",
                "--monitor",
                "chardev=c0",
            ],
        );
        // A socket has a name before anybody listens at it.
        server.wait_until(|| UnixStream::connect(&nbd).is_ok());
        let qmp = Qmp::greeted(ours);
        let size = disk.metadata().expect("the disk's size").len();
        Self {
            qmp,
            _server: server,
            dir,
            passes: 0,
            size,
        }
    }

    /// Where its exports are.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }

    /// Where the guest writes.
    pub(crate) fn guest_uri(&self) -> String {
        uri(&self.socket(), "guest")
    }

    /// A guest that writes what it is told.
    pub(crate) fn guest(&self) -> Guest {
        Guest::new(&self.guest_uri())
    }

    /// At one instant: starts the bitmap `new`, stops the bitmap `old`, and freezes a view of the
    /// disk, served with `qemu:dirty-bitmap:OLD`.
    #[track_caller]
    pub(crate) fn freeze(&mut self, new: &str, old: Option<&str>) -> Frozen {
        self.passes += 1;
        let pass = self.passes;
        let overlay = self.dir.path().join(format!("overlay{pass}"));
        run(
            "qemu-img",
            [
                "create".as_ref(),
                "-q".as_ref(),
                "-f".as_ref(),
                "qcow2".as_ref(),
                overlay.as_os_str(),
                self.size.to_string().as_ref(),
            ],
        );
        let (node, job) = (format!("fl{pass}"), format!("job{pass}"));
        self.qmp.execute(
            "blockdev-add",
            &json!({
                "driver": "qcow2", "node-name": node, "backing": "disk0",
                "file": {"driver": "file", "filename": overlay},
            }),
        );
        let mut actions = vec![json!({
            "type": "block-dirty-bitmap-add",
            "data": {"node": "disk0", "name": new},
        })];
        actions.extend(old.map(|name| {
            json!({
                "type": "block-dirty-bitmap-disable",
                "data": {"node": "disk0", "name": name},
            })
        }));
        actions.push(json!({
            "type": "blockdev-backup",
            "data": {"job-id": job, "device": "disk0", "target": node, "sync": "none"},
        }));
        self.qmp
            .execute("transaction", &json!({ "actions": actions }));
        let export = format!("pass{pass}");
        self.export(&export, &node, old);
        Frozen {
            pass,
            old: old.map(str::to_owned),
            uri: uri(&self.socket(), &export),
        }
    }

    /// Takes a view down, and with it the bitmap that it was served with.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "the view is gone afterwards")]
    pub(crate) fn thaw(&mut self, frozen: Frozen) {
        let pass = frozen.pass;
        self.qmp.execute(
            "block-export-del",
            &json!({"id": format!("pass{pass}"), "mode": "hard"}),
        );
        self.qmp.wait_for("BLOCK_EXPORT_DELETED");
        self.qmp
            .execute("job-cancel", &json!({"id": format!("job{pass}")}));
        self.qmp.wait_for("BLOCK_JOB_C");
        self.qmp
            .execute("blockdev-del", &json!({"node-name": format!("fl{pass}")}));
        if let Some(name) = frozen.old {
            self.qmp.execute(
                "block-dirty-bitmap-remove",
                &json!({"node": "disk0", "name": name}),
            );
        }
    }

    // Exports go the hard way: their clients are gone, but the server may not have noticed yet.

    /// The cutover: the guest is gone, the bitmap `old` stops, and the disk itself is served
    /// read-only with it. Gives the address.
    #[track_caller]
    pub(crate) fn cut_over(&mut self, old: &str) -> String {
        self.qmp
            .execute("block-export-del", &json!({"id": "guest", "mode": "hard"}));
        self.qmp.wait_for("BLOCK_EXPORT_DELETED");
        self.qmp.execute(
            "block-dirty-bitmap-disable",
            &json!({"node": "disk0", "name": old}),
        );
        self.export("final", "disk0", Some(old));
        uri(&self.socket(), "final")
    }

    fn export(&mut self, name: &str, node: &str, bitmap: Option<&str>) {
        let bitmaps: Vec<Value> = bitmap
            .map(|bitmap| json!({"node": "disk0", "name": bitmap}))
            .into_iter()
            .collect();
        self.qmp.execute(
            "block-export-add",
            &json!({
                "type": "nbd", "id": name, "node-name": node, "name": name, "bitmaps": bitmaps,
            }),
        );
    }
}

/// The control connection: one JSON object a line.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Names of events that nobody has waited for yet.
    events: Vec<String>,
}

impl Qmp {
    /// A line to QMP, and the end of it that QEMU gets as its standard input.
    ///
    /// A socket that QEMU listens at is not fit for whoever starts QEMU: one thread accepts at it
    /// while another sets up the monitor behind it. Whoever comes in that moment is greeted twice,
    /// the second time with all that was said before forgotten, or not at all.
    pub(super) fn line() -> (UnixStream, Stdio) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        (ours, OwnedFd::from(theirs).into())
    }

    /// Our end of a line, once QEMU is there. When this returns, it has done all that its command
    /// line says, and listens wherever it is to listen.
    #[track_caller]
    pub(super) fn greeted(writer: UnixStream) -> Self {
        writer
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("set a timeout");
        let reader = BufReader::new(writer.try_clone().expect("clone a socket"));
        let mut qmp = Self {
            reader,
            writer,
            events: Vec::new(),
        };
        assert!(qmp.read().get("QMP").is_some(), "no greeting");
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("read from QMP");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: QMP said {line:?}"))
    }

    #[track_caller]
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.writer
            .write_all(line.as_bytes())
            .expect("write to QMP");
        loop {
            let answer = self.read();
            if let Some(event) = answer.get("event").and_then(Value::as_str) {
                self.events.push(event.to_owned());
                continue;
            }
            let result = answer.get("return");
            return result
                .unwrap_or_else(|| panic!("{line} was answered by {answer}"))
                .clone();
        }
    }

    /// Waits for an event whose name begins with `prefix`.
    #[track_caller]
    pub(super) fn wait_for(&mut self, prefix: &str) {
        loop {
            if let Some(at) = self
                .events
                .iter()
                .position(|event| event.starts_with(prefix))
            {
                self.events.remove(at);
                return;
            }
            let answer = self.read();
            if let Some(event) = answer.get("event").and_then(Value::as_str) {
                self.events.push(event.to_owned());
            }
        }
    }
}

/// Someone who writes to the running disk: `qemu-io`, told what to do line by line.
#[derive(Debug)]
pub(crate) struct Guest {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _server: Server,
}

impl Guest {
    #[track_caller]
    pub(crate) fn new(uri: &str) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "TERM",
                "qemu-io",
                "-f",
                "raw",
                "-t",
                "writeback",
            ])
            .args(["-d", "unmap", uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = Server::spawn(&mut command);
        let stdin = server.child().stdin.take().expect("its input");
        let stdout = BufReader::new(server.child().stdout.take().expect("its output"));
        Self {
            stdin,
            stdout,
            _server: server,
        }
    }

    /// Writes `length` bytes of `pattern`.
    #[track_caller]
    pub(crate) fn write(&mut self, pattern: u8, offset: u64, length: u64) {
        self.tell(&format!("write -P {pattern} {offset} {length}"), "wrote ");
    }

    /// Writes zeroes that take no space.
    #[track_caller]
    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        self.tell(&format!("write -z -u {offset} {length}"), "wrote ");
    }

    #[track_caller]
    pub(crate) fn discard(&mut self, offset: u64, length: u64) {
        self.tell(&format!("discard {offset} {length}"), "discard ");
    }

    fn tell(&mut self, command: &str, done: &str) {
        let mut line = command.to_owned();
        let _ = writeln!(line);
        self.stdin
            .write_all(line.as_bytes())
            .expect("write to qemu-io");
        loop {
            let mut answer = String::new();
            let length = self
                .stdout
                .read_line(&mut answer)
                .expect("read from qemu-io");
            assert!(length > 0, "qemu-io ended at {command:?}");
            assert!(!answer.contains("failed"), "{command:?}: {answer}");
            // The prompt is printed before the answer, on the same line.
            if answer.trim_start_matches("qemu-io> ").starts_with(done) {
                return;
            }
        }
    }
}
