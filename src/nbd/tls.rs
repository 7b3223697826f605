//! TLS for the client: certificates from a directory, the server checked by name.
//!
//! The directory has the files that GnuTLS, libnbd, nbdkit and QEMU use: `ca-cert.pem` signs
//! servers, `client-cert.pem` and `client-key.pem` show who we are (both or neither), `ca-crl.pem`
//! revokes. Without a directory the places of libnbd are searched. Nothing is trusted by default.
//!
//! Not done: pre-shared keys, which rustls does not have; the system's list of authorities, which
//! has no say about storage servers.

use crate::error::{Error, Kind, Result};
use crate::nbd::uri::TlsParameters;
use crate::tls;
use rustls::Error as TlsError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// All that is needed to start TLS on a connection.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

impl Tls {
    /// Reads and checks the certificates that a URI names.
    ///
    /// # Errors
    /// A file is missing or is not what it should be; `Usage` if no directory is known.
    pub fn load(parameters: &TlsParameters) -> Result<Self> {
        let hostname = parameters.hostname.clone();
        let name = ServerName::try_from(hostname.clone()).map_err(|error| {
            Error::new(Kind::Usage, format!("check the server name {hostname:?}")).because(error)
        })?;
        let verifier: Arc<dyn ServerCertVerifier> = if parameters.verify_peer {
            authority(&directory(parameters)?)?
        } else {
            // Only where the user wrote `tls-verify-peer=false`.
            tracing::warn!("the certificate of {hostname} is not checked (tls-verify-peer=false)");
            tls::unsigned(|_| Ok(()))
        };
        let builder = tls::client(verifier)?;
        let config = match own_certificate(parameters)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::new(Kind::Usage, "use the client certificate").because(error)
            })?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    /// Does the TLS handshake.
    ///
    /// # Errors
    /// The server's certificate is not signed by the authority or is for another name
    /// (`Refused`), or the connection is lost.
    pub async fn wrap<S>(&self, stream: S) -> Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connecting = self.connector.connect(self.name.clone(), stream);
        connecting.await.map_err(|error| {
            let refused = error
                .get_ref()
                .is_some_and(|inner| inner.downcast_ref::<TlsError>().is_some());
            let error = Error::io(format!("start TLS with {:?}", self.name.to_str()), error);
            if refused {
                error.with_kind(Kind::Refused)
            } else {
                error
            }
        })
    }
}

/// The directory that was named, or the first of libnbd's that exists.
fn directory(parameters: &TlsParameters) -> Result<PathBuf> {
    if let Some(named) = &parameters.certificates {
        return Ok(named.clone());
    }
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    [
        home.join(".pki/libnbd"),
        home.join(".config/pki/libnbd"),
        PathBuf::from("/etc/pki/libnbd"),
    ]
    .into_iter()
    .find(|path| path.join("ca-cert.pem").is_file())
    .ok_or_else(|| {
        Error::new(Kind::Usage, "no certificates to check the server by")
            .hint("add ?tls-certificates=DIR with a ca-cert.pem in it")
    })
}

fn authority(directory: &Path) -> Result<Arc<WebPkiServerVerifier>> {
    let path = directory.join("ca-cert.pem");
    let roots = Arc::new(tls::authorities(&path)?);
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, tls::provider());
    let revoked = directory.join("ca-crl.pem");
    if revoked.is_file() {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_file_iter(&revoked).and_then(Iterator::collect);
        builder = builder.with_crls(lists.map_err(|error| bad(&revoked).because(error))?);
    }
    builder.build().map_err(|error| bad(&path).because(error))
}

/// Who we are, if the directory says.
fn own_certificate(
    parameters: &TlsParameters,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let Ok(directory) = directory(parameters) else {
        return Ok(None);
    };
    let (chain, key) = (
        directory.join("client-cert.pem"),
        directory.join("client-key.pem"),
    );
    match (chain.is_file(), key.is_file()) {
        (false, false) => Ok(None),
        (true, true) => {
            let secret =
                PrivateKeyDer::from_pem_file(&key).map_err(|error| bad(&key).because(error))?;
            Ok(Some((certificates(&chain)?, secret)))
        }
        (has_chain, _) => {
            let missing = if has_chain { key } else { chain };
            Err(bad(&missing).because("there is only the other half of the client certificate"))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad(path).because(error))
}

fn bad(path: &Path) -> Error {
    Error::new(Kind::Usage, format!("read {}", path.display()))
}
