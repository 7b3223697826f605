//! What all TLS clients here have in common, whatever they speak over it: the ciphers, authorities out
//! of a PEM file, and a verifier for certificates that nobody signed.
//!
//! Whose certificate is believed is decided by whoever speaks: `nbd::tls` and `http::trust`.

use crate::error::{Error, Kind, Result};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The ciphers.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A client that believes what `verifier` believes.
///
/// # Errors
/// The ciphers do not go with any version of TLS.
pub fn client(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Unsupported, "set up TLS").because(error))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// The authorities in a PEM file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn authorities(path: &Path) -> Result<RootCertStore> {
    let bad = || {
        let what = format!("read authorities from {}", path.display());
        Error::new(Kind::Usage, what)
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad().because(error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = roots.add(certificate);
        added.map_err(|error| bad().because(error))?;
    }
    match roots.is_empty() {
        true => Err(bad().because("it holds no certificate")),
        false => Ok(roots),
    }
}

/// Believes the certificates that `judge` does, whoever signed them. That the server has the key of
/// its certificate is checked as for every other.
pub fn unsigned(
    judge: impl Fn(&CertificateDer<'_>) -> Result<(), String> + Send + Sync + 'static,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Unsigned {
        judge: Box::new(judge),
        provider: provider(),
    })
}

type Judge = dyn Fn(&CertificateDer<'_>) -> Result<(), String> + Send + Sync;

struct Unsigned {
    judge: Box<Judge>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsigned")
    }
}

impl ServerCertVerifier for Unsigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match (self.judge)(end_entity) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(TlsError::General(why)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
