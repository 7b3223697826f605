//! A vCenter that is slow, or falls silent: a real TLS server in front of the rig's, with a
//! certificate of its own, that answers each call as it was told to.
//!
//! What it does not hold up it sends on, each call over a connection of its own.

use super::vmware::Vcenter;
use diskferry::http::trust::{Thumbprint, Trust};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(600);

/// How a call is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// Not at all.
    Never,
    /// With the head of an answer that has a long body, and nothing after it.
    HeadOnly,
    /// Byte by byte, with so much time after each.
    Dripping(Duration),
    /// As it should be, after so much time.
    Late(Duration),
}

/// The server. It holds what it was told to hold for as long as the test process lives.
#[derive(Debug)]
pub(crate) struct SlowVcenter {
    port: u16,
    certificate: Vec<u8>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    /// A connection is taken, and TLS never begins.
    mute: bool,
    /// A connection is kept after its answer, and ends without one when it is used again.
    ends_kept: bool,
    calls: BTreeMap<String, How>,
    /// What was called so far, in order.
    seen: Vec<String>,
}

impl SlowVcenter {
    /// One that sends everything on to `vcenter`.
    #[track_caller]
    pub(crate) fn before(vcenter: &Vcenter) -> Self {
        let made = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let CertifiedKey { cert, signing_key } = made;
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate and its key");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("its address").port();
        let told = Arc::new(Mutex::new(Told::default()));
        let (config, behind) = (Arc::new(config), vcenter.address().to_owned());
        let shared = Arc::clone(&told);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, behind) = (Arc::clone(&config), behind.clone());
                let told = Arc::clone(&shared);
                // A client that goes away is an end like any other.
                thread::spawn(move || serve(client, config, &behind, &told));
            }
        });
        Self {
            port,
            certificate: cert.der().to_vec(),
            told,
        }
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate's SHA-1.
    pub(crate) fn thumbprint(&self) -> String {
        Thumbprint::sha1_of(&self.certificate).to_string()
    }

    /// From now on takes connections, and says nothing.
    pub(crate) fn mute(&self) {
        self.lock().mute = true;
    }

    /// From now on keeps connections after their answer, and ends each when it is used again: as a
    /// server does whose time for idle ones is over in the moment when a call arrives.
    pub(crate) fn end_kept(&self) {
        self.lock().ends_kept = true;
    }

    /// From now on answers each call of `method` so.
    pub(crate) fn answer(&self, method: &str, how: How) {
        self.lock().calls.insert(method.to_owned(), how);
    }

    /// How often `method` was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        self.lock()
            .seen
            .iter()
            .filter(|seen| *seen == method)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no panic while it was held")
    }
}

fn serve(
    client: TcpStream,
    config: Arc<ServerConfig>,
    behind: &str,
    told: &Mutex<Told>,
) -> io::Result<()> {
    if told.lock().expect("no panic while it was held").mute {
        thread::sleep(FOREVER);
    }
    let server = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(server, client));
    let request = request(&mut client)?;
    let method = method(&request);
    let how = {
        let mut told = told.lock().expect("no panic while it was held");
        told.seen.push(method.clone());
        told.calls.get(&method).copied()
    };
    match how {
        Some(How::Never) => thread::sleep(FOREVER),
        Some(How::HeadOnly) => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: 9000\r\n\r\n<?xml";
            client.get_mut().write_all(head.as_bytes())?;
            client.get_mut().flush()?;
            thread::sleep(FOREVER);
        }
        _ => {}
    }
    let mut answer = ask(behind, &request)?;
    if told.lock().expect("no panic while it was held").ends_kept {
        answer = without_end(&answer);
    }
    match how {
        Some(How::Late(time)) => thread::sleep(time),
        Some(How::Dripping(time)) => {
            for byte in &answer {
                client.get_mut().write_all(&[*byte])?;
                client.get_mut().flush()?;
                thread::sleep(time);
            }
        }
        _ => {}
    }
    if !matches!(how, Some(How::Dripping(_))) {
        client.get_mut().write_all(&answer)?;
        client.get_mut().flush()?;
    }
    if told.lock().expect("no panic while it was held").ends_kept {
        self::request(&mut client)?;
    }
    client.get_mut().conn.send_close_notify();
    client.get_mut().flush()
}

/// A whole request, that asks for the connection to end after it.
fn request(client: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if client.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line == "\r\n" {
            head.push_str("connection: close\r\n\r\n");
            break;
        }
        head.push_str(&line);
    }
    let mut request = head.into_bytes();
    let start = request.len();
    request.resize(start + length, 0);
    client.read_exact(&mut request[start..])?;
    Ok(request)
}

/// The name of the first element in the body of a SOAP request.
fn method(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let body = text.split("Body><").nth(1).unwrap_or_default();
    body.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The same answer, that does not say that it is the last one of its connection.
fn without_end(answer: &[u8]) -> Vec<u8> {
    let last = b"Connection: close\r\n";
    let at = answer.windows(last.len()).position(|part| part == last);
    let at = at.expect("it was asked for");
    [&answer[..at], &answer[at + last.len()..]].concat()
}

fn ask(behind: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let config = Trust::Anybody.config().map_err(io::Error::other)?;
    let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
    let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut server = StreamOwned::new(tls, TcpStream::connect(behind)?);
    server.write_all(request)?;
    server.flush()?;
    let mut answer = Vec::new();
    match server.read_to_end(&mut answer) {
        // Go ends a connection without saying so.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}
