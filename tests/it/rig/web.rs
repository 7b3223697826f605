//! nginx on loopback: a folder of images over HTTP and HTTPS, with whatever rules a test wants.

use super::server::{Server, free_ports, run};
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use tempfile::TempDir;

/// A web server; gone with its folder when dropped.
#[derive(Debug)]
pub(crate) struct Web {
    _server: Server,
    dir: TempDir,
    port: u16,
    tls_port: u16,
}

/// What it did for one request.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) range: String,
    pub(crate) if_range: String,
    pub(crate) login: String,
    pub(crate) token: String,
    /// A number for each connection.
    pub(crate) connection: u64,
}

impl Web {
    /// Serves a folder as it is.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// The same, with further `location`s of nginx. `$DIR` is where its own files are.
    #[track_caller]
    pub(crate) fn with(rules: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        fs::create_dir(dir.path().join("files")).expect("make a directory");
        certificates(&dir);
        let mut ports: [u16; 2] = free_ports();
        ports.sort_unstable();
        let [port, tls_port] = ports;
        let shown = dir.path().display().to_string();
        let rules = rules.replace("$DIR", &shown);
        let conf = CONF
            .replace("$RULES", &rules)
            .replace("$PORT", &port.to_string())
            .replace("$TLS", &tls_port.to_string())
            .replace("$DIR", &shown);
        let path = dir.path().join("nginx.conf");
        fs::write(&path, conf).expect("write a file");
        let mut server = Server::start(
            &program().display().to_string(),
            [
                "-e",
                &format!("{shown}/errors"),
                "-c",
                &path.display().to_string(),
            ],
        );
        server.wait_until(|| {
            let up = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            up(port) && up(tls_port)
        });
        Self {
            _server: server,
            dir,
            port,
            tls_port,
        }
    }

    /// Where a file of this name is, or would be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    pub(crate) fn https(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.tls_port)
    }

    /// The authority that signed the certificate.
    pub(crate) fn cacert(&self) -> String {
        self.dir.path().join("certs/ca.pem").display().to_string()
    }

    /// A folder that holds nothing but that.
    pub(crate) fn cert_dir(&self) -> String {
        self.dir.path().join("certs").display().to_string()
    }

    /// What it did so far.
    pub(crate) fn served(&self) -> Vec<Served> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let one = |line: &str| {
            let words: Vec<&str> = line.split('|').collect();
            let [path, status, range, if_range, login, token, connection] = words[..] else {
                panic!("not a line of the log: {line}");
            };
            Served {
                path: path.to_owned(),
                status: status.parse().unwrap(),
                range: range.to_owned(),
                if_range: if_range.to_owned(),
                login: login.to_owned(),
                token: token.to_owned(),
                connection: connection.parse().unwrap(),
            }
        };
        log.lines().map(one).collect()
    }
}

const CONF: &str = r#"
daemon off;
master_process off;
pid $DIR/pid;
events {}
http {
    log_format served '$uri|$status|$http_range|$http_if_range|$http_authorization|$http_x_token|$connection';
    access_log $DIR/log served;
    client_body_temp_path $DIR/t1;
    proxy_temp_path $DIR/t2;
    fastcgi_temp_path $DIR/t3;
    uwsgi_temp_path $DIR/t4;
    scgi_temp_path $DIR/t5;
    default_type application/octet-stream;
    keepalive_requests 50;
    server {
        listen 127.0.0.1:$PORT;
        listen 127.0.0.1:$TLS ssl;
        ssl_certificate $DIR/server.pem;
        ssl_certificate_key $DIR/server.key;
        root $DIR/files;
        $RULES
    }
}
"#;

/// nginx as `tests/run peers` unpacks it, else one that is installed.
fn program() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let unpacked = target.parent().expect("a folder").join("nginx/nginx");
    match unpacked.exists() {
        true => unpacked,
        false => PathBuf::from("nginx"),
    }
}

/// An authority, and what it signed for `localhost`.
fn certificates(dir: &TempDir) {
    fs::create_dir(dir.path().join("certs")).expect("make a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let make = |words: &str, more: &[&str]| {
        let fixed = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        let words = fixed.split(' ').chain(words.split(' '));
        run("openssl", words.chain(more.iter().copied()));
    };
    let (ca, ca_key) = (path("certs/ca.pem"), path("ca.key"));
    make(
        "-subj /CN=authority -addext keyUsage=keyCertSign",
        &["-keyout", &ca_key, "-out", &ca],
    );
    let (server, key) = (path("server.pem"), path("server.key"));
    make(
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
        &[
            "-CA", &ca, "-CAkey", &ca_key, "-keyout", &key, "-out", &server,
        ],
    );
}
