//! A container registry on loopback: Debian's docker-registry, and images that are pushed to it.

use super::server::{Server, free_port, run};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Who may pull and push, where not everybody may.
pub(crate) const PULLER: &str = "puller";
pub(crate) const PULLER_SECRET: &str = "pull-s3cret";

/// Pushes an image as container tools do: blobs, a config, a manifest, and a list of manifests. The
/// words are: base URL, name, tag, architecture, user:secret or nothing, and the layers' files.
const PUSH: &str = r#"
import base64, hashlib, json, sys, urllib.request
base, name, tag, arch, login, *files = sys.argv[1:]
def ask(method, url, data, **headers):
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, data, headers, method=method)
    return urllib.request.urlopen(request)
def blob(data, kind):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = ask("POST", f"{base}/v2/{name}/blobs/uploads/", b"").headers["Location"]
    place += ("&" if "?" in place else "?") + "digest=" + digest
    ask("PUT", place, data, Content_Type="application/octet-stream")
    return {"mediaType": kind, "size": len(data), "digest": digest}
def manifest(what, at):
    text = json.dumps(what).encode()
    ask("PUT", f"{base}/v2/{name}/manifests/{at}", text, Content_Type=what["mediaType"])
    return {"size": len(text), "digest": "sha256:" + hashlib.sha256(text).hexdigest()}
oci = "application/vnd.oci.image."
env = ["PATH=/bin", "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=fedora"]
config = {"architecture": arch, "os": "linux", "config": {"Env": env}, "rootfs": {"type": "layers", "diff_ids": []}}
image = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json",
         "config": blob(json.dumps(config).encode(), oci + "config.v1+json"),
         "layers": [blob(open(file, "rb").read(), oci + "layer.v1.tar+gzip") for file in files]}
one = manifest(image, tag + "-" + arch)
one.update(mediaType=image["mediaType"], platform={"os": "linux", "architecture": arch})
manifest({"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": [one]}, tag)
print(one["digest"])
"#;

/// A registry; gone with its images when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    _server: Server,
    dir: TempDir,
    port: u16,
    login: String,
}

impl Registry {
    /// One for everybody.
    #[track_caller]
    pub(crate) fn open() -> Self {
        Self::start(false)
    }

    /// One that wants a user and a password.
    #[track_caller]
    pub(crate) fn closed() -> Self {
        Self::start(true)
    }

    fn start(closed: bool) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let port = free_port();
        let shown = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {shown}/data}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n"
        );
        let mut login = String::new();
        if closed {
            let script = format!(
                "import crypt; print('{PULLER}:' + crypt.crypt('{PULLER_SECRET}', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"
            );
            let users = dir.path().join("users");
            fs::write(&users, run("python3", ["-Wignore", "-c", &script])).expect("write a file");
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: r, path: '{}'}}}}\n",
                users.display()
            ));
            login = format!("{PULLER}:{PULLER_SECRET}");
        }
        let file = dir.path().join("config.yml");
        fs::write(&file, config).expect("write a file");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM"])
            .arg(program())
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).expect("make a log"));
        let mut server = Server::spawn(&mut command);
        server.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self {
            _server: server,
            dir,
            port,
            login,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `docker://…`, as a controller has it.
    pub(crate) fn address(&self, name: &str) -> String {
        format!("docker://127.0.0.1:{}/{name}", self.port)
    }

    /// Pushes an image of these layers as `NAME:TAG` for an architecture; gives its digest.
    #[track_caller]
    pub(crate) fn push(
        &self,
        name: &str,
        tag: &str,
        architecture: &str,
        layers: &[&Path],
    ) -> String {
        let base = format!("http://127.0.0.1:{}", self.port);
        let words = [&*base, name, tag, architecture, &*self.login].map(str::to_owned);
        let layers = layers.iter().map(|path| path.display().to_string());
        let script = ["-c", PUSH].map(str::to_owned).into_iter();
        let told = run("python3", script.chain(words).chain(layers));
        told.trim_end().to_owned()
    }

    /// Gives something else for `digest` from now on.
    #[track_caller]
    pub(crate) fn forge(&self, digest: &str, with: &Path) {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let blobs = "data/docker/registry/v2/blobs/sha256";
        let path = self
            .dir
            .path()
            .join(blobs)
            .join(&hex[..2])
            .join(hex)
            .join("data");
        fs::copy(with, path).expect("write a blob");
    }
}

/// As `tests/run peers` unpacks it.
fn program() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = target
        .parent()
        .expect("a folder")
        .join("registry/docker-registry");
    assert!(
        path.exists(),
        "{} is not there (tests/run peers)",
        path.display()
    );
    path
}
