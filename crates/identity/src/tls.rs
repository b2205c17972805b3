//! TLS for both ends of a connection, and the only place that names the library for it.
//!
//! Only TLS 1.3 (RFC 8446). An [`Acceptor`] asks every client for a certificate and requires none: a browser shows no
//! prompt when it has none of our root's. A certificate that is shown must be good, or the handshake fails with an alert,
//! and the sentence that says why is in the error ([`reason`]), for the audit.
//!
//! Sessions are never resumed, on either side: a ticket would carry on what a certificate proved after it expired or was
//! revoked. A handshake costs each end less than half a millisecond of its processor, and our connections live long.
//!
//! Neither end bounds the time of a handshake: the caller puts its own bound around the call.

use std::io;
use std::sync::{Arc, LazyLock};

use byname_api::error::{Code, Error, Result};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, OtherError};

use crate::authority::{Refusal, Rule};
use crate::pem;

mod acceptor;
mod connector;

pub use acceptor::{Acceptor, ServerStream};
pub use connector::{ClientStream, Connector, Expect, Trust};

/// The protocols of an [`Acceptor`], best first (RFC 7301).
const SERVER_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The one of a [`Connector`].
const CLIENT_PROTOCOL: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Makes our cryptography the one that every use of the TLS library in this process takes. To be called first thing;
/// again does nothing.
pub fn install() {
    let _ = aws_lc_rs::default_provider().install_default();
}

/// What an end of a connection proves itself with.
#[derive(Clone)]
pub struct Identity {
    /// The leaf's certificate and those between it and the root, PEM.
    pub chain_pem: String,
    /// The leaf's private key, PKCS#8 in PEM.
    pub key_pem: String,
}

impl Identity {
    /// The pair as the library takes it; checks that the key is the certificate's.
    fn certified(&self) -> Result<CertifiedKey> {
        let chain = pem::certificates(&self.chain_pem)?;
        let key = pem::private_key(&self.key_pem)?;
        CertifiedKey::from_der(chain, key.into(), &PROVIDER).map_err(|error| {
            Error::invalid("key", "the key is not that of the certificate, or it cannot be used").log(error.to_string())
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// Why a handshake, a read or a write failed, when it was for a reason of ours: a refused certificate, the other end's
/// alert.
pub fn reason(error: &io::Error) -> Option<Error> {
    let inner = error.get_ref()?;
    if let Some(error) = inner.downcast_ref::<Error>() {
        return Some(error.clone());
    }
    inner.downcast_ref::<rustls::Error>().map(sentence)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

/// The handshake's error, with our reason for it in the place of the library's.
fn explained(error: io::Error, refusal: Option<Error>) -> io::Error {
    match refusal {
        Some(refusal) => io::Error::new(io::ErrorKind::PermissionDenied, refusal),
        None => match reason(&error) {
            Some(reason) => io::Error::new(error.kind(), reason),
            None => error,
        },
    }
}

/// The library's error as a sentence.
fn sentence(error: &rustls::Error) -> Error {
    let refused = |what: &str| Error::new(Code::Unauthenticated, what).log(format!("{what} ({error})"));
    match error {
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                refused("the other end refused our certificate: it has expired or is not yet valid")
            }
            AlertDescription::UnknownCA => {
                refused("the other end refused our certificate: it does not trust the authority that issued it")
            }
            AlertDescription::UnsupportedCertificate => {
                refused("the other end refused our certificate: it is not meant for this use")
            }
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied => refused("the other end refused our certificate"),
            AlertDescription::CertificateRequired => refused("the other end asks for a certificate"),
            AlertDescription::ProtocolVersion => {
                Error::new(Code::Unsupported, "the other end does not speak TLS 1.3").log(error.to_string())
            }
            _ => Error::new(Code::Unavailable, format!("the other end ended the TLS connection: {error}")),
        },
        rustls::Error::PeerIncompatible(_) => {
            Error::new(Code::Unsupported, format!("no common version or method of TLS, which must be 1.3: {error}"))
        }
        rustls::Error::InvalidMessage(_) => {
            Error::new(Code::Unavailable, "the other end does not speak TLS").log(error.to_string())
        }
        _ => Error::new(Code::Unavailable, format!("the TLS connection failed: {error}")),
    }
}

/// A refusal as the library's error, from which it makes the alert (RFC 8446 section 6.2).
fn alert_for(refusal: &Refusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(match refusal.rule {
        Rule::Malformed => CertificateError::BadEncoding,
        Rule::NotYet => CertificateError::NotValidYet,
        Rule::Expired => CertificateError::Expired,
        Rule::Issuer => CertificateError::UnknownIssuer,
        Rule::Purpose => CertificateError::InvalidPurpose,
        Rule::Other => CertificateError::Other(OtherError(Arc::new(refusal.error.clone()))),
    })
}

#[cfg(test)]
mod tests;
