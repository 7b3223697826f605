//! Object stores on loopback: s3s-fs, which lets nobody in whose signature is not right, and an
//! emulator of Google's.

use super::server::{Server, free_port, run};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Who may read from S3, and with what.
pub(crate) const S3_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(crate) const S3_SECRET: &str = "the-s3cret-of/s3+that=is";

/// Puts a file into a bucket of Google's, which is made.
const PUT: &str = r"
import json, sys, urllib.request
base, path = sys.argv[1:]
def ask(method, url, data, **headers):
    urllib.request.urlopen(urllib.request.Request(base + url, data, headers, method=method)).read()
ask('POST', '/storage/v1/b?project=p', json.dumps({'name': 'images'}).encode(), **{'Content-Type': 'application/json'})
ask('PUT', '/images/dir/disk', open(path, 'rb').read(), **{'Content-Type': 'application/octet-stream'})
";

/// A store with one object, `images/dir/disk`.
#[derive(Debug)]
pub(crate) struct ObjectStore {
    _server: Server,
    _dir: TempDir,
    port: u16,
}

impl ObjectStore {
    /// S3 with the file at `path`.
    #[track_caller]
    pub(crate) fn s3(path: &Path) -> Self {
        let (dir, port) = (directory(), free_port());
        let object = dir.path().join("images/dir/disk");
        fs::create_dir_all(object.parent().expect("a folder")).expect("make a directory");
        fs::copy(path, object).expect("copy the object");
        let mut command = peer("s3s/bin/s3s-fs");
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--access-key", S3_KEY, "--secret-key", S3_SECRET]);
        command.arg(dir.path());
        Self::start(command, dir, port)
    }

    /// Google's with the file at `path`.
    #[track_caller]
    pub(crate) fn gcs(path: &Path) -> Self {
        let (dir, port) = (directory(), free_port());
        let mut command = peer("venv/bin/python3");
        command
            .args(["-m", "gcp_storage_emulator", "-d"])
            .arg(dir.path());
        command.args(["start", "--host", "127.0.0.1", "--port", &port.to_string()]);
        let store = Self::start(command, dir, port);
        let base = format!("http://127.0.0.1:{port}");
        let python = built("venv/bin/python3").display().to_string();
        run(&python, ["-c", PUT, &base, &path.display().to_string()]);
        store
    }

    fn start(mut command: Command, dir: TempDir, port: u16) -> Self {
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Server::spawn(&mut command);
        server.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self {
            _server: server,
            _dir: dir,
            port,
        }
    }

    /// Where the object is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/images/dir/disk", self.port)
    }
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory")
}

/// Where `tests/run peers` put a program.
fn built(name: &str) -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = target.parent().expect("a folder").join(name);
    assert!(
        path.exists(),
        "{} is not there (tests/run peers)",
        path.display()
    );
    path
}

/// The same, to be started and to end with its test.
fn peer(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(built(name));
    command
}
