//! Object stores on loopback: moto's S3 and an emulator of Google's, both from PyPI.

use super::server::{Server, run};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Puts a file into a bucket, which is made.
const PUT: &str = r"
import json, sys, urllib.request
kind, base, path = sys.argv[1:]
def ask(method, url, data, **headers):
    urllib.request.urlopen(urllib.request.Request(base + url, data, headers, method=method)).read()
if kind == 's3':
    ask('PUT', '/images', b'')
else:
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
        let start = |port: &str, _: &Path| {
            let words = ["-m", "moto.server", "-H", "127.0.0.1", "-p", port];
            words.map(str::to_owned).to_vec()
        };
        Self::start("s3", path, start)
    }

    /// Google's with the file at `path`.
    #[track_caller]
    pub(crate) fn gcs(path: &Path) -> Self {
        let start = |port: &str, dir: &Path| {
            let dir = dir.display().to_string();
            let words = [
                "-m",
                "gcp_storage_emulator",
                "-d",
                &dir,
                "start",
                "--host",
                "127.0.0.1",
                "--port",
                port,
            ];
            words.map(str::to_owned).to_vec()
        };
        Self::start("gcs", path, start)
    }

    fn start(kind: &str, path: &Path, words: impl Fn(&str, &Path) -> Vec<String>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("find a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let dir = tempfile::tempdir().expect("make a directory");
        let python = python().display().to_string();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", &python])
            .args(words(&port.to_string(), dir.path()))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Server::spawn(&mut command);
        server.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let base = format!("http://127.0.0.1:{port}");
        run(
            &python,
            ["-c", PUT, kind, &base, &path.display().to_string()],
        );
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

/// That of `tests/run peers`, with what it installed.
fn python() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.parent().expect("a folder").join("venv/bin/python3")
}
