//! Child processes that die with their test, and the two servers that need nothing else.

use rustix::process::{Pid, Signal, kill_process};
use std::array;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to come up.
const STARTUP: Duration = Duration::from_secs(20);

/// A port of the loopback that nobody listened at a moment ago.
#[track_caller]
pub(crate) fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Several of them, each another: one that was let go of may be given out again at once.
#[track_caller]
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listeners: [TcpListener; COUNT] = array::from_fn(|_| listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("its number").port();
    listeners.each_ref().map(port)
}

/// A child process, stopped by its own pid when dropped, and by the kernel if the test is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    words: String,
}

impl Server {
    pub(crate) fn start<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Self {
        Self::start_with(Stdio::null(), program, args)
    }

    /// Likewise, with something to read from.
    pub(crate) fn start_with<A: AsRef<OsStr>>(
        stdin: Stdio,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", program]).args(args);
        Self::spawn(command.stdin(stdin).stdout(Stdio::null()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let words = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {words} (tests/run peers): {error}"));
        Self { child, words }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let _ = kill_process(Pid::from_raw(pid).expect("a pid"), signal);
    }

    /// Waits until `ready` says so. Fails if the server ends or takes too long.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let deadline = Instant::now() + STARTUP;
        while !ready() {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("ended with {status} before it was ready: {}", self.words);
            }
            assert!(
                Instant::now() < deadline,
                "does not come up: {}",
                self.words
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and gives its standard output. Fails if it does.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
    let mut command = Command::new(program);
    let output = command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("start {program} (tests/run peers): {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The address of an export behind a unix socket.
pub(crate) fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// A directory for sockets: their paths must be short.
pub(crate) fn socket_dir() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}

/// nbdkit on a unix socket.
#[derive(Debug)]
pub(crate) struct Nbdkit {
    server: Option<Server>,
    dir: TempDir,
}

impl Nbdkit {
    /// `args` are the filters, the plugin and their settings.
    #[track_caller]
    pub(crate) fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let mut server = Self {
            server: None,
            dir: socket_dir(),
        };
        server.restart(args);
        server
    }

    /// Takes what is written to a disk of `size` bytes, keeps none of it, and fails every flush.
    #[track_caller]
    pub(crate) fn that_loses(size: u64) -> Self {
        let size = format!("get_size=echo {size}");
        Self::new([
            "eval",
            &size,
            "can_write=exit 0",
            "can_flush=exit 0",
            "pwrite=cat >/dev/null",
            "flush=echo EIO the cache is gone >&2; exit 1",
        ])
    }

    /// Starts it at the same socket, after a [crash](Self::crash).
    #[track_caller]
    pub(crate) fn restart<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) {
        let pid = self.dir.path().join("pid");
        let mut command = Command::new("nbdkit");
        command
            .args(["--exit-with-parent", "--foreground", "--newstyle", "-U"])
            .arg(self.socket())
            .arg("-P")
            .arg(&pid)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Server::spawn(&mut command);
        // The pid file is written once connections are accepted.
        server.wait_until(|| pid.exists());
        self.server = Some(server);
    }

    /// Kills it at once, with all that it has in memory.
    pub(crate) fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(Signal::KILL);
            let _ = server.child().wait();
        }
        for name in ["s", "pid"] {
            let _ = fs::remove_file(self.dir.path().join(name));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn uri(&self) -> String {
        uri(&self.socket(), "")
    }
}

/// qemu-nbd on a unix socket.
#[derive(Debug)]
pub(crate) struct QemuNbd {
    server: Server,
    dir: TempDir,
    export: String,
}

impl QemuNbd {
    /// Serves `image` of `format`; `args` are further options, such as `-r` or `-B BITMAP`.
    #[track_caller]
    pub(crate) fn new(image: &Path, format: &str, args: &[&str]) -> Self {
        let dir = socket_dir();
        let socket = dir.path().join("s");
        let mut server = Server::start(
            "qemu-nbd",
            [
                OsStr::new("-t"),
                "-e".as_ref(),
                "0".as_ref(),
                "-k".as_ref(),
                socket.as_ref(),
            ]
            .into_iter()
            .chain(["-f", format].map(OsStr::new))
            .chain(args.iter().map(OsStr::new))
            .chain([image.as_os_str()]),
        );
        server.wait_until(|| UnixStream::connect(&socket).is_ok());
        let export = args
            .iter()
            .skip_while(|arg| **arg != "-x")
            .nth(1)
            .map_or_else(String::new, |name| (*name).to_owned());
        Self {
            server,
            dir,
            export,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn uri(&self) -> String {
        uri(&self.socket(), &self.export)
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}
