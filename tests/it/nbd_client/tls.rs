//! Certificates good, bad and missing, against nbdkit's TLS.

use super::{assert_pattern, connect, once, read};
use crate::rig::{Nbdkit, Server, free_port};
use diskferry::error::Kind;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An authority, and directories of certificates that it signed.
struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self {
            authority: CertifiedIssuer::self_signed(params, key).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A directory with the authority's certificate and one of the `role`, for `names`.
    fn directory(&self, role: &str, names: &[&str]) -> PathBuf {
        let path = self.dir.path().join(format!("{role}-{}", names.join("-")));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("ca-cert.pem"), self.authority.pem()).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(path.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        fs::write(path.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
        path
    }

    /// A directory with nothing but the authority's certificate.
    fn authority_only(&self) -> PathBuf {
        let path = self.dir.path().join("authority");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("ca-cert.pem"), self.authority.pem()).unwrap();
        path
    }
}

/// nbdkit with TLS on a loopback port.
struct TlsServer {
    _server: Server,
    port: u16,
}

impl TlsServer {
    fn new(certificates: &Path, args: &[&str]) -> Self {
        let port = free_port();
        let certificates = format!("--tls-certificates={}", certificates.display());
        let port_word = port.to_string();
        let words = ["-f", "-i", "127.0.0.1", "-p", &port_word, &certificates];
        let mut server = Server::start(
            "nbdkit",
            words.iter().chain(args).chain(&["pattern", "16M"]),
        );
        server.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self {
            _server: server,
            port,
        }
    }

    fn uri(&self, host: &str, certificates: &Path) -> String {
        let certificates = certificates.display();
        format!(
            "nbds://{host}:{}/?tls-certificates={certificates}",
            self.port
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_good_certificate_is_read_under_tls() {
    let pki = Pki::new();
    let server = TlsServer::new(
        &pki.directory("server", &["localhost", "127.0.0.1"]),
        &["--tls=require"],
    );
    for host in ["localhost", "127.0.0.1"] {
        let uri = server.uri(host, &pki.authority_only());
        let client = connect(&uri, once()).await.unwrap();
        assert_pattern(&read(&client, 8 << 20, 5 << 20).await, 8 << 20);
        client.close().await;
        assert!(!client.name().contains("tls-certificates"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_must_show_a_certificate_does() {
    let pki = Pki::new();
    let args = ["--tls=require", "--tls-verify-peer"];
    let server = TlsServer::new(&pki.directory("server", &["localhost"]), &args);
    let uri = server.uri("localhost", &pki.directory("client", &["me"]));
    let client = connect(&uri, once()).await.unwrap();
    assert_pattern(&read(&client, 0, 4096).await, 0);
    let uri = server.uri("localhost", &pki.authority_only());
    connect(&uri, once())
        .await
        .expect_err("no certificate shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_refused() {
    let pki = Pki::new();
    let server = TlsServer::new(
        &pki.directory("server", &["other.example"]),
        &["--tls=require"],
    );
    let uri = server.uri("localhost", &pki.authority_only());
    let error = connect(&uri, once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
    assert!(error.line().contains("other.example"), "{error:?}");
    let named = format!("{uri}&tls-hostname=other.example");
    assert!(connect(&named, once()).await.is_ok());
    let unchecked = format!("{uri}&tls-verify-peer=false");
    assert!(connect(&unchecked, once()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = TlsServer::new(&pki.directory("server", &["localhost"]), &["--tls=require"]);
    let error = connect(&server.uri("localhost", &other.authority_only()), once())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_neither_dropped_nor_taken_up_in_silence() {
    let pki = Pki::new();
    let plain = Nbdkit::new(["memory", "1M"]);
    let certificates = pki.authority_only();
    let uri = format!(
        "nbds+unix:///?socket={}&tls-certificates={}",
        plain.socket().display(),
        certificates.display()
    );
    let error = connect(&uri, once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("does not offer TLS"), "{error:?}");

    let server = TlsServer::new(&pki.directory("server", &["localhost"]), &["--tls=require"]);
    let error = connect(&format!("nbd://localhost:{}", server.port), once())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.line().contains("requires TLS") && error.line().contains("nbds://"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_an_authority_is_named_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!(
        "nbds://localhost:1/?tls-certificates={}",
        dir.path().display()
    );
    let error = connect(&uri, once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.line().contains("ca-cert.pem"), "{error:?}");
}
